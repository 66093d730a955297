//! Runs the table of [`super::state`]: one task, one loop, one app.

use std::{ffi::OsString, io, time::Duration};

use outrigger_config::OnAppExit;
use outrigger_policy::backoff::Backoff;
use rustix::process::Signal;
use tokio::time::{Instant, sleep_until};
use tracing::{debug, error, info, warn};

use super::{
    app::{AppCommand, AppProcess, SpawnError, exit_code},
    reaper::Reaper,
    signals::{self, SignalAction, SignalListener},
    state::{ProcessAction, ProcessEvent, ProcessState},
    token::dropped_variables,
};
use crate::{App, telemetry::error_chain};

/// Pauses before the app is started again. At least half of each longest pause is waited, so that an app that
/// ends at once does not use a whole core.
const RESTART_BACKOFF: Backoff = Backoff { base: Duration::from_millis(500), max: Duration::from_secs(30) };

/// After a run of this length the next pause is the shortest again.
const STABLE_AFTER: Duration = Duration::from_secs(60);

/// Longest wait for the end of an app that was sent SIGKILL.
const KILL_TIMEOUT: Duration = Duration::from_secs(5);

/// Starts the app once `sidecar` carries requests, and supervises it until it has ended for good. The sidecar
/// still runs then: the caller shuts it down.
///
/// An app that was asked to end has `drain.timeout` to do so. Returns the exit code of the app, 0 when the sidecar
/// was asked to leave before the app started, or that of [`SpawnError::exit_code`].
///
/// # Errors
/// When the system refuses to install a signal handler.
pub(crate) async fn supervise(sidecar: &App, command: &[OsString]) -> io::Result<u8> {
    let (mut signals, reaper) = (SignalListener::listen()?, Reaper::listen()?);
    let Some((path, arguments)) = command.split_first() else { return Ok(0) };
    let program = AppCommand { path: path.clone(), arguments: arguments.to_vec() };
    if let Some(signal) = signal_before_start(sidecar, &mut signals).await {
        info!(signal = signals::signal_name(signal), "leaving before the app was started");
        return Ok(0);
    }
    let first = match program.start(&dropped_variables(&sidecar.config())) {
        Ok(process) => process,
        Err(error) => {
            error!(error = error_chain(&error), "the app could not be started");
            return Ok(error.exit_code());
        }
    };
    let mut supervisor = Supervisor {
        sidecar,
        program,
        signals,
        reaper,
        app: None,
        exit_code: 0,
        shutdown_signal: Signal::TERM,
        deadline: None,
        short_runs: 0,
    };
    supervisor.record_start(first);
    Ok(supervisor.run().await)
}

/// Waits until the sidecar carries requests. `Some`: a signal asked to leave before that.
async fn signal_before_start(sidecar: &App, signals: &mut SignalListener) -> Option<Signal> {
    loop {
        tokio::select! {
            () = sidecar.ready_to_route() => return None,
            signal = signals.next() => match signal {
                SignalAction::ShutDown(signal) => return Some(signal),
                SignalAction::Forward(_) => {} // the app does not run yet
            },
        }
    }
}

struct Supervisor<'a> {
    sidecar: &'a App,
    program: AppCommand,
    signals: SignalListener,
    reaper: Reaper,
    /// The running app and its start.
    app: Option<(AppProcess, Instant)>,
    /// The last exit code of the app.
    exit_code: u8,
    /// The signal that asked to leave.
    shutdown_signal: Signal,
    /// When the timer of the current state expires.
    deadline: Option<Instant>,
    /// Runs in a row that were shorter than [`STABLE_AFTER`].
    short_runs: u32,
}

impl Supervisor<'_> {
    async fn run(&mut self) -> u8 {
        let mut state = ProcessState::Running;
        while state != ProcessState::Finished {
            let event = self.next_event(state).await;
            let (next, actions) = state.transition(event, self.sidecar.config().on_app_exit);
            debug!(?state, ?event, ?next, "app state");
            state = next;
            for action in actions {
                // A failed start counts as an app that ended at once.
                if let Err(error) = self.perform_action(*action) {
                    warn!(%error, "the app could not be started again");
                    state = state.transition(ProcessEvent::Exited, OnAppExit::Restart).0;
                    self.schedule_restart();
                }
            }
        }
        self.exit_code
    }

    async fn next_event(&mut self, state: ProcessState) -> ProcessEvent {
        loop {
            let app = self.app.as_ref().map(|(process, _)| process.pid);
            let limit = self.deadline;
            let timer = async { sleep_until(limit.unwrap_or_else(Instant::now)).await };
            tokio::select! {
                status = self.reaper.wait_for_exit(app) => {
                    self.exit_code = exit_code(status);
                    info!(code = self.exit_code, "the app has ended");
                    self.deadline = None;
                    return ProcessEvent::Exited;
                }
                () = self.sidecar.drain(), if state == ProcessState::Draining => return ProcessEvent::Propagated,
                () = timer, if limit.is_some() => {
                    self.deadline = None;
                    return ProcessEvent::TimerExpired;
                }
                signal = self.signals.next() => match signal {
                    SignalAction::Forward(signal) => self.send_signal(signal),
                    SignalAction::ShutDown(signal) => {
                        info!(signal = signals::signal_name(signal), "leaving; a second signal stops the app at once, a third kills it");
                        self.shutdown_signal = signal;
                        return ProcessEvent::StopRequested;
                    }
                },
            }
        }
    }

    fn perform_action(&mut self, action: ProcessAction) -> Result<(), SpawnError> {
        match action {
            // `next_event` waits for it.
            ProcessAction::Drain => {}
            ProcessAction::SkipWaits => self.sidecar.skip_waits(),
            ProcessAction::ForwardSignal => {
                self.send_signal(self.shutdown_signal);
                self.deadline = Some(Instant::now() + self.sidecar.config().drain.timeout);
            }
            ProcessAction::Kill => {
                warn!("the app has not ended, killing it");
                self.send_signal(Signal::KILL);
                self.exit_code = 128 + 9; // stays, if the app does not end even so
                self.deadline = Some(Instant::now() + KILL_TIMEOUT);
            }
            ProcessAction::BackOff => self.schedule_restart(),
            ProcessAction::Start => {
                let process = self.program.start(&dropped_variables(&self.sidecar.config()))?;
                self.record_start(process);
            }
        }
        Ok(())
    }

    fn record_start(&mut self, process: AppProcess) {
        self.app = Some((process, Instant::now()));
        self.sidecar.notify_app_started();
    }

    fn schedule_restart(&mut self) {
        self.sidecar.notify_app_exited();
        if self.app.take().is_some_and(|(_, since)| since.elapsed() >= STABLE_AFTER) {
            self.short_runs = 0;
        }
        let longest = RESTART_BACKOFF.max_pause(self.short_runs);
        let pause = longest / 2 + RESTART_BACKOFF.pause(self.short_runs, fastrand::u64(..)) / 2;
        self.short_runs = self.short_runs.saturating_add(1);
        warn!(code = self.exit_code, ?pause, "starting the app again");
        self.deadline = Some(Instant::now() + pause);
    }

    fn send_signal(&self, signal: Signal) {
        match &self.app {
            Some((process, _)) => {
                info!(signal = signals::signal_name(signal), "passing a signal on to the app");
                process.send(signal);
            }
            None => debug!(signal = signals::signal_name(signal), "no app to pass a signal on to"),
        }
    }
}
