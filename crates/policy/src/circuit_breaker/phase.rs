//! The breaker's state machine: which requests pass, and what the end of a probe changes.

use std::time::{Duration, Instant};

use outrigger_config::CircuitBreaker;

use crate::outcome::Verdict;

/// The state of a breaker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum BreakerState {
    /// Requests pass.
    Closed,
    /// Requests are refused.
    Open,
    /// The next requests, a few at a time, are probes.
    HalfOpen,
}

/// The state, with the data that only this state needs.
#[derive(Debug, Clone, Copy)]
pub(super) enum Phase {
    Closed,
    Open {
        since: Instant,
        pause: Duration,
    },
    HalfOpen {
        /// Probes without a verdict.
        probes_in_flight: u32,
        successes: u32,
        /// The last open time; the next one is twice as long. Zero: the next one is the shortest.
        last_pause: Duration,
    },
}

/// How a request is admitted.
pub(super) enum Admission {
    /// As any request.
    Ordinary,
    /// As the probe that ends the open time.
    FirstProbe,
    /// As a further probe.
    Probe,
    /// Refused for this long.
    Refused(Duration),
}

/// What the end of a probe has changed.
pub(super) enum ProbeEffect {
    Unchanged,
    Reopened,
    Closed,
}

impl Phase {
    /// Open, from closed.
    pub(super) fn new_open(now: Instant, settings: &CircuitBreaker) -> Self {
        Self::Open { since: now, pause: settings.open_for.min(settings.max_open_for) }
    }

    pub(super) fn admit(&mut self, now: Instant, settings: &CircuitBreaker) -> Admission {
        match *self {
            Self::Closed => Admission::Ordinary,
            Self::Open { since, pause } => {
                // A reload may have shortened it since it opened.
                let pause = pause.min(settings.max_open_for);
                let left = pause.saturating_sub(now.saturating_duration_since(since));
                if !left.is_zero() {
                    return Admission::Refused(left);
                }
                *self = Self::HalfOpen { probes_in_flight: 1, successes: 0, last_pause: pause };
                Admission::FirstProbe
            }
            Self::HalfOpen { ref mut probes_in_flight, .. } if *probes_in_flight < settings.probes => {
                *probes_in_flight += 1;
                Admission::Probe
            }
            Self::HalfOpen { .. } => Admission::Refused(settings.open_for),
        }
    }

    /// Applies the result of a probe.
    pub(super) fn record_probe(
        &mut self,
        now: Instant,
        verdict: Verdict,
        settings: &CircuitBreaker,
    ) -> ProbeEffect {
        let Self::HalfOpen { probes_in_flight, successes, last_pause } = self else {
            return ProbeEffect::Unchanged;
        };
        *probes_in_flight = probes_in_flight.saturating_sub(1);
        match verdict {
            Verdict::Ignore => ProbeEffect::Unchanged,
            Verdict::Success if *successes + 1 < settings.probes => {
                *successes += 1;
                ProbeEffect::Unchanged
            }
            Verdict::Success => {
                *self = Self::Closed;
                ProbeEffect::Closed
            }
            Verdict::Failure => {
                let pause = last_pause.saturating_mul(2).max(settings.open_for).min(settings.max_open_for);
                *self = Self::Open { since: now, pause };
                ProbeEffect::Reopened
            }
        }
    }

    /// From open to half-open before the time; false in any other state.
    pub(super) fn half_open(&mut self) -> bool {
        let Self::Open { pause, .. } = *self else { return false };
        *self = Self::HalfOpen { probes_in_flight: 0, successes: 0, last_pause: pause };
        true
    }

    /// To half-open without a history; false when closed.
    pub(super) fn restart_half_open(&mut self) -> bool {
        if matches!(self, Self::Closed) {
            return false;
        }
        *self = Self::HalfOpen { probes_in_flight: 0, successes: 0, last_pause: Duration::ZERO };
        true
    }

    /// Frees the slot of a probe without a result.
    pub(super) fn release_probe(&mut self) {
        if let Self::HalfOpen { probes_in_flight, .. } = self {
            *probes_in_flight = probes_in_flight.saturating_sub(1);
        }
    }

    /// An open breaker is half-open when its time is over: the next request will be a probe.
    pub(super) fn state(&self, now: Instant, settings: &CircuitBreaker) -> BreakerState {
        match *self {
            Self::Closed => BreakerState::Closed,
            Self::HalfOpen { .. } => BreakerState::HalfOpen,
            Self::Open { since, pause }
                if now.saturating_duration_since(since) >= pause.min(settings.max_open_for) =>
            {
                BreakerState::HalfOpen
            }
            Self::Open { .. } => BreakerState::Open,
        }
    }
}
