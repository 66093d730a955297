//! Every cluster by name. A lookup is a lock-free load; the first request opens a cluster.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Weak},
    time::Duration,
};

use arc_swap::ArcSwap;
use outrigger_config as config;
use outrigger_discovery::{Discovery, FollowError, WatchReason};
use outrigger_registry::{InstanceId, Query};
use outrigger_task::essential;
use parking_lot::Mutex;
use tokio::{
    runtime::Handle,
    sync::{mpsc, oneshot, watch},
    time::{Instant, MissedTickBehavior, timeout},
};
use tracing::debug;

use crate::{
    host::ServiceName,
    listener::own::OwnListeners,
    metrics::Metrics,
    reason::{Reason, Refusal},
    upstream::{
        cluster::{Cluster, ClusterKey, ClusterSettings, NameIndex, watch_reason},
        exact::LinkedTarget,
        over::LinkedFailover,
        probe,
        reconcile::Reconciler,
        zones::CallerZones,
    },
};

mod chains;
mod explained;
mod links;
mod quota;
mod settings;
mod table;

pub(crate) use explained::PlacedSettings;
use quota::Quota;
use settings::ManagerSettings;
pub use settings::check_tls_files;
pub(crate) use settings::{SettingsPlace, upstream_key};
use table::{ClusterTable, ManagedCluster};

/// How often idle connections are closed and idle clusters dropped.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);
/// Longest wait for the first answers of services that a reload adds. Then they are used without.
const MAX_FIRST_ANSWER_WAIT: Duration = Duration::from_secs(5);

/// Owns every cluster and its reconcile task.
#[derive(Debug)]
pub(crate) struct ClusterManager {
    names: ArcSwap<NameIndex>,
    table: Mutex<ClusterTable>,
    /// Itself, for the tasks of its clusters.
    me: Weak<Self>,
    /// What the chains of the registry name, by the service that each is of.
    chains: ArcSwap<HashMap<ClusterKey, Arc<[Arc<LinkedTarget>]>>>,
    /// Notified when other settings may say whether a chain counts.
    routing: watch::Sender<()>,
    /// Of the clusters that have one.
    failovers: ArcSwap<HashMap<ClusterKey, Arc<LinkedFailover>>>,
    discovery: Arc<Discovery>,
    metrics: Arc<Metrics>,
    control: Handle,
    workers: usize,
    settings: ArcSwap<ManagerSettings>,
    /// Where this sidecar listens: no cluster has an endpoint there.
    own_listeners: watch::Sender<OwnListeners>,
}

impl ClusterManager {
    /// Opens every declared upstream. `control` is where reconcile tasks run.
    pub(crate) fn new(
        config: &config::Config,
        discovery: Arc<Discovery>,
        metrics: Arc<Metrics>,
        control: Handle,
        workers: usize,
    ) -> Arc<Self> {
        let manager = Arc::new_cyclic(|me| Self {
            me: me.clone(),
            chains: ArcSwap::default(),
            routing: watch::Sender::default(),
            names: ArcSwap::default(),
            table: Mutex::default(),
            failovers: ArcSwap::default(),
            discovery,
            metrics,
            control,
            workers,
            settings: ArcSwap::from_pointee(ManagerSettings::new(config)),
            own_listeners: watch::Sender::default(),
        });
        let mut table = manager.table.lock();
        manager.open_declared(&mut table);
        manager.link_failovers(&mut table);
        manager.publish_names(&table);
        drop(table);
        manager
    }

    /// Sets where this sidecar listens. Each cluster drops the endpoints at these addresses soon.
    pub(crate) fn set_own_listeners(&self, own: OwnListeners) {
        self.own_listeners.send_if_modified(|before| {
            let is_changed = *before != own;
            *before = own;
            is_changed
        });
    }

    /// Applies other settings. Clusters that stay keep their connections and their state, new ones are
    /// opened, and those that the configuration no longer names become on demand. Returns when the next
    /// request to each cluster reads the settings. The name of a new cluster is published after its first
    /// answer from the registry, or after [`MAX_FIRST_ANSWER_WAIT`].
    pub(crate) async fn apply_settings(&self, config: &config::Config) {
        let (opened, pending) = self.begin_apply(config);
        for one in pending {
            // An error: the cluster was dropped meanwhile.
            let _ = one.await;
        }
        let answers = async {
            for cluster in &opened {
                cluster.wait_for_first_answer().await;
            }
        };
        let _ = timeout(MAX_FIRST_ANSWER_WAIT, answers).await;
        self.publish_names(&self.table.lock());
    }

