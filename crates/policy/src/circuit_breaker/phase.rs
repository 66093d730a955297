//! The breaker's state machine: which requests pass, and what the end of a probe changes.

use std::time::{Duration, Instant};

use outrigger_config::CircuitBreaker;

use super::slots::ProbeSlots;
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
#[derive(Debug, Clone)]
pub(super) enum Phase {
    Closed,
    Open {
        since: Instant,
        pause: Duration,
    },
    HalfOpen {
        /// Those of the probes without a verdict.
        slots: ProbeSlots,
        successes: u32,
        /// The last open time; the next one is twice as long. Zero: the next one is the shortest.
        last_pause: Duration,
    },
}

/// How a request is admitted.
pub(super) enum Admission {
    /// As any request.
    Ordinary,
    /// As the probe of this number that ends the open time.
    FirstProbe(u32),
    /// As a further probe.
    Probe(u32),
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
        match self {
            Self::Closed => Admission::Ordinary,
            Self::Open { since, pause } => {
                // A reload may have shortened it since it opened.
                let (since, pause) = (*since, (*pause).min(settings.max_open_for));
                let left = pause.saturating_sub(now.saturating_duration_since(since));
                if !left.is_zero() {
                    return Admission::Refused(left);
                }
                let mut slots = ProbeSlots::default();
                let taken = slots.take(settings.probes, now);
                *self = Self::HalfOpen { slots, successes: 0, last_pause: pause };
                taken.map_or_else(Admission::Refused, Admission::FirstProbe)
            }
            Self::HalfOpen { slots, .. } => {
                slots.take(settings.probes, now).map_or_else(Admission::Refused, Admission::Probe)
            }
        }
    }

    /// How long [`Phase::admit`] would refuse a request. `None`: it would not.
    pub(super) fn refusal(&self, now: Instant, settings: &CircuitBreaker) -> Option<Duration> {
        match self.clone().admit(now, settings) {
            Admission::Refused(left) => Some(left),
            Admission::Ordinary | Admission::FirstProbe(_) | Admission::Probe(_) => None,
        }
    }

    /// Applies the result of a probe.
    ///
    /// Where its slot has passed on, a success is as good as another one: the service answers now. A failure
    /// counts only while no other probe has succeeded.
    pub(super) fn record_probe(
        &mut self,
        number: u32,
        now: Instant,
        verdict: Verdict,
        settings: &CircuitBreaker,
    ) -> ProbeEffect {
        let Self::HalfOpen { slots, successes, last_pause } = self else {
            return ProbeEffect::Unchanged;
        };
        let held_slot = slots.free(number);
        match verdict {
            Verdict::Ignore => ProbeEffect::Unchanged,
            Verdict::Failure if !held_slot && *successes > 0 => ProbeEffect::Unchanged,
            Verdict::Success if *successes + 1 < settings.probes => {
                *successes += 1;
                slots.record_success();
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
        *self = Self::HalfOpen { slots: ProbeSlots::default(), successes: 0, last_pause: pause };
        true
    }

    /// To half-open without a history; false when closed.
    pub(super) fn restart_half_open(&mut self) -> bool {
        if matches!(self, Self::Closed) {
            return false;
        }
        *self = Self::HalfOpen { slots: ProbeSlots::default(), successes: 0, last_pause: Duration::ZERO };
        true
    }

    /// Frees the slot of a probe without a result.
    pub(super) fn release_probe(&mut self, number: u32) {
        if let Self::HalfOpen { slots, .. } = self {
            slots.free(number);
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
