//! One watched service: what its watcher writes and everybody else reads.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use outrigger_registry::{Instance, InstanceId, Query};
use tokio::sync::{Notify, watch};

use crate::{Knowledge, Snapshot, guard::Reason, lost::Lost};

/// Written by exactly one watcher; dropped with it and the last follower.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) query: Query,
    snapshot: ArcSwap<Snapshot>,
    /// Rings with the new version after each swap. It carries no content, so that there is one
    /// place to read it from.
    bell: watch::Sender<u64>,
    contact: Mutex<Contact>,
    /// Rings when a request of the service fails for want of an instance that answers.
    need: Notify,
    ever_had_instances: AtomicBool,
    pub(crate) accepted: AtomicU64,
    pub(crate) unchanged: AtomicU64,
    /// Answers that were suspect, in the order of [`Reason::ALL`].
    suspect: [AtomicU64; Reason::ALL.len()],
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
    /// Who is known although the registry does not list them, sorted.
    pub(crate) suspects: Arc<[InstanceId]>,
    /// Who was believed gone by the registry's word alone.
    pub(crate) lost: Option<Lost>,
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
            suspects: Arc::from([]),
            lost: None,
        };
        Self {
            query,
            snapshot: ArcSwap::from_pointee(Snapshot::unasked()),
            bell: watch::Sender::new(0),
            contact: Mutex::new(contact),
            need: Notify::new(),
            ever_had_instances: AtomicBool::new(false),
            accepted: AtomicU64::new(0),
            unchanged: AtomicU64::new(0),
            suspect: Default::default(),
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
        self.swap(self.snapshot.load().next(instances, now))
    }

    /// Swaps in what an earlier life of the process knew, unless something is known already.
    pub(crate) fn recall(
        &self,
        instances: Arc<[Instance]>,
        index: u64,
        heard_at: Instant,
    ) -> Option<Arc<Snapshot>> {
        let current = self.snapshot();
        if current.knowledge != Knowledge::Unasked {
            return None;
        }
        self.update_contact(|contact| {
            contact.index = index;
            contact.heard_at = Some(heard_at);
        });
        Some(self.swap(current.remembered(instances, heard_at)))
    }

    fn swap(&self, next: Snapshot) -> Arc<Snapshot> {
        let next = Arc::new(next);
        self.ever_had_instances.fetch_or(!next.instances.is_empty(), Relaxed);
        self.snapshot.store(next.clone());
        self.bell.send_replace(next.version);
        next
    }

    /// Counts an answer that was suspect.
    pub(crate) fn suspected(&self, reason: Reason) {
        for (count, of) in self.suspect.iter().zip(Reason::ALL) {
            count.fetch_add(u64::from(of == reason), Relaxed);
        }
    }

    /// How many answers were suspect, by reason.
    pub(crate) fn suspect_updates(&self) -> impl Iterator<Item = (Reason, u64)> {
        Reason::ALL.into_iter().zip(&self.suspect).map(|(reason, count)| (reason, count.load(Relaxed)))
    }

    /// A request fails for want of an instance.
    pub(crate) fn need(&self) {
        self.need.notify_one();
    }

    /// Resolves when one has failed, or did since this resolved last.
    pub(crate) async fn in_need(&self) {
        self.need.notified().await;
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

    /// Whether instances were believed gone that may be there.
    pub(crate) fn has_lost_lately(&self, now: Instant) -> bool {
        self.lock().lost.as_ref().is_some_and(|lost| lost.is_fresh(now))
    }

    pub(crate) fn update_contact(&self, change: impl FnOnce(&mut Contact)) {
        change(&mut self.lock());
    }

    fn lock(&self) -> MutexGuard<'_, Contact> {
        self.contact.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
