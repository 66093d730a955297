//! A child process on one core, killed when its handle is dropped.

use std::{
    ffi::OsStr,
    fs::File,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use crate::{Error, error::doing};

/// A command that runs on one core. `taskset` replaces itself with the program, so the child's pid is the program's.
pub(super) fn pinned(core: usize, program: &Path) -> Command {
    let mut command = taskset(core);
    command.arg(program);
    command
}

fn taskset(core: usize) -> Command {
    let mut command = Command::new("taskset");
    command.arg("-c").arg(core.to_string()).stdin(Stdio::null());
    command
}

/// A running server.
#[derive(Debug)]
pub(super) struct PinnedProcess {
    name: &'static str,
    child: Child,
    log: PathBuf,
}

impl PinnedProcess {
    /// Starts a program with its arguments (`line`); its output goes to a file in `dir`.
    pub(super) fn start<A: AsRef<OsStr>>(
        name: &'static str,
        dir: &Path,
        core: usize,
        line: impl IntoIterator<Item = A>,
    ) -> Result<Self, Error> {
        let log = dir.join(format!("{name}.log"));
        let out = File::create(&log).map_err(doing(format!("make {}", log.display())))?;
        let errors = out.try_clone().map_err(doing(format!("open {} again", log.display())))?;
        let mut command = taskset(core);
        command.args(line).stdout(out).stderr(errors);
        // So that Outrigger logs at its default level, and all settings are in the files here.
        command.env_remove("OUTRIGGER_LOG");
        let child = command.spawn().map_err(doing(format!("start {name}")))?;
        Ok(Self { name, child, log })
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Fails when the process has ended, with the beginning of its log, where errors of settings are.
    pub(super) fn check_running(&mut self) -> Result<(), Error> {
        match self.child.try_wait().map_err(doing(format!("check the state of {}", self.name)))? {
            None => Ok(()),
            Some(status) => {
                Err(Error::new(format!("{} ended with {status}: {}", self.name, self.log_head())))
            }
        }
    }

    fn log_head(&self) -> String {
        const LINES: usize = 8;
        let text = std::fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        text.lines().take(LINES).collect::<Vec<_>>().join("; ")
    }
}

impl Drop for PinnedProcess {
    fn drop(&mut self) {
        // Both fail only when the process has already ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
