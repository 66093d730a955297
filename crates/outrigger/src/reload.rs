//! Requests for a reload, run one at a time, and their results.
//!
//! A reload reads the settings again from the same file, flags and environment, and checks them as a whole;
//! [`crate::app`] puts them in place. A file with a problem changes nothing. A setting that only a restart can
//! change keeps its value, and the log and the answer name it; the rest is applied, because a corrected
//! timeout should not wait for a restart.

use std::{fmt, future::Future, sync::Arc};

use outrigger_config::{Config, LoadedConfig, Problems, SettingChange, fingerprint};
use outrigger_discovery::unix_time;
use outrigger_events::{Event, EventKind, Events};
use prometheus::{
    Gauge, IntCounterVec, IntGauge, register_gauge_with_registry, register_int_counter_vec_with_registry,
    register_int_gauge_with_registry,
};
use tokio::{
    sync::{mpsc, oneshot},
    task::spawn_blocking,
};
use tracing::{info, warn};

/// Most reloads that wait.
const MAX_QUEUED: usize = 16;

/// Reads the settings again. May block, because it reads files.
#[derive(Clone)]
pub struct ConfigSource(Arc<dyn Fn() -> Result<LoadedConfig, ReloadError> + Send + Sync>);

impl ConfigSource {
    /// A source that calls `read`, which must read the settings as the start did.
    pub fn new(read: impl Fn() -> Result<LoadedConfig, Problems> + Send + Sync + 'static) -> Self {
        Self(Arc::new(move || read().map_err(|problems| ReloadError::problems(&problems))))
    }

    pub(crate) async fn read(&self) -> Result<LoadedConfig, ReloadError> {
        let read = self.0.clone();
        // A runtime that stops runs no new task.
        spawn_blocking(move || read()).await.unwrap_or(Err(ReloadError::Leaving))
    }
}

impl fmt::Debug for ConfigSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ConfigSource")
    }
}

/// The result of a reload that was applied.
#[derive(Debug, Clone, PartialEq)]
pub struct AppliedReload {
    /// Settings with a new value.
    pub changed: Vec<SettingChange>,
    /// Settings that keep their value until a restart.
    pub needs_restart: Vec<SettingChange>,
    /// What is suspicious in the settings, as old names.
    pub warnings: Vec<String>,
    /// As `outrigger_config_hash`.
    pub hash: u64,
}

/// Why a reload changed nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReloadError {
    /// The sidecar was started without a file.
    #[error("there is no file to read again: this sidecar was started without one (-c FILE)")]
    NoFile,
    /// The settings are wrong: every problem with its place, and what is suspicious beside.
    #[error("{}", .problems.join("\n"))]
    Problems {
        /// What is wrong.
        problems: Vec<String>,
        /// What is not wrong, but suspicious.
        warnings: Vec<String>,
    },
    /// The settings are right, but one of their addresses cannot be bound.
    #[error("{0}")]
    Address(String),
    /// The sidecar is leaving.
    #[error("the sidecar is leaving: its settings do not change any more")]
    Leaving,
    /// Too many reloads wait.
    #[error("{MAX_QUEUED} reloads wait already")]
    Busy,
}

impl ReloadError {
    pub(crate) fn problems(problems: &Problems) -> Self {
        Self::Problems {
            problems: problems.iter().map(ToString::to_string).collect(),
            warnings: problems.warnings().iter().map(ToString::to_string).collect(),
        }
    }
}

/// The result of a reload.
pub type ReloadResult = Result<AppliedReload, ReloadError>;

/// Requests reloads; one runs at a time.
#[derive(Debug, Clone)]
pub(crate) struct ReloadHandle(mpsc::Sender<oneshot::Sender<ReloadResult>>);

/// Runs the requested reloads.
#[derive(Debug)]
pub(crate) struct ReloadWorker(mpsc::Receiver<oneshot::Sender<ReloadResult>>);

pub(crate) fn reload_channel() -> (ReloadHandle, ReloadWorker) {
    let (requests, queue) = mpsc::channel(MAX_QUEUED);
    (ReloadHandle(requests), ReloadWorker(queue))
}

