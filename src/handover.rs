//! What two processes say to each other when one goes on where the other ends: a line between
//! them, messages and sockets on it; and what they tell the service manager. Knows nothing of
//! routers, stores and jobs.

mod activation;
mod channel;
mod message;
mod notify;
mod offer;
mod process;

pub use channel::{Channel, ChannelError, FILES_MAX, Receiver, Sender};
pub use message::{Change, FromNew, FromOld, Group, Kind, PROTOCOL, State};
pub use notify::{monotonic_us, notify};
pub use offer::Offer;
pub use process::{Main, Program, is_notified, predecessor, refuse};
