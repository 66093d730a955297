//! A share in the watch of one service.

use std::{future::pending, sync::Arc};

use outrigger_registry::Query;
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::{ServiceStatus, Snapshot, WatchReason, clock::now, service::Service, services::Services};

/// Keeps a service watched. When the last follower of a query is dropped, the watcher stops and the
/// service's metric series end. After [`Discovery::forget`](crate::Discovery::forget) it keeps the last snapshot.
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
    /// A follower that [`Services::add_follower`] has already counted.
    pub(crate) fn new(service: Arc<Service>, services: Arc<Services>, reason: WatchReason) -> Self {
        let versions = service.changed.subscribe();
        Self { service, services, reason: Mutex::new(reason), versions, seen: 0 }
    }

    /// Changes the reason: the settings name the service now, or no longer do.
    pub fn set_reason(&self, reason: WatchReason) {
        let mut now = self.reason.lock();
        let before = std::mem::replace(&mut *now, reason);
        self.services.change_reason(&self.service, before, reason);
    }

    /// What is followed.
    pub fn query(&self) -> &Query {
        &self.service.query
    }

    /// The current snapshot. One atomic load; never waits.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.service.snapshot()
    }

    /// The next snapshot that is newer than the last one that this method returned; the first call
    /// returns at once when there is one. Skips changes in between, but never the latest. Cancel-safe.
    /// Pending for ever after [`Discovery::shutdown`](crate::Discovery::shutdown).
    pub async fn changed(&mut self) -> Arc<Snapshot> {
        loop {
            // Marked before the load, so that a change in between is seen by the next `changed`.
            self.versions.borrow_and_update();
            let snapshot = self.service.snapshot();
            if snapshot.version > self.seen {
                self.seen = snapshot.version;
                return snapshot;
            }
            if self.versions.changed().await.is_err() {
                return pending().await; // unreachable: `self.service` holds the sender
            }
        }
    }

    /// Resolves once the registry has answered, also with an empty list, or once the cached answer is
    /// served. That may never happen: use a timeout.
    pub async fn first_answer(&self) {
        if self.service.changed.subscribe().wait_for(|version| *version > 0).await.is_err() {
            pending().await
        }
    }

    /// Resolves once the registry has refused to answer for the service (403), or has answered what cannot be read: the next query
    /// will hardly bring more. That may never happen: use a timeout.
    pub async fn refused(&self) {
        if self.service.refused.subscribe().wait_for(|refused| *refused).await.is_err() {
            pending().await
        }
    }

    /// Whether the service is still watched: another one may have taken its place in a quota
    /// ([`Discovery::forget`](crate::Discovery::forget)). Takes a lock for a moment.
    pub fn is_watched(&self) -> bool {
        self.services.is_watched(&self.service)
    }

    /// Whether any answer of this watch listed an instance. A name without instances is kept for
    /// `discovery.unknown_ttl` only.
    pub fn ever_had_instances(&self) -> bool {
        self.service.ever_had_instances()
    }

    /// Call this when a request failed because no instance of the service answers: while the registry does
    /// not answer either, it is asked again within 1 s; and host names are looked up again. Cheap; never waits.
    pub fn request_refresh(&self) {
        self.service.refresh_requested.notify_one();
        self.request_lookup();
    }

    /// Call this when an instance that is listed by a host name refuses connections: its name may have other addresses now. It
    /// is looked up at most once a second. Cheap; never waits.
    pub fn request_lookup(&self) {
        self.service.lookup_requested.notify_one();
    }

    /// The state of the watch.
    pub fn status(&self) -> ServiceStatus {
        self.services.status(&self.service, now())
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        let reason = *self.reason.get_mut();
        self.services.remove_follower(&self.service, reason);
    }
}
