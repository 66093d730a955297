//! A reload: who asks for it, one after the other, and what came of it.
//!
//! Settings are read again from where they came (the same file, flags and environment), checked as a
//! whole, and handed to [`crate::app`], which puts them in place. A file with a problem changes nothing.
//! What only a restart can change goes on as it is and is named, in the log and in the answer: refusing
//! the rest for its sake would keep a mended time-out from a service that needs it now.
//!
//! | metric | labels | what it says |
//! |---|---|---|
//! | `outrigger_config_hash` | – | a number that is the same for the same settings |
//! | `outrigger_config_last_reload_successful` | – | 1, or 0 when the last one was refused |
//! | `outrigger_config_last_reload_success_timestamp_seconds` | – | when settings were last put in place, the start included |
//! | `outrigger_config_reloads_total` | `result` | reloads: `applied`, `refused` |

use std::{fmt, future::Future, sync::Arc};

use outrigger_config::{Config, LoadedConfig, Problems, SettingChange, fingerprint};
use prometheus::{Gauge, IntCounterVec, IntGauge, Opts};
use tokio::{
    sync::{mpsc, oneshot},
    task::spawn_blocking,
};
use tracing::{info, warn};

use crate::telemetry;

/// Most reloads that wait for their turn.
const MAX_QUEUED: usize = 16;

/// Reads settings again. May block: it reads files.
#[derive(Clone)]
pub struct ConfigSource(Arc<dyn Fn() -> Result<LoadedConfig, ReloadError> + Send + Sync>);

impl ConfigSource {
    /// Settings that `read` gives, the same way as at the start.
    pub fn new(read: impl Fn() -> Result<LoadedConfig, Problems> + Send + Sync + 'static) -> Self {
        Self(Arc::new(move || read().map_err(|problems| ReloadError::problems(&problems))))
    }

    pub(crate) async fn read(&self) -> Result<LoadedConfig, ReloadError> {
        let read = self.0.clone();
        // A stopping runtime takes no more work.
        spawn_blocking(move || read()).await.unwrap_or(Err(ReloadError::Leaving))
    }
}

impl fmt::Debug for ConfigSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Source")
    }
}

/// Settings that were put in place.
#[derive(Debug, Clone, PartialEq)]
pub struct AppliedReload {
    /// What is another now.
    pub changed: Vec<SettingChange>,
    /// What was read and is not followed before a restart.
    pub needs_restart: Vec<SettingChange>,
    /// As `outrigger_config_hash`.
    pub hash: u64,
}

/// Why nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReloadError {
    /// There is nothing to read again.
    #[error("there is no file to read again: this sidecar was started without one (-c FILE)")]
    NoFile,
    /// The settings are wrong: every problem with its place.
    #[error("{}", .0.join("\n"))]
    Problems(Vec<String>),
    /// The settings are right, and an address of theirs cannot be had.
    #[error("{0}")]
    Address(String),
    /// It is leaving.
    #[error("the sidecar is leaving: its settings do not change any more")]
    Leaving,
    /// Too many wait already.
    #[error("{MAX_QUEUED} reloads wait already")]
    Busy,
}

impl ReloadError {
    pub(crate) fn problems(problems: &Problems) -> Self {
        Self::Problems(problems.iter().map(ToString::to_string).collect())
    }
}

/// How a reload ended.
pub type ReloadResult = Result<AppliedReload, ReloadError>;

/// Where reloads are asked for; one runs at a time.
#[derive(Debug, Clone)]
pub(crate) struct ReloadHandle(mpsc::Sender<oneshot::Sender<ReloadResult>>);

/// The other end.
#[derive(Debug)]
pub(crate) struct ReloadWorker(mpsc::Receiver<oneshot::Sender<ReloadResult>>);

pub(crate) fn reload_channel() -> (ReloadHandle, ReloadWorker) {
    let (ask, asked) = mpsc::channel(MAX_QUEUED);
    (ReloadHandle(ask), ReloadWorker(asked))
}

impl ReloadHandle {
    /// Asks for one and waits until it has ended. One that was asked for runs, whether or not anybody
    /// waits.
    pub(crate) async fn reload(&self) -> ReloadResult {
        let (tell, told) = oneshot::channel();
        match self.0.try_send(tell) {
            Ok(()) => told.await.unwrap_or(Err(ReloadError::Leaving)),
            Err(mpsc::error::TrySendError::Full(_)) => Err(ReloadError::Busy),
            Err(mpsc::error::TrySendError::Closed(_)) => Err(ReloadError::Leaving),
        }
    }
}

impl ReloadWorker {
    /// Runs what is asked for until its task is aborted.
    pub(crate) async fn run<F: Future<Output = ReloadResult>>(
        mut self,
        meters: ReloadMetrics,
        reload: impl Fn() -> F,
    ) {
        while let Some(tell) = self.0.recv().await {
            let outcome = reload().await;
            meters.record_result(&outcome);
            log_result(&outcome);
            // Whoever asked may have gone.
            let _ = tell.send(outcome);
        }
    }
}

