//! Builds a View from a snapshot: the one writer of a cluster.
//!
//! An instance with the same identity, address and registration keeps its endpoint, with its load and its
//! connections; a new one gets a new endpoint; the endpoint of one that left is retired. Instances at one address are one
//! endpoint. This runs on the control thread, so that no request builds a View or drops an old one.

use std::{
    cmp::Ordering, collections::HashMap, iter::Peekable, net::SocketAddr, sync::Arc, time::Duration, vec,
};

use outrigger_config as config;
use outrigger_discovery::{Discovery, Follower, Snapshot};
use outrigger_net::tls::ClientTls;
use outrigger_policy::outlier_detection::Eligibility;
use outrigger_registry::{Instance, InstanceId, LastResort};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::{Instant, sleep_until, timeout_at},
};
use tracing::{info, warn};

use crate::{
    listener::own::OwnListeners,
    metrics::Metrics,
    upstream::{
        asked_subsets::AskedSubsets,
        cluster::{Cluster, ClusterSettings, View, watch_reason},
        endpoint::Endpoint,
        next_watch::NextWatch,
        pick_set::{PickSet, PickSetBuilder},
        retired_views::RetiredViews,
        subset::Subset,
        zones::zone_of,
    },
};

/// New settings for a cluster.
#[derive(Debug)]
pub(crate) struct SettingsUpdate {
    /// `None`: the same as before; each subset gets its endpoints.
    pub(crate) change: Option<(config::Policy, config::TrafficRules, Option<Arc<ClientTls>>)>,
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
    discovery: Arc<Discovery>,
    asked: AskedSubsets,
    /// The settings ask for other addresses.
    next: Option<NextWatch>,
    /// How long the registry's answer for new subsets is waited for, before requests go by rules that have them.
    first_answer: Duration,
    retired_views: RetiredViews<View>,
    retired_sets: RetiredViews<PickSet>,
}

impl Reconciler {
    pub(crate) fn new(
        cluster: Arc<Cluster>,
        metrics: Arc<Metrics>,
        workers: usize,
        own_listeners: watch::Receiver<OwnListeners>,
        discovery: Arc<Discovery>,
    ) -> Self {
        Self {
            cluster,
            metrics,
            workers,
            own_listeners,
            known: Vec::new(),
            discovery,
            asked: AskedSubsets::default(),
            next: None,
            first_answer: Duration::ZERO,
            retired_views: RetiredViews::default(),
            retired_sets: RetiredViews::default(),
        }
    }

    /// Follows the service until the cluster manager aborts the task.
    pub(crate) async fn run(
        mut self,
        mut follower: Follower,
        mut updates: mpsc::UnboundedReceiver<SettingsUpdate>,
        first_answer: Duration,
    ) {
        let cluster = self.cluster.clone();
        self.first_answer = first_answer;
        self.wait_for_chain(&mut follower, &mut updates).await;
        loop {
            // A fixed time, and not a sleep that each change would begin anew.
            let due = self.retired_views.next_check().into_iter().chain(self.retired_sets.next_check()).min();
            tokio::select! {
                snapshot = follower.changed() => self.apply_snapshot(snapshot),
                Some(update) = updates.recv() => self.apply_update(&mut follower, update).await,
                Ok(()) = self.own_listeners.changed() => self.rebuild_same(),
                () = cluster.live_subsets.added.notified() => self.rebuild_same(),
                () = async { sleep_until(due.unwrap_or_else(Instant::now)).await }, if due.is_some() => {
                    self.retired_views.drop_unused(Instant::now());
                    self.retired_sets.drop_unused(Instant::now());
                }
                () = NextWatch::changed(&mut self.next) => {}
            }
            if let Some(next) = self.next.take_if(|next| next.is_ready(&follower)) {
                follower = self.change_over(next);
            }
        }
    }

    /// Waits until the registry has said where the requests of the service go, and which instances are in the subsets of which it
    /// evaluates the filter, so that no request goes elsewhere before; at most `first_answer`. Without such questions it returns at once.
    async fn wait_for_chain(
        &mut self,
        follower: &mut Follower,
        updates: &mut mpsc::UnboundedReceiver<SettingsUpdate>,
    ) {
        let cluster = self.cluster.clone();
        let mut is_routed = cluster.is_routed.subscribe();
        let end = cluster.opened_at + self.first_answer;
        loop {
            let update = tokio::select! {
                _ = is_routed.wait_for(|is_routed| *is_routed) => None,
                () = sleep_until(end) => None,
                Some(update) = updates.recv() => Some(update),
            };
            let Some(update) = update else { break };
            self.apply_update(follower, update).await;
        }
        while let Ok(update) = updates.try_recv() {
            self.apply_update(follower, update).await;
        }
        self.wait_until_listed(&cluster.live_subsets.all(), end).await;
    }

