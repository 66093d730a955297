//! What the admin pages, the metrics and the app see of the lifecycle, and what they may ask of it.

use std::sync::Arc;

use futures_util::future::join_all;
use outrigger_events::Events;
use tokio::{sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;
use tracing::info;

use super::{
    absence::Absence,
    services::{LifecycleSettings, LocalService, ServiceRegistration, assign},
    state::{LifecycleEvent, LifecycleState},
};
use crate::{
    drain::{DrainControl, DrainPhase},
    maintenance::MaintenanceError,
    plan::RegistrationPlan,
    status::{MaintenanceRequest, RegistrationStatus},
};

/// The handle to the lifecycle. Clones share one state.
#[derive(Debug, Clone)]
pub struct LifecycleHandle(Arc<LifecycleShared>);

#[derive(Debug)]
struct LifecycleShared {
    state: watch::Sender<LifecycleState>,
    drain: DrainControl,
    /// Absent before the first settings.
    settings: watch::Sender<Option<LifecycleSettings>>,
    /// Present: the app is not to be registered by this process now.
    absence: watch::Sender<Option<Absence>>,
    /// The last absence that was asked for has begun: nothing is registered by this process.
    is_absent: watch::Sender<bool>,
}

impl LifecycleHandle {
    /// The phases of its drain are recorded in `events`.
    pub(super) fn new(events: Events) -> Self {
        Self(Arc::new(LifecycleShared {
            state: watch::Sender::new(LifecycleState::Learning),
            drain: DrainControl::new(events),
            settings: watch::Sender::new(None),
            absence: watch::Sender::new(None),
            is_absent: watch::Sender::new(false),
        }))
    }

    /// The services of the settings.
    fn services(&self) -> Vec<LocalService> {
        let settings = self.0.settings.borrow();
        let all = settings.iter().flat_map(|settings| &settings.services);
        all.filter(|service| service.is_configured).cloned().collect()
    }

    /// The state of the process.
    pub fn state(&self) -> LifecycleState {
        *self.0.state.borrow()
    }

    /// The registration of each service, in the order of the settings. Empty: there is nothing to register.
    pub fn registrations(&self) -> Vec<ServiceRegistration> {
        self.services().iter().map(LocalService::view).collect()
    }

    /// How far the drain has come.
    pub fn drain_phase(&self) -> DrainPhase {
        self.0.drain.phase()
    }

    /// Takes the services with this name or id out of service, or puts them back. `None`: all of them, at once.
    ///
    /// # Errors
    /// Nothing is registered under this name, the app is being withdrawn, or the registry did not confirm the request for one of
    /// them.
    pub async fn request_maintenance(
        &self,
        service: Option<&str>,
        request: MaintenanceRequest,
    ) -> Result<(), MaintenanceError> {
        let all = self.services();
        if all.is_empty() {
            return Err(MaintenanceError::NothingToRegister);
        }
        let meant = |one: &&LocalService| service.is_none_or(|name| one.is_called(name));
        let targets: Vec<_> = all.iter().filter(meant).collect();
        if let Some(asked) = service.filter(|_| targets.is_empty()) {
            let names: Vec<_> = all.iter().map(|one| one.plan.registration.name.as_str()).collect();
            return Err(MaintenanceError::UnknownService {
                asked: asked.to_owned(),
                names: names.join(", "),
            });
        }
        if self.drain_phase() != DrainPhase::Serving {
            return Err(MaintenanceError::Leaving);
        }
        let requests = targets.iter().map(|one| {
            let (maintenance, request) = (one.maintenance(), request.clone());
            async move { maintenance.request(request).await }
        });
        let failures = targets.iter().zip(join_all(requests).await).filter_map(|(one, result)| {
            let failure = result.err()?;
            Some(match failure {
                MaintenanceError::Unconfirmed(why) if all.len() > 1 => {
                    MaintenanceError::Unconfirmed(format!("{}: {why}", one.plan.registration.name))
                }
                other => other,
            })
        });
        failures.into_iter().next().map_or(Ok(()), Err)
    }

    /// Asks the registry whether the services are in maintenance.
    ///
    /// # Errors
    /// When the registry does not answer for one of them; its last known state stays.
    pub async fn refresh_maintenance(&self) -> Result<(), String> {
        let all = self.services();
        let questions = all.iter().map(|one| {
            let maintenance = one.maintenance();
            async move { maintenance.refresh().await }
        });
        join_all(questions).await.into_iter().collect()
    }

    /// Probes the app at once instead of when the next probe is due.
    pub fn request_probe(&self) {
        self.services().iter().for_each(|service| service.state.request_probe());
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

    /// Whether the app is being withdrawn, or is withdrawn.
    pub fn is_leaving(&self) -> bool {
        self.drain().requested.is_cancelled()
    }

    pub(super) fn subscribe_settings(&self) -> watch::Receiver<Option<LifecycleSettings>> {
        self.0.settings.subscribe()
    }

    pub(super) fn subscribe_absence(&self) -> watch::Receiver<Option<Absence>> {
        self.0.absence.subscribe()
    }

    /// Sets why the app is not to be registered. The registrations are as asked for when this returns, unless the app is being
    /// withdrawn.
    pub(super) async fn set_absence(&self, absence: Option<Absence>) {
        let asks_absence = absence.is_some();
        self.0.absence.send_replace(absence);
        let mut is_absent = self.0.is_absent.subscribe();
        tokio::select! {
            _ = is_absent.wait_for(|is| *is == asks_absence) => {}
            () = self.drain().requested.cancelled() => {}
        }
    }

    pub(super) fn set_absent(&self, is_absent: bool) {
        self.0.is_absent.send_replace(is_absent);
    }

    /// Takes the app out of the registry as a drain does, so that it can be restarted, and keeps it out until
    /// [`put_back`](Self::put_back). Requests are routed meanwhile. Returns when callers send the app no more requests, after 20 s plus
    /// `drain.max_propagation` or `drain.unobserved_wait` at most; at once where a drain of the process is requested. `skip_waits`:
    /// cancelled to skip the waits for callers.
    pub async fn take_out(&self, skip_waits: CancellationToken) {
        self.set_absence(Some(Absence::TakenOut { skip_waits })).await;
    }

    /// The app may be registered again: once a probe finds it healthy. Without [`take_out`](Self::take_out) it changes nothing.
    pub fn put_back(&self) {
        let is_taken_out = |absence: &Option<Absence>| matches!(absence, Some(Absence::TakenOut { .. }));
        self.0.absence.send_if_modified(|absence| {
            let is = is_taken_out(absence);
            if is {
                *absence = None;
            }
            is
        });
    }

    /// Resolves when a probe that began after `since` has found the app healthy, and the registry has taken that, for every service.
    /// Without a service at once.
    pub async fn wait_until_serving(&self, since: Instant) {
        let mut settings = self.subscribe_settings();
        loop {
            settings.mark_unchanged();
            let services = self.services();
            let all = services.iter().map(|service| async move {
                service.state.wait_healthy_probe(since).await;
                let mut status = service.state.subscribe();
                let _ = status.wait_for(RegistrationStatus::is_reported_healthy).await;
            });
            tokio::select! {
                _ = join_all(all) => return,
                // Never an error: `self` holds the sender.
                _ = settings.changed() => {}
            }
        }
    }

    pub(super) fn replace_settings(&self, plans: Vec<RegistrationPlan>, drain: outrigger_config::Drain) {
        self.0.settings.send_modify(|settings| {
            let before = settings.take().map(|settings| settings.services).unwrap_or_default();
            *settings = Some(LifecycleSettings { services: assign(&before, plans), drain });
        });
    }
}
