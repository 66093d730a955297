//! The end of this process: by a drain, or by another process that takes its place.

use std::time::Duration;

use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::{LockManager, Phase};
use crate::{HoldState, LossReason};

impl LockManager {
    /// How many locks are held.
    pub fn held(&self) -> usize {
        self.0.held_ones().len()
    }

    /// Resolves when no lock is held by a connection or a lease, and none begins while this process drains. Dropping the future loses
    /// nothing.
    pub async fn wait_until_free(&self) {
        drop(self.0.begins.write().await);
        loop {
            let held = self.0.held_ones();
            if held.is_empty() {
                return;
            }
            for hold in held {
                let _ = hold.state.subscribe().wait_for(|state| *state != HoldState::Held).await;
            }
        }
    }

    /// Cancelled when the sidecar drains: holders should give their locks back.
    pub fn draining(&self) -> CancellationToken {
        self.0.draining()
    }

    /// Acquires no more locks from now on, and tells the holders.
    pub fn drain(&self) {
        self.0.draining().cancel();
    }

    /// Leaves the leases to another process of this sidecar, which reads them from the record: from now on this process writes nothing
    /// there, and no lock begins here. What connections hold stays until they end.
    pub async fn hand_over(&self) {
        self.0.phase().replaced.cancel();
        self.drain();
        {
            let _none_begins = self.0.begins.write().await;
            self.0.handed_over().cancel();
        }
        self.0.save().await;
        self.0.record.freeze(true).await;
        let leases: Vec<_> = self.0.held_ones().into_iter().filter(|hold| hold.lease.is_some()).collect();
        leases.iter().for_each(|hold| hold.leave());
    }

    /// The other process has ended: acquires locks again, and takes the leases back.
    pub async fn take_back(&self) {
        // Before anything is written, which would lose the leases.
        let left = self.read_record().await;
        self.0.record.freeze(false).await;
        *self.0.phase.lock() = Phase::default();
        self.take_over_all(left).await;
        // What connections hold is not in the record.
        self.0.save().await;
    }

    /// Ends what is still held: each loss is told first, then its session is ended, so that the registry keeps the lock closed for its
    /// delay. Returns when it is done, or after `grace`.
    pub async fn shutdown(&self, grace: Duration) {
        self.drain();
        let all_told = async {
            drop(self.0.begins.write().await);
            for hold in self.0.held_ones() {
                hold.lose(LossReason::Drained);
            }
            self.wait_until_free().await;
            self.0.tasks.close();
            self.0.tasks.wait().await;
        };
        let _ = timeout(grace, all_told).await;
    }
}
