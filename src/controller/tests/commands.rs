//! Commands against the store in memory.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use portolan_discovery::model::record::{decode, encode};
use portolan_discovery::model::{
    AppName, Backend, CertificateName, CertificatePair, Deployment, DeploymentState, HostPattern,
    HttpRule, Instance, Key, ListenerName, Origin, Override, PathPattern, ReleaseId, Route, Rule,
    Scope, Service, Word,
};
use portolan_discovery::store::{StoreError, Txn};

use super::memory::Memory;
use super::spec;
use super::world::put;
use crate::certificates::{pair, pem};
use crate::controller::commands::{
    COUNT_MAX, CommandError, Commands, Committed, DeployRequest, Deployed,
};
use crate::controller::view::View;

struct Desk {
    store: Arc<Memory>,
    commands: Commands,
}

impl Desk {
    fn new() -> Self {
        let store = Arc::new(Memory::default());
        let source = store.clone();
        Self { store, commands: Commands::new(move || Ok(source.clone())) }
    }

    fn deploy(
        &self,
        version: u64,
        counts: &[(&str, u32)],
    ) -> Result<Committed<Deployed>, CommandError> {
        done(self.commands.deploy(request(version, counts)))
    }

    fn rollback(&self, to: Option<&str>) -> Result<Committed<Deployed>, CommandError> {
        let to: Option<ReleaseId> = to.map(|to| to.parse().unwrap());
        done(self.commands.rollback(&shop(), to.as_ref()))
    }

    fn view(&self) -> View {
        let mut view = View::default();
        let (kvs, revision) = self.store.all("");
        view.reset_control(&kvs, revision);
        view
    }

    /// Ends the deployment under way in a state, as the controller would.
    fn end(&self, state: DeploymentState) {
        let view = self.view();
        let active = view.apps["shop"].active().expect("one is under way").record.clone();
        let over = Deployment { state, ..(*active).clone() };
        put(&self.store, &Key::Deployment(shop(), over.id.clone()), &over);
    }

    /// `d2 v1->v2 Running`, the newest first.
    fn history(&self) -> Vec<String> {
        let view = self.view();
        let newest_first = view.apps["shop"].newest_first();
        let shown = newest_first.into_iter().map(|stored| {
            let Deployment { id, from, to, state, .. } = &*stored.record;
            let from = from.as_ref().map_or("-", |from| from.as_str());
            let state = format!("{state:?}");
            format!("{id} {from}->{to} {}", state.split(' ').next().unwrap())
        });
        shown.collect()
    }
}

fn done<T>(command: impl Future<Output = T>) -> T {
    command.now_or_never().expect("the store in memory answers at once")
}

fn shop() -> AppName {
    "shop".parse().unwrap()
}

fn request(version: u64, counts: &[(&str, u32)]) -> DeployRequest {
    DeployRequest {
        app: shop(),
        labels: BTreeMap::new(),
        progress_deadline: Duration::from_secs(60),
        processes: [
            ("web".parse().unwrap(), spec(Some("web"), "good", version)),
            ("work".parse().unwrap(), spec(None, "good", version)),
        ]
        .into(),
        counts: counts.iter().map(|(name, count)| (name.parse().unwrap(), *count)).collect(),
    }
}

fn reverted() -> DeploymentState {
    DeploymentState::Reverted { cause: "test".into() }
}

#[test]
fn a_first_deploy_makes_everything_at_one_revision() {
    let desk = Desk::new();
    let committed = desk.deploy(1, &[("web", 3)]).unwrap();
    assert!(committed.changed);
    assert_eq!(committed.revision, desk.store.revision());
    assert_eq!(committed.revision.0, 1);
    let deployed = committed.value;
    assert_eq!(deployed.release.as_str(), "v1");
    assert_eq!(deployed.formation.counts.values().copied().collect::<Vec<_>>(), [3, 1]);
    let deployment = deployed.deployment.unwrap();
    assert_eq!((deployment.from, deployment.surge), (None, 1));
    assert_eq!(deployment.progress_deadline_ms, 60_000);
    let view = desk.view();
    let records = &view.apps["shop"];
    assert_eq!(records.app.as_ref().unwrap().record.next_release, 2);
    assert_eq!(records.releases["v1"].record.digest.len(), 64);
}

#[test]
fn a_deploy_that_is_sent_twice_is_done_once() {
    let desk = Desk::new();
    let first = desk.deploy(1, &[("web", 3)]).unwrap();
    let again = desk.deploy(1, &[("web", 3)]).unwrap();
    assert!(!again.changed);
    assert_eq!((again.value, again.revision), (first.value, first.revision));
    desk.end(DeploymentState::Done);
    assert!(!desk.deploy(1, &[]).unwrap().changed);
    assert_eq!(desk.history(), ["d1 -->v1 Done"]);
}