    /// Waits until the registry has listed something for each of `subsets` of which it evaluates the filter. False: not in time.
    async fn wait_until_listed(&mut self, subsets: &[Arc<Subset>], end: Instant) -> bool {
        let live = &self.cluster.live_subsets;
        self.asked.follow(&self.discovery, &self.cluster.query(), live, &live.all());
        let listed = async {
            for subset in subsets {
                subset.wait_until_listed().await;
            }
        };
        timeout_at(end, listed).await.is_ok()
    }

    async fn apply_update(
        &mut self,
        follower: &mut Follower,
        SettingsUpdate { change, applied }: SettingsUpdate,
    ) {
        match change {
            Some((policy, rules, tls)) => {
                let is_declared = self.cluster.is_declared();
                follower.set_reason(watch_reason(is_declared));
                let query = self.cluster.key.query(policy.address);
                self.next = NextWatch::of(query, follower, self.next.take(), &self.discovery, is_declared);
                self.apply_settings(policy, &rules, tls).await;
            }
            None => self.rebuild_same(),
        }
        // The receiver may have been dropped.
        let _ = applied.send(());
    }

    /// Goes on with another watch, which has an answer.
    fn change_over(&mut self, next: NextWatch) -> Follower {
        let follower = next.take_over(&self.cluster);
        info!(watch = %follower.query(), "its instances are called at other addresses");
        self.apply_snapshot(follower.snapshot());
        follower
    }

    /// Publishes a View of the same snapshot and settings.
    fn rebuild_same(&mut self) {
        let view = self.cluster.view.load_full();
        self.rebuild_view(view.snapshot.clone(), view.settings.clone());
    }

    /// Publishes a View with `policy`: same endpoints, same connections, same states.
    /// Endpoints with other TLS settings are other ones.
    async fn apply_settings(
        &mut self,
        policy: config::Policy,
        rules: &config::TrafficRules,
        tls: Option<Arc<ClientTls>>,
    ) {
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
        let settings = Arc::new(before.settings.changed(policy, rules, series).with_tls(tls));
        self.wait_for_lists(&before, &settings).await;
        self.rebuild_view(before.snapshot.clone(), settings);
        if !has_breaker {
            self.cluster.turn_breakers_off();
        }
        info!(service = %self.cluster.label, "settings changed");
    }

