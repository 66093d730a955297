//! Decides when the app gets a signal for a changed file: most signals end a process without a handler.
//!
//! The app is asked by what the system says of it (`/proc`): it has a handler, or all its threads block the signal, as a program does
//! that reads its signals from a descriptor. A block that lasts a moment is no sign of that: threads are started with blocked signals,
//! and the signal would end the app when the block ends.

use std::{fs, path::Path, time::Duration};

use rustix::process::Signal;
use tokio::time::{Instant, sleep};

use crate::process::AppControl;

/// How long the app has to install the handler of a signal.
const HANDLER_WAIT: Duration = Duration::from_secs(60);
/// After this time without a handler it is told that the app is waited for.
const TELL_AFTER: Duration = Duration::from_secs(2);
/// A signal that is blocked for this long is read by the app.
const BLOCKED_FOR: Duration = Duration::from_secs(1);
/// Pause between two looks at the app.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// What becomes of a signal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum SignalDecision {
    /// The app with this process id gets it, and no later one.
    Send(u32),
    /// The app has read the content when it started, or reads it when it starts.
    NotNeeded,
    /// The app cannot take it; why.
    Refuse(String),
}

/// What a signal does to a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum SignalEffect {
    /// It has a handler.
    Handled,
    /// All its threads block the signal.
    Blocked,
    /// Nothing.
    Ignored,
    /// It ends.
    Ends,
}

impl SignalEffect {
    /// Why the app does not get the signal, and what to do.
    fn describe(self, name: &str) -> String {
        let why = match self {
            Self::Handled | Self::Blocked => format!("the app has blocked {name} for a moment"),
            Self::Ignored => format!("the app ignores {name}"),
            Self::Ends => format!("the app does not handle {name}, which would end it"),
        };
        format!(
            "{why}: install a handler; a shell that starts the app needs exec or a trap; an app without a handler is told by \
             on_change.http or on_change.restart"
        )
    }
}

/// Waits until the app that has not read `version` of the files can take the signal. `tell`: called once when that takes long.
pub(super) async fn await_handler(
    app: &AppControl,
    signal: Signal,
    name: &str,
    version: u64,
    tell: impl FnOnce(&str),
) -> SignalDecision {
    let began = Instant::now();
    let mut tell = Some(tell);
    let mut blocked: Option<(u32, Instant)> = None;
    loop {
        let run = app.now();
        if run.has_read >= version {
            return SignalDecision::NotNeeded;
        }
        let mut why = None;
        if let Some(pid) = run.pid {
            // Where the system does not say it, the app is trusted.
            let effect = effect_on(pid, signal).await.unwrap_or(SignalEffect::Handled);
            let since = match (effect, blocked) {
                (SignalEffect::Blocked, Some((of, since))) if of == pid => Some((pid, since)),
                (SignalEffect::Blocked, _) => Some((pid, Instant::now())),
                _ => None,
            };
            blocked = since;
            let is_read = blocked.is_some_and(|(_, since)| since.elapsed() >= BLOCKED_FOR);
            if effect == SignalEffect::Handled || is_read {
                return SignalDecision::Send(pid);
            }
            why = Some(effect.describe(name));
        }
        if began.elapsed() >= HANDLER_WAIT {
            // An app that does not run reads the content when it starts.
            return why.map_or(SignalDecision::NotNeeded, SignalDecision::Refuse);
        }
        if began.elapsed() >= TELL_AFTER
            && let Some(why) = &why
            && let Some(tell) = tell.take()
        {
            tell(&format!("{why}; it is waited for, up to {HANDLER_WAIT:?}"));
        }
        sleep(POLL_INTERVAL).await;
    }
}

/// `None`: the system does not say it.
async fn effect_on(pid: u32, signal: Signal) -> Option<SignalEffect> {
    tokio::task::spawn_blocking(move || read_effect(Path::new(&format!("/proc/{pid}")), signal)).await.ok()?
}

