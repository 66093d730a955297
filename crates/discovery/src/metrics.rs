//! The metrics of discovery.
//!
//! Per service, computed at each scrape, so that an age is right while the watcher is blocked, and a
//! series ends with its service. Only services that are declared or ever had an instance have
//! series: a made-up name never becomes a label. `datacenter` is empty for the registry's default.
//!
//! | metric | labels | meaning |
//! |---|---|---|
//! | `outrigger_table_age_seconds` | service, datacenter | time since the instances were last confirmed; absent before the first answer |
//! | `outrigger_table_index` | service, datacenter | the registry's index of the last good answer |
//! | `outrigger_table_instances` | service, datacenter, status | instances known: `passing`, `warning`, `critical`, `maintenance` |
//! | `outrigger_suspect_instances` | service, datacenter | instances kept although the registry no longer lists them |
//! | `outrigger_registry_suspect_updates_total` | service, datacenter, reason | suspect answers: `empty`, `index_went_back`, `collapsed`, `nodes_lost` |
//! | `outrigger_table_updates_total` | service, datacenter, result | answers: `accepted`, `unchanged` |
//! | `outrigger_watched_services` | kind | services watched: `declared`, `on_demand` |
//!
//! For all watches together:
//!
//! | metric | labels | meaning |
//! |---|---|---|
//! | `outrigger_watch_errors_total` | error | failed queries, by [`Error::label`](outrigger_registry::Error::label) |
//! | `outrigger_watch_stale_answers_total` | | answers taken from any server while the leader's failed |
//! | `outrigger_watch_index_resets_total` | | times an index went back |
//! | `outrigger_watch_limited_total` | | queries delayed because answers came too fast |
//! | `outrigger_watch_refused_total` | reason | follows refused: `too_many_services`, `too_many_unknown`, `shutting_down` |

use std::sync::Arc;

use outrigger_registry::Error;
use prometheus::{
    GaugeVec, IntCounter, IntCounterVec, IntGaugeVec, Opts, Registry,
    core::{Collector, Desc},
    proto::MetricFamily,
};

use crate::{
    FollowError, WatchReason,
    clock::now,
    services::{ServiceRow, Services},
};

/// The counters of all watches together.
#[derive(Debug)]
pub(crate) struct Metrics {
    errors: IntCounterVec,
    refused: IntCounterVec,
    pub(crate) stale_answers: IntCounter,
    pub(crate) index_resets: IntCounter,
    pub(crate) limited: IntCounter,
}

impl Metrics {
    pub(crate) fn register(registry: &Registry, services: Arc<Services>) -> Result<Self, prometheus::Error> {
        let metrics = Self {
            errors: IntCounterVec::new(
                Opts::new("outrigger_watch_errors_total", "Queries to the registry that failed."),
                &["error"],
            )?,
            refused: IntCounterVec::new(
                Opts::new("outrigger_watch_refused_total", "Services that were not watched, by reason."),
                &["reason"],
            )?,
            stale_answers: IntCounter::new(
                "outrigger_watch_stale_answers_total",
                "Answers taken from any server while the leader's failed.",
            )?,
            index_resets: IntCounter::new(
                "outrigger_watch_index_resets_total",
                "Times the registry's index went back.",
            )?,
            limited: IntCounter::new(
                "outrigger_watch_limited_total",
                "Queries delayed because answers came too fast.",
            )?,
        };
        registry.register(Box::new(metrics.errors.clone()))?;
        registry.register(Box::new(metrics.refused.clone()))?;
        registry.register(Box::new(metrics.stale_answers.clone()))?;
        registry.register(Box::new(metrics.index_resets.clone()))?;
        registry.register(Box::new(metrics.limited.clone()))?;
        let descriptions = Families::new()?.descriptions();
        registry.register(Box::new(ServicesCollector { services, descriptions }))?;
        Ok(metrics)
    }

    pub(crate) fn count_error(&self, error: &Error) {
        self.errors.with_label_values(&[error.label()]).inc();
    }

    pub(crate) fn count_refusal(&self, error: FollowError) {
        self.refused.with_label_values(&[error.label()]).inc();
    }
}

