//! What is counted of the files of the app.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use prometheus::{
    IntCounterVec, IntGaugeVec, register_int_counter_vec_with_registry, register_int_gauge_vec_with_registry,
};
use tokio::sync::watch;

use super::restart::{RestartState, RestartStatus};

/// The metrics. Clones are the same.
#[derive(Debug, Clone)]
pub(super) struct FileMetrics(Arc<Families>);

#[derive(Debug)]
struct Families {
    /// `outrigger_config_file_writes_total`
    writes: IntCounterVec,
    /// `outrigger_on_change_total`
    changes: IntCounterVec,
    /// `outrigger_app_restart_state`
    restart: IntGaugeVec,
    /// Some file asks for restarts.
    has_restarts: AtomicBool,
}

impl FileMetrics {
    pub(super) fn register(metrics: &prometheus::Registry) -> Result<Self, prometheus::Error> {
        let writes = register_int_counter_vec_with_registry!(
            "outrigger_config_file_writes_total",
            "Writes of the files of the app that had another content.",
            &["path", "result"],
            metrics
        )?;
        let changes = register_int_counter_vec_with_registry!(
            "outrigger_on_change_total",
            "How often the app was told of a changed file.",
            &["action", "result"],
            metrics
        )?;
        let restart = register_int_gauge_vec_with_registry!(
            "outrigger_app_restart_state",
            "1 for the state of the restart of the app for a changed file.",
            &["state"],
            metrics
        )?;
        Ok(Self(Arc::new(Families { writes, changes, restart, has_restarts: AtomicBool::new(false) })))
    }

    pub(super) fn count_write(&self, path: &Path, is_done: bool) {
        let path = path.display().to_string();
        self.0.writes.with_label_values(&[&*path, result_name(is_done)]).inc();
    }

    pub(super) fn count_change(&self, action: &str, is_done: bool) {
        self.0.changes.with_label_values(&[action, result_name(is_done)]).inc();
    }

    /// `has_restarts`: whether some file asks for restarts now.
    pub(super) fn show_restarts(&self, has_restarts: bool, now: RestartState) {
        self.0.has_restarts.store(has_restarts, Relaxed);
        self.show_restart(now);
    }

    fn show_restart(&self, now: RestartState) {
        // A restart under way goes on after a reload.
        if now == RestartState::Idle && !self.0.has_restarts.load(Relaxed) {
            return self.0.restart.reset();
        }
        for state in RestartState::ALL {
            self.0.restart.with_label_values(&[state.label()]).set(i64::from(state == now));
        }
    }

    /// Shows each state. Returns when the coordinator has ended.
    pub(super) async fn follow_restart(self, mut status: watch::Receiver<RestartStatus>) {
        while status.changed().await.is_ok() {
            let now = status.borrow_and_update().state;
            self.show_restart(now);
        }
    }
}

fn result_name(is_done: bool) -> &'static str {
    if is_done { "done" } else { "failed" }
}
