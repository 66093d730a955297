//! The states of an app that runs under the sidecar: a pure table from state and event to the next state and
//! the actions. No process, no clock.
//!
//! ```text
//! Running ──stop requested──→ Draining ──propagated──→ Stopping ──timer expired──→ Killed
//!  ↑ │ │                            │   (or requested again) │   (or requested again)  │ app exited
//!  │ │ │                            └────── app exited ──────┤                         ↓
//!  │ │ └──app exited, on_app_exit: exit───────────────────→ Ending ──group ended──→ Finished
//!  │ └────app exited, on_app_exit: restart──→ Clearing      (or timer expired, or requested again)
//!  │                                             │ group ended (or timer expired)
//!  └──────────timer expired── BackingOff ←───────┘
//! ```
//!
//! A dead network namespace leads from Running to Stopping, from Clearing to Ending and from BackingOff to Finished.
//!
//! A planned restart ([`crate::config_files`]) ends the app and starts it again without a pause:
//!
//! ```text
//! Running ──replacement requested──→ Replacing ──timer expired──→ KilledToReplace
//!  ↑  ↑                                   │ app exited                 │ app exited
//!  │  └────────group ended─── ClearingToReplace ←──────────────────────┘
//!  └─BackingOff ←─timer expired─┘
//! ```
//!
//! It needs no step for an app that has ended by itself: it is started at once in place of after its pause. A request to leave leads
//! from Replacing to Stopping, from KilledToReplace to Killed, and from ClearingToReplace to Ending.
//!
//! The group is the rest of the app's process group: processes that the app has started and that still run when the
//! app has ended. Where the app shares the sidecar's group there is no rest, and the group has ended at once.
//!
//! Outbound is open in every state but Finished, because an app that shuts down may still call other services.

use outrigger_config::OnAppExit;

/// The state of the app.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum ProcessState {
    /// The app runs.
    Running,
    /// The app ended by itself, and will be started again when the rest of its process group has ended.
    Clearing,
    /// The pause before the next start.
    BackingOff,
    /// The app runs; the sidecar has left the registry and waits until callers know.
    Draining,
    /// The app was asked to end.
    Stopping,
    /// The app was sent SIGKILL.
    Killed,
    /// The app was asked to end, and will be started again at once.
    Replacing,
    /// The same, and it was sent SIGKILL. It is waited for as long as it takes: the next one could not have its port.
    KilledToReplace,
    /// The app has ended, and will be started at once when the rest of its process group has ended.
    ClearingToReplace,
    /// The app has ended for good, and the rest of its process group is ending.
    Ending,
    /// The app has ended, and the sidecar ends.
    Finished,
}

/// What changes the state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum ProcessEvent {
    /// A signal asked the sidecar to leave.
    StopRequested,
    /// No caller calls the app any more.
    Propagated,
    /// The app has ended.
    Exited,
    /// No process of the app's process group is left.
    GroupEnded,
    /// The app is to end and to be started again: no caller calls it any more.
    ReplaceRequested,
    /// The app could not be started again.
    StartFailed,
    /// The network namespace is dead.
    NetworkLost,
    /// The pause before the next start, or the time for the app or its process group to end, is over.
    TimerExpired,
}

/// What the supervisor does on a transition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum ProcessAction {
    /// Leave the registry, and report when no caller calls the app any more.
    Drain,
    /// End every wait for callers.
    SkipWaits,
    /// Send the app the signal that asked to leave, and wait for its end.
    ForwardSignal,
    /// Send the app SIGTERM, and wait for its end.
    AskToEnd,
    /// Send the app and its process group SIGKILL, and wait a short time for the app's end.
    Kill,
    /// Send the rest of the process group SIGTERM, and wait for its end.
    StopGroup,
    /// Send the rest of the process group SIGKILL.
    KillGroup,
    /// Report the app as down.
    ReportDown,
    /// Pause before the next start.
    BackOff,
    /// Start the app.
    Start,
}

impl ProcessState {
    /// Whether a dead network namespace ends the app: not one that is ending.
    pub(crate) fn needs_network(self) -> bool {
        matches!(
            self,
            Self::Running
                | Self::Clearing
                | Self::BackingOff
                | Self::Replacing
                | Self::KilledToReplace
                | Self::ClearingToReplace
        )
    }

    /// Whether the end of the rest of the process group leads on.
    pub(crate) fn awaits_group(self) -> bool {
        matches!(self, Self::Clearing | Self::ClearingToReplace | Self::Ending)
    }

