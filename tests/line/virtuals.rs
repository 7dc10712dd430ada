//! Services by their own names at their usual port: two of Redis, found by dig, asked by redis-cli,
//! through upgrades, crashes and addresses that somebody else has.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use crate::ports::free_port;
use crate::stage::{PATIENCE, Stage};
use crate::streams::Server;
use crate::upgrade::Loop;

/// The port that every client of Redis tries.
const USUAL: u16 = 6379;

/// A range that no other run of these tests on this machine has at the moment, most likely.
fn range() -> String {
    use std::sync::atomic::{AtomicU32, Ordering};
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = std::process::id() * 4 + NEXT.fetch_add(1, Ordering::Relaxed);
    format!("127.{}.{}.0/24", 64 + number / 256 % 128, number % 256)
}

fn redis(stage: &Stage) -> Server {
    let port = free_port();
    let mut command = Command::new("redis-server");
    command
        .args(["--bind", "127.0.0.1", "--save", "", "--port", &port.to_string()])
        .current_dir(stage.dir.path());
    Server::started(stage, command, port)
}

/// A configuration with these services, as `NAME` and the port of its one instance.
fn file(range: &str, services: &[(&str, u16)]) -> String {
    let mut text = format!("[router]\nworkers = 2\nvirtual_addresses = \"{range}\"\n");
    for (name, port) in services {
        text.push_str(&format!(
            "[[services]]\nname = \"{name}\"\nprotocol = \"tcp\"\nvirtual_port = {USUAL}\n\
             instances = [{{ addr = \"127.0.0.1:{port}\" }}]\n"
        ));
    }
    text
}

/// The address that a service's name leads to, once it does.
fn found(stage: &Stage, service: &str) -> IpAddr {
    let name = format!("{service}.cluster.internal");
    stage.wait(&format!("{name} leads somewhere"), || {
        stage.dig(&["+short", &name, "A"]).trim().parse().ok()
    })
}

fn redis_cli(address: IpAddr, args: &[&str]) -> String {
    let mut command = Command::new("redis-cli");
    let output = command.args(["-h", &address.to_string()]).args(args).output().unwrap();
    String::from_utf8_lossy(&output.stdout).trim().replace('\n', " ")
}

/// Waits until the service answers there.
fn answers(stage: &Stage, address: IpAddr) {
    stage.wait(&format!("Redis answers at {address}"), || {
        (redis_cli(address, &["ping"]) == "PONG").then_some(())
    });
}

/// A ping, and whether its answer is right.
fn ping(stream: &mut TcpStream) -> bool {
    let mut answer = [0; 7];
    stream.write_all(b"PING\r\n").is_ok()
        && stream.read_exact(&mut answer).is_ok()
        && &answer == b"+PONG\r\n"
}

fn connected(address: IpAddr) -> std::io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&SocketAddr::new(address, USUAL), PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// Waits until nobody listens there any more. A reset is the word of somebody who does.
fn is_let_go_of(stage: &Stage, address: IpAddr) {
    stage.wait(&format!("nobody listens at {address}"), || {
        let error = connected(address).err()?;
        (error.kind() == std::io::ErrorKind::ConnectionRefused).then_some(())
    });
}

