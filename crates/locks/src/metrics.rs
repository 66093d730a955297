//! The metrics of locks; docs/metrics.md lists them. None has the name of a lock as a label: the app makes names as it likes, one for each
//! order perhaps, and each would be a series. The overview and the events have the names.

use prometheus::{
    Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    core::{Collector, Desc},
    proto::MetricFamily,
};

use crate::{AcquireError, LossReason};

/// Bounds of the time until a lock is acquired, seconds: from one round trip to the longest wait.
const WAITS: &[f64] = &[0.005, 0.025, 0.1, 0.5, 2.5, 10.0, 30.0, 60.0, 300.0, 1800.0];

/// The reason of a request that its caller gave up.
const GIVEN_UP: &str = "given_up";

/// What is counted.
#[derive(Debug, Clone)]
pub(crate) struct Metrics {
    acquired: IntCounter,
    released: IntCounter,
    lost: IntCounterVec,
    failed: IntCounterVec,
    waited: Histogram,
}

impl Metrics {
    pub(crate) fn new() -> Result<Self, prometheus::Error> {
        let lost = Opts::new("outrigger_locks_lost_total", "Locks that were lost while they were held.");
        let failed = Opts::new("outrigger_lock_failures_total", "Requests that did not acquire their lock.");
        let waited = HistogramOpts::new(
            "outrigger_lock_wait_seconds",
            "Time from the request to the acquisition, of locks that were acquired.",
        );
        let metrics = Self {
            acquired: IntCounter::new("outrigger_locks_acquired_total", "Locks that were acquired.")?,
            released: IntCounter::new("outrigger_locks_released_total", "Locks that were given back.")?,
            lost: IntCounterVec::new(lost, &["reason"])?,
            failed: IntCounterVec::new(failed, &["reason"])?,
            waited: Histogram::with_opts(waited.buckets(WAITS.to_vec()))?,
        };
        // From the first request on, so that an alert sees the first loss.
        LossReason::NAMES.iter().for_each(|reason| drop(metrics.lost.with_label_values(&[reason])));
        let reasons = AcquireError::REASONS.iter().copied().chain([GIVEN_UP]);
        reasons.for_each(|reason| drop(metrics.failed.with_label_values(&[reason])));
        Ok(metrics)
    }

    pub(crate) fn count_acquired(&self, waited: std::time::Duration) {
        self.acquired.inc();
        self.waited.observe(waited.as_secs_f64());
    }

    /// A request that ended without its lock. `is_given_up`: nothing waits for its answer.
    pub(crate) fn count_failure(&self, error: &AcquireError, is_given_up: bool) {
        let reason = if is_given_up { GIVEN_UP } else { error.reason() };
        self.failed.with_label_values(&[reason]).inc();
    }

    pub(crate) fn count_lost(&self, reason: &LossReason) {
        self.lost.with_label_values(&[reason.name()]).inc();
    }

    pub(crate) fn count_released(&self) {
        self.released.inc();
    }

    /// Shows the metrics in `registry` once a lock was asked for. `load`: what is held and waits, at a scrape.
    pub(crate) fn register<F>(&self, registry: &Registry, load: F) -> Result<(), prometheus::Error>
    where
        F: Fn() -> Option<LocksLoad> + Send + Sync + 'static,
    {
        let held = Opts::new("outrigger_locks_held", "Locks that are held here now.");
        registry.register(Box::new(LocksCollector {
            metrics: self.clone(),
            load,
            held: IntGaugeVec::new(held, &["by"])?,
            waiting: IntGauge::new("outrigger_lock_waiters", "Requests here that wait for a lock now.")?,
        }))
    }
}

/// What is held and waits now.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LocksLoad {
    pub(crate) by_connection: usize,
    pub(crate) by_lease: usize,
    pub(crate) waiting: usize,
}

/// All families. Without any before the first request: most sidecars hold no locks.
struct LocksCollector<F> {
    metrics: Metrics,
    load: F,
    held: IntGaugeVec,
    waiting: IntGauge,
}

impl<F: Fn() -> Option<LocksLoad> + Send + Sync> Collector for LocksCollector<F> {
    fn desc(&self) -> Vec<&Desc> {
        let Metrics { acquired, released, lost, failed, waited } = &self.metrics;
        let counted = [acquired.desc(), released.desc(), lost.desc(), failed.desc(), waited.desc()];
        counted.into_iter().chain([self.held.desc(), self.waiting.desc()]).flatten().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let Some(load) = (self.load)() else { return Vec::new() };
        let gauge = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        self.held.with_label_values(&["connection"]).set(gauge(load.by_connection));
        self.held.with_label_values(&["lease"]).set(gauge(load.by_lease));
        self.waiting.set(gauge(load.waiting));
        let Metrics { acquired, released, lost, failed, waited } = &self.metrics;
        let counted =
            [acquired.collect(), released.collect(), lost.collect(), failed.collect(), waited.collect()];
        counted.into_iter().chain([self.held.collect(), self.waiting.collect()]).flatten().collect()
    }
}
