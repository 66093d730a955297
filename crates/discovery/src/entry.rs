//! One watched service: what its watcher writes and everybody else reads.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use outrigger_registry::{Instance, Query};
use tokio::sync::watch;

use crate::Snapshot;

/// Written by exactly one watcher; dropped with it and the last follower.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) query: Query,
    snapshot: ArcSwap<Snapshot>,
    /// Rings with the new version after each swap. It carries no content, so that there is one
    /// place to read it from.
    bell: watch::Sender<u64>,
    contact: Mutex<Contact>,
    ever_had_instances: AtomicBool,
    pub(crate) accepted: AtomicU64,
    pub(crate) unchanged: AtomicU64,
}

/// What moves while the content stays.
#[derive(Debug, Clone)]
pub(crate) struct Contact {
    /// When the content was last confirmed; an admitted age is already taken off.
    pub(crate) heard_at: Option<Instant>,
    pub(crate) index: u64,
    pub(crate) error: Option<String>,
    pub(crate) failures: u32,
    pub(crate) known_leader: bool,
    pub(crate) empty_hint: Option<&'static str>,
}

impl Entry {
    pub(crate) fn new(query: Query) -> Self {
        let contact = Contact {
            heard_at: None,
            index: 0,
            error: None,
            failures: 0,
            known_leader: true,
            empty_hint: None,
        };
        Self {
            query,
            snapshot: ArcSwap::from_pointee(Snapshot::unasked()),
            bell: watch::Sender::new(0),
            contact: Mutex::new(contact),
            ever_had_instances: AtomicBool::new(false),
            accepted: AtomicU64::new(0),
            unchanged: AtomicU64::new(0),
        }
    }

    pub(crate) fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshot.load_full()
    }

    pub(crate) fn subscribe(&self) -> watch::Receiver<u64> {
        self.bell.subscribe()
    }

    pub(crate) fn ever_had_instances(&self) -> bool {
        self.ever_had_instances.load(Relaxed)
    }

    /// Swaps `instances` in and rings. For the one watcher: two writers could reuse a version.
    pub(crate) fn publish(&self, instances: Arc<[Instance]>, now: Instant) -> Arc<Snapshot> {
        let next = Arc::new(self.snapshot.load().next(instances, now));
        self.ever_had_instances.fetch_or(!next.instances.is_empty(), Relaxed);
        self.snapshot.store(next.clone());
        self.bell.send_replace(next.version);
        next
    }

    pub(crate) fn contact(&self) -> Contact {
        self.lock().clone()
    }

    pub(crate) fn heard_ago(&self, now: Instant) -> Option<Duration> {
        self.lock().heard_at.map(|at| now.saturating_duration_since(at))
    }

    pub(crate) fn index(&self) -> u64 {
        self.lock().index
    }

    pub(crate) fn update_contact(&self, change: impl FnOnce(&mut Contact)) {
        change(&mut self.lock());
    }

    fn lock(&self) -> MutexGuard<'_, Contact> {
        self.contact.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
