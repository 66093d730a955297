//! A share in the watch of one service.

use std::{
    future::pending,
    sync::{Arc, Mutex, PoisonError},
};

use outrigger_registry::Query;
use tokio::sync::watch;

use crate::{
    Kind, ServiceStatus, Snapshot,
    entry::Entry,
    table::{Table, now},
};

/// Keeps a service watched: when the last follower of a query is dropped, its watcher stops, its
/// entry leaves the table and its metric series go away.
///
/// Every method may be called from any thread and any runtime.
#[derive(Debug)]
pub struct Follower {
    entry: Arc<Entry>,
    table: Arc<Table>,
    kind: Mutex<Kind>,
    bell: watch::Receiver<u64>,
    /// The version last returned by [`Follower::changed`].
    seen: u64,
}

impl Follower {
    /// A share that [`Table::join`] has already counted.
    pub(crate) fn new(entry: Arc<Entry>, table: Arc<Table>, kind: Kind) -> Self {
        let bell = entry.subscribe();
        Self { entry, table, kind: Mutex::new(kind), bell, seen: 0 }
    }

    /// What is followed.
    pub fn query(&self) -> &Query {
        &self.entry.query
    }

    /// Follows for another reason from now on: the settings name the service, or no longer do.
    pub fn set_kind(&self, kind: Kind) {
        let mut now = self.kind.lock().unwrap_or_else(PoisonError::into_inner);
        let before = std::mem::replace(&mut *now, kind);
        self.table.change_kind(&self.entry.query, before, kind);
    }

    /// What is known now. One atomic load; never waits.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.entry.snapshot()
    }

    /// The next snapshot newer than the last that this method returned; the first call returns at
    /// once when there is one already. Changes in between are skipped, never the
    /// latest. Cancel-safe. Pending for ever once discovery has been shut down.
    pub async fn changed(&mut self) -> Arc<Snapshot> {
        loop {
            // Marked before the load: a change that lands in between rings again.
            self.bell.borrow_and_update();
            let snapshot = self.entry.snapshot();
            if snapshot.version > self.seen {
                self.seen = snapshot.version;
                return snapshot;
            }
            if self.bell.changed().await.is_err() {
                return pending().await; // out of reach: the entry, which we hold, holds the sender
            }
        }
    }

    /// Resolves once the registry has answered at least once, also with an empty list, or once what
    /// was known before a restart serves in its place. It may never: put a time-out around it.
    pub async fn first_answer(&self) {
        if self.entry.subscribe().wait_for(|version| *version > 0).await.is_err() {
            pending().await
        }
    }

    /// Whether any answer of this watch ever listed an instance: a name for which none did is kept
    /// for `discovery.unknown_ttl` only.
    pub fn ever_had_instances(&self) -> bool {
        self.entry.ever_had_instances()
    }

    /// Says that a request of the service failed for want of an instance that answers: while the registry
    /// gives no answer either, it is asked again within 1 s. Cheap, and never waits.
    pub fn need(&self) {
        self.entry.need();
    }

    /// Where its watch stands.
    pub fn status(&self) -> ServiceStatus {
        self.table.status(&self.entry, now())
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        let kind = *self.kind.get_mut().unwrap_or_else(PoisonError::into_inner);
        self.table.leave(&self.entry.query, kind);
    }
}
