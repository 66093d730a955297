//! One run of the app: its start, the signals to it, and its exit code.

use std::{
    ffi::OsString,
    io,
    process::{Child, Command},
};

use rustix::process::{Pid, Signal, WaitStatus, kill_process};
use tracing::{info, warn};

use crate::limits;

/// The command line of the app.
#[derive(Debug, Clone)]
pub(super) struct AppCommand {
    pub(super) path: OsString,
    pub(super) arguments: Vec<OsString>,
}

/// Why the app cannot be started.
#[derive(Debug, thiserror::Error)]
#[error("start {program:?}: {cause}; does it exist, and is it executable?")]
pub(crate) struct SpawnError {
    program: OsString,
    /// Part of the sentence, because the hint follows it, and so no source: a chain would repeat it.
    cause: io::Error,
}

impl SpawnError {
    /// As a shell does: 127 for a program that does not exist, 126 for one that cannot be executed.
    pub(crate) fn exit_code(&self) -> u8 {
        if self.cause.kind() == io::ErrorKind::NotFound { 127 } else { 126 }
    }
}

impl AppCommand {
    /// Starts the app with the sidecar's standard streams, folder, environment and process group. Signal
    /// handling is at its defaults, the limit of open files is that of the sidecar's start, and no socket of the sidecar is open in the app.
    /// Of the environment, `dropped` is left out.
    pub(super) fn start(&self, dropped: &[OsString]) -> Result<AppProcess, SpawnError> {
        let mut command = Command::new(&self.path);
        for name in dropped {
            command.env_remove(name);
        }
        let child = limits::spawn_with_initial_open_files(command.args(&self.arguments));
        let child = child.map_err(|cause| SpawnError { program: self.path.clone(), cause })?;
        info!(pid = child.id(), program = ?self.path, "started the app");
        Ok(AppProcess { pid: Pid::from_child(&child), _child: child })
    }
}

/// The app, until its end is collected: until then no other process can get its id.
#[derive(Debug)]
pub(super) struct AppProcess {
    pub(super) pid: Pid,
    /// Not waited for: [`super::reaper`] collects its end.
    _child: Child,
}

impl AppProcess {
    /// Sends a signal. An app that has just ended is no error, because its end is not yet collected.
    pub(super) fn send(&self, signal: Signal) {
        if let Err(error) = kill_process(self.pid, signal) {
            warn!(?signal, %error, "the signal could not be sent to the app");
        }
    }
}

/// As a shell does: the exit code, or 128 plus the number of the signal that ended the app.
pub(super) fn exit_code(status: WaitStatus) -> u8 {
    let code = match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => code,
        (None, Some(signal)) => 128 + signal,
        (None, None) => 1,
    };
    u8::try_from(code).unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::error_chain;

    #[test]
    fn a_program_that_does_not_exist_is_named_with_its_cause_once() {
        let command = AppCommand { path: "/no/such/program".into(), arguments: Vec::new() };
        let error = command.start(&[]).unwrap_err();
        assert_eq!(error.exit_code(), 127);
        let told = error_chain(&error);
        assert_eq!(told.matches("No such file").count(), 1, "{told}");
        assert!(told.starts_with("start \"/no/such/program\": ") && told.ends_with("executable?"), "{told}");
    }
}
