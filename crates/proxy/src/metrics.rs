//! Every metric of the data path: this file registers what requests count, `collector` what is read from the
//! clusters when it is scraped. docs/metrics.md lists them with their labels.
//!
//! A cluster gets the handles of its series when it is made, so that a request looks none up. The series of a
//! service are shared, because the service may return while requests of its earlier cluster are in flight;
//! the last holder removes them. Service names that never had an instance share the label `(unknown)`.

pub(crate) mod collector;
pub(crate) mod labels;

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, OnceLock, Weak},
};

use outrigger_policy::{Outcome, retry::GiveUp};
use parking_lot::Mutex;
use prometheus::{
    GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry,
};

use crate::reason::Reason;
use labels::{HedgeResult, Rejected};

/// The label of service names that never had an instance.
const UNKNOWN_SERVICE: &str = "(unknown)";

/// Seconds, from the response of a loopback instance to the default timeout.
const BUCKETS: [f64; 14] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0];

/// The metrics that requests count.
#[derive(Debug)]
pub(crate) struct Metrics {
    requests: IntCounterVec,
    duration: HistogramVec,
    attempts: IntCounterVec,
    retries: IntCounterVec,
    errors: IntCounterVec,
    hedges: IntCounterVec,
    shed: IntCounterVec,
    in_flight: IntGaugeVec,
    pool: IntCounterVec,
    refused: [IntCounter; Reason::ALL.len()],
    /// App connections with a codec.
    pub(crate) active: IntGauge,
    /// App connections that wait, without a codec, for a first byte.
    pub(crate) parked: IntGauge,
    lag: GaugeVec,
    /// The holders of each service's series.
    services: Mutex<HashMap<String, Weak<ServiceSeries>>>,
}

impl Metrics {
    /// Registers every metric.
    ///
    /// # Errors
    /// When `registry` has a metric of the same name.
    pub(crate) fn register(registry: &Registry) -> Result<Arc<Self>, prometheus::Error> {
        let counter = |name: &str, help: &str, labels: &[&str]| {
            let family = IntCounterVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(family.clone()))?;
            Ok::<_, prometheus::Error>(family)
        };
        let gauge = |name: &str, help: &str, labels: &[&str]| {
            let family = IntGaugeVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(family.clone()))?;
            Ok::<_, prometheus::Error>(family)
        };
        let duration = HistogramVec::new(
            HistogramOpts::new(
                "outrigger_request_duration_seconds",
                "Seconds from a request's head to the last byte of its response.",
            )
            .buckets(BUCKETS.to_vec()),
            &["service"],
        )?;
        registry.register(Box::new(duration.clone()))?;
        let lag = GaugeVec::new(
            Opts::new("outrigger_worker_lag_seconds", "Seconds by which the worker's last tick was late."),
            &["worker"],
        )?;
        registry.register(Box::new(lag.clone()))?;
        let refused = counter(
            "outrigger_refused_total",
            "Requests and connections refused before a service was found, by reason.",
            &["reason"],
        )?;
        let connections = gauge("outrigger_app_connections", "App connections, by state.", &["state"])?;
        Ok(Arc::new(Self {
            requests: counter(
                "outrigger_requests_total",
                "Responses to the app, by status; 499: the app disconnected.",
                &["service", "code"],
            )?,
            duration,
            attempts: counter(
                "outrigger_attempts_total",
                "Attempts at an instance, by outcome.",
                &["service", "outcome"],
            )?,
            retries: counter(
                "outrigger_retries_total",
                "Retries (again, race), or why a failed attempt was not repeated.",
                &["service", "why"],
            )?,
            errors: counter(
                "outrigger_errors_total",
                "Requests that ended with a reason of the sidecar, by reason.",
                &["service", "reason"],
            )?,
            hedges: counter(
                "outrigger_hedges_total",
                "Second attempts beside a slow one, by result; budget: the retry budget allowed none.",
                &["service", "result"],
            )?,
            shed: counter(
                "outrigger_shed_total",
                "Requests that the bulkhead rejected, by limit.",
                &["service", "why"],
            )?,
            in_flight: gauge("outrigger_in_flight", "Requests and tunnels in flight.", &["service"])?,
            pool: counter(
                "outrigger_pool_connections_total",
                "Connections to instances, by event.",
                &["service", "event"],
            )?,
            refused: Reason::ALL.map(|reason| refused.with_label_values(&[reason.label()])),
            active: connections.with_label_values(&["active"]),
            parked: connections.with_label_values(&["parked"]),
            lag,
            services: Mutex::default(),
        }))
    }

    /// The series of a service; `None`: those of the names that never had an instance.
    pub(crate) fn service_series(self: &Arc<Self>, service: Option<&str>) -> Arc<ServiceSeries> {
        let name = service.unwrap_or(UNKNOWN_SERVICE);
        let mut services = self.services.lock();
        if let Some(shared) = services.get(name).and_then(Weak::upgrade) {
            return shared;
        }
        let made = Arc::new(ServiceSeries::new(self, name));
        services.insert(name.to_owned(), Arc::downgrade(&made));
        made
    }

    /// Counts a request or connection that was refused before its service was found.
    pub(crate) fn record_refusal(&self, reason: Reason) {
        self.refused[reason as usize].inc();
    }

    /// The gauge of how late a worker's tick was, in seconds.
    pub(crate) fn worker_lag(&self, worker: usize) -> prometheus::Gauge {
        self.lag.with_label_values(&[&worker.to_string()])
    }
}

