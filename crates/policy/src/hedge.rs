//! A percentile of the recent response times of a service, without a lock.
//!
//! The buckets of a histogram grow by an eighth of a power of two, so a percentile is at most an eighth
//! too long. One histogram holds the current ten seconds and one the ten seconds before, so the data is
//! at most twenty seconds old. The first response of a period empties the older histogram; a count that
//! another thread loses meanwhile does not change a percentile noticeably.

use std::{
    sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
    time::{Duration, Instant},
};

use crate::sliding_window::WindowClock;

/// Bits of a duration that distinguish the buckets of one power of two.
const FINE_BITS: u32 = 3;
/// Up to 2²⁷ microseconds, two minutes; the last bucket holds longer times too.
const BUCKETS: usize = 25 << FINE_BITS;
/// Ten periods of ten seconds: [`WindowClock`] numbers tenths of a window.
const CLOCK_WINDOW: Duration = Duration::from_secs(100);
/// Fewer responses than this have no percentile.
const MIN_SAMPLES: u64 = 20;
/// Cached in place of a bucket when there is no percentile.
const NO_BUCKET: u16 = u16::MAX;

/// The times that a service's recent responses took.
#[derive(Debug)]
pub struct LatencyHistogram {
    clock: WindowClock,
    origin: Instant,
    histograms: [PeriodHistogram; 2],
    /// The percentile that was computed last: see [`percentile`](Self::percentile).
    cached: AtomicU64,
}

#[derive(Debug)]
struct PeriodHistogram {
    period: AtomicU32,
    counts: [AtomicU32; BUCKETS],
}

impl PeriodHistogram {
    fn new() -> Self {
        Self { period: AtomicU32::new(0), counts: [const { AtomicU32::new(0) }; BUCKETS] }
    }
}

impl LatencyHistogram {
    /// A histogram without responses.
    pub fn new(now: Instant) -> Self {
        Self {
            clock: WindowClock::new(now, CLOCK_WINDOW),
            origin: now,
            histograms: [PeriodHistogram::new(), PeriodHistogram::new()],
            cached: AtomicU64::new(0),
        }
    }

    /// Counts a response head that arrived after `took`.
    pub fn record(&self, took: Duration, now: Instant) {
        let period = self.clock.tick(now);
        let half = &self.histograms[(period % 2) as usize];
        let before = half.period.load(Relaxed);
        if before != period && half.period.compare_exchange(before, period, Relaxed, Relaxed).is_ok() {
            for count in &half.counts {
                count.store(0, Relaxed);
            }
        }
        half.counts[bucket_index(took)].fetch_add(1, Relaxed);
    }

    /// The time within which `share` of the recent responses came, at most an eighth too long; `None`
    /// while there were too few. One share is computed at most ten times a second.
    pub fn percentile(&self, share: f64, now: Instant) -> Option<Duration> {
        // One word: the tenth of a second (from 1), the share in 16 bits, and the bucket.
        let tenth = now.saturating_duration_since(self.origin).as_millis() / 100;
        let tenth = (tenth as u32).wrapping_add(1);
        let key = (u64::from(tenth) << 16) | u64::from((share * f64::from(u16::MAX)) as u16);
        let cached = self.cached.load(Relaxed);
        let bucket = if cached >> 16 == key {
            cached as u16
        } else {
            let bucket = self.percentile_bucket(share, now).map_or(NO_BUCKET, |bucket| bucket as u16);
            self.cached.store((key << 16) | u64::from(bucket), Relaxed);
            bucket
        };
        (bucket != NO_BUCKET).then(|| Duration::from_micros(bucket_ceiling(bucket.into()).into()))
    }

    fn percentile_bucket(&self, share: f64, now: Instant) -> Option<usize> {
        let period = self.clock.tick(now);
        let live = |half: &&PeriodHistogram| period.wrapping_sub(half.period.load(Relaxed)) < 2;
        let live: Vec<&PeriodHistogram> = self.histograms.iter().filter(live).collect();
        let count = |at: usize| live.iter().map(|half| u64::from(half.counts[at].load(Relaxed))).sum::<u64>();
        let total: u64 = (0..BUCKETS).map(count).sum();
        if total < MIN_SAMPLES {
            return None;
        }
        let rank = (total as f64 * share).ceil() as u64;
        let mut seen = 0;
        let reaches_rank = |at: &usize| {
            seen += count(*at);
            seen >= rank
        };
        (0..BUCKETS).find(reaches_rank).or(Some(BUCKETS - 1))
    }
}

/// The bucket of a duration: its highest bit and the [`FINE_BITS`] bits below it.
fn bucket_index(took: Duration) -> usize {
    let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
    if micros < 1 << FINE_BITS {
        return micros as usize;
    }
    let above = micros.ilog2() - FINE_BITS;
    let fine = (micros >> above) as usize & ((1 << FINE_BITS) - 1);
    ((((above + 1) as usize) << FINE_BITS) | fine).min(BUCKETS - 1)
}

/// The first duration beyond a bucket, in microseconds.
fn bucket_ceiling(at: usize) -> u32 {
    let (power, fine) = (at >> FINE_BITS, (at & ((1 << FINE_BITS) - 1)) as u32);
    match power {
        0 => fine + 1,
        _ => ((1 << FINE_BITS) + fine + 1) << (power - 1),
    }
}
