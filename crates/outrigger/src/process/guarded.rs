//! A command that runs while a lock is held: `outrigger lock NAME -- COMMAND`.
//!
//! | what happens | what the command gets |
//! |---|---|
//! | the lock is lost | by the policy: SIGTERM and after a grace SIGKILL, SIGKILL at once, or nothing |
//! | TERM, INT or QUIT to this process | the same signal; at the second one it is killed |
//! | one of the other signals that can be passed on | the same signal |
//! | Ctrl-C at a terminal that both have | nothing from here: the terminal has sent it |
//! | this process is killed | SIGKILL from the kernel, unless the policy lets it run on |
//!
//! The command has ended when its process group has: what is left of the group gets SIGTERM, and SIGKILL after the grace.
//!
//! **How it dies with this process.** `PR_SET_PDEATHSIG` must be set by the new process itself, between fork and exec, and code there is
//! `unsafe`. So this program is started a second time ([`replace_process`]): it sets the signal for itself, which an exec keeps, and puts the command
//! in its place. The kernel clears the signal where the command is a set-user-ID program.

use std::{ffi::OsString, pin::pin, time::Duration};

use outrigger_config::ProcessGroup;
use rustix::process::{Pid, Signal, getpid, getppid, set_parent_process_death_signal};
use tokio::time::{Instant, sleep_until};
use tracing::debug;

use super::{
    app::{AppCommand, AppGroup, AppProcess, SpawnError, exit_code},
    signals::{SignalAction, is_from_terminal},
    supervise::{CaughtSignals, KILL_TIMEOUT},
};

/// This program, also when its file was replaced meanwhile.
const OWN_PROGRAM: &str = "/proc/self/exe";

/// What the loss of the lock does to the command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LossPolicy {
    /// SIGTERM, and SIGKILL after the grace.
    Terminate,
    /// SIGKILL.
    Kill,
    /// It runs on.
    Ignore,
}

/// A command line, and how it is stopped.
#[derive(Debug)]
pub(crate) struct GuardedCommand<'a> {
    /// The program and its arguments.
    pub(crate) command: &'a [OsString],
    /// Variables that it gets.
    pub(crate) variables: Vec<(&'static str, String)>,
    pub(crate) on_loss: LossPolicy,
    /// From SIGTERM to SIGKILL.
    pub(crate) grace: Duration,
    /// The arguments of this program that lead to [`replace_process`]; the id of this process and the command follow them.
    pub(crate) replacer: &'static [&'static str],
}

/// How it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct GuardedEnd {
    /// The exit code, or 128 plus the number of the signal that ended it.
    pub(crate) code: u8,
    /// It was stopped because the lock was lost.
    pub(crate) is_stopped_by_loss: bool,
}

impl CaughtSignals {
    /// Resolves at a signal that ends a command which has nothing to pass it on to, with the exit code of a shell.
    pub(crate) async fn interrupted(&mut self) -> u8 {
        loop {
            let signal = match self.signals.next().await {
                SignalAction::ShutDown(signal) | SignalAction::Forward(signal @ Signal::HUP) => signal,
                SignalAction::Forward(_) => continue,
            };
            return u8::try_from(128 + signal.as_raw()).unwrap_or(1);
        }
    }
}