/// Counts in a gauge for as long as it lives.
pub(crate) struct GaugeGuard<'a>(&'a IntGauge);

impl<'a> GaugeGuard<'a> {
    pub(crate) fn new(gauge: &'a IntGauge) -> Self {
        gauge.inc();
        Self(gauge)
    }
}

impl Drop for GaugeGuard<'_> {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// The slot of statuses above 599, which HTTP does not define.
const OTHER_CODES: usize = 500;

fn code_label(at: usize) -> String {
    if at == OTHER_CODES { "other".to_owned() } else { (at + 100).to_string() }
}

/// The handles of the series of one service.
pub(crate) struct ServiceSeries {
    name: String,
    owner: Arc<Metrics>,
    codes: Box<[OnceLock<IntCounter>]>,
    pub(crate) duration: Histogram,
    attempts: [IntCounter; Outcome::LABELS.len()],
    errors: [OnceLock<IntCounter>; Reason::ALL.len()],
    pub(crate) in_flight: IntGauge,
    gave_up: [IntCounter; GiveUp::ALL.len()],
    hedges: [IntCounter; HedgeResult::LABELS.len()],
    shed: [IntCounter; Rejected::LABELS.len()],
    pub(crate) retried: IntCounter,
    pub(crate) raced: IntCounter,
    pub(crate) opened: IntCounter,
    pub(crate) reused: IntCounter,
    pub(crate) stale: IntCounter,
}

impl fmt::Debug for ServiceSeries {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServiceSeries").field("service", &self.name).finish_non_exhaustive()
    }
}

const POOL_EVENTS: [&str; 3] = ["opened", "reused", "stale"];

