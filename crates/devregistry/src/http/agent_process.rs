//! `/v1/agent/*`: the agent as a process and as a member of the cluster.

use std::collections::BTreeMap;

use http::{StatusCode, header};

use super::{
    catalog,
    context::HttpContext,
    reply::Reply,
    request::{self, ApiRequest},
};
use crate::{
    options::CONSUL_VERSION,
    store::{Coordinate, SERF_PORT, SERF_WAN_PORT, SERVER_PORT, Store},
    wire::{
        agent::{AgentConfig, AgentSelf, Gauge, Member, MetricsJson},
        response::EmptyObject,
    },
};

/// `agent/self`
pub(super) fn agent_self(context: &HttpContext, call: &ApiRequest) -> Result<Reply, Reply> {
    Ok(context.store.read(|store| {
        let config = AgentConfig {
            datacenter: &context.options.datacenter,
            node_name: &store.own_node,
            node_id: own_node_id(store),
            revision: "",
            server: true,
            version: CONSUL_VERSION,
        };
        let coordinate = Coordinate::origin();
        let shown = AgentSelf {
            config,
            debug_config: BTreeMap::new(),
            coord: (&coordinate).into(),
            member: member(context, store),
            stats: stats(store),
            meta: [("consul-network-segment", "")].into(),
        };
        Reply::json(&shown, call)
    }))
}

/// `agent/members`: the only member, also of the servers of all datacenters.
pub(super) fn members(context: &HttpContext, call: &ApiRequest) -> Result<Reply, Reply> {
    let segment = call.query.first("segment").filter(|segment| !matches!(*segment, "" | "_all"));
    if call.query.first("wan").is_some_and(|wan| !wan.is_empty()) {
        return match segment {
            None => Ok(context.store.read(|store| {
                let name = format!("{}.{}", store.own_node, context.options.datacenter);
                let lan = member(context, store);
                Reply::json(&[Member { name: &name, port: SERF_WAN_PORT, ..lan }], call)
            })),
            Some(_) => Err(Reply::text(StatusCode::BAD_REQUEST, "Cannot provide a segment with wan=true")),
        };
    }
    if segment.is_some() {
        return Err(Reply::internal_error("Network segments are not supported in this version of Consul"));
    }
    Ok(context.store.read(|store| Reply::json(&[member(context, store)], call)))
}

fn own_node_id(store: &Store) -> &str {
    store.node(&store.own_node).map_or("", |node| &node.info.id)
}

fn member<'a>(context: &'a HttpContext, store: &'a Store) -> Member<'a> {
    let (port, build) = (SERVER_PORT.to_string(), format!("{CONSUL_VERSION}:"));
    let tags = [
        ("acls", "0"),
        ("bootstrap", "1"),
        ("build", &build),
        ("dc", &context.options.datacenter),
        ("ft_fs", "1"),
        ("id", own_node_id(store)),
        ("port", &port),
        ("raft_vsn", "3"),
        ("role", "consul"),
        ("segment", ""),
        ("vsn", "2"),
        ("vsn_max", "3"),
        ("vsn_min", "2"),
    ];
    Member {
        name: &store.own_node,
        addr: store.node(&store.own_node).map_or("", |node| &node.info.address),
        port: SERF_PORT,
        tags: tags.iter().map(|(name, value)| (*name, (*value).to_owned())).collect(),
        status: 1,
        protocol_min: 1,
        protocol_max: 5,
        protocol_cur: 2,
        delegate_min: 2,
        delegate_max: 5,
        delegate_cur: 4,
    }
}

/// What Consul counts of its parts; those that this registry has.
fn stats(store: &Store) -> BTreeMap<&'static str, BTreeMap<&'static str, String>> {
    let part = |facts: &[(&'static str, &str)]| {
        facts.iter().map(|(name, value)| (*name, (*value).to_owned())).collect::<BTreeMap<_, _>>()
    };
    let (checks, services) =
        (store.agent_checks().count().to_string(), store.agent_services().count().to_string());
    let ttls = store.agent_checks().filter(|check| check.kind == "ttl").count().to_string();
    let index = store.last_index().to_string();
    [
        (
            "agent",
            part(&[
                ("check_monitors", "0"),
                ("check_ttls", &ttls),
                ("checks", &checks),
                ("services", &services),
            ]),
        ),
        ("build", part(&[("prerelease", ""), ("revision", ""), ("version", CONSUL_VERSION)])),
        (
            "consul",
            part(&[
                ("acl", "disabled"),
                ("bootstrap", "true"),
                ("known_datacenters", "1"),
                ("leader", "true"),
                ("leader_addr", &catalog::server_address(store)),
                ("server", "true"),
            ]),
        ),
        (
            "raft",
            part(&[
                ("applied_index", &index),
                ("commit_index", &index),
                ("last_contact", "0"),
                ("last_log_index", &index),
                ("num_peers", "0"),
                ("state", "Leader"),
            ]),
        ),
        ("serf_lan", part(&[("encrypted", "false"), ("failed", "0"), ("left", "0"), ("members", "1")])),
    ]
    .into()
}

/// `agent/metrics`: JSON. The format of Prometheus is refused, as by an agent that keeps no metrics for it.
pub(super) fn metrics(context: &HttpContext, call: &ApiRequest) -> Result<Reply, Reply> {
    if call.query.first("format") == Some("prometheus") || request::accepts_open_metrics(&call.accept) {
        let why = "Prometheus is not enabled since its retention time is not positive";
        return Err(Reply::text(StatusCode::UNSUPPORTED_MEDIA_TYPE, why));
    }
    let interval = context.metrics.last_interval();
    #[expect(clippy::cast_precision_loss, reason = "no index is that large")]
    let index = context.store.read(Store::last_index) as f64;
    let gauges = [
        ("consul.autopilot.failure_tolerance", 0.0),
        ("consul.autopilot.healthy", 1.0),
        ("consul.raft.applied_index", index),
        ("consul.raft.last_index", index),
    ];
    let gauge = |(name, value): (&str, f64)| Gauge { name: name.to_owned(), value, labels: EmptyObject {} };
    let shown = MetricsJson {
        timestamp: interval.timestamp(),
        gauges: gauges.map(gauge).into(),
        points: Vec::new(),
        counters: interval.counters(),
        samples: interval.samples(),
    };
    Ok(Reply::json(&shown, call))
}

/// `agent/reload`: there is no configuration to read again.
pub(super) fn reload(_: &HttpContext, _: &ApiRequest) -> Result<Reply, Reply> {
    Ok(Reply::empty())
}

/// `agent/leave`: the registry stops. Blocked queries are answered; Consul takes about eight seconds for it.
pub(super) fn leave(context: &HttpContext, _: &ApiRequest) -> Result<Reply, Reply> {
    context.store.stopping.cancel();
    Ok(Reply::empty().with_header(header::CONNECTION, "close"))
}

/// `agent/force-leave/NAME`: the only member stays.
pub(super) fn force_leave(context: &HttpContext, call: &ApiRequest) -> Result<Reply, Reply> {
    let name = call.path_rest.as_str();
    match context.store.read(|store| store.own_node == name) {
        true => Ok(Reply::empty()),
        false => Err(Reply::internal_error(format!("agent: No node found with name '{name}'"))),
    }
}
