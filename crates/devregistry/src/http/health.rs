//! `/v1/health/*`: services with their checks.

use super::{Call, read, reply::Reply};
use crate::{
    server::Shared,
    store::{self, Check, Row, Service, Status, Store, Topic},
    wire::answer,
};
use http::StatusCode;

/// `health/service/NAME`
pub(super) async fn service(shared: &Shared, call: &Call) -> Result<Reply, Reply> {
    let name = read::named(call, "Missing service name")?;
    let passing = match call.query.first("passing") {
        None => false,
        Some("" | "1" | "t" | "T" | "true" | "TRUE" | "True") => true,
        Some("0" | "f" | "F" | "false" | "FALSE" | "False") => false,
        Some(_) => return Err(Reply::text(StatusCode::BAD_REQUEST, "Invalid value for ?passing")),
    };
    let wanted = read::wanted_id(call)?;
    let datacenter = &shared.options.datacenter;
    let show = |store: &Store| {
        let mut found: Vec<_> = store
            .instances(name)
            .filter(|(node, row)| read::node_fits(call, node) && has_tags(call, &row.what))
            .filter(|(_, row)| wanted.is_none_or(|id| row.what.id == id))
            .map(|(node, row)| (node, row, checks_of(node, &row.what.id)))
            .collect();
        if passing {
            keep_passing(&mut found);
        }
        let entries: Vec<answer::HealthEntry<'_>> = found
            .into_iter()
            .map(|(node, row, checks)| answer::HealthEntry {
                node: answer::Node::new(node, datacenter),
                service: row.into(),
                checks: checks.iter().map(|row| answer::Check::listed(&node.about.name, row)).collect(),
            })
            .collect();
        Reply::json(&entries, call)
    };
    read::blocking(shared, call, Topic::Health(name.to_owned()), show).await
}

/// `health/checks/NAME`: the checks of a service.
pub(super) async fn checks(shared: &Shared, call: &Call) -> Result<Reply, Reply> {
    let name = read::named(call, "Missing service name")?.to_lowercase();
    let topic = Topic::ChecksOf(name.clone());
    list(shared, call, topic, |check| check.service_name.to_lowercase() == name).await
}

/// `health/state/STATUS`: the checks in that state; `any` for all.
pub(super) async fn state(shared: &Shared, call: &Call) -> Result<Reply, Reply> {
    let state = read::named(call, "Missing check state")?;
    list(shared, call, Topic::Checks, |check| state == "any" || check.status.word() == state).await
}

/// `health/node/NAME`: the checks of a node, its services' included.
pub(super) async fn node(shared: &Shared, call: &Call) -> Result<Reply, Reply> {
    let name = read::named(call, "Missing node name")?;
    let show = |store: &Store| {
        let node = store.node(name);
        let checks = node
            .into_iter()
            .flat_map(|node| node.checks.values().map(|row| answer::Check::listed(&node.about.name, row)));
        Reply::json(&checks.collect::<Vec<_>>(), call)
    };
    read::blocking(shared, call, Topic::Checks, show).await
}

/// The checks of every node that `fits`.
async fn list(
    shared: &Shared,
    call: &Call,
    topic: Topic,
    fits: impl Fn(&Check) -> bool,
) -> Result<Reply, Reply> {
    let show = |store: &Store| {
        let nodes = store.nodes().filter(|node| read::node_fits(call, node));
        let checks = nodes.flat_map(|node| {
            let rows = node.checks.values().filter(|row| fits(&row.what));
            rows.map(|row| answer::Check::listed(&node.about.name, row))
        });
        Reply::json(&checks.collect::<Vec<_>>(), call)
    };
    read::blocking(shared, call, topic, show).await
}

/// An instance: its node, itself, its checks.
type Found<'a> = (&'a store::Node, &'a Row<Service>, Vec<&'a Row<Check>>);

/// Drops what does not pass. The last entry takes the place of a dropped one: Consul's own order.
fn keep_passing(entries: &mut Vec<Found<'_>>) {
    let mut at = 0;
    while let Some((.., checks)) = entries.get(at) {
        if checks.iter().all(|row| row.what.status == Status::Passing) {
            at += 1;
        } else {
            entries.swap_remove(at);
        }
    }
}

/// The node's own checks, then those of the service.
fn checks_of<'a>(node: &'a store::Node, service: &str) -> Vec<&'a Row<Check>> {
    let of_node = node.checks.values().filter(|row| row.what.service_id.is_empty());
    let of_service = node.checks.values().filter(|row| !service.is_empty() && row.what.service_id == service);
    of_node.chain(of_service).collect()
}

/// Whether a service has every tag that the call names. Tags are compared without case.
pub(super) fn has_tags(call: &Call, service: &Service) -> bool {
    call.query
        .all("tag")
        .all(|wanted| service.tags.iter().any(|tag| tag.to_lowercase() == wanted.to_lowercase()))
}