impl ReloadHandle {
    /// Requests a reload and waits for its result. A requested reload runs even when the caller stops waiting.
    pub(crate) async fn reload(&self) -> ReloadResult {
        let (respond, response) = oneshot::channel();
        match self.0.try_send(respond) {
            Ok(()) => response.await.unwrap_or(Err(ReloadError::Leaving)),
            Err(mpsc::error::TrySendError::Full(_)) => Err(ReloadError::Busy),
            Err(mpsc::error::TrySendError::Closed(_)) => Err(ReloadError::Leaving),
        }
    }
}

impl ReloadWorker {
    /// Runs the requested reloads until its task is aborted.
    pub(crate) async fn run<F: Future<Output = ReloadResult>>(
        mut self,
        reload_metrics: ReloadMetrics,
        events: Events,
        reload: impl Fn() -> F,
    ) {
        while let Some(respond) = self.0.recv().await {
            let outcome = reload().await;
            reload_metrics.record_result(&outcome);
            log_result(&outcome);
            events.record(result_event(&outcome));
            // The caller may have stopped waiting.
            let _ = respond.send(outcome);
        }
    }
}

fn log_result(outcome: &ReloadResult) {
    match outcome {
        Ok(AppliedReload { changed, needs_restart, warnings, hash }) => {
            log_warnings(warnings);
            for change in changed {
                info!(%change, "setting changed");
            }
            for change in needs_restart {
                warn!(%change, "this change needs a restart, going on without it");
            }
            let (changed, needs_restart) = (changed.len(), needs_restart.len());
            info!(changed, needs_restart, hash, "settings reloaded");
        }
        Err(ReloadError::Problems { problems, warnings }) => {
            log_warnings(warnings);
            for problem in problems {
                warn!(problem, "settings");
            }
            warn!(problems = problems.len(), "reload refused, going on as before");
        }
        Err(refused) => warn!(reason = %refused, "reload refused, going on as before"),
    }
}

fn result_event(outcome: &ReloadResult) -> Event {
    match outcome {
        Ok(AppliedReload { changed, needs_restart, .. }) => {
            let changes = changed.iter().map(ToString::to_string);
            let kept = needs_restart.iter().map(|change| format!("needs a restart: {change}"));
            let all: Vec<_> = changes.chain(kept).collect();
            let reason = if all.is_empty() { "nothing has changed".to_owned() } else { all.join("; ") };
            Event::new(EventKind::ReloadApplied, reason)
        }
        Err(ReloadError::Problems { problems, .. }) => {
            Event::new(EventKind::ReloadRefused, problems.join("; "))
        }
        Err(refused) => Event::new(EventKind::ReloadRefused, refused.to_string()),
    }
}

fn log_warnings(warnings: &[String]) {
    for warning in warnings {
        warn!(%warning, "settings");
    }
}

/// The metrics of this module.
#[derive(Debug)]
pub(crate) struct ReloadMetrics {
    hash: Gauge,
    successful: IntGauge,
    at: Gauge,
    reloads: IntCounterVec,
}

impl ReloadMetrics {
    /// Registers the metrics at the start, with `config` in place.
    pub(crate) fn register(
        metrics: &prometheus::Registry,
        config: &Config,
    ) -> Result<Self, prometheus::Error> {
        let reload_metrics = Self {
            hash: register_gauge_with_registry!(
                "outrigger_config_hash",
                "A number that is equal for equal settings.",
                metrics
            )?,
            successful: register_int_gauge_with_registry!(
                "outrigger_config_last_reload_successful",
                "1, or 0 when the last reload was refused.",
                metrics
            )?,
            at: register_gauge_with_registry!(
                "outrigger_config_last_reload_success_timestamp_seconds",
                "When settings were last put in place, at the start or by a reload.",
                metrics
            )?,
            reloads: register_int_counter_vec_with_registry!(
                "outrigger_config_reloads_total",
                "Reloads that have ended.",
                &["result"],
                metrics
            )?,
        };
        for result in ["applied", "refused"] {
            reload_metrics.reloads.with_label_values(&[result]).reset();
        }
        reload_metrics.record_applied(fingerprint(config));
        Ok(reload_metrics)
    }

    /// `outrigger_config_hash`, which documents of the registry change too.
    pub(crate) fn hash(&self) -> Gauge {
        self.hash.clone()
    }

