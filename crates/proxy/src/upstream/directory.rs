//! Every cluster by name. Finding one is a lock-free load; opening one is the first request's work.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use arc_swap::ArcSwap;
use outrigger_config as config;
use outrigger_discovery::{Discovery, FollowError};
use outrigger_registry::InstanceId;
use tokio::{
    runtime::Handle,
    sync::{mpsc, oneshot},
    task::JoinHandle,
    time::{Instant, MissedTickBehavior, timeout},
};
use tracing::debug;

use crate::{
    error::{Reason, Refusal},
    host::Name,
    metrics::Metrics,
    upstream::{
        cluster::{Cluster, Key, Terms, kind},
        reconcile::{Order, Reconciler},
        trust,
    },
};

/// How often idle connections and idle clusters are looked for.
const SWEEP: Duration = Duration::from_secs(1);
/// Longest wait for the first answers of services that a reload adds. Then they are used all the same.
const FIRST_ANSWER: Duration = Duration::from_secs(5);

/// Clusters by what they are called.
#[derive(Debug, Default)]
struct Names {
    /// By a service's name alone: the usual request makes no key.
    plain: HashMap<Box<str>, Arc<Cluster>>,
    /// By everything that it is narrowed to.
    narrowed: HashMap<Key, Arc<Cluster>>,
}

/// Owns every cluster and its reconcile task.
#[derive(Debug)]
pub(crate) struct Directory {
    names: ArcSwap<Names>,
    writer: Mutex<Writer>,
    discovery: Arc<Discovery>,
    metrics: Arc<Metrics>,
    control: Handle,
    workers: usize,
    settings: ArcSwap<Settings>,
}

/// What holds until the next reload.
#[derive(Debug)]
struct Settings {
    discovery: config::DiscoverySettings,
    defaults: config::Policy,
    upstreams: Vec<config::Upstream>,
}

impl Settings {
    fn new(config: &config::Config) -> Self {
        let (defaults, upstreams) = (config.defaults.clone(), config.upstreams.clone());
        Self { discovery: config.discovery, defaults, upstreams }
    }

    fn declared(&self, key: &Key) -> Option<&config::Upstream> {
        self.upstreams.iter().find(|upstream| key_of(upstream) == *key)
    }

    /// An undeclared form of a declared service is called by that service's rules.
    fn policy(&self, key: &Key) -> &config::Policy {
        let same = |upstream: &&config::Upstream| upstream.service.eq_ignore_ascii_case(&key.service);
        let declared = self.declared(key).or_else(|| self.upstreams.iter().find(same));
        declared.map_or(&self.defaults, |upstream| &upstream.policy)
    }
}

/// What only one thread at a time may change.
#[derive(Debug, Default)]
struct Writer {
    clusters: HashMap<Key, Kept>,
    closed: bool,
}

/// A cluster with its one writer.
#[derive(Debug)]
struct Kept {
    cluster: Arc<Cluster>,
    task: JoinHandle<()>,
    orders: mpsc::UnboundedSender<Order>,
}

impl Kept {
    /// Has its writer put these settings in place, unless they hold already; resolves when it has.
    fn adopt(&self, policy: &config::Policy, declared: bool) -> Option<oneshot::Receiver<()>> {
        let same = self.cluster.view.load().terms.policy == *policy && self.cluster.is_declared() == declared;
        if same {
            return None;
        }
        self.cluster.declare(declared);
        let (done, adopted) = oneshot::channel();
        // A writer that has ended has nobody left to write for.
        let _ = self.orders.send(Order { policy: policy.clone(), done });
        Some(adopted)
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        for kept in self.clusters.values() {
            kept.task.abort();
        }
    }
}

impl Directory {
    /// Opens every declared upstream. `control` is where reconcile tasks run.
    pub(crate) fn new(
        config: &config::Config,
        discovery: Arc<Discovery>,
        metrics: Arc<Metrics>,
        control: Handle,
        workers: usize,
    ) -> Arc<Self> {
        let directory = Arc::new(Self {
            names: ArcSwap::default(),
            writer: Mutex::default(),
            discovery,
            metrics,
            control,
            workers,
            settings: ArcSwap::from_pointee(Settings::new(config)),
        });
        let mut writer = directory.writer();
        directory.open_declared(&mut writer);
        directory.publish(&writer);
        drop(writer);
        directory
    }

    /// Goes on by other settings: clusters that stay keep their connections and all that they have
    /// learned, new ones are opened, and those that the file no longer names are on demand from now on.
    /// Returns when the next request to each goes by them. A new one is waited for until it has an answer
    /// of the registry's, [`FIRST_ANSWER`] at most, before its name leads to it.
    pub(crate) async fn adopt(&self, config: &config::Config) {
        let (opened, adopted) = self.begin_to_adopt(config);
        for one in adopted {
            // An error: it was dropped meanwhile.
            let _ = one.await;
        }
        let answers = async {
            for cluster in &opened {
                cluster.first_answer().await;
            }
        };
        let _ = timeout(FIRST_ANSWER, answers).await;
        self.publish(&self.writer());
    }

