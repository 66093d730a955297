//! Builds a View from a snapshot: the one writer of a cluster.
//!
//! An instance with the same identity, address and registration keeps its endpoint, with its load and its
//! connections; a new one gets a new endpoint; the endpoint of one that left is retired. This runs on the
//! control thread, so that no request builds a View or drops an old one.

use std::{cmp::Ordering, iter::Peekable, sync::Arc, vec};

use outrigger_config as config;
use outrigger_discovery::{Follower, Snapshot};
use outrigger_policy::LoadBalancer;
use outrigger_registry::InstanceId;
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::{Instant, sleep_until},
};
use tracing::{info, warn};

use crate::{
    listener::own::OwnListeners,
    metrics::Metrics,
    upstream::{
        cluster::{Cluster, ClusterSettings, View, watch_reason},
        endpoint::Endpoint,
        retired_views::RetiredViews,
    },
};

/// New settings for a cluster.
#[derive(Debug)]
pub(crate) struct SettingsUpdate {
    pub(crate) policy: config::Policy,
    /// Completed when the next pick reads the settings. Dropped: the cluster is gone.
    pub(crate) applied: oneshot::Sender<()>,
}

/// The cluster's only writer.
#[derive(Debug)]
pub(crate) struct Reconciler {
    cluster: Arc<Cluster>,
    metrics: Arc<Metrics>,
    workers: usize,
    /// Where this sidecar listens.
    own_listeners: watch::Receiver<OwnListeners>,
    /// The endpoints of the current View, sorted by identity as the instances of a snapshot are.
    known: Vec<Arc<Endpoint>>,
    retired_views: RetiredViews<View>,
}

impl Reconciler {
    pub(crate) fn new(
        cluster: Arc<Cluster>,
        metrics: Arc<Metrics>,
        workers: usize,
        own_listeners: watch::Receiver<OwnListeners>,
    ) -> Self {
        let (known, retired_views) = (Vec::new(), RetiredViews::default());
        Self { cluster, metrics, workers, own_listeners, known, retired_views }
    }

    /// Follows the service until the cluster manager aborts the task.
    pub(crate) async fn run(
        mut self,
        mut follower: Follower,
        mut updates: mpsc::UnboundedReceiver<SettingsUpdate>,
    ) {
        loop {
            // A fixed time, and not a sleep that each change would begin anew.
            let due = self.retired_views.next_check();
            tokio::select! {
                snapshot = follower.changed() => self.apply_snapshot(snapshot),
                Some(SettingsUpdate { policy, applied }) = updates.recv() => {
                    follower.set_reason(watch_reason(self.cluster.is_declared()));
                    self.apply_settings(policy);
                    // The receiver may have been dropped.
                    let _ = applied.send(());
                }
                Ok(()) = self.own_listeners.changed() => {
                    let view = self.cluster.view.load_full();
                    self.rebuild_view(view.snapshot.clone(), view.settings.clone());
                }
                () = async { sleep_until(due.unwrap_or_else(Instant::now)).await }, if due.is_some() => {
                    self.retired_views.drop_unused(Instant::now());
                }
            }
        }
    }

    /// Publishes a View with `policy`: same endpoints, same connections, same states.
    fn apply_settings(&mut self, policy: config::Policy) {
        let before = self.cluster.view.load_full();
        for endpoint in &self.known {
            endpoint.set_max_permits(&policy);
        }
        let series = if self.cluster.is_declared() || self.cluster.ever_had_instances() {
            self.metrics.service_series(Some(&self.cluster.label))
        } else {
            before.settings.series.clone()
        };
        let has_breaker = policy.circuit_breaker.is_some();
        self.rebuild_view(before.snapshot.clone(), Arc::new(before.settings.with_policy(policy, series)));
        if !has_breaker {
            self.cluster.breaker.turn_off();
        }
        info!(service = %self.cluster.label, "settings changed");
    }

    /// Publishes a View of `snapshot`.
    pub(crate) fn apply_snapshot(&mut self, snapshot: Arc<Snapshot>) {
        let settings = self.settings_for(&self.cluster.view.load_full(), &snapshot);
        let known = snapshot.instances.len();
        let (usable, left) = self.rebuild_view(snapshot, settings);
        info!(service = %self.cluster.label, usable, known, left, "instances changed");
    }

