//! Keeps one file: writes its content before the app starts, and again with each change, and tells the app of a change.

use std::{future::Future, sync::Arc, time::Duration};

use outrigger_config::{AppSignal, ConfigFile, OnChange, error_chain};
use outrigger_events::{Event, EventKind, Events};
use outrigger_policy::backoff::Backoff;
use rustix::process::Signal;
use tokio::{
    sync::watch,
    time::{Instant, sleep, sleep_until},
};
use tracing::{debug, info, warn};

use super::{
    handler::{SignalDecision, await_handler},
    metrics::FileMetrics,
    notifier::post_until_taken,
    restart::{RestartRequests, RestartTerms},
    writer::{WriteResult, write_file},
};
use crate::process::{AppControl, AppRequest, signal_name};

/// A change is written after this time without another one.
const QUIET: Duration = Duration::from_millis(100);
/// Changes that do not end are written this often.
const LONGEST_QUIET: Duration = Duration::from_secs(1);
/// The first content is that of an earlier run only when the registry has not answered for this long, or for `wait` if that is shorter.
const EARLIER_AFTER: Duration = Duration::from_secs(5);
/// Pauses before a file that cannot be written is tried again.
const BACKOFF: Backoff = Backoff { base: Duration::from_millis(500), max: Duration::from_secs(5) };

/// What a file is to contain at this moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum FileContent {
    /// The registry has not been heard yet; of what.
    Awaited(String),
    /// There is none, or none that can be written; why.
    None(String),
    /// It is known.
    Known {
        bytes: Arc<[u8]>,
        /// It is the last one of an earlier run: the registry has not answered yet.
        is_of_earlier_run: bool,
    },
}

/// Where the content of a file comes from.
pub(crate) trait ContentSource: Send + 'static {
    /// The content at this moment.
    fn now(&mut self) -> FileContent;
    /// Resolves when it may be another one than [`ContentSource::now`] has said. Dropping the future loses nothing.
    fn changed(&mut self) -> impl Future<Output = ()> + Send;
}

/// A file as the pages show it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct FileStatus {
    /// It has a content that this sidecar has written, or found there.
    pub(super) is_written: bool,
    /// Why the last content could not be written, or why there is none.
    pub(super) trouble: Option<String>,
}

/// Keeps a file.
pub(super) struct FileKeeper<S> {
    pub(super) source: S,
    pub(super) file: ConfigFile,
    pub(super) status: watch::Sender<FileStatus>,
    pub(super) changes: ChangeTeller,
}

/// Tells the app that a file has changed.
#[derive(Debug, Clone)]
pub(super) struct ChangeTeller {
    pub(super) app: Arc<AppControl>,
    pub(super) requests: RestartRequests,
    pub(super) events: Events,
    pub(super) metrics: FileMetrics,
}

impl<S: ContentSource> FileKeeper<S> {
    /// Never returns: its task is aborted.
    pub(super) async fn run(mut self) {
        let (versions, told) = watch::channel(0);
        let telling = self.changes.clone().tell_each(self.file.clone(), told);
        tokio::select! {
            () = self.keep(versions) => {}
            () = telling => {}
        }
    }