    fn begin_to_adopt(&self, config: &config::Config) -> (Vec<Arc<Cluster>>, Vec<oneshot::Receiver<()>>) {
        let mut writer = self.writer();
        let settings = Arc::new(Settings::new(config));
        self.settings.store(settings.clone());
        let kept = writer.clusters.iter();
        let adopted = kept
            .filter_map(|(key, kept)| kept.adopt(settings.policy(key), settings.declared(key).is_some()))
            .collect();
        (self.open_declared(&mut writer), adopted)
    }

    /// Opens the declared upstreams that are not open yet: those. Publishes nothing, for every publishing
    /// copies the names.
    fn open_declared(&self, writer: &mut Writer) -> Vec<Arc<Cluster>> {
        let settings = self.settings.load_full();
        let mut opened = Vec::new();
        for upstream in &settings.upstreams {
            let key = key_of(upstream);
            if writer.clusters.contains_key(&key) {
                continue;
            }
            // Declared ones are outside the quotas; only a discovery that is shut down refuses.
            match self.open(writer, key, true) {
                Ok(cluster) => opened.push(cluster),
                Err(error) => {
                    tracing::error!(service = %upstream.service, %error, "upstream not watched");
                }
            }
        }
        opened
    }

    fn writer(&self) -> MutexGuard<'_, Writer> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The cluster of a declared upstream.
    pub(crate) fn declared(&self, upstream: &config::Upstream) -> Option<Arc<Cluster>> {
        self.writer().clusters.get(&key_of(upstream)).map(|kept| kept.cluster.clone())
    }

    /// The cluster that `name` means, opened if need be; waits for the first answer within
    /// `discovery.first_answer` of its opening, and never otherwise.
    ///
    /// # Errors
    /// When a quota refuses another service.
    pub(crate) async fn find(&self, name: &Name<'_>) -> Result<Arc<Cluster>, Refusal> {
        let cluster = match self.known(name) {
            Some(cluster) => cluster,
            None => self.open_on_demand(Key::from(name)).map_err(refusal)?,
        };
        if !cluster.answered() {
            let due = cluster.first_answer_due(self.settings.load().discovery.first_answer);
            // Boxed, for nearly no request waits here and each would carry the room for it. Late or
            // not, the View says what is known.
            let _ = Box::pin(tokio::time::timeout_at(due, cluster.first_answer())).await;
        }
        Ok(cluster)
    }

    /// The cluster that `name` means, if it is watched.
    pub(crate) fn known(&self, name: &Name<'_>) -> Option<Arc<Cluster>> {
        let names = self.names.load();
        if name.tag.is_none() && name.datacenter.is_none() {
            return names.plain.get(name.service.as_ref()).cloned();
        }
        names.narrowed.get(&Key::from(name)).cloned()
    }

    /// Every cluster, by label.
    pub(crate) fn all(&self) -> Vec<Arc<Cluster>> {
        let mut all: Vec<_> = self.writer().clusters.values().map(|kept| kept.cluster.clone()).collect();
        all.sort_by(|a, b| a.label.cmp(&b.label));
        all
    }

    fn open_on_demand(&self, key: Key) -> Result<Arc<Cluster>, FollowError> {
        let mut writer = self.writer();
        if let Some(kept) = writer.clusters.get(&key) {
            return Ok(kept.cluster.clone());
        }
        self.quota(&writer)?;
        let cluster = self.open(&mut writer, key, false)?;
        self.publish(&writer);
        Ok(cluster)
    }

    fn open(&self, writer: &mut Writer, key: Key, declared: bool) -> Result<Arc<Cluster>, FollowError> {
        if writer.closed {
            return Err(FollowError::ShuttingDown);
        }
        let kind = kind(declared);
        let mine = self.discovery.follow(key.query(), kind)?;
        let tasks = self.discovery.follow(key.query(), kind)?;
        let label = key.to_string();
        let series = self.metrics.service(declared.then_some(&*label));
        let terms = Terms::new(self.settings.load().policy(&key).clone(), series);
        let cluster = Arc::new(Cluster::new(key.clone(), declared, terms, mine));
        let (orders, ordered) = mpsc::unbounded_channel();
        let reconciler = Reconciler::new(cluster.clone(), self.metrics.clone(), self.workers);
        let trusted = trust::watch(cluster.clone());
        let task = self.control.spawn(async move {
            tokio::join!(reconciler.run(tasks, ordered), trusted);
        });
        writer.clusters.insert(key, Kept { cluster: cluster.clone(), task, orders });
        Ok(cluster)
    }

