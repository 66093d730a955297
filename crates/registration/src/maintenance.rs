//! Takes the app out of service on request, and keeps it out.
//!
//! A registry keeps one maintenance state per registration, and any client may change it there (`consul maint`). So the
//! registry's state counts: what [`crate::keeper`] sees is shown on the pages, restored when the app has to be
//! announced anew, and saved for the next run (`file`). A request made to this process takes
//! precedence until the registry has taken it, however long that takes. Only `off` ends maintenance; a restart of the
//! app, the sidecar or the registry does not, and neither does a reload that renames the app.

use std::{path::PathBuf, sync::Arc, time::Duration};

use outrigger_events::{Event, EventKind, Events};
use outrigger_registry::{Drift, Registrar, Registration, Seen};
use tracing::{info, warn};

use crate::{
    calls::within,
    status::{MaintenanceRequest, RegistrationPhase, RegistrationState, RegistrationStatus},
};

mod file;

pub(crate) use file::MaintenanceFile;
pub use file::maintenance_path;

/// Longest wait for one call. Above the 7 s for which an agent of Consul stalls without a leader.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(8);

/// Longest wait for the registry before a page shows the last known state.
const REFRESH_TIMEOUT: Duration = Duration::from_secs(3);

/// Most calls for one request. A second call is made only if another request came meanwhile.
const MAX_SENDS: u32 = 3;

/// Why a request was not carried out, or not yet.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MaintenanceError {
    /// There is nothing to take out of service.
    #[error("nothing is registered by this sidecar: it has no service, or a registry of static instances")]
    NothingToRegister,
    /// There is no such service beside this sidecar.
    #[error("no service {asked:?} is registered by this sidecar; it has {names}")]
    UnknownService {
        /// The name that was asked for.
        asked: String,
        /// The names that there are.
        names: String,
    },
    /// The app is being withdrawn.
    #[error("the app is leaving the registry")]
    Leaving,
    /// The request stays in force.
    #[error("the registry has not confirmed it: {0}; the sidecar retries")]
    Unconfirmed(String),
}

/// Takes requests, and carries them out at the registry.
#[derive(Debug, Clone)]
pub(crate) struct Maintenance {
    pub(crate) registrar: Arc<dyn Registrar>,
    /// What is registered; a reload that replaces it in place changes nothing here.
    pub(crate) registration: Registration,
    pub(crate) state: RegistrationState,
    pub(crate) file: MaintenanceFile,
    pub(crate) events: Events,
}

impl Maintenance {
    /// Uses the file at `path` from now on: the app has its first name, or another one. The desired state moves to the new
    /// file; without one, the reason that an earlier run saved there applies.
    pub(crate) async fn move_to(&self, path: Option<PathBuf>) {
        let desired = |left| {
            if self.state.current().desired_maintenance().is_none() {
                self.apply_earlier(left);
            }
            self.state.current().desired_maintenance().map(str::to_owned)
        };
        self.file.move_to(path, desired).await;
    }

    fn apply_earlier(&self, left: Option<String>) {
        if let Some(reason) = &left {
            warn!(
                service = self.registration.name,
                reason, "the app is in maintenance since an earlier run; `outrigger maintenance off` ends it"
            );
            self.record_event(EventKind::MaintenanceOn, format!("since an earlier run: {reason}"));
        }
        self.state.load_maintenance(left);
    }

    /// Records a decision about the registration.
    pub(crate) fn record_event(&self, kind: EventKind, reason: impl AsRef<str>) {
        let Registration { name, id, .. } = &self.registration;
        self.events.record(Event::new(kind, reason).of_service(name).of_instance(id));
    }

