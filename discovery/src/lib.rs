//! The vocabulary, the snapshot and the store that every part of Portolan shares.
//!
//! [`model`] has the words and their stored form, [`snapshot`] what router and
//! resolver are compiled from. [`store`] (feature `store`) is the ordered log under
//! them, with the embedded back end behind the feature `redb`.

pub mod model;
pub mod snapshot;
#[cfg(feature = "store")]
pub mod store;
