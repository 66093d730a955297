//! Runs the table of [`super::state`]: one task, one loop, one app.

use std::{ffi::OsString, io, pin::pin, time::Duration};

use outrigger_config::OnAppExit;
use outrigger_events::{Event, EventKind};
use outrigger_policy::backoff::Backoff;
use rustix::process::{Signal, getpid, set_child_subreaper};
use tokio::{
    sync::mpsc::UnboundedReceiver,
    time::{Instant, sleep_until},
};
use tracing::{debug, error, info, warn};

use super::{
    app::{AppCommand, AppGroup, AppProcess, SpawnError, exit_code},
    control::AppRequest,
    reaper::Reaper,
    signals::{self, SignalAction, SignalListener},
    state::{ProcessAction, ProcessEvent, ProcessState},
    token::dropped_variables,
};
use crate::{
    App,
    config_files::MissingFiles,
    network::{self, NetworkWatch},
    telemetry::error_chain,
};

/// Pauses before the app is started again. At least half of each longest pause is waited, so that an app that
/// ends at once does not use a whole core.
const RESTART_BACKOFF: Backoff = Backoff { base: Duration::from_millis(500), max: Duration::from_secs(30) };

/// After a run of this length the next pause is the shortest again.
const STABLE_AFTER: Duration = Duration::from_secs(60);

/// Longest wait for the end of an app that was sent SIGKILL.
pub(super) const KILL_TIMEOUT: Duration = Duration::from_secs(5);

/// The signals of the process, caught.
#[derive(Debug)]
pub(crate) struct CaughtSignals {
    pub(super) signals: SignalListener,
    pub(super) reaper: Reaper,
}

impl CaughtSignals {
    /// Catches them from now on. A signal that comes before [`supervise`] is not lost; process 1 would never
    /// hear it, because the system drops a signal to process 1 that is not caught.
    ///
    /// Orphans of the app become children of the sidecar, which collects them.
    ///
    /// # Errors
    /// When the system refuses to install a signal handler.
    pub(crate) fn catch() -> io::Result<Self> {
        if let Err(error) = set_child_subreaper(Some(getpid())) {
            debug!(%error, "orphans of the app are not collected here");
        }
        Ok(Self { signals: SignalListener::listen()?, reaper: Reaper::listen()? })
    }
}

/// Starts the app once `sidecar` carries requests, and supervises it until it has ended for good. The sidecar
/// still runs then: the caller shuts it down.
///
/// An app that was asked to end has `drain.timeout` to do so. Returns the exit code of the app, 0 when the sidecar
/// was asked to leave before the app started, that of [`MissingFiles`], that of [`SpawnError::exit_code`], or [`network::EXIT_CODE`] when the network
/// namespace is dead.
pub(crate) async fn supervise(
    sidecar: &App,
    command: &[OsString],
    caught: CaughtSignals,
    network: &NetworkWatch,
) -> u8 {
    let CaughtSignals { mut signals, reaper } = caught;
    let Some((path, arguments)) = command.split_first() else { return 0 };
    let program = AppCommand { path: path.clone(), arguments: arguments.to_vec(), variables: Vec::new() };
    let requests = sidecar.app_control().requests();
    match before_start(sidecar, &mut signals).await {
        BeforeStart::Ready => {}
        BeforeStart::Leaving(signal) => {
            info!(signal = signals::signal_name(signal), "leaving before the app was started");
            record_drain_request(sidecar, signal);
            return 0;
        }
        BeforeStart::FilesMissing(missing) => {
            error!(error = error_chain(&missing), "the app is not started");
            return MissingFiles::EXIT_CODE;
        }
    }
    let files = sidecar.app_control().files_version();
    let first = match start(&program, sidecar) {
        Ok(process) => process,
        Err(error) => {
            error!(error = error_chain(&error), "the app could not be started");
            return error.exit_code();
        }
    };
    let mut supervisor = Supervisor {
        sidecar,
        network,
        is_network_lost: false,
        program,
        signals,
        reaper,
        requests,
        app: None,
        group: first.group,
        last_run: Duration::ZERO,
        exit_code: 0,
        shutdown_signal: Signal::TERM,
        deadline: None,
        short_runs: 0,
    };
    supervisor.record_start(first, files);
    supervisor.run().await
}

fn record_drain_request(sidecar: &App, signal: Signal) {
    sidecar.events().record(Event::new(EventKind::DrainRequested, signals::signal_name(signal)));
}

fn start(program: &AppCommand, sidecar: &App) -> Result<AppProcess, SpawnError> {
    let config = sidecar.config();
    program.start(&dropped_variables(&config), config.app.process_group)
}

/// How the wait before the first start of the app ends.
enum BeforeStart {
    Ready,
    /// A signal asked to leave.
    Leaving(Signal),
    FilesMissing(MissingFiles),
}

/// Waits until the sidecar carries requests, and the files of the app are written.
async fn before_start(sidecar: &App, signals: &mut SignalListener) -> BeforeStart {
    let ready = async {
        sidecar.ready_to_route().await;
        sidecar.files_written().await
    };
    let mut ready = pin!(ready);
    loop {
        tokio::select! {
            biased;
            signal = signals.next() => match signal {
                SignalAction::ShutDown(signal) => return BeforeStart::Leaving(signal),
                SignalAction::Forward(_) => {} // the app does not run yet
            },
            written = &mut ready => return match written {
                Ok(()) => BeforeStart::Ready,
                Err(missing) => BeforeStart::FilesMissing(missing),
            },
        }
    }
}

