//! Counts events over a sliding window without a lock: ten buckets, each for a tenth of the window.
//!
//! A bucket is one word: its tick beside its count. One compare-and-swap therefore empties a stale
//! bucket and counts into it, and concurrent callers neither lose a count nor keep a stale one. The
//! content of the window is exact to a tenth of its length.
//!
//! The window's length is an argument, and a reload can change it. The tick numbers of a length start
//! at a value that depends on the length ([`first_tick`]), so ticks of two lengths are not near each
//! other: counts made with another length are outside the window, and counts with the new length
//! overwrite them. A late caller with the old length overwrites one bucket at most.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::{Duration, Instant},
};

/// Buckets of a window.
const BUCKETS: u32 = 10;

/// Numbers the tenths of windows from one origin.
#[derive(Debug)]
pub(crate) struct WindowClock {
    origin: Instant,
}

impl WindowClock {
    pub(crate) fn new(origin: Instant) -> Self {
        Self { origin }
    }

    /// The number of the tenth of `window` that contains `now`; the first one before the origin.
    ///
    /// It wraps after at least 2³¹ ticks (6 years of a window of one second); [`SlidingCounter`] then
    /// loses part of one window.
    pub(crate) fn tick(&self, now: Instant, window: Duration) -> u32 {
        let width = (nanos(window) / u64::from(BUCKETS)).max(1);
        first_tick(width).wrapping_add((nanos(now.saturating_duration_since(self.origin)) / width) as u32)
    }
}

/// The tick number at the origin for buckets of `width` nanoseconds: a multiplicative hash, below 2³¹.
fn first_tick(width: u64) -> u32 {
    (width.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 33) as u32
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// A count over the last ten ticks, the current one included.
///
/// It has its own cache lines, because every request writes to it while its neighbours are only read.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct SlidingCounter {
    buckets: [AtomicU64; BUCKETS as usize],
}

impl SlidingCounter {
    /// Counts one event. A `tick` up to two windows behind the newest one is counted as well.
    pub(crate) fn add(&self, tick: u32) {
        self.update(tick, |bucket| {
            let count = if bucket.holds(tick) { bucket.count } else { 0 };
            let tick = if bucket.holds(tick) { bucket.tick } else { tick };
            Bucket { tick, count: count.saturating_add(1) }
        });
    }

    /// Removes one event that was counted at `tick`, unless its bucket has been emptied since.
    pub(crate) fn subtract(&self, tick: u32) {
        self.update(tick, |bucket| {
            if bucket.holds(tick) {
                Bucket { count: bucket.count.saturating_sub(1), ..bucket }
            } else {
                bucket
            }
        });
    }

    /// The events in the window that ends with `tick`.
    pub(crate) fn sum(&self, tick: u32) -> u64 {
        self.buckets
            .iter()
            .map(|bucket| Bucket::unpack(bucket.load(Relaxed)))
            .filter(|bucket| bucket.age(tick) < BUCKETS as i32 && !bucket.is_of_another_window(tick))
            .map(|bucket| u64::from(bucket.count))
            .sum()
    }

    /// Removes all events.
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

/// The two halves of a bucket's word.
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

    /// Ticks from the bucket's to `tick`; negative when the clock was read before the bucket was written.
    fn age(self, tick: u32) -> i32 {
        tick.wrapping_sub(self.tick) as i32
    }

    /// The bucket is too far ahead for a slow caller: it belongs to a window of another length.
    fn is_of_another_window(self, tick: u32) -> bool {
        self.age(tick) < -2 * BUCKETS as i32
    }

    /// The bucket belongs to `tick` or to a later tick.
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
    fn ticks_of_two_lengths_are_far_apart() {
        let millis = (1..=600).map(|tenths| tenths * 100).chain((61..=600).map(|seconds| seconds * 1_000));
        let mut ticks: Vec<u32> = millis.map(|millis| first_tick(millis * 1_000_000 / 10)).collect();
        ticks.sort_unstable();
        let nearest = ticks.windows(2).map(|pair| pair[1] - pair[0]).min().unwrap();
        assert!(nearest > 1_000, "{nearest}");
    }

    #[test]
    fn counts_of_one_length_are_outside_a_window_of_another() {
        let (start, counter) = (origin(), SlidingCounter::default());
        let clock = WindowClock::new(start);
        let (short, long) = (Duration::from_secs(1), Duration::from_secs(10));
        let now = start + Duration::from_secs(1000);
        for tenth in 0..10 {
            counter.add(clock.tick(now + tenth * short / 10, short));
        }
        let now = now + short;
        assert_eq!(counter.sum(clock.tick(now, long)), 0);
        for tenth in 0..10 {
            counter.add(clock.tick(now + tenth * long / 10, long));
        }
        let now = now + 9 * long / 10;
        assert_eq!(counter.sum(clock.tick(now, long)), 10);
        // A request that still has the old settings.
        counter.add(clock.tick(now, short));
        assert_eq!(counter.sum(clock.tick(now, long)), 9);
    }

    #[test]
    fn a_caller_that_is_a_window_late_is_counted() {
        let counter = SlidingCounter::default();
        counter.add(30);
        counter.add(20);
        assert_eq!(counter.sum(30), 2);
    }
}
