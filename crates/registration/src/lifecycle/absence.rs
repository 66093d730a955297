//! Times in which this process does not register the app.

use std::pin::pin;

use tokio_util::sync::CancellationToken;

use super::{handle::LifecycleHandle, services::LocalService, state::LifecycleEvent};
use crate::{
    drain::DrainControl,
    plan::HandOver,
    registrant::Registrant,
    status::RegistrationPhase,
    withdraw::{self, PropagationMonitor},
};

/// Why this process does not register the app.
#[derive(Debug, Clone)]
pub(super) enum Absence {
    /// Another process is to register it.
    HandedOver(HandOver),
    /// It is restarted: callers must have left it before it is stopped.
    TakenOut {
        /// Cancelled to skip the waits for callers.
        skip_waits: CancellationToken,
    },
}

/// Withdraws the app with the steps of a drain, while the process stays. Bounded as a drain is. A request to drain the process
/// meanwhile changes its state at once; the app is withdrawn already.
pub(super) async fn take_out(
    handle: &LifecycleHandle,
    services: &[LocalService],
    registrants: Vec<Registrant>,
    propagation: &PropagationMonitor,
    skip_waits: &CancellationToken,
) {
    let control = DrainControl::of_app(skip_waits.clone());
    let requested = handle.drain().requested.clone();
    let mut withdrawal = pin!(withdraw::run_all(registrants.into_iter(), propagation, &control));
    tokio::select! {
        () = &mut withdrawal => {}
        () = requested.cancelled() => {
            handle.apply_event(LifecycleEvent::Drain);
            withdrawal.await;
        }
    }
    if requested.is_cancelled() {
        return;
    }
    // Maintenance that is requested from now on is kept for the next registration.
    for service in services.iter().filter(|service| service.is_configured) {
        let id = &service.plan.registration.id;
        service.state.start_registration(RegistrationPhase::AwaitingApp, id);
    }
}
