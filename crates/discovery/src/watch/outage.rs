//! Detects once, for all watchers together, that the registry is gone and that it is back: a hundred
//! watchers lose it at the same moment, and one log line is enough. The return ends the back-off of
//! the other watchers.

use std::time::{Duration, Instant};

use outrigger_config::{error_chain, format_coarse_duration};
use outrigger_registry::{Error, Query};
use parking_lot::Mutex;
use tokio::sync::watch;
use tracing::warn;

use crate::clock::now;

/// The end of a shorter outage ends no back-off: back-offs are still short, and a query that fails for
/// its own reasons must not be repeated with each answer to another query.
const LONG_OUTAGE: Duration = Duration::from_secs(5);

/// What a failed query says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FailureScope {
    /// About the registry as a whole: it is gone, silent, busy or without a leader, refuses the token, or
    /// one of its files is bad.
    Registry,
    /// About this service only: the answer cannot be read.
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

/// Whether the registry is gone for any watcher.
#[derive(Debug, Default)]
pub(crate) struct OutageTracker {
    since: Mutex<Option<Instant>>,
    /// Notified when an outage of at least [`LONG_OUTAGE`] ends.
    ended: watch::Sender<()>,
}

impl OutageTracker {
    /// Records a failure of [`FailureScope::Registry`]. Returns whether an outage begins with it.
    pub(crate) fn record_failure(&self, now: Instant) -> bool {
        let mut since = self.since.lock();
        let is_new = since.is_none();
        since.get_or_insert(now);
        is_new
    }

    /// Records a failure of the registry as a whole, and logs the first one of an outage. `answered_ago`: the age of what is known
    /// of `service`, or of the last answer to any query. Returns whether it was logged.
    pub(crate) fn warn_of_failure(
        &self,
        error: &Error,
        answered_ago: Option<Duration>,
        service: Option<&Query>,
    ) -> bool {
        if !self.record_failure(now()) {
            return false;
        }
        let (error, service) = (error_chain(error), service.map(tracing::field::display));
        match answered_ago.map(format_coarse_duration) {
            Some(answered_ago) => {
                warn!(
                    service,
                    error,
                    answered_ago,
                    "the registry gives no usable answer, going on with its last answers"
                );
            }
            None => warn!(service, error, "the registry has given no usable answer since the start"),
        }
        true
    }

    /// Records an answer to a query of `asked_at`. Returns how long the registry was gone, if the answer
    /// ends an outage. An answer to a query from before the outage does not: a server that stops answers
    /// its pending queries.
    pub(crate) fn record_answer(&self, asked_at: Instant, now: Instant) -> Option<Duration> {
        let mut since = self.since.lock();
        let ended = since.take_if(|since| asked_at >= *since);
        let gone_for = ended.map(|since| now.saturating_duration_since(since));
        if gone_for >= Some(LONG_OUTAGE) {
            self.ended.send_replace(());
        }
        gone_for
    }

    /// Changes when an outage of at least [`LONG_OUTAGE`] ends.
    pub(crate) fn subscribe_end(&self) -> watch::Receiver<()> {
        self.ended.subscribe()
    }
}

#[cfg(test)]
mod tests;
