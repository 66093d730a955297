//! The pause before a retry: exponential, with full jitter.
//!
//! Full jitter (uniform from zero to the ceiling) spreads clients that failed together better than a
//! fixed pause or partial jitter, and finishes earlier for the same load; see M. Brooker, "Exponential
//! Backoff And Jitter" (AWS Architecture Blog, 2015). The caller sleeps, and counts the pauses.

use std::time::Duration;

use outrigger_config::RetryPolicy;

/// A random pause; its upper bound doubles from `base` to `max`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    /// Ceiling of the first pause. Retries: 25 ms, as Envoy's. Registry watches: 250 ms.
    pub base: Duration,
    /// Ceiling of every later pause at most. Retries: 250 ms (ten times the base, as Envoy's).
    /// Registry watches: 30 s.
    pub max: Duration,
}

impl Backoff {
    /// The pause before retry `n`, counted from 0: uniform in `[0, min(max, base·2ⁿ)]`.
    ///
    /// `random` is uniform over all of `u64`.
    pub fn pause(&self, n: u32, random: u64) -> Duration {
        let ceiling = nanos(self.max_pause(n));
        // Multiply and shift: the bias of one part in 2⁶⁴/ceiling is far below a timer's resolution.
        let pause = (u128::from(random) * (u128::from(ceiling) + 1)) >> 64;
        Duration::from_nanos(pause as u64)
    }

    /// As [`pause`](Self::pause), and at least half of the longest one.
    pub fn pause_of_half(&self, n: u32, random: u64) -> Duration {
        self.max_pause(n) / 2 + self.pause(n, random) / 2
    }

    /// The longest [`pause`](Self::pause) for `n`.
    pub fn max_pause(&self, n: u32) -> Duration {
        let doublings = 1_u32.checked_shl(n).unwrap_or(u32::MAX);
        self.base.saturating_mul(doublings).min(self.max)
    }
}

impl From<&RetryPolicy> for Backoff {
    fn from(settings: &RetryPolicy) -> Self {
        Self { base: settings.backoff_base, max: settings.backoff_max }
    }
}

/// Nanoseconds, at most 584 years.
fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
