//! Turns a snapshot into a View: the one writer of a cluster.
//!
//! The same identity at the same address in the same life keeps its endpoint, with its load and its
//! connections; a new one joins; one that left is retired. It runs on the control plane, so that
//! neither building a View nor dropping an old one is a request's work.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use outrigger_config as config;
use outrigger_discovery::{Follower, Snapshot};
use outrigger_policy::LoadBalancer;
use outrigger_registry::InstanceId;
use tokio::sync::{mpsc, oneshot};
use tracing::info;

use crate::{
    metrics::Metrics,
    upstream::{
        cluster::{Cluster, Terms, View, kind},
        endpoint::Endpoint,
    },
};

/// Old Views wait this long before they are dropped: no pick holds one longer.
const GRAVE: Duration = Duration::from_secs(1);

/// Other settings for a cluster.
#[derive(Debug)]
pub(crate) struct Order {
    pub(crate) policy: config::Policy,
    /// Told when the next pick reads them. Dropped: there is no such cluster any more.
    pub(crate) done: oneshot::Sender<()>,
}

/// The cluster's only writer.
#[derive(Debug)]
pub(crate) struct Reconciler {
    cluster: Arc<Cluster>,
    metrics: Arc<Metrics>,
    workers: usize,
    known: HashMap<InstanceId, Arc<Endpoint>>,
    graves: VecDeque<Arc<View>>,
}

impl Reconciler {
    pub(crate) fn new(cluster: Arc<Cluster>, metrics: Arc<Metrics>, workers: usize) -> Self {
        Self { cluster, metrics, workers, known: HashMap::new(), graves: VecDeque::new() }
    }

    /// Follows the service until the task is aborted by the directory, which owns it.
    pub(crate) async fn run(mut self, mut follower: Follower, mut orders: mpsc::UnboundedReceiver<Order>) {
        loop {
            tokio::select! {
                snapshot = follower.changed() => self.apply(snapshot),
                Some(Order { policy, done }) = orders.recv() => {
                    follower.set_reason(kind(self.cluster.is_declared()));
                    self.adopt(policy);
                    // Whoever waited may have given up.
                    let _ = done.send(());
                }
                () = tokio::time::sleep(GRAVE), if !self.graves.is_empty() => {
                    self.graves.retain(|view| Arc::strong_count(view) > 1);
                }
            }
        }
    }

    /// Makes `policy` what the next request goes by: same endpoints, same connections, same trust.
    fn adopt(&mut self, policy: config::Policy) {
        let before = self.cluster.view.load_full();
        self.cluster.adopt(&policy, &before);
        let series = if self.cluster.is_declared() || self.cluster.ever_had_instances() {
            self.metrics.service(Some(&self.cluster.label))
        } else {
            before.terms.series.clone()
        };
        self.rebuild(before.snapshot.clone(), Arc::new(before.terms.replaced_by(policy, series)));
        info!(service = %self.cluster.label, "settings changed");
    }

    /// Makes `snapshot` what the next pick reads.
    pub(crate) fn apply(&mut self, snapshot: Arc<Snapshot>) {
        let terms = self.terms(&self.cluster.view.load_full(), &snapshot);
        let known = snapshot.instances.len();
        let (usable, left) = self.rebuild(snapshot, terms);
        info!(service = %self.cluster.label, usable, known, left, "instances changed");
    }

    /// Swaps in a View of `snapshot` by these terms: how many are usable, and how many have left.
    fn rebuild(&mut self, snapshot: Arc<Snapshot>, terms: Arc<Terms>) -> (usize, usize) {
        let mut left = std::mem::take(&mut self.known);
        let mut replaced = Vec::new();
        let mut endpoints = Vec::new();
        let mut resting = Vec::new();
        let mut weights = Vec::new();
        for instance in snapshot.instances.iter().filter(|one| self.cluster.takes(one)) {
            let Ok(addr) = instance.addr else { continue };
            let endpoint = match left.remove(&instance.id) {
                Some(old) if old.addr == addr && old.create_index == instance.create_index => old,
                other => {
                    replaced.extend(other);
                    Arc::new(Endpoint::new(
                        instance.id.clone(),
                        addr,
                        instance.create_index,
                        self.workers,
                        &terms.policy,
                    ))
                }
            };
            self.known.insert(instance.id.clone(), endpoint.clone());
            if instance.weight() > 0 {
                endpoints.push(endpoint);
                weights.push(instance.weight());
            } else {
                resting.push(endpoint);
            }
        }
        let listed = endpoints.iter().map(|one| (one.record.clone(), true));
        let members = listed.chain(resting.iter().map(|one| (one.record.clone(), false))).collect();
        // Before the swap, so that no pick meets an endpoint that nobody judges.
        self.cluster.trust.follow(&self.cluster, members);
        let usable = endpoints.len();
        let view = View {
            balancer: LoadBalancer::new(terms.policy.balance, &weights),
            endpoints: endpoints.into(),
            resting: resting.into(),
            terms,
            snapshot,
        };
        self.graves.push_back(self.cluster.swap(view));
        self.cluster.trust.ring();
        // Not before the swap: a pick in between would find nobody.
        for gone in left.values().chain(&replaced) {
            gone.retire();
        }
        (usable, left.len())
    }

    /// The terms go on, but for a name that turns out to be a service: it gets series of its own.
    fn terms(&self, before: &View, snapshot: &Snapshot) -> Arc<Terms> {
        let seen = self.cluster.ever_had_instances();
        if seen || !snapshot.instances.iter().any(|one| self.cluster.takes(one)) {
            return before.terms.clone();
        }
        self.cluster.saw_instances();
        if self.cluster.is_declared() {
            return before.terms.clone();
        }
        Arc::new(before.terms.counted_by(self.metrics.service(Some(&self.cluster.label))))
    }
}
