//! All files of the settings.

use std::{collections::BTreeMap, future::Future, path::PathBuf, sync::Arc};

use outrigger_config::{ConfigFile, OnChange, PropertySource};
use outrigger_events::Events;
use outrigger_locks::LockManager;
use outrigger_registration::LifecycleHandle;
use outrigger_task::essential;
use parking_lot::Mutex;
use serde::Serialize;
use tokio::{sync::watch, time::Instant, time::timeout_at};
use tokio_util::task::AbortOnDropHandle;
use tracing::{info, warn};

use super::{
    keeper::{ChangeTeller, ContentSource, FileKeeper, FileStatus, action_name},
    metrics::FileMetrics,
    restart::{RestartCoordinator, RestartRequests, RestartState, RestartStatus},
    target::SidecarTarget,
};
use crate::process::AppControl;

/// Why settings of files cannot be used by this sidecar.
#[derive(Debug, thiserror::Error)]
pub enum FilesError {
    /// There is no app that could get a signal or be restarted.
    #[error(
        "api.config.files: {}: on_change.{action} needs an app that the sidecar runs (outrigger run -- APP); an app that is started by \
         other means can be told by on_change.http",
        path.display()
    )]
    NoApp {
        /// The file.
        path: PathBuf,
        /// The action.
        action: &'static str,
    },
    /// There is no service, and so no instances that could take turns.
    #[error(
        "api.config.files: {}: on_change.restart needs service.name: the instances of a service restart one after the other",
        path.display()
    )]
    NoService {
        /// The file.
        path: PathBuf,
    },
}

/// Files that the app cannot start without.
#[derive(Debug, thiserror::Error)]
#[error("the app is not started without its files: {}", .0.join("; "))]
pub(crate) struct MissingFiles(Vec<String>);

impl MissingFiles {
    /// Of the process.
    pub(crate) const EXIT_CODE: u8 = 1;
}

/// A file, for `/readyz`.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct FileSummary {
    pub(crate) path: String,
    /// `written`, `waiting` (the app is not started yet), `missing` (it was started without).
    pub(crate) state: &'static str,
    /// Why the last content is not written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) why: Option<String>,
}

/// The restart of the app for a changed file, for `/readyz`.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct RestartSummary {
    pub(crate) state: &'static str,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) why: String,
}

/// A file with a task that runs.
#[derive(Debug)]
struct RunningFile {
    file: ConfigFile,
    /// What the content is merged from, where it is the merged configuration.
    sources: Vec<PropertySource>,
    status: watch::Sender<FileStatus>,
    /// Until then the app waits for it.
    awaited_until: Instant,
    /// It is one of the settings of the start. An app that runs already waits for nothing.
    is_of_start: bool,
    _task: AbortOnDropHandle<()>,
}

/// The files of a sidecar.
#[derive(Debug)]
pub(crate) struct AppFiles {
    changes: ChangeTeller,
    /// In the order of their paths.
    running: Mutex<BTreeMap<PathBuf, RunningFile>>,
    /// False before the settings of the start are in place.
    has_settings: Mutex<bool>,
    restart: watch::Sender<RestartStatus>,
    tasks: Mutex<Vec<AbortOnDropHandle<()>>>,
}

impl AppFiles {
    pub(crate) fn new(
        app: Arc<AppControl>,
        events: Events,
        metrics: &prometheus::Registry,
    ) -> Result<Self, prometheus::Error> {
        let metrics = FileMetrics::register(metrics)?;
        let changes = ChangeTeller { app, requests: RestartRequests::default(), events, metrics };
        let (running, restart) = (Mutex::default(), watch::Sender::default());
        Ok(Self { changes, running, has_settings: Mutex::default(), restart, tasks: Mutex::default() })
    }

    /// Restarts the app for changed files from now on. Must be called within the runtime that is to do it.
    pub(crate) fn start_restarts(&self, lifecycle: LifecycleHandle, locks: LockManager) {
        let metrics = self.changes.metrics.clone();
        let coordinator = RestartCoordinator {
            target: SidecarTarget { lifecycle, locks },
            requests: self.changes.requests.clone(),
            app: self.changes.app.clone(),
            status: self.restart.clone(),
            events: self.changes.events.clone(),
            count: Box::new(move |is_done| metrics.count_change("restart", is_done)),
        };
        let shown = self.changes.metrics.clone().follow_restart(self.restart.subscribe());
        let restarts = tokio::spawn(essential("the restarts of the app", coordinator.run()));
        let gauge = tokio::spawn(essential("the state of the restart of the app", shown));
        self.tasks.lock().extend([AbortOnDropHandle::new(restarts), AbortOnDropHandle::new(gauge)]);
    }