#[test]
fn the_same_content_is_the_same_release() {
    let desk = Desk::new();
    for version in [1, 2] {
        desk.deploy(version, &[]).unwrap();
        desk.end(DeploymentState::Done);
    }
    let back = desk.deploy(1, &[]).unwrap().value;
    assert_eq!(back.release.as_str(), "v1");
    assert_eq!(desk.history(), ["d3 v2->v1 Running", "d2 v1->v2 Done", "d1 -->v1 Done"]);
    desk.end(DeploymentState::Done);
    assert_eq!(desk.deploy(3, &[]).unwrap().value.release.as_str(), "v3");
}

#[test]
fn other_counts_or_labels_of_the_same_content_make_no_deployment() {
    let desk = Desk::new();
    desk.deploy(1, &[("web", 3)]).unwrap();
    desk.end(DeploymentState::Done);
    let scaled = desk.deploy(1, &[("web", 5)]).unwrap();
    assert!(scaled.changed);
    assert_eq!(scaled.value.formation.counts["web"], 5);
    let mut relabelled = request(1, &[]);
    relabelled.labels.insert("team".into(), "a".into());
    assert!(done(desk.commands.deploy(relabelled.clone())).unwrap().changed);
    assert!(!done(desk.commands.deploy(relabelled)).unwrap().changed);
    assert_eq!(desk.history(), ["d1 -->v1 Done"]);
    assert_eq!(desk.view().apps["shop"].app.as_ref().unwrap().record.labels["team"], "a");
}

#[test]
fn a_release_that_failed_is_tried_again_when_it_is_asked_for_again() {
    let desk = Desk::new();
    desk.deploy(1, &[]).unwrap();
    desk.end(reverted());
    let again = desk.deploy(1, &[]).unwrap();
    assert_eq!(again.value.release.as_str(), "v1");
    assert_eq!(desk.history(), ["d2 -->v1 Running", "d1 -->v1 Reverted"]);
    desk.end(DeploymentState::Done);
    desk.deploy(2, &[]).unwrap();
    desk.end(reverted());
    assert!(!desk.deploy(1, &[]).unwrap().changed, "v1 serves again");
    assert!(desk.deploy(2, &[]).unwrap().changed);
    assert_eq!(desk.history()[0], "d4 v1->v2 Running");
}

#[test]
fn a_later_deploy_ends_the_one_under_way_and_comes_back_to_what_served_before_it() {
    let desk = Desk::new();
    desk.deploy(1, &[]).unwrap();
    desk.end(DeploymentState::Done);
    desk.deploy(2, &[]).unwrap();
    desk.deploy(3, &[]).unwrap();
    assert_eq!(desk.history(), ["d3 v1->v3 Running", "d2 v1->v2 Superseded", "d1 -->v1 Done"]);
    desk.end(DeploymentState::Reverting { cause: "test".into() });
    desk.deploy(4, &[]).unwrap();
    assert_eq!(desk.history()[..2], ["d4 v1->v4 Running", "d3 v1->v3 Superseded"]);
}

#[test]
fn a_rollback_goes_to_what_served_before_and_asking_twice_goes_back_once() {
    let desk = Desk::new();
    assert_eq!(desk.rollback(None).unwrap_err().code(), "not_found");
    desk.deploy(1, &[]).unwrap();
    desk.end(DeploymentState::Done);
    assert_eq!(desk.rollback(None).unwrap_err().code(), "invalid");
    desk.deploy(2, &[]).unwrap();
    desk.end(DeploymentState::Done);
    desk.deploy(3, &[]).unwrap();
    desk.end(reverted());
    desk.deploy(4, &[]).unwrap();
    desk.end(DeploymentState::Done);
    let back = desk.rollback(None).unwrap();
    assert_eq!(back.value.release.as_str(), "v2", "v3 never served");
    assert_eq!(back.value.deployment.as_ref().unwrap().progress_deadline_ms, 60_000);
    let again = desk.rollback(None).unwrap();
    assert!(!again.changed);
    assert_eq!(again.value, back.value);
    desk.end(DeploymentState::Done);
    assert_eq!(desk.rollback(None).unwrap().value.release.as_str(), "v4", "it undoes itself");
}

