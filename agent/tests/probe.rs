//! Probes against real sockets and commands.

#![allow(clippy::unwrap_used, reason = "a test that panics fails")]

use std::convert::Infallible;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use portolan_agent::probe::{BODY_BYTES_MAX, HEAD_BYTES_MAX, Outcome, Prober, probe};
use portolan_discovery::model::{CheckKind, HttpCheck, ProxyVersion, StatusRange};
use rcgen::{CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

/// Far longer than any probe here takes when it works.
const LONG: Duration = Duration::from_secs(20);
const SHORT: Duration = Duration::from_millis(300);

fn http(path: &str) -> HttpCheck {
    HttpCheck {
        tls: false,
        verify: true,
        ca_file: None,
        method: "GET".to_owned(),
        path: path.to_owned(),
        host: None,
        headers: Default::default(),
        status: vec![StatusRange { first: 200, last: 399 }],
        body: None,
    }
}

async fn ask(check: HttpCheck, addr: SocketAddr) -> Outcome {
    probe(&CheckKind::Http(check), addr, LONG).await
}

type Seen = Arc<Mutex<Vec<http::request::Parts>>>;

/// A server that answers `/STATUS` with that status and remembers what it was asked.
async fn server() -> (SocketAddr, Seen) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let seen = Seen::default();
    let all = seen.clone();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            tokio::spawn(serve(TokioIo::new(stream), all.clone()));
        }
    });
    (addr, seen)
}

async fn serve<S>(stream: S, seen: Seen)
where
    S: hyper::rt::Read + hyper::rt::Write + Unpin + 'static,
{
    let service = service_fn(move |request: Request<Incoming>| {
        let (parts, _) = request.into_parts();
        let status: u16 = parts.uri.path()[1..].parse().unwrap_or(200);
        seen.lock().unwrap().push(parts);
        let answer = Response::builder()
            .status(status)
            .header("Location", "/500")
            .body(Full::new(Bytes::from_static(b"all is well\n")))
            .unwrap();
        async { Ok::<_, Infallible>(answer) }
    });
    let _ = hyper::server::conn::http1::Builder::new().serve_connection(stream, service).await;
}

/// A server that reads a head and then does what `answer` does with the connection.
async fn raw<F, T>(answer: F) -> SocketAddr
where
    F: Fn(TcpStream) -> T + Send + 'static,
    T: Future<Output = io::Result<()>> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut head = [0; 1024];
            let _ = stream.read(&mut head).await;
            tokio::spawn(answer(stream));
        }
    });
    addr
}

/// An address where nobody listens.
async fn nobody() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
}

#[tokio::test]
async fn the_status_decides() {
    let (addr, _) = server().await;
    for (path, ok, detail) in [
        ("/200", true, "status 200"),
        ("/204", true, "status 204"),
        ("/399", true, "status 399"),
        ("/404", false, "status 404"),
        ("/503", false, "status 503"),
    ] {
        let outcome = ask(http(path), addr).await;
        assert_eq!((outcome.ok, outcome.detail.as_str()), (ok, detail), "{path}");
    }
    let narrow = HttpCheck { status: vec![StatusRange { first: 404, last: 404 }], ..http("/404") };
    assert!(ask(narrow, addr).await.ok);
}

