//! The right to a connection, and the longest wait of a watch when there are more watches than connections.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{
    sync::{Semaphore, SemaphorePermit},
    time::{Instant, timeout},
};

use super::pressure::{Pressure, Refused};

/// The shortest wait of a watch, however many other watches are waiting.
const MIN_WAIT: Duration = Duration::from_secs(1);
/// The wait while most slots are taken: a new watch gets a slot soon.
const BUSY_WAIT: Duration = Duration::from_secs(10);
/// How long a watch should be without a slot between two of its waits.
const MAX_WITHOUT_SLOT: Duration = Duration::from_secs(5);

/// The slots of one kind of question: each question in progress has one.
pub(super) struct ConnectionLimit {
    slots: Semaphore,
    limit: usize,
    /// `Some`: the agent may leave fewer slots.
    pressure: Option<Mutex<Pressure>>,
    /// Slots in use that are taken away when their questions have ended.
    surplus: AtomicUsize,
    waiting: AtomicUsize,
}

/// The right to one connection.
pub(super) struct Slot<'a> {
    of: &'a ConnectionLimit,
    queued: Duration,
    // `None` only in `drop`.
    permit: Option<SemaphorePermit<'a>>,
}

impl ConnectionLimit {
    /// A limit of `limit` connections.
    pub(super) fn new(limit: usize) -> Self {
        let slots = Semaphore::new(limit);
        Self { slots, limit, pressure: None, surplus: AtomicUsize::new(0), waiting: AtomicUsize::new(0) }
    }

    /// A limit of `most` connections, and of fewer while the agent takes no more.
    pub(super) fn yielding(most: usize) -> Self {
        Self { pressure: Some(Mutex::new(Pressure::new(most))), ..Self::new(most) }
    }

    /// A slot, in the order of the calls; `None` when there was none for `longest`.
    pub(super) async fn acquire(&self, longest: Duration) -> Option<Slot<'_>> {
        if let Ok(permit) = self.slots.try_acquire() {
            return Some(Slot { of: self, queued: Duration::ZERO, permit: Some(permit) });
        }
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let _counted = WaitingGuard(&self.waiting);
        self.grow();
        let since = Instant::now();
        let permit = timeout(longest, self.slots.acquire()).await.ok()?.ok()?;
        Some(Slot { of: self, queued: since.elapsed(), permit: Some(permit) })
    }

    /// The slots now.
    pub(super) fn limit(&self) -> usize {
        self.pressure.as_ref().map_or(self.limit, |pressure| pressure.lock().slots())
    }

    /// Slots in use.
    pub(super) fn in_use(&self) -> usize {
        let kept = self.limit() + self.surplus.load(Ordering::Relaxed);
        kept.saturating_sub(self.slots.available_permits())
    }

    /// Callers that wait for a slot.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// The agent has refused a connection.
    pub(super) fn record_refusal(&self, refused: Refused) {
        let Some(pressure) = &self.pressure else { return };
        let in_use = self.in_use();
        let mut pressure = pressure.lock();
        let taken = pressure.record_refusal(refused, in_use, Instant::now());
        let free = self.slots.forget_permits(taken);
        self.surplus.fetch_add(taken - free, Ordering::Relaxed);
    }

    /// Whether the agent has refused a connection lately.
    pub(super) fn is_pressed(&self) -> bool {
        self.pressure.as_ref().is_some_and(|pressure| pressure.lock().is_pressed(Instant::now()))
    }

    /// Whether a refusal is to be logged.
    pub(super) fn is_worth_a_warning(&self) -> bool {
        self.pressure.as_ref().is_some_and(|pressure| pressure.lock().is_worth_a_warning(Instant::now()))
    }

    /// Adds slots, if it is time: watches wait for one.
    fn grow(&self) {
        let Some(pressure) = &self.pressure else { return };
        let added = pressure.lock().grow(Instant::now());
        let kept = (0..added).take_while(|_| self.keep_one_of_surplus()).count();
        self.slots.add_permits(added - kept);
    }

    /// Takes one from the slots that are to be taken away. `false`: there is none.
    fn keep_one_of_surplus(&self) -> bool {
        let one_less = |surplus: usize| surplus.checked_sub(1);
        self.surplus.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less).is_ok()
    }
}

impl Slot<'_> {
    /// Whether it is a slot of `limit`.
    pub(super) fn is_of(&self, limit: &ConnectionLimit) -> bool {
        std::ptr::eq(self.of, limit)
    }

    /// Whether the slot is taken away with its question, and its connection is to be closed.
    pub(super) fn is_surplus(&self) -> bool {
        self.of.surplus.load(Ordering::Relaxed) > 0
    }

    /// How long a watch with the wait `wait` may keep its slot; the time in the queue counts too.
    pub(super) fn fair_wait(&self, wait: Duration) -> Duration {
        let turn = fair_wait(wait, self.of.in_use(), self.of.waiting(), self.of.limit());
        turn.min(wait.saturating_sub(self.queued))
    }
}

impl Drop for Slot<'_> {
    fn drop(&mut self) {
        if let Some(permit) = self.permit.take()
            && self.of.keep_one_of_surplus()
        {
            permit.forget();
        }
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

    #[tokio::test(start_paused = true)]
    async fn slots_are_taken_away_when_their_questions_end_and_come_back_while_callers_wait() {
        let limit = ConnectionLimit::yielding(8);
        let mut held = Vec::new();
        for _ in 0..8 {
            held.push(limit.acquire(Duration::ZERO).await.unwrap());
        }
        limit.record_refusal(Refused::Other);
        assert_eq!((limit.limit(), limit.in_use()), (6, 8));
        assert!(limit.is_pressed());
        held.truncate(7);
        assert!(held[0].is_surplus());
        held.truncate(6);
        assert_eq!((limit.limit(), limit.in_use(), held[0].is_surplus()), (6, 6, false));
        assert!(limit.acquire(Duration::ZERO).await.is_none());
        held.truncate(5);
        assert_eq!(limit.in_use(), 5, "this one is not taken away");
        held.push(limit.acquire(Duration::ZERO).await.unwrap());

        // A free slot goes at once.
        held.truncate(2);
        limit.record_refusal(Refused::Watch);
        assert_eq!((limit.limit(), limit.in_use()), (1, 2));
        held.clear();
        assert_eq!(limit.in_use(), 0);
        let _only = limit.acquire(Duration::ZERO).await.unwrap();
        assert!(limit.acquire(Duration::from_secs(5)).await.is_none());
        // The caller that comes now finds a slot more.
        tokio::time::sleep(Duration::from_secs(10)).await;
        let _second = limit.acquire(Duration::from_secs(5)).await.unwrap();
        assert_eq!((limit.limit(), limit.in_use(), limit.waiting()), (2, 2, 0));
    }
}
