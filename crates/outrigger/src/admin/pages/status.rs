//! The pages `/readyz`, `/maintenance`, `/drain` and `/reload`.

use outrigger_config::SettingChange;
use outrigger_discovery::{RegistryContact, ServiceStatus};
use outrigger_registration::{
    LifecycleHandle, LifecycleState, MaintenanceRequest, RegistrationPhase, RegistrationStatus, health_label,
};
use outrigger_registry::ReportedHealth;
use serde::Serialize;

use super::registry_status::RegistryStatus;
use crate::reload::{self, ReloadResult};

/// What the network is shown in place of an error's text.
const ELSEWHERE: &str = "see /readyz of the admin side on this machine";

/// `/readyz`.
#[derive(Debug, Serialize)]
pub(crate) struct Readiness {
    pub(crate) ready: bool,
    state: &'static str,
    /// What is missing, as sentences.
    missing: Vec<String>,
    registration: RegistrationSummary,
    registry: RegistryStatus,
}

#[derive(Debug, Serialize)]
struct RegistrationSummary {
    state: &'static str,
    #[serde(skip_serializing_if = "String::is_empty")]
    id: String,
    /// The result of the last probe of the app.
    #[serde(skip_serializing_if = "String::is_empty")]
    app: String,
    /// Why the health of the app is unknown; absent where a probe has told it not long ago.
    #[serde(skip_serializing_if = "Option::is_none")]
    unprobed: Option<String>,
    /// The health that the registry was last sent.
    told: Option<&'static str>,
    error: Option<String>,
    /// Why the app is in maintenance, ordered here or at the registry; absent where it is not.
    #[serde(skip_serializing_if = "Option::is_none")]
    maintenance: Option<String>,
}

impl Readiness {
    pub(crate) fn of(
        lifecycle: &LifecycleHandle,
        services: &[ServiceStatus],
        contact: &RegistryContact,
    ) -> Self {
        Self::from_status(lifecycle.state(), lifecycle.registration_status(), services, contact)
    }

    /// The same without the texts of errors: they name addresses of this machine and of its registry.
    pub(crate) fn for_network(
        lifecycle: &LifecycleHandle,
        mut services: Vec<ServiceStatus>,
        mut contact: RegistryContact,
    ) -> Self {
        let (state, mut status) = (lifecycle.state(), lifecycle.registration_status());
        let hide = |text: &mut String| {
            if !text.is_empty() {
                ELSEWHERE.clone_into(text);
            }
        };
        if state.is_ready() {
            status.probe_detail.clear();
        } else {
            hide(&mut status.probe_detail);
        }
        status.error.iter_mut().chain(&mut status.unprobed).for_each(hide);
        services.iter_mut().filter_map(|service| service.error.as_mut()).for_each(hide);
        contact.error.iter_mut().for_each(hide);
        Self::from_status(state, status, &services, &contact)
    }

    fn from_status(
        state: LifecycleState,
        status: RegistrationStatus,
        services: &[ServiceStatus],
        contact: &RegistryContact,
    ) -> Self {
        let missing = missing_reason(state, &status);
        let registration = RegistrationSummary {
            state: status.phase.label(),
            id: status.id,
            app: status.probe_detail,
            unprobed: status.unprobed.map(|why| format!("cannot be probed from here: {why}")),
            told: status.reported.map(health_label),
            error: status.error,
            maintenance: status.maintenance,
        };
        Self {
            ready: state.is_ready(),
            state: state.label(),
            missing: missing.into_iter().collect(),
            registration,
            registry: RegistryStatus::of(services, contact),
        }
    }
}

fn missing_reason(state: LifecycleState, status: &RegistrationStatus) -> Option<String> {
    let with_error = |what: &str| match &status.error {
        Some(error) => format!("{what}: {error}"),
        None => what.to_owned(),
    };
    let not_healthy = || match (&*status.probe_detail, &status.unprobed) {
        (_, Some(why)) => format!("the local app cannot be probed from here: {why}"),
        ("", None) => "the local app has not been probed yet".to_owned(),
        (why, None) => format!("the local app is not healthy yet: {why}"),
    };
    match state {
        LifecycleState::Ready => None,
        LifecycleState::Learning => {
            Some("the registry has not answered for every declared service yet".into())
        }
        LifecycleState::Waiting if status.phase == RegistrationPhase::AwaitingApp => Some(not_healthy()),
        LifecycleState::Waiting => Some(with_error("the registry has not accepted the registration yet")),
        // The registration is one of an earlier run.
        LifecycleState::Registered if status.reported == Some(ReportedHealth::Critical) => {
            Some(not_healthy())
        }
        LifecycleState::Registered => {
            Some(with_error("the registry has not yet received that the app is healthy"))
        }
        LifecycleState::Draining => Some("the sidecar is draining".into()),
        LifecycleState::Gone => Some("the sidecar has stopped".into()),
    }
}

