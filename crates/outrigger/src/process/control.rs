//! What the other parts of the sidecar see of the app that it runs, and what they ask of it.

use std::sync::atomic::{
    AtomicBool, AtomicU64,
    Ordering::{Relaxed, SeqCst},
};

use parking_lot::Mutex;
use rustix::process::Signal;
use tokio::{
    sync::{
        mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
        watch,
    },
    time::Instant,
};

/// What is asked of the app.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AppRequest {
    /// The process gets a signal, and no other one of its process group.
    Signal {
        signal: Signal,
        /// Its id. An app that was started meanwhile gets nothing: it may have no handler yet.
        pid: u32,
    },
    /// It ends and is started again: no caller calls it any more.
    Replace {
        /// How often it was started by then ([`AppRun::starts`]). One that was started meanwhile stays.
        starts: u64,
    },
}

/// The app at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct AppRun {
    /// The running process; absent while there is none.
    pub(crate) pid: Option<u32>,
    /// When it was started the last time.
    pub(crate) started_at: Option<Instant>,
    /// How often it was started.
    pub(crate) starts: u64,
    /// How often it has ended, or could not be started.
    pub(crate) ends: u64,
    /// The version of the files ([`AppControl::files_version`]) at its last start: it has read this one, or a later one.
    pub(crate) has_read: u64,
}

/// The app of a sidecar; where the sidecar does not run it, nothing is known of it.
#[derive(Debug)]
pub(crate) struct AppControl {
    requests: UnboundedSender<AppRequest>,
    waiting: Mutex<Option<UnboundedReceiver<AppRequest>>>,
    run: watch::Sender<AppRun>,
    is_replaceable: AtomicBool,
    files_version: AtomicU64,
}

impl Default for AppControl {
    fn default() -> Self {
        let (requests, waiting) = unbounded_channel();
        Self {
            requests,
            waiting: Mutex::new(Some(waiting)),
            run: watch::Sender::default(),
            is_replaceable: AtomicBool::new(false),
            files_version: AtomicU64::new(0),
        }
    }
}

impl AppControl {
    /// What is asked of the app, for the one that runs it. Absent for a second call.
    pub(crate) fn requests(&self) -> Option<UnboundedReceiver<AppRequest>> {
        self.waiting.lock().take()
    }

    /// Asks something of the app. Nothing is done while the sidecar leaves.
    pub(crate) fn ask(&self, request: AppRequest) {
        // An error: the supervisor has ended, and the process ends.
        let _ = self.requests.send(request);
    }

    /// The app now and later.
    pub(crate) fn watch(&self) -> watch::Receiver<AppRun> {
        self.run.subscribe()
    }

    /// The app at this moment.
    pub(crate) fn now(&self) -> AppRun {
        *self.run.borrow()
    }

    /// The app has been started. `has_read`: the version of the files from before.
    pub(crate) fn note_start(&self, pid: u32, has_read: u64) {
        self.run.send_modify(|run| {
            run.pid = Some(pid);
            run.started_at = Some(Instant::now());
            run.starts += 1;
            run.has_read = has_read;
        });
    }

    /// The app has ended, or could not be started.
    pub(crate) fn note_end(&self) {
        self.run.send_modify(|run| {
            run.pid = None;
            run.ends += 1;
        });
    }

    /// While this is set, the end of the app does not end the sidecar, whatever `on_app_exit` says: it is started again.
    pub(crate) fn set_replaceable(&self, is: bool) {
        self.is_replaceable.store(is, Relaxed);
    }

    /// See [`AppControl::set_replaceable`].
    pub(crate) fn is_replaceable(&self) -> bool {
        self.is_replaceable.load(Relaxed)
    }

    /// A number that grows with each change of a file of the app.
    pub(crate) fn files_version(&self) -> u64 {
        self.files_version.load(SeqCst)
    }

    /// A file of the app has another content now. Returns its version.
    pub(crate) fn note_file_change(&self) -> u64 {
        self.files_version.fetch_add(1, SeqCst) + 1
    }
}