    fn begin_apply(&self, config: &config::Config) -> (Vec<Arc<Cluster>>, Vec<oneshot::Receiver<()>>) {
        let mut table = self.table.lock();
        let before = self.settings.load();
        let settings = ManagerSettings::new(config).with_tls_of(&before).with_chains(&before.chains);
        let settings = Arc::new(settings);
        self.settings.store(settings.clone());
        self.routing.send_replace(());
        let pending = Self::apply_to_open(&table, &settings);
        let opened = self.open_declared(&mut table);
        self.link_failovers(&mut table);
        (opened, pending)
    }

    /// Applies the settings to the clusters that are open. The targets of a failover are as declared as what the file names.
    fn apply_to_open(table: &ClusterTable, settings: &ManagerSettings) -> Vec<oneshot::Receiver<()>> {
        let targets: HashSet<_> = table.clusters.keys().flat_map(|key| settings.watched_with(key)).collect();
        let managed = table.clusters.iter();
        managed
            .filter_map(|(key, managed)| {
                let declared = settings.find_declared(key).is_some() || targets.contains(key);
                let (policy, rules) = (settings.policy_for(key), settings.rules_for(key));
                managed.apply_settings(policy, rules, settings.tls_for(key), declared)
            })
            .collect()
    }

    /// Makes those that are targets now as declared as what the file names, and the others no more.
    fn declare_targets(table: &ClusterTable, settings: &ManagerSettings) {
        let targets: HashSet<_> = table.clusters.keys().flat_map(|key| settings.watched_with(key)).collect();
        for (key, managed) in &table.clusters {
            let declared = settings.find_declared(key).is_some() || targets.contains(key);
            if managed.cluster.is_declared() != declared {
                // Nothing waits for it.
                let (policy, rules) = (settings.policy_for(key), settings.rules_for(key));
                let _ = managed.apply_settings(policy, rules, settings.tls_for(key), declared);
            }
        }
    }

    /// Opens the targets of failovers of the clusters that are open, and ties them to those. Lets go what is a target no more.
    fn link_failovers(&self, table: &mut ClusterTable) {
        let settings = self.settings.load_full();
        if !settings.has_failover() && self.failovers.load().is_empty() && self.chains.load().is_empty() {
            return;
        }
        // A target that is opened may have targets of its own.
        let mut refused = HashSet::new();
        loop {
            let targets = table.clusters.keys().flat_map(|key| settings.watched_with(key));
            let missing =
                targets.into_iter().find(|key| !table.clusters.contains_key(key) && !refused.contains(key));
            let Some(missing) = missing else { break };
            // The quotas do not apply to targets; only a discovery that is shut down refuses.
            if let Err(error) = self.open(table, missing.clone(), true) {
                tracing::error!(service = %missing, %error, "failover target not watched");
                refused.insert(missing);
            }
        }
        Self::declare_targets(table, &settings);
        let before = self.failovers.load();
        let mut linked = HashMap::new();
        for (key, ManagedCluster { cluster, .. }) in &table.clusters {
            let targets = settings.targets_of(key);
            let targets = targets.iter().filter_map(|key| Some(table.clusters.get(key)?.cluster.clone()));
            let rules = settings.rules_for(key);
            let link = links::link(cluster, rules, targets.collect(), before.get(key));
            cluster.failover.store(link.as_ref().map(|link| link.failover.clone()));
            cluster.check_failover(Instant::now());
            linked.extend(link.map(|link| (key.clone(), link)));
        }
        self.failovers.store(Arc::new(linked));
        self.link_chains(table, &settings);
        self.update_callers(table);
    }

    /// Tells the clusters of which zones count which zones the callers are in.
    fn update_callers(&self, table: &ClusterTable) {
        let settings = self.settings.load();
        if !settings.has_failover() {
            return;
        }
        for (key, ManagedCluster { cluster, .. }) in &table.clusters {
            let caller = settings.caller_of(key).and_then(|caller| table.clusters.get(caller));
            let zones = caller.zip(settings.rules_for(key).zone.as_ref()).map(|(caller, zone)| {
                CallerZones::of(&caller.cluster.view.load().snapshot.instances, &zone.from)
            });
            if cluster.callers.load().as_deref() != zones.as_ref() {
                cluster.callers.store(zones.map(Arc::new));
                cluster.update_zones();
            }
        }
    }

    /// Where requests to a cluster go while its own endpoints cannot take them.
    pub(crate) fn failover_of(&self, cluster: &Cluster) -> Option<Arc<LinkedFailover>> {
        let failovers = self.failovers.load();
        if failovers.is_empty() { None } else { failovers.get(&cluster.key).cloned() }
    }

