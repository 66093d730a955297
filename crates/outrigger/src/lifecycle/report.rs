//! Tells the registry how the app is: at once when that changes, and every 10 s to renew the check's
//! TTL.
//!
//! An agent without a leader stalls a report for 7 to 14 s (two rounds of 7). Measured on Consul 1.8.7:
//! the TTL's timer starts again when such a report *begins*, not when it is answered, so a report
//! that is under way or was given up has renewed the check; the next one follows at once.
//!
//! It is a task of its own, so that no other call to the agent (registering, looking, all of which
//! may stall for 7 s and more without a leader) delays the renewal. It never registers: when the
//! agent does not know the check it raises a [`Doubt`] and waits for [`super::register`].

use std::{sync::Arc, time::Duration};

use outrigger_policy::backoff::Backoff;
use outrigger_registry::{Error, Registrar, ReportedHealth};
use tokio::{
    sync::watch,
    time::{Instant, sleep_until, timeout},
};
use tracing::{info, warn};

use super::standing::{Board, Standing};
use crate::telemetry::error_chain;

/// Pause between two renewals: three fit into the TTL of [`super::identity::TTL`].
pub(crate) const RENEW: Duration = Duration::from_secs(10);

/// The check's output. Constant, because a changing output wakes every watcher of the service.
pub(crate) const OUTPUT: &str = "outrigger: reported by the sidecar";

/// The text that asks whether anybody renews a check: see [`super::orphans`].
pub(super) const KNOCK: &str = "outrigger: does anybody renew this?";

/// Longest wait for one call; the registry's own time-out comes first (Consul: 15 s).
const CALL: Duration = Duration::from_secs(20);

/// Pauses after a failed report: well within the TTL.
const AGAIN: Backoff = Backoff { base: Duration::from_millis(500), max: Duration::from_secs(5) };

/// The last generation of the registration that was doubted: the agent refused a report and may have
/// forgotten it, or callers do not find it. A doubt of a generation that was replaced meanwhile means nothing.
pub(crate) type Doubt = watch::Sender<u64>;

/// Reports for ever (its task is aborted), once there is a registration.
pub(crate) async fn run(
    registrar: Arc<dyn Registrar>,
    board: Board,
    mut health: watch::Receiver<Option<ReportedHealth>>,
    doubt: Doubt,
) {
    let mut standing = board.subscribe();
    let mut failures = 0;
    loop {
        let Some((id, generation)) = registration(&mut standing).await else { return };
        let Some(now) = *health.borrow_and_update() else {
            // Not probed yet: there is nothing true to say.
            if health.changed().await.is_err() {
                return;
            }
            continue;
        };
        let called = tokio::select! {
            called = call(&*registrar, &id, now) => called,
            // The news is told without waiting for an answer to what is no longer true.
            changed = health.changed() => if changed.is_ok() { continue } else { return },
        };
        let pause = match called {
            Ok(()) => {
                if failures > 0 {
                    info!(id, "the registry takes reports again");
                }
                failures = 0;
                board.told(generation, now);
                RENEW
            }
            Err(failure) => {
                if board.failed(failure.text.clone()) {
                    warn!(id, error = failure.text, "could not tell the registry how the app is");
                }
                if failure.refused {
                    doubt.send_replace(generation);
                }
                failures += 1;
                AGAIN.pause(failures - 1, fastrand::u64(..))
            }
        };
        let next = Instant::now() + pause;
        tokio::select! {
            () = sleep_until(next) => {}
            changed = health.changed() => if changed.is_err() { return },
            () = another(&mut standing, generation) => {}
        }
    }
}

/// The registration to report on; waits while there is none.
async fn registration(standing: &mut watch::Receiver<Standing>) -> Option<(String, u64)> {
    let standing = standing.wait_for(Standing::is_taken).await.ok()?;
    Some((standing.id.clone(), standing.generation))
}

/// Resolves once there is a registration newer than `generation`.
async fn another(standing: &mut watch::Receiver<Standing>, generation: u64) {
    if standing.wait_for(|standing| standing.generation > generation).await.is_err() {
        std::future::pending().await
    }
}

/// A report that did not arrive.
struct Failure {
    text: String,
    /// The agent answered, and does not want it: it may not know the check.
    refused: bool,
}

async fn call(registrar: &dyn Registrar, id: &str, health: ReportedHealth) -> Result<(), Failure> {
    match timeout(CALL, registrar.report(id, health, OUTPUT)).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(Failure { refused: may_be_forgotten(&error), text: error_chain(&error) }),
        Err(_) => Err(Failure { text: format!("no answer within {CALL:?}"), refused: false }),
    }
}

/// Every refusal but those that are about something else: agents differ in their words for a check
/// that they do not know.
fn may_be_forgotten(error: &Error) -> bool {
    match error {
        Error::Refused { status: 429, .. } => false,
        Error::Refused { .. } => !error.is_no_leader(),
        _ => false,
    }
}
