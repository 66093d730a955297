//! One watched service: its watcher writes it, and all others read it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use outrigger_registry::{Instance, InstanceId, Query};
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};

use crate::{
    Knowledge, Snapshot,
    suspects::{PresumedGone, SuspectReason},
};

/// Written by exactly one watcher; dropped with the watcher and the last follower.
#[derive(Debug)]
pub(crate) struct Service {
    pub(crate) query: Query,
    snapshot: ArcSwap<Snapshot>,
    /// Sends the new version after each swap. It carries no content: `snapshot` is the one place to read
    /// it from.
    pub(crate) changed: watch::Sender<u64>,
    /// Whether a query was ever answered by a refusal, or by what cannot be read.
    pub(crate) refused: watch::Sender<bool>,
    watch_health: Mutex<WatchHealth>,
    /// Notified when a request fails because no instance of the service answers.
    pub(crate) refresh_requested: Notify,
    /// Notified when an instance that the registry lists by its host name refuses connections, or none is usable.
    pub(crate) lookup_requested: Notify,
    ever_had_instances: AtomicBool,
    pub(crate) accepted: AtomicU64,
    pub(crate) unchanged: AtomicU64,
    /// Answers that were suspect, in the order of [`SuspectReason::ALL`].
    suspect_counts: [AtomicU64; SuspectReason::ALL.len()],
}

/// Facts that change while the instances stay the same.
#[derive(Debug, Clone, Default)]
pub(crate) struct WatchHealth {
    /// When the instances were last confirmed; the age that the answer reported is already subtracted.
    pub(crate) confirmed_at: Option<Instant>,
    pub(crate) index: u64,
    pub(crate) error: Option<String>,
    pub(crate) failures: u32,
    pub(crate) known_leader: bool,
    pub(crate) empty_hint: Option<&'static str>,
    /// Instances that are kept although the registry does not list them, sorted.
    pub(crate) suspects: Arc<[InstanceId]>,
    pub(crate) presumed_gone: Option<PresumedGone>,
}

/// What the last query for a service says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WatchResult {
    /// The registry has answered, and the query after that has not failed.
    Answered,
    /// The first query is not over.
    Pending,
    /// The last query has failed.
    Failing,
}

impl Service {
    pub(crate) fn new(query: Query) -> Self {
        let watch_health = WatchHealth { known_leader: true, ..WatchHealth::default() };
        Self {
            query,
            snapshot: ArcSwap::default(),
            changed: watch::Sender::new(0),
            refused: watch::Sender::new(false),
            watch_health: Mutex::new(watch_health),
            refresh_requested: Notify::new(),
            lookup_requested: Notify::new(),
            ever_had_instances: AtomicBool::new(false),
            accepted: AtomicU64::new(0),
            unchanged: AtomicU64::new(0),
            suspect_counts: Default::default(),
        }
    }

    pub(crate) fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshot.load_full()
    }

    pub(crate) fn ever_had_instances(&self) -> bool {
        self.ever_had_instances.load(Relaxed)
    }

    /// Swaps `instances` in and wakes the followers. Only the watcher calls this: two writers could use one
    /// version twice.
    pub(crate) fn publish(&self, instances: Arc<[Instance]>, now: Instant) -> Arc<Snapshot> {
        self.swap(self.snapshot.load().next(instances, now))
    }

    /// Swaps in the cached answer, unless the registry has answered.
    pub(crate) fn publish_cached(
        &self,
        instances: Arc<[Instance]>,
        index: u64,
        confirmed_at: Option<Instant>,
    ) -> Option<Arc<Snapshot>> {
        let current = self.snapshot();
        if current.knowledge != Knowledge::Unasked {
            return None;
        }
        self.update_watch_health(|health| {
            health.index = index;
            health.confirmed_at = confirmed_at;
        });
        Some(self.swap(current.remembered(instances, confirmed_at)))
    }

    fn swap(&self, next: Snapshot) -> Arc<Snapshot> {
        let next = Arc::new(next);
        self.ever_had_instances.fetch_or(!next.instances.is_empty(), Relaxed);
        self.snapshot.store(next.clone());
        self.changed.send_replace(next.version);
        next
    }

    pub(crate) fn count_suspect(&self, reason: SuspectReason) {
        for (count, of) in self.suspect_counts.iter().zip(SuspectReason::ALL) {
            count.fetch_add(u64::from(of == reason), Relaxed);
        }
    }

    /// Suspect answers by reason.
    pub(crate) fn suspect_updates(&self) -> impl Iterator<Item = (SuspectReason, u64)> {
        SuspectReason::ALL
            .into_iter()
            .zip(&self.suspect_counts)
            .map(|(reason, count)| (reason, count.load(Relaxed)))
    }

    /// What the last query says.
    pub(crate) fn watch_result(&self) -> WatchResult {
        if self.watch_health.lock().failures > 0 {
            WatchResult::Failing
        } else if self.snapshot.load().knowledge == Knowledge::Answered {
            WatchResult::Answered
        } else {
            WatchResult::Pending
        }
    }

    pub(crate) fn watch_health(&self) -> WatchHealth {
        self.watch_health.lock().clone()
    }

    pub(crate) fn confirmed_ago(&self, now: Instant) -> Option<Duration> {
        self.watch_health.lock().confirmed_at.map(|at| now.saturating_duration_since(at))
    }

    pub(crate) fn index(&self) -> u64 {
        self.watch_health.lock().index
    }

    /// Whether instances were presumed gone that may still be there.
    pub(crate) fn has_presumed_gone(&self, now: Instant) -> bool {
        self.watch_health.lock().presumed_gone.as_ref().is_some_and(|lost| lost.is_fresh(now))
    }

    pub(crate) fn update_watch_health(&self, change: impl FnOnce(&mut WatchHealth)) {
        change(&mut self.watch_health.lock());
    }
}
