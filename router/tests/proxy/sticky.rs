//! Clients that are kept with their instance by a cookie.

use portolan_discovery::model::{Concurrency, Event, Sticky};

use super::instance::{Instance, nobody, ok};
use super::peer::{Message, Peer};
use super::rig::{Rig, draining, instance, route, routed, service_with, until, web, without};

const UPGRADE: &str = "Connection: Upgrade\r\nUpgrade: websocket\r\n";

fn sticky() -> Option<Sticky> {
    Some(Sticky { cookie: "STUCK".parse().unwrap(), max_age_s: 60.try_into().ok() })
}

fn sticky_service(name: &str) -> Event {
    service_with(name, |record| record.sticky = sticky())
}

/// A router in front of a sticky `web`.
fn rig_of(instances: &[&Instance]) -> Rig {
    let addrs: Vec<_> = instances.iter().map(|instance| instance.addr).collect();
    let mut records = web(&addrs);
    records.push(sticky_service("web"));
    Rig::new(&records)
}

/// Asks with these lines.
async fn ask(client: &mut Peer, lines: &str) -> Message {
    client.ask(format!("GET / HTTP/1.1\r\nHost: web.test\r\n{lines}\r\n")).await
}

async fn ask_with(client: &mut Peer, cookie: &str) -> Message {
    ask(client, &format!("Cookie: {cookie}\r\n")).await
}

/// The cookie that a response gives, as it is sent back.
fn given(response: &Message) -> Option<String> {
    let line = response.field("set-cookie")?;
    Some(line.split(';').next().unwrap().to_owned())
}

#[tokio::test]
async fn a_client_is_given_a_cookie_once_and_kept_by_it() {
    let all = [Instance::named("a").await, Instance::named("b").await, Instance::named("c").await];
    let rig = rig_of(&all.each_ref());
    let mut client = rig.client().await;
    for _ in 0..5 {
        let first = client.get("/").await;
        let cookie = given(&first).expect("a cookie");
        for cookies in [cookie.clone(), format!("a=b; {cookie}; c"), format!("STUCK=x; {cookie}")] {
            for _ in 0..4 {
                let response = ask_with(&mut client, &cookies).await;
                assert_eq!((response.text(), given(&response)), (first.text(), None));
            }
        }
        let two = format!("Cookie: a=b\r\nCookie: {cookie}\r\n");
        assert_eq!(ask(&mut client, &two).await.text(), first.text());
    }
}

#[tokio::test]
async fn a_cookie_says_nothing_of_the_instance() {
    let one = Instance::named("a").await;
    let rig = rig_of(&[&one]);
    let line = rig.client().await.get("/").await.field("set-cookie").unwrap();
    let (cookie, attributes) = line.split_once("; ").unwrap();
    assert_eq!(attributes, "Path=/; HttpOnly; SameSite=Lax; Max-Age=60");
    let value = cookie.strip_prefix("STUCK=").unwrap();
    assert!(value.len() == 16 && value.bytes().all(|byte| byte.is_ascii_hexdigit()), "{value}");
}

#[tokio::test]
async fn every_router_and_every_table_understands_a_cookie() {
    let all = [Instance::named("a").await, Instance::named("b").await, Instance::named("c").await];
    let mut rig = rig_of(&all.each_ref());
    let mut client = rig.client().await;
    let first = client.get("/").await;
    let cookie = given(&first).unwrap();
    // Another router, as after a restart.
    let other = rig_of(&all.each_ref());
    let answer = ask_with(&mut other.client().await, &cookie).await;
    assert_eq!((answer.text(), given(&answer)), (first.text(), None));
    // The others change all the time, and so do routes.
    let id = first.text().to_owned();
    for round in 0..30 {
        let changes: Vec<_> = ["a", "b", "c"]
            .iter()
            .zip(&all)
            .filter(|(other, _)| **other != id)
            .map(|(other, one)| match round % 3 {
                0 => draining("web", other, one.addr),
                1 => without("web", other),
                _ => instance("web", other, one.addr),
            })
            .collect();
        rig.apply_and_wait(&changes).await;
        let answer = ask_with(&mut client, &cookie).await;
        assert_eq!((answer.text(), given(&answer)), (id.as_str(), None), "round {round}");
    }
}

#[tokio::test]
async fn a_cookie_of_an_instance_that_takes_nothing_is_replaced() {
    let all = [Instance::named("a").await, Instance::named("b").await];
    let mut rig = rig_of(&all.each_ref());
    let mut client = rig.client().await;
    let first = client.get("/").await;
    let cookie = given(&first).unwrap();
    let id = first.text().to_owned();
    let addr = all[usize::from(id == "b")].addr;
    for change in [draining("web", &id, addr), without("web", &id)] {
        rig.apply_and_wait(&[change]).await;
        let second = ask_with(&mut client, &cookie).await;
        assert_ne!(second.text(), id);
        let cookie = given(&second).expect("a new cookie");
        assert_eq!(given(&ask_with(&mut client, &cookie).await), None);
    }
    for wrong in ["STUCK=", "STUCK=0000000000000000", "STUCK=10.0.0.1:80", "stuck=a"] {
        assert!(given(&ask_with(&mut client, wrong).await).is_some(), "{wrong}");
    }
    rig.apply_and_wait(&[instance("web", &id, addr)]).await;
    assert_eq!(ask_with(&mut client, &cookie).await.text(), id, "it is back");
}

