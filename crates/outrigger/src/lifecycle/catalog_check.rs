//! Whether callers find the app: what the agent holds may be missing from the catalog.
//!
//! Consul's agent tells the servers what it holds when that changes, and else compares the two every one or
//! two minutes. Servers that lose a node in between (all were stopped and came back not knowing it: the
//! leader reaps it) leave its apps unlisted for that long, while the agent says that all is well (seen on
//! 1.8.7). Registering again repairs it at once. This raises a [`Doubt`]; [`super::register`] acts on it.
//!
//! A list that never showed the app says nothing (the token may not read it, two nodes have the same id).

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

/// Longest wait of one question.
const MAX_QUERY_WAIT: Duration = Duration::from_secs(30);

/// Added to [`MAX_QUERY_WAIT`] before a question is given up: the registry's own time-out comes first.
const QUERY_TIMEOUT_MARGIN: Duration = Duration::from_secs(30);

/// Fewest time between two questions: every change of any instance of the service answers one.
const MIN_QUERY_INTERVAL: Duration = Duration::from_secs(2);

/// For how long it must be missing: longer than an agent that is told to stop stays after it has taken its node
/// out of the catalog (3.0 to 3.2 s, seen on 1.8.7), for who registers there comes back only to vanish again; and
/// less than the 10 s for which callers doubt the loss.
const MISSING_AFTER: Duration = Duration::from_secs(5);

/// After a registration that did not help it takes four times as long, up to this: then it is the list that
/// is wrong.
const MAX_MISSING_AFTER: Duration = Duration::from_secs(60);

/// Pause between two questions while it is missing.
const RECHECK_INTERVAL: Duration = Duration::from_secs(1);

/// Pauses after a question that nobody answered: a registry that is back is asked within two seconds.
const RETRY_BACKOFF: Backoff = Backoff { base: Duration::from_millis(250), max: Duration::from_secs(2) };

/// The same after one that was refused: by a token, or by a registry that has too much to do.
const REFUSED_BACKOFF: Backoff = Backoff { base: Duration::from_secs(1), max: Duration::from_secs(30) };

/// Looks for ever (its task is aborted), while there is a registration.
pub(super) async fn run(
    registrar: Arc<dyn Registrar>,
    registration: watch::Receiver<Registration>,
    state: RegistrationState,
    unlisted: GenerationSender,
) {
    let mut status = state.subscribe();
    // A registration that replaces it in place has its id and port.
    let mut lookup = SelfLookup::new(&registration.borrow());
    let (mut cursor, mut missing, mut failures, mut missing_after) = (Cursor::START, None, 0, MISSING_AFTER);
    loop {
        let Ok(generation) =
            status.wait_for(|now| now.phase == RegistrationPhase::Registered).await.map(|now| now.generation)
        else {
            return;
        };
        let own = registration.borrow().clone();
        let asked = Instant::now();
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
                // Not much later than it is due.
                let due = missing_after.saturating_sub(since.elapsed()).max(RECHECK_INTERVAL / 4);
                due.min(RECHECK_INTERVAL.max(missing_after / 8))
            }
            Ok((_, next)) => {
                (cursor, missing, failures, missing_after) = (next, None, 0, MISSING_AFTER);
                MIN_QUERY_INTERVAL.saturating_sub(asked.elapsed())
            }
            Err(error) => {
                debug!(
                    id = own.id,
                    error = error_chain(&error),
                    "could not look whether callers find the app"
                );
                (cursor, missing, failures) = (Cursor::START, None, failures + 1);
                let backoff = if is_refused(&error) { REFUSED_BACKOFF } else { RETRY_BACKOFF };
                backoff.pause(failures - 1, fastrand::u64(..))
            }
        };
        sleep(pause).await;
    }
}

/// How it is listed, and where to go on from.
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
        // It may be another one to the list: its agent has come back under another node's name.
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
