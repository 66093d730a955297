//! A set of connections with a limit, and how long a watch may keep its place when there are more
//! watches than places.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{Semaphore, SemaphorePermit},
    time::{Instant, timeout},
};

use super::conn::Conn;

/// The shortest wait of a watch, however many others are in line.
const SHORTEST: Duration = Duration::from_secs(1);
/// The wait while most places are taken: a newcomer gets its turn soon.
const BUSY: Duration = Duration::from_secs(10);
/// How long a watch should be without a place between two of its turns.
const OUT_OF_TURN: Duration = Duration::from_secs(5);

/// Connections of one kind: in use and idle ones together are never more than the limit.
pub(super) struct Lane {
    places: Semaphore,
    limit: usize,
    waiting: AtomicUsize,
    // Held for a push or a pop, never over an await.
    idle: Mutex<Vec<Conn>>,
}

/// The right to one connection.
pub(super) struct Place<'a> {
    lane: &'a Lane,
    waited: Duration,
    _permit: SemaphorePermit<'a>,
}

impl Lane {
    /// A lane of `limit` connections.
    pub(super) fn new(limit: usize) -> Self {
        Self {
            places: Semaphore::new(limit),
            limit,
            waiting: AtomicUsize::new(0),
            idle: Mutex::new(Vec::new()),
        }
    }

    /// A place, in the order of asking; `None` when there was none for `longest`.
    pub(super) async fn place(&self, longest: Duration) -> Option<Place<'_>> {
        if let Ok(permit) = self.places.try_acquire() {
            return Some(Place { lane: self, waited: Duration::ZERO, _permit: permit });
        }
        let _counted = Counted::new(&self.waiting);
        let since = Instant::now();
        let permit = timeout(longest, self.places.acquire()).await.ok()?.ok()?;
        Some(Place { lane: self, waited: since.elapsed(), _permit: permit })
    }

    /// The limit.
    pub(super) fn limit(&self) -> usize {
        self.limit
    }

    /// Places taken.
    pub(super) fn in_use(&self) -> usize {
        self.limit.saturating_sub(self.places.available_permits())
    }

    /// How many wait for a place.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }
}

impl Place<'_> {
    /// The connection that was used last. The caller checks whether it still lives.
    pub(super) fn idle(&self) -> Option<Conn> {
        self.lane.idle.lock().unwrap_or_else(PoisonError::into_inner).pop()
    }

    /// Keeps `conn` for the next exchange.
    pub(super) fn keep(&self, conn: Conn) {
        self.lane.idle.lock().unwrap_or_else(PoisonError::into_inner).push(conn);
    }

    /// How long a watch may wait that was allowed `wait`, the time in line included.
    pub(super) fn turn(&self, wait: Duration) -> Duration {
        let turn = turn(wait, self.lane.in_use(), self.lane.waiting(), self.lane.limit);
        turn.min(wait.saturating_sub(self.waited))
    }
}

/// All of it while a quarter of the places is free. Then less; and when others are in line, so much
/// that none of them is out of turn for longer than about [`OUT_OF_TURN`].
fn turn(wait: Duration, in_use: usize, waiting: usize, limit: usize) -> Duration {
    if waiting == 0 {
        return if in_use * 4 <= limit * 3 { wait } else { wait.min(BUSY) };
    }
    let share = OUT_OF_TURN.as_secs_f64() * limit as f64 / waiting as f64;
    let longest = wait.min(BUSY);
    Duration::from_secs_f64(share).clamp(SHORTEST.min(longest), longest)
}

/// One in line. Drop is one less, also when the caller lets go.
struct Counted<'a>(&'a AtomicUsize);

impl<'a> Counted<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(in_use: usize, waiting: usize, limit: usize, seconds: u64) {
        let turn = turn(Duration::from_secs(45), in_use, waiting, limit);
        assert_eq!(turn.as_secs(), seconds, "{in_use} of {limit} in use, {waiting} waiting");
    }

    #[test]
    fn a_watch_waits_as_long_as_it_likes_while_places_are_free() {
        check(1, 0, 90, 45);
        check(67, 0, 90, 45);
    }

    #[test]
    fn waits_are_shorter_before_the_places_run_out() {
        check(68, 0, 90, 10);
        check(90, 0, 90, 10);
    }

    #[test]
    fn the_more_are_in_line_the_shorter_a_turn() {
        check(90, 1, 90, 10);
        check(90, 90, 90, 5);
        check(90, 160, 90, 2);
        check(1, 200, 1, 1);
    }

    #[test]
    fn a_wait_that_is_short_already_is_left_alone() {
        let short = Duration::from_millis(200);
        assert_eq!(turn(short, 1, 100, 1), short);
        assert_eq!(turn(short, 1, 0, 1), short);
    }

    #[tokio::test(start_paused = true)]
    async fn those_in_line_are_counted_until_they_get_a_place_or_give_up() {
        let lane = Lane::new(1);
        let place = lane.place(Duration::ZERO).await;
        assert_eq!((lane.in_use(), lane.waiting()), (1, 0));
        let mut second = std::pin::pin!(lane.place(Duration::from_secs(1)));
        assert!(futures_util::poll!(second.as_mut()).is_pending());
        assert_eq!(lane.waiting(), 1);
        assert!(second.await.is_none(), "gave up");
        assert_eq!(lane.waiting(), 0);
        drop(place);
        assert_eq!(lane.in_use(), 0);
        assert!(lane.place(Duration::ZERO).await.is_some());
    }
}