    /// Opens the declared upstreams that are not open yet, and returns them. The caller publishes the
    /// names, because every publication copies them.
    fn open_declared(&self, table: &mut ClusterTable) -> Vec<Arc<Cluster>> {
        let settings = self.settings.load_full();
        let mut opened = Vec::new();
        for upstream in &*settings.upstreams {
            let key = upstream_key(upstream);
            if table.clusters.contains_key(&key) {
                continue;
            }
            // The quotas do not apply to declared upstreams; only a discovery that is shut down refuses.
            match self.open(table, key, true) {
                Ok(cluster) => opened.push(cluster),
                Err(error) => {
                    tracing::error!(service = %upstream.service, %error, "upstream not watched");
                }
            }
        }
        opened
    }

    /// The cluster of a declared upstream.
    pub(crate) fn declared_cluster(&self, upstream: &config::Upstream) -> Option<Arc<Cluster>> {
        self.table.lock().clusters.get(&upstream_key(upstream)).map(|managed| managed.cluster.clone())
    }

    /// The cluster of `name`, opened if necessary. Waits for the registry's first answer, at most until
    /// `discovery.first_answer` after the opening.
    ///
    /// # Errors
    /// When a quota refuses another service, or too many new names were asked for just now.
    pub(crate) async fn find_or_open(&self, name: &ServiceName<'_>) -> Result<Arc<Cluster>, Refusal> {
        let (cluster, waited) = match self.find(name) {
            Some(cluster) => (cluster, Duration::ZERO),
            // Boxed, because few requests wait here and every request would carry the space.
            None => Box::pin(self.open_in_turn(ClusterKey::from(name))).await.map_err(quota_refusal)?,
        };
        if !cluster.has_answer() {
            // Boxed for the same reason.
            Box::pin(self.wait_for_answer(&cluster, waited)).await;
        }
        Ok(cluster)
    }

    /// Waits for the registry's first answer for a cluster, at most until `discovery.first_answer`, less `waited`, after its opening.
    pub(crate) async fn wait_for_answer(&self, cluster: &Cluster, waited: Duration) {
        if !cluster.has_answer() {
            let due = cluster.opened_at + self.first_answer().saturating_sub(waited);
            // After a time-out the View says what is known.
            let _ = tokio::time::timeout_at(due, cluster.wait_for_first_answer()).await;
        }
    }

    /// Opens the cluster of a new name, and says how long the name waited for its turn: for half of `first_answer` at most, so that
    /// there is time for the answer.
    async fn open_in_turn(&self, key: ClusterKey) -> Result<(Arc<Cluster>, Duration), FollowError> {
        // Before room is made, so that a name that is refused ends no other watch.
        let wait = self.discovery.admit_new_name(self.first_answer() / 2)?;
        if !wait.is_zero() {
            tokio::time::sleep(wait).await;
        }
        Ok((self.open_on_demand(key)?, wait))
    }

    /// How long the first request to a service waits for the registry.
    pub(crate) fn first_answer(&self) -> Duration {
        self.settings.load().discovery.first_answer
    }

    /// The cluster of `name`, if it is open.
    pub(crate) fn find(&self, name: &ServiceName<'_>) -> Option<Arc<Cluster>> {
        let names = self.names.load();
        let plain = if name.is_plain() { names.plain.get(name.service.as_bytes()) } else { None };
        plain.or_else(|| names.narrowed.get(&ClusterKey::from(name))).cloned()
    }

    /// The cluster that a Host means which is a service's name as it stands: in lower case, without a dot, perhaps with a
    /// port. `None`: the Host is to be parsed, or the registry has not answered for the service.
    pub(crate) fn find_by_host(&self, host: &[u8]) -> Option<Arc<Cluster>> {
        let is_name = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || *byte == b'-';
        let end = host.iter().position(|byte| !is_name(byte));
        let (name, port) = host.split_at(end.unwrap_or(host.len()));
        let is_port =
            matches!(port, [b':', digits @ ..] if digits.len() < 5 && digits.iter().all(u8::is_ascii_digit));
        // Only a text that begins with a digit can be an address.
        let is_name = name.first().is_some_and(u8::is_ascii_lowercase) && name != b"localhost";
        if !is_name || !(port.is_empty() || is_port) {
            return None;
        }
        let cluster = self.names.load().plain.get(name)?.clone();
        cluster.has_answer().then_some(cluster)
    }

