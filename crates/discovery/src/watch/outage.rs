//! Detects once, for all watchers together, that the registry is gone and that it is back: a hundred
//! watchers lose it at the same moment, and one log line is enough. The return ends the back-off of
//! the other watchers.

use std::time::{Duration, Instant};

use outrigger_config::{error_chain, format_coarse_duration};
use outrigger_registry::{Error, Query};
use parking_lot::Mutex;
use tokio::sync::watch;
use tracing::warn;

use crate::{RegistryContact, clock::now};

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
            | Error::ConnectionLimit { .. }
            | Error::Exchange { .. }
            | Error::Refused { .. }
            | Error::File { .. } => Self::Registry,
            Error::Malformed { .. } | Error::TooLarge { .. } => Self::Service,
        }
    }
}

/// Whether the registry answers: what all queries of all services have found.
#[derive(Debug, Default)]
pub(crate) struct OutageTracker {
    contact: Mutex<Contact>,
    /// Notified when an outage of at least [`LONG_OUTAGE`] ends.
    ended: watch::Sender<()>,
}

#[derive(Debug, Default)]
struct Contact {
    /// When the last answer to any query came.
    answered_at: Option<Instant>,
    outage: Option<Outage>,
}

/// From the first failure of the registry as a whole until an answer to a later query.
#[derive(Debug)]
struct Outage {
    since: Instant,
    /// The last failure, with its causes.
    error: String,
}

impl OutageTracker {
    /// Records a failure of [`FailureScope::Registry`]. Returns whether an outage begins with it.
    fn record_failure(&self, error: String, now: Instant) -> bool {
        let mut contact = self.contact.lock();
        let is_new = contact.outage.is_none();
        let since = contact.outage.as_ref().map_or(now, |outage| outage.since);
        contact.outage = Some(Outage { since, error });
        is_new
    }

    /// Records a failure of the registry as a whole, and logs the first one of an outage. `service` is what was asked for, unless
    /// that was asked for its own sake. Returns whether it was logged.
    pub(crate) fn warn_of_failure(&self, error: &Error, service: Option<&Query>) -> bool {
        let (error, now) = (error_chain(error), now());
        if !self.record_failure(error.clone(), now) {
            return false;
        }
        let service = service.map(tracing::field::display);
        // Of the registry, not of `service`: a name that is new has no answer, and one from before a restart has an old one.
        match self.current(now).answered_ago.map(format_coarse_duration) {
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
        let mut contact = self.contact.lock();
        contact.answered_at = Some(now);
        let ended = contact.outage.take_if(|outage| asked_at >= outage.since);
        drop(contact);
        let gone_for = ended.map(|outage| now.saturating_duration_since(outage.since));
        if gone_for >= Some(LONG_OUTAGE) {
            self.ended.send_replace(());
        }
        gone_for
    }

    /// Records an answer that ends no outage: of a server that has lost the others.
    pub(crate) fn record_stale_answer(&self, now: Instant) {
        self.contact.lock().answered_at = Some(now);
    }

    /// What is known at `now`.
    pub(crate) fn current(&self, now: Instant) -> RegistryContact {
        let contact = self.contact.lock();
        RegistryContact {
            answered_ago: contact.answered_at.map(|at| now.saturating_duration_since(at)),
            error: contact.outage.as_ref().map(|outage| outage.error.clone()),
        }
    }

    /// Changes when an outage of at least [`LONG_OUTAGE`] ends.
    pub(crate) fn subscribe_end(&self) -> watch::Receiver<()> {
        self.ended.subscribe()
    }
}

#[cfg(test)]
mod tests;
