//! What happens when, while an app runs under the sidecar: a pure table. An event comes in, the next
//! state and what is to be done come out; no process, no clock.
//!
//! ```text
//! Running ──asked to leave──→ Draining ──callers have heard──→ Stopping ──out of patience──→ Killed
//!    │ ↑                         │          (or asked again)       │        (or asked again)    │
//!    │ └─pause over─ Pausing     └──────────── app ended ──────────┴────────────────────────────┴→ Over
//!    └──app ended──────┴─→ (or Over, with on_app_exit: exit)
//! ```
//!
//! Outbound is open in every state but Over: an app that is shutting down may have calls to make.

use outrigger_config::OnAppExit;

/// Where the app stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum ProcessState {
    /// It runs.
    Running,
    /// It ended by itself, and will be started again.
    BackingOff,
    /// It runs; callers are being told that it will not for long.
    Draining,
    /// It was asked to end.
    Stopping,
    /// It was made to end.
    Killed,
    /// It has ended, and so does the sidecar.
    Finished,
}

/// What moves it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum ProcessEvent {
    /// A signal that asks to leave.
    StopRequested,
    /// Callers have heard: nobody calls the app any more.
    Propagated,
    /// The app has ended.
    Exited,
    /// The pause before the next start, or the patience with an app that should end, is over.
    TimerExpired,
}

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum ProcessAction {
    /// Leave the registry, and tell when callers have heard.
    Drain,
    /// Let nobody wait for callers.
    SkipWaits,
    /// Send the app the signal that asked to leave, and be patient.
    ForwardSignal,
    /// Send the app SIGKILL, and be patient for a moment.
    Kill,
    /// Tell the registry, and wait a little before the next start.
    BackOff,
    /// Start the app.
    Start,
}

impl ProcessState {
    /// The state after `event`, and what is to be done.
    pub(crate) fn transition(
        self,
        event: ProcessEvent,
        on_exit: OnAppExit,
    ) -> (Self, &'static [ProcessAction]) {
        match (self, event) {
            (Self::Running, ProcessEvent::StopRequested) => (Self::Draining, &[ProcessAction::Drain]),
            (Self::Running, ProcessEvent::Exited) => match on_exit {
                OnAppExit::Exit => (Self::Finished, &[ProcessAction::SkipWaits]),
                OnAppExit::Restart => (Self::BackingOff, &[ProcessAction::BackOff]),
            },
            (Self::BackingOff, ProcessEvent::TimerExpired) => (Self::Running, &[ProcessAction::Start]),
            (Self::BackingOff, ProcessEvent::StopRequested) => (Self::Finished, &[ProcessAction::SkipWaits]),
            (Self::Draining, ProcessEvent::Propagated) => (Self::Stopping, &[ProcessAction::ForwardSignal]),
            (Self::Draining, ProcessEvent::StopRequested) => {
                (Self::Stopping, &[ProcessAction::SkipWaits, ProcessAction::ForwardSignal])
            }
            (Self::Draining, ProcessEvent::Exited) => (Self::Finished, &[ProcessAction::SkipWaits]),
            (Self::Stopping, ProcessEvent::StopRequested | ProcessEvent::TimerExpired) => {
                (Self::Killed, &[ProcessAction::Kill])
            }
            (Self::Stopping | Self::Killed, ProcessEvent::Exited) => (Self::Finished, &[]),
            // Not even SIGKILL ends a process that hangs in the kernel.
            (Self::Killed, ProcessEvent::TimerExpired) => (Self::Finished, &[]),
            (state, _) => (state, &[]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{ProcessAction::*, ProcessEvent::*, ProcessState::*, *};

    fn run_events(on_exit: OnAppExit, events: &[ProcessEvent]) -> (ProcessState, Vec<ProcessAction>) {
        let mut state = Running;
        let mut acts = Vec::new();
        for event in events {
            let (next, then) = state.transition(*event, on_exit);
            state = next;
            acts.extend(then);
        }
        (state, acts)
    }

    #[test]
    fn the_order_of_every_end() {
        let exit: [(&str, &[ProcessEvent], ProcessState, &[ProcessAction]); 8] = [
            ("an orderly one", &[StopRequested, Propagated, Exited], Finished, &[Drain, ForwardSignal]),
            ("the app ends by itself", &[Exited], Finished, &[SkipWaits]),
            ("it ends while callers are told", &[StopRequested, Exited], Finished, &[Drain, SkipWaits]),
            (
                "it does not end",
                &[StopRequested, Propagated, TimerExpired, Exited],
                Finished,
                &[Drain, ForwardSignal, Kill],
            ),
            (
                "nothing ends it",
                &[StopRequested, Propagated, TimerExpired, TimerExpired],
                Finished,
                &[Drain, ForwardSignal, Kill],
            ),
            (
                "asked twice",
                &[StopRequested, StopRequested, Exited],
                Finished,
                &[Drain, SkipWaits, ForwardSignal],
            ),
            (
                "asked three times",
                &[StopRequested, StopRequested, StopRequested, Exited],
                Finished,
                &[Drain, SkipWaits, ForwardSignal, Kill],
            ),
            (
                "asked after callers heard",
                &[StopRequested, Propagated, StopRequested, Exited],
                Finished,
                &[Drain, ForwardSignal, Kill],
            ),
        ];
        for (what, events, state, acts) in exit {
            assert_eq!(run_events(OnAppExit::Exit, events), (state, acts.to_vec()), "{what}");
        }
        let restart: [(&str, &[ProcessEvent], ProcessState, &[ProcessAction]); 4] = [
            ("restarted", &[Exited, TimerExpired], Running, &[BackOff, Start]),
            (
                "restarted twice",
                &[Exited, TimerExpired, Exited, TimerExpired],
                Running,
                &[BackOff, Start, BackOff, Start],
            ),
            ("asked in the pause", &[Exited, StopRequested], Finished, &[BackOff, SkipWaits]),
            ("not restarted while leaving", &[StopRequested, Exited], Finished, &[Drain, SkipWaits]),
        ];
        for (what, events, state, acts) in restart {
            assert_eq!(run_events(OnAppExit::Restart, events), (state, acts.to_vec()), "{what}");
        }
    }

    #[test]
    fn the_app_is_signalled_only_after_the_registry_was_told_and_killed_only_after_it_was_asked() {
        // Every story of six events.
        let events = [StopRequested, Propagated, Exited, TimerExpired];
        for n in 0..events.len().pow(6) {
            let story_of: Vec<_> = (0..6).map(|at| events[n / events.len().pow(at) % events.len()]).collect();
            for on_exit in [OnAppExit::Exit, OnAppExit::Restart] {
                let (_, acts) = run_events(on_exit, &story_of);
                let at = |act| acts.iter().position(|each| *each == act);
                assert!(
                    at(ForwardSignal).is_none_or(|pass| at(Drain).is_some_and(|drain| drain < pass)),
                    "{acts:?}"
                );
                assert!(
                    at(Kill).is_none_or(|kill| at(ForwardSignal).is_some_and(|pass| pass < kill)),
                    "{acts:?}"
                );
                let asked = at(Drain).unwrap_or(acts.len());
                assert!(!acts[asked..].contains(&Start), "{acts:?}");
            }
        }
    }

    #[test]
    fn nothing_follows_the_end() {
        for event in [StopRequested, Propagated, Exited, TimerExpired] {
            assert_eq!(Finished.transition(event, OnAppExit::Restart), (Finished, &[][..]));
        }
    }
}
