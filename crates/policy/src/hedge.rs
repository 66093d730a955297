//! How long answers took lately: enough to name a percentile, without a lock.
//!
//! A histogram whose buckets grow by an eighth of a power of two, so that what it says is at most an
//! eighth too long; two of them, for the running ten seconds and the ten before, so that what it knows
//! is ten to twenty seconds old at most. Whoever comes first in a new period empties the older one; a
//! count that is lost in between changes no percentile that means anything.

use std::{
    sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
    time::{Duration, Instant},
};

use crate::sliding_window::WindowClock;

/// Bits of a duration that tell buckets of one power of two apart.
const FINE_BITS: u32 = 3;
/// Up to 2²⁷ microseconds, two minutes; longer ones are in the last bucket.
const BUCKETS: usize = 25 << FINE_BITS;
/// Ten ticks long: [`WindowClock`] numbers tenths.
const CLOCK_WINDOW: Duration = Duration::from_secs(100);
/// Fewer answers than this have no percentile.
const MIN_SAMPLES: u64 = 20;

/// The latencies of one service's recent answers.
#[derive(Debug)]
pub struct LatencyHistogram {
    clock: WindowClock,
    origin: Instant,
    histograms: [PeriodHistogram; 2],
    /// The percentile as it was last worked out: the tenth of a second it was, and microseconds.
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
    /// Nothing is known yet.
    pub fn new(now: Instant) -> Self {
        Self {
            clock: WindowClock::new(now, CLOCK_WINDOW),
            origin: now,
            histograms: [PeriodHistogram::new(), PeriodHistogram::new()],
            cached: AtomicU64::new(0),
        }
    }

    /// An answer's head came after `took`.
    pub fn record(&self, took: Duration, now: Instant) {
        let period = self.clock.tick_at(now);
        let half = &self.histograms[(period % 2) as usize];
        let before = half.period.load(Relaxed);
        if before != period && half.period.compare_exchange(before, period, Relaxed, Relaxed).is_ok() {
            for count in &half.counts {
                count.store(0, Relaxed);
            }
        }
        half.counts[bucket_index(took)].fetch_add(1, Relaxed);
    }

    /// The time within which `share` of the recent answers came, at most an eighth too long; `None`
    /// while too few came. Worked out at most ten times a second.
    pub fn percentile(&self, share: f64, now: Instant) -> Option<Duration> {
        let tenth = now.saturating_duration_since(self.origin).as_millis() / 100;
        let tenth = (tenth as u32).wrapping_add(1);
        let known = self.cached.load(Relaxed);
        let micros = if (known >> 32) as u32 == tenth {
            known as u32
        } else {
            let micros = self.compute_percentile(share, now);
            self.cached.store((u64::from(tenth) << 32) | u64::from(micros), Relaxed);
            micros
        };
        (micros > 0).then(|| Duration::from_micros(u64::from(micros)))
    }

    /// In microseconds; 0 for none.
    fn compute_percentile(&self, share: f64, now: Instant) -> u32 {
        let period = self.clock.tick_at(now);
        let live = |half: &&PeriodHistogram| period.wrapping_sub(half.period.load(Relaxed)) < 2;
        let live: Vec<&PeriodHistogram> = self.histograms.iter().filter(live).collect();
        let count = |at: usize| live.iter().map(|half| u64::from(half.counts[at].load(Relaxed))).sum::<u64>();
        let total: u64 = (0..BUCKETS).map(count).sum();
        if total < MIN_SAMPLES {
            return 0;
        }
        let rank = (total as f64 * share).ceil() as u64;
        let mut seen = 0;
        for at in 0..BUCKETS {
            seen += count(at);
            if seen >= rank {
                return bucket_ceiling(at);
            }
        }
        bucket_ceiling(BUCKETS - 1)
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
