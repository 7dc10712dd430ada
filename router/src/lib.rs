//! The data path: route table, HTTP/1.1, HTTP/2, TCP, UDP and TLS, one worker per core.
//!
//! [`Router::bind`] takes a [`Config`] and binds every socket, [`Bound::start`] starts the
//! workers with their first [`Table`], [`Router::publish`] gives them the next one, and
//! [`Router::drain`] ends them without losing a request.

pub mod cache;
pub mod compress;
pub mod h1;
pub mod hello;
pub mod metrics;
pub mod proxy_protocol;

mod balance;
mod buffer;
mod cell;
mod clock;
mod config;
mod cookie;
mod deadline;
mod drain;
mod endpoint;
mod explain;
mod greet;
mod h2;
mod linger;
mod lint;
mod listener;
mod mirror;
mod pages;
mod passthrough;
mod pool;
mod postgres;
mod proxy;
mod queue;
mod router;
mod shed;
mod sticky;
mod stream;
mod table;
mod tcp;
mod tls;
mod tunnel;
mod udp;
mod upstream;
mod virtuals;
mod worker;

pub use balance::{ATTEMPTS_MAX, Ask, Key, RETRIES_MAX, Tried};
pub use cache::{Cache, Clear};
pub use cell::{Reader, TableCell, Wake};
pub use config::{Config, DRAIN, FILES_RESERVED, Limits, ListenerConfig, ProxyProtocol, Timeouts};
pub use endpoint::{Endpoint, EndpointState, InFlight};
pub use explain::{BackendView, CANDIDATES_MAX, Candidate, EndpointView, Explanation, Verdict};
pub use h1::{VIA_NAME_CHARS_MAX, ViaName, ViaNameError};
pub use lint::{Cause, Warning};
pub use listener::BindError;
pub use mirror::{MIRRORED_BODY_BYTES_MAX, MIRRORED_MAX};
pub use pages::{
    ErrorPage, ErrorPages, PAGE_BYTES_MAX, PLACES_MAX, PageError, PageFor, PageForError, PageKind,
    PageSet,
};
pub use queue::Queue;
pub use router::{Bound, ListenerSockets, Router};
pub use sticky::{Cookie, Token};
pub use table::{
    Compiled, Conflict, Found, Full, Headers, Member, PickError, Report, RequestView, RouteEntry,
    RouteFault, ServiceTable, Table,
};
pub use tls::{
    CHAIN_BYTES_MAX, Certificate, CertificateError, CertificateSet, Certificates,
    ClientCertificates, ClientCertificatesError, HANDSHAKE_TIMEOUT, InstanceTls, NoRandomness,
    Tickets, TlsSettings, TlsVersion, UnknownName, fresh_ticket_key, fresh_ticket_keys,
};
pub use virtuals::{VIRTUAL_LISTENER, VIRTUAL_RETRY_MAX, VIRTUAL_RETRY_MIN, VirtualStatus};
