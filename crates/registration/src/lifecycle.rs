//! The task of the lifecycle: waits for the first answers, registers each service of the app, applies a reload, and
//! withdraws them when a drain is requested. The tables in `state` and `withdraw::plan` decide the order.

use std::{
    collections::BTreeMap,
    future::Future,
    pin::{Pin, pin},
    time::Duration,
};

use futures_util::future::join_all;
use outrigger_events::Events;
use outrigger_registry::Registration;
use outrigger_task::essential;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};
use tracing::{info, warn};

use crate::{
    drain::{DrainControl, DrainPhase},
    plan::{HandOver, RegistrationPlan},
    registrant::Registrant,
    status::{RegistrationPhase, RegistrationStatus},
    withdraw::{self, PropagationMonitor, WITHDRAW_TIMEOUT},
};

mod absence;
mod handle;
mod metrics;
mod services;
mod state;

use absence::Absence;
use services::{LifecycleSettings, LocalService};
use state::LifecycleEvent;

pub use handle::LifecycleHandle;
pub use services::ServiceRegistration;
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
    /// for every declared service. The steps of a drain are recorded in `events`.
    pub fn start(
        first_answers: impl Future<Output = ()> + Send + 'static,
        propagation: PropagationMonitor,
        events: Events,
    ) -> Self {
        let handle = LifecycleHandle::new(events);
        info!(state = handle.state().label(), "state changed");
        let task = tokio::spawn(essential("the lifecycle", run(handle.clone(), first_answers, propagation)));
        Self { handle, _task: AbortOnDropHandle::new(task) }
    }

    /// The view for pages and requests.
    pub fn handle(&self) -> &LifecycleHandle {
        &self.handle
    }

    /// Puts settings in place, the first or other ones. `plans` is what is registered from now on, one for each service; a
    /// service that stays as it is is not touched. Empty: nothing is registered (any more).
    pub fn apply_settings(
        &self,
        plans: impl IntoIterator<Item = RegistrationPlan>,
        drain: outrigger_config::Drain,
    ) {
        self.handle.replace_settings(plans.into_iter().collect(), drain);
    }

    /// Lets the registration go, because another process is to register the app: nothing is reported and corrected any more, and a
    /// drain withdraws nothing. Returns when no call to the registry is under way, after 20 s at most.
    pub async fn hand_over(&self, how: HandOver) {
        self.handle.set_absence(Some(Absence::HandedOver(how))).await;
    }

    /// Registers the app again after [`Lifecycle::hand_over`]: the other process has ended.
    pub async fn take_back(&self) {
        self.handle.set_absence(None).await;
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
    let (mut settings, mut absences) = (handle.subscribe_settings(), handle.subscribe_absence());
    let mut registrants = Registrants::new();
    loop {
        let now = settings.borrow_and_update().clone();
        let absence = absences.borrow_and_update().clone();
        if let Some(LifecycleSettings { services, drain }) = &now {
            propagation.apply_settings(*drain);
            match &absence {
                Some(Absence::HandedOver(how)) => let_go(how, std::mem::take(&mut registrants)).await,
                Some(Absence::TakenOut { skip_waits }) => {
                    let leaving = std::mem::take(&mut registrants).into_values().collect();
                    take_out(&handle, services, leaving, &propagation, skip_waits).await;
                }
                None => apply_services(services, &mut registrants).await,
            }
        }
        handle.set_absent(absence.is_some());
        tokio::select! {
            () = handle.drain().requested.cancelled() => break,
            () = start_up(&handle, &mut first_answers, learn_until, now, &mut registrants), if absence.is_none() => {}
            // Never an error: `handle` holds the sender.
            _ = settings.changed() => {}
            _ = absences.changed() => {}
        }
    }
    // Before the first call to the registry, so that `/readyz` fails first.
    handle.apply_event(LifecycleEvent::Drain);
    let drain = handle.drain();
    withdraw::run_all(registrants.into_values(), &propagation, drain).await;
    drain.set_phase(DrainPhase::Safe);
}

/// By [`LocalService::number`].
type Registrants = BTreeMap<u64, Registrant>;

