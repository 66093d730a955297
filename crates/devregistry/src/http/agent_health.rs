//! `/v1/agent/health/service/*`: the health of a local service, also as the status code, for load balancers that read
//! nothing else.

use http::{HeaderName, StatusCode};

use super::{context::HttpContext, reply::Reply, request::ApiRequest};
use crate::{
    store::{self, NODE_MAINTENANCE, SERVICE_MAINTENANCE, Status, Store},
    wire::response::{AgentHealth, CheckJson},
};

const REASON: HeaderName = HeaderName::from_static("x-consul-reason");

/// The health of a service, best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum AggregatedStatus {
    Passing,
    Warning,
    Critical,
    Maintenance,
}

impl AggregatedStatus {
    fn worst_of(checks: &[store::Check]) -> Self {
        let one = |check: &store::Check| match check.status {
            _ if check.id == NODE_MAINTENANCE || check.id.starts_with(SERVICE_MAINTENANCE) => {
                Self::Maintenance
            }
            Status::Passing => Self::Passing,
            Status::Warning => Self::Warning,
            Status::Critical => Self::Critical,
        };
        checks.iter().map(one).max().unwrap_or(Self::Passing)
    }

    fn label(self) -> &'static str {
        match self {
            Self::Passing => "passing",
            Self::Warning => "warning",
            Self::Critical => "critical",
            Self::Maintenance => "maintenance",
        }
    }

    fn status_code(self) -> StatusCode {
        match self {
            Self::Passing => StatusCode::OK,
            Self::Warning => StatusCode::TOO_MANY_REQUESTS,
            Self::Critical | Self::Maintenance => StatusCode::SERVICE_UNAVAILABLE,
        }
    }
}

/// `agent/health/service/id/ID`
pub(super) fn by_id(context: &HttpContext, call: &ApiRequest) -> Result<Reply, Reply> {
    let id = call.path_rest.as_str();
    if id.is_empty() {
        return Err(Reply::internal_error("Bad request: Missing serviceID"));
    }
    Ok(context.store.read(|store| match store.agent_service(id) {
        Some(service) => {
            let checks = checks_of(store, service);
            let health = AggregatedStatus::worst_of(&checks);
            let reply = match wants_plain_text(call) {
                true => Reply::plain_value(health.label()),
                false => Reply::json(&agent_health(store, service, &checks), call),
            };
            reply.with_status(health.status_code()).with_header(REASON, health.label())
        }
        None => {
            let reason = format!("ServiceId {id} not found");
            let nothing = AgentHealth { aggregated_status: "critical", service: None, checks: None };
            let reply = match wants_plain_text(call) {
                // As in Consul: JSON in spite of `text/plain`.
                true => Reply::json(&reason, call),
                false => Reply::json(&nothing, call),
            };
            reply.with_status(StatusCode::NOT_FOUND).with_header(REASON, &reason)
        }
    }))
}

/// `agent/health/service/name/NAME`: the worst of the local instances counts.
pub(super) fn by_name(context: &HttpContext, call: &ApiRequest) -> Result<Reply, Reply> {
    let name = call.path_rest.as_str();
    if name.is_empty() {
        return Err(Reply::internal_error("Bad request: Missing service Name"));
    }
    Ok(context.store.read(|store| {
        let found: Vec<(&store::Service, Vec<store::Check>)> = store
            .agent_services()
            .filter(|service| service.name == name)
            .map(|service| (service, checks_of(store, service)))
            .collect();
        let worst = found.iter().map(|(_, checks)| AggregatedStatus::worst_of(checks)).max();
        let (status, reason) = match worst {
            Some(health) => (health.status_code(), health.label().to_owned()),
            None => (StatusCode::NOT_FOUND, format!("ServiceName {name} Not Found")),
        };
        let reply = if wants_plain_text(call) {
            Reply::plain_value(reason.clone())
        } else {
            let entries: Vec<_> =
                found.iter().map(|(service, checks)| agent_health(store, service, checks)).collect();
            Reply::json(&entries, call)
        };
        reply.with_status(status).with_header(REASON, &reason)
    }))
}

/// The service's checks, and the node's.
fn checks_of(store: &Store, service: &store::Service) -> Vec<store::Check> {
    store
        .agent_checks()
        .filter(|check| check.service_id == service.id || check.service_id.is_empty())
        .collect()
}

fn agent_health<'a>(
    store: &'a Store,
    service: &'a store::Service,
    checks: &'a [store::Check],
) -> AgentHealth<'a> {
    AgentHealth {
        aggregated_status: AggregatedStatus::worst_of(checks).label(),
        service: Some(service),
        checks: Some(
            checks.iter().map(|check| CheckJson::for_agent_health(&store.own_node, check)).collect(),
        ),
    }
}

fn wants_plain_text(call: &ApiRequest) -> bool {
    call.query.first("format") == Some("text") || (call.accept == "text/plain" && !call.query.has("format"))
}