#[tokio::test]
async fn a_redirect_is_an_answer_and_is_not_followed() {
    let (addr, seen) = server().await;
    assert!(ask(http("/302"), addr).await.ok);
    assert_eq!(seen.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn the_request_is_as_it_was_configured() {
    let (addr, seen) = server().await;
    let check = HttpCheck {
        method: "HEAD".to_owned(),
        host: Some("db.test".to_owned()),
        headers: [("x-token".to_owned(), "s3cret".to_owned())].into(),
        ..http("/health?deep=1")
    };
    assert!(ask(check, addr).await.ok);
    let seen = seen.lock().unwrap();
    assert_eq!(seen[0].method, "HEAD");
    assert_eq!(seen[0].uri, "/health?deep=1");
    assert_eq!(seen[0].headers["host"], "db.test");
    assert_eq!(seen[0].headers["x-token"], "s3cret");
}

#[tokio::test]
async fn the_body_must_have_the_text() {
    let (addr, _) = server().await;
    let with = |text: &str| HttpCheck { body: Some(text.to_owned()), ..http("/") };
    assert!(ask(with("is well"), addr).await.ok);
    let outcome = ask(with("is ill"), addr).await;
    assert_eq!(outcome.detail, "\"is ill\" is not in the body's first 64 KiB");
}

#[tokio::test]
async fn a_text_across_two_chunks_is_found_in_a_body_without_end() {
    let addr = raw(|mut stream| async move {
        stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await?;
        stream.write_all(b"4\r\nis w\r\n").await?;
        tokio::time::sleep(Duration::from_millis(30)).await;
        loop {
            stream.write_all(b"4\r\nell,\r\n").await?;
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    assert!(ask(HttpCheck { body: Some("is well".to_owned()), ..http("/") }, addr).await.ok);
}

#[tokio::test]
async fn only_the_first_of_a_large_body_is_read() {
    let addr = raw(|mut stream| async move {
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 9999999\r\n\r\n").await?;
        stream.write_all(&vec![b'.'; BODY_BYTES_MAX]).await?;
        stream.write_all(b"is well").await?;
        std::future::pending().await
    })
    .await;
    let outcome = ask(HttpCheck { body: Some("is well".to_owned()), ..http("/") }, addr).await;
    assert!(!outcome.ok);
    assert!(outcome.detail.contains("first 64 KiB"), "{}", outcome.detail);
}

#[tokio::test]
async fn a_peer_that_says_nothing_costs_the_timeout_and_no_more() {
    let addr = raw(|stream| async move {
        let _held = stream;
        std::future::pending().await
    })
    .await;
    let outcome = probe(&CheckKind::Http(http("/")), addr, SHORT).await;
    assert_eq!(outcome.detail, "timed out after 300ms while waiting for the answer");
    assert!(outcome.took >= SHORT && outcome.took < LONG, "{:?}", outcome.took);
}

#[tokio::test]
async fn garbage_and_endless_heads_fail() {
    let garbage = raw(|mut stream| async move { stream.write_all(b"\x16\x03 no HTTP\r\n").await });
    let outcome = ask(http("/"), garbage.await).await;
    assert!(!outcome.ok && outcome.detail.starts_with("HTTP: "), "{}", outcome.detail);

    let sent = Arc::new(AtomicU32::new(0));
    let count = sent.clone();
    let endless = raw(move |mut stream| {
        let sent = count.clone();
        async move {
            stream.write_all(b"HTTP/1.1 200 OK\r\n").await?;
            loop {
                stream.write_all(&[b'a'; 1024]).await?;
                sent.fetch_add(1, Ordering::Relaxed);
            }
        }
    });
    let outcome = ask(http("/"), endless.await).await;
    assert!(!outcome.ok && outcome.detail.starts_with("HTTP: "), "{}", outcome.detail);
    // Beside what was read, the kernel's buffers hold some megabytes at most.
    let read_max = u32::try_from(HEAD_BYTES_MAX / 1024).unwrap() + 16 * 1024;
    assert!(sent.load(Ordering::Relaxed) < read_max);
}

#[tokio::test]
async fn a_refused_connection_is_said_in_words() {
    let addr = nobody().await;
    for kind in [CheckKind::Tcp, CheckKind::Http(http("/"))] {
        let outcome = probe(&kind, addr, LONG).await;
        assert_eq!((outcome.ok, outcome.detail.as_str()), (false, "connect: connection refused"));
    }
}

#[tokio::test]
async fn a_tcp_check_needs_a_connection_only() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let outcome = probe(&CheckKind::Tcp, listener.local_addr().unwrap(), LONG).await;
    assert_eq!((outcome.ok, outcome.detail.as_str()), (true, "connected"));
}

struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        Self { issuer: CertifiedIssuer::self_signed(params, key).unwrap() }
    }

    fn save(&self, path: &Path) {
        fs::write(path, self.issuer.pem()).unwrap();
    }

    /// A TLS server with a certificate for `name`.
    async fn server(&self, name: &str) -> (SocketAddr, Seen) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(
                vec![CertificateDer::from_pem_slice(certificate.pem().as_bytes()).unwrap()],
                PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes()).unwrap(),
            )
            .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let seen = Seen::default();
        let all = seen.clone();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (acceptor, seen) = (acceptor.clone(), all.clone());
                tokio::spawn(async move {
                    if let Ok(stream) = acceptor.accept(stream).await {
                        serve(TokioIo::new(stream), seen).await;
                    }
                });
            }
        });
        (addr, seen)
    }
}

