//! The registry's part of `/readyz`: whether the services in use come from its answers, from before a restart,
//! or from before the registry stopped answering. None of this makes a sidecar less ready, because it carries
//! requests with the instances that it knows.

use std::time::Duration;

use outrigger_config::{count, format_coarse_duration};
use outrigger_discovery::{Knowledge, RegistryContact, ServiceStatus};
use serde::Serialize;

/// The registry's part of `/readyz`.
#[derive(Debug, Serialize)]
pub(crate) struct RegistryStatus {
    /// The registry has answered for every watched service since the process started; where none is watched, it has answered.
    answered: bool,
    /// Services that still have the instances from before the restart.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    remembered: Vec<CachedService>,
    /// Why the last query failed; with several services, that for the first of them. `null` while one of them is answered: a
    /// service that the registry refuses is no outage.
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
    pub(crate) fn of(services: &[ServiceStatus], contact: &RegistryContact) -> Self {
        if services.is_empty() {
            return Self::without_services(contact);
        }
        let remembered: Vec<_> =
            with_knowledge(services, Knowledge::Remembered).map(cached_service).collect();
        let is_answered = |one: &ServiceStatus| one.knowledge == Knowledge::Answered && one.failures == 0;
        let any_answered = services.iter().any(is_answered);
        let error = services.iter().find_map(|service| service.error.clone()).filter(|_| !any_answered);
        let mut notes = Vec::new();
        if let Some((number, _, why)) = summarize(with_knowledge(services, Knowledge::Unasked)) {
            let why = why.map(|error| format!(": {error}")).unwrap_or_default();
            let (have, answer) = (have_no_instance(number), no_answer_yet(number));
            notes.push(format!("{have}: {answer}{why}"));
        }
        if let Some((number, age, why)) = summarize(with_knowledge(services, Knowledge::Remembered)) {
            let why = match why {
                Some(error) => format!("the registry does not answer: {error}"),
                None => no_answer_yet(number),
            };
            notes.push(format!(
                "{} from before the restart, {}; {why}",
                are_served(number),
                describe_age(number, age)
            ));
        }
        let failing = with_knowledge(services, Knowledge::Answered).filter(|service| service.failures > 0);
        if let Some((number, age, why)) = summarize(failing) {
            let (served, age) = (are_served(number), describe_age(number, age));
            let why = why.unwrap_or("no reason known");
            let what = match (any_answered, number) {
                (false, _) => "does not answer now",
                (true, 1) => "answers for others and not for it",
                (true, _) => "answers for others and not for them",
            };
            notes.push(format!("{served} from the last answers, {age}; the registry {what}: {why}"));
        }
        let answered = services.iter().all(|service| service.knowledge == Knowledge::Answered);
        Self { answered, remembered, error, notes }
    }

    fn without_services(contact: &RegistryContact) -> Self {
        let ago = contact.answered_ago.map(format_coarse_duration);
        let note = match (&contact.error, ago) {
            (Some(error), Some(ago)) => {
                Some(format!("the registry does not answer now: {error}; it last answered {ago} ago"))
            }
            (Some(error), None) => Some(format!("the registry has not answered since the start: {error}")),
            (None, None) => Some("the registry has not answered yet".to_owned()),
            (None, Some(_)) => None,
        };
        Self {
            answered: contact.answered_ago.is_some(),
            remembered: Vec::new(),
            error: contact.error.clone(),
            notes: note.into_iter().collect(),
        }
    }
}

/// How many there are, the longest time since one was confirmed (`None`: that of one of them is not known), and the first error.
/// `None`: there are none.
fn summarize<'a>(
    services: impl Iterator<Item = &'a ServiceStatus> + Clone,
) -> Option<(usize, Option<Duration>, Option<&'a str>)> {
    let number = services.clone().count();
    let ages = services.clone().map(|one| one.confirmed_ago).collect::<Option<Vec<_>>>();
    let oldest = ages.and_then(|ages| ages.into_iter().max());
    let error = services.clone().find_map(|one| one.error.as_deref());
    (number > 0).then_some((number, oldest, error))
}

