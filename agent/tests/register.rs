//! Records of instances in the store: by the registrar alone, and by a whole agent.

#![allow(clippy::unwrap_used, reason = "a test that panics fails")]

#[path = "register/agent.rs"]
mod agent;
#[path = "register/registrar.rs"]
mod registrar;
#[path = "register/shaky.rs"]
mod shaky;

use std::future::Future;
use std::time::Duration;

use portolan_discovery::model::record::{decode, encode};
use portolan_discovery::model::{
    Health, Instance, InstanceId, Key, NodeName, Origin, Phase, ServiceName, Weight,
};
use portolan_discovery::store::{Store, Txn};

/// Far longer than anything here takes when it works.
const LONG: Duration = Duration::from_secs(20);

fn node(name: &str) -> NodeName {
    NodeName::parse(name).unwrap()
}

fn service() -> ServiceName {
    ServiceName::parse("web").unwrap()
}

fn id(id: &str) -> InstanceId {
    InstanceId::parse(id).unwrap()
}

fn key(of: &str) -> String {
    Key::Instance(service(), id(of)).to_string()
}

fn config() -> Origin {
    Origin::Config(node("n1"))
}

fn instance(of: &str, health: Health) -> Instance {
    Instance {
        service: service(),
        id: id(of),
        node: node("n1"),
        addr: "127.0.0.1:8080".parse().unwrap(),
        weight: Weight::DEFAULT,
        health,
        cause: None,
        phase: Phase::Active,
        origin: config(),
        since_ms: 1,
        labels: Default::default(),
    }
}

async fn stored(store: &dyn Store, of: &str) -> Option<Instance> {
    store.get(&key(of)).await.unwrap().map(|kv| decode(&kv.value).unwrap())
}

async fn write(store: &dyn Store, instance: &Instance) {
    let key = Key::Instance(instance.service.clone(), instance.id.clone()).to_string();
    assert!(store.txn(Txn::default().put(key, encode(instance))).await.unwrap().done);
}

/// Asks until the answer is yes.
async fn eventually<F, T>(what: &str, mut ask: F)
where
    F: FnMut() -> T,
    T: Future<Output = bool>,
{
    let wait = async {
        while !ask().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(LONG, wait).await.unwrap_or_else(|_| panic!("never: {what}"));
}
