//! Detects once, for all watchers together, that the registry is gone and that it is back: a hundred
//! watchers lose it at the same moment, and one log line is enough. The return ends the back-off of
//! the other watchers.

use std::time::{Duration, Instant};

use outrigger_config::{error_chain, format_coarse_duration};
use outrigger_events::{Event, EventKind, Events};
use outrigger_registry::{Error, Query};
use parking_lot::Mutex;
use tokio::sync::watch;
use tracing::warn;

use crate::{RegistryContact, clock::now, services::OtherWatches};

/// The end of a shorter outage ends no back-off: back-offs are still short, and a query that fails for
/// its own reasons must not be repeated with each answer to another query.
const LONG_OUTAGE: Duration = Duration::from_secs(5);

/// Failures of one service for which the first answers of the others are waited for: about two seconds of back-off.
const PENDING_FAILURES: u32 = 5;

/// What a failed query says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FailureScope {
    /// About the registry as a whole: it is gone, silent or without a leader, does not know the token, or one of its files is
    /// bad; or it answers for no service.
    Registry,
    /// About this service only: it is refused, or another datacenter does not answer, while the registry answers for others.
    Service,
    /// About this service only: the answer cannot be read.
    Answer,
}

impl FailureScope {
    /// The scope of the `failures`th failure in a row of `query`. `others`: what the watches of all other services say. `None`:
    /// a later failure will tell, because the others may be failing at this moment too, or their first answers are due.
    pub(crate) fn of(error: &Error, query: &Query, failures: u32, others: OtherWatches) -> Option<Self> {
        match (error_scope(error, query), others) {
            (Some(scope), _) => Some(scope),
            (None, OtherWatches::None) => Some(Self::Registry),
            (None, _) if failures < 2 => None,
            (None, OtherWatches::Pending) if failures < PENDING_FAILURES => None,
            (None, OtherWatches::Answered) => Some(Self::Service),
            (None, OtherWatches::Pending | OtherWatches::Failing) => Some(Self::Registry),
        }
    }
}

/// What an error says by itself. `None`: it may be about one service or about all.
fn error_scope(error: &Error, query: &Query) -> Option<FailureScope> {
    // The local servers forward such a query: that they, or the other datacenter, give no answer to it says nothing about the
    // services of this one.
    let is_elsewhere = query.datacenter.is_some();
    match error {
        Error::Connect { .. } | Error::Exchange { .. } | Error::File { .. } => Some(FailureScope::Registry),
        Error::Timeout { .. } if !is_elsewhere => Some(FailureScope::Registry),
        error if error.is_unknown_token() || error.is_no_leader() && !is_elsewhere => {
            Some(FailureScope::Registry)
        }
        Error::Timeout { .. }
        | Error::Busy { .. }
        | Error::ConnectionLimit { .. }
        | Error::Refused { .. } => None,
        Error::Malformed { .. } | Error::TooLarge { .. } => Some(FailureScope::Answer),
    }
}

/// Whether the registry answers: what all queries of all services have found.
#[derive(Debug, Default)]
pub(crate) struct OutageTracker {
    events: Events,
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
    /// Records the beginning and the end of each outage in `events`.
    pub(crate) fn new(events: Events) -> Self {
        Self { events, ..Self::default() }
    }

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
        self.events.record(Event::new(EventKind::RegistryLost, &error));
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
        if let Some(gone_for) = gone_for.map(format_coarse_duration) {
            let reason = format!("it answers again after {gone_for}");
            self.events.record(Event::new(EventKind::RegistryBack, reason));
        }
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
