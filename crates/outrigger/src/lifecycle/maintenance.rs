//! Takes the app out of service by hand, and keeps it out.
//!
//! Consul keeps one order per service, and anybody may give it there (`consul maint`), so the registry's word
//! is the truth, whoever caused it: what [`super::look`] sees is what the pages say, what is restored when
//! the registration had to be made anew, and what is written down ([`super::note`]) for the next run. An
//! order given here goes before it until the registry has taken it, both ways, however long that takes.
//! `off` ends it; a restart of the app, the sidecar or the registry does not, and no reload: it is the same
//! app under another name.

use std::{path::PathBuf, sync::Arc, time::Duration};

use outrigger_registry::Registrar;
use tracing::{info, warn};

use super::{
    agent_calls::with_timeout,
    maintenance_file::MaintenanceFile,
    status::{MaintenanceRequest, RegistrationPhase, RegistrationState, RegistrationStatus},
};

/// Longest wait for one order. Above the 7 s for which an agent stalls without a leader.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(8);

/// Longest wait for the registry before a page says what was seen last.
const REFRESH_TIMEOUT: Duration = Duration::from_secs(3);

/// Most calls for one order: another only where the order was changed meanwhile.
const MAX_SENDS: u32 = 3;

/// Why an order was not, or not yet, carried out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum MaintenanceError {
    #[error("nothing is registered by this sidecar: it has no service, or a registry of static instances")]
    NothingToRegister,
    #[error("the app is leaving the registry")]
    Leaving,
    /// The order holds all the same.
    #[error("the registry has not confirmed it: {0}; the sidecar goes on trying")]
    Unconfirmed(String),
}

/// Where orders are given, and carried out.
#[derive(Debug, Clone)]
pub(super) struct Maintenance {
    pub(super) registrar: Arc<dyn Registrar>,
    pub(super) state: RegistrationState,
    pub(super) file: MaintenanceFile,
}

impl Maintenance {
    /// Opens it with what an earlier run wrote down.
    pub(super) fn load(
        registrar: Arc<dyn Registrar>,
        state: RegistrationState,
        note: MaintenanceFile,
    ) -> Self {
        let maintenance = Self { registrar, state, file: note };
        maintenance.apply_earlier(maintenance.file.read());
        maintenance
    }

    /// Writes down at another place from now on, because a reload has named the app otherwise, or for the
    /// first time. What is to be goes along; where nothing is, what an earlier run has left there holds, as it
    /// would after a restart.
    pub(super) async fn move_to(&self, place: Option<PathBuf>) {
        let to_be = |left| {
            if self.state.current().desired_maintenance().is_none() {
                self.apply_earlier(left);
            }
            self.state.current().desired_maintenance().map(str::to_owned)
        };
        self.file.move_to(place, to_be).await;
    }

    fn apply_earlier(&self, left: Option<String>) {
        if let Some(reason) = &left {
            warn!(
                reason,
                "the app is in maintenance since an earlier run; `outrigger maintenance off` ends it"
            );
        }
        self.state.load_maintenance(left);
    }

    /// Takes an order, and tries to carry it out. Before the app is registered it is noted, and carried out
    /// with the registration. Takes 27 s at most.
    pub(super) async fn request(&self, order: MaintenanceRequest) -> Result<(), MaintenanceError> {
        let status = self.state.current();
        if status.phase == RegistrationPhase::Left {
            return Err(MaintenanceError::Leaving);
        }
        info!(id = status.id, ?order, "maintenance was ordered");
        let again = status.maintenance.is_some() && order != MaintenanceRequest::Off;
        self.state.request_maintenance(order);
        self.write_file().await;
        self.send_desired().await.map_err(MaintenanceError::Unconfirmed)?;
        if again {
            // Consul keeps the first reason, and its word is what is said. A failure: the next look tells.
            let _ = self.refresh().await;
        }
        Ok(())
    }

    /// Sends what is to be, until the registry has taken the last order; to nobody as long as nothing is
    /// registered.
    pub(super) async fn send_desired(&self) -> Result<(), String> {
        // Two orders at once: whoever finds that the other's came later sends that one again, so that
        // the registry ends with the last. A lock would have to be held over the call.
        for _ in 0..MAX_SENDS {
            let status = self.state.current();
            if !status.sent {
                return Ok(());
            }
            let sent = self.send(&status.id, status.desired_maintenance()).await;
            if sent.is_err()
                && status.pending_request.is_some()
                && self.state.current().pending_request.is_none()
            {
                return Ok(()); // a look has carried it out meanwhile
            }
            sent?;
            if self.state.confirm_maintenance(&status) {
                return Ok(());
            }
        }
        Err("others give orders, too".into())
    }

    async fn send(&self, id: &str, reason: Option<&str>) -> Result<(), String> {
        let call = self.registrar.set_maintenance(id, reason.is_some(), reason.unwrap_or_default());
        with_timeout(REQUEST_TIMEOUT, call).await.map_err(|failure| failure.text)
    }

    /// After a registration: carries out an order that waits for it; and where the registry held nothing
    /// (`fresh`), what is to be. Else nothing is touched: maintenance outlives a correction.
    pub(super) async fn restore_after_register(&self, fresh: bool) -> Result<(), String> {
        let status = self.state.current();
        if status.pending_request.is_some() || (fresh && status.maintenance.is_some()) {
            return self.send_desired().await;
        }
        Ok(())
    }

    /// Takes the registry's word, from an answer to a question asked at `before`.
    pub(super) async fn record_observed(&self, before: &RegistrationStatus, maintenance: Option<String>) {
        if self.state.record_maintenance(before, maintenance.clone()) {
            let id = &before.id;
            match maintenance {
                Some(reason) => info!(id, reason, "somebody put the app into maintenance"),
                None => info!(id, "somebody ended maintenance"),
            }
            self.write_file().await;
        }
    }

    /// Asks the registry how it is. `Err`: it does not say, and what was seen last stands.
    pub(super) async fn refresh(&self) -> Result<(), String> {
        let before = self.state.current();
        if before.phase != RegistrationPhase::Registered {
            return Ok(());
        }
        let checks = with_timeout(REFRESH_TIMEOUT, self.registrar.service_checks(&before.id))
            .await
            .map_err(|failure| failure.text)?;
        // Without our check it is no registration of ours, and says nothing.
        if checks.own.is_some() {
            self.record_observed(&before, checks.maintenance).await;
        }
        Ok(())
    }

    async fn write_file(&self) {
        self.file.write(|| self.state.current().desired_maintenance().map(str::to_owned)).await;
    }
}

#[cfg(test)]
mod tests;
