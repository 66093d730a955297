//! Reports the app's health to the registry: at once when it changes, and every 10 s to renew the check's TTL.
//!
//! A registry without a leader may stall a report for seconds, and renews the check when the report *begins* (seen on
//! Consul 1.8.7: 7 to 14 s). So a report in flight, and one that was given up, has renewed the check; the next one
//! follows at once.
//!
//! The reports have their own task, so that no other call to the registry delays them. The task never announces: when
//! the registry does not know the check, the task sends the generation and waits for [`crate::keeper`].

use std::{sync::Arc, time::Duration};

use outrigger_policy::backoff::Backoff;
use outrigger_registry::{Error, Registrar, Report, ReportedHealth};
use tokio::{sync::watch, time::sleep};
use tracing::{info, warn};

use crate::{
    calls::within,
    status::{RegistrationState, RegistrationStatus},
};

/// Pause between two renewals: three fit into the TTL of [`crate::identity::TTL`].
const RENEW_INTERVAL: Duration = Duration::from_secs(10);

/// Longest wait for one call. The time-out of the registry client is shorter (Consul: 15 s).
const REPORT_TIMEOUT: Duration = Duration::from_secs(20);

/// Pauses after a failed report: far below the TTL.
const RETRY_BACKOFF: Backoff = Backoff { base: Duration::from_millis(500), max: Duration::from_secs(5) };

/// Reports while there is a registration. Never returns: its task is aborted. `refused_generation` is the last one of
/// which a report was refused, so that it may be lost; one that was replaced meanwhile has no effect.
pub(super) async fn run(
    service: String,
    registrar: Arc<dyn Registrar>,
    state: RegistrationState,
    mut health: watch::Receiver<Option<ReportedHealth>>,
    refused_generation: watch::Sender<u64>,
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
        let current = state.current();
        let (unprobed, explanation) = (current.unprobed.clone(), current.explanation_of(now));
        // Another reason for the same health goes with the next renewal: an app that fails in turns writes no more than one that
        // fails in one way.
        let report = match (&unprobed, explanation.as_deref()) {
            (Some(why), _) => Report::Unprobed { last: now, why },
            (None, Some(why)) => Report::Explained { health: now, why },
            (None, None) => Report::Health(now),
        };
        let result = tokio::select! {
            result = within(REPORT_TIMEOUT, registrar.report(&id, report)) => result,
            // The new health is sent at once: the report in flight is outdated.
            changed = health.changed() => if changed.is_ok() { continue } else { return },
        };
        let pause = match result {
            Ok(()) => {
                if failures > 0 {
                    info!(service, id, "the registry accepts reports again");
                }
                failures = 0;
                state.record_reported(generation, now);
                RENEW_INTERVAL
            }
            Err(failure) => {
                if state.record_failure(failure.text.clone()) {
                    warn!(
                        service,
                        id,
                        error = failure.text,
                        "could not report the app's health to the registry"
                    );
                }
                if failure.error.as_ref().is_some_and(Error::may_mean_forgotten) {
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
