//! The states of one process's life, as a table. No I/O, no clock, no tasks: an event comes in, the
//! next state comes out.
//!
//! ```text
//! Starting ─bound→ Learning ─learned→ Waiting ─registered→ Registered ─told→ Ready
//!                                        └─────nothing to register──────────────┘
//! any of them ─drain→ Draining ─ended→ Gone
//! ```
//!
//! Ready stays Ready while the registry is unreachable or the app's check fails: the app's health
//! is the registry's to show, and a sidecar that still routes must not be taken out of service by
//! an outage of the control plane. What the registration is doing has a status of its own
//! ([`super::Standing`]).

/// Where the process stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum State {
    /// Sockets are being bound.
    Starting,
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
pub(crate) enum Event {
    /// Every socket is bound.
    Bound,
    /// The registry answered for every declared service, or the wait for it is over.
    Learned,
    /// There is no local app to register.
    NothingToRegister,
    /// The registry took the registration.
    Registered,
    /// The registry was told that the app is well.
    Told,
    /// A signal, or a call of the drain page.
    Drain,
    /// Listeners are closed, and requests in flight have ended or ran out of time.
    Ended,
}

impl State {
    /// Every state, in the order of a life.
    pub const ALL: [Self; 7] = [
        Self::Starting,
        Self::Learning,
        Self::Waiting,
        Self::Registered,
        Self::Ready,
        Self::Draining,
        Self::Gone,
    ];

    /// The state after `event`; the same one where the event changes nothing.
    #[must_use]
    pub(crate) fn after(self, event: Event) -> Self {
        match (self, event) {
            (Self::Gone, _) | (_, Event::Ended) => Self::Gone,
            (_, Event::Drain) => Self::Draining,
            (Self::Starting, Event::Bound) => Self::Learning,
            (Self::Learning, Event::Learned) => Self::Waiting,
            // Registered: a reload took the app out of the settings before it was well.
            (Self::Waiting | Self::Registered, Event::NothingToRegister) => Self::Ready,
            (Self::Waiting, Event::Registered) => Self::Registered,
            (Self::Registered, Event::Told) => Self::Ready,
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
            Self::Starting => "starting",
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

    const EVENTS: [Event; 7] = [
        Event::Bound,
        Event::Learned,
        Event::NothingToRegister,
        Event::Registered,
        Event::Told,
        Event::Drain,
        Event::Ended,
    ];

    fn life(events: &[Event]) -> State {
        events.iter().fold(State::Starting, |state, event| state.after(*event))
    }

    #[test]
    fn a_life_with_an_app_goes_through_every_state() {
        let story = [
            (Event::Bound, State::Learning),
            (Event::Learned, State::Waiting),
            (Event::Registered, State::Registered),
            (Event::Told, State::Ready),
            (Event::Drain, State::Draining),
            (Event::Ended, State::Gone),
        ];
        let mut state = State::Starting;
        for (event, next) in story {
            state = state.after(event);
            assert_eq!(state, next, "after {event:?}");
        }
    }

    #[test]
    fn a_router_without_an_app_is_ready_once_it_has_learned() {
        assert_eq!(life(&[Event::Bound, Event::Learned, Event::NothingToRegister]), State::Ready);
    }

    #[test]
    fn nothing_is_registered_before_the_services_are_learned() {
        assert_eq!(life(&[Event::Bound, Event::Registered, Event::Told]), State::Learning);
    }

    #[test]
    fn every_state_can_drain_and_none_comes_back_from_it() {
        for state in State::ALL {
            let drained = state.after(Event::Drain);
            let expected = if state == State::Gone { State::Gone } else { State::Draining };
            assert_eq!(drained, expected, "{state:?}");
            for event in EVENTS {
                let later = drained.after(event);
                assert!(later == drained || later == State::Gone, "{drained:?} after {event:?} is {later:?}");
                assert!(!later.is_ready());
            }
        }
    }

    #[test]
    fn a_second_answer_of_the_registry_changes_nothing_once_ready() {
        let ready = life(&[Event::Bound, Event::Learned, Event::Registered, Event::Told]);
        for event in [Event::Bound, Event::Learned, Event::Registered, Event::Told, Event::NothingToRegister]
        {
            assert_eq!(ready.after(event), State::Ready);
        }
    }
}
