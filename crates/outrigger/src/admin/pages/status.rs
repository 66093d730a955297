//! The pages `/readyz`, `/maintenance`, `/drain` and `/reload`.

use outrigger_config::SettingChange;
use outrigger_discovery::{RegistryContact, ServiceStatus};
use outrigger_registration::{
    LifecycleHandle, LifecycleState, MaintenanceRequest, Reachability, RegistrationPhase, RegistrationStatus,
    ServiceRegistration, health_label,
};
use outrigger_registry::ReportedHealth;
use serde::Serialize;

use super::registry_status::RegistryStatus;
use crate::{
    config_files::{FileSummary, RestartSummary},
    reload::{self, ReloadResult},
};

/// What the network is shown in place of an error's text.
const ELSEWHERE: &str = "see /readyz of the admin side on this machine";

/// `/readyz`.
#[derive(Debug, Serialize)]
pub(crate) struct Readiness {
    pub(crate) ready: bool,
    state: &'static str,
    /// What is missing, as sentences.
    missing: Vec<String>,
    /// What people should know while everything goes on, as sentences. The network is not shown them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    warnings: Vec<String>,
    /// One for each service beside the sidecar; empty where nothing is registered.
    registrations: Vec<RegistrationSummary>,
    registry: RegistryStatus,
    #[serde(flatten)]
    files: FilesPart,
}

/// What `/readyz` shows of the files that the sidecar writes for the app.
#[derive(Debug, Default, Serialize)]
pub(crate) struct FilesPart {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) files: Vec<FileSummary>,
    /// The restart of the app for a changed file; absent where there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) restart: Option<RestartSummary>,
}

impl FilesPart {
    /// The files for which the app is waiting.
    fn missing(&self) -> impl Iterator<Item = String> {
        let waiting = self.files.iter().filter(|file| file.state == "waiting");
        waiting.map(|file| match &file.why {
            _ if file.path == ELSEWHERE => format!("a file of the app is not written yet: {ELSEWHERE}"),
            Some(why) => format!("the file {} is not written yet: {why}", file.path),
            None => format!("the file {} is not written yet", file.path),
        })
    }
}

#[derive(Debug, Serialize)]
struct RegistrationSummary {
    service: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    id: String,
    state: &'static str,
    /// The result of the last probe of the app.
    #[serde(skip_serializing_if = "String::is_empty")]
    app: String,
    /// Why the app is not healthy, as the registry is told; absent where it is healthy.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    /// Why the health of the app is unknown; absent where a probe has told it not long ago.
    #[serde(skip_serializing_if = "Option::is_none")]
    unprobed: Option<String>,
    /// Whether the registered address accepts connections from here; absent where that is not tested by the settings, and while the
    /// app is not healthy.
    #[serde(skip_serializing_if = "Option::is_none")]
    reach: Option<String>,
    /// The health that the registry was last sent.
    told: Option<&'static str>,
    error: Option<String>,
    /// Which other process registers the same id, and which of the two keeps it; absent where none is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    conflict: Option<String>,
    /// Why the app is in maintenance, ordered here or at the registry; absent where it is not.
    #[serde(skip_serializing_if = "Option::is_none")]
    maintenance: Option<String>,
}

impl Readiness {
    pub(crate) fn of(
        lifecycle: &LifecycleHandle,
        services: &[ServiceStatus],
        contact: &RegistryContact,
        lost_network: Option<String>,
        files: FilesPart,
    ) -> Self {
        Self::from_status(
            lifecycle.state(),
            lifecycle.registrations(),
            services,
            contact,
            lost_network,
            files,
        )
    }

    /// The same with sentences that change nothing of it.
    pub(crate) fn with_warnings(self, warnings: Vec<String>) -> Self {
        Self { warnings, ..self }
    }