#[tokio::test]
async fn a_client_of_an_instance_that_is_full_or_refuses_gets_another_and_its_cookie() {
    let holding = Instance::raw(|mut peer, _| async move {
        while let Some(request) = peer.request().await {
            if request.start().contains("/hold") {
                return peer.gone().await;
            }
            peer.send(ok("a")).await;
        }
    })
    .await;
    let free = Instance::named("b").await;
    let mut records = web(&[holding.addr]);
    records.push(service_with("web", |record| {
        record.sticky = sticky();
        record.concurrency = Some(Concurrency::new(1.try_into().unwrap(), None, None).unwrap());
    }));
    let mut rig = Rig::new(&records);
    let mut client = rig.client().await;
    let cookie = given(&client.get("/").await).unwrap();
    // The answer may be here before its request is counted out.
    rig.settled("web").await;
    let mut busy = rig.client().await;
    busy.send("GET /hold HTTP/1.1\r\nHost: web.test\r\n\r\n").await;
    until("a full instance", || rig.in_flight("web") == 1).await;
    rig.apply_and_wait(&[instance("web", "b", free.addr)]).await;
    let replaced = async |client: &mut Peer| {
        let answer = ask_with(client, &cookie).await;
        assert_eq!(answer.text(), "b");
        let fresh = given(&answer).expect("a new cookie");
        assert_ne!(fresh, cookie);
        assert_eq!(given(&ask_with(client, &fresh).await), None);
    };
    replaced(&mut client).await;
    drop(busy);
    rig.settled("web").await;
    let answer = ask_with(&mut client, &cookie).await;
    assert_eq!((answer.text(), given(&answer)), ("a", None), "it has room again");
    rig.apply_and_wait(&[instance("web", "a", nobody().await)]).await;
    replaced(&mut client).await;
}

#[tokio::test]
async fn an_upgrade_gives_and_follows_a_cookie() {
    let switching = |name: &'static str| {
        Instance::raw(move |mut peer, _| async move {
            peer.head().await.unwrap();
            peer.send("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n").await;
            peer.send(format!("Upgrade: websocket\r\n\r\n{name}")).await;
            peer.gone().await;
        })
    };
    let all = [switching("a").await, switching("b").await];
    let rig = rig_of(&all.each_ref());
    let open = async |lines: &str| {
        let mut client = rig.client().await;
        client.send(format!("GET / HTTP/1.1\r\nHost: web.test\r\n{UPGRADE}{lines}\r\n")).await;
        let head = client.response_head().await;
        assert_eq!(head.status(), 101);
        let name = client.read(1).await;
        (given(&head), name)
    };
    let (cookie, name) = open("").await;
    let line = format!("Cookie: {}\r\n", cookie.unwrap());
    for _ in 0..6 {
        assert_eq!(open(&line).await, (None, name.clone()));
    }
}

#[tokio::test]
async fn a_cookie_is_secure_when_a_trusted_proxy_says_https() {
    let one = Instance::named("a").await;
    let mut records = web(&[one.addr]);
    records.push(sticky_service("web"));
    let told = async |trusted: bool, proto: &str| {
        let rig = Rig::with(&records, |config| {
            let nets = trusted.then(|| "127.0.0.0/8".parse().unwrap());
            config.listeners[0].trusted_peers = nets.into_iter().collect();
        });
        let line = format!("X-Forwarded-Proto: {proto}\r\n");
        let answer = ask(&mut rig.client().await, &line).await;
        answer.field("set-cookie").unwrap().contains("; Secure")
    };
    assert!(told(true, "https").await);
    assert!(!told(true, "http").await);
    assert!(!told(false, "https").await);
}

#[tokio::test]
async fn a_split_keeps_a_client_with_its_service() {
    let (old, new) = (Instance::named("old").await, Instance::named("new").await);
    let mut record = route("/", "web");
    let mut canary = record.backends[0].clone();
    canary.service = "canary".parse().unwrap();
    record.backends.push(canary);
    let mut records = web(&[old.addr]);
    records.extend([
        routed(&record),
        instance("canary", "a", new.addr),
        sticky_service("web"),
        sticky_service("canary"),
    ]);
    let rig = Rig::new(&records);
    let mut client = rig.client().await;
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..20 {
        let first = client.get("/").await;
        let cookie = given(&first).unwrap();
        for _ in 0..5 {
            let answer = ask_with(&mut client, &cookie).await;
            assert_eq!((answer.text(), given(&answer)), (first.text(), None));
        }
        seen.insert(first.text().to_owned());
    }
    assert_eq!(seen.len(), 2, "each is drawn sometimes");
}

#[tokio::test]
async fn a_service_that_is_not_sticky_gives_none_and_no_interim_answer_does() {
    let early = Instance::http(|_| {
        [b"HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\n".to_vec(), ok("a")].concat()
    })
    .await;
    let plain = Rig::web(&[early.addr]);
    let mut client = plain.client().await;
    client.send("GET / HTTP/1.1\r\nHost: web.test\r\n\r\n").await;
    assert_eq!(given(&client.response_head().await), None);
    assert_eq!(given(&client.response().await), None);
    let rig = rig_of(&[&early]);
    let mut client = rig.client().await;
    client.send("GET / HTTP/1.1\r\nHost: web.test\r\n\r\n").await;
    assert_eq!(given(&client.response_head().await), None);
    assert!(given(&client.response().await).is_some());
}
