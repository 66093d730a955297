//! What the sidecar is sent, and what of it is meant for the app.
//!
//! | signal | what it does |
//! |---|---|
//! | TERM, INT, QUIT | leave in order; the app gets the same one when callers have heard |
//! | HUP, USR1, USR2, WINCH, ALRM, VTALRM, PROF, IO, PWR, STKFLT | passed on at once |
//! | INT, QUIT from the terminal | the app has got it already; if it still runs when callers have heard, it gets TERM |
//! | real-time signals | caught and named in the log: there is no way to send one on without `unsafe` |
//!
//! HUP is the app's here, so that a reload of the sidecar is asked for by `outrigger reload` or
//! `POST /reload`. KILL and STOP cannot be seen; TSTP, TTIN, TTOU and CONT are the terminal's, and reach the
//! app with the process group. What is left (SEGV, ABRT, ..) says that something is wrong with the sidecar
//! itself.

use std::{
    fs::File,
    future::poll_fn,
    io,
    task::{Context, Poll},
};

use rustix::process::{Signal, getpgrp};
use tokio::signal::unix::{self, SignalKind, signal};
use tracing::warn;

/// Those that ask to leave.
const SHUTDOWN_SIGNALS: [Signal; 3] = [Signal::TERM, Signal::INT, Signal::QUIT];

/// Those that are the app's alone. Each would end the sidecar, but for WINCH.
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

/// Numbers of real-time signals. The C library keeps the first ones for itself, and refuses them.
const REAL_TIME_SIGNALS: std::ops::RangeInclusive<i32> = 32..=64;

/// What a signal means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SignalAction {
    /// Leave; in its turn the app gets this one.
    ShutDown(Signal),
    /// The app gets it now.
    Forward(Signal),
}

/// All of them, from now on: none ends the sidecar by itself any more.
#[derive(Debug)]
pub(super) struct SignalListener {
    known: Vec<(SignalAction, unix::Signal)>,
    real_time: Vec<(i32, unix::Signal)>,
}

impl SignalListener {
    pub(super) fn listen() -> io::Result<Self> {
        let meanings = SHUTDOWN_SIGNALS
            .map(SignalAction::ShutDown)
            .into_iter()
            .chain(FORWARDED_SIGNALS.map(SignalAction::Forward));
        let known = meanings.map(|meaning| {
            let (SignalAction::ShutDown(of) | SignalAction::Forward(of)) = meaning;
            Ok((meaning, signal(SignalKind::from_raw(of.as_raw()))?))
        });
        let real_time = REAL_TIME_SIGNALS.filter_map(|n| Some((n, signal(SignalKind::from_raw(n)).ok()?)));
        Ok(Self { known: known.collect::<io::Result<_>>()?, real_time: real_time.collect() })
    }

    /// The next one. Cancel-safe.
    pub(super) async fn next(&mut self) -> SignalAction {
        match poll_fn(|cx| self.poll(cx)).await {
            SignalAction::ShutDown(signal @ (Signal::INT | Signal::QUIT)) => {
                SignalAction::ShutDown(signal_for_app(signal, in_foreground_group()))
            }
            other => other,
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<SignalAction> {
        for (number, stream) in &mut self.real_time {
            while let Poll::Ready(Some(())) = stream.poll_recv(cx) {
                warn!(signal = *number, "a real-time signal cannot be passed on to the app, ignoring it");
            }
        }
        let ready = self.known.iter_mut().find_map(|(meaning, stream)| match stream.poll_recv(cx) {
            Poll::Ready(Some(())) => Some(*meaning),
            Poll::Ready(None) | Poll::Pending => None,
        });
        ready.map_or(Poll::Pending, Poll::Ready)
    }
}

/// What the app gets when callers have heard.
fn signal_for_app(signal: Signal, terminal: bool) -> Signal {
    if terminal { Signal::TERM } else { signal }
}

/// Whether the terminal would have sent it: to the whole process group, the app with it.
fn in_foreground_group() -> bool {
    File::open("/dev/tty")
        .is_ok_and(|tty| rustix::termios::tcgetpgrp(tty).is_ok_and(|group| group == getpgrp()))
}

/// The name for logs.
pub(super) fn signal_name(signal: Signal) -> &'static str {
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
    fn every_signal_that_is_sent_or_received_has_a_name() {
        for signal in SHUTDOWN_SIGNALS.into_iter().chain(FORWARDED_SIGNALS).chain([Signal::KILL]) {
            assert!(signal_name(signal).starts_with("SIG"), "{signal:?}");
        }
    }

    #[test]
    fn what_the_terminal_has_sent_already_becomes_term() {
        assert_eq!(signal_for_app(Signal::INT, true), Signal::TERM);
        assert_eq!(signal_for_app(Signal::INT, false), Signal::INT);
    }
}
