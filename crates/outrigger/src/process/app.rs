//! One run of the app: its start, the signals to it, and its exit code.

use std::{
    ffi::OsString,
    io::{self, IsTerminal as _},
    os::unix::process::CommandExt as _,
    process::{Child, Command},
    time::Duration,
};

use outrigger_config::ProcessGroup;
use rustix::process::{Pid, Signal, WaitStatus, kill_process, kill_process_group, test_kill_process_group};
use tokio::time::sleep;
use tracing::{info, warn};

use crate::limits;

/// The command line of the app.
#[derive(Debug, Clone)]
pub(super) struct AppCommand {
    pub(super) path: OsString,
    pub(super) arguments: Vec<OsString>,
    /// Variables that it gets beside the inherited ones.
    pub(super) variables: Vec<(&'static str, String)>,
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
    /// Starts the app with the sidecar's standard streams, folder and environment. Signal handling is at its defaults, the
    /// limit of open files is that of the sidecar's start, and no socket of the sidecar is open in the app. Of the
    /// environment, `dropped` is left out.
    pub(super) fn start(&self, dropped: &[OsString], group: ProcessGroup) -> Result<AppProcess, SpawnError> {
        let has_own_group = has_own_group(group, io::stdin().is_terminal());
        let mut command = Command::new(&self.path);
        if has_own_group {
            command.process_group(0);
        }
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        for name in dropped {
            command.env_remove(name);
        }
        let child = limits::spawn_with_initial_open_files(command.args(&self.arguments));
        let child = child.map_err(|cause| SpawnError { program: self.path.clone(), cause })?;
        info!(pid = child.id(), program = ?self.path, "started the app");
        let pid = Pid::from_child(&child);
        Ok(AppProcess { pid, group: AppGroup(has_own_group.then_some(pid)), _child: child })
    }

    /// Puts the program in the place of this process. Returns only where that fails.
    pub(super) fn replace_process(&self) -> SpawnError {
        let cause = Command::new(&self.path).args(&self.arguments).exec();
        SpawnError { program: self.path.clone(), cause }
    }
}

/// A process group in the background of a terminal stops at the first read of it (SIGTTIN). So an app that has the terminal
/// as its stdin shares the sidecar's group, which is in the foreground.
fn has_own_group(group: ProcessGroup, stdin_is_terminal: bool) -> bool {
    match group {
        ProcessGroup::Own => !stdin_is_terminal,
        ProcessGroup::Shared => false,
    }
}

/// The app, until its end is collected: until then no other process can get its id.
#[derive(Debug)]
pub(super) struct AppProcess {
    pub(super) pid: Pid,
    pub(super) group: AppGroup,
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

/// The app's process group. It may outlive the app.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct AppGroup(
    /// `None`: the app shares the sidecar's group, and its children are not known.
    Option<Pid>,
);

/// Pause between two looks at a group. The system reports the end of a child, but not that of a group.
const GROUP_POLL_INTERVAL: Duration = Duration::from_millis(20);

impl AppGroup {
    /// Whether the app is in the sidecar's own group.
    pub(super) fn is_shared(self) -> bool {
        self.0.is_none()
    }

    /// Sends a signal to each process of the group. A group that has ended is no error.
    pub(super) fn send(self, signal: Signal) {
        if let Some(group) = self.0
            && let Err(error) = kill_process_group(group, signal)
            && error != rustix::io::Errno::SRCH
        {
            warn!(?signal, %error, "the signal could not be sent to the app's process group");
        }
    }

    /// Whether a process of the group is left that this process may signal. A process that has ended counts until its end
    /// is collected.
    pub(super) fn has_processes(self) -> bool {
        self.0.is_some_and(|group| test_kill_process_group(group).is_ok())
    }

    /// Resolves when no process of the group is left.
    pub(super) async fn ended(self) {
        while self.has_processes() {
            sleep(GROUP_POLL_INTERVAL).await;
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
        let command =
            AppCommand { path: "/no/such/program".into(), arguments: Vec::new(), variables: Vec::new() };
        let error = command.start(&[], ProcessGroup::Own).unwrap_err();
        assert_eq!(error.exit_code(), 127);
        let told = error_chain(&error);
        assert_eq!(told.matches("No such file").count(), 1, "{told}");
        assert!(told.starts_with("start \"/no/such/program\": ") && told.ends_with("executable?"), "{told}");
    }

    #[test]
    fn an_app_that_reads_a_terminal_shares_the_group() {
        for (group, stdin_is_terminal, expected) in [
            (ProcessGroup::Own, false, true),
            (ProcessGroup::Own, true, false),
            (ProcessGroup::Shared, false, false),
            (ProcessGroup::Shared, true, false),
        ] {
            assert_eq!(has_own_group(group, stdin_is_terminal), expected, "{group:?} {stdin_is_terminal}");
        }
    }
}