impl GuardedCommand<'_> {
    /// Runs the command to its end. `lost` resolves when the lock is lost, and is polled until then.
    ///
    /// # Errors
    /// When it cannot be started.
    pub(crate) async fn run(
        &self,
        caught: CaughtSignals,
        lost: impl Future<Output = ()>,
    ) -> Result<GuardedEnd, SpawnError> {
        let process = self.program().start(&[], ProcessGroup::Own)?;
        let run = Run {
            group: process.group,
            process: Some(process),
            deadline: None,
            is_killed: false,
            asked: 0,
            end: GuardedEnd { code: 0, is_stopped_by_loss: false },
        };
        Ok(self.supervise(run, caught, lost).await)
    }

    fn program(&self) -> AppCommand {
        let variables = self.variables.clone();
        let given = self.command.iter().cloned();
        if self.on_loss == LossPolicy::Ignore {
            let mut given = given;
            let path = given.next().unwrap_or_default();
            return AppCommand { path, arguments: given.collect(), variables };
        }
        let own = getpid().as_raw_nonzero().get().to_string();
        let before = self.replacer.iter().map(OsString::from).chain([own.into(), "--".into()]);
        AppCommand { path: OWN_PROGRAM.into(), arguments: before.chain(given).collect(), variables }
    }

    async fn supervise(
        &self,
        mut run: Run,
        caught: CaughtSignals,
        lost: impl Future<Output = ()>,
    ) -> GuardedEnd {
        let CaughtSignals { mut signals, mut reaper } = caught;
        let (mut lost, mut is_lost) = (pin!(lost), false);
        loop {
            let pid = run.process.as_ref().map(|process| process.pid);
            let deadline = run.deadline;
            let timer = async { sleep_until(deadline.unwrap_or_else(Instant::now)).await };
            tokio::select! {
                status = reaper.wait_for_exit(pid) => {
                    run.end.code = exit_code(status);
                    run.process = None;
                    if !run.group.has_processes() {
                        return run.end;
                    }
                    debug!("processes of the group of the command still run");
                    run.group.send(Signal::TERM);
                    run.deadline.get_or_insert_with(|| Instant::now() + self.grace);
                }
                () = run.group.ended(), if run.process.is_none() => return run.end,
                () = &mut lost, if !is_lost => {
                    is_lost = true;
                    run.end.is_stopped_by_loss = self.on_loss != LossPolicy::Ignore && run.process.is_some();
                    match self.on_loss {
                        LossPolicy::Terminate => {
                            run.send(Signal::TERM);
                            let until = Instant::now() + self.grace;
                            run.deadline = Some(run.deadline.map_or(until, |deadline| deadline.min(until)));
                        }
                        LossPolicy::Kill => run.kill(),
                        LossPolicy::Ignore => {}
                    }
                }
                () = timer, if deadline.is_some() => {
                    if !run.is_killed {
                        run.kill();
                    } else if run.process.is_none() || is_lost {
                        return run.end;
                    } else {
                        // It hangs in the kernel. The lock is held until it has ended.
                        run.deadline = None;
                    }
                }
                signal = signals.next() => match signal {
                    SignalAction::Forward(signal) => run.send(signal),
                    SignalAction::ShutDown(signal) if is_from_terminal(signal, run.group.is_shared()) => {}
                    SignalAction::ShutDown(signal) => {
                        run.asked += 1;
                        if run.asked == 1 && run.process.is_some() {
                            run.send(signal);
                        } else {
                            run.kill();
                        }
                    }
                },
            }
        }
    }
}

/// One run.
struct Run {
    /// Absent: it has ended, and the rest of its group is ending.
    process: Option<AppProcess>,
    group: AppGroup,
    /// When the next step is due.
    deadline: Option<Instant>,
    is_killed: bool,
    /// How often this process was asked to end.
    asked: u32,
    end: GuardedEnd,
}

impl Run {
    fn send(&self, signal: Signal) {
        if let Some(process) = &self.process {
            process.send(signal);
        }
    }

    fn kill(&mut self) {
        self.send(Signal::KILL);
        self.group.send(Signal::KILL);
        if self.process.is_some() {
            self.end.code = 128 + 9; // stays, if it does not end even so
        }
        self.is_killed = true;
        self.deadline = Some(Instant::now() + KILL_TIMEOUT);
    }
}

/// Puts `command` in the place of this process, which gets SIGKILL when `parent` ends. Returns only where that fails, with the exit code and the
/// reason.
pub(crate) fn replace_process(parent: i32, command: &[OsString]) -> (u8, Option<SpawnError>) {
    if let Err(error) = set_parent_process_death_signal(Some(Signal::KILL)) {
        debug!(%error, "the command will not end with its parent");
    }
    // It may have ended before the signal was set.
    if getppid().map(Pid::as_raw_nonzero).is_none_or(|pid| pid.get() != parent) {
        return (128 + 9, None);
    }
    let Some((path, arguments)) = command.split_first() else { return (126, None) };
    let program = AppCommand { path: path.clone(), arguments: arguments.to_vec(), variables: Vec::new() };
    let error = program.replace_process();
    (error.exit_code(), Some(error))
}
