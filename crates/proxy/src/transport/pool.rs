//! Idle connections to one instance: newest first, per worker.
//!
//! An idle connection lies in the shard of the worker that has its socket in its reactor, and holds no buffer. A stale one is found at
//! checkout; an old one by [`ConnectionPool::sweep`]. No picking, no retrying.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use parking_lot::{Mutex, MutexGuard};
use tokio::time::Instant;

use crate::transport::exchange::{Exchange, OpenConnection};

struct Idle {
    exchange: Box<Exchange>,
    since: Instant,
}

/// Idle connections of one instance.
pub(crate) struct ConnectionPool {
    shards: Box<[Mutex<Vec<Idle>>]>,
    open: Arc<AtomicUsize>,
    closed: AtomicBool,
}

impl fmt::Debug for ConnectionPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnectionPool")
            .field("open", &self.open())
            .field("idle", &self.idle())
            .finish_non_exhaustive()
    }
}

impl ConnectionPool {
    pub(crate) fn new(workers: usize) -> Self {
        Self {
            shards: (0..workers.max(1)).map(|_| Mutex::default()).collect(),
            open: Arc::default(),
            closed: AtomicBool::new(false),
        }
    }

    fn shard(&self, worker: usize) -> MutexGuard<'_, Vec<Idle>> {
        self.shards[worker % self.shards.len()].lock()
    }

    /// Connections open, idle ones included.
    pub(crate) fn open(&self) -> usize {
        self.open.load(Relaxed)
    }

    /// Idle connections.
    pub(crate) fn idle(&self) -> usize {
        (0..self.shards.len()).map(|worker| self.shard(worker).len()).sum()
    }

    /// The newest idle connection younger than `limit` that is not stale; `stale` is called for each that is. The kernel is
    /// asked about one that was idle for `ask_after` or longer.
    pub(crate) fn checkout(
        &self,
        worker: usize,
        limit: Duration,
        ask_after: Duration,
        now: Instant,
        stale: impl Fn(),
    ) -> Option<Box<Exchange>> {
        loop {
            let (mut exchange, idle) = self.pop(worker, limit, now)?;
            if !exchange.is_stale(idle >= ask_after) {
                return Some(exchange);
            }
            stale();
        }
    }

    /// The youngest one, if it is younger than `limit`, and how long it was idle. If it is too old, all are, and the sweep
    /// takes them.
    fn pop(&self, worker: usize, limit: Duration, now: Instant) -> Option<(Box<Exchange>, Duration)> {
        let mut shard = self.shard(worker);
        let idle = now.saturating_duration_since(shard.last()?.since);
        if idle < limit { shard.pop().map(|one| (one.exchange, idle)) } else { None }
    }

    /// Room for one more open connection, made by closing an idle one where necessary.
    pub(crate) fn reserve(&self, most: usize) -> Option<OpenConnection> {
        loop {
            if let Some(reserved) = OpenConnection::reserve(&self.open, most) {
                return Some(reserved);
            }
            let oldest = (0..self.shards.len()).find_map(|worker| {
                let mut shard = self.shard(worker);
                (!shard.is_empty()).then(|| shard.remove(0))
            });
            oldest?;
        }
    }

    /// Takes a connection back. It is closed instead when its instance is gone, or when enough are idle.
    pub(crate) fn check_in(&self, worker: usize, exchange: Box<Exchange>, most_idle: usize, now: Instant) {
        if self.closed.load(Relaxed) {
            return;
        }
        let mut shard = self.shard(worker);
        if shard.len() < most_idle {
            // Newest last, so that the oldest age out and the pool shrinks by itself.
            shard.push(Idle { exchange, since: now });
        }
        drop(shard);
        if self.closed.load(Relaxed) {
            self.close();
        }
    }

    /// Closes what has been idle for `limit`.
    pub(crate) fn sweep(&self, limit: Duration, now: Instant) {
        for worker in 0..self.shards.len() {
            let mut shard = self.shard(worker);
            let expired =
                shard.iter().take_while(|idle| now.saturating_duration_since(idle.since) >= limit).count();
            let gone: Vec<Idle> = shard.drain(..expired).collect();
            drop(shard);
            drop(gone);
        }
    }

    /// The instance is gone: closes every idle connection, and each other one when it is given back.
    pub(crate) fn close(&self) {
        self.closed.store(true, Relaxed);
        for worker in 0..self.shards.len() {
            let idle = std::mem::take(&mut *self.shard(worker));
            drop(idle);
        }
    }
}
