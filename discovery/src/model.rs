//! The vocabulary: records, their names, their keys and their stored form.
//! Knows nothing of stores, tables or zones.

pub mod app;
pub mod certificate;
pub mod check;
pub mod instance;
pub mod job;
pub mod key;
mod millis;
pub mod name;
pub mod node;
pub mod overrule;
pub mod record;
pub mod route;
pub mod service;
pub mod tickets;
pub mod virtual_address;

pub use app::{App, Deployment, DeploymentState, Formation, Process, Release};
pub use certificate::{
    CHAIN_PEM_BYTES_MAX, CertificatePair, CertificatePairError, KEY_PEM_BYTES_MAX,
};
pub use check::{CheckKind, CheckSpec, HttpCheck, StatusRange};
pub use instance::{Health, Instance, Origin, Phase, Weight};
pub use job::{JobSpec, JobState, JobStatus, Placement, Resources, Wanted};
pub use key::{Key, KeyError};
pub use name::{
    AppName, CertificateName, DeploymentId, InstanceId, JobId, ListenerName, NameError, NodeName,
    PageSetName, ProcessName, ReleaseId, RouteName, ServiceName,
};
pub use node::{Node, PortRange, RouterAck};
pub use overrule::{Override, Scope, Word};
pub use record::{Event, Kv, LeaseId, Revision};
pub use route::{
    Backend, CacheRule, CacheWish, Coding, CompressRule, Host, HostPattern, Hsts, HttpRule,
    HttpsRule, PathPattern, Predicates, RetryRule, Rewrite, Route, RouteTimeouts, Rule, TlsRule,
};
pub use service::{
    Balancing, Concurrency, CookieName, Ejection, HashBy, HttpVersion, Protocol, ProxyVersion,
    Service, ServiceTls, ServiceTlsError, Sticky,
};
pub use tickets::{
    TICKET_NAME_BYTES, TICKET_PERIOD_MS, TICKET_SECRET_BYTES, TicketKey, TicketKeys,
};
pub use virtual_address::{
    AddressClaim, VIRTUAL_ADDRESSES_MAX, VirtualAddress, VirtualRange, VirtualRangeError,
};
