//! The metrics of discovery; docs/metrics.md lists them with their labels.
//!
//! Those per service are computed at each scrape, so that an age is right while the watcher is blocked, and a
//! series ends with its service. Only services that are declared or ever had an instance have series: a
//! made-up name never becomes a label.

use std::sync::{Arc, atomic::Ordering::Relaxed};

use outrigger_registry::Error;
use prometheus::{
    GaugeVec, IntCounter, IntCounterVec, Opts, Registry,
    core::{Collector, Desc},
    proto::MetricFamily,
};

use crate::{
    FollowError, Knowledge, WatchReason,
    clock::now,
    services::{ServiceRow, Services},
};

/// The counters of all watches together.
#[derive(Debug)]
pub(crate) struct Metrics {
    errors: IntCounterVec,
    refused: IntCounterVec,
    pub(crate) evicted: IntCounter,
    pub(crate) stale_answers: IntCounter,
    pub(crate) index_resets: IntCounter,
    pub(crate) limited: IntCounter,
}

impl Metrics {
    pub(crate) fn register(registry: &Registry, services: Arc<Services>) -> Result<Self, prometheus::Error> {
        let family = |name: &str, help: &str, label: &str| {
            let family = IntCounterVec::new(Opts::new(name, help), &[label])?;
            registry.register(Box::new(family.clone()))?;
            Ok::<_, prometheus::Error>(family)
        };
        let counter = |name: &str, help: &str| {
            let counter = IntCounter::new(name, help)?;
            registry.register(Box::new(counter.clone()))?;
            Ok::<_, prometheus::Error>(counter)
        };
        let metrics = Self {
            errors: family("outrigger_watch_errors_total", "Queries to the registry that failed.", "error")?,
            refused: family(
                "outrigger_watch_refused_total",
                "Services that were not watched, by reason.",
                "reason",
            )?,
            evicted: counter(
                "outrigger_watch_evicted_total",
                "Watches that ended because another service took their place in a quota.",
            )?,
            stale_answers: counter(
                "outrigger_watch_stale_answers_total",
                "Answers taken from any server while the leader's failed.",
            )?,
            index_resets: counter(
                "outrigger_watch_index_resets_total",
                "Times the registry's index went back.",
            )?,
            limited: counter(
                "outrigger_watch_limited_total",
                "Queries delayed because answers came too fast.",
            )?,
        };
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
        // The best known one of several watches at other addresses is the last one, and counts.
        let mut rows = self.services.rows();
        rows.sort_by_key(|row| row.service.snapshot().knowledge);
        rows.iter().for_each(|row| families.add(row));
        families.collect()
    }
}

/// The metrics per service of one scrape.
#[derive(Debug)]
struct Families {
    age: GaugeVec,
    index: GaugeVec,
    instances: GaugeVec,
    updates: IntCounterVec,
    suspects: GaugeVec,
    suspect_updates: IntCounterVec,
    watched: GaugeVec,
}

impl Families {
    fn new() -> Result<Self, prometheus::Error> {
        let gauge = |name, help, labels: &[&str]| GaugeVec::new(Opts::new(name, help), labels);
        let counter =
            |name, help, label| IntCounterVec::new(Opts::new(name, help), &["service", "datacenter", label]);
        let service = &["service", "datacenter"];
        let families = Self {
            age: gauge(
                "outrigger_table_age_seconds",
                "Time since the instances were last confirmed.",
                service,
            )?,
            index: gauge("outrigger_table_index", "The registry's index of the last good answer.", service)?,
            instances: gauge(
                "outrigger_table_instances",
                "Instances known, by health.",
                &["service", "datacenter", "status"],
            )?,
            updates: counter(
                "outrigger_table_updates_total",
                "Answers of the registry, by result.",
                "result",
            )?,
            suspects: gauge(
                "outrigger_suspect_instances",
                "Instances kept although the registry no longer lists them.",
                service,
            )?,
            suspect_updates: counter(
                "outrigger_registry_suspect_updates_total",
                "Answers of the registry that were not believed at once, by reason.",
                "reason",
            )?,
            watched: gauge("outrigger_watched_services", "Services watched, by reason.", &["kind"])?,
        };
        for kind in [WatchReason::Declared, WatchReason::OnDemand, WatchReason::Lookup] {
            families.watched.with_label_values(&[kind.label()]); // so that 0 is shown
        }
        Ok(families)
    }

    fn add(&self, row: &ServiceRow) {
        self.watched.with_label_values(&[row.reason.label()]).inc();
        let (entry, query) = (&row.service, &row.service.query);
        // One with a filter lists a part of what the one without it does, under the same labels.
        if query.filter.is_some()
            || !row.may_be_metric_label()
            || entry.snapshot().knowledge == Knowledge::Unasked
        {
            return;
        }
        let (service, datacenter) = (&*query.service, query.datacenter.as_deref().unwrap_or_default());
        // A cached answer may be of unknown age.
        if let Some(age) = entry.confirmed_ago(now()) {
            self.age.with_label_values(&[service, datacenter]).set(age.as_secs_f64());
        }
        self.index.with_label_values(&[service, datacenter]).set(entry.index() as f64);
        for (status, count) in entry.snapshot().counts().by_status() {
            self.instances.with_label_values(&[service, datacenter, status.label()]).set(count as f64);
        }
        for (result, count) in [("accepted", &entry.accepted), ("unchanged", &entry.unchanged)] {
            add(&self.updates, &[service, datacenter, result], count.load(Relaxed));
        }
        let suspects = entry.watch_health().suspects.len();
        self.suspects.with_label_values(&[service, datacenter]).set(suspects as f64);
        for (reason, count) in entry.suspect_updates() {
            add(&self.suspect_updates, &[service, datacenter, reason.label()], count);
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

/// A counter appears with its first event, so that a sidecar of many services is cheap to scrape.
fn add(family: &IntCounterVec, labels: &[&str], count: u64) {
    if count > 0 {
        family.with_label_values(labels).inc_by(count);
    }
}
