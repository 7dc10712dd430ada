//! Metrics of what this node serves, made from the live state when they are asked for.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use portolan_discovery::snapshot::State;
use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{IntCounter, IntGauge, IntGaugeVec, Opts, Registry};

use crate::live::{Live, Predecessors};

/// Instances by service and state.
pub const INSTANCES: &str = "portolan_instances";
/// Whether the store answers: 0 or 1.
pub const STORE_CONNECTED: &str = "portolan_store_connected";
/// The revision up to which everything of the store is served.
pub const REVISION: &str = "portolan_revision";

/// Open connections of processes that this one has replaced.
pub const PREDECESSOR_CONNECTIONS: &str = "portolan_predecessor_connections";
/// Upgrades that did not go through since the start.
pub const UPGRADE_FAILURES: &str = "portolan_upgrade_failures_total";

struct LiveCollector {
    live: Weak<Live>,
    predecessors: Arc<Predecessors>,
    descs: Vec<Desc>,
}

/// Registers the metrics of `live` and of upgrades; returns the counter of those that failed.
pub(super) fn register(
    registry: &Registry,
    live: &Arc<Live>,
    predecessors: &Arc<Predecessors>,
) -> IntCounter {
    let opts = || {
        [
            Opts::new(STORE_CONNECTED, "whether the store answers"),
            Opts::new(REVISION, "the revision up to which everything of the store is served"),
            Opts::new(PREDECESSOR_CONNECTIONS, "open connections of processes that were replaced"),
        ]
    };
    let desc = |opts: &Opts, labels: Vec<String>| {
        Desc::new(opts.fq_name(), opts.help.clone(), labels, HashMap::new())
            .expect("constant names that Prometheus accepts")
    };
    let mut descs: Vec<Desc> = opts().iter().map(|opts| desc(opts, Vec::new())).collect();
    descs.push(desc(&instances_opts(), vec!["service".to_owned(), "state".to_owned()]));
    let (live, predecessors) = (Arc::downgrade(live), predecessors.clone());
    let collector = LiveCollector { live, predecessors, descs };
    registry.register(Box::new(collector)).expect("names that nobody else registers");
    let failures = IntCounter::new(UPGRADE_FAILURES, "upgrades that did not go through")
        .expect("a constant name");
    registry.register(Box::new(failures.clone())).expect("a name that nobody else registers");
    failures
}

fn instances_opts() -> Opts {
    Opts::new(INSTANCES, "instances by service and state")
}

impl Collector for LiveCollector {
    fn desc(&self) -> Vec<&Desc> {
        self.descs.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let Some(live) = self.live.upgrade() else { return Vec::new() };
        let gauge = |name: &str, help: &str, value: u64| {
            let gauge = IntGauge::new(name, help).expect("a constant name");
            gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
            gauge.collect()
        };
        let instances = IntGaugeVec::new(instances_opts(), &["service", "state"])
            .expect("constant names that Prometheus accepts");
        for (name, entry) in live.snapshot().services() {
            for state in State::ALL {
                let count = entry.in_state(state).count();
                instances
                    .with_label_values(&[name.as_str(), state.word()])
                    .set(i64::try_from(count).unwrap_or(i64::MAX));
            }
        }
        let mut families = instances.collect();
        let connected = u64::from(live.is_connected());
        families.extend(gauge(STORE_CONNECTED, "whether the store answers", connected));
        families.extend(gauge(
            REVISION,
            "the revision up to which everything of the store is served",
            live.revision().0,
        ));
        families.extend(gauge(
            PREDECESSOR_CONNECTIONS,
            "open connections of processes that were replaced",
            self.predecessors.connections(),
        ));
        families
    }
}
