//! How soon the same question may be asked again. Pure: `now` is an argument.
//!
//! A blocking query limits its loop by itself only while the registry blocks. It does not when a
//! server is stopping (it answers at once, unchanged), when an index moves without a change (the
//! index of a name that Consul never knew follows every write), or when a service really changes all
//! the time. So questions take tokens from a bucket of two: the usual pair, one answer and the next
//! question, is never held up. How fast tokens come back depends on what the last answer was:
//!
//! | answer | a token comes back every | because |
//! |---|---|---|
//! | changed | 100 ms | a change should be in the table in milliseconds: up to ten a second nothing is held up |
//! | changed, and the question had been held up | twice the last, up to 1 s | more than ten a second: reading a large service that often costs the agent and us a core, and one read brings all changes since the last; 1 s is the most that a real change is late |
//! | unchanged, and early | 250 ms, then twice the last, up to 15 s | nothing is learned from them, so what they cost is what counts: 4 a minute at the end |
//! | unchanged, after a proper wait | 100 ms | the registry blocks as it should |
//!
//! An interval, not a pause: what the registry took to answer counts.

use std::time::{Duration, Instant};

const BURST: u32 = 2;
const CHANGED: Duration = Duration::from_millis(100);
const CHANGED_MAX: Duration = Duration::from_secs(1);
const EARLY: Duration = Duration::from_millis(250);
const EARLY_MAX: Duration = Duration::from_secs(15);
/// An unchanged answer that took longer is never early, however long the wait was to be: the
/// registry may cut waits, and one question in 5 s hurts nobody.
const PROPER: Duration = Duration::from_secs(5);

/// What an answer brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Brought {
    /// New content.
    Change,
    /// Nothing, though the registry hardly waited.
    NothingEarly,
    /// Nothing, after a proper wait.
    Nothing,
}

impl Brought {
    /// `took`: from question to answer; `wait`: what was asked for.
    pub(crate) fn of(changed: bool, took: Duration, wait: Duration) -> Self {
        if changed {
            Self::Change
        } else if took < (wait / 2).min(PROPER) {
            Self::NothingEarly
        } else {
            Self::Nothing
        }
    }
}

/// The bucket of one watch.
#[derive(Debug)]
pub(crate) struct Pacer {
    tokens: u32,
    /// Since when the next token is coming.
    since: Instant,
    interval: Duration,
    last: Brought,
    held_up: bool,
}

impl Pacer {
    /// A full bucket.
    pub(crate) fn new(now: Instant) -> Self {
        Self { tokens: BURST, since: now, interval: CHANGED, last: Brought::Nothing, held_up: false }
    }

    /// Takes a token: how long to wait before the question is asked.
    pub(crate) fn take(&mut self, now: Instant) -> Duration {
        self.refill(now);
        self.held_up = self.tokens == 0;
        if self.tokens > 0 {
            self.tokens -= 1;
            return Duration::ZERO;
        }
        // The coming token is spent when it comes; the one after it counts from there.
        self.since += self.interval;
        self.since.saturating_duration_since(now)
    }

    /// Sets the pace by the last answer.
    pub(crate) fn answered(&mut self, brought: Brought) {
        self.interval = match brought {
            Brought::Change if self.held_up && self.last == Brought::Change => {
                (self.interval * 2).min(CHANGED_MAX)
            }
            Brought::NothingEarly if self.last == Brought::NothingEarly => (self.interval * 2).min(EARLY_MAX),
            Brought::NothingEarly => EARLY,
            Brought::Change | Brought::Nothing => CHANGED,
        };
        self.last = brought;
    }

    fn refill(&mut self, now: Instant) {
        while self.tokens < BURST && now.saturating_duration_since(self.since) >= self.interval {
            self.tokens += 1;
            self.since += self.interval;
        }
        if self.tokens == BURST {
            self.since = now; // a full bucket saves nothing up
        }
    }
}
