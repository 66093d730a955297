//! The door: follow a service, list what is watched, stop.

use std::{sync::Arc, time::Duration};

use outrigger_registry::{Query, Registry};
use tokio::{runtime::Handle, time::timeout};
use tokio_util::task::TaskTracker;
use tracing::warn;

use crate::{
    DiskCache, FollowError, Follower, Liveness, ServiceStatus, WatchReason,
    clock::now,
    metrics::Metrics,
    services::Services,
    watch::{WatchContext, Watcher},
};

/// Longest wait for the watchers in [`Discovery::shutdown`]. They stop at their next await; only a
/// registry that blocks its thread takes longer.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(5);

/// Owns the watchers of every service in use.
///
/// They run on the runtime that was given; callers may be on any other, or on none. Dropping it
/// stops them, and its followers then keep what they last knew.
#[derive(Debug)]
pub struct Discovery {
    services: Arc<Services>,
    context: Arc<WatchContext>,
    runtime: Handle,
    watchers: TaskTracker,
}

impl Discovery {
    /// Watches nothing yet.
    ///
    /// # Errors
    /// When `metrics` already holds metrics of these names: one discovery per metrics registry.
    pub fn new(
        registry: Arc<dyn Registry>,
        settings: outrigger_config::DiscoverySettings,
        runtime: Handle,
        metrics: &prometheus::Registry,
    ) -> Result<Arc<Self>, prometheus::Error> {
        Self::build(registry, settings, runtime, metrics, None)
    }

    /// As [`Discovery::new`]; what is learned is kept in `memory` too, and what that holds serves until
    /// the registry's first answer where that is long in coming.
    ///
    /// # Errors
    /// As [`Discovery::new`].
    pub fn with_cache(
        registry: Arc<dyn Registry>,
        settings: outrigger_config::DiscoverySettings,
        runtime: Handle,
        metrics: &prometheus::Registry,
        cache: DiskCache,
    ) -> Result<Arc<Self>, prometheus::Error> {
        Self::build(registry, settings, runtime, metrics, Some(Arc::new(cache)))
    }

    fn build(
        registry: Arc<dyn Registry>,
        settings: outrigger_config::DiscoverySettings,
        runtime: Handle,
        metrics: &prometheus::Registry,
        cache: Option<Arc<DiskCache>>,
    ) -> Result<Arc<Self>, prometheus::Error> {
        let services = Arc::new(Services::new(settings));
        let metrics = Metrics::register(metrics, services.clone())?;
        let context = Arc::new(WatchContext::new(registry, services.clone(), metrics, cache.clone()));
        let watchers = TaskTracker::new();
        if let Some(cache) = cache {
            watchers.spawn_on(cache.run(services.stop_token()), &runtime);
        }
        Ok(Arc::new(Self { services, context, runtime, watchers }))
    }

    /// Says who speaks for instances that the registry suddenly no longer lists. Until then, and
    /// where nobody calls this, they are asked for a connection.
    pub fn set_liveness(&self, liveness: Arc<dyn Liveness>) {
        self.context.prober.set_liveness(liveness);
    }

    /// Goes on by other settings. Nobody who is watched is dropped; answers are doubted by the new rules
    /// from each watch's next one on.
    pub fn apply_settings(&self, settings: outrigger_config::DiscoverySettings) {
        self.services.apply_settings(settings);
        self.context.prober.set_probe_timeout(settings.mass_loss.unwrap_or_default().probe_timeout);
    }

    /// Follows `query`: starts to watch it, or shares the watch that is there. Never waits: what is
    /// known at once is [`Follower::snapshot`], and [`Follower::first_answer`] waits for more.
    ///
    /// # Errors
    /// When a quota is used up ([`WatchReason::OnDemand`] of a service not yet watched only), or after
    /// [`Discovery::shutdown`].
    pub fn follow(&self, query: Query, reason: WatchReason) -> Result<Follower, FollowError> {
        let start = |service, stop| {
            let watcher = Watcher::new(self.context.clone(), service, reason);
            self.watchers.spawn_on(watcher.run(stop), &self.runtime);
        };
        let service = self.services.add_follower(query, reason, start).inspect_err(|refused| {
            self.context.metrics.count_refusal(*refused);
        })?;
        Ok(Follower::new(service, self.services.clone(), reason))
    }

    /// Every watched service, sorted by name.
    pub fn services(&self) -> Vec<ServiceStatus> {
        let now = now();
        let mut services: Vec<_> = self.services.rows().iter().map(|row| row.status(now)).collect();
        services.sort_by(|a, b| a.query.cmp(&b.query));
        services
    }

    /// Ends every watcher, writes what is known to the memory, and returns when that is done, after
    /// 5 s at most. Followers keep what they last knew; new ones are refused.
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
