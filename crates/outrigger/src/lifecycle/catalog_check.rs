//! Checks that the catalog lists the app, because the catalog may lack what the agent holds.
//!
//! Consul's agent tells the servers what it holds when that changes, and else compares the two every one or two
//! minutes. When the servers lose a node in between (all were stopped and came back without the node: the leader
//! reaps it), the apps of the node are unlisted for that long, while the agent holds them as before (seen on 1.8.7).
//! Registering again repairs it at once. This module sends the generation ([`GenerationSender`]) to
//! [`super::register_loop`].
//!
//! A list that never showed the app proves nothing: the token may not read it, or two nodes have the same id.

use std::{sync::Arc, time::Duration};

use outrigger_policy::backoff::Backoff;
use outrigger_registry::{Cursor, Error, Registrar, Registration};
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout},
};
use tracing::debug;

use super::{
    report::GenerationSender,
    self_lookup::{CatalogPresence, SelfLookup},
    status::{RegistrationPhase, RegistrationState},
};
use crate::telemetry::error_chain;

/// Longest wait of one query.
const MAX_QUERY_WAIT: Duration = Duration::from_secs(30);

/// Added to [`MAX_QUERY_WAIT`] before a query is given up. The time-out of the registry client is shorter.
const QUERY_TIMEOUT_MARGIN: Duration = Duration::from_secs(30);

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

/// Queries while there is a registration. Never returns: its task is aborted.
pub(super) async fn run(
    registrar: Arc<dyn Registrar>,
    registration: watch::Receiver<Registration>,
    state: RegistrationState,
    unlisted: GenerationSender,
) {
    let mut status = state.subscribe();
    // A registration that replaces this one in place has the same id and port.
    let mut lookup = SelfLookup::new(&registration.borrow());
    let (mut cursor, mut missing, mut failures, mut missing_after) = (Cursor::START, None, 0, MISSING_AFTER);
    loop {
        let Ok(generation) =
            status.wait_for(|now| now.phase == RegistrationPhase::Registered).await.map(|now| now.generation)
        else {
            return;
        };
        let own = registration.borrow().clone();
        let started = Instant::now();
        let pause = match query_presence(&*registrar, &own, &mut lookup, cursor).await {
            Ok((CatalogPresence::Removed, _)) => {
                let (since, of) = *missing.get_or_insert((Instant::now(), generation));
                if of != generation {
                    missing = None;
                } else if since.elapsed() >= missing_after {
                    missing = None;
                    unlisted.send_replace(generation);
                    missing_after = MAX_MISSING_AFTER.min(missing_after * 4);
                }
                (cursor, failures) = (Cursor::START, 0);
                // Soon after the time is due.
                let due = missing_after.saturating_sub(since.elapsed()).max(RECHECK_INTERVAL / 4);
                due.min(RECHECK_INTERVAL.max(missing_after / 8))
            }
            Ok((_, next)) => {
                (cursor, missing, failures, missing_after) = (next, None, 0, MISSING_AFTER);
                MIN_QUERY_INTERVAL.saturating_sub(started.elapsed())
            }
            Err(error) => {
                debug!(
                    id = own.id,
                    error = error_chain(&error),
                    "could not check whether the catalog lists the app"
                );
                (cursor, missing, failures) = (Cursor::START, None, failures + 1);
                let backoff = if is_refused(&error) { REFUSED_BACKOFF } else { RETRY_BACKOFF };
                backoff.pause(failures - 1, fastrand::u64(..))
            }
        };
        sleep(pause).await;
    }
}

/// How the app is listed, and the cursor of the next query.
async fn query_presence(
    registrar: &dyn Registrar,
    own: &Registration,
    lookup: &mut SelfLookup,
    cursor: Cursor,
) -> Result<(CatalogPresence, Cursor), Error> {
    let after = MAX_QUERY_WAIT + QUERY_TIMEOUT_MARGIN;
    let answer = timeout(after, registrar.catalog_entry(own, cursor, MAX_QUERY_WAIT)).await;
    let listed = answer.unwrap_or_else(|_| Err(Error::Timeout { request: "listed".into(), after }))?;
    let mut presence = lookup.find(&listed.instances);
    if presence == CatalogPresence::Removed {
        // The agent may have come back under another node name.
        let mut fresh = SelfLookup::new(own);
        let again = fresh.find(&listed.instances);
        if again != CatalogPresence::NeverListed {
            (*lookup, presence) = (fresh, again);
        }
    }
    Ok((presence, listed.cursor))
}

fn is_refused(error: &Error) -> bool {
    matches!(error, Error::Refused { status, .. } if *status < 500)
}

#[cfg(test)]
mod tests;
