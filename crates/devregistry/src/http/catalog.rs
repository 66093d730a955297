//! `/v1/catalog/*` and `/v1/status/*`.

use std::collections::{BTreeMap, BTreeSet};

use super::{context::HttpContext, health, read, reply::Reply, request::ApiRequest};
use outrigger_filter::consul as fields;

use crate::{
    row_filter::RowFilter,
    store::{self, SERVER_PORT, Store, Topic},
    wire::{
        request::{self, Refusal},
        response,
    },
};

/// `catalog/datacenters`
pub(super) fn datacenters(context: &HttpContext, call: &ApiRequest) -> Result<Reply, Reply> {
    Ok(Reply::json(&[&context.options.datacenter], call))
}

/// `catalog/nodes`
pub(super) async fn nodes(context: &HttpContext, call: &ApiRequest) -> Result<Reply, Reply> {
    let datacenter = &context.options.datacenter;
    let show = |store: &Store, filter: &RowFilter| {
        let fitting = store.nodes().filter(|node| read::matches_node_meta(call, node));
        let nodes = fitting.map(|node| response::NodeJson::new(node, datacenter));
        Reply::json(&nodes.filter(|node| filter.keeps(node)).collect::<Vec<_>>(), call)
    };
    read::filtered_read(context, call, Topic::Nodes, &fields::NODE, show).await
}

/// `catalog/node/NAME`: a node with its services, by id.
pub(super) async fn node(context: &HttpContext, call: &ApiRequest) -> Result<Reply, Reply> {
    let name = read::require_name(call, "Missing node name")?;
    let show = |store: &Store, filter: &RowFilter| {
        let found = store.node(name).map(|node| response::NodeServices {
            node: response::NodeJson::new(node, &context.options.datacenter),
            services: services_of(node, filter).map(|(id, service)| (id.as_str(), service)).collect(),
        });
        Reply::json(&found, call)
    };
    read::filtered_read(context, call, Topic::Node(name.to_owned()), &fields::SERVICE, show).await
}

/// `catalog/node-services/NAME`: a node with its services, as a list.
pub(super) async fn node_services(context: &HttpContext, call: &ApiRequest) -> Result<Reply, Reply> {
    let name = read::require_name(call, "Missing node name")?;
    let show = |store: &Store, filter: &RowFilter| {
        let node = store.node(name);
        let found = response::NodeServiceList {
            node: node.map(|node| response::NodeJson::new(node, &context.options.datacenter)),
            services: node.map(|node| services_of(node, filter).map(|(_, service)| service).collect()),
        };
        Reply::json(&found, call)
    };
    read::filtered_read(context, call, Topic::Node(name.to_owned()), &fields::SERVICE, show).await
}

/// The services of a node that the filter keeps, by id.
fn services_of<'a>(
    node: &'a store::Node,
    filter: &RowFilter,
) -> impl Iterator<Item = (&'a String, response::NodeService<'a>)> {
    let services = node.services.iter().map(|(id, row)| (id, response::NodeService::from(row)));
    services.filter(|(_, service)| filter.keeps(service))
}

/// `catalog/services`: names, each with all its instances' tags.
pub(super) async fn services(context: &HttpContext, call: &ApiRequest) -> Result<Reply, Reply> {
    let show = |store: &Store| {
        let mut tags: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        for node in store.nodes().filter(|node| read::matches_node_meta(call, node)) {
            for row in node.services.values() {
                let service = &row.value;
                tags.entry(&service.name).or_default().extend(service.tags.iter().map(String::as_str));
            }
        }
        Reply::json(&tags, call)
    };
    read::blocking_read(context, call, Topic::Services, show).await
}

/// `catalog/service/NAME`: instances, without their health.
pub(super) async fn instances(context: &HttpContext, call: &ApiRequest) -> Result<Reply, Reply> {
    let name = read::require_name(call, "Missing service name")?;
    let datacenter = &context.options.datacenter;
    let show = |store: &Store, filter: &RowFilter| {
        let entries: Vec<_> = store
            .instances(name)
            .filter(|(node, row)| read::matches_node_meta(call, node) && health::has_tags(call, &row.value))
            .map(|(node, row)| response::CatalogServiceEntry::new(node, row, datacenter))
            .filter(|entry| filter.keeps(entry))
            .collect();
        Reply::json(&entries, call)
    };
    let topic = Topic::Instances(name.to_owned());
    read::filtered_read(context, call, topic, &fields::CATALOG_SERVICE, show).await
}

/// `catalog/register`: nodes without an agent.
pub(super) fn register(context: &HttpContext, call: &ApiRequest) -> Result<Reply, Reply> {
    let (node, service, checks) =
        request::parse_catalog_registration(&call.body, &context.options.datacenter)?;
    context.store.write(|store, now| {
        reject_own_node(store, &node.name)?;
        store.catalog_register(node, service, checks, now);
        Ok(Reply::json(&true, call))
    })
}

/// `catalog/deregister`
pub(super) fn deregister(context: &HttpContext, call: &ApiRequest) -> Result<Reply, Reply> {
    let (node, service, check) = request::parse_catalog_removal(&call.body, &context.options.datacenter)?;
    context.store.write(|store, now| {
        reject_own_node(store, &node)?;
        store.catalog_deregister(&node, service.as_deref(), check.as_deref(), now);
        Ok(Reply::json(&true, call))
    })
}

/// Consul accepts a write to an agent's node and reverts it within minutes; this registry refuses it.
fn reject_own_node(store: &store::Store, node: &str) -> Result<(), Reply> {
    if node.to_lowercase() != store.own_node.to_lowercase() {
        return Ok(());
    }
    Err(Refusal::unsupported("takes no catalog writes to its agent's own node: use /v1/agent/ for it").into())
}

/// `status/leader`
pub(super) fn leader(context: &HttpContext, call: &ApiRequest) -> Result<Reply, Reply> {
    Ok(Reply::json(&context.store.read(server_address), call))
}

/// `status/peers`
pub(super) fn peers(context: &HttpContext, call: &ApiRequest) -> Result<Reply, Reply> {
    Ok(Reply::json(&[context.store.read(server_address)], call))
}

/// The address at which Consul's servers would find this one.
pub(super) fn server_address(store: &Store) -> String {
    let own = store.node(&store.own_node);
    let ip = own.map_or("127.0.0.1", |node| &node.info.address);
    if ip.contains(':') { format!("[{ip}]:{SERVER_PORT}") } else { format!("{ip}:{SERVER_PORT}") }
}
