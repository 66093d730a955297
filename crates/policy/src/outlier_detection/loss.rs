//! Tells the loss of an instance from the loss of single connections.
//!
//! An instance that is killed loses all its connections at the same moment. That is one event, of the
//! instance: it must not count once for each request that was under way, as it would if the service closed
//! each of them by itself.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::{Duration, Instant},
};

/// The connections of one event are lost within this time. The system closes those of a process that has died
/// within milliseconds; the rest is for a sidecar that is busy.
const EVENT_TIME: Duration = Duration::from_secs(1);

/// The last event in which one endpoint lost connections.
#[derive(Debug)]
pub struct LossEvent {
    created_at: Instant,
    /// Microseconds from `created_at`, plus one, of its first loss; 0: none.
    began: AtomicU64,
}

impl LossEvent {
    /// An endpoint that has lost no connection.
    pub fn new(now: Instant) -> Self {
        Self { created_at: now, began: AtomicU64::new(0) }
    }

    /// Records that a connection was lost under a request that began at `begun`. True: it belongs to an event
    /// of which a loss was recorded before, that is, the request had begun when the event began, shortly ago.
    pub fn record(&self, begun: Instant, now: Instant) -> bool {
        let (begun, at) = (self.micros(begun), self.micros(now));
        let is_part = |began: u64| {
            began > 0 && begun <= began && u128::from(at.saturating_sub(began)) < EVENT_TIME.as_micros()
        };
        let next = |began: u64| (!is_part(began)).then_some(at);
        self.began.fetch_update(Relaxed, Relaxed, next).is_err()
    }

    fn micros(&self, at: Instant) -> u64 {
        let micros = at.saturating_duration_since(self.created_at).as_micros();
        u64::try_from(micros).unwrap_or(u64::MAX - 1) + 1
    }
}
