//! The breaker's life as a plain state machine: who may enter, and what a probe's end changes.

use std::time::{Duration, Instant};

use outrigger_config::CircuitBreaker;

use super::BreakerState;
use crate::outcome::Verdict;

/// Where a breaker is, with what only that state needs.
#[derive(Debug, Clone, Copy)]
pub(super) enum Phase {
    Closed,
    Open {
        since: Instant,
        pause: Duration,
    },
    HalfOpen {
        /// Probes without a verdict so far.
        probes_in_flight: u32,
        successes: u32,
        /// How long it had been open: the next spell is twice as long. Zero: it is the first again.
        last_pause: Duration,
    },
}

/// How a request gets in.
pub(super) enum Admission {
    /// As every request.
    Ordinary,
    /// As the probe that ends an open spell.
    FirstProbe,
    /// As another probe.
    Probe,
    /// Not at all, for so long.
    Refused(Duration),
}

/// What a probe's end has changed.
pub(super) enum ProbeEffect {
    Unchanged,
    Reopened,
    Closed,
}

impl Phase {
    /// Open for the first time.
    pub(super) fn new_open(now: Instant, settings: &CircuitBreaker) -> Self {
        Self::Open { since: now, pause: settings.open_for.min(settings.max_open_for) }
    }

    pub(super) fn admit(&mut self, now: Instant, settings: &CircuitBreaker) -> Admission {
        match *self {
            Self::Closed => Admission::Ordinary,
            Self::Open { since, pause } => {
                let left = pause.saturating_sub(now.saturating_duration_since(since));
                if !left.is_zero() {
                    return Admission::Refused(left);
                }
                *self = Self::HalfOpen { probes_in_flight: 1, successes: 0, last_pause: pause };
                Admission::FirstProbe
            }
            Self::HalfOpen { probes_in_flight: ref mut out, .. } if *out < settings.probes => {
                *out += 1;
                Admission::Probe
            }
            Self::HalfOpen { .. } => Admission::Refused(settings.open_for),
        }
    }

    /// A probe ended with `verdict`.
    pub(super) fn record_probe(
        &mut self,
        now: Instant,
        verdict: Verdict,
        settings: &CircuitBreaker,
    ) -> ProbeEffect {
        let Self::HalfOpen { probes_in_flight: out, successes, last_pause: paused } = self else {
            return ProbeEffect::Unchanged;
        };
        *out = out.saturating_sub(1);
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
                let pause = paused.saturating_mul(2).max(settings.open_for).min(settings.max_open_for);
                *self = Self::Open { since: now, pause };
                ProbeEffect::Reopened
            }
        }
    }

    /// Ends an open spell before its time; false when there is none.
    pub(super) fn half_open(&mut self) -> bool {
        let Self::Open { pause, .. } = *self else { return false };
        *self = Self::HalfOpen { probes_in_flight: 0, successes: 0, last_pause: pause };
        true
    }

    /// An open spell lasts no longer than this any more.
    pub(super) fn limit_pause(&mut self, max: Duration) {
        if let Self::Open { pause, .. } = self {
            *pause = (*pause).min(max);
        }
    }

    /// Half-open as after no spell at all; false when it is closed.
    pub(super) fn restart_half_open(&mut self) -> bool {
        if matches!(self, Self::Closed) {
            return false;
        }
        *self = Self::HalfOpen { probes_in_flight: 0, successes: 0, last_pause: Duration::ZERO };
        true
    }

    /// A probe ended with nothing to say.
    pub(super) fn release_probe(&mut self) {
        if let Self::HalfOpen { probes_in_flight: out, .. } = self {
            *out = out.saturating_sub(1);
        }
    }

    /// An open breaker whose time is over is half-open: the next request will be a probe.
    pub(super) fn state(&self, now: Instant) -> BreakerState {
        match *self {
            Self::Closed => BreakerState::Closed,
            Self::HalfOpen { .. } => BreakerState::HalfOpen,
            Self::Open { since, pause } if now.saturating_duration_since(since) >= pause => {
                BreakerState::HalfOpen
            }
            Self::Open { .. } => BreakerState::Open,
        }
    }
}