struct Supervisor<'a> {
    sidecar: &'a App,
    network: &'a NetworkWatch,
    /// The app ends because the network namespace is dead.
    is_network_lost: bool,
    program: AppCommand,
    signals: SignalListener,
    reaper: Reaper,
    /// What the other parts of the sidecar ask of the app. Absent: they have ended.
    requests: Option<UnboundedReceiver<AppRequest>>,
    /// The running app and its start.
    app: Option<(AppProcess, Instant)>,
    /// The process group of the last start.
    group: AppGroup,
    /// How long the app ran the last time.
    last_run: Duration,
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
        let mut failed = None;
        while state != ProcessState::Finished {
            let event = match failed.take() {
                Some(event) => event,
                None => self.next_event(state).await,
            };
            let (next, actions) = state.transition(event, self.on_app_exit());
            debug!(?state, ?event, ?next, "app state");
            state = next;
            for action in actions {
                if let Err(error) = self.perform_action(*action) {
                    warn!(%error, "the app could not be started again");
                    self.sidecar.app_control().note_end();
                    failed = Some(ProcessEvent::StartFailed);
                }
            }
        }
        if self.is_network_lost { network::EXIT_CODE } else { self.exit_code }
    }

    /// An app that is being replaced is started again.
    fn on_app_exit(&self) -> OnAppExit {
        match self.sidecar.app_control().is_replaceable() {
            true => OnAppExit::Restart,
            false => self.sidecar.config().on_app_exit,
        }
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
                    if let Some((_, since)) = self.app.take() {
                        self.last_run = since.elapsed();
                    }
                    self.sidecar.app_control().note_end();
                    return ProcessEvent::Exited;
                }
                () = self.group.ended(), if state.awaits_group() => {
                    self.deadline = None;
                    return ProcessEvent::GroupEnded;
                }
                () = self.sidecar.drain(), if state == ProcessState::Draining => return ProcessEvent::Propagated,
                () = self.network.dead(), if state.needs_network() => {
                    self.is_network_lost = true;
                    return ProcessEvent::NetworkLost;
                }
                () = timer, if limit.is_some() => {
                    self.deadline = None;
                    return ProcessEvent::TimerExpired;
                }
                request = next_request(&mut self.requests) => match request {
                    AppRequest::Signal { signal, pid } => {
                        if self.sidecar.app_control().now().pid == Some(pid) {
                            self.send_signal(signal);
                        }
                    }
                    AppRequest::Replace { starts } => {
                        if self.sidecar.app_control().now().starts == starts {
                            return ProcessEvent::ReplaceRequested;
                        }
                    }
                },
                signal = self.signals.next() => match signal {
                    SignalAction::Forward(signal) => self.send_signal(signal),
                    SignalAction::ShutDown(signal) => {
                        info!(signal = signals::signal_name(signal), "leaving; a second signal stops the app at once, a third kills it");
                        record_drain_request(self.sidecar, signal);
                        self.shutdown_signal = signals::signal_for_app(signal, self.group.is_shared());
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
            ProcessAction::AskToEnd => {
                self.send_signal(Signal::TERM);
                self.deadline = Some(Instant::now() + self.sidecar.config().drain.timeout);
            }
            ProcessAction::Kill => {
                warn!("the app has not ended, killing it");
                self.send_signal(Signal::KILL);
                self.group.send(Signal::KILL);
                self.exit_code = 128 + 9; // stays, if the app does not end even so
                self.deadline = Some(Instant::now() + KILL_TIMEOUT);
            }
            ProcessAction::StopGroup => {
                if self.group.has_processes() {
                    info!("processes of the app's process group still run, asking them to end");
                    self.group.send(Signal::TERM);
                }
                // Not more than the app has for its own end.
                let limit = Instant::now() + self.sidecar.config().drain.timeout;
                self.deadline.get_or_insert(limit);
            }
            ProcessAction::KillGroup => {
                warn!("processes of the app's process group have not ended, killing them");
                self.group.send(Signal::KILL);
            }
            ProcessAction::ReportDown => self.sidecar.notify_app_exited(),
            ProcessAction::BackOff => self.schedule_restart(),
            ProcessAction::Start => {
                // Of the run before, or of the pause.
                self.deadline = None;
                // From before, so that a change that the app may not have seen counts as one.
                let files = self.sidecar.app_control().files_version();
                let process = start(&self.program, self.sidecar)?;
                self.record_start(process, files);
            }
        }
        Ok(())
    }

    fn record_start(&mut self, process: AppProcess, files: u64) {
        self.group = process.group;
        let pid = process.pid.as_raw_nonzero().get().unsigned_abs();
        self.app = Some((process, Instant::now()));
        self.sidecar.notify_app_started();
        self.sidecar.app_control().note_start(pid, files);
    }

    fn schedule_restart(&mut self) {
        if std::mem::take(&mut self.last_run) >= STABLE_AFTER {
            self.short_runs = 0;
        }
        let pause = RESTART_BACKOFF.pause_of_half(self.short_runs, fastrand::u64(..));
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

/// Never resolves where nothing asks any more. Cancel-safe.
async fn next_request(requests: &mut Option<UnboundedReceiver<AppRequest>>) -> AppRequest {
    if let Some(open) = requests
        && let Some(request) = open.recv().await
    {
        return request;
    }
    *requests = None;
    std::future::pending().await
}
