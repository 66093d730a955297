//! One run of the app: how it is started, what it is sent, and what its end means as an exit code.

use std::{
    ffi::OsString,
    io,
    process::{Child, Command},
};

use rustix::process::{Pid, Signal, WaitStatus, kill_process};
use tracing::{info, warn};

/// The command line of the app.
#[derive(Debug, Clone)]
pub(super) struct AppCommand {
    pub(super) path: OsString,
    pub(super) arguments: Vec<OsString>,
}

/// Why the app cannot be started.
#[derive(Debug, thiserror::Error)]
#[error("start {program:?}: {source}; is it there, and may it be executed?")]
pub(crate) struct SpawnError {
    program: OsString,
    /// Part of the sentence: the hint follows it.
    source: io::Error,
}

impl SpawnError {
    /// As a shell has it: 127 where there is no such program, 126 where it cannot be run.
    pub(crate) fn exit_code(&self) -> u8 {
        if self.source.kind() == io::ErrorKind::NotFound { 127 } else { 126 }
    }
}

impl AppCommand {
    /// Starts it, with everything that is ours: standard streams, folder, environment, process group.
    /// Signals are as a fresh process has them; no socket of ours is open in it.
    pub(super) fn spawn(&self) -> Result<AppProcess, SpawnError> {
        let mut command = Command::new(&self.path);
        let child = command.args(&self.arguments).spawn();
        let child = child.map_err(|source| SpawnError { program: self.path.clone(), source })?;
        info!(pid = child.id(), program = ?self.path, "started the app");
        Ok(AppProcess { pid: Pid::from_child(&child), _child: child })
    }
}

/// The app, until its end was collected: as long as it was not, its id cannot be another's.
#[derive(Debug)]
pub(super) struct AppProcess {
    pid: Pid,
    /// Waited for by [`super::reaper`]; kept, because this is what it is.
    _child: Child,
}

impl AppProcess {
    pub(super) fn pid(&self) -> Pid {
        self.pid
    }

    /// Sends a signal. One that has just ended is no failure: its end is about to be collected.
    pub(super) fn send(&self, signal: Signal) {
        if let Err(error) = kill_process(self.pid, signal) {
            warn!(?signal, %error, "the app could not be sent a signal");
        }
    }
}

/// As a shell has it: the exit code, or 128 and the signal that ended it.
pub(super) fn exit_code(status: WaitStatus) -> u8 {
    let code = match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => code,
        (None, Some(signal)) => 128 + signal,
        (None, None) => 1,
    };
    u8::try_from(code).unwrap_or(1)
}
