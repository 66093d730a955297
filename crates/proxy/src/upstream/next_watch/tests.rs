use std::{net::SocketAddr, time::Duration};

use outrigger_config as config;
use outrigger_registry::{
    Cursor, HealthStatus, Instance,
    testing::{PendingQuery, ScriptedRegistry, instance, list},
};
use parking_lot::Mutex;
use tokio::{runtime::Handle, time::sleep};

use super::*;
use crate::{
    host::ServiceName,
    metrics::Metrics,
    upstream::{cluster::Cluster, manager::ClusterManager},
};

/// A registry that answers for the usual addresses at once, and for others when the test says.
struct AddressRig {
    manager: Arc<ClusterManager>,
    discovery: Arc<Discovery>,
    /// The question for other addresses that waits for its answer.
    asked: Arc<Mutex<Option<PendingQuery>>>,
}

fn listed_at(port: u16) -> Vec<Instance> {
    vec![Instance {
        addr: Ok(([127, 0, 0, 1], port).into()),
        ..instance("n", "orders", HealthStatus::Passing)
    }]
}

fn settings(text: &str) -> config::Config {
    let (environment, flags) = (config::Environment::default(), config::Overrides::default());
    config::load(Some(("test.yaml", text)), &environment, &flags).unwrap().config
}

impl AddressRig {
    fn new(text: &str) -> Self {
        let (registry, mut questions) = ScriptedRegistry::new();
        let asked = Arc::new(Mutex::new(None));
        let other = asked.clone();
        tokio::spawn(async move {
            let mut waiting = Vec::new();
            while let Some(question) = questions.recv().await {
                if question.query.address != config::AddressKind::Auto {
                    *other.lock() = Some(question);
                } else if question.cursor == Cursor::START {
                    question.answer(list(1, listed_at(1)));
                } else {
                    waiting.push(question);
                }
            }
        });
        let config = settings(text);
        let registered = prometheus::Registry::new();
        let discovery = Discovery::new(registry, config.discovery, Handle::current(), &registered).unwrap();
        let metrics = Metrics::new(1).unwrap();
        let manager = ClusterManager::new(&config, discovery.clone(), metrics, Handle::current(), 1);
        Self { manager, discovery, asked }
    }

    async fn cluster(&self) -> Arc<Cluster> {
        self.manager.find_or_open(&ServiceName::plain("orders")).await.unwrap()
    }

    /// Where a request would go.
    async fn picked(&self) -> SocketAddr {
        self.cluster().await.pick(None, &[], &[], true).unwrap().addr
    }

    async fn apply(&self, text: &str) {
        self.manager.apply_settings(&settings(text)).await;
        sleep(Duration::from_secs(2)).await;
    }

    /// Answers for other addresses.
    async fn answer(&self, index: u64, instances: Vec<Instance>) {
        let question = self.asked.lock().take().expect("it was asked");
        question.answer(list(index, instances));
        sleep(Duration::from_secs(2)).await;
    }

    fn watched(&self) -> Vec<String> {
        let services = self.discovery.services();
        services.iter().map(|one| format!("{} {}", one.query, one.reason.label())).collect()
    }
}

fn port(port: u16) -> SocketAddr {
    ([127, 0, 0, 1], port).into()
}

#[tokio::test(start_paused = true)]
async fn a_cluster_changes_over_with_the_first_answer_that_lists_instances() {
    let (auto, wan) = ("upstreams: [{service: orders}]", "upstreams: [{service: orders, address: wan}]");
    let rig = AddressRig::new(auto);
    assert_eq!(rig.picked().await, port(1));
    rig.apply(wan).await;
    sleep(Duration::from_secs(3600)).await;
    assert_eq!(rig.picked().await, port(1), "while the registry is away");
    assert_eq!(rig.watched(), ["orders declared", "orders (wan) declared"]);
    rig.answer(1, Vec::new()).await;
    assert_eq!(rig.picked().await, port(1), "an empty list contradicts the one that is in use");
    rig.answer(2, listed_at(2)).await;
    assert_eq!(rig.picked().await, port(2));
    assert_eq!(rig.watched(), ["orders (wan) declared"]);
    assert_eq!(rig.cluster().await.query().to_string(), "orders (wan)");
    rig.answer(3, listed_at(3)).await;
    assert_eq!(rig.picked().await, port(3), "later answers count");
    rig.apply(auto).await;
    assert_eq!((rig.picked().await, rig.watched()), (port(1), vec!["orders declared".to_owned()]));
}

#[tokio::test(start_paused = true)]
async fn a_change_that_is_taken_back_before_an_answer_ends_its_watch() {
    let (auto, wan) = ("upstreams: [{service: orders}]", "upstreams: [{service: orders, address: wan}]");
    let rig = AddressRig::new(auto);
    rig.apply(wan).await;
    assert_eq!(rig.watched().len(), 2);
    rig.apply(auto).await;
    assert_eq!((rig.picked().await, rig.watched()), (port(1), vec!["orders declared".to_owned()]));
}

#[tokio::test(start_paused = true)]
async fn a_service_on_demand_keeps_its_place_in_the_quotas() {
    let rig = AddressRig::new("discovery: {max_services: 1, max_unknown: 1}");
    assert_eq!(rig.picked().await, port(1));
    rig.apply("discovery: {max_services: 1, max_unknown: 1}\ndefaults: {address: wan}").await;
    assert_eq!(rig.watched(), ["orders on_demand", "orders (wan) lookup"]);
    rig.answer(1, listed_at(2)).await;
    assert_eq!(rig.picked().await, port(2));
    assert_eq!(rig.watched(), ["orders (wan) on_demand"]);
    // The next service takes its place, and ends the watch that the cluster has now.
    let other = ServiceName::plain("other");
    let _late = tokio::time::timeout(Duration::from_secs(10), rig.manager.find_or_open(&other)).await;
    assert_eq!(rig.watched(), ["other (wan) on_demand"]);
}
