//! The crate's API: follow a service, list the watched services, stop.

use std::{sync::Arc, time::Duration};

use outrigger_events::Events;
use outrigger_registry::{Query, Registry};
use outrigger_task::essential;
use tokio::{runtime::Handle, time::timeout};
use tokio_util::task::TaskTracker;
use tracing::warn;

use crate::{
    ChainFollower, DiskCache, FollowError, Follower, Liveness, RegistryContact, ServiceStatus, WatchReason,
    clock::now,
    metrics::Metrics,
    service::Service,
    services::Services,
    suspects::LivenessProber,
    watch::{OutageTracker, WatchContext, Watcher, check_contact_forever},
};

/// Longest wait for the watchers in [`Discovery::shutdown`]. A watcher stops at its next await; only a
/// registry that blocks its thread takes longer.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(5);

/// Owns the watchers of every service in use.
///
/// The watchers run on the runtime given to [`Discovery::new`]; callers may be on any other, or on none.
/// A drop stops the watchers; followers then keep the last snapshot.
#[derive(Debug)]
pub struct Discovery {
    services: Arc<Services>,
    context: Arc<WatchContext>,
    runtime: Handle,
    watchers: TaskTracker,
}

impl Discovery {
    /// Creates a discovery that watches nothing, and of which no events are read.
    ///
    /// # Errors
    /// When `metrics` already holds metrics of these names: there is one discovery per metrics registry.
    pub fn new(
        registry: Arc<dyn Registry>,
        settings: outrigger_config::DiscoverySettings,
        runtime: Handle,
        metrics: &prometheus::Registry,
    ) -> Result<Arc<Self>, prometheus::Error> {
        Self::with_cache(registry, settings, runtime, metrics, None, Events::default())
    }

    /// As [`Discovery::new`]; also writes the answers to `cache`, and serves the answers in it while the
    /// registry's first answer is late; and records its decisions in `events`.
    ///
    /// # Errors
    /// As [`Discovery::new`].
    pub fn with_cache(
        registry: Arc<dyn Registry>,
        settings: outrigger_config::DiscoverySettings,
        runtime: Handle,
        metrics: &prometheus::Registry,
        cache: Option<DiskCache>,
        events: Events,
    ) -> Result<Arc<Self>, prometheus::Error> {
        let cache = cache.map(Arc::new);
        let services = Arc::new(Services::new(settings));
        let metrics = Metrics::register(metrics, services.clone())?;
        let context = Arc::new(WatchContext {
            registry,
            services: services.clone(),
            metrics,
            outage: OutageTracker::new(events.clone()),
            prober: LivenessProber::new(),
            cache: cache.clone(),
            events,
        });
        let watchers = TaskTracker::new();
        if let Some(cache) = cache {
            watchers.spawn_on(
                essential("the writer of the state file", cache.run(services.stop.clone())),
                &runtime,
            );
        }
        Ok(Arc::new(Self { services, context, runtime, watchers }))
    }

    /// Sets how instances that the registry suddenly no longer lists are probed. The default probe is a
    /// TCP connect.
    pub fn set_liveness(&self, liveness: Arc<dyn Liveness>) {
        self.context.prober.set_liveness(liveness);
    }

    /// Replaces the settings. No watched service is dropped; each watch applies the new rules for suspect
    /// answers from its next answer on.
    pub fn apply_settings(&self, settings: outrigger_config::DiscoverySettings) {
        self.services.apply_settings(settings);
    }

    /// Follows `query`: starts a watch, or shares the one that exists. Never waits: [`Follower::snapshot`]
    /// is what is known now, and [`Follower::first_answer`] waits for an answer.
    ///
    /// # Errors
    /// When a quota is used up (only [`WatchReason::OnDemand`], and only for a service not yet watched),
    /// or after [`Discovery::shutdown`].
    pub fn follow(&self, query: Query, reason: WatchReason) -> Result<Follower, FollowError> {
        let start = |service: Arc<Service>, stop| {
            let name = format!("the watch of {}", service.query);
            let watcher = Watcher::new(self.context.clone(), service, reason);
            self.watchers.spawn_on(essential(name, watcher.run(stop)), &self.runtime);
        };
        let service = self.services.add_follower(query, reason, start).inspect_err(|refused| {
            self.context.metrics.count_refusal(*refused);
        })?;
        Ok(Follower::new(service, self.services.clone(), reason))
    }

    /// Counts a name that no configuration declares and that is about to be followed for the first time, or anew. Returns how long
    /// it is to wait for its turn, at most `longest_wait`.
    ///
    /// # Errors
    /// When there are more of them than `discovery.max_new_per_second` allows within that time.
    pub fn admit_new_name(&self, longest_wait: Duration) -> Result<Duration, FollowError> {
        let admitted = self.services.admit_new_name(longest_wait, now());
        admitted.inspect_err(|refused| self.context.metrics.count_refusal(*refused))
    }

    /// Stops the watch of a service that no follower declares, although it has followers: another service takes its place in a
    /// quota. Its followers keep the last snapshot; [`Discovery::follow`] starts a new watch.
    pub fn forget(&self, query: &Query) {
        if self.services.forget(query) {
            self.context.metrics.evicted.inc();
        }
    }

    /// Follows what the registry says of a service's requests. Nothing is asked before [`ChainFollower::next`].
    pub fn follow_chain(&self, service: Arc<str>) -> ChainFollower {
        ChainFollower::new(self.context.registry.clone(), service, self.context.cache.clone())
    }

    /// Where its decisions are recorded.
    pub fn events(&self) -> &Events {
        &self.context.events
    }

    /// Every watched service, sorted by name.
    pub fn services(&self) -> Vec<ServiceStatus> {
        let now = now();
        let mut services: Vec<_> = self.services.rows().iter().map(|row| row.status(now)).collect();
        services.sort_by(|a, b| a.query.cmp(&b.query));
        services
    }

    /// Asks the registry from now on also while no service is watched, so that [`Discovery::contact`] and the log say at the
    /// start whether it answers. Call it once.
    pub fn start_contact_check(&self) {
        let (context, stop) = (self.context.clone(), self.services.stop.clone());
        let check = async move { _ = stop.run_until_cancelled(check_contact_forever(context)).await };
        self.watchers.spawn_on(essential("the check of the registry's contact", check), &self.runtime);
    }

    /// Whether the registry answers, as found by the last queries of all watches and of [`Discovery::start_contact_check`].
    pub fn contact(&self) -> RegistryContact {
        self.context.outage.current(now())
    }

    /// Stops every watcher, writes the cache, and returns when that is done, after 5 s at most.
    /// Followers keep the last snapshot; new followers are refused.
    pub async fn shutdown(&self) {
        self.services.close();
        self.watchers.close();
        if timeout(SHUTDOWN_TIMEOUT, self.watchers.wait()).await.is_err() {
            warn!(watchers = self.watchers.len(), "watchers did not stop in time, leaving them behind");
        }
    }
}

impl Drop for Discovery {
    fn drop(&mut self) {
        self.services.close();
    }
}
