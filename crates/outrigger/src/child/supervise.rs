//! Walks the table of [`super::order`]: one task, one loop, one app.

use std::{ffi::OsString, io, time::Duration};

use outrigger_config::OnAppExit;
use outrigger_policy::backoff::Backoff;
use rustix::process::Signal;
use tokio::time::{Instant, sleep_until};
use tracing::{debug, info, warn};

use super::{
    order::{Act, Event, State},
    process::{Process, Program, SpawnError, exit_code},
    reaper::Reaper,
    signals::{self, Meaning, Signals},
};
use crate::App;

/// Pauses before the app is started again. Half of each ceiling is certain, so that an app that ends at
/// once does not cost a core.
const AGAIN: Backoff = Backoff { base: Duration::from_millis(500), max: Duration::from_secs(30) };

/// An app that ran this long has settled: the next pause is the first one again.
const SETTLED: Duration = Duration::from_secs(60);

/// Longest wait for the end of an app that was sent SIGKILL.
const KILLED: Duration = Duration::from_secs(5);

/// How it went.
#[derive(Debug)]
pub(crate) enum Supervised {
    /// The app ended, or never started because the sidecar was asked to leave first: the code to exit with.
    Ended(u8),
    /// It could not be started.
    NotStarted(SpawnError),
}

/// Starts the app once `sidecar` carries requests, and keeps it until it has ended for good. The sidecar
/// is left running, so that the caller shuts it down: nobody needs it any more.
///
/// An app that was asked to end is waited for `drain.timeout`.
///
/// # Errors
/// When the system refuses to install a signal handler.
pub(crate) async fn supervise(sidecar: &App, command: &[OsString]) -> io::Result<Supervised> {
    let (mut signals, reaper) = (Signals::listen()?, Reaper::listen()?);
    let Some((path, arguments)) = command.split_first() else { return Ok(Supervised::Ended(0)) };
    let program = Program { path: path.clone(), arguments: arguments.to_vec() };
    if let Some(signal) = before_the_start(sidecar, &mut signals).await {
        info!(signal = signals::name(signal), "leaving before the app was started");
        return Ok(Supervised::Ended(0));
    }
    let first = match program.start() {
        Ok(process) => process,
        Err(error) => return Ok(Supervised::NotStarted(error)),
    };
    let mut supervisor = Supervisor {
        sidecar,
        program,
        signals,
        reaper,
        app: None,
        code: 0,
        asked: Signal::TERM,
        limit: None,
        short_lived: 0,
    };
    supervisor.runs(first);
    Ok(Supervised::Ended(supervisor.run().await))
}

/// Until the sidecar carries requests; a signal that asked to leave before that.
async fn before_the_start(sidecar: &App, signals: &mut Signals) -> Option<Signal> {
    loop {
        tokio::select! {
            () = sidecar.carries() => return None,
            signal = signals.next() => match signal {
                Meaning::Leave(signal) => return Some(signal),
                Meaning::PassOn(_) => {} // nobody is there to get it
            },
        }
    }
}

struct Supervisor<'a> {
    sidecar: &'a App,
    program: Program,
    signals: Signals,
    reaper: Reaper,
    /// Absent while it does not run.
    app: Option<(Process, Instant)>,
    /// What the app last ended with.
    code: u8,
    /// The signal that asked to leave.
    asked: Signal,
    /// When the pause or the patience is over.
    limit: Option<Instant>,
    /// Runs in a row that did not last.
    short_lived: u32,
}

impl Supervisor<'_> {
    async fn run(&mut self) -> u8 {
        let mut state = State::Running;
        while state != State::Over {
            let event = self.event(state).await;
            let (next, acts) = state.after(event, self.sidecar.on_app_exit());
            debug!(?state, ?event, ?next, "the app's life");
            state = next;
            for act in acts {
                // A start that failed is an app that ended at once.
                if let Err(error) = self.act(*act) {
                    warn!(%error, "the app could not be started again");
                    state = state.after(Event::Ended, OnAppExit::Restart).0;
                    self.pause();
                }
            }
        }
        self.code
    }

    async fn event(&mut self, state: State) -> Event {
        loop {
            let app = self.app.as_ref().map(|(process, _)| process.pid());
            let limit = self.limit;
            let time_is_up = async { sleep_until(limit.unwrap_or_else(Instant::now)).await };
            tokio::select! {
                status = self.reaper.ended(app) => {
                    self.code = exit_code(status);
                    info!(code = self.code, "the app has ended");
                    self.limit = None;
                    return Event::Ended;
                }
                () = self.sidecar.drain(), if state == State::Draining => return Event::Heard,
                () = time_is_up, if limit.is_some() => {
                    self.limit = None;
                    return Event::TimeIsUp;
                }
                signal = self.signals.next() => match signal {
                    Meaning::PassOn(signal) => self.send(signal),
                    Meaning::Leave(signal) => {
                        info!(signal = signals::name(signal), "leaving; a second signal stops the app at once, a third kills it");
                        self.asked = signal;
                        return Event::Asked;
                    }
                },
            }
        }
    }

    fn act(&mut self, act: Act) -> Result<(), SpawnError> {
        match act {
            // What is waited for in `event`.
            Act::Drain => {}
            Act::Hurry => self.sidecar.hurry(),
            Act::PassOn => {
                self.send(self.asked);
                self.limit = Some(Instant::now() + self.sidecar.config().drain.timeout);
            }
            Act::Kill => {
                warn!("the app has not ended, killing it");
                self.send(Signal::KILL);
                self.code = 128 + 9; // should it not even end from that
                self.limit = Some(Instant::now() + KILLED);
            }
            Act::Pause => self.pause(),
            Act::Start => {
                let process = self.program.start()?;
                self.runs(process);
            }
        }
        Ok(())
    }

    fn runs(&mut self, process: Process) {
        self.app = Some((process, Instant::now()));
        self.sidecar.app_started();
    }

    fn pause(&mut self) {
        self.sidecar.app_ended();
        if self.app.take().is_some_and(|(_, since)| since.elapsed() >= SETTLED) {
            self.short_lived = 0;
        }
        let ceiling = AGAIN.max_pause(self.short_lived);
        let pause = ceiling / 2 + AGAIN.pause(self.short_lived, fastrand::u64(..)) / 2;
        self.short_lived = self.short_lived.saturating_add(1);
        warn!(code = self.code, ?pause, "starting the app again");
        self.limit = Some(Instant::now() + pause);
    }

    fn send(&self, signal: Signal) {
        match &self.app {
            Some((process, _)) => {
                info!(signal = signals::name(signal), "passing a signal on to the app");
                process.send(signal);
            }
            None => debug!(signal = signals::name(signal), "no app to pass a signal on to"),
        }
    }
}
