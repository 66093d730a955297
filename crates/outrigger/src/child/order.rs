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
pub(crate) enum State {
    /// It runs.
    Running,
    /// It ended by itself, and will be started again.
    Pausing,
    /// It runs; callers are being told that it will not for long.
    Draining,
    /// It was asked to end.
    Stopping,
    /// It was made to end.
    Killed,
    /// It has ended, and so does the sidecar.
    Over,
}

/// What moves it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Event {
    /// A signal that asks to leave.
    Asked,
    /// Callers have heard: nobody calls the app any more.
    Heard,
    /// The app has ended.
    Ended,
    /// The pause before the next start, or the patience with an app that should end, is over.
    TimeIsUp,
}

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Act {
    /// Leave the registry, and tell when callers have heard.
    Drain,
    /// Let nobody wait for callers.
    Hurry,
    /// Send the app the signal that asked to leave, and be patient.
    PassOn,
    /// Send the app SIGKILL, and be patient for a moment.
    Kill,
    /// Tell the registry, and wait a little before the next start.
    Pause,
    /// Start the app.
    Start,
}

impl State {
    /// The state after `event`, and what is to be done.
    pub(crate) fn after(self, event: Event, on_exit: OnAppExit) -> (Self, &'static [Act]) {
        match (self, event) {
            (Self::Running, Event::Asked) => (Self::Draining, &[Act::Drain]),
            (Self::Running, Event::Ended) => match on_exit {
                OnAppExit::Exit => (Self::Over, &[Act::Hurry]),
                OnAppExit::Restart => (Self::Pausing, &[Act::Pause]),
            },
            (Self::Pausing, Event::TimeIsUp) => (Self::Running, &[Act::Start]),
            (Self::Pausing, Event::Asked) => (Self::Over, &[Act::Hurry]),
            (Self::Draining, Event::Heard) => (Self::Stopping, &[Act::PassOn]),
            (Self::Draining, Event::Asked) => (Self::Stopping, &[Act::Hurry, Act::PassOn]),
            (Self::Draining, Event::Ended) => (Self::Over, &[Act::Hurry]),
            (Self::Stopping, Event::Asked | Event::TimeIsUp) => (Self::Killed, &[Act::Kill]),
            (Self::Stopping | Self::Killed, Event::Ended) => (Self::Over, &[]),
            // Not even SIGKILL ends a process that hangs in the kernel.
            (Self::Killed, Event::TimeIsUp) => (Self::Over, &[]),
            (state, _) => (state, &[]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Act::*, Event::*, State::*, *};

    fn story(on_exit: OnAppExit, events: &[Event]) -> (State, Vec<Act>) {
        let mut state = Running;
        let mut acts = Vec::new();
        for event in events {
            let (next, then) = state.after(*event, on_exit);
            state = next;
            acts.extend(then);
        }
        (state, acts)
    }

    #[test]
    fn the_order_of_every_end() {
        let exit: [(&str, &[Event], State, &[Act]); 8] = [
            ("an orderly one", &[Asked, Heard, Ended], Over, &[Drain, PassOn]),
            ("the app ends by itself", &[Ended], Over, &[Hurry]),
            ("it ends while callers are told", &[Asked, Ended], Over, &[Drain, Hurry]),
            ("it does not end", &[Asked, Heard, TimeIsUp, Ended], Over, &[Drain, PassOn, Kill]),
            ("nothing ends it", &[Asked, Heard, TimeIsUp, TimeIsUp], Over, &[Drain, PassOn, Kill]),
            ("asked twice", &[Asked, Asked, Ended], Over, &[Drain, Hurry, PassOn]),
            ("asked three times", &[Asked, Asked, Asked, Ended], Over, &[Drain, Hurry, PassOn, Kill]),
            ("asked after callers heard", &[Asked, Heard, Asked, Ended], Over, &[Drain, PassOn, Kill]),
        ];
        for (what, events, state, acts) in exit {
            assert_eq!(story(OnAppExit::Exit, events), (state, acts.to_vec()), "{what}");
        }
        let restart: [(&str, &[Event], State, &[Act]); 4] = [
            ("restarted", &[Ended, TimeIsUp], Running, &[Pause, Start]),
            ("restarted twice", &[Ended, TimeIsUp, Ended, TimeIsUp], Running, &[Pause, Start, Pause, Start]),
            ("asked in the pause", &[Ended, Asked], Over, &[Pause, Hurry]),
            ("not restarted while leaving", &[Asked, Ended], Over, &[Drain, Hurry]),
        ];
        for (what, events, state, acts) in restart {
            assert_eq!(story(OnAppExit::Restart, events), (state, acts.to_vec()), "{what}");
        }
    }

    #[test]
    fn the_app_is_signalled_only_after_the_registry_was_told_and_killed_only_after_it_was_asked() {
        // Every story of six events.
        let events = [Asked, Heard, Ended, TimeIsUp];
        for n in 0..events.len().pow(6) {
            let story_of: Vec<_> = (0..6).map(|at| events[n / events.len().pow(at) % events.len()]).collect();
            for on_exit in [OnAppExit::Exit, OnAppExit::Restart] {
                let (_, acts) = story(on_exit, &story_of);
                let at = |act| acts.iter().position(|each| *each == act);
                assert!(
                    at(PassOn).is_none_or(|pass| at(Drain).is_some_and(|drain| drain < pass)),
                    "{acts:?}"
                );
                assert!(at(Kill).is_none_or(|kill| at(PassOn).is_some_and(|pass| pass < kill)), "{acts:?}");
                let asked = at(Drain).unwrap_or(acts.len());
                assert!(!acts[asked..].contains(&Start), "{acts:?}");
            }
        }
    }

    #[test]
    fn nothing_follows_the_end() {
        for event in [Asked, Heard, Ended, TimeIsUp] {
            assert_eq!(Over.after(event, OnAppExit::Restart), (Over, &[][..]));
        }
    }
}
