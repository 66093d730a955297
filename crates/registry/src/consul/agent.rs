//! The bodies that are sent to the agent about the local app. Pure.
//!
//! Consul refuses a body with an unknown field, so only fields of 1.8 are sent.

use std::{collections::BTreeMap, time::Duration};

use serde::Serialize;

use crate::{Registration, ReportedHealth};

/// The output of a check, and how it begins where a reason follows ([`explained_output`]). Constant, because a changing output wakes
/// every watcher of the service.
pub(super) const CHECK_OUTPUT: &str = "outrigger: reported by the sidecar";

/// The output of a check that is critical because the app leaves and still works: with the mark that callers know
/// ([`DRAINING_MARK`](crate::DRAINING_MARK)).
pub(super) const DRAIN_OUTPUT: &str = "outrigger: draining";

/// The output that tests whether another process renews a check: see [`super::stale`]. Sidecars of other versions
/// compare the text, so it must not change.
pub(super) const LIVENESS_CHALLENGE: &str = "outrigger: does anybody renew this?";

/// How the output begins while the app cannot be probed; the cause follows.
pub(super) const UNPROBED_OUTPUT: &str =
    "outrigger: health unknown, the last one stays; the app cannot be probed from here: ";

/// The output of a check with the reason for its status.
pub(super) fn explained_output(why: &str) -> String {
    format!("{CHECK_OUTPUT}: {why}")
}

/// Whether a running sidecar has written the output of the check.
pub(super) fn is_own_output(output: &str) -> bool {
    [CHECK_OUTPUT, DRAIN_OUTPUT, LIVENESS_CHALLENGE].contains(&output) || has_reason(output)
}

/// Whether a sidecar has written the output with a reason, which may hold words of others: names, paths, what the app has answered.
pub(super) fn has_reason(output: &str) -> bool {
    let explained = output.strip_prefix(CHECK_OUTPUT).is_some_and(|rest| rest.starts_with(": "));
    explained || output.starts_with(UNPROBED_OUTPUT)
}

/// The id of the check of registration `id`. Consul would choose the same id.
pub(super) fn check_id(id: &str) -> String {
    format!("service:{id}")
}

/// The name of that check, for a registration of service `name`.
pub(super) fn check_name(name: &str) -> String {
    format!("Outrigger: health of {name}")
}

/// The body of `PUT /v1/agent/service/register`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct RegisterBody<'a> {
    #[serde(rename = "ID")]
    id: &'a str,
    name: &'a str,
    tags: &'a [String],
    port: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    address: Option<&'a str>,
    meta: &'a BTreeMap<String, String>,
    weights: WeightsBody,
    enable_tag_override: bool,
    check: CheckBody,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct WeightsBody {
    passing: u16,
    warning: u16,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct CheckBody {
    #[serde(rename = "CheckID")]
    id: String,
    name: String,
    /// The status of a check that is new to the agent; a check that the agent holds keeps its status.
    status: &'static str,
    #[serde(rename = "TTL")]
    ttl: String,
    deregister_critical_service_after: String,
}

impl<'a> From<&'a Registration> for RegisterBody<'a> {
    fn from(registration: &'a Registration) -> Self {
        Self {
            id: &registration.id,
            name: &registration.name,
            tags: &registration.tags,
            port: registration.port,
            address: registration.address.as_deref(),
            meta: &registration.meta,
            weights: WeightsBody {
                passing: registration.weights.passing,
                warning: registration.weights.warning,
            },
            enable_tag_override: false,
            check: CheckBody {
                id: check_id(&registration.id),
                name: check_name(&registration.name),
                status: status_text(registration.initial_health),
                ttl: go_duration(registration.ttl),
                deregister_critical_service_after: go_duration(registration.deregister_after),
            },
        }
    }
}

/// The body of `PUT /v1/agent/check/update/:id`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct CheckUpdateBody<'a> {
    status: &'static str,
    output: &'a str,
}

impl<'a> CheckUpdateBody<'a> {
    pub(super) fn new(health: ReportedHealth, output: &'a str) -> Self {
        Self { status: status_text(health), output }
    }
}

fn status_text(health: ReportedHealth) -> &'static str {
    match health {
        ReportedHealth::Passing => "passing",
        ReportedHealth::Warning => "warning",
        ReportedHealth::Critical => "critical",
    }
}

/// A duration as Go parses it: `45s`, `1500ms`. Never `0s`, which stands for a default of minutes.
pub(super) fn go_duration(duration: Duration) -> String {
    let millis = duration.as_millis().max(1);
    if millis.is_multiple_of(1000) { format!("{}s", millis / 1000) } else { format!("{millis}ms") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_output_with_a_reason_is_the_sidecars() {
        for own in
            [CHECK_OUTPUT, DRAIN_OUTPUT, LIVENESS_CHALLENGE, &explained_output("x"), &explained_output("")]
        {
            assert!(is_own_output(own), "{own}");
        }
        for foreign in
            ["", "outrigger: ", "outrigger: reported by the sidecars: x", "connect: refused", "TTL expired"]
        {
            assert!(!is_own_output(foreign), "{foreign}");
        }
        assert!(!has_reason(CHECK_OUTPUT) && !has_reason(DRAIN_OUTPUT));
    }

    #[test]
    fn durations_are_written_as_go_parses_them() {
        for (millis, text) in
            [(0, "1ms"), (500, "500ms"), (1500, "1500ms"), (45_000, "45s"), (600_000, "600s")]
        {
            assert_eq!(go_duration(Duration::from_millis(millis)), text);
        }
    }

    #[test]
    fn only_fields_that_consul_1_8_accepts_are_sent() {
        let registration = Registration {
            id: "orders-1".into(),
            name: "orders".into(),
            address: Some("10.0.0.5".into()),
            port: 8080,
            tags: vec!["v2".into()],
            meta: [("version".to_owned(), "2.3.1".to_owned())].into(),
            weights: outrigger_config::Weights { passing: 10, warning: 1 },
            ttl: Duration::from_secs(30),
            deregister_after: Duration::from_secs(60),
            initial_health: ReportedHealth::Critical,
        };
        let sent = serde_json::to_value(RegisterBody::from(&registration)).unwrap();
        let expected = serde_json::json!({
            "ID": "orders-1", "Name": "orders", "Tags": ["v2"], "Port": 8080, "Address": "10.0.0.5",
            "Meta": {"version": "2.3.1"}, "Weights": {"Passing": 10, "Warning": 1},
            "EnableTagOverride": false,
            "Check": {
                "CheckID": "service:orders-1", "Name": "Outrigger: health of orders", "Status": "critical",
                "TTL": "30s", "DeregisterCriticalServiceAfter": "60s"
            }
        });
        assert_eq!(sent, expected);
        let plain = Registration { address: None, ..registration };
        let sent = serde_json::to_value(RegisterBody::from(&plain)).unwrap();
        assert!(sent.get("Address").is_none(), "the agent's own address holds when none is sent");
    }
}