    /// Every cluster, by label.
    pub(crate) fn clusters(&self) -> Vec<Arc<Cluster>> {
        let mut all: Vec<_> =
            self.table.lock().clusters.values().map(|managed| managed.cluster.clone()).collect();
        all.sort_by(|a, b| a.label.cmp(&b.label));
        all
    }

    fn open_on_demand(&self, key: ClusterKey) -> Result<Arc<Cluster>, FollowError> {
        let mut table = self.table.lock();
        if let Some(managed) = table.clusters.get(&key) {
            return Ok(managed.cluster.clone());
        }
        let before = table.clusters.len();
        loop {
            self.make_room(&mut table, &key);
            let refused = match self.open(&mut table, key.clone(), false) {
                Ok(cluster) => {
                    self.link_failovers(&mut table);
                    self.publish_names(&table);
                    return Ok(cluster);
                }
                Err(refused) => refused,
            };
            // An answer that came since has changed the count, or another part of the sidecar follows a service.
            let evicted = Quota::of(refused).is_some_and(|quota| {
                let query = self.settings.load().query_of(&key);
                self.evict_oldest(&mut table, quota, &query)
            });
            if !evicted {
                if table.clusters.len() < before {
                    // A cluster that has ended is found by no request: nothing updates its View any more.
                    self.publish_names(&table);
                }
                return Err(refused);
            }
        }
    }

    fn open(
        &self,
        table: &mut ClusterTable,
        key: ClusterKey,
        declared: bool,
    ) -> Result<Arc<Cluster>, FollowError> {
        if table.closed {
            return Err(FollowError::ShuttingDown);
        }
        let kind = watch_reason(declared);
        let all = self.settings.load();
        let query = all.query_of(&key);
        let cluster_follower = self.discovery.follow(query.clone(), kind)?;
        let task_follower = self.discovery.follow(query, kind)?;
        let label = key.to_string();
        let series = self.metrics.service_series(declared.then_some(&*label));
        let settings = ClusterSettings::new(all.policy_for(&key).clone(), all.rules_for(&key), series)
            .with_tls(all.tls_for(&key).cloned());
        let events = self.discovery.events().clone();
        let cluster = Arc::new(Cluster::new(key.clone(), declared, settings, cluster_follower, events));
        cluster.is_routed.send_replace(!all.wants_chain(&key));
        let (updates, update_queue) = mpsc::unbounded_channel();
        let own_listeners = self.own_listeners.subscribe();
        let (metrics, discovery) = (self.metrics.clone(), self.discovery.clone());
        let reconciler = Reconciler::new(cluster.clone(), metrics, self.workers, own_listeners, discovery);
        let (probes, chain) =
            (probe::run(cluster.clone()), Self::follow_chain(self.me.clone(), cluster.clone()));
        // The rest of the time of a first request is for its instances.
        let chain_wait = all.discovery.first_answer / 2;
        let run = async move {
            tokio::join!(reconciler.run(task_follower, update_queue, chain_wait), probes, chain);
        };
        let task = self.control.spawn(essential(format!("the cluster {key}"), run));
        table.clusters.insert(key, ManagedCluster { cluster: cluster.clone(), task, updates });
        Ok(cluster)
    }

    /// Ends clusters on demand until the quotas allow one more, for `key`.
    fn make_room(&self, table: &mut ClusterTable, key: &ClusterKey) {
        let settings = self.settings.load();
        let query = settings.query_of(key);
        while let Some(quota) = table.reached_quota(&query, &settings.discovery) {
            if !self.evict_oldest(table, quota, &query) {
                return;
            }
        }
    }

    /// Ends the cluster on demand that goes first where `quota` is used up. False: none can make room for `query`.
    fn evict_oldest(&self, table: &mut ClusterTable, quota: Quota, query: &Query) -> bool {
        if quota == Quota::Services && self.is_full_without_evictions(query) {
            return false;
        }
        let Some(oldest) = table.oldest_on_demand(quota) else { return false };
        let Some(ManagedCluster { cluster, task, .. }) = table.clusters.remove(&oldest) else { return false };
        task.abort();
        debug!(service = %oldest, "no longer watched: another service takes its place in the quota");
        let query = cluster.query();
        if !table.clusters.values().any(|other| other.cluster.query() == query) {
            self.discovery.forget(&query);
        }
        true
    }

    /// Whether services that no eviction ends use all of `discovery.max_services`, and `query` is none of them.
    fn is_full_without_evictions(&self, query: &Query) -> bool {
        let services = self.discovery.services();
        let stay = services.iter().filter(|one| one.reason == WatchReason::Declared).map(|one| &one.query);
        let stay: Vec<_> = stay.collect();
        stay.len() >= self.settings.load().discovery.max_services && !stay.contains(&query)
    }

