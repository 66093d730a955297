//! The task of the lifecycle: waits for the first answers, registers the app, applies a reload, and withdraws the
//! app when a drain is requested. The tables in `state` and `withdraw::plan` decide the order.

use std::{
    future::Future,
    pin::{Pin, pin},
    time::Duration,
};

use outrigger_registry::ReportedHealth;
use outrigger_task::essential;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::task::AbortOnDropHandle;
use tracing::{info, warn};

use crate::{
    drain::DrainPhase,
    plan::{HandOver, LifecycleSettings, RegistrationPlan},
    registrant::Registrant,
    status::{RegistrationPhase, RegistrationStatus},
    withdraw::{self, PropagationMonitor, WITHDRAW_TIMEOUT},
};

mod handle;
mod metrics;
mod state;

use state::LifecycleEvent;

pub use handle::LifecycleHandle;
pub use state::LifecycleState;

/// Longest wait for the first answers at start. A request for a service that is still unknown after that has
/// its own bounded wait.
const LEARN_TIMEOUT: Duration = Duration::from_secs(5);

/// A running lifecycle. Dropping it ends its tasks, and the app stays in the registry.
#[derive(Debug)]
pub struct Lifecycle {
    handle: LifecycleHandle,
    _task: AbortOnDropHandle<()>,
}

impl Lifecycle {
    /// Starts the task, which waits for the first settings. `first_answers` resolves once the registry has answered
    /// for every declared service.
    pub fn start(
        first_answers: impl Future<Output = ()> + Send + 'static,
        propagation: PropagationMonitor,
    ) -> Self {
        let handle = LifecycleHandle::new();
        info!(state = handle.state().label(), "state changed");
        let task = tokio::spawn(essential("the lifecycle", run(handle.clone(), first_answers, propagation)));
        Self { handle, _task: AbortOnDropHandle::new(task) }
    }

    /// The view for pages and requests.
    pub fn handle(&self) -> &LifecycleHandle {
        &self.handle
    }

    /// Puts settings in place, the first or other ones. Absent `plan`: nothing is registered (any more).
    pub fn apply_settings(&self, plan: Option<RegistrationPlan>, drain: outrigger_config::Drain) {
        self.handle.replace_settings(LifecycleSettings { plan, drain });
    }

    /// Lets the registration go, because another process is to register the app: nothing is reported and corrected any more, and a
    /// drain withdraws nothing. Returns when no call to the registry is under way, after 20 s at most.
    pub async fn hand_over(&self, how: HandOver) {
        self.handle.set_handed_over(Some(how)).await;
    }

    /// Registers the app again after [`Lifecycle::hand_over`]: the other process has ended.
    pub async fn take_back(&self) {
        self.handle.set_handed_over(None).await;
    }

    /// Withdraws the app from the registry and returns when the app may be stopped. Requests are routed
    /// meanwhile.
    pub async fn drain(&self) {
        self.handle.drain().requested.cancel();
        self.handle.drain().wait_safe().await;
    }

    /// Drains, then runs `stop_traffic`, which closes the listeners, ends the requests in flight, and returns
    /// how many were aborted.
    pub async fn drain_and_stop(&self, stop_traffic: impl Future<Output = usize>) -> usize {
        self.drain().await;
        self.handle.drain().set_phase(DrainPhase::Closing);
        let aborted = stop_traffic.await;
        self.handle.apply_event(LifecycleEvent::Ended);
        self.handle.drain().set_phase(DrainPhase::Gone);
        aborted
    }

    /// Registers the gauges of the lifecycle.
    ///
    /// # Errors
    /// When they are registered there already.
    pub fn register_metrics(&self, metrics: &prometheus::Registry) -> Result<(), prometheus::Error> {
        metrics::register(metrics, self.handle.clone())
    }
}

