//! Metrics of what this node serves, made from the live state when they are asked for.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use portolan_discovery::snapshot::State;
use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{IntGauge, IntGaugeVec, Opts, Registry};

use crate::live::Live;

/// Instances by service and state.
pub const INSTANCES: &str = "portolan_instances";
/// Whether the store answers: 0 or 1.
pub const STORE_CONNECTED: &str = "portolan_store_connected";
/// The revision up to which everything of the store is served.
pub const REVISION: &str = "portolan_revision";

struct LiveCollector {
    live: Weak<Live>,
    descs: Vec<Desc>,
}

/// Registers the metrics of `live`.
pub(super) fn register(registry: &Registry, live: &Arc<Live>) {
    let opts = || {
        [
            Opts::new(STORE_CONNECTED, "whether the store answers"),
            Opts::new(REVISION, "the revision up to which everything of the store is served"),
        ]
    };
    let desc = |opts: &Opts, labels: Vec<String>| {
        Desc::new(opts.fq_name(), opts.help.clone(), labels, HashMap::new())
            .expect("constant names that Prometheus accepts")
    };
    let mut descs: Vec<Desc> = opts().iter().map(|opts| desc(opts, Vec::new())).collect();
    descs.push(desc(&instances_opts(), vec!["service".to_owned(), "state".to_owned()]));
    let collector = LiveCollector { live: Arc::downgrade(live), descs };
    registry.register(Box::new(collector)).expect("names that nobody else registers");
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
        families
    }
}
