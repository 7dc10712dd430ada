//! A browser: a page that comes by TLS and HTTP/2, fetches, listens to events and talks over a
//! WebSocket, all through the router, and tells an instance what it saw.

use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, mpsc};

use axum::Router;
use axum::extract::State;
use axum::response::Html;
use axum::response::sse::{Event, Sse};
use axum::routing::{get, post};
use futures_util::Stream;
use rustix::process::{Pid, Signal, kill_process_group};
use serde_json::{Value, json};
use tokio::sync::Notify;

use crate::ports::free_port;
use crate::stage::{PATIENCE, PORTOLAN, Stage};

const BROWSER: &str = "chromium";
const HOST: &str = "shop.test";

/// The instance that the page is of.
#[derive(Clone)]
struct Page {
    /// The page wants the next event.
    more: Arc<Notify>,
    told: mpsc::Sender<Value>,
}

impl Page {
    /// Serves it until the runtime ends; its port, and what the page tells.
    async fn serve() -> (u16, mpsc::Receiver<Value>) {
        let (told, saw) = mpsc::channel();
        let page = Self { more: Arc::new(Notify::new()), told };
        let app = Router::new()
            .route("/", get(async || Html(include_str!("browser/page.html"))))
            .route("/number", get(async || "42"))
            .route("/events", get(async |State(page): State<Self>| Sse::new(page.events())))
            .route("/more", post(async |State(page): State<Self>| page.more.notify_one()))
            .route("/told", post(Self::told))
            .with_state(page);
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move { axum::serve(listener, app).await });
        (port, saw)
    }

    /// One event at once, and one more whenever the page says so.
    fn events(self) -> impl Stream<Item = Result<Event, std::convert::Infallible>> {
        futures_util::stream::unfold(0, move |number| {
            let more = Arc::clone(&self.more);
            async move {
                if number > 0 {
                    more.notified().await;
                }
                Some((Ok(Event::default().data(format!("event {number}"))), number + 1))
            }
        })
    }

    async fn told(State(page): State<Self>, body: String) {
        // The test has given up if nobody listens.
        let _ = page.told.send(serde_json::from_str(&body).unwrap());
    }
}

/// A browser with a profile of its own, which ends with the test.
struct Browser(Child);

impl Browser {
    fn show(stage: &Stage, secure: u16) -> Self {
        let log = std::fs::File::create(stage.dir.path().join("browser.log")).unwrap();
        let profile = stage.dir.path().join("profile");
        let child = Command::new(BROWSER)
            // The page is ours, and containers do not allow a sandbox in them.
            .args(["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"])
            .args(["--no-first-run", "--disable-background-networking", "--disable-extensions"])
            .arg(format!("--user-data-dir={}", profile.display()))
            .arg(format!("--host-resolver-rules=MAP {HOST} 127.0.0.1"))
            .arg(format!("--ignore-certificate-errors-spki-list={}", key_digest(stage)))
            .arg(format!("https://{HOST}:{secure}/"))
            .env("HOME", stage.dir.path())
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap_or_else(|error| panic!("{BROWSER} (tests/run installs it): {error}"));
        Self(child)
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // It is many processes.
        let group = Pid::from_child(&self.0);
        let _ = kill_process_group(group, Signal::KILL);
        let _ = self.0.wait();
    }
}

/// SHA-256 of the public key that the router shows, as the browser wants it. The browser has no
/// other authority than those of the world: it takes this one key, and no other error.
fn key_digest(stage: &Stage) -> String {
    let script = "set -o pipefail; openssl x509 -in \"$0\" -noout -pubkey \
        | openssl pkey -pubin -outform der | openssl dgst -sha256 -binary | openssl base64";
    let output = Command::new("bash")
        .args(["-c", script])
        .arg(stage.dir.path().join(format!("tls/{HOST}.pem")))
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// `portolan whoami` sends bodies and messages back; the rest is the page's.
fn stage(page: u16, secure: u16) -> Stage {
    let mut stage = Stage::set(&format!(
        "\n[[listeners]]\nname = \"secure\"\nbind = \"127.0.0.1:{secure}\"\ntls = {{}}\n\n\
         [[certificates]]\nname = \"shop\"\nchain_file = \"tls/{HOST}.pem\"\n\
         key_file = \"tls/{HOST}.key\"\n\n\
         [[routes]]\nservice = \"page\"\n\n\
         [[routes]]\npath = \"/echo\"\nservice = \"echo\"\n\n\
         [[routes]]\npath = \"/ws\"\nservice = \"echo\"\n\n\
         [[services]]\nname = \"page\"\ninstances = [{{ addr = \"127.0.0.1:{page}\" }}]\n\n\
         [[apps]]\nname = \"shop\"\n\n[apps.processes.echo]\n\
         command = [\"portolan\", \"whoami\"]\ninstances = 1\nservice = \"echo\"\n\
         checks = [{{ kind = \"http\", path = \"/health\", every = \"1s\" }}]\n"
    ));
    for (command, more) in [("init", None), ("issue", Some(HOST))] {
        let folder = stage.dir.path().join("tls");
        let output =
            Command::new(PORTOLAN).args(["ca", command]).arg(folder).args(more).output().unwrap();
        assert!(output.status.success(), "{output:?}");
    }
    stage.up();
    stage.wait_running(1);
    stage.wait_200(HOST, "/echo");
    stage.wait_200(HOST, "/number");
    stage
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_page_fetches_listens_and_talks_over_http_2() {
    let (page, saw) = Page::serve().await;
    let secure = free_port();
    let stage = stage(page, secure);
    let browser = Browser::show(&stage, secure);
    let told = saw.recv_timeout(PATIENCE).unwrap_or_else(|_| {
        let log = std::fs::read_to_string(stage.dir.path().join("browser.log")).unwrap();
        panic!("the page tells nothing:\n{log}\n{}", stage.log())
    });
    drop(browser);
    assert_eq!(told["page"], json!(["h2"]), "{told}");
    let fetches = told["fetches"].as_array().unwrap();
    assert!(fetches.len() == 4 && fetches.iter().all(|protocol| protocol == "h2"), "{told}");
    assert_eq!(told["fetched"], json!({ "get": [200, "42"], "post": [200, true] }), "{told}");
    assert_eq!(told["events"], json!(["event 0", "event 1", "event 2"]), "{told}");
    let seen = told["socket"]["seen"].as_array().unwrap();
    assert!(seen[0].as_str().unwrap().contains("service: echo"), "{told}");
    assert_eq!(seen[1..], [json!("message 1"), json!("message 2")], "{told}");
    assert_eq!(told["socket"]["code"], 1000, "{told}");
}
