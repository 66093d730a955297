//! The requests that wait for a lock, and why each still waits.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use outrigger_config::error_chain;
use parking_lot::Mutex;

use crate::{AcquireError, LockName};

/// A request that waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    /// Of which lock.
    pub name: LockName,
    /// Most holders that it asks for.
    pub limit: u32,
    /// The owner of the lease that it asks for.
    pub owner: Option<String>,
    /// Since when, on the clock of the locks.
    pub(crate) since: Duration,
    /// Why its last attempt failed: a name of a closed list, and a text. Absent: another request of this sidecar for the same lock has
    /// its turn, or the first attempt is under way.
    pub last_failure: Option<(&'static str, String)>,
}

/// All of them.
#[derive(Debug)]
pub(super) struct Waiters {
    limit: usize,
    list: Arc<Mutex<List>>,
}

#[derive(Debug, Default)]
struct List {
    next: u64,
    waiting: BTreeMap<u64, Waiting>,
}

/// The place of one request, until it is dropped.
#[derive(Debug)]
pub(super) struct WaitingPlace {
    number: u64,
    list: Arc<Mutex<List>>,
}

impl Waiters {
    pub(super) fn new(limit: usize) -> Self {
        Self { limit, list: Arc::default() }
    }

    /// # Errors
    /// When as many wait as may wait.
    pub(super) fn enter(&self, waiting: Waiting) -> Result<WaitingPlace, AcquireError> {
        let mut list = self.list.lock();
        if list.waiting.len() >= self.limit {
            return Err(AcquireError::TooManyWaiters { limit: self.limit });
        }
        let number = list.next;
        list.next += 1;
        list.waiting.insert(number, waiting);
        Ok(WaitingPlace { number, list: self.list.clone() })
    }

    /// In the order in which they came.
    pub(super) fn all(&self) -> Vec<Waiting> {
        self.list.lock().waiting.values().cloned().collect()
    }

    pub(super) fn count(&self) -> usize {
        self.list.lock().waiting.len()
    }
}

impl WaitingPlace {
    /// Says why it still waits.
    pub(super) fn record_failure(&self, error: &AcquireError) {
        if let Some(waiting) = self.list.lock().waiting.get_mut(&self.number) {
            waiting.last_failure = Some((error.reason(), error_chain(error)));
        }
    }
}

impl Drop for WaitingPlace {
    fn drop(&mut self) {
        self.list.lock().waiting.remove(&self.number);
    }
}
