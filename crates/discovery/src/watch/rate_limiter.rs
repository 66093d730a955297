//! Limits how often the registry is asked for one service. Pure: `now` is an argument.
//!
//! A blocking query limits its loop only while the registry blocks. The registry does not block when a
//! server stops (it answers at once, unchanged), when an index moves without a change (the index of a
//! name that Consul never knew follows every write), or when a service changes all the time. Each query
//! therefore takes a token from a bucket. A full bucket covers the changes of a deploy, which come
//! together: an instance that leaves is critical for a moment and then gone, and a watch that is delayed
//! in between misses the critical state. An early unchanged answer leaves one token. The refill interval
//! depends on the last answer:
//!
//! | answer | one token every | because |
//! |---|---|---|
//! | changed | 100 ms | a change should be known within milliseconds: up to ten a second, and twenty at once, are not delayed |
//! | changed, and the query was delayed | twice the last interval, up to 1 s | more than ten changes a second: reading a large service that often costs the agent and this process a core each, and one read returns all changes since the last; a real change is at most 1 s late |
//! | unchanged, and early | 250 ms, then twice the last interval, up to 15 s | these answers say nothing new, so only their cost counts: 4 a minute at the end |
//! | unchanged, after a proper wait | 100 ms | the registry blocks as it should |
//!
//! [`RateLimiter::cap_interval`] limits the interval while an unchanged answer may be a mistake that will
//! be corrected.
//!
//! These are intervals, not pauses: the time that the registry takes to answer is part of them.

use std::time::{Duration, Instant};

/// Tokens of a full bucket.
const BURST: u32 = 20;
/// Tokens that are left after an early answer: the next query is never delayed.
const TOKENS_AFTER_EARLY: u32 = 1;
const CHANGED_INTERVAL: Duration = Duration::from_millis(100);
const CHANGED_INTERVAL_MAX: Duration = Duration::from_secs(1);
const EARLY_INTERVAL: Duration = Duration::from_millis(250);
const EARLY_INTERVAL_MAX: Duration = Duration::from_secs(15);
/// An unchanged answer that took longer is never early, whatever wait was asked for: a registry with more
/// watches than connections shortens waits to 1 s on purpose.
const NEVER_EARLY_AFTER: Duration = Duration::from_millis(900);

/// What an answer is to the rate limiter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AnswerKind {
    Changed,
    /// Unchanged, although the registry hardly waited.
    UnchangedEarly,
    /// Unchanged, after a proper wait.
    Unchanged,
}

impl AnswerKind {
    /// `took`: from query to answer; `wait`: the wait that was asked for.
    pub(crate) fn of(changed: bool, took: Duration, wait: Duration) -> Self {
        if changed {
            Self::Changed
        } else if took < (wait / 2).min(NEVER_EARLY_AFTER) {
            Self::UnchangedEarly
        } else {
            Self::Unchanged
        }
    }
}

/// The bucket of one watch.
#[derive(Debug)]
pub(crate) struct RateLimiter {
    tokens: u32,
    /// Start of the interval after which the next token is added.
    refilled_at: Instant,
    interval: Duration,
    last_kind: AnswerKind,
    delayed: bool,
}

impl RateLimiter {
    /// A full bucket.
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            tokens: BURST,
            refilled_at: now,
            interval: CHANGED_INTERVAL,
            last_kind: AnswerKind::Unchanged,
            delayed: false,
        }
    }

    /// Takes a token. Returns how long to wait before the query.
    pub(crate) fn take_token(&mut self, now: Instant) -> Duration {
        self.refill(now);
        self.delayed = self.tokens == 0;
        if self.tokens > 0 {
            self.tokens -= 1;
            return Duration::ZERO;
        }
        // Spends the next token in advance; the interval of the one after it starts when it is due.
        self.refilled_at += self.interval;
        self.refilled_at.saturating_duration_since(now)
    }

    /// Sets the refill interval by the last answer.
    pub(crate) fn record_answer(&mut self, kind: AnswerKind) {
        self.interval = match kind {
            AnswerKind::Changed if self.delayed && self.last_kind == AnswerKind::Changed => {
                (self.interval * 2).min(CHANGED_INTERVAL_MAX)
            }
            AnswerKind::UnchangedEarly if self.last_kind == AnswerKind::UnchangedEarly => {
                (self.interval * 2).min(EARLY_INTERVAL_MAX)
            }
            AnswerKind::UnchangedEarly => EARLY_INTERVAL,
            AnswerKind::Changed | AnswerKind::Unchanged => CHANGED_INTERVAL,
        };
        if kind == AnswerKind::UnchangedEarly {
            self.tokens = self.tokens.min(TOKENS_AFTER_EARLY);
        }
        self.last_kind = kind;
    }

    /// Limits the refill interval to `longest`, whatever the last answer was.
    pub(crate) fn cap_interval(&mut self, longest: Duration) {
        self.interval = self.interval.min(longest);
    }

    fn refill(&mut self, now: Instant) {
        while self.tokens < BURST && now.saturating_duration_since(self.refilled_at) >= self.interval {
            self.tokens += 1;
            self.refilled_at += self.interval;
        }
        if self.tokens == BURST {
            self.refilled_at = now; // a full bucket gains nothing
        }
    }
}

#[cfg(test)]
mod tests;
