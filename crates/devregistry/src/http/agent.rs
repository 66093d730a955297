//! `/v1/agent/*`: what clients register, report and look up.

use std::collections::BTreeMap;

use http::{HeaderName, StatusCode};
use outrigger_filter::{consul as fields, golang::parse_bool};

use super::{context::HttpContext, read, reply::Reply, request::ApiRequest};
use crate::{
    blocking,
    row_filter::RowFilter,
    store::{self, Status, Store},
    wire::{
        request,
        response::{AgentService, CheckJson},
    },
};

const CONTENT_HASH: HeaderName = HeaderName::from_static("x-consul-contenthash");

/// `agent/services`, by id.
pub(super) fn services(context: &HttpContext, call: &ApiRequest) -> Result<Reply, Reply> {
    let filter = read::parse_filter(call, &fields::SERVICE).map_err(Reply::internal_error)?;
    Ok(context.store.read(|store| {
        let services: BTreeMap<&str, &store::Service> = store
            .agent_services()
            .filter(|service| filter.keeps(service))
            .map(|service| (service.id.as_str(), service))
            .collect();
        Reply::json(&services, call)
    }))
}

/// `agent/service/ID`; with `hash`, waits until the definition has another hash.
pub(super) async fn service(context: &HttpContext, call: &ApiRequest) -> Result<Reply, Reply> {
    let wait = read::parse_wait(call)?;
    let id = call.path_rest.as_str();
    if let Some(hash) = call.query.first("hash").filter(|hash| !hash.is_empty()) {
        let _slot = read::acquire_blocking_slot(context)?;
        let changed = |store: &Store| store.agent_service(id).is_none_or(|found| content_hash(found) != hash);
        blocking::wait_until(&context.store, blocking::block_time(wait), changed).await;
    }
    context.store.read(|store| {
        let Some(service) = store.agent_service(id) else {
            return Err(Reply::text(StatusCode::NOT_FOUND, &format!("unknown service ID: {id}")));
        };
        let hash = content_hash(service);
        let shown = AgentService { service, content_hash: &hash };
        Ok(Reply::json(&shown, call).with_header(CONTENT_HASH, &hash))
    })
}

/// The hash of a definition. Hexadecimal, not padded.
fn content_hash(service: &store::Service) -> String {
    // FNV-1a.
    let definition = format!("{service:?}");
    let hash = definition.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    format!("{hash:x}")
}

/// `agent/checks`, by id.
pub(super) fn checks(context: &HttpContext, call: &ApiRequest) -> Result<Reply, Reply> {
    let expression = read::parse_filter_expression(call).map_err(Reply::internal_error)?;
    context.store.read(|store| {
        let held: Vec<store::Check> = store.agent_checks().collect();
        // Here alone Consul checks the fields with the first row, and not without one.
        let filter = match expression.filter(|_| !held.is_empty()) {
            Some(expression) => expression
                .bind(&fields::CHECK)
                .map(RowFilter::from)
                .map_err(|error| Reply::internal_error(error.to_string()))?,
            None => RowFilter::default(),
        };
        let checks: BTreeMap<&str, CheckJson<'_>> = held
            .iter()
            .map(|check| (check.id.as_str(), CheckJson::from_check(&store.own_node, check)))
            .filter(|(_, check)| filter.keeps(check))
            .collect();
        Ok(Reply::json(&checks, call))
    })
}

/// `agent/service/register`
pub(super) fn register(context: &HttpContext, call: &ApiRequest) -> Result<Reply, Reply> {
    let new = request::parse_registration(&call.body)?;
    let replace = matches!(call.query.first("replace-existing-checks"), Some("" | "true"));
    context.store.write(|store, now| store.register(new, replace, now));
    Ok(Reply::empty())
}

/// `agent/service/deregister/ID`
pub(super) fn deregister(context: &HttpContext, call: &ApiRequest) -> Result<Reply, Reply> {
    if call.path_rest.is_empty() {
        return Err(Reply::internal_error("ServiceID missing"));
    }
    context.store.write(|store, now| store.deregister(&call.path_rest, now));
    Ok(Reply::empty())
}

/// `agent/check/register`
pub(super) fn register_check(context: &HttpContext, call: &ApiRequest) -> Result<Reply, Reply> {
    let (new, service) = request::parse_check_registration(&call.body)?;
    let result = context.store.write(|store, now| store.register_check(new, service.as_deref(), now));
    result.map(|()| Reply::empty()).ok_or_else(|| {
        let text = format!("ServiceID {:?} does not exist", service.unwrap_or_default());
        Reply::internal_error(text)
    })
}

/// `agent/check/deregister/ID`
pub(super) fn deregister_check(context: &HttpContext, call: &ApiRequest) -> Result<Reply, Reply> {
    if call.path_rest.is_empty() {
        return Err(Reply::internal_error("CheckID missing"));
    }
    context.store.write(|store, now| store.deregister_check(&call.path_rest, now));
    Ok(Reply::empty())
}

/// `agent/check/{pass,warn,fail}/ID`
pub(super) fn report(context: &HttpContext, call: &ApiRequest, status: Status) -> Result<Reply, Reply> {
    report_status(context, call, status, call.query.first("note").unwrap_or_default())
}

/// `agent/check/update/ID`
pub(super) fn update(context: &HttpContext, call: &ApiRequest) -> Result<Reply, Reply> {
    let (status, output) = request::parse_check_update(&call.body)?;
    report_status(context, call, status, &output)
}

fn report_status(
    context: &HttpContext,
    call: &ApiRequest,
    status: Status,
    output: &str,
) -> Result<Reply, Reply> {
    let result = context.store.write(|store, now| store.report(&call.path_rest, status, output, now));
    result.map(|()| Reply::empty()).ok_or_else(|| {
        let text = format!("CheckID {:?} does not have associated TTL", call.path_rest);
        Reply::internal_error(text)
    })
}

/// `agent/service/maintenance/ID`
pub(super) fn set_service_maintenance(context: &HttpContext, call: &ApiRequest) -> Result<Reply, Reply> {
    let id = read::require_name(call, "Missing service ID")?;
    let reason = parse_maintenance(call)?;
    context
        .store
        .write(|store, now| store.set_service_maintenance(id, reason, now))
        .map(|()| Reply::empty())
        .ok_or_else(|| Reply::text(StatusCode::NOT_FOUND, &format!("No service registered with ID {id:?}")))
}

/// `agent/maintenance`
pub(super) fn set_node_maintenance(context: &HttpContext, call: &ApiRequest) -> Result<Reply, Reply> {
    let reason = parse_maintenance(call)?;
    context.store.write(|store, now| store.set_node_maintenance(reason, now));
    Ok(Reply::empty())
}

/// The reason, if the request begins maintenance.
fn parse_maintenance(call: &ApiRequest) -> Result<Option<&str>, Reply> {
    let bad = |text: &str| Reply::text(StatusCode::BAD_REQUEST, text);
    let enable = call.query.first("enable").ok_or_else(|| bad("Missing value for enable"))?;
    let begins = parse_bool(enable).map_err(|_| bad(&format!("Invalid value for enable: {enable:?}")))?;
    Ok(begins.then(|| call.query.first("reason").unwrap_or_default()))
}
