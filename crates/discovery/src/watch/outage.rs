//! Says once that the registry is gone and once that it is back, for all watchers together: a
//! hundred watched services lose it at the same moment, and one line is enough. Whoever still backs off when
//! it is back is told.

use std::time::{Duration, Instant};

use outrigger_registry::Error;
use parking_lot::Mutex;
use tokio::sync::watch;

/// The return of a registry that was gone for less ends nobody's pause: pauses are short by then, and a
/// question that fails for reasons of its own must not be asked again with each answer to another.
const LONG_OUTAGE: Duration = Duration::from_secs(5);

/// Whom a failed question is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FailureScope {
    /// The registry as a whole: it is gone, mute, busy, without a leader, refuses our token, or one
    /// of its files is bad.
    Registry,
    /// This service alone: its answer cannot be read.
    Service,
}

impl FailureScope {
    pub(crate) fn of(error: &Error) -> Self {
        match error {
            Error::Connect { .. }
            | Error::Timeout { .. }
            | Error::Busy { .. }
            | Error::Exchange { .. }
            | Error::Refused { .. }
            | Error::File { .. } => Self::Registry,
            Error::Malformed { .. } | Error::TooLarge { .. } => Self::Service,
        }
    }
}

/// Whether the registry is gone, as far as any watcher knows.
#[derive(Debug, Default)]
pub(crate) struct OutageTracker {
    since: Mutex<Option<Instant>>,
    /// Rings when one ends that has lasted.
    ended: watch::Sender<()>,
}

impl OutageTracker {
    /// A question failed by [`FailureScope::Registry`]. Whether that is news.
    pub(crate) fn record_failure(&self, now: Instant) -> bool {
        let mut since = self.since.lock();
        let is_new = since.is_none();
        since.get_or_insert(now);
        is_new
    }

    /// A question of `asked_at` was answered: how long the registry was gone, if that ends an outage.
    /// One asked before the outage ends none: a stopping server answers what still waits.
    pub(crate) fn record_answer(&self, asked_at: Instant, now: Instant) -> Option<Duration> {
        let mut since = self.since.lock();
        let ended = since.take_if(|since| asked_at >= *since);
        let gone_for = ended.map(|since| now.saturating_duration_since(since));
        if gone_for >= Some(LONG_OUTAGE) {
            self.ended.send_replace(());
        }
        gone_for
    }

    /// Changes when an outage ends that has lasted.
    pub(crate) fn subscribe_end(&self) -> watch::Receiver<()> {
        self.ended.subscribe()
    }
}

#[cfg(test)]
mod tests;