    /// The state after `event`, and the actions.
    pub(crate) fn transition(
        self,
        event: ProcessEvent,
        on_exit: OnAppExit,
    ) -> (Self, &'static [ProcessAction]) {
        match (self, event) {
            (Self::Running, ProcessEvent::StopRequested) => (Self::Draining, &[ProcessAction::Drain]),
            (Self::Running, ProcessEvent::Exited) => match on_exit {
                OnAppExit::Exit => (Self::Ending, &[ProcessAction::SkipWaits, ProcessAction::StopGroup]),
                OnAppExit::Restart => {
                    (Self::Clearing, &[ProcessAction::ReportDown, ProcessAction::StopGroup])
                }
            },
            (Self::Running, ProcessEvent::StartFailed) => {
                (Self::BackingOff, &[ProcessAction::ReportDown, ProcessAction::BackOff])
            }
            // There is no caller, and no registry to leave.
            (Self::Running, ProcessEvent::NetworkLost) => {
                (Self::Stopping, &[ProcessAction::SkipWaits, ProcessAction::ForwardSignal])
            }
            (Self::Running, ProcessEvent::ReplaceRequested) => (Self::Replacing, &[ProcessAction::AskToEnd]),
            (Self::BackingOff, ProcessEvent::ReplaceRequested) => (Self::Running, &[ProcessAction::Start]),
            (Self::Clearing, ProcessEvent::ReplaceRequested) => (Self::ClearingToReplace, &[]),
            (Self::Replacing, ProcessEvent::TimerExpired) => (Self::KilledToReplace, &[ProcessAction::Kill]),
            (Self::Replacing | Self::KilledToReplace, ProcessEvent::Exited) => {
                (Self::ClearingToReplace, &[ProcessAction::StopGroup])
            }
            // It was asked to end already.
            (Self::Replacing, ProcessEvent::StopRequested | ProcessEvent::NetworkLost) => {
                (Self::Stopping, &[ProcessAction::SkipWaits])
            }
            (Self::KilledToReplace, ProcessEvent::StopRequested | ProcessEvent::NetworkLost) => {
                (Self::Killed, &[ProcessAction::SkipWaits, ProcessAction::Kill])
            }
            (Self::ClearingToReplace, ProcessEvent::GroupEnded) => (Self::Running, &[ProcessAction::Start]),
            // Killed processes may keep the port for a moment.
            (Self::ClearingToReplace, ProcessEvent::TimerExpired) => {
                (Self::BackingOff, &[ProcessAction::KillGroup, ProcessAction::BackOff])
            }
            (Self::ClearingToReplace, ProcessEvent::StopRequested | ProcessEvent::NetworkLost) => {
                (Self::Ending, &[ProcessAction::SkipWaits])
            }
            (Self::Clearing, ProcessEvent::GroupEnded) => (Self::BackingOff, &[ProcessAction::BackOff]),
            (Self::Clearing, ProcessEvent::TimerExpired) => {
                (Self::BackingOff, &[ProcessAction::KillGroup, ProcessAction::BackOff])
            }
            (Self::Clearing, ProcessEvent::StopRequested | ProcessEvent::NetworkLost) => {
                (Self::Ending, &[ProcessAction::SkipWaits])
            }
            (Self::BackingOff, ProcessEvent::TimerExpired) => (Self::Running, &[ProcessAction::Start]),
            (Self::BackingOff, ProcessEvent::StopRequested | ProcessEvent::NetworkLost) => {
                (Self::Finished, &[ProcessAction::SkipWaits])
            }
            (Self::Draining, ProcessEvent::Propagated) => (Self::Stopping, &[ProcessAction::ForwardSignal]),
            (Self::Draining, ProcessEvent::StopRequested) => {
                (Self::Stopping, &[ProcessAction::SkipWaits, ProcessAction::ForwardSignal])
            }
            (Self::Draining, ProcessEvent::Exited) => {
                (Self::Ending, &[ProcessAction::SkipWaits, ProcessAction::StopGroup])
            }
            (Self::Stopping, ProcessEvent::StopRequested | ProcessEvent::TimerExpired) => {
                (Self::Killed, &[ProcessAction::Kill])
            }
            (Self::Stopping, ProcessEvent::Exited) => (Self::Ending, &[ProcessAction::StopGroup]),
            // SIGKILL does not end a process that hangs in the kernel.
            (Self::Killed, ProcessEvent::Exited | ProcessEvent::TimerExpired)
            | (Self::Ending, ProcessEvent::GroupEnded) => (Self::Finished, &[]),
            (Self::Ending, ProcessEvent::StopRequested | ProcessEvent::TimerExpired) => {
                (Self::Finished, &[ProcessAction::KillGroup])
            }
            (state, _) => (state, &[]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{ProcessAction::*, ProcessEvent::*, ProcessState::*, *};

    fn run_events(on_exit: OnAppExit, events: &[ProcessEvent]) -> (ProcessState, Vec<ProcessAction>) {
        let mut state = Running;
        let mut actions = Vec::new();
        for event in events {
            let (next, then) = state.transition(*event, on_exit);
            state = next;
            actions.extend(then);
        }
        (state, actions)
    }

    #[test]
    fn every_way_to_end_has_its_order_of_actions() {
        let exit: [(&str, &[ProcessEvent], ProcessState, &[ProcessAction]); 11] = [
            (
                "in order",
                &[StopRequested, Propagated, Exited, GroupEnded],
                Finished,
                &[Drain, ForwardSignal, StopGroup],
            ),
            ("the app ends by itself", &[Exited, GroupEnded], Finished, &[SkipWaits, StopGroup]),
            (
                "it ends during the drain",
                &[StopRequested, Exited, GroupEnded],
                Finished,
                &[Drain, SkipWaits, StopGroup],
            ),
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
                "its children do not end",
                &[StopRequested, Propagated, Exited, TimerExpired],
                Finished,
                &[Drain, ForwardSignal, StopGroup, KillGroup],
            ),
            (
                "its children are not waited for",
                &[StopRequested, Propagated, Exited, StopRequested],
                Finished,
                &[Drain, ForwardSignal, StopGroup, KillGroup],
            ),
            (
                "its children are not gone",
                &[StopRequested, Propagated, Exited],
                Ending,
                &[Drain, ForwardSignal, StopGroup],
            ),
            (
                "asked twice",
                &[StopRequested, StopRequested, Exited, GroupEnded],
                Finished,
                &[Drain, SkipWaits, ForwardSignal, StopGroup],
            ),
            (
                "asked three times",
                &[StopRequested, StopRequested, StopRequested, Exited],
                Finished,
                &[Drain, SkipWaits, ForwardSignal, Kill],
            ),
            (
                "asked after the drain",
                &[StopRequested, Propagated, StopRequested, Exited],
                Finished,
                &[Drain, ForwardSignal, Kill],
            ),
        ];
        for (what, events, state, actions) in exit {
            assert_eq!(run_events(OnAppExit::Exit, events), (state, actions.to_vec()), "{what}");
        }
        let restart: [(&str, &[ProcessEvent], ProcessState, &[ProcessAction]); 7] = [
            (
                "restarted",
                &[Exited, GroupEnded, TimerExpired],
                Running,
                &[ReportDown, StopGroup, BackOff, Start],
            ),
            (
                "restarted twice",
                &[Exited, GroupEnded, TimerExpired, Exited, GroupEnded, TimerExpired],
                Running,
                &[ReportDown, StopGroup, BackOff, Start, ReportDown, StopGroup, BackOff, Start],
            ),
            (
                "its children are in the way",
                &[Exited, TimerExpired, TimerExpired],
                Running,
                &[ReportDown, StopGroup, KillGroup, BackOff, Start],
            ),
            (
                "it cannot be started",
                &[Exited, GroupEnded, TimerExpired, StartFailed],
                BackingOff,
                &[ReportDown, StopGroup, BackOff, Start, ReportDown, BackOff],
            ),
            (
                "asked in the pause",
                &[Exited, GroupEnded, StopRequested],
                Finished,
                &[ReportDown, StopGroup, BackOff, SkipWaits],
            ),
            (
                "asked before its children have ended",
                &[Exited, StopRequested, GroupEnded],
                Finished,
                &[ReportDown, StopGroup, SkipWaits],
            ),
            (
                "not restarted while leaving",
                &[StopRequested, Exited, GroupEnded],
                Finished,
                &[Drain, SkipWaits, StopGroup],
            ),
        ];
        for (what, events, state, actions) in restart {
            assert_eq!(run_events(OnAppExit::Restart, events), (state, actions.to_vec()), "{what}");
        }
    }

    #[test]
    fn an_app_that_is_replaced_ends_before_the_next_one_starts() {
        let rows: [(&str, &[ProcessEvent], ProcessState, &[ProcessAction]); 11] = [
            ("it ends", &[ReplaceRequested, Exited, GroupEnded], Running, &[AskToEnd, StopGroup, Start]),
            (
                "it has to be killed",
                &[ReplaceRequested, TimerExpired, TimerExpired, Exited, GroupEnded],
                Running,
                &[AskToEnd, Kill, StopGroup, Start],
            ),
            (
                "its children are in the way",
                &[ReplaceRequested, Exited, TimerExpired],
                BackingOff,
                &[AskToEnd, StopGroup, KillGroup, BackOff],
            ),
            (
                "the next one cannot be started",
                &[ReplaceRequested, Exited, GroupEnded, StartFailed, TimerExpired],
                Running,
                &[AskToEnd, StopGroup, Start, ReportDown, BackOff, Start],
            ),
            (
                "it had ended by itself",
                &[Exited, ReplaceRequested, GroupEnded],
                Running,
                &[ReportDown, StopGroup, Start],
            ),
            (
                "in the pause",
                &[Exited, GroupEnded, ReplaceRequested],
                Running,
                &[ReportDown, StopGroup, BackOff, Start],
            ),
            (
                "asked to leave while it ends",
                &[ReplaceRequested, StopRequested, Exited, GroupEnded],
                Finished,
                &[AskToEnd, SkipWaits, StopGroup],
            ),
            (
                "asked to leave, and it does not end",
                &[ReplaceRequested, StopRequested, TimerExpired, Exited],
                Finished,
                &[AskToEnd, SkipWaits, Kill],
            ),
            (
                "asked to leave when it was killed",
                &[ReplaceRequested, TimerExpired, StopRequested, TimerExpired],
                Finished,
                &[AskToEnd, Kill, SkipWaits, Kill],
            ),
            (
                "asked to leave before its children have ended",
                &[ReplaceRequested, Exited, StopRequested, GroupEnded],
                Finished,
                &[AskToEnd, StopGroup, SkipWaits],
            ),
            ("asked while leaving", &[StopRequested, ReplaceRequested], Draining, &[Drain]),
        ];
        for (what, events, state, actions) in rows {
            assert_eq!(run_events(OnAppExit::Restart, events), (state, actions.to_vec()), "{what}");
        }
    }

    #[test]
    fn the_app_is_signalled_only_after_the_drain_and_killed_only_after_the_signal() {
        // Every sequence of six events.
        let events = [StopRequested, Propagated, Exited, GroupEnded, ReplaceRequested, TimerExpired];
        for n in 0..events.len().pow(6) {
            let sequence: Vec<_> = (0..6).map(|at| events[n / events.len().pow(at) % events.len()]).collect();
            for on_exit in [OnAppExit::Exit, OnAppExit::Restart] {
                let (_, actions) = run_events(on_exit, &sequence);
                let at = |act| actions.iter().position(|each| *each == act);
                assert!(
                    at(ForwardSignal).is_none_or(|signal| at(Drain).is_some_and(|drain| drain < signal)),
                    "{actions:?}"
                );
                let asked = [ForwardSignal, AskToEnd].into_iter().filter_map(at).min();
                assert!(at(Kill).is_none_or(|kill| asked.is_some_and(|asked| asked < kill)), "{actions:?}");
                let left = at(Drain).unwrap_or(actions.len());
                assert!(!actions[left..].contains(&Start), "{actions:?}");
                // Only one app at a time: between two starts, and before the first one, the app has ended.
                let ends = [StopGroup, BackOff];
                let (mut may_start, mut is_ok) = (false, true);
                for action in &actions {
                    is_ok &= *action != Start || may_start;
                    may_start = (may_start || ends.contains(action)) && *action != Start;
                }
                assert!(is_ok, "{actions:?}");
            }
        }
    }

    #[test]
    fn a_dead_network_ends_the_app_without_a_drain() {
        let rows: [(&str, &[ProcessEvent], ProcessState, &[ProcessAction]); 4] = [
            ("it runs", &[NetworkLost, Exited, GroupEnded], Finished, &[SkipWaits, ForwardSignal, StopGroup]),
            ("it does not end", &[NetworkLost, TimerExpired], Killed, &[SkipWaits, ForwardSignal, Kill]),
            (
                "its group is ending",
                &[Exited, NetworkLost, GroupEnded],
                Finished,
                &[ReportDown, StopGroup, SkipWaits],
            ),
            (
                "in the pause",
                &[Exited, GroupEnded, NetworkLost],
                Finished,
                &[ReportDown, StopGroup, BackOff, SkipWaits],
            ),
        ];
        for (what, events, state, actions) in rows {
            assert_eq!(run_events(OnAppExit::Restart, events), (state, actions.to_vec()), "{what}");
        }
        let all = [
            Running,
            Clearing,
            BackingOff,
            Draining,
            Stopping,
            Killed,
            Replacing,
            KilledToReplace,
            ClearingToReplace,
            Ending,
            Finished,
        ];
        for state in all {
            let changes = state.transition(NetworkLost, OnAppExit::Restart).0 != state;
            assert_eq!(changes, state.needs_network(), "{state:?}");
        }
    }

    #[test]
    fn no_event_changes_the_finished_state() {
        let events =
            [StopRequested, Propagated, Exited, GroupEnded, ReplaceRequested, StartFailed, TimerExpired];
        for event in events {
            assert_eq!(Finished.transition(event, OnAppExit::Restart), (Finished, &[][..]));
        }
    }
}