/// Lets the registrations go, because another process is to register the app. Takes [`WITHDRAW_TIMEOUT`] at most.
async fn let_go(how: &HandOver, registrants: Registrants) {
    let all = registrants.into_values().map(|registrant| async move {
        let Registration { id, name, .. } = registrant.registration();
        let ended = if how.kept.contains(&id) {
            timeout(WITHDRAW_TIMEOUT, registrant.let_go()).await
        } else {
            timeout(WITHDRAW_TIMEOUT, registrant.withdraw_now()).await
        };
        if ended.is_err() {
            warn!(
                service = name,
                id, "a call to the registry is still under way at the end of the hand-over"
            );
        }
    });
    join_all(all).await;
}

/// Withdraws the app with the steps of a drain, while the process stays. Bounded as a drain is. A request to drain the process
/// meanwhile changes its state at once; the app is withdrawn already.
async fn take_out(
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

/// Applies the settings to each registration: in place where the instance stays the same, else the old registration is
/// withdrawn before the new one is made. Takes [`WITHDRAW_TIMEOUT`] at most.
async fn apply_services(services: &[LocalService], registrants: &mut Registrants) {
    let mut leaving = Vec::new();
    for (number, mut registrant) in std::mem::take(registrants) {
        let service = services.iter().find(|service| service.number == number && service.is_configured);
        match service.map(|service| &service.plan) {
            Some(plan) if registrant.is_same_instance(&plan.registration) => {
                registrant.apply_settings(plan.registration.clone(), plan.probe.clone());
                registrants.insert(number, registrant);
            }
            _ => leaving.push(registrant),
        }
    }
    join_all(leaving.into_iter().map(withdraw_replaced)).await;
    for service in services {
        if !service.is_configured {
            service.state.start_registration(RegistrationPhase::Off, "");
            continue;
        }
        if !registrants.contains_key(&service.number) {
            let id = &service.plan.registration.id;
            service.state.start_registration(RegistrationPhase::AwaitingApp, id);
        }
        service.maintenance().move_to(service.plan.maintenance_file.clone()).await;
    }
}

async fn withdraw_replaced(registrant: Registrant) {
    let Registration { id, name, .. } = registrant.registration();
    info!(service = name, id, "a reload replaced or removed the registration: deregistering the app first");
    if timeout(WITHDRAW_TIMEOUT, registrant.withdraw_now()).await.is_err() {
        warn!(
            service = name,
            id, "gave up deregistering the app; the registry removes it after deregister_after"
        );
    }
}

/// Advances the state to Ready, then pends: the caller drops the future.
async fn start_up<F: Future<Output = ()>>(
    handle: &LifecycleHandle,
    first_answers: &mut Option<Pin<&mut F>>,
    learn_until: Instant,
    settings: Option<LifecycleSettings>,
    registrants: &mut Registrants,
) {
    let Some(LifecycleSettings { mut services, .. }) = settings else { return std::future::pending().await };
    if let Some(answers) = first_answers {
        if timeout_at(learn_until, answers.as_mut()).await.is_err() {
            warn!(after = ?LEARN_TIMEOUT, "the registry has not answered for every declared service, starting without");
        }
        *first_answers = None;
    }
    handle.apply_event(LifecycleEvent::Learned);
    services.retain(|service| service.is_configured);
    if services.is_empty() {
        handle.apply_event(LifecycleEvent::NothingToRegister);
    } else {
        register_services(handle, &services, registrants).await;
    }
    std::future::pending().await
}

/// Returns once a report of each service as healthy has reached the registry.
async fn register_services(
    handle: &LifecycleHandle,
    services: &[LocalService],
    registrants: &mut Registrants,
) {
    for service in services {
        registrants
            .entry(service.number)
            .or_insert_with(|| Registrant::start(service.plan.clone(), service.maintenance()));
    }
    wait_for_all(services, RegistrationStatus::is_accepted).await;
    handle.apply_event(LifecycleEvent::Registered);
    wait_for_all(services, RegistrationStatus::is_reported_healthy).await;
    handle.apply_event(LifecycleEvent::ReportedHealthy);
}

/// Returns once `is` holds for all of them at one time.
async fn wait_for_all(services: &[LocalService], is: impl Fn(&RegistrationStatus) -> bool) {
    while !services.iter().all(|service| is(&service.state.current())) {
        for service in services {
            let _ = service.state.subscribe().wait_for(&is).await;
        }
    }
}

#[cfg(test)]
mod tests;
