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
    report::Doubt,
    sight::{Seen, Sight},
    standing::{Board, Phase},
};
use crate::telemetry::error_chain;

/// Longest wait of one question.
const WAIT: Duration = Duration::from_secs(30);

/// Added to [`WAIT`] before a question is given up: the registry's own time-out comes first.
const MARGIN: Duration = Duration::from_secs(30);

/// Fewest time between two questions: every change of any instance of the service answers one.
const PACE: Duration = Duration::from_secs(2);

/// For how long it must be missing: longer than an agent that is told to stop stays after it has taken its node
/// out of the catalog (3.0 to 3.2 s, seen on 1.8.7), for who registers there comes back only to vanish again; and
/// less than the 10 s for which callers doubt the loss.
const MISSING: Duration = Duration::from_secs(5);

/// After a registration that did not help it takes four times as long, up to this: then it is the list that
/// is wrong.
const MOST: Duration = Duration::from_secs(60);

/// Pause between two questions while it is missing.
const RECHECK: Duration = Duration::from_secs(1);

/// Pauses after a question that nobody answered: a registry that is back is asked within two seconds.
const AGAIN: Backoff = Backoff { base: Duration::from_millis(250), max: Duration::from_secs(2) };

/// The same after one that was refused: by a token, or by a registry that has too much to do.
const REFUSED: Backoff = Backoff { base: Duration::from_secs(1), max: Duration::from_secs(30) };

/// Looks for ever (its task is aborted), while there is a registration.
pub(super) async fn run(
    registrar: Arc<dyn Registrar>,
    wanted: watch::Receiver<Registration>,
    board: Board,
    unlisted: Doubt,
) {
    let mut standing = board.subscribe();
    // A registration that replaces it in place has its id and port.
    let mut sight = Sight::of(&wanted.borrow());
    let (mut cursor, mut missing, mut failures, mut patience) = (Cursor::START, None, 0, MISSING);
    loop {
        let Ok(generation) =
            standing.wait_for(|now| now.phase == Phase::Registered).await.map(|now| now.generation)
        else {
            return;
        };
        let us = wanted.borrow().clone();
        let asked = Instant::now();
        let pause = match ask(&*registrar, &us, &mut sight, cursor).await {
            Ok((Seen::Gone, _)) => {
                let (since, of) = *missing.get_or_insert((Instant::now(), generation));
                if of != generation {
                    missing = None;
                } else if since.elapsed() >= patience {
                    missing = None;
                    unlisted.send_replace(generation);
                    patience = MOST.min(patience * 4);
                }
                (cursor, failures) = (Cursor::START, 0);
                // Not much later than it is due.
                let due = patience.saturating_sub(since.elapsed()).max(RECHECK / 4);
                due.min(RECHECK.max(patience / 8))
            }
            Ok((_, next)) => {
                (cursor, missing, failures, patience) = (next, None, 0, MISSING);
                PACE.saturating_sub(asked.elapsed())
            }
            Err(error) => {
                debug!(
                    id = us.id,
                    error = error_chain(&error),
                    "could not look whether callers find the app"
                );
                (cursor, missing, failures) = (Cursor::START, None, failures + 1);
                let backoff = if is_refused(&error) { REFUSED } else { AGAIN };
                backoff.pause(failures - 1, fastrand::u64(..))
            }
        };
        sleep(pause).await;
    }
}

/// How it is listed, and where to go on from.
async fn ask(
    registrar: &dyn Registrar,
    us: &Registration,
    sight: &mut Sight,
    cursor: Cursor,
) -> Result<(Seen, Cursor), Error> {
    let after = WAIT + MARGIN;
    let answer = timeout(after, registrar.catalog_entry(us, cursor, WAIT)).await;
    let listed = answer.unwrap_or_else(|_| Err(Error::Timeout { request: "listed".into(), after }))?;
    let mut seen = sight.look(&listed.instances);
    if seen == Seen::Gone {
        // It may be another one to the list: its agent has come back under another node's name.
        let mut anew = Sight::of(us);
        let again = anew.look(&listed.instances);
        if again != Seen::Never {
            (*sight, seen) = (anew, again);
        }
    }
    Ok((seen, listed.cursor))
}

fn is_refused(error: &Error) -> bool {
    matches!(error, Error::Refused { status, .. } if *status < 500)
}

#[cfg(test)]
#[path = "listed_tests.rs"]
mod tests;
