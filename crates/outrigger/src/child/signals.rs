//! What the sidecar is sent, and what of it is meant for the app.
//!
//! | signal | what it does |
//! |---|---|
//! | TERM, INT, QUIT | leave in order; the app gets the same one when callers have heard |
//! | HUP, USR1, USR2, WINCH, ALRM | passed on at once |
//! | INT, QUIT from the terminal | the app has got it already; if it still runs when callers have heard, it gets TERM |
//!
//! HUP is the app's here, so that a reload of the sidecar is asked for by `outrigger reload` or
//! `POST /reload`. KILL and STOP cannot be seen; TSTP, TTIN, TTOU and CONT are the terminal's, and reach the app with the
//! process group.

use std::{fs::File, io};

use rustix::process::{Signal, getpgrp};
use tokio::signal::unix::{self, SignalKind, signal};

/// What a signal means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Meaning {
    /// Leave; in its turn the app gets this one.
    Leave(Signal),
    /// The app gets it now.
    PassOn(Signal),
}

/// All of them, from now on: none ends the sidecar by itself any more.
#[derive(Debug)]
pub(super) struct Signals {
    terminate: unix::Signal,
    interrupt: unix::Signal,
    quit: unix::Signal,
    hangup: unix::Signal,
    user1: unix::Signal,
    user2: unix::Signal,
    window: unix::Signal,
    alarm: unix::Signal,
}

impl Signals {
    pub(super) fn listen() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            quit: signal(SignalKind::quit())?,
            hangup: signal(SignalKind::hangup())?,
            user1: signal(SignalKind::user_defined1())?,
            user2: signal(SignalKind::user_defined2())?,
            window: signal(SignalKind::window_change())?,
            alarm: signal(SignalKind::alarm())?,
        })
    }

    /// The next one. Cancel-safe.
    pub(super) async fn next(&mut self) -> Meaning {
        tokio::select! {
            Some(()) = self.terminate.recv() => Meaning::Leave(Signal::TERM),
            Some(()) = self.interrupt.recv() => Meaning::Leave(in_turn(Signal::INT, at_the_terminal())),
            Some(()) = self.quit.recv() => Meaning::Leave(in_turn(Signal::QUIT, at_the_terminal())),
            Some(()) = self.hangup.recv() => Meaning::PassOn(Signal::HUP),
            Some(()) = self.user1.recv() => Meaning::PassOn(Signal::USR1),
            Some(()) = self.user2.recv() => Meaning::PassOn(Signal::USR2),
            Some(()) = self.window.recv() => Meaning::PassOn(Signal::WINCH),
            Some(()) = self.alarm.recv() => Meaning::PassOn(Signal::ALARM),
            else => std::future::pending().await,
        }
    }
}

/// What the app gets when callers have heard.
fn in_turn(signal: Signal, terminal: bool) -> Signal {
    if terminal { Signal::TERM } else { signal }
}

/// Whether the terminal would have sent it: to the whole process group, the app with it.
fn at_the_terminal() -> bool {
    File::open("/dev/tty")
        .is_ok_and(|tty| rustix::termios::tcgetpgrp(tty).is_ok_and(|group| group == getpgrp()))
}

/// The name for logs.
pub(super) fn name(signal: Signal) -> &'static str {
    [
        (Signal::TERM, "SIGTERM"),
        (Signal::INT, "SIGINT"),
        (Signal::QUIT, "SIGQUIT"),
        (Signal::HUP, "SIGHUP"),
        (Signal::USR1, "SIGUSR1"),
        (Signal::USR2, "SIGUSR2"),
        (Signal::WINCH, "SIGWINCH"),
        (Signal::ALARM, "SIGALRM"),
    ]
    .into_iter()
    .find_map(|(each, name)| (each == signal).then_some(name))
    .unwrap_or("a signal")
}