    /// Waits until the registry has said which instances are in new subsets of which it evaluates the filter. When its answer is late, such
    /// a subset has what the subset of that name had before.
    async fn wait_for_lists(&mut self, before: &View, settings: &ClusterSettings) {
        let new: Vec<_> = settings.subsets().iter().filter(|subset| subset.awaits_list()).cloned().collect();
        if new.is_empty() {
            return;
        }
        if self.wait_until_listed(&new, Instant::now() + self.first_answer).await {
            return;
        }
        for subset in new {
            if let Some(old) = before.settings.subsets().iter().find(|old| old.name() == subset.name()) {
                subset.assume_same(old, &before.snapshot.instances);
            }
        }
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
        let mut set = PickSetBuilder::default();
        let subsets = self.cluster.live_subsets.all();
        self.asked.follow(&self.discovery, &self.cluster.query(), &self.cluster.live_subsets, &subsets);
        let mut subset_sets: Vec<_> = subsets.iter().map(|_| PickSetBuilder::default()).collect();
        let mut not_serving = Vec::new();
        let own_listeners = self.own_listeners.borrow_and_update().clone();
        let mut members = Vec::new();
        let (mut own, mut aliases) = (Vec::new(), Vec::new());
        let mut addresses = Addresses::default();
        for instance in snapshot.instances.iter().filter(|one| self.cluster.matches(one)) {
            let Ok(addr) = instance.addr else { continue };
            if own_listeners.are_reached_at(addr) {
                own.push(instance.id.clone());
            } else {
                addresses.add(addr, instance);
            }
        }
        for ListedAddress { addr, newest, others, weight, last_resort } in addresses.into_sorted() {
            let endpoint = match take_known(&mut before, &newest.id, &mut left) {
                Some(old)
                    if old.addr == addr
                        && old.create_index == newest.create_index
                        && old.named == newest.named
                        && old.has_tls(settings.tls.as_ref())
                        && old.says_http2() == says_http2(newest) =>
                {
                    old
                }
                other => {
                    replaced.extend(other);
                    let endpoint = Endpoint::new(
                        newest.id.clone(),
                        addr,
                        newest.create_index,
                        self.workers,
                        &settings.policy,
                        now,
                    );
                    let endpoint = endpoint.speaking_http2(says_http2(newest));
                    let endpoint = endpoint.of_service(&self.cluster.label).with_name(newest.named.clone());
                    Arc::new(endpoint.with_tls(settings.tls.as_ref()))
                }
            };
            self.known.push(endpoint.clone());
            aliases.extend(others.into_iter().map(|id| (id.clone(), endpoint.clone())));
            let last_resort = last_resort.filter(|_| weight == 0);
            let kind = last_resort.map(|(kind, _)| kind);
            endpoint.set_draining(kind == Some(LastResort::Draining));
            let eligibility = match kind {
                _ if weight > 0 => Eligibility::InService,
                Some(LastResort::NodeLost) => Eligibility::LastResort,
                // One that drains is left at its first refused connection, for good.
                Some(LastResort::Draining) | None => Eligibility::OutOfService,
            };
            members.push((endpoint.clone(), eligibility));
            let zone = settings.zone().map(|rule| zone_of(newest, &rule.from));
            let add = |set: &mut PickSetBuilder| match &zone {
                Some(zone) => set.add_in(zone.clone(), &endpoint, weight, last_resort),
                None => set.add(&endpoint, weight, last_resort),
            };
            add(&mut set);
            for (subset, subset_set) in subsets.iter().zip(&mut subset_sets) {
                if subset.matches(newest) {
                    add(subset_set);
                }
            }
            if weight == 0 {
                not_serving.push(endpoint);
            }
        }
        aliases.sort_by(|(one, _), (other, _)| one.cmp(other));
        left.extend(before);
        // Before the swap, so that the detector knows every endpoint that a pick may take.
        self.cluster.ejector.set_members(settings.policy.outlier.as_ref(), members);
        if !own.is_empty() && own != self.cluster.view.load().own {
            let (service, instances) =
                (&self.cluster.label, own.iter().map(ToString::to_string).collect::<Vec<_>>());
            warn!(%service, ?instances, "the registry lists addresses that this sidecar listens on: they are not called");
        }
        let build = |set: PickSetBuilder| set.build_with_zones(settings.policy.balance, settings.zone());
        let set = build(set);
        let usable = set.endpoints.len();
        for (subset, set) in subsets.iter().zip(subset_sets) {
            let before = subset.replace_set(build(set));
            self.cluster.admit_to_joined(Some(subset), &subset.set(), &before);
            self.retired_sets.push(before, Instant::now());
        }
        let view =
            View { set, not_serving: not_serving.into(), aliases: aliases.into(), own, settings, snapshot };
        self.retired_views.push(self.cluster.swap_view(view), Instant::now());
        self.cluster.update_zones();
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

/// The addresses that a snapshot lists, in the order of their first instances.
#[derive(Default)]
struct Addresses<'a> {
    listed: Vec<ListedAddress<'a>>,
    /// Where each address is in `listed`.
    places: HashMap<SocketAddr, usize>,
}

/// One address. Several instances may be listed there, because a process was registered twice or a registration of an earlier
/// one was left: a connection reaches one process all the same, so that they share an endpoint.
struct ListedAddress<'a> {
    addr: SocketAddr,
    /// The newest registration, which is most likely that of the process which listens now: the endpoint is called by its id.
    newest: &'a Instance,
    /// The other instances at this address.
    others: Vec<&'a InstanceId>,
    /// The greatest [`Instance::weight`].
    weight: u32,
    /// The first [`Instance::last_resort`] in the order of use, with its greatest weight.
    last_resort: Option<(LastResort, u32)>,
}

impl<'a> Addresses<'a> {
    fn add(&mut self, addr: SocketAddr, instance: &'a Instance) {
        let (weight, last_resort) = (instance.weight(), instance.last_resort());
        let next = self.listed.len();
        let place = *self.places.entry(addr).or_insert(next);
        let Some(known) = self.listed.get_mut(place) else {
            let others = Vec::new();
            self.listed.push(ListedAddress { addr, newest: instance, others, weight, last_resort });
            return;
        };
        known.weight = known.weight.max(weight);
        known.last_resort = [known.last_resort, last_resort]
            .into_iter()
            .flatten()
            .min_by_key(|(kind, weight)| (*kind, std::cmp::Reverse(*weight)));
        let is_newer = instance.create_index > known.newest.create_index;
        let other = if is_newer { std::mem::replace(&mut known.newest, instance) } else { instance };
        known.others.push(&other.id);
    }

    /// Sorted by the identity of the newest instance.
    fn into_sorted(mut self) -> Vec<ListedAddress<'a>> {
        self.listed.sort_by(|one, other| one.newest.id.cmp(&other.newest.id));
        self.listed
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

/// Whether the registry says that an instance speaks HTTP/2: the metadata `protocol`, or a tag `protocol=…`, in Consul's words.
fn says_http2(instance: &Instance) -> bool {
    const KEY: &str = "protocol";
    let is_http2 = |value: &str| matches!(value, "http2" | "grpc" | "h2c");
    match instance.meta.get(KEY) {
        Some(value) => is_http2(value),
        None => instance
            .tags
            .iter()
            .any(|tag| tag.strip_prefix(KEY).and_then(|rest| rest.strip_prefix('=')).is_some_and(is_http2)),
    }
}

#[cfg(test)]
mod tests;