/// `GET /maintenance`, and the answer to `POST /maintenance`.
#[derive(Debug, Serialize)]
pub(crate) struct MaintenanceStatus {
    /// Whether the app is in maintenance at the registry, ordered here or there.
    enabled: bool,
    reason: Option<String>,
    /// What was ordered here and is not yet in effect at the registry.
    #[serde(skip_serializing_if = "Option::is_none")]
    ordered: Option<PendingMaintenance>,
    registration: &'static str,
    /// Why a request failed, or why the registry could not be asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

#[derive(Debug, Serialize)]
struct PendingMaintenance {
    enable: bool,
    reason: Option<String>,
}

impl MaintenanceStatus {
    pub(crate) fn of(lifecycle: &LifecycleHandle, error: Option<String>) -> Self {
        let status = lifecycle.registration_status();
        Self {
            enabled: status.maintenance.is_some(),
            reason: status.maintenance,
            ordered: status.pending_request.map(|request| match request {
                MaintenanceRequest::On(reason) => PendingMaintenance { enable: true, reason: Some(reason) },
                MaintenanceRequest::Off => PendingMaintenance { enable: false, reason: None },
            }),
            registration: status.phase.label(),
            error,
        }
    }
}

/// `GET /drain`, and the answer to `POST /drain`.
#[derive(Debug, Serialize)]
pub(crate) struct DrainStatus {
    phase: &'static str,
    /// The app may be stopped: the registry no longer lists it, and its callers have had time to learn of it.
    safe_to_stop: bool,
    /// Requests of the app that the sidecar carries now.
    in_flight: usize,
    registration: &'static str,
}

impl DrainStatus {
    pub(crate) fn of(lifecycle: &LifecycleHandle, in_flight: usize) -> Self {
        let phase = lifecycle.drain_phase();
        Self {
            phase: phase.label(),
            safe_to_stop: phase.is_safe_to_stop(),
            in_flight,
            registration: lifecycle.registration_status().phase.label(),
        }
    }
}

/// The answer to `POST /reload`.
#[derive(Debug, Default, Serialize)]
pub(crate) struct ReloadStatus {
    applied: bool,
    /// As `defaults.timeout: 15s → 5s`.
    #[serde(skip_serializing_if = "Option::is_none")]
    changed: Option<Vec<String>>,
    /// Changes that need a restart, in the same form.
    #[serde(skip_serializing_if = "Option::is_none")]
    needs_restart: Option<Vec<String>>,
    /// The value of the metric `outrigger_config_hash`.
    #[serde(skip_serializing_if = "Option::is_none")]
    config_hash: Option<u64>,
    /// Why nothing changed.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    /// Every problem in the settings, each with its place.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    problems: Vec<String>,
    /// What is suspicious in the settings, each with its place.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    warnings: Vec<String>,
}

impl ReloadStatus {
    pub(crate) fn of(outcome: &ReloadResult) -> Self {
        let lines = |changes: &[SettingChange]| Some(changes.iter().map(ToString::to_string).collect());
        match outcome {
            Ok(applied) => Self {
                applied: true,
                changed: lines(&applied.changed),
                needs_restart: lines(&applied.needs_restart),
                config_hash: Some(applied.hash),
                warnings: applied.warnings.clone(),
                ..Self::default()
            },
            Err(reload::ReloadError::Problems { problems, warnings }) => Self {
                error: Some("the settings are wrong, going on as before".to_owned()),
                problems: problems.clone(),
                warnings: warnings.clone(),
                ..Self::default()
            },
            Err(error) => Self { error: Some(error.to_string()), ..Self::default() },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_app_that_cannot_be_probed_is_no_app_that_is_not_healthy() {
        const CAUSE: &str = "connect to 127.0.0.1:8080: Too many open files (os error 24)";
        let status = |unprobed: bool, phase| RegistrationStatus {
            phase,
            probe_detail: CAUSE.to_owned(),
            unprobed: unprobed.then(|| CAUSE.to_owned()),
            reported: Some(ReportedHealth::Critical),
            ..RegistrationStatus::default()
        };
        for (state, phase) in [
            (LifecycleState::Waiting, RegistrationPhase::AwaitingApp),
            (LifecycleState::Registered, RegistrationPhase::Registered),
        ] {
            for (unprobed, expected) in [
                (true, format!("the local app cannot be probed from here: {CAUSE}")),
                (false, format!("the local app is not healthy yet: {CAUSE}")),
            ] {
                assert_eq!(missing_reason(state, &status(unprobed, phase)), Some(expected), "{state:?}");
            }
        }
        let contact = RegistryContact::default();
        let status = status(true, RegistrationPhase::Registered);
        let page = Readiness::from_status(LifecycleState::Ready, status, &[], &contact);
        assert!(page.ready);
        let page = serde_json::to_value(page).unwrap();
        assert_eq!(page["registration"]["unprobed"], format!("cannot be probed from here: {CAUSE}"));
    }
}
