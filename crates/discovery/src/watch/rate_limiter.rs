//! How soon the same question may be asked again. Pure: `now` is an argument.
//!
//! A blocking query limits its loop by itself only while the registry blocks. It does not when a
//! server is stopping (it answers at once, unchanged), when an index moves without a change (the
//! index of a name that Consul never knew follows every write), or when a service really changes all
//! the time. So questions take tokens from a bucket. It holds enough for the changes of a deploy, which come
//! together: whoever leaves is critical for a moment and then gone, and a caller that is held up in between
//! has seen nobody leave in order. After an answer that came early and brought nothing one is left. How fast
//! tokens come back depends on what the last answer was:
//!
//! | answer | a token comes back every | because |
//! |---|---|---|
//! | changed | 100 ms | a change should be in the table in milliseconds: up to ten a second, and twenty at once, nothing is held up |
//! | changed, and the question had been held up | twice the last, up to 1 s | more than ten a second: reading a large service that often costs the agent and us a core, and one read brings all changes since the last; 1 s is the most that a real change is late |
//! | unchanged, and early | 250 ms, then twice the last, up to 15 s | nothing is learned from them, so what they cost is what counts: 4 a minute at the end |
//! | unchanged, after a proper wait | 100 ms | the registry blocks as it should |
//!
//! Where an early answer may be a mistake that somebody mends, its pace has a lower end ([`RateLimiter::cap_interval`]).
//!
//! An interval, not a pause: what the registry took to answer counts.

use std::time::{Duration, Instant};

/// Tokens of a full bucket.
const BURST: u32 = 20;
/// What is left of them after an answer that brought nothing: the next question is never held up.
const TOKENS_AFTER_EARLY: u32 = 1;
const CHANGED_INTERVAL: Duration = Duration::from_millis(100);
const CHANGED_INTERVAL_MAX: Duration = Duration::from_secs(1);
const EARLY_INTERVAL: Duration = Duration::from_millis(250);
const EARLY_INTERVAL_MAX: Duration = Duration::from_secs(15);
/// An unchanged answer that took longer is never early, however long the wait was to be: a registry
/// with more watches than connections cuts waits down to 1 s, and that pace is its own choice.
const NEVER_EARLY_AFTER: Duration = Duration::from_millis(900);

/// What an answer brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AnswerKind {
    /// New content.
    Changed,
    /// Nothing, though the registry hardly waited.
    UnchangedEarly,
    /// Nothing, after a proper wait.
    Unchanged,
}

impl AnswerKind {
    /// `took`: from question to answer; `wait`: what was asked for.
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
    /// Since when the next token is coming.
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

    /// Takes a token: how long to wait before the question is asked.
    pub(crate) fn take_token(&mut self, now: Instant) -> Duration {
        self.refill(now);
        self.delayed = self.tokens == 0;
        if self.tokens > 0 {
            self.tokens -= 1;
            return Duration::ZERO;
        }
        // The coming token is spent when it comes; the one after it counts from there.
        self.refilled_at += self.interval;
        self.refilled_at.saturating_duration_since(now)
    }

    /// Sets the pace by the last answer.
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

    /// The next token comes within `longest`, whatever the last answer was.
    pub(crate) fn cap_interval(&mut self, longest: Duration) {
        self.interval = self.interval.min(longest);
    }

    fn refill(&mut self, now: Instant) {
        while self.tokens < BURST && now.saturating_duration_since(self.refilled_at) >= self.interval {
            self.tokens += 1;
            self.refilled_at += self.interval;
        }
        if self.tokens == BURST {
            self.refilled_at = now; // a full bucket saves nothing up
        }
    }
}

#[cfg(test)]
mod tests;
