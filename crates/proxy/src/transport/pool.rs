//! The connections to one instance: the permits to have one, and the idle ones, newest first, per worker.
//!
//! A request needs a permit ([`Permits`]), then takes an idle connection ([`ConnectionPool`]) or opens one. An idle connection lies
//! in the shard of the worker that has its socket in its reactor, and holds no buffer. A stale one is found at checkout; an old one
//! by [`ConnectionPool::sweep`]. No picking, no retrying.

use std::{
    collections::BTreeMap,
    fmt,
    pin::Pin,
    sync::{
        Arc,
        atomic::Ordering::{AcqRel, Acquire, Relaxed},
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

use outrigger_policy::Outcome;
use tokio::time::Instant;

use crate::sync::{AtomicBool, AtomicU64, AtomicUsize, Mutex};

/// Why there is no connection.
#[derive(Debug, Clone)]
pub(crate) struct CheckoutError {
    pub(crate) outcome: Outcome,
    pub(crate) detail: String,
}

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

/// The permits of one instance: a request holds one for as long as it may have a connection. Requests that find none free wait in
/// the order of their arrival.
///
/// The permits in use, the limit and the number of the waiting requests are one word, so that each change is before or after each
/// other one: a request that begins to wait sees the permit that is given back, or its giver sees the request. A free permit is
/// given to the request that has waited for the longest time before any other can take it.
#[derive(Debug)]
pub(crate) struct Permits {
    counts: AtomicU64,
    /// Changed together with the number of the waiting requests in `counts`, under this lock.
    queue: Mutex<Queue>,
}

/// The requests that wait for a permit.
#[derive(Debug, Default)]
struct Queue {
    /// The number of the next one.
    next: u64,
    /// By number: the one that came first is first. `None`: it has not been polled yet.
    waiting: BTreeMap<u64, Option<Waker>>,
}

/// The numbers in the word of [`Permits`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct PermitCounts {
    used: usize,
    most: usize,
    waiting: usize,
}

impl PermitCounts {
    /// Bits of each number. Settings allow 100,000 at most.
    const WIDTH: u32 = 21;
    /// The greatest number.
    const MAX: usize = (1 << Self::WIDTH) - 1;
    const ONE_USED: u64 = 1;
    const ONE_WAITING: u64 = 1 << (2 * Self::WIDTH);

    fn unpack(word: u64) -> Self {
        let part = |at: u32| (word >> (at * Self::WIDTH)) as usize & Self::MAX;
        Self { used: part(0), most: part(1), waiting: part(2) }
    }

    fn pack(self) -> u64 {
        let part = |number: usize, at: u32| (number.min(Self::MAX) as u64) << (at * Self::WIDTH);
        part(self.used, 0) | part(self.most, 1) | part(self.waiting, 2)
    }

    fn has_free(self) -> bool {
        self.used < self.most
    }

    /// Whether a request that comes now may take a permit: one is free, and no request waits for it.
    fn admits_newcomer(self) -> bool {
        self.has_free() && self.waiting == 0
    }
}

impl Permits {
    /// `most` permits, all free.
    pub(crate) fn new(most: usize) -> Self {
        let counts = PermitCounts { used: 0, most, waiting: 0 };
        Self { counts: AtomicU64::new(counts.pack()), queue: Mutex::new(Queue::default()) }
    }

    /// Permits in use.
    pub(crate) fn used(&self) -> usize {
        self.counts().used
    }

    /// The limit.
    pub(crate) fn most(&self) -> usize {
        self.counts().most
    }

    /// Changes the limit. Permits beyond it stay with their requests.
    pub(crate) fn set_most(&self, most: usize) {
        let set = |word| Some(PermitCounts { most, ..PermitCounts::unpack(word) }.pack());
        if self.change(set).is_some_and(|before| before.waiting > 0) {
            self.grant();
        }
    }

    /// Takes a permit, if one is free and no request waits for it. [`Permits::give_back`] must follow.
    pub(crate) fn try_take(&self) -> bool {
        let take =
            |word| PermitCounts::unpack(word).admits_newcomer().then_some(word + PermitCounts::ONE_USED);
        self.change(take).is_some()
    }

    /// Gives a permit back.
    pub(crate) fn give_back(&self) {
        let before = PermitCounts::unpack(self.counts.fetch_sub(PermitCounts::ONE_USED, AcqRel));
        if before.waiting > 0 {
            self.grant();
        }
    }

    /// Waits for a permit, after the requests that wait already. The permit is taken when the [`PermitTurn`] is ready, and
    /// [`Permits::give_back`] must follow. `None`: `max_waiting` requests wait already.
    pub(crate) fn wait(&self, max_waiting: usize) -> Option<PermitTurn<'_>> {
        let max_waiting = max_waiting.min(PermitCounts::MAX);
        let mut queue = self.queue.lock();
        let join = |word| {
            let counts = PermitCounts::unpack(word);
            match counts.admits_newcomer() {
                true => Some(word + PermitCounts::ONE_USED),
                false => (counts.waiting < max_waiting).then_some(word + PermitCounts::ONE_WAITING),
            }
        };
        let before = self.change(join)?;
        let number = queue.next;
        queue.next += 1;
        if !before.admits_newcomer() {
            queue.waiting.insert(number, None);
        }
        Some(PermitTurn { permits: self, number, is_taken: false })
    }

    /// Gives free permits to the requests that have waited for the longest time.
    fn grant(&self) {
        loop {
            let mut queue = self.queue.lock();
            let Some(first) = queue.waiting.first_entry() else { return };
            // Never above the limit, not even for a moment: the next one would see no free permit.
            let pass_on = |word| {
                let has_free = PermitCounts::unpack(word).has_free();
                has_free.then_some(word + PermitCounts::ONE_USED - PermitCounts::ONE_WAITING)
            };
            if self.change(pass_on).is_none() {
                return;
            }
            let waker = first.remove();
            drop(queue);
            if let Some(waker) = waker {
                waker.wake();
            }
        }
    }

    fn counts(&self) -> PermitCounts {
        PermitCounts::unpack(self.counts.load(Acquire))
    }

    /// The counts from before the change; `None`: there was none.
    fn change(&self, change: impl FnMut(u64) -> Option<u64>) -> Option<PermitCounts> {
        self.counts.fetch_update(AcqRel, Acquire, change).ok().map(PermitCounts::unpack)
    }
}

/// One request that waits for a permit; ready when it has one. Dropped before, it leaves the queue, or gives the permit on.
#[derive(Debug)]
#[must_use = "a turn that is dropped leaves the queue"]
pub(crate) struct PermitTurn<'a> {
    permits: &'a Permits,
    number: u64,
    is_taken: bool,
}

impl Future for PermitTurn<'_> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let permits = self.permits;
        let mut queue = permits.queue.lock();
        match queue.waiting.get_mut(&self.number) {
            Some(waker) => {
                *waker = Some(cx.waker().clone());
                Poll::Pending
            }
            // Out of the queue: a permit was given to this request.
            None => {
                self.is_taken = true;
                Poll::Ready(())
            }
        }
    }
}

impl Drop for PermitTurn<'_> {
    fn drop(&mut self) {
        if self.is_taken {
            return;
        }
        let mut queue = self.permits.queue.lock();
        if queue.waiting.remove(&self.number).is_some() {
            self.permits.counts.fetch_sub(PermitCounts::ONE_WAITING, AcqRel);
            return;
        }
        drop(queue);
        self.permits.give_back();
    }
}
