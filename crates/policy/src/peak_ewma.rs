//! The response time of one endpoint, as an average that rises at once and falls slowly.
//!
//! A response that took longer than the average takes its place; a shorter one moves it by how much time has passed since the
//! response before (an exponentially weighted moving average with a decay of [`DECAY`]). So a slow endpoint is left at its first
//! slow response, and forgiven over seconds. Without responses the average falls as well.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::{Duration, Instant},
};

/// The time in which the weight of a response falls to 1/e.
const DECAY: Duration = Duration::from_secs(10);
/// What is assumed of an endpoint without a response.
const DEFAULT: Duration = Duration::from_millis(30);

/// The average of one endpoint. Threads that record at the same time may overwrite each other's response: it is an estimate.
#[derive(Debug)]
pub struct PeakEwma {
    /// What the times below are counted from.
    base: Instant,
    /// Microseconds of the average in the upper half, milliseconds from `base` to the last response in the lower one.
    word: AtomicU64,
}

impl PeakEwma {
    /// Of an endpoint without a response.
    pub fn new(now: Instant) -> Self {
        Self { base: now, word: AtomicU64::new(pack(micros(DEFAULT), 0)) }
    }

    /// Notes a response.
    pub fn record(&self, took: Duration, now: Instant) {
        let at = self.millis(now);
        let (average, last) = unpack(self.word.load(Relaxed));
        let took = micros(took);
        let next = if took >= average { took } else { mix(average, took, at.saturating_sub(last)) };
        self.word.store(pack(next, at), Relaxed);
    }

    /// The load of the endpoint with this number of requests in flight: what one more would wait, in microseconds.
    pub fn load(&self, in_flight: usize, now: Instant) -> u64 {
        let (average, last) = unpack(self.word.load(Relaxed));
        // Below the assumption only what was measured counts.
        let floor = average.min(micros(DEFAULT));
        let average = mix(average, floor, self.millis(now).saturating_sub(last));
        average.max(1).saturating_mul(in_flight as u64 + 1)
    }

    fn millis(&self, now: Instant) -> u64 {
        let passed = now.saturating_duration_since(self.base).as_millis();
        u64::try_from(passed).unwrap_or(u64::MAX).min(u64::from(u32::MAX))
    }
}

/// `from` after `passed` milliseconds on its way to `to`.
fn mix(from: u64, to: u64, passed: u64) -> u64 {
    let weight = (-(passed as f64) / DECAY.as_millis() as f64).exp();
    (from as f64 * weight + to as f64 * (1.0 - weight)) as u64
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX).min(u64::from(u32::MAX))
}

fn pack(average: u64, last: u64) -> u64 {
    (average << 32) | last
}

fn unpack(word: u64) -> (u64, u64) {
    (word >> 32, word & u64::from(u32::MAX))
}
