//! What the README promises to a new user.

use std::net::SocketAddr;
use std::process::Command;
use std::time::Instant;

use futures_util::{SinkExt, StreamExt};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

use crate::stage::{PATIENCE, Stage};

/// The README's example below the common part of a stage, so that it runs on free ports.
pub fn quickstart() -> String {
    let text = include_str!("../../examples/quickstart.toml");
    let from = text.find("[[routes]]").unwrap();
    text[from..].to_owned()
}

fn started() -> Stage {
    let stage = Stage::started(&quickstart());
    stage.wait_running(6);
    stage
}

#[test]
fn an_app_of_two_services_answers_by_host_and_path() {
    let stage = started();
    let web = stage.wait_200("shop.test", "/");
    assert!(web.contains("service: web\n") && web.contains("hello from the shop"), "{web}");
    assert!(web.contains("x-forwarded-for: 127.0.0.1") && web.contains("x-request-id: "), "{web}");
    let api = stage.wait_200("shop.test", "/api/things");
    assert!(api.contains("service: api\n"), "{api}");
    assert!(stage.wait_200("SHOP.test:8080", "/").contains("service: web\n"));
    let (status, body) = stage.curl("unknown.test", "/", &[]);
    assert_eq!(status, 404, "{body}");
    assert!(body.contains("route"), "the body names the reason: {body}");
    let body = "x".repeat(100_000);
    let (status, echoed) = stage.curl("shop.test", "/echo", &["--data-binary", &body]);
    assert_eq!((status, echoed.len()), (200, body.len()));
    // Every instance takes its part.
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..200 {
        let text = stage.wait_200("shop.test", "/");
        seen.insert(text.lines().find(|line| line.starts_with("instance")).unwrap().to_owned());
        if seen.len() == 3 {
            return;
        }
    }
    panic!("only {seen:?} answered");
}

#[test]
fn answers_are_compressed_for_a_client_that_accepts_it() {
    let packed = "[[routes]]\nhost = \"packed.test\"\nservice = \"web\"\n\
        compress = { min_bytes = 0, codings = [\"gzip\"] }\n";
    let stage = Stage::started(&format!("{packed}{}", quickstart()));
    stage.wait_running(6);
    stage.wait_200("packed.test", "/");
    let (status, answer) = stage.curl("packed.test", "/", &["--compressed", "-D", "-"]);
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(status == 200 && body.contains("service: web\n"), "{answer}");
    assert!(head.to_ascii_lowercase().contains("content-encoding: gzip"), "{head}");
    let (_, plain) = stage.curl("packed.test", "/", &["-D", "-"]);
    assert!(!plain.to_ascii_lowercase().contains("content-encoding"), "{plain}");
    assert!(plain.contains("Vary: Accept-Encoding"), "{plain}");
}

#[test]
fn answers_are_kept_and_cleared() {
    let kept = "[[routes]]\nname = \"kept\"\nhost = \"kept.test\"\nservice = \"web\"\n\
        cache = { default_ttl = \"1h\" }\n";
    let stage = Stage::started(&format!("{kept}{}", quickstart()));
    stage.wait_running(6);
    let first = stage.wait_200("kept.test", "/a");
    for _ in 0..20 {
        let (status, again) = stage.curl("kept.test", "/a", &["-D", "-"]);
        let (head, body) = again.split_once("\r\n\r\n").unwrap();
        assert!(status == 200 && body == first, "{again}");
        assert!(head.contains("\r\nAge: ") && head.contains("; hit; ttl="), "{head}");
    }
    let explained = stage.ok(&["route", "explain", "GET", "http://kept.test/a"]);
    assert!(explained.contains("are cached for as long as they say, or 1h"), "{explained}");
    let clear = |args: &[&str]| {
        let view = stage.json(&[&["cache", "clear"], args].concat());
        view["cleared"].as_u64().unwrap()
    };
    assert_eq!(clear(&["--host", "other.test"]), 0);
    assert_eq!(clear(&["--route", "kept", "--path", "/a"]), 1);
    let (_, fresh) = stage.curl("kept.test", "/a", &["-D", "-"]);
    assert!(fresh.contains("fwd=uri-miss; stored"), "{fresh}");
    assert_eq!(stage.ok(&["cache", "clear"]), "1 answers were cleared on n1, 0 are left\n");
    let refused = stage.portolan(&["cache", "clear", "--path", "a"]);
    let text = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && text.contains("\"a\" is no path"), "{text}");
    let help = stage.ok(&["cache", "clear", "--help"]);
    assert!(["--route", "--host", "--path"].iter().all(|option| help.contains(option)), "{help}");
}

