//! TLS at the router's listeners, from socket to socket: clients of rustls around a whole router.
#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

#[path = "tls/authority.rs"]
mod authority;
#[path = "tls/clients.rs"]
mod clients;
#[path = "tls/handshakes.rs"]
mod handshakes;
#[expect(dead_code, reason = "shared with the tests of the proxy, which use the rest of it")]
#[path = "proxy/instance.rs"]
mod instance;
#[path = "tls/instances.rs"]
mod instances;
#[path = "tls/passthrough.rs"]
mod passthrough;
#[expect(dead_code, reason = "shared with the tests of the proxy, which use the rest of it")]
#[path = "proxy/peer.rs"]
mod peer;
#[path = "tls/requests.rs"]
mod requests;
#[expect(dead_code, reason = "shared with the tests of the proxy, which use the rest of it")]
#[path = "proxy/rig.rs"]
mod rig;
#[path = "tls/tickets.rs"]
mod tickets;