    /// Publishes a View; returns the number of usable instances, and of instances that left.
    fn rebuild_view(&mut self, snapshot: Arc<Snapshot>, settings: Arc<ClusterSettings>) -> (usize, usize) {
        let mut before = std::mem::take(&mut self.known).into_iter().peekable();
        let now = Instant::now().into_std();
        let (mut left, mut replaced) = (Vec::new(), Vec::new());
        let mut endpoints = Vec::new();
        let mut not_serving = Vec::new();
        let mut weights = Vec::new();
        let mut own = Vec::new();
        let own_listeners = self.own_listeners.borrow_and_update().clone();
        let (mut draining, mut draining_weights) = (Vec::new(), Vec::new());
        for instance in snapshot.instances.iter().filter(|one| self.cluster.matches(one)) {
            let Ok(addr) = instance.addr else { continue };
            if own_listeners.are_reached_at(addr) {
                own.push(instance.id.clone());
                continue;
            }
            let endpoint = match take_known(&mut before, &instance.id, &mut left) {
                Some(old) if old.addr == addr && old.create_index == instance.create_index => old,
                other => {
                    replaced.extend(other);
                    Arc::new(Endpoint::new(
                        instance.id.clone(),
                        addr,
                        instance.create_index,
                        self.workers,
                        &settings.policy,
                        now,
                    ))
                }
            };
            self.known.push(endpoint.clone());
            endpoint.set_draining(instance.draining);
            if instance.last_resort_weight() > 0 {
                draining.push(endpoint.clone());
                draining_weights.push(instance.last_resort_weight());
            }
            if instance.weight() > 0 {
                endpoints.push(endpoint);
                weights.push(instance.weight());
            } else {
                not_serving.push(endpoint);
            }
        }
        left.extend(before);
        let eligible = endpoints.iter().map(|one| (one.clone(), true));
        let members = eligible.chain(not_serving.iter().map(|one| (one.clone(), false))).collect();
        // Before the swap, so that the detector knows every endpoint that a pick may take.
        self.cluster.ejector.set_members(settings.policy.outlier.as_ref(), members);
        let usable = endpoints.len();
        if !own.is_empty() && own != self.cluster.view.load().own {
            let (service, instances) =
                (&self.cluster.label, own.iter().map(|id| &*id.id).collect::<Vec<_>>());
            warn!(%service, ?instances, "the registry lists addresses that this sidecar listens on: they are not called");
        }
        let view = View {
            balancer: LoadBalancer::new(settings.policy.balance, &weights),
            endpoints: endpoints.into(),
            not_serving: not_serving.into(),
            own,
            draining_balancer: LoadBalancer::new(settings.policy.balance, &draining_weights),
            draining: draining.into(),
            settings,
            snapshot,
        };
        self.retired_views.push(self.cluster.swap_view(view), Instant::now());
        self.cluster.ejector.wakeup.notify_one();
        // After the swap, so that a pick in between finds an endpoint.
        for endpoint in left.iter().chain(&replaced) {
            endpoint.retire();
        }
        (usable, left.len())
    }

    /// The settings of the next View. A name gets its own series when its first instance is listed.
    fn settings_for(&self, before: &View, snapshot: &Snapshot) -> Arc<ClusterSettings> {
        let is_first = !self.cluster.ever_had_instances()
            && snapshot.instances.iter().any(|one| self.cluster.matches(one));
        if is_first {
            self.cluster.set_had_instances();
        }
        if !is_first || self.cluster.is_declared() {
            return before.settings.clone();
        }
        Arc::new(before.settings.with_series(self.metrics.service_series(Some(&self.cluster.label))))
    }
}

/// Takes the endpoint with `id` from the `known` ones, which are sorted, and moves those that precede it to `left`.
fn take_known(
    known: &mut Peekable<vec::IntoIter<Arc<Endpoint>>>,
    id: &InstanceId,
    left: &mut Vec<Arc<Endpoint>>,
) -> Option<Arc<Endpoint>> {
    loop {
        match known.peek()?.id.cmp(id) {
            Ordering::Less => left.extend(known.next()),
            Ordering::Equal => return known.next(),
            Ordering::Greater => return None,
        }
    }
}

#[cfg(test)]
mod tests;