fn read_effect(process: &Path, signal: Signal) -> Option<SignalEffect> {
    let masks = SignalMasks::read(process, signal)?;
    if masks.is_caught {
        return Some(SignalEffect::Handled);
    }
    // Handlers are those of the process, and each thread has its own mask.
    if masks.is_blocked {
        let mut threads = fs::read_dir(process.join("task")).ok()?.flatten();
        // A thread that has ended meanwhile has none.
        let blocks = |thread: &Path| SignalMasks::read(thread, signal).is_none_or(|masks| masks.is_blocked);
        if threads.all(|thread| blocks(&thread.path())) {
            return Some(SignalEffect::Blocked);
        }
    }
    let is_ignored = masks.is_ignored || signal == Signal::WINCH;
    Some(if is_ignored { SignalEffect::Ignored } else { SignalEffect::Ends })
}

/// What a thread does with one signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct SignalMasks {
    is_caught: bool,
    is_ignored: bool,
    is_blocked: bool,
}

impl SignalMasks {
    /// `folder`: that of a process or of a thread in `/proc`.
    fn read(folder: &Path, signal: Signal) -> Option<Self> {
        Self::parse(&fs::read_to_string(folder.join("status")).ok()?, signal)
    }

    fn parse(status: &str, signal: Signal) -> Option<Self> {
        let bit = 1_u64.checked_shl(u32::try_from(signal.as_raw()).ok()?.checked_sub(1)?)?;
        let has = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name))?;
            Some(u64::from_str_radix(line.trim(), 16).ok()? & bit != 0)
        };
        Some(Self { is_caught: has("SigCgt:")?, is_ignored: has("SigIgn:")?, is_blocked: has("SigBlk:")? })
    }
}

#[cfg(test)]
mod tests {
    use parking_lot::Mutex;
    use tokio::{
        process::{Child, Command},
        time::timeout,
    };

    use super::*;

    const HUP: (Signal, &str) = (Signal::HUP, "SIGHUP");
    /// No shell can handle a signal that the tests were started to ignore (nohup).
    const DEFAULT_HUP: [&str; 2] = ["env", "--default-signal=HUP"];

    /// An app that has read version 0.
    fn start(command: &[&str]) -> (AppControl, Child) {
        let app = AppControl::default();
        let child = Command::new(command[0]).args(&command[1..]).kill_on_drop(true).spawn().unwrap();
        app.note_start(child.id().unwrap(), 0);
        (app, child)
    }

    async fn decide(app: &AppControl, (signal, name): (Signal, &str)) -> SignalDecision {
        await_handler(app, signal, name, 1, |_| ()).await
    }

    #[test]
    fn the_masks_of_a_process_are_read_from_its_status() {
        let status = |caught: u64, ignored: u64, blocked: u64| {
            format!("Name:\tapp\nSigBlk:\t{blocked:016x}\nSigIgn:\t{ignored:016x}\nSigCgt:\t{caught:016x}\n")
        };
        // HUP is signal 1, USR1 signal 10.
        for (caught, ignored, blocked, signal, expected) in [
            (0x1, 0, 0, Signal::HUP, (true, false, false)),
            (0, 0x1, 0, Signal::HUP, (false, true, false)),
            (0, 0, 0x1, Signal::HUP, (false, false, true)),
            (0x200, 0x1ff, 0xf_fdff, Signal::HUP, (false, true, true)),
            (0x200, 0x1ff, 0xf_fdff, Signal::USR1, (true, false, false)),
        ] {
            let masks = SignalMasks::parse(&status(caught, ignored, blocked), signal).unwrap();
            assert_eq!(
                (masks.is_caught, masks.is_ignored, masks.is_blocked),
                expected,
                "{caught:x} {signal:?}"
            );
        }
        assert_eq!(SignalMasks::parse("Name:\tapp\n", Signal::HUP), None);
        assert!(read_effect(Path::new("/proc/self"), Signal::HUP).is_some());
    }