    /// The same without the texts of errors: they name addresses of this machine and of its registry.
    pub(crate) fn for_network(
        lifecycle: &LifecycleHandle,
        mut services: Vec<ServiceStatus>,
        mut contact: RegistryContact,
        mut lost_network: Option<String>,
        mut files: FilesPart,
    ) -> Self {
        for file in &mut files.files {
            hide_text(&mut file.path);
            file.why.iter_mut().for_each(hide_text);
        }
        files.restart.iter_mut().for_each(|restart| hide_text(&mut restart.why));
        let (state, mut registrations) = (lifecycle.state(), lifecycle.registrations());
        let hide = hide_text;
        for ServiceRegistration { status, .. } in &mut registrations {
            if state.is_ready() {
                status.probe_detail.clear();
            } else {
                hide(&mut status.probe_detail);
            }
            let reason = status.reason.as_mut().map(|reason| &mut reason.text);
            status.error.iter_mut().chain(&mut status.unprobed).chain(reason).for_each(hide);
            if let Some(rival) = &mut status.rival {
                "an address that /readyz on this machine shows".clone_into(&mut rival.address);
            }
            match &mut status.reach {
                Reachability::NotTested(why) => hide(why),
                Reachability::Unreachable(failure) => {
                    hide(&mut failure.kind);
                    failure.error.clear();
                }
                Reachability::Unknown | Reachability::Pending | Reachability::Reached => {}
            }
        }
        services.iter_mut().filter_map(|service| service.error.as_mut()).for_each(hide);
        contact.error.iter_mut().chain(&mut lost_network).for_each(hide);
        Self::from_status(state, registrations, &services, &contact, lost_network, files)
    }

    fn from_status(
        state: LifecycleState,
        registrations: Vec<ServiceRegistration>,
        services: &[ServiceStatus],
        contact: &RegistryContact,
        lost_network: Option<String>,
        files: FilesPart,
    ) -> Self {
        let missing_files: Vec<_> = files.missing().collect();
        let ready = state.is_ready() && lost_network.is_none() && missing_files.is_empty();
        let lost_network = lost_network.map(|why| format!("the network is lost: {why}"));
        let missing = lost_network.into_iter().chain(list_missing(state, &registrations));
        let missing = missing.chain(missing_files).collect();
        let summary = |ServiceRegistration { service, status }| RegistrationSummary {
            service,
            conflict: status.conflict(),
            id: status.id,
            state: status.phase.label(),
            app: status.probe_detail,
            reason: status.reason.map(|reason| reason.text),
            unprobed: status.unprobed.map(|why| format!("cannot be probed from here: {why}")),
            reach: describe_reach(&status.reach),
            told: status.reported.map(health_label),
            error: status.error,
            maintenance: status.maintenance,
        };
        Self {
            ready,
            state: state.label(),
            missing,
            warnings: Vec::new(),
            registrations: registrations.into_iter().map(summary).collect(),
            registry: RegistryStatus::of(services, contact),
            files,
        }
    }
}

/// The network is not shown paths and errors of this machine.
fn hide_text(text: &mut String) {
    if !text.is_empty() {
        ELSEWHERE.clone_into(text);
    }
}

fn describe_reach(reach: &Reachability) -> Option<String> {
    match reach {
        Reachability::Unknown => None,
        Reachability::Pending => Some("not tested yet".to_owned()),
        Reachability::NotTested(why) => Some(format!("not tested: {why}")),
        Reachability::Reached => Some("reached".to_owned()),
        Reachability::Unreachable(failure) => Some(failure.to_string()),
    }
}

/// What is missing; where there are several services, each sentence names its service.
fn list_missing(state: LifecycleState, registrations: &[ServiceRegistration]) -> Vec<String> {
    match state {
        LifecycleState::Ready => Vec::new(),
        LifecycleState::Learning => {
            vec![
                "the registry has not answered yet for every declared service, or for settings in its KV"
                    .into(),
            ]
        }
        LifecycleState::Draining => vec!["the sidecar is draining".into()],
        LifecycleState::Gone => vec!["the sidecar has stopped".into()],
        LifecycleState::Waiting | LifecycleState::Registered => {
            let reasons = registrations.iter().filter_map(|ServiceRegistration { service, status }| {
                let reason = missing_reason(status)?;
                Some(if registrations.len() > 1 { format!("{service}: {reason}") } else { reason })
            });
            reasons.collect()
        }
    }
}

