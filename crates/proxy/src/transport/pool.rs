//! Idle connections to one instance: newest first, per worker.
//!
//! An idle connection lies in the shard of the worker that has its socket in its reactor, and holds no buffer. A stale one is found at
//! checkout; an old one by [`ConnectionPool::sweep`]. No picking, no retrying.

use std::{
    fmt,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use tokio::time::Instant;

use crate::sync::{AtomicBool, AtomicUsize, Mutex};

struct Idle<T> {
    connection: T,
    since: Instant,
}

/// Counts as an open connection for as long as it lives.
#[derive(Debug)]
pub(crate) struct OpenConnection(Arc<AtomicUsize>);

impl OpenConnection {
    /// Counts one more connection; `None`: `most` are open.
    pub(crate) fn reserve(open: &Arc<AtomicUsize>, most: usize) -> Option<Self> {
        let reserved = Self(open.clone());
        (open.fetch_add(1, Relaxed) < most).then_some(reserved)
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

/// Idle connections of one instance, each a `T`.
pub(crate) struct ConnectionPool<T> {
    shards: Box<[Mutex<Vec<Idle<T>>>]>,
    open: Arc<AtomicUsize>,
    closed: AtomicBool,
}

impl<T> fmt::Debug for ConnectionPool<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnectionPool")
            .field("open", &self.open())
            .field("idle", &self.idle())
            .finish_non_exhaustive()
    }
}

impl<T> ConnectionPool<T> {
    pub(crate) fn new(workers: usize) -> Self {
        Self {
            shards: (0..workers.max(1)).map(|_| Mutex::new(Vec::new())).collect(),
            open: Arc::default(),
            closed: AtomicBool::new(false),
        }
    }

    fn shard(&self, worker: usize) -> &Mutex<Vec<Idle<T>>> {
        &self.shards[worker % self.shards.len()]
    }

    /// Connections open, idle ones included.
    pub(crate) fn open(&self) -> usize {
        self.open.load(Relaxed)
    }

    /// Idle connections.
    pub(crate) fn idle(&self) -> usize {
        (0..self.shards.len()).map(|worker| self.shard(worker).lock().len()).sum()
    }

    /// The newest idle connection younger than `limit` that is not stale; `stale` is called for each that is. `is_stale` asks the
    /// kernel, where its second argument says so: about one that was idle for `ask_after` or longer.
    pub(crate) fn checkout(
        &self,
        worker: usize,
        limit: Duration,
        ask_after: Duration,
        now: Instant,
        is_stale: impl Fn(&mut T, bool) -> bool,
        stale: impl Fn(),
    ) -> Option<T> {
        loop {
            let (mut connection, idle) = self.pop(worker, limit, now)?;
            if !is_stale(&mut connection, idle >= ask_after) {
                return Some(connection);
            }
            stale();
        }
    }

    /// The youngest one, if it is younger than `limit`, and how long it was idle. If it is too old, all are, and the sweep
    /// takes them.
    fn pop(&self, worker: usize, limit: Duration, now: Instant) -> Option<(T, Duration)> {
        let mut shard = self.shard(worker).lock();
        let idle = now.saturating_duration_since(shard.last()?.since);
        if idle < limit { shard.pop().map(|one| (one.connection, idle)) } else { None }
    }

    /// Room for one more open connection, made by closing an idle one where necessary.
    pub(crate) fn reserve(&self, most: usize) -> Option<OpenConnection> {
        loop {
            if let Some(reserved) = OpenConnection::reserve(&self.open, most) {
                return Some(reserved);
            }
            let oldest = (0..self.shards.len()).find_map(|worker| {
                let mut shard = self.shard(worker).lock();
                (!shard.is_empty()).then(|| shard.remove(0))
            });
            oldest?;
        }
    }

    /// Takes a connection back. It is closed instead when its instance is gone, or when enough are idle.
    pub(crate) fn check_in(&self, worker: usize, connection: T, most_idle: usize, now: Instant) {
        if self.closed.load(Relaxed) {
            return;
        }
        let mut shard = self.shard(worker).lock();
        if shard.len() < most_idle {
            // Newest last, so that the oldest age out and the pool shrinks by itself.
            shard.push(Idle { connection, since: now });
        }
        drop(shard);
        // A close that came meanwhile has locked the shard before or after the push: this is seen here, or the connection there.
        if self.closed.load(Relaxed) {
            self.close();
        }
    }

    /// Closes what has been idle for `limit`.
    pub(crate) fn sweep(&self, limit: Duration, now: Instant) {
        for worker in 0..self.shards.len() {
            let mut shard = self.shard(worker).lock();
            let expired =
                shard.iter().take_while(|idle| now.saturating_duration_since(idle.since) >= limit).count();
            let gone: Vec<Idle<T>> = shard.drain(..expired).collect();
            drop(shard);
            drop(gone);
        }
    }

    /// The instance is gone: closes every idle connection, and each other one when it is given back.
    pub(crate) fn close(&self) {
        self.closed.store(true, Relaxed);
        for worker in 0..self.shards.len() {
            let idle = std::mem::take(&mut *self.shard(worker).lock());
            drop(idle);
        }
    }
}
