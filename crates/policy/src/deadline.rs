//! Until when the app may be kept waiting for a response head.
//!
//! `timeout` runs from the later of "head accepted" and "last byte of the request body", so a slow
//! upload is never cut because the instance had no chance to answer yet, and an instance that was
//! given everything has the whole time-out. The app's own deadline, where it sent one, is a cap that
//! no body byte moves.
//!
//! It starts no timer. A waiter sleeps until [`Deadline::at`], asks again, and gives up only if the
//! answer has not moved; that costs one timer per request instead of one per chunk.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::{Duration, Instant},
};

/// The moment after which a request is answered with a time-out.
///
/// It can be shared between the task that forwards and the one that reads the body: moving it is one
/// atomic maximum.
#[derive(Debug)]
pub struct Deadline {
    accepted: Instant,
    /// Nanoseconds from `accepted` to the last byte of the body that was seen.
    body: AtomicU64,
    timeout: Duration,
    cap: Option<Instant>,
}

impl Deadline {
    /// A deadline `timeout` after the head was accepted.
    pub fn new(head_accepted: Instant, timeout: Duration) -> Self {
        Self { accepted: head_accepted, body: AtomicU64::new(0), timeout, cap: None }
    }

    /// The same, never later than the app's own deadline. `None` changes nothing.
    #[must_use]
    pub fn capped(mut self, cap: Option<Instant>) -> Self {
        self.cap = match (self.cap, cap) {
            (Some(before), Some(cap)) => Some(before.min(cap)),
            (before, cap) => before.or(cap),
        };
        self
    }

    /// A byte of the request body came from the app at `now`: the time-out starts over.
    pub fn body_byte(&self, now: Instant) {
        let since = now.saturating_duration_since(self.accepted).as_nanos();
        self.body.fetch_max(u64::try_from(since).unwrap_or(u64::MAX), Relaxed);
    }

    /// When the wait ends, as things stand.
    pub fn at(&self) -> Instant {
        let started = later(self.accepted, Duration::from_nanos(self.body.load(Relaxed)));
        let at = later(started, self.timeout);
        self.cap.map_or(at, |cap| at.min(cap))
    }

    /// What is left at `now`; nothing once it has passed.
    pub fn left(&self, now: Instant) -> Duration {
        self.at().saturating_duration_since(now)
    }
}

/// `instant + duration`, and for a sum that no `Instant` can hold a moment that nobody will see.
fn later(instant: Instant, duration: Duration) -> Instant {
    const CENTURY: Duration = Duration::from_secs(100 * 365 * 24 * 3600);
    instant.checked_add(duration).or_else(|| instant.checked_add(CENTURY)).unwrap_or(instant)
}
