//! Any text as a rule and any bytes as a request: no panic, a rule that is read reads back as it
//! is shown, and what the table answers is what it explains.
//! The first line is a path, the second what else is asked, as JSON; the request follows.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use portolan_discovery::model::record::encode;
use portolan_discovery::model::{
    Backend, Event, HostPattern, HttpRule, Key, Kv, ListenerName, PathPattern, Predicates,
    Revision, Route, RouteName, Rule, ServiceName,
};
use portolan_discovery::snapshot::Snapshot;
use portolan_router::h1::{HeadScratch, Limits, parse_request};
use portolan_router::metrics::Metrics;
use portolan_router::{RequestView, Table};

static METRICS: LazyLock<std::sync::Arc<Metrics>> =
    LazyLock::new(|| Metrics::register(&prometheus::Registry::new()).expect("a new registry"));

fn route(path: PathPattern, predicates: Predicates) -> Route {
    let rule = Rule::Http(HttpRule { host: HostPattern::Any, path, predicates });
    let backends = vec![Backend::to(ServiceName::parse("web").expect("a name"))];
    Route::new(RouteName::parse("r").expect("a name"), rule, backends)
}

fuzz_target!(|bytes: &[u8]| {
    let mut parts = bytes.splitn(3, |byte| *byte == b'\n');
    let mut text = || std::str::from_utf8(parts.next()?).ok();
    let (Some(path), Some(asked)) = (text(), text()) else { return };
    let Ok(path) = path.parse::<PathPattern>() else { return };
    assert_eq!(path.to_string().parse(), Ok(path.clone()));
    let Ok(predicates) = serde_json::from_str::<Predicates>(asked) else { return };
    let route = route(path, predicates);
    let value = encode(&route);
    assert_eq!(serde_json::from_slice::<Route>(&value).expect("as written"), route);
    let key = Key::Route(route.name.clone()).to_string();
    let (created, modified) = (Revision(1), Revision(1));
    let event = Event::Put(Kv { key, value, created, modified, lease: None });
    let (snapshot, rejected) = Snapshot::default().apply(&[event], Revision(1));
    assert!(rejected.is_empty());
    let table = Table::compile(&snapshot, None, &METRICS).table;

    let mut scratch = HeadScratch::new();
    let head = parts.next().unwrap_or_default();
    let Ok(Some(request)) = parse_request(head, &mut scratch, &Limits::DEFAULT) else { return };
    let listener = ListenerName::parse("main").expect("a name");
    let view = RequestView::of(&listener, &request);
    let winner = table.route(&view).map(|entry| entry.name.clone());
    assert_eq!(table.explain(&view).winner, winner);
});