    /// Whether this sidecar can do what the files ask for.
    pub(crate) fn check(files: &[ConfigFile], runs_app: bool, has_service: bool) -> Result<(), FilesError> {
        for file in files {
            let path = || file.path.clone();
            match &file.on_change {
                Some(action @ (OnChange::Signal(_) | OnChange::Restart { .. })) if !runs_app => {
                    return Err(FilesError::NoApp { path: path(), action: action_name(action) });
                }
                Some(OnChange::Restart { .. }) if !has_service => {
                    return Err(FilesError::NoService { path: path() });
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Keeps these files from now on. One that stays as it is goes on; one with other settings is written by them, and that is a
    /// change like another one. A file that is named no more stays on disk.
    pub(crate) fn apply<S: ContentSource>(
        &self,
        files: &[ConfigFile],
        sources: &[PropertySource],
        open: impl Fn(&ConfigFile) -> S,
    ) {
        let mut running = self.running.lock();
        let mut before = std::mem::take(&mut *running);
        let is_start = !std::mem::replace(&mut *self.has_settings.lock(), true);
        for file in files {
            let sources = if file.prefix.is_none() { sources } else { &[] };
            let known = before.remove(&file.path);
            let next = match known {
                Some(known) if known.file == *file && known.sources == sources => known,
                known => {
                    let is_written = known.is_some_and(|known| known.status.borrow().is_written);
                    let started = self.start(file.clone(), sources.to_vec(), is_written, open(file));
                    RunningFile { is_of_start: is_start, ..started }
                }
            };
            running.insert(file.path.clone(), next);
        }
        for (path, _) in before {
            info!(path = %path.display(), "a file of the app is kept no more; it stays as it is");
        }
        let asks_restart = |path: &PathBuf| {
            let of = running.get(path).and_then(|one| one.file.on_change.as_ref());
            matches!(of, Some(OnChange::Restart { .. }))
        };
        self.changes.metrics.show_restarts(running.keys().any(asks_restart), self.restart.borrow().state);
        self.changes.requests.retain(asks_restart);
    }

    fn start<S: ContentSource>(
        &self,
        file: ConfigFile,
        sources: Vec<PropertySource>,
        is_written: bool,
        source: S,
    ) -> RunningFile {
        let status = watch::Sender::new(FileStatus { is_written, trouble: None });
        let awaited_until = Instant::now() + file.wait;
        let keeper =
            FileKeeper { source, file: file.clone(), status: status.clone(), changes: self.changes.clone() };
        let name = format!("the file {}", file.path.display());
        let task = AbortOnDropHandle::new(tokio::spawn(essential(name, keeper.run())));
        RunningFile { file, sources, status, awaited_until, is_of_start: false, _task: task }
    }

    /// Resolves when each file is written, or its `wait` is over.
    pub(crate) fn written(&self) -> impl Future<Output = Result<(), MissingFiles>> + use<> {
        let waits: Vec<_> = {
            let running = self.running.lock();
            let wait = |one: &RunningFile| (one.file.clone(), one.status.subscribe(), one.awaited_until);
            running.values().map(wait).collect()
        };
        async move {
            let mut missing = Vec::new();
            for (file, mut status, until) in waits {
                let written = timeout_at(until, status.wait_for(|status| status.is_written)).await;
                if written.is_ok_and(|written| written.is_ok()) {
                    continue;
                }
                let (path, wait) = (file.path.display().to_string(), file.wait);
                let why = status.borrow().trouble.clone().unwrap_or_else(|| "no content is known".to_owned());
                if file.required {
                    missing.push(format!("{path}, within {wait:?}: {why}"));
                } else {
                    warn!(path, ?wait, why, "a file of the app is not written in time; it is written later");
                }
            }
            if missing.is_empty() { Ok(()) } else { Err(MissingFiles(missing)) }
        }
    }

    /// The files, in the order of their paths.
    pub(crate) fn summaries(&self) -> Vec<FileSummary> {
        let now = Instant::now();
        let summary = |one: &RunningFile| {
            let status = one.status.borrow();
            let state = match status.is_written {
                true => "written",
                false if one.is_of_start && now < one.awaited_until => "waiting",
                false => "missing",
            };
            FileSummary { path: one.file.path.display().to_string(), state, why: status.trouble.clone() }
        };
        self.running.lock().values().map(summary).collect()
    }

    /// Absent where nothing is restarted, and nothing is going to be.
    pub(crate) fn restart(&self) -> Option<RestartSummary> {
        let RestartStatus { state, why } = self.restart.borrow().clone();
        (state != RestartState::Idle).then(|| RestartSummary { state: state.label(), why })
    }

    /// Writes nothing any more, tells the app of nothing, and gives the slot of a restart back.
    pub(crate) fn stop(&self) {
        self.tasks.lock().clear();
        self.running.lock().clear();
    }
}

#[cfg(test)]
mod tests;
