//! The process is killed; jobs, table and names go on.

use std::fs;

use crate::quickstart::quickstart;
use crate::stage::Stage;

/// What the router serves, without what changes by itself.
fn table(stage: &Stage) -> Vec<(String, String, String)> {
    let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
    stage
        .json(&["instances"])
        .as_array()
        .unwrap()
        .iter()
        .map(|i| (text(&i["id"]), text(&i["addr"]), text(&i["state"])))
        .collect()
}

#[test]
fn a_killed_portolan_finds_its_jobs_and_its_table_again() {
    let mut stage = Stage::started(&quickstart());
    let before = stage.wait_running(6);
    stage.wait_200("shop.test", "/");
    let served = stage.wait("all are up", || {
        let served = table(&stage);
        (served.len() == 6 && served.iter().all(|(_, _, state)| state == "up")).then_some(served)
    });
    let restarts = |stage: &Stage| -> u64 {
        let jobs = stage.json(&["ps"]);
        jobs.as_array().unwrap().iter().map(|job| job["restarts"].as_u64().unwrap()).sum()
    };
    stage.kill();
    assert!(before.values().all(|pid| crate::stage::is_alive(*pid)), "jobs outlive the process");
    stage.up();
    // From the first moment on: the saved table needs nobody.
    assert_eq!(stage.curl("shop.test", "/", &[]).0, 200);
    assert_eq!(stage.wait_running(6), before, "the same jobs with the same pids");
    assert_eq!(restarts(&stage), 0);
    assert_eq!(table(&stage), served);
}

#[test]
fn with_the_store_gone_router_and_resolver_serve_the_saved_table_until_it_is_back() {
    let mut stage = Stage::started(&quickstart());
    let before = stage.wait_running(6);
    stage.wait_200("shop.test", "/");
    let saved = stage.data().join("table.saved");
    stage.wait("the table with all instances is saved", || {
        let text = fs::read_to_string(&saved).unwrap_or_default();
        (text.matches("\"health\":\"up\"").count() == 6).then_some(())
    });
    stage.kill();
    let store = stage.data().join("store.redb");
    let away = stage.dir.path().join("store.away");
    fs::rename(&store, &away).unwrap();
    stage.up();
    assert_eq!(stage.curl("shop.test", "/", &[]).0, 200);
    assert_eq!(stage.dig(&["+short", "web.cluster.internal"]).trim(), "127.0.0.1");
    let srv = stage.dig(&["+short", "_web._tcp.cluster.internal", "SRV"]);
    assert_eq!(srv.lines().count(), 3, "{srv}");
    let status = stage.json(&["status"]);
    assert_eq!(status["store"]["connected"], false, "{status}");
    assert!(!store.exists(), "no empty store takes the place of the lost one");
    let ready = stage.ok(&["status"]);
    assert!(ready.contains("waiting for") && ready.contains("store"), "{ready}");
    let refused = stage.portolan(&["scale", "shop", "web=4"]);
    assert_eq!(refused.status.code(), Some(1));
    fs::rename(&away, &store).unwrap();
    stage.wait("the store is open again", || {
        (stage.json(&["status"])["store"]["connected"] == true).then_some(())
    });
    assert_eq!(stage.wait_running(6), before, "no job was touched meanwhile");
    stage.ok(&["scale", "shop", "web=4"]);
}

#[test]
fn an_instance_that_died_while_nobody_watched_is_reported_and_started_again() {
    let mut stage = Stage::started(&quickstart());
    let before = stage.wait_running(6);
    stage.kill();
    let (job, pid) = before.iter().next().unwrap();
    crate::stage::signal(u32::try_from(*pid).unwrap(), "KILL");
    stage.wait("it is dead", || (!crate::stage::is_alive(*pid)).then_some(()));
    stage.up();
    stage.wait("it runs again", || {
        let running = stage.running();
        (running.len() == 6 && running.get(job).is_some_and(|now| now != pid)).then_some(())
    });
    let jobs = stage.json(&["ps"]);
    let view = jobs.as_array().unwrap().iter().find(|view| view["id"] == job.as_str()).unwrap();
    assert!(view["last_exit"].as_str().unwrap().contains('9'), "{view}");
}