#[test]
fn a_rollback_of_a_deployment_under_way_ends_it() {
    let desk = Desk::new();
    desk.deploy(1, &[]).unwrap();
    desk.end(DeploymentState::Done);
    desk.deploy(2, &[]).unwrap();
    desk.rollback(None).unwrap();
    assert_eq!(desk.history()[..2], ["d3 v1->v1 Running", "d2 v1->v2 Superseded"]);
    // One that already comes back by itself is left alone.
    desk.end(DeploymentState::Done);
    desk.deploy(2, &[]).unwrap();
    desk.end(DeploymentState::Reverting { cause: "test".into() });
    assert!(!desk.rollback(None).unwrap().changed);
}

#[test]
fn a_rollback_takes_any_release_that_is_there() {
    let desk = Desk::new();
    for version in 1..=3 {
        desk.deploy(version, &[("web", 4)]).unwrap();
        desk.end(DeploymentState::Done);
    }
    assert_eq!(desk.rollback(Some("v1")).unwrap().value.release.as_str(), "v1");
    assert_eq!(desk.history()[0], "d4 v3->v1 Running");
    let error = desk.rollback(Some("v9")).unwrap_err();
    assert_eq!(error.to_string(), "there is no release \"shop/v9\"");
    assert_eq!(error.hint(), "`portolan apps shop` shows those that are there");
    assert_eq!(desk.view().apps["shop"].count(&"web".parse().unwrap()), 4);
}

#[test]
fn scaling_sets_a_count_of_a_process_type_that_is_there() {
    let desk = Desk::new();
    let scale =
        |process: &str, count| done(desk.commands.scale(&shop(), &process.parse().unwrap(), count));
    assert_eq!(scale("web", 2).unwrap_err().code(), "not_found");
    desk.deploy(1, &[]).unwrap();
    let scaled = scale("web", 7).unwrap();
    assert!(scaled.changed);
    assert_eq!(scaled.value.counts["web"], 7);
    assert!(!scale("web", 7).unwrap().changed);
    assert_eq!(scale("cron", 1).unwrap_err().code(), "not_found");
    assert_eq!(scale("web", COUNT_MAX + 1).unwrap_err().code(), "invalid");
}

#[test]
fn a_deleted_app_can_be_made_again() {
    let desk = Desk::new();
    desk.deploy(1, &[]).unwrap();
    assert!(done(desk.commands.delete_app(&shop())).unwrap().changed);
    assert_eq!(done(desk.commands.delete_app(&shop())).unwrap_err().code(), "not_found");
    assert_eq!(desk.history(), ["d1 -->v1 Superseded"]);
    let again = desk.deploy(2, &[]).unwrap().value;
    assert_eq!(again.release.as_str(), "v2", "v1 is not there twice");
    assert_eq!(desk.history()[0], "d2 -->v2 Running");
}

#[test]
fn a_request_that_can_never_be_done_says_which_part_is_wrong() {
    let desk = Desk::new();
    let wrong = |change: fn(&mut DeployRequest)| {
        let mut request = request(1, &[("web", 1)]);
        change(&mut request);
        let error = done(desk.commands.deploy(request)).unwrap_err();
        assert_eq!((error.code(), error.is_retryable()), ("invalid", false));
        error.to_string()
    };
    for (error, expected) in [
        (wrong(|r| r.processes.clear()), "processes: an app needs at least one process type"),
        (
            wrong(|r| r.processes.get_mut("web").unwrap().command.clear()),
            "processes.web.command: it names no program",
        ),
        (
            wrong(|r| r.processes.get_mut("web").unwrap().port = Some(0)),
            "processes.web.port: 0 is no port",
        ),
        (
            wrong(|r| _ = r.counts.insert("cron".parse().unwrap(), 1)),
            "counts.cron: there is no such process type",
        ),
        (
            wrong(|r| _ = r.counts.insert("web".parse().unwrap(), COUNT_MAX + 1)),
            "counts.web: 10001 is more than 10000",
        ),
        (
            wrong(|r| r.progress_deadline = Duration::ZERO),
            "progress_deadline: it must be longer than 0",
        ),
        (
            wrong(|r| {
                let spec = r.processes.get_mut("web").unwrap();
                spec.env.insert("LARGE".into(), "x".repeat(2 << 20));
            }),
            "body: it makes a record of",
        ),
    ] {
        assert!(error.starts_with(expected), "{error}");
    }
    assert_eq!(desk.store.revision().0, 0);
}

