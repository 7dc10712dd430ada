//! The router from socket to socket: real clients and real instances around a whole router.
#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

#[path = "proxy/bodies.rs"]
mod bodies;
#[path = "proxy/bulk.rs"]
mod bulk;
#[path = "proxy/cache.rs"]
mod cache;
#[path = "proxy/changes.rs"]
mod changes;
#[path = "proxy/compress.rs"]
mod compress;
#[path = "proxy/drain.rs"]
mod drain;
#[path = "proxy/ejection.rs"]
mod ejection;
#[path = "proxy/failures.rs"]
mod failures;
#[path = "proxy/greeting.rs"]
mod greeting;
#[path = "proxy/instance.rs"]
mod instance;
#[path = "proxy/introduction.rs"]
mod introduction;
#[path = "proxy/limits.rs"]
mod limits;
#[path = "proxy/listeners.rs"]
mod listeners;
#[path = "proxy/messages.rs"]
mod messages;
#[path = "proxy/mirror.rs"]
mod mirror;
#[path = "proxy/overload.rs"]
mod overload;
#[path = "proxy/pages.rs"]
mod pages;
#[expect(dead_code, reason = "shared with the tests of the rules, which use the rest of it")]
#[path = "proxy/peer.rs"]
mod peer;
#[path = "proxy/queue.rs"]
mod queue;
#[path = "proxy/raw.rs"]
mod raw;
#[path = "proxy/retries.rs"]
mod retries;
#[path = "proxy/rig.rs"]
mod rig;
#[path = "proxy/routes.rs"]
mod routes;
#[path = "proxy/sticky.rs"]
mod sticky;
#[path = "proxy/tcp.rs"]
mod tcp;
#[path = "proxy/tunnels.rs"]
mod tunnels;
#[path = "proxy/udp.rs"]
mod udp;
#[path = "proxy/virtuals.rs"]
mod virtuals;
