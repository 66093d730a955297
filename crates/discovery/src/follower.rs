//! A share in the watch of one service.

use std::{future::pending, sync::Arc};

use parking_lot::Mutex;
use tokio::sync::watch;

use crate::{ServiceStatus, Snapshot, WatchReason, clock::now, service::Service, services::Services};

/// Keeps a service watched: when the last follower of a query is dropped, its watcher stops, its
/// entry leaves the table and its metric series go away.
///
/// Every method may be called from any thread and any runtime.
#[derive(Debug)]
pub struct Follower {
    service: Arc<Service>,
    services: Arc<Services>,
    reason: Mutex<WatchReason>,
    versions: watch::Receiver<u64>,
    /// The version last returned by [`Follower::changed`].
    seen: u64,
}

impl Follower {
    /// A share that [`Services::add_follower`] has already counted.
    pub(crate) fn new(service: Arc<Service>, services: Arc<Services>, reason: WatchReason) -> Self {
        let versions = service.subscribe();
        Self { service, services, reason: Mutex::new(reason), versions, seen: 0 }
    }

    /// Follows for another reason from now on: the settings name the service, or no longer do.
    pub fn set_reason(&self, reason: WatchReason) {
        let mut now = self.reason.lock();
        let before = std::mem::replace(&mut *now, reason);
        self.services.change_reason(&self.service.query, before, reason);
    }

    /// What is known now. One atomic load; never waits.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.service.snapshot()
    }

    /// The next snapshot newer than the last that this method returned; the first call returns at
    /// once when there is one already. Changes in between are skipped, never the
    /// latest. Cancel-safe. Pending for ever once discovery has been shut down.
    pub async fn changed(&mut self) -> Arc<Snapshot> {
        loop {
            // Marked before the load: a change that lands in between rings again.
            self.versions.borrow_and_update();
            let snapshot = self.service.snapshot();
            if snapshot.version > self.seen {
                self.seen = snapshot.version;
                return snapshot;
            }
            if self.versions.changed().await.is_err() {
                return pending().await; // out of reach: the entry, which we hold, holds the sender
            }
        }
    }

    /// Resolves once the registry has answered at least once, also with an empty list, or once what
    /// was known before a restart serves in its place. It may never: put a time-out around it.
    pub async fn first_answer(&self) {
        if self.service.subscribe().wait_for(|version| *version > 0).await.is_err() {
            pending().await
        }
    }

    /// Whether any answer of this watch ever listed an instance: a name for which none did is kept
    /// for `discovery.unknown_ttl` only.
    pub fn ever_had_instances(&self) -> bool {
        self.service.ever_had_instances()
    }

    /// Says that a request of the service failed for want of an instance that answers: while the registry
    /// gives no answer either, it is asked again within 1 s. Cheap, and never waits.
    pub fn request_refresh(&self) {
        self.service.request_refresh();
    }

    /// Where its watch stands.
    pub fn status(&self) -> ServiceStatus {
        self.services.status(&self.service, now())
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        let reason = *self.reason.get_mut();
        self.services.remove_follower(&self.service.query, reason);
    }
}
