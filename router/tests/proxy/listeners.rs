//! Binding, and what goes wrong with it.

use std::net::SocketAddr;

use portolan_discovery::model::Protocol;
use portolan_router::{BindError, Config, ListenerConfig, Router};
use prometheus::Registry;

use super::instance::Instance;
use super::rig::{Rig, listener, web};

fn on(name: &str, addr: SocketAddr) -> ListenerConfig {
    ListenerConfig::new(listener(name), addr, Protocol::Http)
}

#[tokio::test]
async fn a_port_that_is_taken_is_named_with_its_listener() {
    let rig = Rig::web(&[]);
    let config = Config::new(vec![on("second", rig.http)]);
    let error = Router::bind(config, &Registry::new()).unwrap_err();
    assert!(matches!(&error, BindError::InUse { .. }), "{error:?}");
    assert_eq!(error.to_string(), format!("listener second: {} is in use", rig.http));
}

#[tokio::test]
async fn an_address_that_is_not_ours_is_named_with_its_listener() {
    let config = Config::new(vec![on("odd", "192.0.2.1:0".parse().unwrap())]);
    let error = Router::bind(config, &Registry::new()).unwrap_err();
    assert_eq!(error.to_string(), "listener odd: cannot bind 192.0.2.1:0");
    assert!(std::error::Error::source(&error).is_some());
}

#[tokio::test]
async fn two_routers_do_not_share_one_registry() {
    let registry = Registry::new();
    let _first = Router::bind(Config::new(vec![]), &registry).unwrap();
    let error = Router::bind(Config::new(vec![]), &registry).unwrap_err();
    assert!(matches!(error, BindError::Metrics(_)), "{error:?}");
}

#[tokio::test]
async fn every_worker_serves_every_listener() {
    let instance = Instance::named("a").await;
    let rig = Rig::with(&web(&[instance.addr]), |config| config.workers = 4);
    let mut clients = Vec::new();
    for _ in 0..40 {
        let mut client = rig.client().await;
        assert_eq!(client.get("/").await.text(), "a");
        clients.push(client);
    }
    assert!(instance.connections() > 1, "each worker has a pool of its own");
    assert_eq!(rig.router.local_addrs().len(), 2);
}

#[tokio::test]
async fn a_router_can_be_reached_over_ipv6() {
    let instance = Instance::echo().await;
    let rig = Rig::with(&web(&[instance.addr]), |config| {
        config.listeners[0].bind = "[::1]:0".parse().unwrap();
    });
    let response = rig.client().await.get("/").await;
    assert!(response.text().contains("\nX-Forwarded-For: ::1\n"), "{}", response.text());
}
