//! The states of the process and the events between them, as a table. No I/O, no clock, no tasks.
//!
//! ```text
//! Learning ─learned→ Waiting ─registered→ Registered ─reported healthy→ Ready
//!                       └──────────nothing to register────────────────────↑
//! any of them ─drain→ Draining ─ended→ Gone
//! ```
//!
//! Ready stays Ready while the registry is unreachable or the app's check fails: the registry shows the app's
//! health, and an outage of the control plane must not take a sidecar that routes out of service. The
//! registration has its own status ([`crate::RegistrationStatus`]).

/// The state of the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LifecycleState {
    /// Sockets are bound; the registry is asked for the declared services.
    Learning,
    /// Requests are routed; the local app has not been registered yet (it is not healthy, or the
    /// registry does not answer).
    Waiting,
    /// The registry has taken the registration; no report of a healthy app has reached it yet.
    Registered,
    /// The declared services are known, and the app (if any) was reported healthy.
    Ready,
    /// The app is being withdrawn, or is withdrawn; requests are still routed.
    Draining,
    /// Listeners are closed, and no request is in flight.
    Gone,
}

/// What changes the state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum LifecycleEvent {
    /// The registry answered for every declared service, or the wait for it is over.
    Learned,
    /// There is no local app to register.
    NothingToRegister,
    /// The registry took the registration.
    Registered,
    /// A report of a healthy app has reached the registry.
    ReportedHealthy,
    /// A signal, or `POST /drain`.
    Drain,
    /// Listeners are closed, and requests in flight have ended or ran out of time.
    Ended,
}

impl LifecycleState {
    /// Every state, in order.
    pub const ALL: [Self; 6] =
        [Self::Learning, Self::Waiting, Self::Registered, Self::Ready, Self::Draining, Self::Gone];

    /// The state after `event`; the same one where the event changes nothing.
    #[must_use]
    pub(super) fn next(self, event: LifecycleEvent) -> Self {
        match (self, event) {
            (Self::Gone, _) | (_, LifecycleEvent::Ended) => Self::Gone,
            (_, LifecycleEvent::Drain) => Self::Draining,
            (Self::Learning, LifecycleEvent::Learned) => Self::Waiting,
            // Registered: a reload took the app out of the settings before it was healthy.
            (Self::Waiting | Self::Registered, LifecycleEvent::NothingToRegister) => Self::Ready,
            (Self::Waiting, LifecycleEvent::Registered) => Self::Registered,
            (Self::Registered, LifecycleEvent::ReportedHealthy) => Self::Ready,
            (state, _) => state,
        }
    }

    /// Whether `/readyz` answers 200.
    pub fn is_ready(self) -> bool {
        self == Self::Ready
    }

    /// The name on pages, in metrics and in logs.
    pub fn label(self) -> &'static str {
        match self {
            Self::Learning => "learning",
            Self::Waiting => "waiting",
            Self::Registered => "registered",
            Self::Ready => "ready",
            Self::Draining => "draining",
            Self::Gone => "gone",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVENTS: [LifecycleEvent; 6] = [
        LifecycleEvent::Learned,
        LifecycleEvent::NothingToRegister,
        LifecycleEvent::Registered,
        LifecycleEvent::ReportedHealthy,
        LifecycleEvent::Drain,
        LifecycleEvent::Ended,
    ];

    fn state_after(events: &[LifecycleEvent]) -> LifecycleState {
        events.iter().fold(LifecycleState::Learning, |state, event| state.next(*event))
    }

    #[test]
    fn a_process_with_an_app_goes_through_every_state() {
        let transitions = [
            (LifecycleEvent::Learned, LifecycleState::Waiting),
            (LifecycleEvent::Registered, LifecycleState::Registered),
            (LifecycleEvent::ReportedHealthy, LifecycleState::Ready),
            (LifecycleEvent::Drain, LifecycleState::Draining),
            (LifecycleEvent::Ended, LifecycleState::Gone),
        ];
        let mut state = LifecycleState::Learning;
        for (event, next) in transitions {
            state = state.next(event);
            assert_eq!(state, next, "after {event:?}");
        }
    }

    #[test]
    fn a_router_without_an_app_is_ready_once_it_has_learned() {
        assert_eq!(
            state_after(&[LifecycleEvent::Learned, LifecycleEvent::NothingToRegister]),
            LifecycleState::Ready
        );
    }

    #[test]
    fn nothing_is_registered_before_the_services_are_learned() {
        assert_eq!(
            state_after(&[LifecycleEvent::Registered, LifecycleEvent::ReportedHealthy]),
            LifecycleState::Learning
        );
    }

    #[test]
    fn every_state_can_drain_and_none_is_ready_again_after_it() {
        for state in LifecycleState::ALL {
            let drained = state.next(LifecycleEvent::Drain);
            let expected =
                if state == LifecycleState::Gone { LifecycleState::Gone } else { LifecycleState::Draining };
            assert_eq!(drained, expected, "{state:?}");
            for event in EVENTS {
                let later = drained.next(event);
                assert!(
                    later == drained || later == LifecycleState::Gone,
                    "{drained:?} after {event:?} is {later:?}"
                );
                assert!(!later.is_ready());
            }
        }
    }

    #[test]
    fn no_event_but_drain_and_ended_changes_ready() {
        let ready = state_after(&[
            LifecycleEvent::Learned,
            LifecycleEvent::Registered,
            LifecycleEvent::ReportedHealthy,
        ]);
        for event in [
            LifecycleEvent::Learned,
            LifecycleEvent::Registered,
            LifecycleEvent::ReportedHealthy,
            LifecycleEvent::NothingToRegister,
        ] {
            assert_eq!(ready.next(event), LifecycleState::Ready);
        }
    }
}