fn https(ca_file: Option<&Path>, host: Option<&str>) -> HttpCheck {
    HttpCheck {
        tls: true,
        ca_file: ca_file.map(|path| path.to_str().unwrap().to_owned()),
        host: host.map(str::to_owned),
        ..http("/200")
    }
}

#[tokio::test]
async fn a_certificate_must_be_valid_for_the_host() {
    let dir = tempfile::tempdir().unwrap();
    let ca = dir.path().join("ca.pem");
    let authority = Authority::new();
    authority.save(&ca);
    let (addr, seen) = authority.server("db.test").await;

    let outcome = ask(https(Some(&ca), Some("db.test")), addr).await;
    assert_eq!((outcome.ok, outcome.detail.as_str()), (true, "status 200"));
    assert_eq!(seen.lock().unwrap()[0].headers["host"], "db.test");

    let outcome = ask(https(Some(&ca), Some("web.test")), addr).await;
    assert!(!outcome.ok && outcome.detail.starts_with("TLS: "), "{}", outcome.detail);
    // Without a host the certificate must be for the address.
    assert!(!ask(https(Some(&ca), None), addr).await.ok);
    let (by_address, _) = authority.server("127.0.0.1").await;
    assert!(ask(https(Some(&ca), None), by_address).await.ok);
    assert_eq!(seen.lock().unwrap().len(), 1, "nothing is asked over a refused connection");
}

#[tokio::test]
async fn a_stranger_s_certificate_is_refused_unless_nobody_asks() {
    let dir = tempfile::tempdir().unwrap();
    let ca = dir.path().join("ca.pem");
    Authority::new().save(&ca);
    let (addr, _) = Authority::new().server("db.test").await;
    assert!(!ask(https(Some(&ca), Some("db.test")), addr).await.ok);
    assert!(!ask(https(None, Some("db.test")), addr).await.ok, "the system does not know it");
    let trusting = HttpCheck { verify: false, ..https(None, Some("web.test")) };
    assert!(ask(trusting, addr).await.ok);
}

#[tokio::test]
async fn a_replaced_ca_file_is_read_after_a_refusal() {
    let dir = tempfile::tempdir().unwrap();
    let ca = dir.path().join("ca.pem");
    Authority::new().save(&ca);
    let authority = Authority::new();
    let (addr, _) = authority.server("db.test").await;
    let mut prober = Prober::new(CheckKind::Http(https(Some(&ca), Some("db.test"))));
    assert!(!prober.probe(addr, LONG).await.ok);
    authority.save(&ca);
    assert!(prober.probe(addr, LONG).await.ok);
}

#[tokio::test]
async fn a_ca_file_that_cannot_be_used_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let empty = dir.path().join("empty.pem");
    fs::write(&empty, "").unwrap();
    let addr = raw(|_| async { Ok(()) }).await;
    for (path, word) in
        [(empty, "it has no certificate"), ("/nonexistent/ca.pem".into(), "No such")]
    {
        let outcome = ask(https(Some(&path), None), addr).await;
        assert!(!outcome.ok && outcome.detail.starts_with("ca_file "), "{}", outcome.detail);
        assert!(outcome.detail.contains(word), "{}", outcome.detail);
    }
}

fn sh(script: &str) -> CheckKind {
    CheckKind::Exec { command: vec!["sh".to_owned(), "-c".to_owned(), script.to_owned()] }
}

fn any_addr() -> SocketAddr {
    "127.0.0.1:8080".parse().unwrap()
}

#[tokio::test]
async fn the_exit_status_of_a_command_decides() {
    for (script, ok, detail) in [
        ("exit 0", true, "exit status 0"),
        ("echo; echo fine; echo more", true, "exit status 0: fine"),
        ("echo out; echo err >&2; exit 3", false, "exit status 3: err"),
        ("kill -9 $$", false, "signal 9 (SIGKILL)"),
    ] {
        let outcome = probe(&sh(script), any_addr(), LONG).await;
        assert_eq!((outcome.ok, outcome.detail.as_str()), (ok, detail), "{script}");
    }
    let missing = CheckKind::Exec { command: vec!["/nonexistent/check".to_owned()] };
    let outcome = probe(&missing, any_addr(), LONG).await;
    assert_eq!(outcome.detail, "cannot run /nonexistent/check: no such file or directory");
}