    /// Discovery counts what it watches; here every narrowed form counts, for each costs a task and an
    /// endpoint for each instance, and made-up tags are as easily made up as made-up names.
    fn quota(&self, writer: &Writer) -> Result<(), FollowError> {
        let settings = self.settings.load().discovery;
        let clusters = writer.clusters.values().map(|kept| &kept.cluster);
        let (mut all, mut unknown) = (0, 0);
        for cluster in clusters.filter(|cluster| !cluster.is_declared()) {
            all += 1;
            // One that the registry has not answered for yet is not known to be unknown.
            unknown += usize::from(cluster.answered() && !cluster.ever_had_instances());
        }
        if all >= settings.max_services {
            return Err(FollowError::TooManyServices { limit: settings.max_services });
        }
        if unknown >= settings.max_unknown {
            return Err(FollowError::TooManyUnknown { limit: settings.max_unknown });
        }
        Ok(())
    }

    /// Whether real traffic to this instance succeeded within `lately`.
    pub(crate) fn well_within(&self, id: &InstanceId, lately: Duration, now: Instant) -> bool {
        self.all().iter().any(|cluster| {
            let view = cluster.view.load_full();
            let mut all = view.endpoints.iter().chain(&view.resting);
            all.any(|one| one.id == *id && one.well_within(lately, now))
        })
    }

    /// Publishes the names: each cluster's own, and for a service that is declared only in a narrowed
    /// form the plain name too, for there it is what the file means by it.
    fn publish(&self, writer: &Writer) {
        let mut names = Names::default();
        for (key, Kept { cluster, .. }) in &writer.clusters {
            if key.tags.is_empty() && key.datacenter.is_none() {
                names.plain.insert(Box::from(&*key.service), cluster.clone());
            } else {
                names.narrowed.insert(key.clone(), cluster.clone());
            }
        }
        let settings = self.settings.load();
        // The last one said is put in first, so that of several forms the first one stays.
        for upstream in settings.upstreams.iter().rev() {
            let plain = &*key_of(upstream).service;
            // One that was on demand before the file named a form of it is no longer what is meant.
            let declared = names.plain.get(plain).is_some_and(|cluster| {
                cluster.is_declared() && cluster.key.tags.is_empty() && cluster.key.datacenter.is_none()
            });
            if !declared && let Some(kept) = writer.clusters.get(&key_of(upstream)) {
                names.plain.insert(plain.into(), kept.cluster.clone());
            }
        }
        self.names.store(Arc::new(names));
    }

    /// Closes idle connections and drops idle clusters until the task is aborted.
    pub(crate) async fn sweep(self: Arc<Self>) {
        let mut tick = tokio::time::interval(SWEEP);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            let now = Instant::now();
            self.drop_idle(now);
            for cluster in self.all() {
                cluster.forget();
                let view = cluster.view.load_full();
                for endpoint in view.endpoints.iter().chain(&view.resting) {
                    endpoint.pool.sweep(view.terms.policy.pool.idle_timeout, now);
                }
            }
        }
    }

    /// Drops the clusters that nobody asked for in a while.
    pub(crate) fn drop_idle(&self, now: Instant) {
        let settings = self.settings.load().discovery;
        let mut writer = self.writer();
        let before = writer.clusters.len();
        writer.clusters.retain(|key, Kept { cluster, task, .. }| {
            let limit = if cluster.ever_had_instances() { settings.idle } else { settings.unknown_ttl };
            let keep = cluster.is_declared() || cluster.idle_for(now) < limit;
            if !keep {
                debug!(service = %key, "no requests, no longer watched");
                task.abort();
            }
            keep
        });
        if writer.clusters.len() != before {
            self.publish(&writer);
        }
    }

    /// Ends every reconcile task and opens nothing more.
    pub(crate) fn close(&self) {
        let mut writer = self.writer();
        writer.closed = true;
        for kept in writer.clusters.values() {
            kept.task.abort();
        }
    }
}

/// What makes an upstream's cluster one.
pub(crate) fn key_of(upstream: &config::Upstream) -> Key {
    Key::new(&upstream.service, upstream.datacenter.as_deref(), &upstream.tags)
}

fn refusal(refused: FollowError) -> Refusal {
    let reason = match refused {
        FollowError::TooManyServices { .. } | FollowError::TooManyUnknown { .. } => Reason::TooManyServices,
        FollowError::ShuttingDown => Reason::Drained,
    };
    Refusal { retry_after: Some(Duration::from_secs(1)), ..Refusal::new(reason, refused.to_string()) }
}