    async fn keep(&mut self, versions: watch::Sender<u64>) {
        let began = Instant::now();
        let mut failures = 0;
        loop {
            let again = match self.source.now() {
                FileContent::Awaited(why) => {
                    // As at every start.
                    self.status.send_modify(|status| status.trouble = Some(why));
                    None
                }
                FileContent::None(why) => {
                    self.note_trouble(&why);
                    None
                }
                FileContent::Known { is_of_earlier_run: true, .. }
                    if !self.status.borrow().is_written && began.elapsed() < self.earlier_after() =>
                {
                    Some(began + self.earlier_after())
                }
                FileContent::Known { bytes, .. } => {
                    if self.put(bytes, &versions).await {
                        failures = 0;
                        None
                    } else {
                        failures += 1;
                        Some(Instant::now() + BACKOFF.max_pause(failures - 1))
                    }
                }
            };
            let retry = async {
                match again {
                    Some(at) => sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = self.source.changed() => self.gather().await,
                () = retry => {}
            }
        }
    }

    fn earlier_after(&self) -> Duration {
        EARLIER_AFTER.min(self.file.wait)
    }

    /// Waits until the changes pause. Not before the first content, for which the app waits.
    async fn gather(&mut self) {
        if !self.status.borrow().is_written {
            return;
        }
        let until = Instant::now() + LONGEST_QUIET;
        loop {
            tokio::select! {
                () = self.source.changed() => {}
                () = sleep(QUIET) => return,
                () = sleep_until(until) => return,
            }
        }
    }

    /// Writes a content. False: it failed.
    async fn put(&mut self, bytes: Arc<[u8]>, versions: &watch::Sender<u64>) -> bool {
        let (path, mode, length) = (self.file.path.clone(), self.file.mode, bytes.len());
        let written = tokio::task::spawn_blocking(move || write_file(&path, mode, &bytes)).await;
        // A panic of the writer was reported.
        let Ok(written) = written else { return false };
        let path = self.file.path.display();
        match written {
            Err(error) => {
                self.changes.metrics.count_write(&self.file.path, false);
                self.note_trouble(&error_chain(&error));
                false
            }
            Ok(result) => {
                let is_first = !self.status.borrow().is_written;
                self.status.send_replace(FileStatus { is_written: true, trouble: None });
                let is_new = result == WriteResult::Written;
                if is_new {
                    self.changes.metrics.count_write(&self.file.path, true);
                    info!(%path, bytes = length, is_first, "wrote a file of the app");
                    let what = format!("{path}: {length} bytes");
                    self.changes.events.record(Event::new(EventKind::ConfigFileWritten, what));
                } else {
                    debug!(%path, "a file of the app has its content already");
                }
                // An app that runs has started without it, or with what stood there.
                if is_new && (!is_first || self.changes.app.now().starts > 0) {
                    versions.send_replace(self.changes.app.note_file_change());
                }
                true
            }
        }
    }

    /// What was written stays.
    fn note_trouble(&self, why: &str) {
        let is_new = self.status.send_if_modified(|status| {
            let is_new = status.trouble.as_deref() != Some(why);
            status.trouble = Some(why.to_owned());
            is_new
        });
        if is_new {
            let (path, is_written) = (self.file.path.display(), self.status.borrow().is_written);
            warn!(%path, why, keeps_last = is_written, "a file of the app cannot be written now");
            let reason = format!("{path}: {why}");
            self.changes.events.record(Event::new(EventKind::ConfigFileFailed, reason));
        }
    }
}

impl ChangeTeller {
    /// Tells the app of each version of the file; of several at once, of the last one. Never returns.
    async fn tell_each(self, file: ConfigFile, mut versions: watch::Receiver<u64>) {
        loop {
            if versions.changed().await.is_err() {
                return std::future::pending().await;
            }
            let version = *versions.borrow_and_update();
            let Some(action) = &file.on_change else { continue };
            // A newer content makes a request that is repeated begin again.
            tokio::select! {
                () = self.tell(&file, action, version) => {}
                Ok(()) = async { versions.clone().changed().await } => {}
            }
        }
    }

    async fn tell(&self, file: &ConfigFile, action: &OnChange, version: u64) {
        let path = file.path.display();
        // Before the last failure, which may come a minute later.
        let tell = |why: &str| warn!(%path, why, "the app could not yet be told of a changed file");
        let result = match action {
            OnChange::Restart { at_once, min_interval } => {
                let at_once = u32::try_from(*at_once).unwrap_or(u32::MAX);
                let terms = RestartTerms { at_once, min_interval: *min_interval };
                // Its own events follow.
                return self.requests.add(file.path.clone(), terms, version);
            }
            OnChange::Http(url) => {
                let taken = post_until_taken(url, tell).await;
                taken.map(|tries| format!("{url} has taken it at try {tries}"))
            }
            OnChange::Signal(signal) => {
                let signal = signal_of(*signal);
                let name = signal_name(signal);
                match await_handler(&self.app, signal, name, version, tell).await {
                    SignalDecision::Send(pid) => {
                        self.app.ask(AppRequest::Signal { signal, pid });
                        Ok(format!("sent {name} to the app"))
                    }
                    SignalDecision::NotNeeded => {
                        Ok(format!("{name} is not needed: the app reads the file when it starts"))
                    }
                    SignalDecision::Refuse(why) => Err(why),
                }
            }
        };
        self.metrics.count_change(action_name(action), result.is_ok());
        let (kind, what) = match &result {
            Ok(what) => {
                info!(%path, what, "told the app of a changed file");
                (EventKind::OnChangeDone, what)
            }
            Err(why) => {
                warn!(%path, why, "the app could not be told of a changed file; the next change is told again");
                (EventKind::OnChangeFailed, why)
            }
        };
        self.events.record(Event::new(kind, format!("{path}: {what}")));
    }
}

/// The name in metrics.
pub(super) fn action_name(action: &OnChange) -> &'static str {
    match action {
        OnChange::Signal(_) => "signal",
        OnChange::Http(_) => "http",
        OnChange::Restart { .. } => "restart",
    }
}

fn signal_of(signal: AppSignal) -> Signal {
    match signal {
        AppSignal::Hup => Signal::HUP,
        AppSignal::Usr1 => Signal::USR1,
        AppSignal::Usr2 => Signal::USR2,
        AppSignal::Winch => Signal::WINCH,
        AppSignal::Quit => Signal::QUIT,
    }
}

#[cfg(test)]
mod tests;