fn call(stage: &Stage, method: &str, path: &str, body: &Value) -> Value {
    let output = Command::new("curl")
        .args(["-s", "-X", method, "-H", "Content-Type: application/json", "-d"])
        .arg(body.to_string())
        .arg(format!("http://{}/v1/{path}", stage.admin))
        .output()
        .unwrap();
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn two_of_redis_have_the_same_port_and_names_of_their_own() {
    let mut stage = Stage::set("");
    let (one, two) = (redis(&stage), redis(&stage));
    let services = [("one", one.port), ("two", two.port)];
    let range = range();
    stage.write(&file(&range, &services));
    stage.up();
    let (first, second) = (found(&stage, "one"), found(&stage, "two"));
    assert_ne!(first, second);
    for (address, server, name) in [(first, &one, "one"), (second, &two, "two")] {
        answers(&stage, address);
        let port = format!("port {}", server.port);
        assert_eq!(redis_cli(address, &["config", "get", "port"]), port, "{name}");
        assert_eq!(redis_cli(address, &["set", "who", name]), "OK");
        let dig = |args: &[&str]| stage.dig(args).trim().to_owned();
        let host = format!("{name}.cluster.internal");
        assert_eq!(dig(&["+short", &host, "AAAA"]), "");
        assert!(dig(&[&host, "AAAA"]).contains("status: NOERROR"));
        let srv = dig(&["+short", &format!("_{name}._tcp.cluster.internal"), "SRV"]);
        assert_eq!(srv, format!("0 0 {USUAL} {host}."));
        let srv = dig(&["+short", &format!("_{name}._tcp.inst.cluster.internal"), "SRV"]);
        assert!(srv.contains(&format!(" {} ", server.port)), "{srv}");
        assert_eq!(dig(&["+short", "-x", &address.to_string()]), format!("{host}."));
        let said = stage.ok(&["services", name]);
        assert!(said.contains(&format!("reached at {address}:{USUAL}\n")), "{said}");
        let url = format!("tcp://{address}:{USUAL}");
        let said = stage.ok(&["route", "explain", "GET", &url]);
        let expected = format!("{address}:{USUAL} is the virtual address of {name}: one of 1");
        assert!(said.contains(&expected), "{said}");
        assert!(said.contains(&format!("picked this time: {name}/")), "{said}");
    }
    assert_eq!(redis_cli(first, &["get", "who"]), "one");
    let said = stage.ok(&["status"]);
    assert!(said.contains(&format!("2 addresses of {range} are listened at")), "{said}");
    let said = stage.ok(&["services"]);
    assert!(said.contains(&format!("{second}:{USUAL}")), "{said}");
    let said = stage.ok(&["route", "explain", "GET", &format!("tcp://{first}:80")]);
    assert!(said.contains("no service has the virtual address"), "{said}");
    // A crash takes nothing of this away: whoever has an address keeps it, the order of names or not.
    stage.kill();
    let services = [("between", two.port), ("one", one.port), ("two", two.port)];
    stage.write(&file(&range, &services));
    stage.up();
    assert_eq!((found(&stage, "one"), found(&stage, "two")), (first, second));
    let third = found(&stage, "between");
    assert!(third != first && third != second);
    for (address, who) in [(first, "one"), (second, "two"), (third, "two")] {
        answers(&stage, address);
        assert_eq!(redis_cli(address, &["get", "who"]), who);
    }
}

#[test]
fn an_upgrade_keeps_addresses_and_what_is_connected_there() {
    let mut stage = Stage::set("");
    let (one, two) = (redis(&stage), redis(&stage));
    let range = range();
    stage.write(&file(&range, &[("one", one.port), ("two", two.port)]));
    stage.up();
    let (first, second) = (found(&stage, "one"), found(&stage, "two"));
    answers(&stage, first);
    answers(&stage, second);
    let mut kept = connected(first).unwrap();
    assert!(ping(&mut kept));
    let load = [first, second]
        .map(|address| Loop::of(move || connected(address).is_ok_and(|mut s| ping(&mut s))));
    for _ in 0..2 {
        stage.upgrade();
        assert_eq!((found(&stage, "one"), found(&stage, "two")), (first, second));
        assert!(ping(&mut kept), "a connection of the first process");
        assert_eq!(redis_cli(second, &["ping"]), "PONG");
    }
    // An upgrade that is refused leaves them where they are.
    let good = std::fs::read_to_string(stage.config()).unwrap();
    std::fs::write(stage.config(), format!("{good}\n[nonsense]\n")).unwrap();
    assert!(!stage.portolan(&["upgrade"]).status.success());
    for load in load {
        load.judge("pings on connections of their own");
    }
    // Another one takes a service away: its address is let go of, and its connections are not.
    stage.write(&file(&range, &[("two", two.port)]));
    stage.upgrade();
    is_let_go_of(&stage, first);
    assert!(ping(&mut kept));
    assert_eq!(redis_cli(second, &["ping"]), "PONG");
    assert!(stage.dig(&["one.cluster.internal"]).contains("status: NXDOMAIN"));
    drop(kept);
    assert_eq!(stage.terminate(), Some(0));
}

#[test]
fn services_come_and_go_by_the_api_and_a_bad_wish_is_refused() {
    let mut stage = Stage::set("");
    let server = redis(&stage);
    stage.write(&file(&range(), &[]));
    stage.up();
    let wish = |protocol: &str, port: u16| json!({ "protocol": protocol, "virtual_port": port });
    let refused = |body: Value| call(&stage, "PUT", "services/db", &body)["message"].to_string();
    assert!(refused(wish("http", USUAL)).contains("only a TCP service has a virtual_port"));
    assert!(refused(wish("tcp", 0)).contains("a virtual_port of 0"));
    call(&stage, "PUT", "services/db", &wish("tcp", USUAL));
    let addr = format!("127.0.0.1:{}", server.port);
    call(&stage, "PUT", "services/db/instances/a", &json!({ "addr": addr }));
    let address = found(&stage, "db");
    answers(&stage, address);
    let mut open = connected(address).unwrap();
    assert!(ping(&mut open));
    call(&stage, "DELETE", "services/db", &json!({}));
    is_let_go_of(&stage, address);
    assert!(ping(&mut open), "a connection may end in its own time");
    assert_eq!(call(&stage, "GET", "services/db", &json!({}))["virtual"], Value::Null);
    // It is back before anybody else could have had the address.
    call(&stage, "PUT", "services/db", &wish("tcp", USUAL));
    stage.wait("it has its address again", || {
        (stage.dig(&["+short", "db.cluster.internal"]).trim() == address.to_string()).then_some(())
    });
    answers(&stage, address);
    // The same address by another port.
    call(&stage, "PUT", "services/db", &wish("tcp", 7));
    stage.wait("it is reached by another port", || {
        TcpStream::connect((address, 7)).is_ok().then_some(())
    });
    assert_eq!(found(&stage, "db"), address);
    is_let_go_of(&stage, address);
    let mut bare = Stage::set("");
    bare.up();
    let refused = call(&bare, "PUT", "services/db", &wish("tcp", USUAL))["message"].to_string();
    assert!(refused.contains("there are no virtual addresses to be given"), "{refused}");
}

#[test]
fn an_address_that_somebody_has_is_told_of_and_taken_when_it_is_free() {
    let mut stage = Stage::set("");
    let (one, two) = (redis(&stage), redis(&stage));
    stage.write(&file(&range(), &[("one", one.port), ("two", two.port)]));
    stage.up();
    let (first, second) = (found(&stage, "one"), found(&stage, "two"));
    answers(&stage, first);
    stage.terminate();
    let held = TcpListener::bind(SocketAddr::new(first, USUAL)).unwrap();
    stage.up();
    answers(&stage, second);
    let cause = format!("{first}:{USUAL} is in use");
    let said = stage.ok(&["status"]);
    assert!(said.contains(&format!("one has no address here: {cause}")), "{said}");
    let said = stage.ok(&["services", "one"]);
    assert!(said.contains("not reached") && said.contains(&cause), "{said}");
    let metrics = || {
        let url = format!("http://{}/metrics", stage.admin);
        let output = Command::new("curl").args(["-s", &url]).output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let text = metrics();
    assert!(text.contains("portolan_router_virtual_listeners{state=\"failed\"} 1"), "{text}");
    assert!(!text.contains("portolan_router_virtual_bind_failures_total 0"), "{text}");
    drop(held);
    let since = std::time::Instant::now();
    answers(&stage, first);
    assert!(since.elapsed() < Duration::from_secs(20), "it is tried again soon");
    assert!(metrics().contains("portolan_router_virtual_listeners{state=\"failed\"} 0"));
}
