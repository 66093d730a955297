//! One process's life: learn, register, be ready, leave.
//!
//! | module | its job |
//! |---|---|
//! | `state` | the states and what moves them, a pure table |
//! | `live` | the one task that walks through them, and follows a reload |
//! | `identity` | what the registry is told about the app |
//! | `health` | asks the local app how it is |
//! | `register` | keeps the registration true |
//! | `calls` | calls to the agent, and the pauses between those that fail |
//! | `look` | what the agent holds of it, and whether that is right |
//! | `listed` | whether callers find it |
//! | `report` | tells the registry how the app is, renews the TTL |
//! | `keeper` | owns those, and takes the registration back |
//! | `step` | which step of leaving comes after which, a pure table |
//! | `leave` | walks through them |
//! | `callers` | whether callers have heard of it |
//! | `sight` | which instance in a list it is |
//! | `standing` | what is known about the registration |
//! | `drain` | the order of leaving |
//! | `maintenance` | takes the app out of service by hand, and keeps it out |
//! | `note` | remembers that across a restart |
//! | `orphans` | removes what earlier runs left in the registry |
//! | `port` | whether the app still listens |
//! | `metrics` | all of it as gauges |
//!
//! It opens no listener and carries no request: [`crate::app`] wires those to it.

mod agent_calls;
mod agent_check;
mod catalog_check;
pub(crate) mod drain;
mod health;
mod identity;
mod maintenance;
mod maintenance_file;
mod metrics;
pub(crate) mod port;
mod register_loop;
mod registrant;
mod report;
mod self_lookup;
mod stale;
mod state;
mod status;
mod task;
#[cfg(test)]
mod testing;
pub(crate) mod withdraw;

use std::{future::Future, path::PathBuf, sync::Arc, time::Duration};

use outrigger_registry::{Registrar, Registration};
use tokio::{sync::watch, task::JoinHandle};
use tokio_util::sync::CancellationToken;
use tracing::info;

pub use state::LifecycleState;
pub use status::{MaintenanceRequest, RegistrationPhase, RegistrationStatus};

pub(crate) use health::health_label;
pub(crate) use identity::{build_registration, host_name};
pub(crate) use maintenance::MaintenanceError;
pub(crate) use maintenance_file::maintenance_path;

use drain::{DrainControl, ServedTraffic};
use maintenance::Maintenance;
use maintenance_file::MaintenanceFile;
use state::LifecycleEvent;
use status::RegistrationState;
use withdraw::PropagationMonitor;

/// What is to be registered, where, and what is asked of the app before.
#[derive(Debug, Clone)]
pub(crate) struct RegistrationPlan {
    /// Cancelled once the app may be asked how it is. One that is still to be started must not be
    /// mistaken for an earlier one that has not ended yet.
    pub(crate) app_started: CancellationToken,
    pub(crate) registrar: Arc<dyn Registrar>,
    pub(crate) registration: Registration,
    pub(crate) probe: outrigger_config::Health,
    /// Where maintenance is written down. Absent: nowhere.
    pub(crate) maintenance_file: Option<PathBuf>,
}

/// What a life is to keep true, until a reload wants something else.
#[derive(Debug, Clone)]
struct LifecycleSettings {
    /// Absent: there is nothing to register.
    plan: Option<RegistrationPlan>,
    /// Absent: as [`Callers`] were made.
    drain: Option<outrigger_config::Drain>,
}

/// What the admin pages and the metrics see of a life.
#[derive(Debug, Clone)]
pub(crate) struct LifecycleHandle(Arc<LifecycleShared>);

#[derive(Debug)]
struct LifecycleShared {
    state: watch::Sender<LifecycleState>,
    registration: RegistrationState,
    drain: DrainControl,
    maintenance_file: MaintenanceFile,
    settings: watch::Sender<LifecycleSettings>,
}

impl LifecycleHandle {
    fn new(plan: Option<RegistrationPlan>) -> Self {
        let registration = match &plan {
            Some(plan) => RegistrationState::new(RegistrationPhase::AwaitingApp, &plan.registration.id),
            None => RegistrationState::new(RegistrationPhase::Off, ""),
        };
        let maintenance_file =
            MaintenanceFile::new(plan.as_ref().and_then(|plan| plan.maintenance_file.clone()));
        if let Some(plan) = &plan {
            // For what an earlier run has written down.
            Maintenance::load(plan.registrar.clone(), registration.clone(), maintenance_file.clone());
        }
        let state = watch::Sender::new(LifecycleState::Starting);
        let settings = watch::Sender::new(LifecycleSettings { plan, drain: None });
        Self(Arc::new(LifecycleShared {
            state,
            registration,
            drain: DrainControl::new(),
            maintenance_file,
            settings,
        }))
    }