    /// Records a request, and tries to carry it out. Before the app is registered, it is carried out with the
    /// registration. Takes 27 s at most.
    pub(crate) async fn request(&self, request: MaintenanceRequest) -> Result<(), MaintenanceError> {
        let status = self.state.current();
        if status.phase == RegistrationPhase::Left {
            return Err(MaintenanceError::Leaving);
        }
        info!(service = self.registration.name, id = status.id, ?request, "maintenance was requested");
        match &request {
            MaintenanceRequest::On(reason) => {
                self.record_event(EventKind::MaintenanceOn, format!("requested: {reason}"));
            }
            MaintenanceRequest::Off => self.record_event(EventKind::MaintenanceOff, "requested"),
        }
        let again = status.maintenance.is_some() && request != MaintenanceRequest::Off;
        self.state.request_maintenance(request);
        self.write_file().await;
        self.send_desired().await.map_err(MaintenanceError::Unconfirmed)?;
        if again {
            // Consul keeps the first reason, and the pages show Consul's. After a failure the next query shows it.
            let _ = self.refresh().await;
        }
        Ok(())
    }

    /// Sends the desired state until the registry has taken the last request. Sends nothing before the first
    /// registration, and nothing while another process keeps the id.
    pub(crate) async fn send_desired(&self) -> Result<(), String> {
        // Of two requests at once, each call sends again when a later request came meanwhile, so that the registry
        // ends with the last one. A lock would have to be held over the call.
        for _ in 0..MAX_SENDS {
            let status = self.state.current();
            if !status.sent || status.phase == RegistrationPhase::Conflict {
                return Ok(());
            }
            let sent = self.send(&status.id, status.desired_maintenance()).await;
            if sent.is_err()
                && status.pending_request.is_some()
                && self.state.current().pending_request.is_none()
            {
                return Ok(()); // the agent check has carried it out meanwhile
            }
            sent?;
            if self.state.confirm_maintenance(&status) {
                return Ok(());
            }
        }
        Err("other requests came meanwhile".into())
    }

    async fn send(&self, id: &str, reason: Option<&str>) -> Result<(), String> {
        let call = self.registrar.maintain(id, reason);
        within(REQUEST_TIMEOUT, call).await.map_err(|failure| failure.text)
    }

    /// After an announcement: carries out a pending request, and where the registry held nothing (`fresh`), restores
    /// maintenance. Otherwise the registry has kept maintenance.
    pub(crate) async fn restore_after_announcement(&self, fresh: bool) -> Result<(), String> {
        let status = self.state.current();
        if status.pending_request.is_some() || (fresh && status.maintenance.is_some()) {
            return self.send_desired().await;
        }
        Ok(())
    }

    /// Records what the registry shows, from an answer to a query that was sent at `before`.
    pub(crate) async fn record_observed(&self, before: &RegistrationStatus, maintenance: Option<String>) {
        if self.state.record_maintenance(before, maintenance.clone()) {
            let (service, id) = (&self.registration.name, &before.id);
            match maintenance {
                Some(reason) => {
                    info!(service, id, reason, "the app is in maintenance at the registry");
                    self.record_event(EventKind::MaintenanceOn, format!("at the registry: {reason}"));
                }
                None => {
                    info!(service, id, "another client ended maintenance");
                    self.record_event(EventKind::MaintenanceOff, "another client ended it");
                }
            }
            self.write_file().await;
        }
    }

    /// Queries the registry. `Err`: no answer; the last known state stays.
    pub(crate) async fn refresh(&self) -> Result<(), String> {
        let before = self.state.current();
        if before.phase != RegistrationPhase::Registered {
            return Ok(());
        }
        // As before an announcement: the answer comes at once.
        let mut seen = Seen::default();
        seen.maintenance.clone_from(&before.maintenance);
        let drift = self.registrar.clone().drift(&self.registration, &mut seen);
        let drift = within(REFRESH_TIMEOUT, drift).await.map_err(|failure| failure.text)?;
        if let Drift::Maintenance(reason) = drift {
            self.record_observed(&before, reason).await;
        }
        Ok(())
    }

    async fn write_file(&self) {
        self.file.write(|| self.state.current().desired_maintenance().map(str::to_owned)).await;
    }
}

#[cfg(test)]
mod tests;
