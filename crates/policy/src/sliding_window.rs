//! Counting over the last while, without a lock: ten buckets that forget one after the other.
//!
//! A bucket is one word, the tick it belongs to beside its count, so that a stale bucket is emptied
//! and counted into by the same compare-and-swap: no count is lost or kept by mistake, whoever comes
//! second. What is in the window is therefore exact to a tenth of it.
//!
//! A window's length can change while others count ([`WindowClock::set_window`]). Ticks numbered by the old
//! length then lie far from the new ones, ahead or behind, and count for nothing.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::{Duration, Instant},
};

/// How many buckets a window has.
const BUCKETS: u32 = 10;

/// Numbers the tenths of a window from a beginning.
#[derive(Debug)]
pub(crate) struct WindowClock {
    origin: Instant,
    width: AtomicU64,
}

impl WindowClock {
    pub(crate) fn new(origin: Instant, window: Duration) -> Self {
        Self { origin, width: AtomicU64::new(width(window)) }
    }

    /// Numbers the tenths of another window from now on; true when it is another. What was counted by
    /// the old numbers is then to be cleared.
    pub(crate) fn set_window(&self, window: Duration) -> bool {
        let width = width(window);
        self.width.swap(width, Relaxed) != width
    }

    /// The tick of `now`; 0 before the beginning.
    ///
    /// It wraps after 2³² ticks (13 years of a window of one second), which [`SlidingCounter`] does not mind.
    pub(crate) fn tick_at(&self, now: Instant) -> u32 {
        (nanos(now.saturating_duration_since(self.origin)) / self.width.load(Relaxed)) as u32
    }
}

fn width(window: Duration) -> u64 {
    (nanos(window) / u64::from(BUCKETS)).max(1)
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// A count over the last ten ticks, the current one included.
///
/// On cache lines of its own: every request writes to it, and what lies beside it is only read.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct SlidingCounter {
    buckets: [AtomicU64; BUCKETS as usize],
}

impl SlidingCounter {
    /// Counts one. A caller whose `tick` is a little behind is counted as well.
    pub(crate) fn add(&self, tick: u32) {
        self.update(tick, |bucket| {
            let count = if bucket.holds(tick) { bucket.count } else { 0 };
            let tick = if bucket.holds(tick) { bucket.tick } else { tick };
            Bucket { tick, count: count.saturating_add(1) }
        });
    }

    /// Takes one back that was counted at `tick`, unless it has been forgotten meanwhile.
    pub(crate) fn subtract(&self, tick: u32) {
        self.update(tick, |bucket| {
            if bucket.holds(tick) {
                Bucket { count: bucket.count.saturating_sub(1), ..bucket }
            } else {
                bucket
            }
        });
    }

    /// How many are in the window that ends with `tick`.
    pub(crate) fn sum(&self, tick: u32) -> u64 {
        self.buckets
            .iter()
            .map(|bucket| Bucket::unpack(bucket.load(Relaxed)))
            .filter(|bucket| bucket.age(tick) < BUCKETS as i32 && !bucket.is_of_another_window(tick))
            .map(|bucket| u64::from(bucket.count))
            .sum()
    }

    /// Forgets everything.
    pub(crate) fn clear(&self) {
        for bucket in &self.buckets {
            bucket.store(0, Relaxed);
        }
    }

    fn update(&self, tick: u32, change: impl Fn(Bucket) -> Bucket) {
        let bucket = &self.buckets[(tick % BUCKETS) as usize];
        let mut seen = bucket.load(Relaxed);
        loop {
            let next = change(Bucket::unpack(seen)).pack();
            match bucket.compare_exchange_weak(seen, next, Relaxed, Relaxed) {
                Ok(_) => return,
                Err(now) => seen = now,
            }
        }
    }
}

/// One bucket's word, taken apart.
#[derive(Clone, Copy)]
struct Bucket {
    tick: u32,
    count: u32,
}

impl Bucket {
    fn unpack(word: u64) -> Self {
        Self { tick: (word >> 32) as u32, count: word as u32 }
    }

    fn pack(self) -> u64 {
        (u64::from(self.tick) << 32) | u64::from(self.count)
    }

    /// Ticks since it was counted into; negative when `tick` comes from a clock read a little earlier.
    fn age(self, tick: u32) -> i32 {
        tick.wrapping_sub(self.tick) as i32
    }

    /// It is so far ahead that no slow caller explains it: it was numbered by the tenths of another window.
    fn is_of_another_window(self, tick: u32) -> bool {
        self.age(tick) < -2 * BUCKETS as i32
    }

    /// It is the bucket of `tick`, or of a later one already.
    fn holds(self, tick: u32) -> bool {
        self.age(tick) <= 0 && !self.is_of_another_window(tick)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin() -> Instant {
        #[expect(clippy::disallowed_methods, reason = "an `Instant` has no other source")]
        Instant::now()
    }

    #[test]
    fn a_count_by_the_tenths_of_an_earlier_window_is_not_kept_for_ever() {
        let (origin, tally) = (origin(), SlidingCounter::default());
        let ticks = WindowClock::new(origin, Duration::from_secs(1));
        let now = origin + Duration::from_secs(1000);
        let late = ticks.tick_at(now);
        assert!(ticks.set_window(Duration::from_secs(10)) && !ticks.set_window(Duration::from_secs(10)));
        // Whoever read the tick before counts after everything was cleared.
        tally.add(late);
        let tick = ticks.tick_at(now);
        assert!(tick < late && late.is_multiple_of(BUCKETS) && tick.is_multiple_of(BUCKETS), "one bucket");
        assert_eq!(tally.sum(tick), 0);
        tally.add(tick);
        assert_eq!(tally.sum(tick), 1);
    }

    #[test]
    fn a_caller_that_is_a_window_late_is_counted_all_the_same() {
        let tally = SlidingCounter::default();
        tally.add(30);
        tally.add(20);
        assert_eq!(tally.sum(30), 2);
    }
}
