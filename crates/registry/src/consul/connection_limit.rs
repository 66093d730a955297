//! A set of connections with a limit, and how long a watch may keep its place when there are more
//! watches than places.

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

/// The shortest wait of a watch, however many others are in line.
const MIN_WAIT: Duration = Duration::from_secs(1);
/// The wait while most places are taken: a newcomer gets its turn soon.
const BUSY_WAIT: Duration = Duration::from_secs(10);
/// How long a watch should be without a place between two of its turns.
const MAX_WITHOUT_SLOT: Duration = Duration::from_secs(5);

/// Connections of one kind: in use and idle ones together are never more than the limit.
pub(super) struct ConnectionLimit {
    slots: Semaphore,
    limit: usize,
    waiting: AtomicUsize,
    // Held for a push or a pop, never over an await.
    idle: Mutex<Vec<AgentConnection>>,
}

/// The right to one connection.
pub(super) struct Slot<'a> {
    connections: &'a ConnectionLimit,
    queued: Duration,
    _permit: SemaphorePermit<'a>,
}

impl ConnectionLimit {
    /// A lane of `limit` connections.
    pub(super) fn new(limit: usize) -> Self {
        Self {
            slots: Semaphore::new(limit),
            limit,
            waiting: AtomicUsize::new(0),
            idle: Mutex::new(Vec::new()),
        }
    }

    /// A place, in the order of asking; `None` when there was none for `longest`.
    pub(super) async fn acquire(&self, longest: Duration) -> Option<Slot<'_>> {
        if let Ok(permit) = self.slots.try_acquire() {
            return Some(Slot { connections: self, queued: Duration::ZERO, _permit: permit });
        }
        let _counted = WaitingGuard::new(&self.waiting);
        let since = Instant::now();
        let permit = timeout(longest, self.slots.acquire()).await.ok()?.ok()?;
        Some(Slot { connections: self, queued: since.elapsed(), _permit: permit })
    }

    /// The limit.
    pub(super) fn limit(&self) -> usize {
        self.limit
    }

    /// Places taken.
    pub(super) fn in_use(&self) -> usize {
        self.limit.saturating_sub(self.slots.available_permits())
    }

    /// How many wait for a place.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }
}

impl Slot<'_> {
    /// The connection that was used last. The caller checks whether it still lives.
    pub(super) fn pop_idle(&self) -> Option<AgentConnection> {
        self.connections.idle.lock().pop()
    }

    /// Keeps `conn` for the next exchange.
    pub(super) fn push_idle(&self, conn: AgentConnection) {
        self.connections.idle.lock().push(conn);
    }

    /// How long a watch may wait that was allowed `wait`, the time in line included.
    pub(super) fn fair_wait(&self, wait: Duration) -> Duration {
        let turn =
            fair_wait(wait, self.connections.in_use(), self.connections.waiting(), self.connections.limit);
        turn.min(wait.saturating_sub(self.queued))
    }
}

/// All of it while a quarter of the places is free. Then less; and when others are in line, so much
/// that none of them is out of turn for longer than about [`MAX_WITHOUT_SLOT`].
fn fair_wait(wait: Duration, in_use: usize, waiting: usize, limit: usize) -> Duration {
    if waiting == 0 {
        return if in_use * 4 <= limit * 3 { wait } else { wait.min(BUSY_WAIT) };
    }
    let share = MAX_WITHOUT_SLOT.as_secs_f64() * limit as f64 / waiting as f64;
    let longest = wait.min(BUSY_WAIT);
    Duration::from_secs_f64(share).clamp(MIN_WAIT.min(longest), longest)
}

/// One in line. Drop is one less, also when the caller lets go.
struct WaitingGuard<'a>(&'a AtomicUsize);

impl<'a> WaitingGuard<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

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
    fn a_watch_waits_as_long_as_it_likes_while_places_are_free() {
        assert_fair_wait(1, 0, 90, 45);
        assert_fair_wait(67, 0, 90, 45);
    }

    #[test]
    fn waits_are_shorter_before_the_places_run_out() {
        assert_fair_wait(68, 0, 90, 10);
        assert_fair_wait(90, 0, 90, 10);
    }

    #[test]
    fn the_more_are_in_line_the_shorter_a_turn() {
        assert_fair_wait(90, 1, 90, 10);
        assert_fair_wait(90, 90, 90, 5);
        assert_fair_wait(90, 160, 90, 2);
        assert_fair_wait(1, 200, 1, 1);
    }

    #[test]
    fn a_wait_that_is_short_already_is_left_alone() {
        let short = Duration::from_millis(200);
        assert_eq!(fair_wait(short, 1, 100, 1), short);
        assert_eq!(fair_wait(short, 1, 0, 1), short);
    }

    #[tokio::test(start_paused = true)]
    async fn those_in_line_are_counted_until_they_get_a_place_or_give_up() {
        let lane = ConnectionLimit::new(1);
        let place = lane.acquire(Duration::ZERO).await;
        assert_eq!((lane.in_use(), lane.waiting()), (1, 0));
        let mut second = std::pin::pin!(lane.acquire(Duration::from_secs(1)));
        assert!(futures_util::poll!(second.as_mut()).is_pending());
        assert_eq!(lane.waiting(), 1);
        assert!(second.await.is_none(), "gave up");
        assert_eq!(lane.waiting(), 0);
        drop(place);
        assert_eq!(lane.in_use(), 0);
        assert!(lane.acquire(Duration::ZERO).await.is_some());
    }
}