#[test]
fn names_resolve_as_the_readme_shows() {
    let (ip, port) = fake_upstream();
    let upstream = format!("upstreams = [\"{ip}:{port}\"]\n{}", quickstart());
    let stage = Stage::started(&upstream);
    let running = stage.wait_running(6);
    let answer = stage.wait("web resolves", || {
        let answer = stage.dig(&["+short", "web.cluster.internal", "A"]);
        (answer.trim() == "127.0.0.1").then_some(answer)
    });
    assert_eq!(answer.trim(), "127.0.0.1");
    let nodata = stage.dig(&["web.cluster.internal", "AAAA"]);
    assert!(nodata.contains("status: NOERROR") && nodata.contains("ANSWER: 0"), "{nodata}");
    assert!(nodata.contains("SOA"), "NODATA has a SOA: {nodata}");
    let unknown = stage.dig(&["nobody.cluster.internal", "A"]);
    assert!(unknown.contains("status: NXDOMAIN") && unknown.contains("SOA"), "{unknown}");
    let srv = stage.dig(&["+short", "_web._tcp.cluster.internal", "SRV"]);
    assert_eq!(srv.lines().count(), 3, "{srv}");
    for job in running.keys().filter(|job| job.contains("-web-")) {
        assert!(srv.contains(&format!("{job}.web.inst.cluster.internal.")), "{srv} lacks {job}");
    }
    let ptr = stage.dig(&["+short", "-x", "127.0.0.1"]);
    assert!(ptr.contains("cluster.internal."), "{ptr}");
    for transport in ["+notcp", "+tcp"] {
        let outside = stage.dig(&["+short", transport, "www.example.org", "A"]);
        assert_eq!(outside.trim(), "192.0.2.7", "{transport}");
    }
}

/// A resolver that answers every A question with 192.0.2.7, by UDP.
fn fake_upstream() -> (std::net::IpAddr, u16) {
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let addr = socket.local_addr().unwrap();
    std::thread::spawn(move || {
        let mut query = [0; 1500];
        while let Ok((length, peer)) = socket.recv_from(&mut query) {
            use hickory_proto::op::{Message, MessageType, ResponseCode};
            use hickory_proto::rr::{RData, Record, RecordType, rdata::A};
            let Ok(mut message) = Message::from_vec(&query[..length]) else { continue };
            message.metadata.message_type = MessageType::Response;
            message.metadata.response_code = ResponseCode::NoError;
            let question = message.queries[0].clone();
            if question.query_type() == RecordType::A {
                let data = RData::A(A::new(192, 0, 2, 7));
                message.answers.push(Record::from_rdata(question.name().clone(), 60, data));
            }
            let _ = socket.send_to(&message.to_vec().unwrap(), peer);
        }
    });
    (addr.ip(), addr.port())
}

#[test]
fn the_cli_tells_what_runs_and_why() {
    let stage = started();
    stage.wait_200("shop.test", "/");
    let status = stage.json(&["status"]);
    assert_eq!(status["node"], "n1");
    assert_eq!(status["store"]["connected"], true);
    assert_eq!(status["counts"]["routes"], 4);
    assert_eq!(status["counts"]["instances"]["up"], 6);
    assert_eq!(stage.json(&["services"]).as_array().unwrap().len(), 2);
    assert_eq!(stage.json(&["instances", "--service", "web"]).as_array().unwrap().len(), 3);
    let explained = stage.json(&["route", "explain", "GET", "http://shop.test/api/x"]);
    assert!(explained["verdict"].as_str().unwrap().contains("leads to api"), "{explained}");
    assert_eq!(explained["instances"].as_array().unwrap().len(), 3);
    let lost = stage.json(&["route", "explain", "GET", "http://none.test/"]);
    assert!(lost["verdict"].as_str().unwrap().contains("404"), "{lost}");
    for command in ["status", "services", "instances", "routes", "nodes", "apps", "ps"] {
        let table = stage.ok(&[command]);
        assert!(table.lines().count() > 1, "{command}: {table}");
    }
    let job = stage.running().keys().next().unwrap().clone();
    assert!(stage.ok(&["logs", &job]).contains("whoami listens at"), "{job}");
    let unknown = stage.portolan(&["logs", "nobody"]);
    assert_eq!(unknown.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&unknown.stderr).contains("there is no job \"nobody\""));
}

