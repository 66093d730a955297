//! The breaker's life as a plain state machine: who may enter, and what a probe's end changes.

use std::time::{Duration, Instant};

use outrigger_config::CircuitBreaker;

use super::State;
use crate::outcome::Verdict;

/// Where a breaker is, with what only that state needs.
#[derive(Debug, Clone, Copy)]
pub(super) enum Life {
    Closed,
    Open {
        since: Instant,
        pause: Duration,
    },
    HalfOpen {
        /// Probes without a verdict so far.
        out: u32,
        successes: u32,
        /// How long it had been open: the next spell is twice as long. Zero: it is the first again.
        paused: Duration,
    },
}

/// How a request gets in.
pub(super) enum Entry {
    /// As every request.
    Free,
    /// As the probe that ends an open spell.
    FirstProbe,
    /// As another probe.
    Probe,
    /// Not at all, for so long.
    Refused(Duration),
}

/// What a probe's end has changed.
pub(super) enum Settled {
    Unchanged,
    Reopened,
    Closed,
}

impl Life {
    /// Open for the first time.
    pub(super) fn opened(now: Instant, settings: &CircuitBreaker) -> Self {
        Self::Open { since: now, pause: settings.open_for.min(settings.max_open_for) }
    }

    pub(super) fn enter(&mut self, now: Instant, settings: &CircuitBreaker) -> Entry {
        match *self {
            Self::Closed => Entry::Free,
            Self::Open { since, pause } => {
                let left = pause.saturating_sub(now.saturating_duration_since(since));
                if !left.is_zero() {
                    return Entry::Refused(left);
                }
                *self = Self::HalfOpen { out: 1, successes: 0, paused: pause };
                Entry::FirstProbe
            }
            Self::HalfOpen { ref mut out, .. } if *out < settings.probes => {
                *out += 1;
                Entry::Probe
            }
            Self::HalfOpen { .. } => Entry::Refused(settings.open_for),
        }
    }

    /// A probe ended with `verdict`.
    pub(super) fn settle(&mut self, now: Instant, verdict: Verdict, settings: &CircuitBreaker) -> Settled {
        let Self::HalfOpen { out, successes, paused } = self else { return Settled::Unchanged };
        *out = out.saturating_sub(1);
        match verdict {
            Verdict::Ignore => Settled::Unchanged,
            Verdict::Success if *successes + 1 < settings.probes => {
                *successes += 1;
                Settled::Unchanged
            }
            Verdict::Success => {
                *self = Self::Closed;
                Settled::Closed
            }
            Verdict::Failure => {
                let pause = paused.saturating_mul(2).max(settings.open_for).min(settings.max_open_for);
                *self = Self::Open { since: now, pause };
                Settled::Reopened
            }
        }
    }

    /// Ends an open spell before its time; false when there is none.
    pub(super) fn half_open(&mut self) -> bool {
        let Self::Open { pause, .. } = *self else { return false };
        *self = Self::HalfOpen { out: 0, successes: 0, paused: pause };
        true
    }

    /// An open spell lasts no longer than this any more.
    pub(super) fn shorten(&mut self, most: Duration) {
        if let Self::Open { pause, .. } = self {
            *pause = (*pause).min(most);
        }
    }

    /// Half-open as after no spell at all; false when it is closed.
    pub(super) fn begin_again(&mut self) -> bool {
        if matches!(self, Self::Closed) {
            return false;
        }
        *self = Self::HalfOpen { out: 0, successes: 0, paused: Duration::ZERO };
        true
    }

    /// A probe ended with nothing to say.
    pub(super) fn give_back(&mut self) {
        if let Self::HalfOpen { out, .. } = self {
            *out = out.saturating_sub(1);
        }
    }

    /// An open breaker whose time is over is half-open: the next request will be a probe.
    pub(super) fn state(&self, now: Instant) -> State {
        match *self {
            Self::Closed => State::Closed,
            Self::HalfOpen { .. } => State::HalfOpen,
            Self::Open { since, pause } if now.saturating_duration_since(since) >= pause => State::HalfOpen,
            Self::Open { .. } => State::Open,
        }
    }
}
