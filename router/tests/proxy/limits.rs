//! How much is too much, and what is said then.

use portolan_router::Limits;

use super::instance::Instance;
use super::peer::within;
use super::rig::{Rig, route, routed, until, web};

#[tokio::test]
async fn a_body_larger_than_its_route_allows_is_refused() {
    let instance = Instance::echo().await;
    let mut small = route("/small", "web");
    small.name = portolan_discovery::model::RouteName::parse("small").unwrap();
    small.body_bytes_max = Some(10);
    let mut records = web(&[instance.addr]);
    records.push(routed(&small));
    let rig = Rig::new(&records);
    let head = "POST /small HTTP/1.1\r\nHost: web.test\r\n";
    let fits = format!("{head}Content-Length: 10\r\n\r\n0123456789");
    assert_eq!(rig.client().await.ask(fits).await.status(), 200);
    for too_large in [
        format!("{head}Content-Length: 11\r\n\r\n01234567890"),
        format!("{head}Transfer-Encoding: chunked\r\n\r\n8\r\n01234567\r\n8\r\n01234567\r\n"),
    ] {
        let mut client = rig.client().await;
        let response = client.ask(too_large).await;
        assert_eq!(response.status(), 413);
        assert!(response.text().starts_with("body_too_large\n"), "{}", response.text());
        assert_eq!(client.rest().await, b"");
    }
    rig.settled("web").await;
    let elsewhere = "POST / HTTP/1.1\r\nHost: web.test\r\nContent-Length: 11\r\n\r\n01234567890";
    assert_eq!(rig.client().await.ask(elsewhere).await.status(), 200);
}

#[tokio::test]
async fn a_refusal_arrives_although_the_client_goes_on_sending() {
    let instance = Instance::echo().await;
    let mut small = route("/", "web");
    small.body_bytes_max = Some(10);
    let mut records = web(&[instance.addr]);
    records.push(routed(&small));
    let rig = Rig::new(&records);
    let mut client = rig.client().await;
    client.send("POST / HTTP/1.1\r\nHost: web.test\r\nContent-Length: 20000000\r\n\r\n").await;
    client.send(vec![0; 20_000_000]).await;
    assert_eq!(client.response().await.status(), 413);
}

#[tokio::test]
async fn an_instance_keeps_no_more_idle_connections_than_the_limit() {
    let instance = Instance::raw(|mut peer, _| async move {
        while peer.request().await.is_some() {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            peer.send(super::instance::ok("a")).await;
        }
    })
    .await;
    let rig = Rig::with(&web(&[instance.addr]), |config| {
        config.limits = Limits { upstream_idle_max: 2, ..Limits::DEFAULT };
    });
    let mut clients = Vec::new();
    for _ in 0..6 {
        let mut client = rig.client().await;
        client.send("GET / HTTP/1.1\r\nHost: web.test\r\n\r\n").await;
        clients.push(client);
    }
    for client in &mut clients {
        within("a response", client.response()).await;
    }
    let opened = instance.connections();
    until("everything to be idle", || rig.in_flight("web") == 0).await;
    for client in &mut clients {
        client.get("/").await;
    }
    assert_eq!((opened, instance.connections()), (6, 6), "one after another needs one of the two");
}