fn have_no_instance(services: usize) -> String {
    format!("{} {} no known instance", count(services, "service"), if services == 1 { "has" } else { "have" })
}

/// It may have answered for other services.
fn no_answer_yet(services: usize) -> String {
    format!("the registry has not answered for {} yet", if services == 1 { "it" } else { "them" })
}

fn are_served(services: usize) -> String {
    format!("{} {} served", count(services, "service"), if services == 1 { "is" } else { "are" })
}

fn describe_age(services: usize, oldest: Option<Duration>) -> String {
    let age = match oldest {
        Some(oldest) => format!("{} old", format_coarse_duration(oldest)),
        None => "of unknown age".to_owned(),
    };
    if services == 1 { age } else { format!("the oldest {age}") }
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
            query: Query::new(name, None),
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
        serde_json::to_value(RegistryStatus::of(services, &RegistryContact::default())).unwrap()
    }

    fn idle_json(answered_ago: Option<u64>, error: Option<&str>) -> serde_json::Value {
        let answered_ago = answered_ago.map(Duration::from_millis);
        let contact = RegistryContact { answered_ago, error: error.map(str::to_owned) };
        serde_json::to_value(RegistryStatus::of(&[], &contact)).unwrap()
    }

    #[test]
    fn without_services_the_last_contact_counts_and_nothing_is_claimed_before_it() {
        let refused = Some("connect to 127.0.0.1:8500: refused");
        for (contact, answered, note) in [
            (idle_json(None, None), false, Some("the registry has not answered yet")),
            (
                idle_json(None, refused),
                false,
                Some("the registry has not answered since the start: connect to 127.0.0.1:8500: refused"),
            ),
            (
                idle_json(Some(61_600), refused),
                true,
                Some(
                    "the registry does not answer now: connect to 127.0.0.1:8500: refused; it last answered 1m2s ago",
                ),
            ),
            (idle_json(Some(9), None), true, None),
        ] {
            assert_eq!(
                (&contact["answered"], contact["notes"][0].as_str()),
                (&answered.into(), note),
                "{contact}"
            );
        }
    }

    #[test]
    fn a_service_that_the_registry_has_not_answered_for_has_a_note() {
        let mut waiting = service("orders", Knowledge::Unasked, 0, 2);
        waiting.confirmed_ago = None;
        let status = status_json(&[waiting.clone(), service("search", Knowledge::Answered, 9, 0)]);
        let note = "1 service has no known instance: the registry has not answered for it yet: connect to \
                    127.0.0.1:8500: refused";
        assert_eq!((&status["answered"], &status["notes"]), (&false.into(), &serde_json::json!([note])));
        let status = status_json(&[waiting.clone(), waiting]);
        let note = "2 services have no known instance: the registry has not answered for them yet: connect to \
                    127.0.0.1:8500: refused";
        assert_eq!(status["notes"], serde_json::json!([note]));
    }

    #[test]
    fn a_registry_that_answers_has_no_notes() {
        let services = [service("orders", Knowledge::Answered, 9, 0)];
        assert_eq!(status_json(&services), serde_json::json!({"answered": true, "error": null}));
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
        assert!(note.starts_with("1 service is served from the last answers, 1m old; "), "{note}");
        // The registry as a whole answers.
        assert!(note.contains("the registry answers for others and not for it: connect"), "{note}");
        assert_eq!(status["error"], serde_json::Value::Null);
        let status = status_json(&[service("orders", Knowledge::Answered, 60_000, 7)]);
        let note = status["notes"][0].as_str().unwrap();
        assert!(note.contains("the registry does not answer now: connect"), "{note}");
        assert!(status["error"].as_str().unwrap().starts_with("connect"), "{status}");
    }
}
