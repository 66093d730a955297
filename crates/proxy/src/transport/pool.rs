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

use outrigger_net::Stream;
use parking_lot::{Mutex, MutexGuard};
use tokio::time::Instant;

use crate::transport::channel::Channel;

/// A connection to an instance.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) channel: Channel,
    /// Another request used it before.
    pub(crate) is_reused: bool,
    _open: OpenConnection,
}

impl Connection {
    pub(crate) fn new(stream: Stream, open: OpenConnection) -> Self {
        Self { channel: Channel::new(stream), is_reused: false, _open: open }
    }

    /// Whether it cannot carry another request: bytes that were not asked for have come, or it has ended. `ask_kernel`: a
    /// system call makes sure; otherwise an end of the last moment may be missed.
    fn is_stale(&mut self, ask_kernel: bool) -> bool {
        !self.channel.inbox.is_empty() || self.channel.is_ended || self.channel.stream.is_stale(ask_kernel)
    }
}

/// Counts as an open connection for as long as it lives.
#[derive(Debug)]
pub(crate) struct OpenConnection(Arc<AtomicUsize>);

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

struct Idle {
    connection: Connection,
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
    ) -> Option<Connection> {
        loop {
            let Idle { mut connection, since } = self.pop(worker, limit, now)?;
            if connection.is_stale(now.saturating_duration_since(since) >= ask_after) {
                stale();
                continue;
            }
            connection.is_reused = true;
            return Some(connection);
        }
    }

    fn pop(&self, worker: usize, limit: Duration, now: Instant) -> Option<Idle> {
        let mut shard = self.shard(worker);
        // The last is the youngest: when it is too old, all are, and the sweep takes them.
        let is_young = shard.last().is_some_and(|idle| now.saturating_duration_since(idle.since) < limit);
        if is_young { shard.pop() } else { None }
    }

    /// Room for one more open connection, made by closing an idle one where necessary.
    pub(crate) fn reserve(&self, most: usize) -> Option<OpenConnection> {
        loop {
            let open = self.open.fetch_add(1, Relaxed);
            let reserved = OpenConnection(self.open.clone());
            if open < most {
                return Some(reserved);
            }
            drop(reserved);
            let oldest = (0..self.shards.len()).find_map(|worker| {
                let mut shard = self.shard(worker);
                (!shard.is_empty()).then(|| shard.remove(0))
            });
            oldest?;
        }
    }

    /// Takes a connection back. It is closed instead when its instance is gone, or when enough are idle.
    pub(crate) fn check_in(&self, worker: usize, connection: Connection, most_idle: usize, now: Instant) {
        if self.closed.load(Relaxed) {
            return;
        }
        let mut shard = self.shard(worker);
        if shard.len() < most_idle {
            // Newest last, so that the oldest age out and the pool shrinks by itself.
            shard.push(Idle { connection, since: now });
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
