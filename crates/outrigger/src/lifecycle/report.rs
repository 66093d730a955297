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

use super::status::{RegistrationState, RegistrationStatus};
use crate::telemetry::error_chain;

/// Pause between two renewals: three fit into the TTL of [`super::identity::TTL`].
pub(crate) const RENEW_INTERVAL: Duration = Duration::from_secs(10);

/// The check's output. Constant, because a changing output wakes every watcher of the service.
pub(crate) const CHECK_OUTPUT: &str = "outrigger: reported by the sidecar";

/// The text that asks whether anybody renews a check: see [`super::orphans`].
pub(super) const LIVENESS_CHALLENGE: &str = "outrigger: does anybody renew this?";

/// Longest wait for one call; the registry's own time-out comes first (Consul: 15 s).
const REPORT_TIMEOUT: Duration = Duration::from_secs(20);

/// Pauses after a failed report: well within the TTL.
const RETRY_BACKOFF: Backoff = Backoff { base: Duration::from_millis(500), max: Duration::from_secs(5) };

/// The last generation of the registration that was doubted: the agent refused a report and may have
/// forgotten it, or callers do not find it. A doubt of a generation that was replaced meanwhile means nothing.
pub(crate) type GenerationSender = watch::Sender<u64>;

/// Reports for ever (its task is aborted), once there is a registration.
pub(crate) async fn run(
    registrar: Arc<dyn Registrar>,
    state: RegistrationState,
    mut health: watch::Receiver<Option<ReportedHealth>>,
    refused_generation: GenerationSender,
) {
    let mut status = state.subscribe();
    let mut failures = 0;
    loop {
        let Some((id, generation)) = wait_for_registration(&mut status).await else { return };
        let Some(now) = *health.borrow_and_update() else {
            // Not probed yet: there is nothing true to say.
            if health.changed().await.is_err() {
                return;
            }
            continue;
        };
        let result = tokio::select! {
            result = send_report(&*registrar, &id, now) => result,
            // The news is told without waiting for an answer to what is no longer true.
            changed = health.changed() => if changed.is_ok() { continue } else { return },
        };
        let pause = match result {
            Ok(()) => {
                if failures > 0 {
                    info!(id, "the registry takes reports again");
                }
                failures = 0;
                state.record_reported(generation, now);
                RENEW_INTERVAL
            }
            Err(failure) => {
                if state.record_failure(failure.text.clone()) {
                    warn!(id, error = failure.text, "could not tell the registry how the app is");
                }
                if failure.refused {
                    refused_generation.send_replace(generation);
                }
                failures += 1;
                RETRY_BACKOFF.pause(failures - 1, fastrand::u64(..))
            }
        };
        let next = Instant::now() + pause;
        tokio::select! {
            () = sleep_until(next) => {}
            changed = health.changed() => if changed.is_err() { return },
            () = wait_for_newer(&mut status, generation) => {}
        }
    }
}

/// The registration to report on; waits while there is none.
async fn wait_for_registration(status: &mut watch::Receiver<RegistrationStatus>) -> Option<(String, u64)> {
    let status = status.wait_for(RegistrationStatus::is_accepted).await.ok()?;
    Some((status.id.clone(), status.generation))
}

/// Resolves once there is a registration newer than `generation`.
async fn wait_for_newer(status: &mut watch::Receiver<RegistrationStatus>, generation: u64) {
    if status.wait_for(|status| status.generation > generation).await.is_err() {
        std::future::pending().await
    }
}

/// A report that did not arrive.
struct ReportError {
    text: String,
    /// The agent answered, and does not want it: it may not know the check.
    refused: bool,
}

async fn send_report(registrar: &dyn Registrar, id: &str, health: ReportedHealth) -> Result<(), ReportError> {
    match timeout(REPORT_TIMEOUT, registrar.report(id, health, CHECK_OUTPUT)).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(ReportError { refused: may_be_forgotten(&error), text: error_chain(&error) }),
        Err(_) => Err(ReportError { text: format!("no answer within {REPORT_TIMEOUT:?}"), refused: false }),
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
