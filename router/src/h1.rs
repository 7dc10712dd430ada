//! The HTTP/1.1 codec: bytes in, bytes out, for both sides of the router.
//!
//! It owns syntax, framing and the rewriting of heads. It must not know of sockets, clocks,
//! tables or instances: what it needs of them comes in as an argument. The driver's loop is
//!
//! ```text
//! parse_request(buf)  -> Request    route by host() and path()
//! request.write_upstream(out)       append the head to send
//! BodyState::feed(body bytes)       how many of the bytes behind the head may follow
//! parse_response(buf) -> Response
//! response.write_client(out)        -> Delivery: how to relay the body
//! BodyState::feed / decode / ChunkHead
//! write_error(out, ..)              a whole local reply
//! ```

mod accept;
mod body;
mod chunk;
mod deliver;
mod field;
mod forward;
mod head;
mod kept;
mod limits;
mod method;
mod plain;
mod reason;
mod recode;
mod reply;
mod request;
mod response;
mod target;
mod trailer;
mod via;

pub(crate) use accept::weight;
pub use body::{BodyFraming, BodyState, Payload, Progress};
pub use chunk::{CHUNK_END, ChunkHead, LAST_CHUNK};
pub use deliver::{Deliver, Delivery, Relay};
pub(crate) use field::{is_odd_name, members};
pub use forward::{Forward, Rewrite, Scheme};
pub use head::HeadScratch;
pub use kept::end_kept;
pub use limits::{HEADERS_HARD_MAX, Limits};
pub use method::{Method, Upgrade, Version};
pub use reason::Reason;
pub use recode::{Recode, write_recoded_trailer};
pub(crate) use reply::phrase;
pub use reply::{
    CONTINUE, Client, Reply, write_error, write_error_head, write_grpc_error, write_reply,
};
pub use request::{Request, RequestFacts, parse_request};
pub use response::{Phase, Response, ResponseFacts, parse_response};
pub use target::TargetForm;
pub use via::{Received, VIA_NAME_CHARS_MAX, Via, ViaName, ViaNameError};

#[cfg(test)]
mod properties;
