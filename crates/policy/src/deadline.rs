//! When the app's wait for a response head ends.
//!
//! `timeout` runs from the later of "head accepted" and "last byte of the request body": a slow upload is
//! not cut before the instance can respond, and an instance that has the whole request has the whole
//! time-out. A deadline, from the app or from the settings, is a cap that no body byte moves. It never
//! lengthens the time-out: a deadline that the app passes on from its own client must not override an
//! operator's setting.
//!
//! There is no timer here. The caller sleeps until [`Deadline::expires_at`], calls it again, and stops
//! only if the result is the same; that is one timer per request instead of one per chunk.

use std::time::{Duration, Instant};

/// When a request times out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deadline {
    accepted: Instant,
    timeout: Duration,
    cap: Option<Instant>,
}

/// What ends the wait.
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

    /// When the head was accepted.
    pub fn accepted(&self) -> Instant {
        self.accepted
    }

    /// The cap, which bounds attempts, pauses and the response body.
    pub fn cap(&self) -> Option<Instant> {
        self.cap
    }

    /// When the wait ends, and what ends it. `last_byte`: when the app sent the last byte of the request
    /// body, if any.
    pub fn expires_at(&self, last_byte: Option<Instant>) -> (Instant, TimeoutCause) {
        let started = last_byte.map_or(self.accepted, |last| last.max(self.accepted));
        let at = add_saturating(started, self.timeout);
        match self.cap {
            Some(cap) if cap < at => (cap, TimeoutCause::Deadline),
            _ => (at, TimeoutCause::Timeout),
        }
    }
}

/// `instant + duration`; a century from `instant` for a sum that no `Instant` can hold.
pub fn add_saturating(instant: Instant, duration: Duration) -> Instant {
    const CENTURY: Duration = Duration::from_secs(100 * 365 * 24 * 3600);
    instant.checked_add(duration).or_else(|| instant.checked_add(CENTURY)).unwrap_or(instant)
}
