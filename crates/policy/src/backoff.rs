//! How long to wait before trying again: exponential, with full jitter.
//!
//! Full jitter (uniform from nothing to the ceiling) spreads clients that failed together better than
//! a fixed pause or a jittered remainder, and finishes sooner for the same load; see M. Brooker,
//! "Exponential Backoff And Jitter" (AWS Architecture Blog, 2015). It does not sleep and does not
//! count: the caller knows how many pauses there were.

use std::time::Duration;

use outrigger_config::RetryPolicy;

/// A pause whose ceiling doubles from `base` to `max`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    /// Ceiling of the first pause. Retries: 25 ms, as Envoy's. Registry watches: 250 ms.
    pub base: Duration,
    /// Ceiling of every later pause at most. Retries: 250 ms (ten times the base, as Envoy's).
    /// Registry watches: 30 s.
    pub max: Duration,
}

impl Backoff {
    /// The pause before the `n`th try again, counted from 0: uniformly in `[0, min(max, base·2ⁿ)]`.
    ///
    /// `random` is uniform over all of `u64`.
    pub fn pause(&self, n: u32, random: u64) -> Duration {
        let ceiling = nanos(self.max_pause(n));
        // Multiply and shift: the bias of at most one part in 2⁶⁴/ceiling is far below a timer's grain.
        let pause = (u128::from(random) * (u128::from(ceiling) + 1)) >> 64;
        Duration::from_nanos(pause as u64)
    }

    /// The longest that [`after`](Self::pause) can say for `n`.
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

/// Nanoseconds, up to 584 years of them.
fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