    /// Whether a request to this instance of `service` succeeded within `within`. Looks only at the
    /// clusters of `service`: the plain one, and those narrowed by tags or by a datacenter.
    pub(crate) fn recently_served(
        &self,
        service: &str,
        id: &InstanceId,
        within: Duration,
        now: Instant,
    ) -> bool {
        let names = self.names.load();
        let narrowed = names.narrowed.iter().filter(|(key, _)| *key.service == *service);
        names.plain.get(service.as_bytes()).into_iter().chain(narrowed.map(|(_, cluster)| cluster)).any(
            |cluster| {
                let view = cluster.view.load();
                view.endpoint_of(id).is_some_and(|endpoint| endpoint.succeeded_within(within, now))
            },
        )
    }

    /// Publishes the names: each cluster's own, and the plain name for a service that is declared only with
    /// tags or a datacenter, because the configuration means that cluster by it.
    fn publish_names(&self, table: &ClusterTable) {
        let (mut names, settings) = (NameIndex::default(), self.settings.load());
        for (key, ManagedCluster { cluster, .. }) in &table.clusters {
            let is_plain = key.tags.is_empty() && key.datacenter.is_none();
            if is_plain && !settings.names.is_own_name(&key.service) {
                names.plain.insert(key.service.as_bytes().into(), cluster.clone());
            } else {
                names.narrowed.insert(key.clone(), cluster.clone());
            }
        }
        // In reverse, so that the first of several declared forms overwrites the others.
        for upstream in settings.upstreams.iter().rev() {
            let key = upstream_key(upstream);
            let plain = key.service.as_bytes();
            // A plain cluster on demand gives way to a declared form of its service.
            let declared = names.plain.get(plain).is_some_and(|cluster| {
                cluster.is_declared() && cluster.key.tags.is_empty() && cluster.key.datacenter.is_none()
            });
            if !declared && let Some(managed) = table.clusters.get(&key) {
                names.plain.insert(plain.into(), managed.cluster.clone());
            }
        }
        self.names.store(Arc::new(names));
    }

    /// Closes idle connections and drops idle clusters until the task is aborted.
    pub(crate) async fn sweep(self: Arc<Self>) {
        let mut tick = tokio::time::interval(SWEEP_INTERVAL);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            let now = Instant::now();
            self.drop_idle(now);
            self.forget_chains();
            self.update_callers(&self.table.lock());
            for cluster in self.clusters() {
                cluster.peak_latency.decay();
                cluster.check_failover(now);
                links::report_own_datacenter(&cluster);
                let view = cluster.view.load_full();
                for endpoint in view.all_endpoints() {
                    endpoint.sweep(view.settings.policy.pool.idle_timeout, now);
                }
            }
        }
    }

    /// Drops the on-demand clusters without a recent request and without one in flight, such as a tunnel.
    pub(crate) fn drop_idle(&self, now: Instant) {
        let settings = self.settings.load().discovery;
        let mut table = self.table.lock();
        let before = table.clusters.len();
        table.clusters.retain(|key, ManagedCluster { cluster, task, .. }| {
            if cluster.is_in_use() {
                cluster.mark_used(now);
            }
            let limit = if cluster.ever_had_instances() { settings.idle } else { settings.unknown_ttl };
            let keep = cluster.is_declared() || cluster.idle_for(now) < limit;
            if !keep {
                debug!(service = %key, "no requests, no longer watched");
                task.abort();
            }
            keep
        });
        if table.clusters.len() != before {
            self.link_failovers(&mut table);
            self.publish_names(&table);
        }
    }

    /// Runs the copy of a request to its end, apart from the workers. A stop does not wait for it.
    pub(crate) fn spawn_copy(&self, copy: impl Future<Output = ()> + Send + 'static) {
        // Contained: the copy of one request, which no app waits for.
        self.control.spawn(copy);
    }

    /// Ends every reconcile task and opens nothing more.
    pub(crate) fn close(&self) {
        let mut table = self.table.lock();
        table.closed = true;
        for managed in table.clusters.values() {
            managed.task.abort();
        }
    }
}

fn quota_refusal(refused: FollowError) -> Refusal {
    let reason = match refused {
        FollowError::TooManyServices { .. }
        | FollowError::TooManyUnknown { .. }
        | FollowError::TooManyNew { .. } => Reason::TooManyServices,
        FollowError::ShuttingDown => Reason::Drained,
    };
    Refusal::for_now(reason, refused.to_string())
}

#[cfg(test)]
mod tests;