impl ServiceSeries {
    fn new(owner: &Arc<Metrics>, name: &str) -> Self {
        Self {
            name: name.to_owned(),
            owner: owner.clone(),
            codes: (0..=OTHER_CODES).map(|_| OnceLock::new()).collect(),
            duration: owner.duration.with_label_values(&[name]),
            attempts: Outcome::LABELS.map(|outcome| owner.attempts.with_label_values(&[name, outcome])),
            errors: [const { OnceLock::new() }; Reason::ALL.len()],
            in_flight: owner.in_flight.with_label_values(&[name]),
            gave_up: GiveUp::ALL.map(|why| owner.retries.with_label_values(&[name, why.label()])),
            hedges: HedgeResult::LABELS.map(|result| owner.hedges.with_label_values(&[name, result])),
            shed: Rejected::LABELS.map(|why| owner.shed.with_label_values(&[name, why])),
            retried: owner.retries.with_label_values(&[name, "again"]),
            raced: owner.retries.with_label_values(&[name, "race"]),
            opened: owner.pool.with_label_values(&[name, POOL_EVENTS[0]]),
            reused: owner.pool.with_label_values(&[name, POOL_EVENTS[1]]),
            stale: owner.pool.with_label_values(&[name, POOL_EVENTS[2]]),
        }
    }

    /// Counts a response to the app.
    pub(crate) fn record_answer(&self, status: u16) {
        let at = usize::from(status).wrapping_sub(100).min(OTHER_CODES);
        self.codes[at]
            .get_or_init(|| self.owner.requests.with_label_values(&[&self.name, &code_label(at)]))
            .inc();
    }

    /// Counts a request that ended with a reason of the sidecar.
    pub(crate) fn record_error(&self, reason: Reason) {
        self.errors[reason as usize]
            .get_or_init(|| self.owner.errors.with_label_values(&[&self.name, reason.label()]))
            .inc();
    }

    /// Counts an attempt.
    pub(crate) fn record_attempt(&self, outcome: Outcome) {
        self.attempts[outcome.label_index()].inc();
    }

    /// Counts a failed attempt that was not repeated.
    pub(crate) fn record_give_up(&self, why: GiveUp) {
        self.gave_up[why as usize].inc();
    }

    /// Counts a second attempt, or that the budget allowed none.
    pub(crate) fn record_hedge(&self, result: HedgeResult) {
        self.hedges[result as usize].inc();
    }

    /// Counts a request that the bulkhead rejected.
    pub(crate) fn record_rejection(&self, why: Rejected) {
        self.shed[why as usize].inc();
    }

    /// Responses, retries and failed requests, for the status page.
    pub(crate) fn totals(&self) -> (u64, u64, u64) {
        let sum = |slots: &[OnceLock<IntCounter>]| -> u64 {
            slots.iter().filter_map(OnceLock::get).map(IntCounter::get).sum()
        };
        // A disconnect of the app is not a failed request.
        let gone = self.errors[Reason::ClientGone as usize].get().map_or(0, IntCounter::get);
        (sum(&self.codes), self.retried.get(), sum(&self.errors) - gone)
    }
}

impl Drop for ServiceSeries {
    fn drop(&mut self) {
        let name = self.name.as_str();
        let owner = &self.owner;
        // The last holder removes the series, unless a new holder has them.
        let mut services = owner.services.lock();
        if services.get(name).is_some_and(|shared| shared.strong_count() > 0) {
            return;
        }
        services.remove(name);
        // Removing a series that was never made is an error without consequence.
        for (at, slot) in self.codes.iter().enumerate() {
            if slot.get().is_some() {
                let _ = owner.requests.remove_label_values(&[name, &code_label(at)]);
            }
        }
        let _ = owner.duration.remove_label_values(&[name]);
        let _ = owner.in_flight.remove_label_values(&[name]);
        let remove = |family: &IntCounterVec, labels: &[&str]| {
            for label in labels {
                let _ = family.remove_label_values(&[name, label]);
            }
        };
        remove(&owner.attempts, &Outcome::LABELS);
        remove(&owner.retries, &GiveUp::ALL.map(GiveUp::label));
        remove(&owner.retries, &["again", "race"]);
        remove(&owner.hedges, &HedgeResult::LABELS);
        remove(&owner.shed, &Rejected::LABELS);
        remove(&owner.errors, &Reason::ALL.map(Reason::label));
        remove(&owner.pool, &POOL_EVENTS);
    }
}

#[cfg(test)]
mod tests;
