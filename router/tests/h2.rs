//! HTTP/2 from socket to socket: clients of the `h2` crate and of frames made by hand around a
//! whole router.
#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

#[path = "tls/authority.rs"]
mod authority;
#[path = "h2/bodies.rs"]
mod bodies;
#[path = "h2/caller.rs"]
mod caller;
#[path = "h2/ends.rs"]
mod ends;
#[path = "h2/floods.rs"]
mod floods;
#[path = "h2/frames.rs"]
mod frames;
#[path = "h2/grpc.rs"]
mod grpc;
#[expect(dead_code, reason = "shared with the tests of the proxy, which use the rest of it")]
#[path = "proxy/instance.rs"]
mod instance;
#[path = "h2/instances.rs"]
mod instances;
#[expect(dead_code, reason = "shared with the tests of the proxy, which use the rest of it")]
#[path = "proxy/peer.rs"]
mod peer;
#[path = "h2/requests.rs"]
mod requests;
#[expect(dead_code, reason = "shared with the tests of the proxy, which use the rest of it")]
#[path = "proxy/rig.rs"]
mod rig;
#[path = "h2/secured.rs"]
mod secured;
#[path = "h2/server.rs"]
mod server;
#[path = "h2/tunnels.rs"]
mod tunnels;
