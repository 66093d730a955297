//! The door: follow a service, list what is watched, stop.

use std::{sync::Arc, time::Duration};

use outrigger_registry::{Query, Registry};
use tokio::{runtime::Handle, time::timeout};
use tokio_util::task::TaskTracker;
use tracing::warn;

use crate::{
    Evidence, Follower, Kind, Memory, Refused, ServiceStatus,
    metrics::Metrics,
    table::{Table, now},
    watcher::{Shared, Watcher},
};

/// Longest wait for the watchers in [`Discovery::shutdown`]. They stop at their next await; only a
/// registry that blocks its thread takes longer.
const SHUTDOWN: Duration = Duration::from_secs(5);

/// Owns the watchers of every service in use.
///
/// They run on the runtime that was given; callers may be on any other, or on none. Dropping it
/// stops them, and its followers then keep what they last knew.
#[derive(Debug)]
pub struct Discovery {
    table: Arc<Table>,
    shared: Arc<Shared>,
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
    pub fn with_memory(
        registry: Arc<dyn Registry>,
        settings: outrigger_config::DiscoverySettings,
        runtime: Handle,
        metrics: &prometheus::Registry,
        memory: Memory,
    ) -> Result<Arc<Self>, prometheus::Error> {
        Self::build(registry, settings, runtime, metrics, Some(Arc::new(memory)))
    }

    fn build(
        registry: Arc<dyn Registry>,
        settings: outrigger_config::DiscoverySettings,
        runtime: Handle,
        metrics: &prometheus::Registry,
        memory: Option<Arc<Memory>>,
    ) -> Result<Arc<Self>, prometheus::Error> {
        let table = Arc::new(Table::new(settings));
        let metrics = Metrics::register(metrics, table.clone())?;
        let shared = Arc::new(Shared::new(registry, table.clone(), metrics, memory.clone()));
        let watchers = TaskTracker::new();
        if let Some(memory) = memory {
            watchers.spawn_on(memory.run(table.stopping()), &runtime);
        }
        Ok(Arc::new(Self { table, shared, runtime, watchers }))
    }

    /// Says who speaks for instances that the registry suddenly no longer lists. Until then, and
    /// where nobody calls this, they are asked for a connection.
    pub fn set_evidence(&self, evidence: Arc<dyn Evidence>) {
        self.shared.examiner.set(evidence);
    }

    /// Goes on by other settings. Nobody who is watched is dropped; answers are doubted by the new rules
    /// from each watch's next one on.
    pub fn adopt(&self, settings: outrigger_config::DiscoverySettings) {
        self.table.adopt(settings);
        self.shared.examiner.adopt(settings.mass_loss.unwrap_or_default().probe_timeout);
    }

    /// Follows `query`: starts to watch it, or shares the watch that is there. Never waits: what is
    /// known at once is [`Follower::snapshot`], and [`Follower::first_answer`] waits for more.
    ///
    /// # Errors
    /// When a quota is used up ([`Kind::OnDemand`] of a service not yet watched only), or after
    /// [`Discovery::shutdown`].
    pub fn follow(&self, query: Query, kind: Kind) -> Result<Follower, Refused> {
        let start = |entry, stop| {
            let watcher = Watcher::new(self.shared.clone(), entry, kind);
            self.watchers.spawn_on(watcher.run(stop), &self.runtime);
        };
        let entry = self.table.join(query, kind, start).inspect_err(|refused| {
            self.shared.metrics.refused(*refused);
        })?;
        Ok(Follower::new(entry, self.table.clone(), kind))
    }

    /// Every watched service, sorted by name.
    pub fn services(&self) -> Vec<ServiceStatus> {
        let now = now();
        let mut services: Vec<_> = self.table.rows().iter().map(|row| row.status(now)).collect();
        services.sort_by(|a, b| a.query.cmp(&b.query));
        services
    }

    /// Ends every watcher, writes what is known to the memory, and returns when that is done, after
    /// 5 s at most. Followers keep what they last knew; new ones are refused.
    pub async fn shutdown(&self) {
        self.table.close();
        self.watchers.close();
        if timeout(SHUTDOWN, self.watchers.wait()).await.is_err() {
            warn!(watchers = self.watchers.len(), "watchers did not stop in time, leaving them behind");
        }
    }
}

impl Drop for Discovery {
    fn drop(&mut self) {
        self.table.close();
    }
}