    /// Absent: there is nothing to register.
    fn maintenance(&self) -> Option<Maintenance> {
        let registrar = self.0.settings.borrow().plan.as_ref()?.registrar.clone();
        Some(self.maintenance_with(registrar))
    }

    /// One office, whatever a reload makes of the registration: the board and the note are the life's.
    fn maintenance_with(&self, registrar: Arc<dyn Registrar>) -> Maintenance {
        Maintenance { registrar, state: self.0.registration.clone(), file: self.0.maintenance_file.clone() }
    }

    pub(crate) fn state(&self) -> LifecycleState {
        *self.0.state.borrow()
    }

    pub(crate) fn registration_status(&self) -> RegistrationStatus {
        self.0.registration.current()
    }

    pub(crate) fn drain_phase(&self) -> drain::DrainPhase {
        self.0.drain.phase()
    }

    /// Takes the app out of service, or puts it back.
    pub(crate) async fn request_maintenance(
        &self,
        request: MaintenanceRequest,
    ) -> Result<(), MaintenanceError> {
        let maintenance = self.maintenance().ok_or(MaintenanceError::NothingToRegister)?;
        if self.drain_phase() != drain::DrainPhase::Serving {
            return Err(MaintenanceError::Leaving);
        }
        maintenance.request(request).await
    }

    /// Asks the registry whether the app is in maintenance. `Err`: what was seen last stands.
    pub(crate) async fn refresh_maintenance(&self) -> Result<(), String> {
        match self.maintenance() {
            Some(maintenance) => maintenance.refresh().await,
            None => Ok(()),
        }
    }

    /// Whether somebody has asked to leave.
    pub(crate) fn is_draining(&self) -> bool {
        self.0.drain.is_requested()
    }

    /// Says that callers need not be waited for when it leaves: the app has ended, or somebody insists.
    pub(crate) fn skip_waits(&self) {
        self.0.drain.skip_waits();
    }

    /// Asks to leave; returns at once.
    pub(crate) fn begin_drain(&self) {
        self.0.drain.request();
    }

    /// Has the app asked how it is at once, not only when the next probe is due.
    pub(crate) fn request_probe(&self) {
        self.0.registration.request_probe();
    }

    /// Resolves once the state is at least as far as `wanted`.
    pub(crate) async fn wait_for_state(&self, settings: impl FnMut(&LifecycleState) -> bool) {
        // An error means that the sender is gone, and we hold it.
        let _ = self.0.state.subscribe().wait_for(settings).await;
    }

    fn apply_event(&self, event: LifecycleEvent) {
        let mut next = None;
        self.0.state.send_if_modified(|state| {
            let after = state.next(event);
            let changed = after != *state;
            *state = after;
            next = changed.then_some(after);
            changed
        });
        if let Some(state) = next {
            info!(state = state.label(), "state changed");
        }
    }
}

/// A life under way. Dropping it ends its tasks without leaving the registry.
#[derive(Debug)]
pub(crate) struct Lifecycle {
    handle: LifecycleHandle,
    task: JoinHandle<()>,
}

impl Lifecycle {
    /// A life whose sockets are bound. `first_answers` resolves once the registry has answered for
    /// every declared service.
    pub(crate) fn start(
        first_answers: impl Future<Output = ()> + Send + 'static,
        plan: Option<RegistrationPlan>,
        propagation: PropagationMonitor,
    ) -> Self {
        let handle = LifecycleHandle::new(plan);
        handle.apply_event(LifecycleEvent::Bound);
        let task = tokio::spawn(task::run(handle.clone(), first_answers, propagation));
        Self { handle, task }
    }

    pub(crate) fn handle(&self) -> &LifecycleHandle {
        &self.handle
    }

    /// Keeps another registration true from now on, or none, and leaves by other settings.
    pub(crate) fn apply_settings(&self, plan: Option<RegistrationPlan>, drain: outrigger_config::Drain) {
        self.handle.0.settings.send_replace(LifecycleSettings { plan, drain: Some(drain) });
    }

    /// Leaves the registry, goes on routing, and returns when it is safe to stop.
    pub(crate) async fn drain(&self) {
        self.handle.begin_drain();
        self.handle.0.drain.wait_safe().await;
    }

    /// All of it, to the end: how many requests were cut off.
    pub(crate) async fn drain_and_stop(&self, traffic: &impl ServedTraffic, grace: Duration) -> usize {
        self.drain().await;
        let aborted = drain::stop_traffic(&self.handle.0.drain, traffic, grace).await;
        self.handle.apply_event(LifecycleEvent::Ended);
        self.handle.0.drain.set_phase(drain::DrainPhase::Gone);
        aborted
    }

    /// Registers the gauges of this life.
    pub(crate) fn register_metrics(&self, metrics: &prometheus::Registry) -> Result<(), prometheus::Error> {
        metrics::register(metrics, self.handle.clone())
    }
}

impl Drop for Lifecycle {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[cfg(test)]
mod tests;
