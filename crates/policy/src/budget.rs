//! What a service can afford to spend on retries.
//!
//! Retries help while few requests fail, and harm when most do: three attempts each turn an overload
//! into three times the overload, in every tier at once. A limit per request does not prevent it, a
//! share of the traffic does. So each request deposits a fraction of a retry, a retry withdraws a
//! whole one, and both are forgotten after a window. A service with little traffic would never save up
//! for one, hence the allowance per second.
//!
//! The numbers are those of linkerd2 (`retryRatio` 0.2, `minRetriesPerSecond` 10, `ttl` 10 s). Both parts are worth the same: what is available is
//!
//! ```text
//! ratio · requests in the window + min_per_second · window − retries in the window
//! ```
//!
//! Only retries of which something had been sent are charged. One that nobody has seen (connection
//! refused) adds no load to the instances, and is bounded by the attempts of its request.
//!
//! **No lock.** A deposit is on every request's path: it is one compare-and-swap on the current
//! tenth's word (see the `window` module). A withdrawal takes first and then looks, and puts back what
//! was too much; so two at the same time can both be refused the last retry, but never both have it.
//!
//! **No floats.** A ratio is kept in millionths, so that 100 requests at 29 % are 29 retries and not
//! 28.999….
//!
//! **Settings can change under it** ([`RetryBudget::apply_settings`]): they are words that every request reads, never a
//! lock. What was saved up stays, unless the window has another length: then it begins empty.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::{Duration, Instant},
};

use outrigger_config as config;

use crate::sliding_window::{SlidingCounter, WindowClock};

/// Millionths of one retry: the unit all amounts are kept in.
const ONE_RETRY: u64 = 1_000_000;

/// One service's retry budget.
#[derive(Debug)]
pub struct RetryBudget {
    clock: WindowClock,
    /// What one request adds, in millionths of a retry.
    deposit: AtomicU64,
    /// What the window is always worth, in the same unit.
    reserve: AtomicU64,
    requests: SlidingCounter,
    retries: SlidingCounter,
}

impl RetryBudget {
    /// An empty budget: nothing deposited, its reserve available.
    pub fn new(settings: &config::RetryBudget, now: Instant) -> Self {
        Self {
            clock: WindowClock::new(now, settings.window),
            deposit: AtomicU64::new(deposit_per_request(settings)),
            reserve: AtomicU64::new(reserve_per_window(settings)),
            requests: SlidingCounter::default(),
            retries: SlidingCounter::default(),
        }
    }

    /// Goes on by other settings, with what was saved up.
    pub fn apply_settings(&self, settings: &config::RetryBudget) {
        self.deposit.store(deposit_per_request(settings), Relaxed);
        self.reserve.store(reserve_per_window(settings), Relaxed);
        if self.clock.set_window(settings.window) {
            self.requests.clear();
            self.retries.clear();
        }
    }

    /// A request came. Once per request, however many attempts it takes.
    pub fn deposit(&self, now: Instant) {
        self.requests.add(self.clock.tick_at(now));
    }

    /// Pays for a retry of which something had been sent before; false when there is nothing left.
    #[must_use]
    pub fn withdraw(&self, now: Instant) -> bool {
        let tick = self.clock.tick_at(now);
        self.retries.add(tick);
        let affordable = self.earned(tick) >= self.retries.sum(tick).saturating_mul(ONE_RETRY);
        if !affordable {
            self.retries.subtract(tick);
        }
        affordable
    }

    /// How many retries could be paid for now.
    pub fn available(&self, now: Instant) -> u64 {
        let tick = self.clock.tick_at(now);
        self.earned(tick).saturating_sub(self.retries.sum(tick).saturating_mul(ONE_RETRY)) / ONE_RETRY
    }

    fn earned(&self, tick: u32) -> u64 {
        let deposits = self.requests.sum(tick).saturating_mul(self.deposit.load(Relaxed));
        deposits.saturating_add(self.reserve.load(Relaxed))
    }
}

fn deposit_per_request(settings: &config::RetryBudget) -> u64 {
    (settings.ratio * ONE_RETRY as f64).round() as u64
}

/// Microseconds are millionths of a second, as amounts are millionths of a retry.
fn reserve_per_window(settings: &config::RetryBudget) -> u64 {
    u64::from(settings.min_per_second).saturating_mul(micros(settings.window))
}

fn micros(window: Duration) -> u64 {
    u64::try_from(window.as_micros()).unwrap_or(u64::MAX)
}
