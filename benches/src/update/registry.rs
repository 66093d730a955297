//! A scripted registry: its one large service changes on request, its other services never change.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use outrigger_registry::{AnswerFuture, Consistency, Cursor, Instance, Query, Registry, WatchAnswer};
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::fixture::{LARGE, small};

/// Answers the first query of a service at once. Later queries wait for [`ScriptedRegistry::release`], or for ever.
#[derive(Debug)]
pub(super) struct ScriptedRegistry {
    next: Mutex<Vec<Instance>>,
    released: Notify,
    asked: Notify,
    index: AtomicU64,
}

impl ScriptedRegistry {
    /// The large service starts with `instances`.
    pub(super) fn new(instances: Vec<Instance>) -> Self {
        let released = Notify::new();
        released.notify_one();
        Self { next: Mutex::new(instances), released, asked: Notify::new(), index: AtomicU64::new(1) }
    }

    /// Prepares the next answer, for [`ScriptedRegistry::release`].
    pub(super) fn prepare(&self, instances: Vec<Instance>) {
        *self.next.lock() = instances;
    }

    /// Gives the answer that was prepared.
    pub(super) fn release(&self) {
        self.released.notify_one();
    }

    /// Resolves once per query of the large service, when the query waits for a change.
    pub(super) async fn wait_asked(&self) {
        self.asked.notified().await;
    }

    async fn large(&self, cursor: Cursor) -> WatchAnswer {
        if cursor != Cursor::START {
            self.asked.notify_one();
        }
        self.released.notified().await;
        let instances = std::mem::take(&mut *self.next.lock());
        self.watched(instances)
    }

    fn watched(&self, instances: Vec<Instance>) -> WatchAnswer {
        let cursor = Cursor::at(self.index.fetch_add(1, Relaxed));
        WatchAnswer { instances, cursor, index_went_back: false, age: None, known_leader: true }
    }
}

impl Registry for ScriptedRegistry {
    fn watch<'a>(
        &'a self,
        query: &'a Query,
        cursor: Cursor,
        _: Consistency,
        _: Duration,
    ) -> AnswerFuture<'a, WatchAnswer> {
        Box::pin(async move {
            match (&*query.service == LARGE, cursor) {
                (true, cursor) => Ok(self.large(cursor).await),
                (false, Cursor::START) => Ok(self.watched(small())),
                (false, _) => std::future::pending().await,
            }
        })
    }

    fn longest_wait(&self) -> Duration {
        Duration::from_secs(600)
    }
}