/// What is missing of one service, while the process is not ready.
fn missing_reason(status: &RegistrationStatus) -> Option<String> {
    let with_error = |what: &str| match &status.error {
        Some(error) => format!("{what}: {error}"),
        None => what.to_owned(),
    };
    let not_healthy = || match (&status.reach, &status.unprobed, &status.reason, &*status.probe_detail) {
        (Reachability::Unreachable(failure), ..) => failure.to_string(),
        (_, Some(why), ..) => format!("the local app cannot be probed from here: {why}"),
        (Reachability::Pending, ..) => "the registered address has not been reached yet".to_owned(),
        (_, None, Some(reason), _) => format!("the local app is not healthy yet: {}", reason.text),
        (_, None, None, "") => "the local app has not been probed yet".to_owned(),
        (_, None, None, why) => format!("the health of the local app is not known yet: {why}"),
    };
    match (status.phase, status.reported) {
        (RegistrationPhase::AwaitingApp, _) => Some(not_healthy()),
        (RegistrationPhase::Conflict, _) => status.conflict(),
        (RegistrationPhase::Registered | RegistrationPhase::Lost, reported) => match reported {
            Some(ReportedHealth::Passing | ReportedHealth::Warning) => None,
            // The registration is one of an earlier run.
            Some(ReportedHealth::Critical) => Some(not_healthy()),
            None => Some(with_error("the registry has not yet received that the app is healthy")),
        },
        (RegistrationPhase::Off | RegistrationPhase::Registering | RegistrationPhase::Left, _) => {
            Some(with_error("the registry has not accepted the registration yet"))
        }
    }
}

