//! Large bodies, in both directions, whole.

use std::hash::Hasher;

use super::instance::Instance;
use super::peer::within;
use super::rig::Rig;

const BODY_BYTES: usize = 10 * 1024 * 1024;

/// Bytes of which no piece looks like another.
fn noise() -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(7);
    std::iter::repeat_with(|| random.u8(..)).take(BODY_BYTES).collect()
}

fn sum(bytes: &[u8]) -> u64 {
    let mut hasher = std::hash::DefaultHasher::new();
    hasher.write(bytes);
    hasher.finish()
}

fn chunks(body: &[u8]) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(11);
    let mut out = Vec::new();
    let mut rest = body;
    while !rest.is_empty() {
        let (chunk, others) = rest.split_at(random.usize(1..=100_000).min(rest.len()));
        out.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
        out.extend_from_slice(chunk);
        out.extend_from_slice(b"\r\n");
        rest = others;
    }
    out.extend_from_slice(b"0\r\n\r\n");
    out
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_body_goes_up_unchanged() {
    let instance = Instance::http(|request| {
        super::instance::ok(format!("{} {:x}", request.body.len(), sum(&request.body)))
    })
    .await;
    let rig = Rig::web(&[instance.addr]);
    let body = noise();
    let expected = format!("{} {:x}", body.len(), sum(&body));
    let mut client = rig.client().await;
    let head = "POST / HTTP/1.1\r\nHost: web.test\r\n";
    client.send(format!("{head}Content-Length: {}\r\n\r\n", body.len())).await;
    client.send(&body).await;
    assert_eq!(client.response().await.text(), expected);
    client.send(format!("{head}Transfer-Encoding: chunked\r\n\r\n")).await;
    client.send(chunks(&body)).await;
    assert_eq!(client.response().await.text(), expected);
    assert_eq!(instance.connections(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_body_comes_down_unchanged() {
    let instance = Instance::raw(|mut peer, _| async move {
        let body = noise();
        while let Some(request) = peer.request().await {
            let start = request.start();
            if start.contains("/chunked") {
                peer.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await;
                peer.send(chunks(&body)).await;
            } else if start.contains("/length") {
                let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
                peer.send(head).await;
                peer.send(&body).await;
            } else {
                peer.send("HTTP/1.1 200 OK\r\n\r\n").await;
                peer.send(&body).await;
                return;
            }
        }
    })
    .await;
    let rig = Rig::web(&[instance.addr]);
    let expected = sum(&noise());
    let mut client = rig.client().await;
    for path in ["/length", "/chunked", "/close", "/length"] {
        let response = client.get(path).await;
        assert_eq!(response.body.len(), BODY_BYTES, "{path}");
        assert_eq!(sum(&response.body), expected, "{path}");
    }
    let mut old = rig.client().await;
    let response = old.ask("GET /chunked HTTP/1.0\r\n\r\n").await;
    assert_eq!((response.chunked, sum(&response.body)), (false, expected));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_reader_holds_the_instance_back() {
    // More than all socket buffers on the way, so that somebody has to wait.
    const SENT: usize = 64 * 1024 * 1024;
    let sent = std::sync::Arc::<std::sync::atomic::AtomicUsize>::default();
    let count = std::sync::Arc::clone(&sent);
    let instance = Instance::raw(move |mut peer, _| {
        let count = std::sync::Arc::clone(&count);
        async move {
            peer.request().await.unwrap();
            peer.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {SENT}\r\n\r\n")).await;
            let piece = vec![b'x'; 64 * 1024];
            for _ in 0..SENT / piece.len() {
                if !peer.try_send(&piece).await {
                    return;
                }
                count.fetch_add(piece.len(), std::sync::atomic::Ordering::SeqCst);
            }
        }
    })
    .await;
    let rig = Rig::web(&[instance.addr]);
    let mut client = rig.client().await;
    client.send("GET / HTTP/1.1\r\nHost: web.test\r\n\r\n").await;
    assert_eq!(client.response_head().await.status(), 200);
    let sent_now = || sent.load(std::sync::atomic::Ordering::SeqCst);
    within("the instance to stall", async {
        let mut before = usize::MAX;
        while before != sent_now() || before == 0 {
            before = sent_now();
            tokio::time::sleep(std::time::Duration::from_millis(200)).await;
        }
    })
    .await;
    assert!(sent_now() < SENT / 2, "{} bytes were taken from the instance", sent_now());
    let body = client.read(SENT).await;
    assert!(body.iter().all(|byte| *byte == b'x'));
}

#[tokio::test]
async fn both_bodies_may_flow_at_once() {
    let instance = Instance::raw(|mut peer, _| async move {
        peer.head().await.unwrap();
        peer.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await;
        for _ in 0..3 {
            let piece = peer.read(4).await;
            peer.send([b"4\r\n", &piece[..], b"\r\n"].concat()).await;
        }
        peer.send("0\r\n\r\n").await;
        peer.gone().await;
    })
    .await;
    let rig = Rig::web(&[instance.addr]);
    let mut client = rig.client().await;
    client.send("POST / HTTP/1.1\r\nHost: web.test\r\nContent-Length: 12\r\n\r\n").await;
    let head = client.response_head().await;
    assert_eq!(head.status(), 200);
    // The end of a request that is answered before it has come is not waited for.
    assert_eq!(head.field("connection").as_deref(), Some("close"));
    for piece in ["one.", "two.", "thr."] {
        client.send(piece).await;
        assert_eq!(client.read(9).await, format!("4\r\n{piece}\r\n").as_bytes());
    }
    assert_eq!(client.rest().await, b"0\r\n\r\n");
}
