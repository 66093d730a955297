//! Connections with a limit, and the longest wait of a watch when there are more watches than connections.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{
    sync::{Semaphore, SemaphorePermit},
    time::{Instant, timeout},
};

use super::connection::AgentConnection;

/// The shortest wait of a watch, however many other watches are waiting.
const MIN_WAIT: Duration = Duration::from_secs(1);
/// The wait while most slots are taken: a new watch gets a slot soon.
const BUSY_WAIT: Duration = Duration::from_secs(10);
/// How long a watch should be without a slot between two of its waits.
const MAX_WITHOUT_SLOT: Duration = Duration::from_secs(5);

/// Connections of one kind: those in use and idle ones together are never more than the limit.
pub(super) struct ConnectionLimit {
    slots: Semaphore,
    pub(super) limit: usize,
    waiting: AtomicUsize,
    // Locked for a push or a pop, never over an await.
    idle: Mutex<Vec<AgentConnection>>,
}

/// The right to one connection.
pub(super) struct Slot<'a> {
    connections: &'a ConnectionLimit,
    queued: Duration,
    _permit: SemaphorePermit<'a>,
}

impl ConnectionLimit {
    /// A limit of `limit` connections.
    pub(super) fn new(limit: usize) -> Self {
        Self {
            slots: Semaphore::new(limit),
            limit,
            waiting: AtomicUsize::new(0),
            idle: Mutex::new(Vec::new()),
        }
    }

    /// A slot, in the order of the calls; `None` when there was none for `longest`.
    pub(super) async fn acquire(&self, longest: Duration) -> Option<Slot<'_>> {
        if let Ok(permit) = self.slots.try_acquire() {
            return Some(Slot { connections: self, queued: Duration::ZERO, _permit: permit });
        }
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let _counted = WaitingGuard(&self.waiting);
        let since = Instant::now();
        let permit = timeout(longest, self.slots.acquire()).await.ok()?.ok()?;
        Some(Slot { connections: self, queued: since.elapsed(), _permit: permit })
    }

    /// Slots in use.
    pub(super) fn in_use(&self) -> usize {
        self.limit.saturating_sub(self.slots.available_permits())
    }

    /// Callers that wait for a slot.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }
}

impl Slot<'_> {
    /// The connection that was used last. The caller checks whether it can be used.
    pub(super) fn pop_idle(&self) -> Option<AgentConnection> {
        self.connections.idle.lock().pop()
    }

    /// Keeps `conn` for the next exchange.
    pub(super) fn push_idle(&self, conn: AgentConnection) {
        self.connections.idle.lock().push(conn);
    }

    /// How long a watch with the wait `wait` may keep its slot; the time in the queue counts too.
    pub(super) fn fair_wait(&self, wait: Duration) -> Duration {
        let turn =
            fair_wait(wait, self.connections.in_use(), self.connections.waiting(), self.connections.limit);
        turn.min(wait.saturating_sub(self.queued))
    }
}

/// The whole wait while a quarter of the slots is free, and less otherwise. While other watches are
/// waiting, so much less that no watch is without a slot for longer than about [`MAX_WITHOUT_SLOT`].
fn fair_wait(wait: Duration, in_use: usize, waiting: usize, limit: usize) -> Duration {
    if waiting == 0 {
        return if in_use * 4 <= limit * 3 { wait } else { wait.min(BUSY_WAIT) };
    }
    let share = MAX_WITHOUT_SLOT.as_secs_f64() * limit as f64 / waiting as f64;
    let longest = wait.min(BUSY_WAIT);
    Duration::from_secs_f64(share).clamp(MIN_WAIT.min(longest), longest)
}

/// One caller that waits. Dropping it is one less, also when the caller is cancelled.
struct WaitingGuard<'a>(&'a AtomicUsize);

impl Drop for WaitingGuard<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn assert_fair_wait(in_use: usize, waiting: usize, limit: usize, seconds: u64) {
        let turn = fair_wait(Duration::from_secs(45), in_use, waiting, limit);
        assert_eq!(turn.as_secs(), seconds, "{in_use} of {limit} in use, {waiting} waiting");
    }

    #[test]
    fn a_watch_waits_for_its_whole_wait_while_slots_are_free() {
        assert_fair_wait(1, 0, 90, 45);
        assert_fair_wait(67, 0, 90, 45);
    }

    #[test]
    fn waits_are_shorter_before_the_last_slot_is_taken() {
        assert_fair_wait(68, 0, 90, 10);
        assert_fair_wait(90, 0, 90, 10);
    }

    #[test]
    fn the_more_watches_wait_the_shorter_is_each_wait() {
        assert_fair_wait(90, 1, 90, 10);
        assert_fair_wait(90, 90, 90, 5);
        assert_fair_wait(90, 160, 90, 2);
        assert_fair_wait(1, 200, 1, 1);
    }

    #[test]
    fn a_short_wait_stays_as_it_is() {
        let short = Duration::from_millis(200);
        assert_eq!(fair_wait(short, 1, 100, 1), short);
        assert_eq!(fair_wait(short, 1, 0, 1), short);
    }

    #[tokio::test(start_paused = true)]
    async fn waiting_callers_are_counted_until_they_get_a_slot_or_are_cancelled() {
        let limit = ConnectionLimit::new(1);
        let slot = limit.acquire(Duration::ZERO).await;
        assert_eq!((limit.in_use(), limit.waiting()), (1, 0));
        let mut second = std::pin::pin!(limit.acquire(Duration::from_secs(1)));
        assert!(futures_util::poll!(second.as_mut()).is_pending());
        assert_eq!(limit.waiting(), 1);
        assert!(second.await.is_none(), "gave up");
        assert_eq!(limit.waiting(), 0);
        drop(slot);
        assert_eq!(limit.in_use(), 0);
        assert!(limit.acquire(Duration::ZERO).await.is_some());
    }
}