/// `GET /maintenance`, and the answer to `POST /maintenance`.
#[derive(Debug, Serialize)]
pub(crate) struct MaintenanceStatus {
    /// One for each service beside the sidecar.
    services: Vec<ServiceMaintenance>,
    /// Why a request failed, or why the registry could not be asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

#[derive(Debug, Serialize)]
struct ServiceMaintenance {
    service: String,
    id: String,
    /// Whether the service is in maintenance at the registry, ordered here or there.
    enabled: bool,
    reason: Option<String>,
    /// What was ordered here and is not yet in effect at the registry.
    #[serde(skip_serializing_if = "Option::is_none")]
    ordered: Option<PendingMaintenance>,
    registration: &'static str,
}

#[derive(Debug, Serialize)]
struct PendingMaintenance {
    enable: bool,
    reason: Option<String>,
}

impl MaintenanceStatus {
    pub(crate) fn of(lifecycle: &LifecycleHandle, error: Option<String>) -> Self {
        let one = |ServiceRegistration { service, status }| ServiceMaintenance {
            service,
            id: status.id,
            enabled: status.maintenance.is_some(),
            reason: status.maintenance,
            ordered: status.pending_request.map(|request| match request {
                MaintenanceRequest::On(reason) => PendingMaintenance { enable: true, reason: Some(reason) },
                MaintenanceRequest::Off => PendingMaintenance { enable: false, reason: None },
            }),
            registration: status.phase.label(),
        };
        Self { services: lifecycle.registrations().into_iter().map(one).collect(), error }
    }
}

/// `GET /drain`, and the answer to `POST /drain`.
#[derive(Debug, Serialize)]
pub(crate) struct DrainStatus {
    phase: &'static str,
    /// The app may be stopped: the registry lists none of its services any more, and their callers have had time to
    /// learn of it.
    safe_to_stop: bool,
    /// Requests of the app that the sidecar carries now.
    in_flight: usize,
    registrations: Vec<LeavingService>,
}

#[derive(Debug, Serialize)]
struct LeavingService {
    service: String,
    id: String,
    state: &'static str,
}

impl DrainStatus {
    pub(crate) fn of(lifecycle: &LifecycleHandle, in_flight: usize) -> Self {
        let phase = lifecycle.drain_phase();
        let one = |ServiceRegistration { service, status }| LeavingService {
            service,
            id: status.id,
            state: status.phase.label(),
        };
        Self {
            phase: phase.label(),
            safe_to_stop: phase.is_safe_to_stop(),
            in_flight,
            registrations: lifecycle.registrations().into_iter().map(one).collect(),
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
    use outrigger_registration::{HealthReason, ReasonKind, Unreachable};
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn an_app_that_cannot_be_probed_is_no_app_that_is_not_healthy() {
        const CAUSE: &str = "connect to 127.0.0.1:8080: Too many open files (os error 24)";
        const REASON: &str = "connect to 127.0.0.1:8080: Connection refused (os error 111)";
        let status = |unprobed: bool, phase| RegistrationStatus {
            phase,
            probe_detail: CAUSE.to_owned(),
            unprobed: unprobed.then(|| CAUSE.to_owned()),
            reason: Some(HealthReason {
                health: ReportedHealth::Critical,
                kind: ReasonKind::Refused,
                text: REASON.to_owned(),
            }),
            reported: Some(ReportedHealth::Critical),
            ..RegistrationStatus::default()
        };
        for (state, phase) in [
            (LifecycleState::Waiting, RegistrationPhase::AwaitingApp),
            (LifecycleState::Registered, RegistrationPhase::Registered),
        ] {
            for (unprobed, expected) in [
                (true, format!("the local app cannot be probed from here: {CAUSE}")),
                (false, format!("the local app is not healthy yet: {REASON}")),
            ] {
                let registrations =
                    [ServiceRegistration { service: "orders".to_owned(), status: status(unprobed, phase) }];
                assert_eq!(list_missing(state, &registrations), [expected], "{state:?}");
            }
        }
        let never_told = RegistrationStatus { reason: None, ..status(false, RegistrationPhase::AwaitingApp) };
        let registrations = [ServiceRegistration { service: "orders".to_owned(), status: never_told }];
        assert_eq!(
            list_missing(LifecycleState::Waiting, &registrations),
            [format!("the health of the local app is not known yet: {CAUSE}")]
        );
        let contact = RegistryContact::default();
        let status = status(true, RegistrationPhase::Registered);
        let registrations = vec![ServiceRegistration { service: "orders".to_owned(), status }];
        let page = Readiness::from_status(
            LifecycleState::Ready,
            registrations,
            &[],
            &contact,
            None,
            FilesPart::default(),
        );
        assert!(page.ready);
        let page = serde_json::to_value(page).unwrap();
        assert_eq!(page["registrations"][0]["unprobed"], format!("cannot be probed from here: {CAUSE}"));
    }

    #[test]
    fn a_registered_address_that_fails_is_on_the_page_and_is_why_an_app_that_requires_it_is_missing() {
        let page = |state, reach: &Reachability| {
            let status = RegistrationStatus {
                phase: RegistrationPhase::AwaitingApp,
                probe_detail: "127.0.0.1:8080 accepts connections".to_owned(),
                reach: reach.clone(),
                ..RegistrationStatus::default()
            };
            let registrations = vec![ServiceRegistration { service: "orders".to_owned(), status }];
            let page = Readiness::from_status(
                state,
                registrations,
                &[],
                &RegistryContact::default(),
                None,
                FilesPart::default(),
            );
            let page = serde_json::to_value(page).unwrap();
            (page["registrations"][0]["reach"].clone(), page["missing"].clone())
        };
        let failure =
            Unreachable { kind: "10.0.0.5:8080 refuses".to_owned(), error: "os error 111".to_owned() };
        let healthy = "the health of the local app is not known yet: 127.0.0.1:8080 accepts connections";
        let pending = "the registered address has not been reached yet";
        for (reach, shown, missing) in [
            (Reachability::Unknown, Value::Null, healthy),
            (Reachability::Pending, json!("not tested yet"), pending),
            (Reachability::NotTested("no route".to_owned()), json!("not tested: no route"), healthy),
            (Reachability::Reached, json!("reached"), healthy),
            (
                Reachability::Unreachable(failure),
                json!("10.0.0.5:8080 refuses: os error 111"),
                "10.0.0.5:8080 refuses: os error 111",
            ),
        ] {
            assert_eq!(page(LifecycleState::Waiting, &reach), (shown.clone(), json!([missing])), "{reach:?}");
            assert_eq!(page(LifecycleState::Ready, &reach), (shown, json!([])), "{reach:?}");
        }
    }

    #[test]
    fn of_several_services_only_those_with_something_missing_are_named() {
        let registration = |service: &str, phase, reported| ServiceRegistration {
            service: service.to_owned(),
            status: RegistrationStatus { phase, reported, ..RegistrationStatus::default() },
        };
        let registrations = vec![
            registration("orders", RegistrationPhase::Registered, Some(ReportedHealth::Passing)),
            registration("orders-admin", RegistrationPhase::AwaitingApp, None),
            registration("orders-grpc", RegistrationPhase::Registered, None),
        ];
        let contact = RegistryContact::default();
        let page = Readiness::from_status(
            LifecycleState::Waiting,
            registrations,
            &[],
            &contact,
            None,
            FilesPart::default(),
        );
        let page = serde_json::to_value(page).unwrap();
        assert_eq!(
            page["missing"],
            serde_json::json!([
                "orders-admin: the local app has not been probed yet",
                "orders-grpc: the registry has not yet received that the app is healthy",
            ])
        );
        assert_eq!(page["registrations"][1]["service"], "orders-admin");
        assert_eq!(page["registrations"][1]["state"], "awaiting_app");
    }
}
