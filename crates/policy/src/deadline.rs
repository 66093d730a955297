//! Until when the app may be kept waiting for a response head.
//!
//! `timeout` runs from the later of "head accepted" and "last byte of the request body", so a slow
//! upload is never cut because the instance had no chance to answer yet, and an instance that was
//! given everything has the whole time-out. A deadline, where the app sent one or the service's settings
//! have one, is a cap that no body byte moves. It never lengthens the time-out: what an app passes on
//! from its own caller must not undo what an operator has set for one service.
//!
//! It starts no timer. A waiter sleeps until [`Deadline::expires_at`], asks again, and gives up only if the
//! answer has not moved; that costs one timer per request instead of one per chunk.

use std::time::{Duration, Instant};

/// The moment after which a request is answered with a time-out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deadline {
    accepted: Instant,
    timeout: Duration,
    cap: Option<Instant>,
}

/// Which of the two ends the wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimeoutCause {
    /// The service's `timeout`.
    Timeout,
    /// The cap.
    Deadline,
}

impl Deadline {
    /// A deadline `timeout` after the head was accepted.
    pub fn new(head_accepted: Instant, timeout: Duration) -> Self {
        Self { accepted: head_accepted, timeout, cap: None }
    }

    /// The same, never later than `cap`. `None` changes nothing.
    #[must_use]
    pub fn capped(mut self, cap: Option<Instant>) -> Self {
        self.cap = match (self.cap, cap) {
            (Some(before), Some(cap)) => Some(before.min(cap)),
            (before, cap) => before.or(cap),
        };
        self
    }

    /// The cap, which bounds everything: attempts, pauses and the answer's body.
    pub fn cap(&self) -> Option<Instant> {
        self.cap
    }

    /// When the wait ends, as things stand, and by what. `last_byte` is when the last byte of
    /// the request body came from the app, if one did.
    pub fn expires_at(&self, last_byte: Option<Instant>) -> (Instant, TimeoutCause) {
        let started = last_byte.map_or(self.accepted, |last| last.max(self.accepted));
        let at = add_saturating(started, self.timeout);
        match self.cap {
            Some(cap) if cap < at => (cap, TimeoutCause::Deadline),
            _ => (at, TimeoutCause::Timeout),
        }
    }
}

/// `instant + duration`, and for a sum that no `Instant` can hold a moment that nobody will see.
pub fn add_saturating(instant: Instant, duration: Duration) -> Instant {
    const CENTURY: Duration = Duration::from_secs(100 * 365 * 24 * 3600);
    instant.checked_add(duration).or_else(|| instant.checked_add(CENTURY)).unwrap_or(instant)
}
