//! `/v1/health/*`: services with their checks.

use http::StatusCode;
use outrigger_filter::{consul as fields, golang::parse_bool};

use super::{context::HttpContext, read, reply::Reply, request::ApiRequest};
use crate::{
    row_filter::RowFilter,
    store::{self, Check, Row, Service, Status, Store, Topic},
    wire::response,
};

/// `health/service/NAME`
pub(super) async fn service(context: &HttpContext, call: &ApiRequest) -> Result<Reply, Reply> {
    let name = read::require_name(call, "Missing service name")?;
    let passing = parse_passing(call)?;
    let datacenter = &context.options.datacenter;
    let show = |store: &Store, filter: &RowFilter| {
        let fitting = store
            .instances(name)
            .filter(|(node, row)| read::matches_node_meta(call, node) && has_tags(call, &row.value));
        let entries = fitting.map(|(node, row)| {
            let checks = checks_of(node, &row.value.id);
            let entry = response::HealthEntry {
                node: response::NodeJson::new(node, datacenter),
                service: row.into(),
                checks: checks
                    .iter()
                    .map(|row| response::CheckJson::from_row(&node.info.name, row))
                    .collect(),
            };
            (checks.iter().all(|row| row.value.status == Status::Passing), entry)
        });
        let mut entries: Vec<_> = entries.filter(|(_, entry)| filter.keeps(entry)).collect();
        if passing {
            retain_passing(&mut entries);
        }
        Reply::json(&entries.into_iter().map(|(_, entry)| entry).collect::<Vec<_>>(), call)
    };
    read::filtered_read(context, call, Topic::Health(name.to_owned()), &fields::HEALTH, show).await
}

/// Whether only services that pass are asked for.
pub(super) fn parse_passing(call: &ApiRequest) -> Result<bool, Reply> {
    match call.query.first("passing") {
        None => Ok(false),
        Some("") => Ok(true),
        Some(text) => {
            parse_bool(text).map_err(|_| Reply::text(StatusCode::BAD_REQUEST, "Invalid value for ?passing"))
        }
    }
}

/// `health/checks/NAME`: the checks of a service.
pub(super) async fn checks(context: &HttpContext, call: &ApiRequest) -> Result<Reply, Reply> {
    let name = read::require_name(call, "Missing service name")?.to_lowercase();
    let topic = Topic::ChecksOf(name.clone());
    list_checks(context, call, topic, |check| check.service_name.to_lowercase() == name).await
}

/// `health/state/STATUS`: the checks in that state; `any` for all.
pub(super) async fn state(context: &HttpContext, call: &ApiRequest) -> Result<Reply, Reply> {
    let state = read::require_name(call, "Missing check state")?;
    list_checks(context, call, Topic::Checks, |check| state == "any" || check.status.label() == state).await
}

/// `health/node/NAME`: the checks of a node, its services' included.
pub(super) async fn node(context: &HttpContext, call: &ApiRequest) -> Result<Reply, Reply> {
    let name = read::require_name(call, "Missing node name")?;
    let show = |store: &Store, filter: &RowFilter| {
        let node = store.node(name);
        let checks = node.into_iter().flat_map(|node| {
            node.checks.values().map(|row| response::CheckJson::from_row(&node.info.name, row))
        });
        Reply::json(&checks.filter(|check| filter.keeps(check)).collect::<Vec<_>>(), call)
    };
    read::filtered_read(context, call, Topic::Checks, &fields::CHECK, show).await
}

/// The checks of every node that `fits`.
async fn list_checks(
    context: &HttpContext,
    call: &ApiRequest,
    topic: Topic,
    fits: impl Fn(&Check) -> bool,
) -> Result<Reply, Reply> {
    let show = |store: &Store, filter: &RowFilter| {
        let nodes = store.nodes().filter(|node| read::matches_node_meta(call, node));
        let checks = nodes.flat_map(|node| {
            let rows = node.checks.values().filter(|row| fits(&row.value));
            rows.map(|row| response::CheckJson::from_row(&node.info.name, row))
        });
        Reply::json(&checks.filter(|check| filter.keeps(check)).collect::<Vec<_>>(), call)
    };
    read::filtered_read(context, call, topic, &fields::CHECK, show).await
}

/// Drops the instances that do not pass. The last entry replaces a dropped one, which gives Consul's order.
fn retain_passing<T>(entries: &mut Vec<(bool, T)>) {
    let mut at = 0;
    while let Some((passes, _)) = entries.get(at) {
        if *passes {
            at += 1;
        } else {
            entries.swap_remove(at);
        }
    }
}

/// The node's own checks, then those of the service.
fn checks_of<'a>(node: &'a store::Node, service: &str) -> Vec<&'a Row<Check>> {
    let of_node = node.checks.values().filter(|row| row.value.service_id.is_empty());
    let of_service =
        node.checks.values().filter(|row| !service.is_empty() && row.value.service_id == service);
    of_node.chain(of_service).collect()
}

/// Whether a service has every tag that the call names. Tags are compared without case.
pub(super) fn has_tags(call: &ApiRequest, service: &Service) -> bool {
    call.query
        .all("tag")
        .all(|wanted| service.tags.iter().any(|tag| tag.to_lowercase() == wanted.to_lowercase()))
}
