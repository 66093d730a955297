//! What the smaller pages show: plain shapes filled from what the parts say of themselves. No page
//! computes anything that a part does not know.

use outrigger_config::SettingChange;
use outrigger_discovery::ServiceStatus;
use outrigger_registry::ReportedHealth;
use serde::Serialize;

use super::registry_status::RegistryStatus;
use crate::{
    lifecycle::{
        LifecycleHandle, LifecycleState, MaintenanceRequest, RegistrationPhase, RegistrationStatus,
        health_label,
    },
    reload::{self, ReloadResult},
};

/// `/readyz`.
#[derive(Debug, Serialize)]
pub(crate) struct Readiness {
    ready: bool,
    state: &'static str,
    /// Sentences: what is not there yet.
    missing: Vec<String>,
    registration: RegistrationSummary,
    registry: RegistryStatus,
}

#[derive(Debug, Serialize)]
struct RegistrationSummary {
    state: &'static str,
    #[serde(skip_serializing_if = "String::is_empty")]
    id: String,
    /// What the last probe of the app found.
    #[serde(skip_serializing_if = "String::is_empty")]
    app: String,
    /// What the registry was last told about the app.
    told: Option<&'static str>,
    error: Option<String>,
    /// Why the app is in maintenance, whoever ordered it; absent where it is not.
    #[serde(skip_serializing_if = "Option::is_none")]
    maintenance: Option<String>,
}

impl Readiness {
    pub(crate) fn of(vitals: &LifecycleHandle, services: &[ServiceStatus]) -> Self {
        let (state, standing) = (vitals.state(), vitals.registration_status());
        let missing = missing_reason(state, &standing);
        let registration = RegistrationSummary {
            state: standing.phase.label(),
            id: standing.id,
            app: standing.probe_detail,
            told: standing.reported.map(health_label),
            error: standing.error,
            maintenance: standing.maintenance,
        };
        Self {
            ready: state.is_ready(),
            state: state.label(),
            missing: missing.into_iter().collect(),
            registration,
            registry: RegistryStatus::of(services),
        }
    }

    pub(crate) fn is_ready(&self) -> bool {
        self.ready
    }
}

fn missing_reason(state: LifecycleState, standing: &RegistrationStatus) -> Option<String> {
    let because = |what: &str| match &standing.error {
        Some(error) => format!("{what}: {error}"),
        None => what.to_owned(),
    };
    match state {
        LifecycleState::Ready => None,
        LifecycleState::Learning => {
            Some("the registry has not answered for every declared service yet".into())
        }
        LifecycleState::Waiting if standing.phase == RegistrationPhase::AwaitingApp => {
            let why =
                if standing.probe_detail.is_empty() { "it is being asked" } else { &standing.probe_detail };
            Some(format!("the local app is not healthy yet: {why}"))
        }
        LifecycleState::Waiting => Some(because("the registry has not taken the registration yet")),
        // An earlier run had registered it.
        LifecycleState::Registered if standing.reported == Some(ReportedHealth::Critical) => {
            Some(format!("the local app is not healthy yet: {}", standing.probe_detail))
        }
        LifecycleState::Registered => {
            Some(because("the registry has not been told yet that the app is well"))
        }
        LifecycleState::Draining => Some("it is draining".into()),
        LifecycleState::Gone => Some("it has stopped".into()),
    }
}

/// `GET /maintenance`, and the answer to `POST /maintenance`.
#[derive(Debug, Serialize)]
pub(crate) struct MaintenanceStatus {
    /// Whether the registry holds the app in maintenance, whoever ordered it.
    enabled: bool,
    reason: Option<String>,
    /// What was ordered here and the registry has not taken yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    ordered: Option<PendingMaintenance>,
    registration: &'static str,
    /// Why an order was not carried out, or the registry could not be asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

#[derive(Debug, Serialize)]
struct PendingMaintenance {
    enable: bool,
    reason: Option<String>,
}

impl MaintenanceStatus {
    pub(crate) fn of(vitals: &LifecycleHandle, error: Option<String>) -> Self {
        let standing = vitals.registration_status();
        Self {
            enabled: standing.maintenance.is_some(),
            reason: standing.maintenance,
            ordered: standing.pending_request.map(|order| match order {
                MaintenanceRequest::On(reason) => PendingMaintenance { enable: true, reason: Some(reason) },
                MaintenanceRequest::Off => PendingMaintenance { enable: false, reason: None },
            }),
            registration: standing.phase.label(),
            error,
        }
    }
}

/// `GET /drain`, and the answer to `POST /drain`.
#[derive(Debug, Serialize)]
pub(crate) struct DrainStatus {
    phase: &'static str,
    /// The app may be stopped: the registry no longer lists it, and its callers have had time to hear.
    safe_to_stop: bool,
    /// Requests of the app's own that are on their way through the sidecar.
    in_flight: usize,
    registration: &'static str,
}

impl DrainStatus {
    pub(crate) fn of(vitals: &LifecycleHandle, in_flight: usize) -> Self {
        let phase = vitals.drain_phase();
        Self {
            phase: phase.label(),
            safe_to_stop: phase.is_safe_to_stop(),
            in_flight,
            registration: vitals.registration_status().phase.label(),
        }
    }
}

/// The answer to `POST /reload`.
#[derive(Debug, Serialize)]
pub(crate) struct ReloadStatus {
    applied: bool,
    /// As `defaults.timeout: 15s → 5s`.
    #[serde(skip_serializing_if = "Option::is_none")]
    changed: Option<Vec<String>>,
    /// What was read and is not followed before a restart.
    #[serde(skip_serializing_if = "Option::is_none")]
    needs_restart: Option<Vec<String>>,
    /// As the metric of that name.
    #[serde(skip_serializing_if = "Option::is_none")]
    config_hash: Option<u64>,
    /// Why nothing was changed.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    /// Everything that is wrong with the settings, each with its place.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    problems: Vec<String>,
}

impl ReloadStatus {
    pub(crate) fn of(outcome: &ReloadResult) -> Self {
        let lines = |changes: &[SettingChange]| Some(changes.iter().map(ToString::to_string).collect());
        let refused = Self {
            applied: false,
            changed: None,
            needs_restart: None,
            config_hash: None,
            error: None,
            problems: Vec::new(),
        };
        match outcome {
            Ok(applied) => Self {
                applied: true,
                changed: lines(&applied.changed),
                needs_restart: lines(&applied.needs_restart),
                config_hash: Some(applied.hash),
                ..refused
            },
            Err(reload::ReloadError::Problems(problems)) => Self {
                error: Some("the settings are wrong, going on as before".to_owned()),
                problems: problems.clone(),
                ..refused
            },
            Err(error) => Self { error: Some(error.to_string()), ..refused },
        }
    }
}
