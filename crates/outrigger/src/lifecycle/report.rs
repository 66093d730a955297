//! Reports the app's health to the registry: at once when it changes, and every 10 s to renew the check's TTL.
//!
//! An agent without a leader stalls a report for 7 to 14 s (two rounds of 7). Measured on Consul 1.8.7:
//! the TTL's timer starts again when such a report *begins*, not when it is answered. So a report in flight, and
//! one that was given up, has renewed the check; the next one follows at once.
//!
//! The reports have their own task, so that no other call to the agent delays them: each call may stall for 7 s
//! and more without a leader. The task never registers: when the agent does not know the check, the task sends the
//! generation ([`GenerationSender`]) and waits for [`super::register_loop`].

use std::{sync::Arc, time::Duration};

use outrigger_policy::backoff::Backoff;
use outrigger_registry::{Error, Registrar, ReportedHealth};
use tokio::{sync::watch, time::sleep};
use tracing::{info, warn};

use super::{
    agent_calls::with_timeout,
    status::{RegistrationState, RegistrationStatus},
};

/// Pause between two renewals: three fit into the TTL of [`super::identity::TTL`].
pub(super) const RENEW_INTERVAL: Duration = Duration::from_secs(10);

/// The check's output. Constant, because a changing output wakes every watcher of the service.
pub(super) const CHECK_OUTPUT: &str = "outrigger: reported by the sidecar";

/// How the output begins while the app cannot be probed from here ([`RegistrationStatus::unprobed`]); the cause follows. It does
/// not change until a probe tells the health again. The health stays the last one that a probe told: a shortage of the sidecar must
/// not take an app out that may work, nor bring one back that does not.
const UNPROBED_OUTPUT: &str =
    "outrigger: health unknown, the last one stays; the app cannot be probed from here: ";

/// Whether a running sidecar has written the check's output.
pub(super) fn is_own_output(output: &str) -> bool {
    [CHECK_OUTPUT, DRAIN_OUTPUT, LIVENESS_CHALLENGE].contains(&output) || output.starts_with(UNPROBED_OUTPUT)
}

/// The output of the report that the app is critical because it leaves, and still works: with the mark that callers know
/// ([`outrigger_registry::DRAINING_MARK`]). Where no other instance is left they use it until it is gone.
pub(super) const DRAIN_OUTPUT: &str = "outrigger: draining";

/// The output that tests whether another process renews a check: see [`super::stale`]. Sidecars of other versions
/// compare the text, so it must not change.
pub(super) const LIVENESS_CHALLENGE: &str = "outrigger: does anybody renew this?";

/// Longest wait for one call. The time-out of the registry client is shorter (Consul: 15 s).
const REPORT_TIMEOUT: Duration = Duration::from_secs(20);

/// Pauses after a failed report: far below the TTL.
const RETRY_BACKOFF: Backoff = Backoff { base: Duration::from_millis(500), max: Duration::from_secs(5) };

/// Sends the last generation of the registration that may be lost: the agent refused a report, or the catalog does
/// not list the app. A generation that was replaced meanwhile has no effect.
pub(super) type GenerationSender = watch::Sender<u64>;

/// Reports while there is a registration. Never returns: its task is aborted.
pub(super) async fn run(
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
            // No probe has ended yet.
            if health.changed().await.is_err() {
                return;
            }
            continue;
        };
        let unprobed = state.current().unprobed;
        let output = unprobed.as_ref().map(|why| format!("{UNPROBED_OUTPUT}{why}"));
        let output = output.as_deref().unwrap_or(CHECK_OUTPUT);
        let result = tokio::select! {
            result = with_timeout(REPORT_TIMEOUT, registrar.report(&id, now, output)) => result,
            // The new health is sent at once: the report in flight is outdated.
            changed = health.changed() => if changed.is_ok() { continue } else { return },
        };
        let pause = match result {
            Ok(()) => {
                if failures > 0 {
                    info!(id, "the registry accepts reports again");
                }
                failures = 0;
                state.record_reported(generation, now);
                RENEW_INTERVAL
            }
            Err(failure) => {
                if state.record_failure(failure.text.clone()) {
                    warn!(id, error = failure.text, "could not report the app's health to the registry");
                }
                if failure.error.as_ref().is_some_and(may_be_forgotten) {
                    refused_generation.send_replace(generation);
                }
                failures += 1;
                RETRY_BACKOFF.pause(failures - 1, fastrand::u64(..))
            }
        };
        tokio::select! {
            () = sleep(pause) => {}
            changed = health.changed() => if changed.is_err() { return },
            () = wait_for_other(&mut status, generation, &unprobed) => {}
        }
    }
}

/// Waits for a registration, and returns its id and generation.
async fn wait_for_registration(status: &mut watch::Receiver<RegistrationStatus>) -> Option<(String, u64)> {
    let status = status.wait_for(RegistrationStatus::is_accepted).await.ok()?;
    Some((status.id.clone(), status.generation))
}

/// Resolves once there is a registration newer than `generation`, or the app can, or cannot, be probed any more.
async fn wait_for_other(
    status: &mut watch::Receiver<RegistrationStatus>,
    generation: u64,
    unprobed: &Option<String>,
) {
    let is_other =
        |status: &RegistrationStatus| status.generation > generation || status.unprobed != *unprobed;
    if status.wait_for(is_other).await.is_err() {
        std::future::pending().await
    }
}

/// Every refusal except 429 and a missing leader: agents use different texts for an unknown check.
fn may_be_forgotten(error: &Error) -> bool {
    matches!(error, Error::Refused { status, .. } if *status != 429) && !error.is_no_leader()
}
