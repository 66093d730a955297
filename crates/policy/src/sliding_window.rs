//! Counts events over a sliding window without a lock: ten buckets, each for a tenth of the window.
//!
//! A bucket is one word: its tick beside its count. One compare-and-swap therefore empties a stale
//! bucket and counts into it, and concurrent callers neither lose a count nor keep a stale one. The
//! content of the window is exact to a tenth of its length.
//!
//! A reload can change the window's length. The clock holds the length of the requests that begin now;
//! where that changes, the counters of the clock are cleared together, because the counts of two lengths
//! do not compare. What ends later is counted with the new length.

use std::{
    sync::atomic::Ordering::Relaxed,
    time::{Duration, Instant},
};

use crate::sync::AtomicU64;

/// Buckets of a window.
const BUCKETS: u32 = 10;

/// Numbers the tenths of a window from an origin.
#[derive(Debug)]
pub(crate) struct WindowClock {
    origin: Instant,
    /// A tenth of the window, nanoseconds.
    width: AtomicU64,
}

impl WindowClock {
    pub(crate) fn new(origin: Instant, window: Duration) -> Self {
        Self { origin, width: AtomicU64::new(width(window)) }
    }

    /// Sets the window of the requests that begin now. Clears `counters`, which count by this clock, where
    /// it is another window than before.
    #[inline]
    pub(crate) fn set_window(&self, window: Duration, counters: &[&SlidingCounter]) {
        let width = width(window);
        if self.width.load(Relaxed) != width && self.width.swap(width, Relaxed) != width {
            counters.iter().for_each(|counter| counter.clear());
        }
    }

    /// The number of the tenth that contains `now`; 0 before the origin.
    ///
    /// It wraps after 2³² ticks (13 years of a window of one second); [`SlidingCounter`] then loses part
    /// of one window.
    pub(crate) fn tick(&self, now: Instant) -> u32 {
        (nanos(now.saturating_duration_since(self.origin)) / self.width.load(Relaxed)) as u32
    }

    /// Whether the window that ends with the tick of `now` contains `at`.
    pub(crate) fn is_in_window(&self, at: Instant, now: Instant) -> bool {
        self.tick(now).wrapping_sub(self.tick(at)) < BUCKETS
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