#[tokio::test]
async fn a_command_sees_the_address_and_the_search_path_only() {
    let script = "env | grep -v -e ^PATH= -e ^PWD= -e ^SHLVL= -e ^_= -e ^OLDPWD= | tr '\\n' ' '";
    let outcome = probe(&sh(script), any_addr(), LONG).await;
    assert_eq!(outcome.detail, "exit status 0: PORTOLAN_CHECK_ADDR=127.0.0.1:8080");
}

#[tokio::test]
async fn a_command_with_much_output_ends() {
    let outcome = probe(&sh("head -c 5000000 /dev/zero | tr '\\0' x"), any_addr(), LONG).await;
    assert!(outcome.ok);
    assert!(outcome.detail.len() <= portolan_agent::probe::DETAIL_BYTES_MAX);
}

/// Waits until no process with this id is left.
async fn is_gone(pid: &str) {
    let gone = async {
        loop {
            // A zombie has been killed; whoever inherits it has yet to look.
            match fs::read_to_string(format!("/proc/{pid}/stat")) {
                Err(_) => return,
                Ok(stat) if stat.rsplit(')').next().unwrap().trim().starts_with('Z') => return,
                Ok(_) => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
    };
    tokio::time::timeout(LONG, gone).await.expect("the process is still there");
}

async fn pid_in(path: &Path) -> String {
    let read = async {
        loop {
            match fs::read_to_string(path) {
                Ok(text) if text.ends_with('\n') => return text.trim().to_owned(),
                _ => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
    };
    tokio::time::timeout(LONG, read).await.expect("the command says its process")
}

#[tokio::test]
async fn a_late_command_is_killed_with_its_children() {
    let dir = tempfile::tempdir().unwrap();
    let child = dir.path().join("child");
    let script = format!("sleep 1000 & echo $! > {}; wait", child.display());
    let outcome = probe(&sh(&script), any_addr(), SHORT).await;
    assert_eq!(outcome.detail, "timed out after 300ms while running the command");
    is_gone(&pid_in(&child).await).await;
}

#[tokio::test]
async fn a_probe_that_is_dropped_kills_its_command() {
    let dir = tempfile::tempdir().unwrap();
    let child = dir.path().join("child");
    let script = format!("sleep 1000 & echo $! > {}; wait", child.display());
    let kind = sh(&script);
    let task = tokio::spawn(async move { probe(&kind, any_addr(), LONG).await });
    let pid = pid_in(&child).await;
    task.abort();
    is_gone(&pid).await;
}

#[tokio::test]
async fn a_child_that_holds_the_output_does_not_hold_the_probe() {
    let dir = tempfile::tempdir().unwrap();
    let child = dir.path().join("child");
    let script = format!("sleep 1000 & echo $! > {}; exit 0", child.display());
    let outcome = probe(&sh(&script), any_addr(), LONG).await;
    assert!(outcome.ok, "{}", outcome.detail);
    assert!(outcome.took < LONG / 2, "{:?}", outcome.took);
    is_gone(&pid_in(&child).await).await;
}

/// A server that answers only to connections that begin with `header`.
async fn behind_a_proxy(header: &'static [u8]) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut first = vec![0; header.len()];
            if stream.read_exact(&mut first).await.is_ok() && first == header {
                tokio::spawn(serve(TokioIo::new(stream), Seen::default()));
            }
        }
    });
    addr
}

#[tokio::test]
async fn an_instance_that_asks_for_a_proxy_header_gets_one_that_names_nobody() {
    for version in ProxyVersion::ALL {
        let addr = behind_a_proxy(version.of_our_own()).await;
        let mut prober = Prober::new(CheckKind::Http(http("/200")));
        assert!(!prober.probe(addr, SHORT).await.ok, "without it there is no answer");
        prober.begin_with(Some(version));
        let outcome = prober.probe(addr, LONG).await;
        assert_eq!((outcome.ok, outcome.detail.as_str()), (true, "status 200"));
    }
}

#[tokio::test]
async fn a_tcp_probe_sends_the_header_too() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut prober = Prober::new(CheckKind::Tcp);
    prober.begin_with(Some(ProxyVersion::V1));
    assert!(prober.probe(listener.local_addr().unwrap(), LONG).await.ok);
    let mut all = Vec::new();
    listener.accept().await.unwrap().0.read_to_end(&mut all).await.unwrap();
    assert_eq!(all, b"PROXY UNKNOWN\r\n");
}
