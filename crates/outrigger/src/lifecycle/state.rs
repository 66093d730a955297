//! The states of one process's life, as a table. No I/O, no clock, no tasks: an event comes in, the
//! next state comes out.
//!
//! ```text
//! Learning ─learned→ Waiting ─registered→ Registered ─reported healthy→ Ready
//!                       └──────────nothing to register────────────────────↑
//! any of them ─drain→ Draining ─ended→ Gone
//! ```
//!
//! Ready stays Ready while the registry is unreachable or the app's check fails: the app's health
//! is the registry's to show, and a sidecar that still routes must not be taken out of service by
//! an outage of the control plane. What the registration is doing has a status of its own
//! ([`super::Standing`]).

/// Where the process stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LifecycleState {
    /// Sockets are bound; the registry is asked for the declared services.
    Learning,
    /// Requests are routed; the local app has not been registered yet (it is not healthy, or the
    /// registry does not answer).
    Waiting,
    /// The registry lists the app; it has not been told yet that the app is well.
    Registered,
    /// All is done that can be done.
    Ready,
    /// The app leaves, or has left, the registry; requests are still routed.
    Draining,
    /// Nothing is served any more.
    Gone,
}

/// What moves it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum LifecycleEvent {
    /// The registry answered for every declared service, or the wait for it is over.
    Learned,
    /// There is no local app to register.
    NothingToRegister,
    /// The registry took the registration.
    Registered,
    /// The registry was told that the app is well.
    ReportedHealthy,
    /// A signal, or a call of the drain page.
    Drain,
    /// Listeners are closed, and requests in flight have ended or ran out of time.
    Ended,
}

impl LifecycleState {
    /// Every state, in the order of a life.
    pub const ALL: [Self; 6] =
        [Self::Learning, Self::Waiting, Self::Registered, Self::Ready, Self::Draining, Self::Gone];

    /// The state after `event`; the same one where the event changes nothing.
    #[must_use]
    pub(crate) fn next(self, event: LifecycleEvent) -> Self {
        match (self, event) {
            (Self::Gone, _) | (_, LifecycleEvent::Ended) => Self::Gone,
            (_, LifecycleEvent::Drain) => Self::Draining,
            (Self::Learning, LifecycleEvent::Learned) => Self::Waiting,
            // Registered: a reload took the app out of the settings before it was well.
            (Self::Waiting | Self::Registered, LifecycleEvent::NothingToRegister) => Self::Ready,
            (Self::Waiting, LifecycleEvent::Registered) => Self::Registered,
            (Self::Registered, LifecycleEvent::ReportedHealthy) => Self::Ready,
            (state, _) => state,
        }
    }

    /// Whether `/readyz` says yes.
    pub fn is_ready(self) -> bool {
        self == Self::Ready
    }

    /// The word for pages, metrics and logs.
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

    fn life(events: &[LifecycleEvent]) -> LifecycleState {
        events.iter().fold(LifecycleState::Learning, |state, event| state.next(*event))
    }

    #[test]
    fn a_life_with_an_app_goes_through_every_state() {
        let story = [
            (LifecycleEvent::Learned, LifecycleState::Waiting),
            (LifecycleEvent::Registered, LifecycleState::Registered),
            (LifecycleEvent::ReportedHealthy, LifecycleState::Ready),
            (LifecycleEvent::Drain, LifecycleState::Draining),
            (LifecycleEvent::Ended, LifecycleState::Gone),
        ];
        let mut state = LifecycleState::Learning;
        for (event, next) in story {
            state = state.next(event);
            assert_eq!(state, next, "after {event:?}");
        }
    }

    #[test]
    fn a_router_without_an_app_is_ready_once_it_has_learned() {
        assert_eq!(
            life(&[LifecycleEvent::Learned, LifecycleEvent::NothingToRegister]),
            LifecycleState::Ready
        );
    }

    #[test]
    fn nothing_is_registered_before_the_services_are_learned() {
        assert_eq!(
            life(&[LifecycleEvent::Registered, LifecycleEvent::ReportedHealthy]),
            LifecycleState::Learning
        );
    }

    #[test]
    fn every_state_can_drain_and_none_comes_back_from_it() {
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
    fn a_second_answer_of_the_registry_changes_nothing_once_ready() {
        let ready =
            life(&[LifecycleEvent::Learned, LifecycleEvent::Registered, LifecycleEvent::ReportedHealthy]);
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