    #[tokio::test]
    async fn a_signal_waits_for_the_handler_of_an_app_that_has_just_started() {
        let (app, _child) = start(
            &[&DEFAULT_HUP[..], &["sh", "-c", "sleep 0.3; trap 'exit 3' HUP; while :; do sleep 0.05; done"]]
                .concat(),
        );
        assert_eq!(decide(&app, HUP).await, SignalDecision::Send(app.now().pid.unwrap()));
    }

    #[tokio::test]
    async fn a_signal_that_is_blocked_for_a_moment_waits_for_the_handler() {
        let folder = tempfile::tempdir().unwrap();
        let told = folder.path().join("told");
        let app =
            format!("sleep 0.4; trap \"echo x > {}\" HUP; while :; do sleep 0.05; done", told.display());
        let script = format!("sleep 0.4; exec env --default-signal=HUP sh -c '{app}'");
        let (app, _child) = start(&["env", "--block-signal=HUP", "sh", "-c", &script]);
        let SignalDecision::Send(pid) = decide(&app, HUP).await else { panic!("it has a handler") };
        let pid = rustix::process::Pid::from_raw(pid.try_into().unwrap()).unwrap();
        rustix::process::kill_process(pid, Signal::HUP).unwrap();
        let is_told = async {
            while !told.exists() {
                sleep(POLL_INTERVAL).await;
            }
        };
        assert!(timeout(HANDLER_WAIT, is_told).await.is_ok(), "the signal has ended the app");
    }

    #[tokio::test]
    async fn a_signal_that_stays_blocked_is_sent() {
        let (app, _child) = start(&["env", "--block-signal=HUP", "sleep", "60"]);
        let from = Instant::now();
        assert_eq!(decide(&app, HUP).await, SignalDecision::Send(app.now().pid.unwrap()));
        assert!(from.elapsed() >= BLOCKED_FOR);
    }

    #[tokio::test(start_paused = true)]
    async fn a_signal_that_the_app_does_not_handle_is_not_sent_and_that_is_told_soon() {
        for (command, signal, expected) in [
            (
                &["sleep", "60"][..],
                (Signal::USR1, "SIGUSR1"),
                "does not handle SIGUSR1, which would end it: ",
            ),
            (&["env", "--ignore-signal=HUP", "sleep", "60"], HUP, "ignores SIGHUP: "),
            (&["sleep", "60"], (Signal::WINCH, "SIGWINCH"), "ignores SIGWINCH: "),
        ] {
            let (app, _child) = start(command);
            let told = Mutex::new(Vec::new());
            let began = Instant::now();
            let tell = |why: &str| told.lock().push((began.elapsed(), why.to_owned()));
            let decision = await_handler(&app, signal.0, signal.1, 1, tell).await;
            let SignalDecision::Refuse(why) = decision else { panic!("{decision:?}") };
            assert!(why.contains(expected) && why.contains("on_change.http"), "{why}");
            let told = told.into_inner();
            assert!(
                told.len() == 1 && told[0].0 < HANDLER_WAIT / 4 && told[0].1.contains(expected),
                "{told:?}"
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_app_that_has_read_the_content_gets_no_signal() {
        let (app, _child) = start(&["sleep", "60"]);
        // It has ended, and is started again.
        app.note_end();
        let restart = async {
            sleep(Duration::from_secs(5)).await;
            app.note_start(1, 1);
        };
        assert_eq!(tokio::join!(decide(&app, HUP), restart).0, SignalDecision::NotNeeded);
        // It was started just before the content was written.
        let (early, _child) =
            start(&[&DEFAULT_HUP[..], &["sh", "-c", "trap : HUP; while :; do sleep 0.05; done"]].concat());
        let pid = early.now().pid.unwrap();
        early.note_end();
        let start = async {
            sleep(Duration::from_secs(5)).await;
            early.note_start(pid, 0);
        };
        assert_eq!(tokio::join!(decide(&early, HUP), start).0, SignalDecision::Send(pid));
        // It does not start again.
        app.note_end();
        assert_eq!(await_handler(&app, HUP.0, HUP.1, 2, |_| ()).await, SignalDecision::NotNeeded);
    }
}
