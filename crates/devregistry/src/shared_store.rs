//! The store that all tasks share: its lock, its clock, and the wake-up of the tasks that wait for a change.

use std::{net::SocketAddr, time::Instant};

use parking_lot::Mutex;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{options::DevRegistryOptions, store::Store};

/// The one store, and what the tasks around it wait for.
#[derive(Debug)]
pub(crate) struct SharedStore {
    /// Cancelled when the registry shuts down.
    pub(crate) stopping: CancellationToken,
    store: Mutex<Store>,
    changes: watch::Sender<()>,
}

impl SharedStore {
    pub(crate) fn new(options: &DevRegistryOptions, addr: SocketAddr) -> Self {
        Self {
            stopping: CancellationToken::new(),
            store: Mutex::new(Store::new(options, addr, now())),
            changes: watch::Sender::new(()),
        }
    }

    /// Reads the store under its lock.
    pub(crate) fn read<T>(&self, look: impl FnOnce(&Store) -> T) -> T {
        look(&self.store.lock())
    }

    /// Changes the store under its lock, and wakes every subscriber.
    pub(crate) fn write<T>(&self, change: impl FnOnce(&mut Store, Instant) -> T) -> T {
        let answer = change(&mut self.store.lock(), now());
        self.changes.send_replace(());
        answer
    }

    /// Marked as changed at every write from now on.
    pub(crate) fn subscribe(&self) -> watch::Receiver<()> {
        self.changes.subscribe()
    }
}

/// tokio's clock, so that a test can pause it.
pub(crate) fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}
