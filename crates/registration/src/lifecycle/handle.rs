//! What the admin pages, the metrics and the app see of the lifecycle, and what they may ask of it.

use std::sync::Arc;

use tokio::sync::watch;
use tracing::info;

use super::state::{LifecycleEvent, LifecycleState};
use crate::{
    drain::{DrainControl, DrainPhase},
    maintenance::{Maintenance, MaintenanceError, MaintenanceFile},
    plan::{HandOver, LifecycleSettings, RegistrationPlan},
    status::{MaintenanceRequest, RegistrationPhase, RegistrationState, RegistrationStatus},
};

/// The handle to the lifecycle. Clones share one state.
#[derive(Debug, Clone)]
pub struct LifecycleHandle(Arc<LifecycleShared>);

#[derive(Debug)]
struct LifecycleShared {
    state: watch::Sender<LifecycleState>,
    registration: RegistrationState,
    drain: DrainControl,
    maintenance_file: MaintenanceFile,
    /// Absent before the first settings.
    settings: watch::Sender<Option<LifecycleSettings>>,
    /// Present: another process is to register the app.
    handed_over: watch::Sender<Option<HandOver>>,
    /// The registration is let go, because another process is to register the app.
    is_let_go: watch::Sender<bool>,
}

impl LifecycleHandle {
    pub(super) fn new() -> Self {
        Self(Arc::new(LifecycleShared {
            state: watch::Sender::new(LifecycleState::Learning),
            registration: RegistrationState::new(RegistrationPhase::Off, ""),
            drain: DrainControl::default(),
            maintenance_file: MaintenanceFile::default(),
            settings: watch::Sender::new(None),
            handed_over: watch::Sender::new(None),
            is_let_go: watch::Sender::new(false),
        }))
    }

    /// `None`: there is nothing to register.
    fn maintenance(&self) -> Option<Maintenance> {
        Some(self.maintenance_with(self.0.settings.borrow().as_ref()?.plan.as_ref()?))
    }

    /// A reload changes registrar and registration: the state and the file are those of the process.
    pub(super) fn maintenance_with(&self, plan: &RegistrationPlan) -> Maintenance {
        Maintenance {
            registrar: plan.registrar.clone(),
            registration: plan.registration.clone(),
            state: self.0.registration.clone(),
            file: self.0.maintenance_file.clone(),
        }
    }

    /// The state of the process.
    pub fn state(&self) -> LifecycleState {
        *self.0.state.borrow()
    }

    /// The state of the registration.
    pub fn registration_status(&self) -> RegistrationStatus {
        self.0.registration.current()
    }

    /// How far the drain has come.
    pub fn drain_phase(&self) -> DrainPhase {
        self.0.drain.phase()
    }

    /// Takes the app out of service, or puts it back.
    ///
    /// # Errors
    /// Nothing is registered, the app is being withdrawn, or the registry did not confirm the request.
    pub async fn request_maintenance(&self, request: MaintenanceRequest) -> Result<(), MaintenanceError> {
        let maintenance = self.maintenance().ok_or(MaintenanceError::NothingToRegister)?;
        if self.drain_phase() != DrainPhase::Serving {
            return Err(MaintenanceError::Leaving);
        }
        maintenance.request(request).await
    }

    /// Asks the registry whether the app is in maintenance.
    ///
    /// # Errors
    /// When the registry does not answer; the last known state stays.
    pub async fn refresh_maintenance(&self) -> Result<(), String> {
        match self.maintenance() {
            Some(maintenance) => maintenance.refresh().await,
            None => Ok(()),
        }
    }

    /// Probes the app at once instead of when the next probe is due.
    pub fn request_probe(&self) {
        self.0.registration.request_probe();
    }

    /// Resolves once the state fulfils `wanted`.
    pub async fn wait_for_state(&self, wanted: impl FnMut(&LifecycleState) -> bool) {
        // Never an error: `self` holds the sender.
        let _ = self.0.state.subscribe().wait_for(wanted).await;
    }

    pub(super) fn apply_event(&self, event: LifecycleEvent) {
        let changed = self.0.state.send_if_modified(|state| {
            let next = state.next(event);
            std::mem::replace(state, next) != next
        });
        if changed {
            info!(state = self.state().label(), "state changed");
        }
    }

    /// The drain of the process.
    pub fn drain(&self) -> &DrainControl {
        &self.0.drain
    }

    pub(super) fn registration(&self) -> &RegistrationState {
        &self.0.registration
    }

    pub(super) fn subscribe_settings(&self) -> watch::Receiver<Option<LifecycleSettings>> {
        self.0.settings.subscribe()
    }

    pub(super) fn subscribe_handed_over(&self) -> watch::Receiver<Option<HandOver>> {
        self.0.handed_over.subscribe()
    }

    /// Sets whether another process is to register the app. The registration is let go when this returns, unless the app is being
    /// withdrawn.
    pub(super) async fn set_handed_over(&self, handed_over: Option<HandOver>) {
        self.0.handed_over.send_replace(handed_over);
        let mut is_let_go = self.0.is_let_go.subscribe();
        tokio::select! {
            _ = is_let_go.wait_for(|is| *is == handed_over.is_some()) => {}
            () = self.drain().requested.cancelled() => {}
        }
    }

    pub(super) fn set_let_go(&self, is_let_go: bool) {
        self.0.is_let_go.send_replace(is_let_go);
    }

    pub(super) fn replace_settings(&self, settings: LifecycleSettings) {
        if let Some(plan) = settings.plan.as_ref().filter(|_| self.registration_status().id.is_empty()) {
            // Pages show the id from now on.
            self.0.registration.start_registration(RegistrationPhase::AwaitingApp, &plan.registration.id);
        }
        self.0.settings.send_replace(Some(settings));
    }
}