    fn record_result(&self, outcome: &ReloadResult) {
        match outcome {
            Ok(applied) => {
                self.reloads.with_label_values(&["applied"]).inc();
                self.record_applied(applied.hash);
            }
            Err(_) => {
                self.reloads.with_label_values(&["refused"]).inc();
                self.successful.set(0);
            }
        }
    }

    fn record_applied(&self, hash: u64) {
        // The hash has 48 bits, so that an f64 is exact.
        self.hash.set(hash as f64);
        self.successful.set(1);
        self.at.set(unix_time().as_secs_f64());
    }
}

#[cfg(test)]
mod tests {
    use std::{cell::Cell, time::Duration};

    use outrigger_events::EventFilter;
    use tokio::time::{sleep, timeout};

    use super::*;

    fn test_metrics() -> (prometheus::Registry, ReloadMetrics) {
        let metrics = prometheus::Registry::new();
        let reload_metrics = ReloadMetrics::register(&metrics, &Config::default()).unwrap();
        (metrics, reload_metrics)
    }

    fn value(metrics: &prometheus::Registry, series: &str) -> f64 {
        let text = prometheus::TextEncoder::new().encode_to_string(&metrics.gather()).unwrap();
        let value =
            text.lines().find_map(|line| line.strip_prefix(series)).unwrap_or_else(|| panic!("{text}"));
        value.trim().parse().unwrap()
    }

    #[test]
    fn a_refusal_is_counted_and_leaves_hash_and_time_as_they_are() {
        let (metrics, reload_metrics) = test_metrics();
        let all = ["outrigger_config_hash", "outrigger_config_last_reload_success_timestamp_seconds"];
        let before = all.map(|name| value(&metrics, name));
        assert!(before.iter().all(|value| *value > 0.0), "{before:?}");
        assert_eq!(value(&metrics, "outrigger_config_last_reload_successful"), 1.0);

        reload_metrics.record_result(&Err(ReloadError::NoFile));
        assert_eq!(all.map(|name| value(&metrics, name)), before);
        assert_eq!(value(&metrics, "outrigger_config_last_reload_successful"), 0.0);
        assert_eq!(value(&metrics, "outrigger_config_reloads_total{result=\"refused\"}"), 1.0);

        reload_metrics.record_result(&Ok(AppliedReload {
            changed: Vec::new(),
            needs_restart: Vec::new(),
            warnings: Vec::new(),
            hash: 7,
        }));
        assert_eq!(value(&metrics, "outrigger_config_hash"), 7.0);
        assert_eq!(value(&metrics, "outrigger_config_last_reload_successful"), 1.0);
        assert_eq!(value(&metrics, "outrigger_config_reloads_total{result=\"applied\"}"), 1.0);
    }

    #[tokio::test(start_paused = true)]
    async fn reloads_run_one_at_a_time_and_too_many_are_refused() {
        let (handle, worker) = reload_channel();
        let mut asked: Vec<_> = (0..MAX_QUEUED).map(|_| Box::pin(handle.reload())).collect();
        for one in &mut asked {
            assert!(timeout(Duration::ZERO, one).await.is_err(), "none has begun yet");
        }
        assert_eq!(handle.reload().await, Err(ReloadError::Busy));

        let (running, most) = (Cell::new(0), Cell::new(0));
        let events = Events::default();
        let worker = worker.run(test_metrics().1, events.clone(), || async {
            running.set(running.get() + 1);
            most.set(most.get().max(running.get()));
            sleep(Duration::from_secs(1)).await;
            running.set(running.get() - 1);
            Err(ReloadError::NoFile)
        });
        let all = async {
            for one in asked {
                assert_eq!(one.await, Err(ReloadError::NoFile));
            }
        };
        tokio::select! {
            () = all => {}
            () = worker => panic!("the worker ends only with its task"),
        }
        assert_eq!(most.get(), 1);
        let recorded = events.page(&EventFilter::default(), None, usize::MAX).events;
        let count: u64 = recorded.iter().map(|one| one.count).sum();
        assert!(recorded.iter().all(|one| one.kind() == EventKind::ReloadRefused));
        assert_eq!((count, recorded[0].reason()), (MAX_QUEUED as u64, &*ReloadError::NoFile.to_string()));
    }
}