#[test]
fn metrics_and_readiness_are_served() {
    let stage = started();
    stage.wait_200("shop.test", "/");
    stage.dig(&["web.cluster.internal"]);
    let get = |path: &str| {
        let url = format!("http://{}{path}", stage.admin);
        String::from_utf8(Command::new("curl").args(["-s", &url]).output().unwrap().stdout).unwrap()
    };
    let page = get("/metrics");
    for name in [
        "portolan_router_requests_total{",
        "portolan_router_request_duration_seconds_bucket{",
        "portolan_router_in_flight",
        "portolan_router_connections",
        "portolan_router_retries_total",
        "portolan_table_age_seconds",
        "portolan_dns_queries_total{",
        "portolan_agent_probes_total{",
        "portolan_instances{service=\"web\",state=\"up\"} 3",
        "portolan_store_connected 1",
        "portolan_agent_jobs",
    ] {
        assert!(page.contains(name), "the metrics lack {name}:\n{page}");
    }
    assert_eq!(get("/healthz"), "ok\n");
    assert_eq!(get("/readyz"), "ready\n");
    let document: serde_json::Value = serde_json::from_str(&get("/openapi.json")).unwrap();
    assert!(document["paths"]["/v1/apps/{app}/deploy"]["post"].is_object());
}

#[tokio::test]
async fn a_websocket_client_is_greeted_and_echoed_through_the_router() {
    let stage = started();
    stage.wait_200("shop.test", "/");
    let mut socket = websocket(stage.http).await;
    let greeting = socket.next().await.unwrap().unwrap();
    assert!(greeting.to_text().unwrap().contains("service: web"), "{greeting}");
    for text in ["one", "two"] {
        socket.send(Message::text(text)).await.unwrap();
        assert_eq!(socket.next().await.unwrap().unwrap(), Message::text(text));
    }
    // A table change does not touch it.
    stage.ok(&["scale", "shop", "web=4"]);
    socket.send(Message::text("still here")).await.unwrap();
    assert_eq!(socket.next().await.unwrap().unwrap(), Message::text("still here"));
}

pub type WebSocket =
    tokio_tungstenite::WebSocketStream<tokio_tungstenite::MaybeTlsStream<tokio::net::TcpStream>>;

pub async fn websocket(router: SocketAddr) -> WebSocket {
    let mut request = format!("ws://{router}/ws").into_client_request().unwrap();
    request.headers_mut().insert("host", "shop.test".parse().unwrap());
    tokio_tungstenite::connect_async(request).await.unwrap().0
}

#[test]
fn events_tell_a_deployment_and_resume() {
    let stage = started();
    let before = stage.json(&["status"])["revision"].as_u64().unwrap();
    stage.ok(&["scale", "shop", "web=4"]);
    let mut child = Command::new(super::stage::PORTOLAN)
        .args(["--json", "events", "--after", &before.to_string()])
        .env("PORTOLAN_API", stage.admin.to_string())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let lines = std::io::BufRead::lines(std::io::BufReader::new(child.stdout.take().unwrap()));
    let until = Instant::now() + PATIENCE;
    let mut kinds = std::collections::BTreeSet::new();
    for line in lines.map_while(Result::ok) {
        let event: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert!(event["revision"].as_u64().unwrap() > before);
        kinds.insert(event["kind"].as_str().unwrap().to_owned());
        if ["formation", "placement", "job", "instance"].iter().all(|kind| kinds.contains(*kind)) {
            break;
        }
        assert!(Instant::now() < until, "only {kinds:?}");
    }
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn a_stop_lets_jobs_live_and_stop_ends_them() {
    let mut stage = started();
    let jobs = stage.running();
    assert_eq!(stage.terminate(), Some(0));
    assert!(jobs.values().all(|pid| super::stage::is_alive(*pid)));
    let stopped = Command::new(super::stage::PORTOLAN).arg("stop").arg(stage.config()).output();
    assert!(String::from_utf8_lossy(&stopped.unwrap().stdout).contains("6 jobs were stopped"));
    stage.wait("the jobs are gone", || {
        jobs.values().all(|pid| !super::stage::is_alive(*pid)).then_some(())
    });
}