async fn run(
    handle: LifecycleHandle,
    first_answers: impl Future<Output = ()> + Send + 'static,
    mut propagation: PropagationMonitor,
) {
    let first_answers = pin!(first_answers);
    let mut first_answers = Some(first_answers);
    // A fixed time, which reloads do not put off.
    let learn_until = Instant::now() + LEARN_TIMEOUT;
    let (mut settings, mut handed_over) = (handle.subscribe_settings(), handle.subscribe_handed_over());
    let mut registrant = None;
    loop {
        let now = settings.borrow_and_update().clone();
        let letting_go = *handed_over.borrow_and_update();
        if let Some(LifecycleSettings { plan, drain }) = &now {
            propagation.apply_settings(*drain);
            match letting_go {
                Some(how) => let_go(how, registrant.take()).await,
                None => apply_registration(&handle, plan.as_ref(), &mut registrant).await,
            }
        }
        handle.set_let_go(letting_go.is_some());
        tokio::select! {
            () = handle.drain().requested.cancelled() => break,
            () = start_up(&handle, &mut first_answers, learn_until, now, &mut registrant), if letting_go.is_none() => {}
            // Never an error: `handle` holds the sender.
            _ = settings.changed() => {}
            _ = handed_over.changed() => {}
        }
    }
    // Before the first call to the registry, so that `/readyz` fails first.
    handle.apply_event(LifecycleEvent::Drain);
    let drain = handle.drain();
    if let Some(registrant) = registrant {
        withdraw::run_steps(registrant, &mut propagation, drain).await;
    }
    drain.set_phase(DrainPhase::Safe);
}

/// Lets the registration go, because another process is to register the app. Takes [`WITHDRAW_TIMEOUT`] at most.
async fn let_go(how: HandOver, registrant: Option<Registrant>) {
    let Some(registrant) = registrant else { return };
    let ended = match how {
        HandOver::Keep => timeout(WITHDRAW_TIMEOUT, registrant.let_go()).await,
        HandOver::Withdraw => timeout(WITHDRAW_TIMEOUT, registrant.withdraw_now()).await,
    };
    if ended.is_err() {
        warn!("a call to the registry is still under way at the end of the hand-over");
    }
}

/// Applies `plan` to the registration: in place where the instance stays the same, else the old registration is
/// withdrawn before the new one is made. Takes [`WITHDRAW_TIMEOUT`] at most.
async fn apply_registration(
    handle: &LifecycleHandle,
    plan: Option<&RegistrationPlan>,
    registrant: &mut Option<Registrant>,
) {
    match (registrant.as_mut(), plan) {
        (Some(registrant), Some(plan)) if registrant.is_same_instance(&plan.registration) => {
            return registrant.apply_settings(plan.registration.clone(), plan.probe.clone());
        }
        (Some(_), _) => {
            info!("a reload replaced or removed the registration: deregistering the app first");
            if let Some(registrant) = registrant.take()
                && timeout(WITHDRAW_TIMEOUT, registrant.withdraw_now()).await.is_err()
            {
                warn!("gave up deregistering the app; the registry removes it after deregister_after");
            }
        }
        (None, _) => {}
    }
    let Some(plan) = plan else {
        return handle.registration().start_registration(RegistrationPhase::Off, "");
    };
    handle.registration().start_registration(RegistrationPhase::AwaitingApp, &plan.registration.id);
    handle.maintenance_with(plan).move_to(plan.maintenance_file.clone()).await;
}

/// Advances the state to Ready, then pends: the caller drops the future.
async fn start_up<F: Future<Output = ()>>(
    handle: &LifecycleHandle,
    first_answers: &mut Option<Pin<&mut F>>,
    learn_until: Instant,
    settings: Option<LifecycleSettings>,
    registrant: &mut Option<Registrant>,
) {
    let Some(LifecycleSettings { plan, .. }) = settings else { return std::future::pending().await };
    if let Some(answers) = first_answers {
        if timeout_at(learn_until, answers.as_mut()).await.is_err() {
            warn!(after = ?LEARN_TIMEOUT, "the registry has not answered for every declared service, starting without");
        }
        *first_answers = None;
    }
    handle.apply_event(LifecycleEvent::Learned);
    if let Some(plan) = plan {
        register_app(handle, plan, registrant).await;
    } else {
        handle.apply_event(LifecycleEvent::NothingToRegister);
    }
    std::future::pending().await
}

/// Returns once a report of a healthy app has reached the registry.
async fn register_app(handle: &LifecycleHandle, plan: RegistrationPlan, registrant: &mut Option<Registrant>) {
    let mut status = handle.registration().subscribe();
    if registrant.is_none() {
        let maintenance = handle.maintenance_with(&plan);
        *registrant = Some(Registrant::start(plan, maintenance));
    }
    let _ = status.wait_for(RegistrationStatus::is_accepted).await;
    handle.apply_event(LifecycleEvent::Registered);
    let healthy = |status: &RegistrationStatus| {
        matches!(status.reported, Some(ReportedHealth::Passing | ReportedHealth::Warning))
    };
    let _ = status.wait_for(healthy).await;
    handle.apply_event(LifecycleEvent::ReportedHealthy);
}

#[cfg(test)]
mod tests;