fn log_result(outcome: &ReloadResult) {
    match outcome {
        Ok(AppliedReload { changed, needs_restart, hash }) => {
            for change in changed {
                info!(%change, "setting changed");
            }
            for change in needs_restart {
                warn!(%change, "this change needs a restart, going on without it");
            }
            let (changed, needs_restart) = (changed.len(), needs_restart.len());
            info!(changed, needs_restart, hash, "settings reloaded");
        }
        Err(ReloadError::Problems(problems)) => {
            for problem in problems {
                warn!(problem, "settings");
            }
            warn!(problems = problems.len(), "reload refused, going on as before");
        }
        Err(refused) => warn!(reason = %refused, "reload refused, going on as before"),
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
    /// Of settings that were put in place just now, at the start.
    pub(crate) fn register(
        metrics: &prometheus::Registry,
        config: &Config,
    ) -> Result<Self, prometheus::Error> {
        let meters = Self {
            hash: Gauge::new("outrigger_config_hash", "A number that is the same for the same settings.")?,
            successful: IntGauge::new(
                "outrigger_config_last_reload_successful",
                "1, or 0 when the last reload was refused.",
            )?,
            at: Gauge::new(
                "outrigger_config_last_reload_success_timestamp_seconds",
                "When settings were last put in place, the start included.",
            )?,
            reloads: IntCounterVec::new(
                Opts::new("outrigger_config_reloads_total", "Reloads that ended."),
                &["result"],
            )?,
        };
        metrics.register(Box::new(meters.hash.clone()))?;
        metrics.register(Box::new(meters.successful.clone()))?;
        metrics.register(Box::new(meters.at.clone()))?;
        metrics.register(Box::new(meters.reloads.clone()))?;
        for result in ["applied", "refused"] {
            meters.reloads.with_label_values(&[result]).reset();
        }
        meters.record_applied(fingerprint(config));
        Ok(meters)
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
        // 48 bits: exact.
        self.hash.set(hash as f64);
        self.successful.set(1);
        self.at.set(telemetry::unix_time());
    }
}

#[cfg(test)]
mod tests {
    use std::{cell::Cell, time::Duration};

    use tokio::time::{sleep, timeout};

    use super::*;

    fn test_metrics() -> (prometheus::Registry, ReloadMetrics) {
        let metrics = prometheus::Registry::new();
        let meters = ReloadMetrics::register(&metrics, &Config::default()).unwrap();
        (metrics, meters)
    }

    fn value(metrics: &prometheus::Registry, series: &str) -> f64 {
        let text = prometheus::TextEncoder::new().encode_to_string(&metrics.gather()).unwrap();
        let value =
            text.lines().find_map(|line| line.strip_prefix(series)).unwrap_or_else(|| panic!("{text}"));
        value.trim().parse().unwrap()
    }

    #[test]
    fn a_refusal_is_counted_and_leaves_hash_and_time_as_they_are() {
        let (metrics, meters) = test_metrics();
        let all = ["outrigger_config_hash", "outrigger_config_last_reload_success_timestamp_seconds"];
        let before = all.map(|name| value(&metrics, name));
        assert!(before.iter().all(|value| *value > 0.0), "{before:?}");
        assert_eq!(value(&metrics, "outrigger_config_last_reload_successful"), 1.0);

        meters.record_result(&Err(ReloadError::NoFile));
        assert_eq!(all.map(|name| value(&metrics, name)), before);
        assert_eq!(value(&metrics, "outrigger_config_last_reload_successful"), 0.0);
        assert_eq!(value(&metrics, "outrigger_config_reloads_total{result=\"refused\"}"), 1.0);

        meters.record_result(&Ok(AppliedReload { changed: Vec::new(), needs_restart: Vec::new(), hash: 7 }));
        assert_eq!(value(&metrics, "outrigger_config_hash"), 7.0);
        assert_eq!(value(&metrics, "outrigger_config_last_reload_successful"), 1.0);
        assert_eq!(value(&metrics, "outrigger_config_reloads_total{result=\"applied\"}"), 1.0);
    }

    #[tokio::test(start_paused = true)]
    async fn reloads_come_one_after_the_other_and_too_many_are_refused() {
        let (desk, turns) = reload_channel();
        let mut asked: Vec<_> = (0..MAX_QUEUED).map(|_| Box::pin(desk.reload())).collect();
        for one in &mut asked {
            assert!(timeout(Duration::ZERO, one).await.is_err(), "nobody has begun yet");
        }
        assert_eq!(desk.reload().await, Err(ReloadError::Busy));

        let (running, most) = (Cell::new(0), Cell::new(0));
        let turns = turns.run(test_metrics().1, || async {
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
            () = turns => panic!("it ends with its task alone"),
        }
        assert_eq!(most.get(), 1);
    }
}