#[test]
fn a_store_that_is_away_is_an_error_to_try_again() {
    let desk = Desk::new();
    desk.store.set_down(true);
    let error = desk.deploy(1, &[]).unwrap_err();
    assert_eq!((error.code(), error.is_retryable()), ("unavailable", true));
    let away = Commands::new(|| Err(StoreError::Unavailable("not opened yet".into())));
    let error = done(away.delete_app(&shop())).unwrap_err();
    assert_eq!(error.to_string(), "store is unavailable: not opened yet");
}

#[test]
fn a_record_that_cannot_be_read_is_not_written_over() {
    let desk = Desk::new();
    let key = Key::App(shop()).to_string();
    desk.store.commit(&Txn::default().put(key, encode(&"not an app")));
    assert!(matches!(desk.deploy(1, &[]), Err(CommandError::Unreadable { .. })));
    assert_eq!(desk.store.revision().0, 1);
}

fn route(name: &str) -> Route {
    let rule = Rule::Http(HttpRule::new(HostPattern::Any, PathPattern::all()));
    Route::new(name.parse().unwrap(), rule, vec![Backend::to("web".parse().unwrap())])
}

#[test]
fn a_route_keeps_its_age_and_its_owner() {
    let desk = Desk::new();
    let put_route = |route| done(desk.commands.put_route(route));
    let made = put_route(route("r")).unwrap();
    assert!(made.changed && made.value.created_ms > 0);
    assert!(!put_route(route("r")).unwrap().changed);
    let mut other = route("r");
    other.body_bytes_max = Some(1);
    let changed = put_route(other).unwrap();
    assert!(changed.changed);
    assert_eq!(changed.value.created_ms, made.value.created_ms);

    let config = Route { origin: Origin::Config("n1".parse().unwrap()), ..route("c") };
    put(&desk.store, &Key::Route(config.name.clone()), &config);
    for error in [
        put_route(route("c")).unwrap_err(),
        done(desk.commands.delete_route(&config.name)).unwrap_err(),
    ] {
        assert_eq!((error.code(), error.is_retryable()), ("conflict", false));
        let expected = "route \"c\" belongs to the configuration file of node n1";
        assert_eq!(error.to_string(), expected);
    }
    done(desk.commands.delete_route(&"r".parse().unwrap())).unwrap();
    let error = done(desk.commands.delete_route(&"r".parse().unwrap())).unwrap_err();
    assert_eq!(error.code(), "not_found");
    assert_eq!(
        put_route(Route { backends: Vec::new(), ..route("r") }).unwrap_err().code(),
        "invalid"
    );
    assert_eq!(put_route(Route { rule: Rule::Tcp, ..route("r") }).unwrap_err().code(), "invalid");
}

#[test]
fn an_instance_of_a_job_is_left_to_its_agent() {
    let desk = Desk::new();
    let text = r#"{"service":"web","id":"a","node":"n1","addr":"127.0.0.1:80","health":"up",
        "origin":{"job":"a"},"since_ms":0}"#;
    let of_job: Instance = serde_json::from_str(text).unwrap();
    let key = Key::Instance(of_job.service.clone(), of_job.id.clone());
    let made = done(desk.commands.put_instance(of_job.clone())).unwrap();
    assert_eq!(made.value.origin, Origin::Api);
    assert!(!done(desk.commands.put_instance(of_job.clone())).unwrap().changed);
    put(&desk.store, &key, &of_job);
    let error = done(desk.commands.delete_instance(&of_job.service, &of_job.id)).unwrap_err();
    assert_eq!(error.code(), "conflict");
    let service = Service::named("web".parse().unwrap());
    assert!(done(desk.commands.put_service(service.clone())).unwrap().changed);
    assert!(!done(desk.commands.put_service(service)).unwrap().changed);
    done(desk.commands.delete_service(&of_job.service)).unwrap();
}

#[test]
fn an_override_needs_a_reason_and_an_end_that_is_still_to_come() {
    let desk = Desk::new();
    let word = |reason: &str, until_ms| Override {
        scope: "node/n1".parse().unwrap(),
        word: Word::Drain,
        reason: reason.into(),
        by: "me".into(),
        since_ms: 0,
        until_ms,
    };
    let put = |word| done(desk.commands.put_override(word));
    let said = put(word("disk", None)).unwrap();
    assert!(said.changed && said.value.since_ms > 0);
    let again = put(word("disk", None)).unwrap();
    assert!(!again.changed);
    assert_eq!(again.value.since_ms, said.value.since_ms);
    assert!(put(word("new disk", None)).unwrap().changed);
    for wrong in [word(" ", None), word("disk", Some(1)), word(&"x".repeat(2000), None)] {
        assert_eq!(put(wrong).unwrap_err().code(), "invalid");
    }
    let scope: Scope = "node/n1".parse().unwrap();
    done(desk.commands.delete_override(&scope)).unwrap();
    let error = done(desk.commands.delete_override(&scope)).unwrap_err();
    assert_eq!(error.to_string(), "there is no override \"node/n1\"");
}

