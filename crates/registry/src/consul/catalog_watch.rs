//! Watches that the catalog lists the app, because the catalog may lack what the agent holds.
//!
//! Consul's agent tells the servers what it holds when that changes, and else compares the two every one or two
//! minutes. When the servers lose a node in between (all were stopped and came back without the node: the leader
//! reaps it), the apps of the node are unlisted for that long, while the agent holds them as before (seen on 1.8.7).
//! Registering again repairs it at once.
//!
//! A list that never showed the app proves nothing: the token may not read it, or two nodes have the same id.

use std::{sync::Arc, time::Duration};

use outrigger_config::error_chain;
use outrigger_policy::backoff::Backoff;
use tokio::time::{Instant, sleep_until};
use tracing::debug;

use super::agent_api::AgentApi;
use crate::{AnswerFuture, CatalogPresence, Cursor, Error, Instance, Registration, SelfLookup, WatchAnswer};

/// Longest wait of one query.
const MAX_QUERY_WAIT: Duration = Duration::from_secs(30);

/// Least time between two queries, because every change of any instance of the service answers one.
const MIN_QUERY_INTERVAL: Duration = Duration::from_secs(2);

/// How long the app must be missing. Longer than an agent that stops stays after it has removed its node from the
/// catalog (3.0 to 3.2 s, seen on 1.8.7), because an app that registers there would vanish again; less than the 10 s
/// for which callers keep a lost instance.
const MISSING_AFTER: Duration = Duration::from_secs(5);

/// Each registration that did not help makes the time four times as long, up to this, because then the list is
/// wrong.
const MAX_MISSING_AFTER: Duration = Duration::from_secs(60);

/// Pause between two queries while the app is missing.
const RECHECK_INTERVAL: Duration = Duration::from_secs(1);

/// Pauses after a failed query, so that a restarted registry is queried within two seconds.
const RETRY_BACKOFF: Backoff = Backoff { base: Duration::from_millis(250), max: Duration::from_secs(2) };

/// The same after a refused query (token, or rate limit).
const REFUSED_BACKOFF: Backoff = Backoff { base: Duration::from_secs(1), max: Duration::from_secs(30) };

/// What is known of the app's entry in the catalog.
pub(super) struct CatalogWatch {
    /// A registration that replaces another one in place has the same id and port.
    lookup: Option<SelfLookup>,
    cursor: Cursor,
    missing_since: Option<Instant>,
    missing_after: Duration,
    failures: u32,
    /// Absent: now.
    next_query: Option<Instant>,
    /// The query that waits, and its begin. It outlasts a question about the agent, because Consul goes on answering a
    /// query that was given up.
    query: Option<(Instant, AnswerFuture<'static, WatchAnswer>)>,
}

impl Default for CatalogWatch {
    fn default() -> Self {
        Self {
            lookup: None,
            cursor: Cursor::START,
            missing_since: None,
            missing_after: MISSING_AFTER,
            failures: 0,
            next_query: None,
            query: None,
        }
    }
}

impl CatalogWatch {
    /// The app was registered again, so it has its time to appear.
    pub(super) fn begin_anew(&mut self) {
        self.missing_since = None;
    }

    /// Resolves when the app has been missing for too long. Dropping the future loses nothing.
    pub(super) async fn wait_until_unlisted<A: AgentApi>(&mut self, agent: &Arc<A>, own: &Registration) {
        loop {
            if let Some(at) = self.next_query {
                sleep_until(at).await;
            }
            let cursor = self.cursor;
            let (began, query) = self.query.get_or_insert_with(|| {
                let (agent, own) = (agent.clone(), own.clone());
                let query = async move { agent.catalog_entry(&own, cursor, MAX_QUERY_WAIT).await };
                (Instant::now(), Box::pin(query))
            });
            let (answer, took) = (query.await, began.elapsed());
            self.query = None;
            let (is_unlisted, pause) = match answer {
                Ok(answer) => self.record_answer(&answer, own, took),
                Err(error) => (false, self.record_failure(&error, own)),
            };
            self.next_query = Some(Instant::now() + pause);
            if is_unlisted {
                return;
            }
        }
    }

    /// Whether the app has been missing for too long, and the pause before the next query.
    fn record_answer(
        &mut self,
        answer: &WatchAnswer,
        own: &Registration,
        took: Duration,
    ) -> (bool, Duration) {
        self.failures = 0;
        if self.find(&answer.instances, own) != CatalogPresence::Removed {
            (self.cursor, self.missing_since, self.missing_after) = (answer.cursor, None, MISSING_AFTER);
            return (false, MIN_QUERY_INTERVAL.saturating_sub(took));
        }
        self.cursor = Cursor::START;
        let missing = self.missing_since.get_or_insert_with(Instant::now).elapsed();
        let is_unlisted = missing >= self.missing_after;
        if is_unlisted {
            self.missing_since = None;
            self.missing_after = MAX_MISSING_AFTER.min(self.missing_after * 4);
        }
        // Soon after the time is due.
        let due = self.missing_after.saturating_sub(missing).max(RECHECK_INTERVAL / 4);
        (is_unlisted, due.min(RECHECK_INTERVAL.max(self.missing_after / 8)))
    }

    /// The pause before the next query.
    fn record_failure(&mut self, error: &Error, own: &Registration) -> Duration {
        debug!(id = own.id, error = error_chain(error), "could not check whether the catalog lists the app");
        let is_refused = matches!(error, Error::Refused { status, .. } if *status < 500);
        let backoff = if is_refused { REFUSED_BACKOFF } else { RETRY_BACKOFF };
        let pause = backoff.pause(self.failures, fastrand::u64(..));
        (self.cursor, self.missing_since, self.failures) = (Cursor::START, None, self.failures + 1);
        pause
    }

    fn find(&mut self, instances: &[Instance], own: &Registration) -> CatalogPresence {
        let lookup = self.lookup.get_or_insert_with(|| SelfLookup::new(own));
        let presence = lookup.find(instances);
        if presence == CatalogPresence::Removed {
            // The agent may have come back under another node name.
            let mut fresh = SelfLookup::new(own);
            let again = fresh.find(instances);
            if again != CatalogPresence::NeverListed {
                *lookup = fresh;
                return again;
            }
        }
        presence
    }
}
