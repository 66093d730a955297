//! Limits the retries of a service to a share of its traffic.
//!
//! Retries help while few requests fail, and harm when most requests fail: three attempts per request
//! turn an overload into three times the overload, in every tier at once. A limit per request does not
//! prevent that; a share of the traffic does. An allowance per second serves the services with little
//! traffic. The defaults are those of linkerd2 (`retryRatio` 0.2, `minRetriesPerSecond` 10, `ttl` 10 s).
//! Available is
//!
//! ```text
//! ratio · requests in the window + min_per_second · window − retries in the window
//! ```
//!
//! A retry is charged only when an attempt had sent something. A refused connection adds no load to the
//! instances, and the attempts of its request bound it.
//!
//! **No lock.** Every request deposits: one compare-and-swap on the current bucket (see
//! `sliding_window`). A withdrawal first counts the retry, then compares, and removes the retry when the
//! budget is exceeded; so two concurrent withdrawals can both fail at the last retry, but never both
//! succeed.
//!
//! **No floats.** A ratio becomes millionths, so that 100 requests at 29 % are 29 retries and not
//! 28.999….
//!
//! **Settings are arguments.** After a reload the deposits count with the new ratio; with another window
//! the budget begins empty at the next request.

use std::time::{Duration, Instant};

use outrigger_config as config;

use crate::sliding_window::{SlidingCounter, WindowClock};

/// One retry in millionths, the unit of all amounts.
const ONE_RETRY: u64 = 1_000_000;

/// One service's retry budget.
#[derive(Debug)]
pub struct RetryBudget {
    clock: WindowClock,
    requests: SlidingCounter,
    retries: SlidingCounter,
}

impl RetryBudget {
    /// A budget without deposits; the allowance per second is available.
    pub fn new(settings: &config::RetryBudget, now: Instant) -> Self {
        Self {
            clock: WindowClock::new(now, settings.window),
            requests: SlidingCounter::default(),
            retries: SlidingCounter::default(),
        }
    }

    /// Adds one request's share. Call it once per request, not per attempt.
    pub fn deposit(&self, settings: &config::RetryBudget, now: Instant) {
        self.set_window(settings);
        self.requests.add(self.clock.tick(now));
    }

    /// Pays for one retry; false when the budget is spent.
    #[must_use]
    pub fn withdraw(&self, settings: &config::RetryBudget, now: Instant) -> bool {
        let tick = self.clock.tick(now);
        self.retries.add(tick);
        let affordable = self.earned(settings, tick) >= self.retries.sum(tick).saturating_mul(ONE_RETRY);
        if !affordable {
            self.retries.subtract(tick);
        }
        affordable
    }

    /// Gives back what was paid at `paid_at` for a retry that was not made. What was paid before the window counts no more.
    pub fn refund(&self, paid_at: Instant, now: Instant) {
        if self.clock.is_in_window(paid_at, now) {
            self.retries.subtract(self.clock.tick(paid_at));
        }
    }

    /// The retries that the budget can pay for now.
    pub fn available(&self, settings: &config::RetryBudget, now: Instant) -> u64 {
        self.set_window(settings);
        let tick = self.clock.tick(now);
        let spent = self.retries.sum(tick).saturating_mul(ONE_RETRY);
        self.earned(settings, tick).saturating_sub(spent) / ONE_RETRY
    }

    fn set_window(&self, settings: &config::RetryBudget) {
        self.clock.set_window(settings.window, &[&self.requests, &self.retries]);
    }

    fn earned(&self, settings: &config::RetryBudget, tick: u32) -> u64 {
        let deposits = self.requests.sum(tick).saturating_mul(deposit_per_request(settings));
        deposits.saturating_add(reserve_per_window(settings))
    }
}

fn deposit_per_request(settings: &config::RetryBudget) -> u64 {
    (settings.ratio * ONE_RETRY as f64).round() as u64
}

/// A microsecond is a millionth of a second, as an amount is a millionth of a retry.
fn reserve_per_window(settings: &config::RetryBudget) -> u64 {
    u64::from(settings.min_per_second).saturating_mul(micros(settings.window))
}

fn micros(window: Duration) -> u64 {
    u64::try_from(window.as_micros()).unwrap_or(u64::MAX)
}