#[test]
fn a_port_has_one_route_and_one_that_is_free_is_given() {
    let desk = Desk::new();
    let ports: Vec<ListenerName> =
        [1, 2].map(|port| format!("port-{port}").parse().unwrap()).into();
    let tcp = |name: &str, listener: Option<&str>| Route {
        rule: Rule::Tcp,
        listener: listener.map(|name| name.parse().unwrap()),
        ..route(name)
    };
    let put = |route| done(desk.commands.put_route_on_port(route, &ports));
    let given = |route| put(route).unwrap().value.listener.unwrap().to_string();
    assert_eq!(given(tcp("a", None)), "port-1");
    assert_eq!(given(tcp("b", None)), "port-2");
    assert_eq!(given(tcp("a", None)), "port-1", "it keeps its own");
    let error = put(tcp("c", None)).unwrap_err();
    assert_eq!((error.code(), error.to_string()), ("invalid", "port: none is free".to_owned()));
    let error = put(tcp("c", Some("port-2"))).unwrap_err();
    assert_eq!(error.code(), "conflict");
    assert_eq!(error.to_string(), "port-2 has the route \"b\"");
    assert!(put(tcp("b", Some("port-2"))).is_ok(), "it is its own");
    done(desk.commands.delete_route(&"a".parse().unwrap())).unwrap();
    assert_eq!(given(tcp("c", None)), "port-1");
    // Two at once are given two.
    done(desk.commands.delete_route(&"b".parse().unwrap())).unwrap();
    done(desk.commands.delete_route(&"c".parse().unwrap())).unwrap();
    let both = async {
        let (d, e) = (tcp("d", None), tcp("e", None));
        tokio::join!(
            desk.commands.put_route_on_port(d, &ports),
            desk.commands.put_route_on_port(e, &ports)
        )
    };
    desk.store.hesitate();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let (d, e) = runtime.block_on(both);
    assert_ne!(d.unwrap().value.listener, e.unwrap().value.listener);
}

#[test]
fn a_certificate_is_written_once_and_removed_whatever_stands_there() {
    let desk = Desk::new();
    let put = |pair: &CertificatePair| done(desk.commands.put_certificate(pair.clone()));
    let name: CertificateName = "web".parse().unwrap();
    let first = pair("web", pem(&["a.test"], 2999));
    let (committed, certificate) = put(&first).unwrap();
    assert!(committed.changed);
    assert_eq!(certificate.names().collect::<Vec<_>>(), ["a.test"]);
    let (again, _) = put(&first.clone().since(7)).unwrap();
    assert_eq!((again.changed, again.revision), (false, committed.revision));
    let stored = || {
        let (kvs, _) = desk.store.all("");
        decode::<CertificatePair>(&kvs[0].value)
    };
    assert_eq!(stored().unwrap(), first, "it is as old as it was");
    let second = pair("web", pem(&["b.test"], 2999)).since(7);
    assert!(put(&second).unwrap().0.changed);
    assert_eq!(stored().unwrap(), second);

    let other = pem(&["b.test"], 2999).1;
    for (bad, field) in [
        (pair("web", (second.chain_pem().to_owned(), other)), "key: "),
        (pair("web", pem(&["a.test"], 2000)), "chain: "),
        (pair("web", pem(&[], 2999)), "chain: "),
    ] {
        let error = put(&bad).unwrap_err();
        assert_eq!(error.code(), "invalid");
        assert!(error.to_string().starts_with(field) && !error.hint().is_empty(), "{error}");
    }
    assert_eq!(stored().unwrap(), second);

    let key = Key::Certificate(name.clone()).to_string();
    desk.store.commit(&Txn::default().put(key, encode(&"SECRET")));
    let error = put(&second).unwrap_err();
    assert!(matches!(error, CommandError::Unreadable { .. }), "{error}");
    assert!(!format!("{error:?} {error}").contains("SECRET"), "{error}");
    let delete = || done(desk.commands.delete_certificate(&name));
    assert!(delete().unwrap().changed);
    assert_eq!(desk.store.all("").0, []);
    let error = delete().unwrap_err();
    assert_eq!(error.to_string(), "there is no certificate \"web\"");
    assert!(error.hint().contains("portolan certs"), "{}", error.hint());
}
