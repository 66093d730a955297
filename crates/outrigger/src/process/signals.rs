//! The signals that the sidecar gets, and which of them the app gets.
//!
//! | signal | effect |
//! |---|---|
//! | TERM, INT, QUIT | the sidecar leaves in order; the app gets the same signal after the drain |
//! | HUP, USR1, USR2, WINCH, ALRM, VTALRM, PROF, IO, PWR, STKFLT | passed on at once |
//! | INT, QUIT from the terminal, with a shared process group | the app got it already; if it still runs after the drain, it gets TERM |
//! | real-time signals | caught and named in the log: one cannot be passed on without `unsafe` |
//!
//! HUP goes to the app, so that only `outrigger reload` and `POST /reload` reload a sidecar with an app. KILL
//! and STOP cannot be caught; the terminal sends TSTP, TTIN, TTOU and CONT to the whole process group, the app
//! with it. The other signals (SEGV, ABRT, ..) are faults of the sidecar itself.

use std::{
    fs::File,
    future::poll_fn,
    io,
    task::{Context, Poll},
};

use rustix::process::{Signal, getpgrp};
use tokio::signal::unix::{self, SignalKind, signal};
use tracing::warn;

/// Signals that ask the sidecar to leave.
const SHUTDOWN_SIGNALS: [Signal; 3] = [Signal::TERM, Signal::INT, Signal::QUIT];

/// Signals for the app alone. Uncaught, each but WINCH would end the sidecar.
const FORWARDED_SIGNALS: [Signal; 10] = [
    Signal::HUP,
    Signal::USR1,
    Signal::USR2,
    Signal::WINCH,
    Signal::ALARM,
    Signal::VTALARM,
    Signal::PROF,
    Signal::IO,
    Signal::POWER,
    Signal::STKFLT,
];

/// Numbers of real-time signals. The C library reserves the first ones and refuses a handler for them.
const REAL_TIME_SIGNALS: std::ops::RangeInclusive<i32> = 32..=64;

/// What the sidecar does on a signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SignalAction {
    /// Leave in order; the app gets this signal after the drain.
    ShutDown(Signal),
    /// Pass this signal on to the app now.
    Forward(Signal),
}

/// Catches every signal above: none ends the sidecar by itself any more.
#[derive(Debug)]
pub(super) struct SignalListener {
    known: Vec<(SignalAction, unix::Signal)>,
    real_time: Vec<(i32, unix::Signal)>,
}

impl SignalListener {
    pub(super) fn listen() -> io::Result<Self> {
        let actions = SHUTDOWN_SIGNALS
            .map(SignalAction::ShutDown)
            .into_iter()
            .chain(FORWARDED_SIGNALS.map(SignalAction::Forward));
        let known = actions.map(|action| {
            let (SignalAction::ShutDown(of) | SignalAction::Forward(of)) = action;
            Ok((action, signal(SignalKind::from_raw(of.as_raw()))?))
        });
        let real_time = REAL_TIME_SIGNALS.filter_map(|n| Some((n, signal(SignalKind::from_raw(n)).ok()?)));
        Ok(Self { known: known.collect::<io::Result<_>>()?, real_time: real_time.collect() })
    }

    /// The action for the next signal. Cancel-safe.
    pub(super) async fn next(&mut self) -> SignalAction {
        poll_fn(|cx| self.poll(cx)).await
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<SignalAction> {
        for (number, stream) in &mut self.real_time {
            while let Poll::Ready(Some(())) = stream.poll_recv(cx) {
                warn!(signal = *number, "a real-time signal cannot be passed on to the app, ignoring it");
            }
        }
        let ready = self.known.iter_mut().find_map(|(action, stream)| match stream.poll_recv(cx) {
            Poll::Ready(Some(())) => Some(*action),
            Poll::Ready(None) | Poll::Pending => None,
        });
        ready.map_or(Poll::Pending, Poll::Ready)
    }
}

/// The signal for the app after the drain, where this one asked the sidecar to leave. `is_group_shared`: the terminal sends
/// its signals to the app, too.
pub(super) fn signal_for_app(signal: Signal, is_group_shared: bool) -> Signal {
    if is_from_terminal(signal, is_group_shared) { Signal::TERM } else { signal }
}

/// Whether the terminal has sent this signal to the app, too.
pub(super) fn is_from_terminal(signal: Signal, is_group_shared: bool) -> bool {
    matches!(signal, Signal::INT | Signal::QUIT) && is_group_shared && in_foreground_group()
}

/// Whether the process group is in the terminal's foreground, so that the terminal sends its signals to the app,
/// too.
fn in_foreground_group() -> bool {
    File::open("/dev/tty")
        .is_ok_and(|tty| rustix::termios::tcgetpgrp(tty).is_ok_and(|group| group == getpgrp()))
}

/// The name of the signal, for logs.
pub(crate) fn signal_name(signal: Signal) -> &'static str {
    [
        (Signal::TERM, "SIGTERM"),
        (Signal::INT, "SIGINT"),
        (Signal::QUIT, "SIGQUIT"),
        (Signal::KILL, "SIGKILL"),
        (Signal::HUP, "SIGHUP"),
        (Signal::USR1, "SIGUSR1"),
        (Signal::USR2, "SIGUSR2"),
        (Signal::WINCH, "SIGWINCH"),
        (Signal::ALARM, "SIGALRM"),
        (Signal::VTALARM, "SIGVTALRM"),
        (Signal::PROF, "SIGPROF"),
        (Signal::IO, "SIGIO"),
        (Signal::POWER, "SIGPWR"),
        (Signal::STKFLT, "SIGSTKFLT"),
    ]
    .into_iter()
    .find_map(|(each, name)| (each == signal).then_some(name))
    .unwrap_or("a signal")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_signal_has_a_name() {
        for signal in SHUTDOWN_SIGNALS.into_iter().chain(FORWARDED_SIGNALS).chain([Signal::KILL]) {
            assert!(signal_name(signal).starts_with("SIG"), "{signal:?}");
        }
    }

    #[test]
    fn an_app_in_a_group_of_its_own_gets_the_signal_itself() {
        for signal in SHUTDOWN_SIGNALS {
            assert_eq!(signal_for_app(signal, false), signal);
        }
    }
}
