//! The registry's part of `/readyz`: whether the services in use come from its answers, from before a restart,
//! or from before the registry stopped answering. None of this makes a sidecar less ready, because it carries
//! requests with the instances that it knows.

use outrigger_config::format_coarse_duration;
use outrigger_discovery::{Knowledge, ServiceStatus};
use serde::Serialize;

/// The registry's part of `/readyz`.
#[derive(Debug, Serialize)]
pub(crate) struct RegistryStatus {
    /// The registry has answered for every watched service since the process started.
    answered: bool,
    /// Services that still have the instances from before the restart.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    remembered: Vec<CachedService>,
    /// Why the last query for a service failed; the first such service.
    error: Option<String>,
    /// The same as sentences.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    notes: Vec<String>,
}

#[derive(Debug, Serialize)]
struct CachedService {
    service: String,
    /// Time since the registry last confirmed it; `null`: not known, because a clock was set.
    age_ms: Option<u128>,
}

impl RegistryStatus {
    pub(crate) fn of(services: &[ServiceStatus]) -> Self {
        let remembered: Vec<_> =
            with_knowledge(services, Knowledge::Remembered).map(cached_service).collect();
        let error = services.iter().find_map(|service| service.error.clone());
        let suffix = error.as_ref().map(|error| format!(": {error}")).unwrap_or_default();
        let mut notes = Vec::new();
        if !remembered.is_empty() {
            let ages = with_knowledge(services, Knowledge::Remembered).map(|one| one.confirmed_ago);
            // `None` where one of them is not known.
            let oldest = ages.collect::<Option<Vec<_>>>().and_then(|ages| ages.into_iter().max());
            let age = match oldest {
                Some(oldest) => format!("{} old", format_coarse_duration(oldest)),
                None => "of unknown age".to_owned(),
            };
            let count = remembered.len();
            notes.push(format!(
                "{count} services are served from before the restart, the oldest {age}; \
                 the registry does not answer{suffix}"
            ));
        }
        let failing = with_knowledge(services, Knowledge::Answered).filter(|service| service.failures > 0);
        if let Some(longest) = failing.clone().filter_map(|service| service.confirmed_ago).max() {
            let (count, age) = (failing.count(), format_coarse_duration(longest));
            notes.push(format!(
                "{count} services are served from the last answers, the oldest {age} old; \
                 the registry does not answer now{suffix}"
            ));
        }
        let answered = services.iter().all(|service| service.knowledge == Knowledge::Answered);
        Self { answered, remembered, error, notes }
    }
}

fn with_knowledge(
    services: &[ServiceStatus],
    knowledge: Knowledge,
) -> impl Iterator<Item = &ServiceStatus> + Clone {
    services.iter().filter(move |service| service.knowledge == knowledge)
}

fn cached_service(service: &ServiceStatus) -> CachedService {
    CachedService {
        service: service.query.to_string(),
        age_ms: service.confirmed_ago.map(|ago| ago.as_millis()),
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use outrigger_discovery::{InstanceCounts, WatchReason};
    use outrigger_registry::Query;

    use super::*;

    fn service(name: &str, knowledge: Knowledge, confirmed_ago: u64, failures: u32) -> ServiceStatus {
        ServiceStatus {
            query: Query { service: name.into(), datacenter: None },
            reason: WatchReason::Declared,
            followers: 1,
            knowledge,
            version: 1,
            instances: InstanceCounts::default(),
            learned_ago: None,
            confirmed_ago: Some(Duration::from_millis(confirmed_ago)),
            index: 9,
            error: (failures > 0).then(|| "connect to 127.0.0.1:8500: refused".to_owned()),
            failures,
            known_leader: true,
            empty_hint: None,
            suspects: Arc::from([]),
            presumed_gone: None,
        }
    }

    fn status_json(services: &[ServiceStatus]) -> serde_json::Value {
        serde_json::to_value(RegistryStatus::of(services)).unwrap()
    }

    #[test]
    fn a_registry_that_answers_has_no_notes() {
        for services in [&[][..], &[service("orders", Knowledge::Answered, 9, 0)]] {
            assert_eq!(status_json(services), serde_json::json!({"answered": true, "error": null}));
        }
    }

    #[test]
    fn services_from_before_the_restart_are_listed_with_their_age_and_the_registry_s_error() {
        let status = status_json(&[
            service("orders", Knowledge::Remembered, 12_345, 3),
            service("payments", Knowledge::Remembered, 900, 0),
            service("search", Knowledge::Answered, 10, 0),
        ]);
        assert_eq!(status["answered"], false);
        assert_eq!(
            status["remembered"],
            serde_json::json!([{"service": "orders", "age_ms": 12_345}, {"service": "payments", "age_ms": 900}])
        );
        let note = "2 services are served from before the restart, the oldest 12s old; the registry does not \
                    answer: connect to 127.0.0.1:8500: refused";
        assert_eq!(status["notes"], serde_json::json!([note]));
    }

    #[test]
    fn an_unknown_age_is_not_said_to_be_none() {
        let unknown = ServiceStatus { confirmed_ago: None, ..service("orders", Knowledge::Remembered, 0, 0) };
        let status = status_json(&[service("payments", Knowledge::Remembered, 900, 0), unknown]);
        assert_eq!(status["remembered"][1], serde_json::json!({"service": "orders", "age_ms": null}));
        let note = status["notes"][0].as_str().unwrap();
        assert!(note.contains("the oldest of unknown age; the registry"), "{note}");
    }

    #[test]
    fn a_registry_that_answered_once_and_fails_now_has_a_note() {
        let status = status_json(&[
            service("orders", Knowledge::Answered, 60_000, 7),
            service("search", Knowledge::Answered, 1, 0),
        ]);
        assert_eq!((&status["answered"], status.get("remembered")), (&true.into(), None));
        let note = status["notes"][0].as_str().unwrap();
        assert!(note.starts_with("1 services are served from the last answers, the oldest 1m old"), "{note}");
    }
}