/// Reads the services at each scrape.
#[derive(Debug)]
struct ServicesCollector {
    services: Arc<Services>,
    descriptions: Vec<Desc>,
}

impl Collector for ServicesCollector {
    fn desc(&self) -> Vec<&Desc> {
        self.descriptions.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let Ok(families) = Families::new() else {
            return Vec::new(); // unreachable: the same call succeeded at registration
        };
        self.services.rows().iter().for_each(|row| families.add(row));
        families.collect()
    }
}

/// The metrics per service of one scrape.
#[derive(Debug)]
struct Families {
    age: GaugeVec,
    index: GaugeVec,
    instances: IntGaugeVec,
    updates: IntCounterVec,
    suspects: IntGaugeVec,
    suspect_updates: IntCounterVec,
    watched: IntGaugeVec,
}

impl Families {
    fn new() -> Result<Self, prometheus::Error> {
        let families = Self {
            age: GaugeVec::new(
                Opts::new("outrigger_table_age_seconds", "Time since the instances were last confirmed."),
                &["service", "datacenter"],
            )?,
            index: GaugeVec::new(
                Opts::new("outrigger_table_index", "The registry's index of the last good answer."),
                &["service", "datacenter"],
            )?,
            instances: IntGaugeVec::new(
                Opts::new("outrigger_table_instances", "Instances known, by health."),
                &["service", "datacenter", "status"],
            )?,
            updates: IntCounterVec::new(
                Opts::new("outrigger_table_updates_total", "Answers of the registry, by result."),
                &["service", "datacenter", "result"],
            )?,
            suspects: IntGaugeVec::new(
                Opts::new(
                    "outrigger_suspect_instances",
                    "Instances kept although the registry no longer lists them.",
                ),
                &["service", "datacenter"],
            )?,
            suspect_updates: IntCounterVec::new(
                Opts::new(
                    "outrigger_registry_suspect_updates_total",
                    "Answers of the registry that were not believed at once, by reason.",
                ),
                &["service", "datacenter", "reason"],
            )?,
            watched: IntGaugeVec::new(
                Opts::new("outrigger_watched_services", "Services watched, by reason."),
                &["kind"],
            )?,
        };
        for kind in [WatchReason::Declared, WatchReason::OnDemand] {
            families.watched.with_label_values(&[kind.label()]); // so that 0 is shown
        }
        Ok(families)
    }

    fn add(&self, row: &ServiceRow) {
        self.watched.with_label_values(&[row.reason.label()]).inc();
        let (entry, query) = (&row.service, &row.service.query);
        let Some(age) = entry.confirmed_ago(now()).filter(|_| row.may_be_metric_label()) else { return };
        let (service, datacenter) = (&*query.service, query.datacenter.as_deref().unwrap_or_default());
        self.age.with_label_values(&[service, datacenter]).set(age.as_secs_f64());
        self.index.with_label_values(&[service, datacenter]).set(entry.index() as f64);
        for (status, count) in entry.snapshot().counts().by_status() {
            let count = i64::try_from(count).unwrap_or(i64::MAX);
            self.instances.with_label_values(&[service, datacenter, status.label()]).set(count);
        }
        for (result, count) in row.update_counts() {
            self.updates.with_label_values(&[service, datacenter, result]).inc_by(count);
        }
        let suspects = i64::try_from(entry.watch_health().suspects.len()).unwrap_or(i64::MAX);
        self.suspects.with_label_values(&[service, datacenter]).set(suspects);
        for (reason, count) in entry.suspect_updates() {
            self.suspect_updates.with_label_values(&[service, datacenter, reason.label()]).inc_by(count);
        }
    }

    fn collectors(&self) -> [&dyn Collector; 7] {
        [
            &self.age,
            &self.index,
            &self.instances,
            &self.updates,
            &self.suspects,
            &self.suspect_updates,
            &self.watched,
        ]
    }

    fn descriptions(&self) -> Vec<Desc> {
        self.collectors().iter().flat_map(|metric| metric.desc()).cloned().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        self.collectors().iter().flat_map(|metric| metric.collect()).collect()
    }
}
