//! Every cluster by name. Finding one is a lock-free load; opening one is the first request's work.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use arc_swap::ArcSwap;
use outrigger_config as config;
use outrigger_discovery::{Discovery, Kind, Refused};
use outrigger_registry::InstanceId;
use tokio::{
    runtime::Handle,
    task::JoinHandle,
    time::{Instant, MissedTickBehavior},
};
use tracing::debug;

use crate::{
    error::{Reason, Refusal},
    host::Name,
    metrics::Metrics,
    upstream::{
        cluster::{Cluster, Key, Terms},
        reconcile::Reconciler,
        trust,
    },
};

/// How often idle connections and idle clusters are looked for.
const SWEEP: Duration = Duration::from_secs(1);

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
    settings: config::Discovery,
    defaults: config::Policy,
    upstreams: Vec<config::Upstream>,
}

/// What only one thread at a time may change.
#[derive(Debug, Default)]
struct Writer {
    clusters: HashMap<Key, (Arc<Cluster>, JoinHandle<()>)>,
    closed: bool,
}

impl Drop for Writer {
    fn drop(&mut self) {
        for (_, task) in self.clusters.values() {
            task.abort();
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
            settings: config.discovery,
            defaults: config.defaults.clone(),
            upstreams: config.upstreams.clone(),
        });
        for upstream in &directory.upstreams {
            // Published once, below: every publishing copies the names. Declared ones are outside the quotas; only a discovery that is shut down refuses.
            if let Err(refused) = directory.open(key_of(upstream), Some(upstream)) {
                tracing::error!(service = %upstream.service, error = %refused, "upstream not watched");
            }
        }
        directory.publish(&directory.writer.lock().unwrap_or_else(PoisonError::into_inner));
        directory
    }

    /// The cluster of a declared upstream.
    pub(crate) fn declared(&self, upstream: &config::Upstream) -> Option<Arc<Cluster>> {
        let writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        writer.clusters.get(&key_of(upstream)).map(|(cluster, _)| cluster.clone())
    }

    /// The cluster that `name` means, opened if need be; waits for the first answer within
    /// `discovery.first_answer` of its opening, and never otherwise.
    ///
    /// # Errors
    /// When a quota refuses another service.
    pub(crate) async fn find(&self, name: &Name<'_>) -> Result<Arc<Cluster>, Refusal> {
        let cluster = match self.known(name) {
            Some(cluster) => cluster,
            None => self.open(Key::from(name), None).map_err(refusal)?,
        };
        if !cluster.answered() {
            let due = cluster.first_answer_due(self.settings.first_answer);
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
        let writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let mut all: Vec<_> = writer.clusters.values().map(|(cluster, _)| cluster.clone()).collect();
        all.sort_by(|a, b| a.label.cmp(&b.label));
        all
    }

    fn open(&self, key: Key, declared: Option<&config::Upstream>) -> Result<Arc<Cluster>, Refused> {
        let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((cluster, _)) = writer.clusters.get(&key) {
            return Ok(cluster.clone());
        }
        if writer.closed {
            return Err(Refused::ShuttingDown);
        }
        if declared.is_none() {
            self.quota(&writer)?;
        }
        let kind = if declared.is_some() { Kind::Declared } else { Kind::OnDemand };
        let mine = self.discovery.follow(key.query(), kind)?;
        let tasks = self.discovery.follow(key.query(), kind)?;
        let label = key.to_string();
        let series = self.metrics.service(declared.is_some().then_some(&*label));
        let terms = Terms::new(self.policy(&key, declared), series);
        let cluster = Arc::new(Cluster::new(key.clone(), declared.is_some(), terms, mine));
        let reconciler = Reconciler::new(cluster.clone(), self.metrics.clone(), self.workers);
        let trusted = trust::watch(cluster.clone());
        let task = self.control.spawn(async move {
            tokio::join!(reconciler.run(tasks), trusted);
        });
        writer.clusters.insert(key, (cluster.clone(), task));
        if declared.is_none() {
            self.publish(&writer);
        }
        Ok(cluster)
    }

    /// Discovery counts what it watches; here every narrowed form counts, for each costs a task and an
    /// endpoint for each instance, and made-up tags are as easily made up as made-up names.
    fn quota(&self, writer: &Writer) -> Result<(), Refused> {
        let on_demand = writer.clusters.values().filter(|(cluster, _)| !cluster.declared);
        let (mut all, mut unknown) = (0, 0);
        for (cluster, _) in on_demand {
            all += 1;
            // One that the registry has not answered for yet is not known to be unknown.
            unknown += usize::from(cluster.answered() && !cluster.ever_had_instances());
        }
        if all >= self.settings.max_services {
            return Err(Refused::TooManyServices { limit: self.settings.max_services });
        }
        if unknown >= self.settings.max_unknown {
            return Err(Refused::TooManyUnknown { limit: self.settings.max_unknown });
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

    /// An undeclared form of a declared service is called by that service's rules.
    fn policy(&self, key: &Key, declared: Option<&config::Upstream>) -> config::Policy {
        let same = |upstream: &&config::Upstream| upstream.service.eq_ignore_ascii_case(&key.service);
        declared
            .or_else(|| self.upstreams.iter().find(same))
            .map_or_else(|| self.defaults.clone(), |upstream| upstream.policy.clone())
    }

    /// Publishes the names: each cluster's own, and for a service that is declared only in a narrowed
    /// form the plain name too, for there it is what the file means by it.
    fn publish(&self, writer: &Writer) {
        let mut names = Names::default();
        for (key, (cluster, _)) in &writer.clusters {
            if key.tags.is_empty() && key.datacenter.is_none() {
                names.plain.insert(Box::from(&*key.service), cluster.clone());
            } else {
                names.narrowed.insert(key.clone(), cluster.clone());
            }
        }
        for upstream in &self.upstreams {
            if let Some((cluster, _)) = writer.clusters.get(&key_of(upstream)) {
                let plain = Box::from(&*cluster.key.service);
                names.plain.entry(plain).or_insert_with(|| cluster.clone());
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
                let view = cluster.view.load_full();
                for endpoint in view.endpoints.iter().chain(&view.resting) {
                    endpoint.pool.sweep(view.terms.policy.pool.idle, now);
                }
            }
        }
    }

    /// Drops the clusters that nobody asked for in a while.
    pub(crate) fn drop_idle(&self, now: Instant) {
        let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let before = writer.clusters.len();
        writer.clusters.retain(|key, (cluster, task)| {
            let limit =
                if cluster.ever_had_instances() { self.settings.idle } else { self.settings.unknown_ttl };
            let keep = cluster.declared || cluster.idle_for(now) < limit;
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
        let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        writer.closed = true;
        for (_, task) in writer.clusters.values() {
            task.abort();
        }
    }
}

fn key_of(upstream: &config::Upstream) -> Key {
    Key::new(&upstream.service, upstream.datacenter.as_deref(), &upstream.tags)
}

fn refusal(refused: Refused) -> Refusal {
    let reason = match refused {
        Refused::TooManyServices { .. } | Refused::TooManyUnknown { .. } => Reason::TooManyServices,
        Refused::ShuttingDown => Reason::Drained,
    };
    Refusal { retry_after: Some(Duration::from_secs(1)), ..Refusal::new(reason, refused.to_string()) }
}
