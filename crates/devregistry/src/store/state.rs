//! The store itself: its parts, and a fresh one.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    time::{Duration, Instant},
};

use super::{
    agent_state::Agent,
    coordinate_table::CoordinateTable,
    event_state::EventTable,
    index::TableIndexes,
    kv_table::{KvTable, KvTimers},
    model::{Check, Node, NodeInfo, Service, Status, Weights},
    session_table::SessionTable,
};
use crate::options::{CONSUL_VERSION, DevRegistryOptions};

/// The port of the built-in `consul` service. Nothing listens on it.
pub(crate) const SERVER_PORT: u16 = 8300;
/// The port for the gossip of agents. Nothing listens on it.
pub(crate) const SERF_PORT: u16 = 8301;
/// The same between servers of all datacenters.
pub(crate) const SERF_WAN_PORT: u16 = 8302;

/// The whole state of the registry.
#[derive(Debug)]
pub(crate) struct Store {
    /// The index of the last write.
    pub(super) index: u64,
    /// The name of the agent's own node.
    pub(crate) own_node: String,
    pub(super) nodes: BTreeMap<String, Node>,
    pub(super) tables: TableIndexes,
    pub(super) agent: Agent,
    pub(super) kv: KvTable,
    pub(super) kv_timers: KvTimers,
    pub(super) sessions: SessionTable,
    pub(super) events: EventTable,
    pub(super) coordinates: CoordinateTable,
    pub(super) next_reap: Instant,
    pub(super) reap_interval: Duration,
    pub(super) deregister_after_min: Duration,
    pub(super) update_interval: Duration,
}

impl Store {
    /// A fresh registry: only its own node.
    pub(crate) fn new(options: &DevRegistryOptions, addr: SocketAddr, now: Instant) -> Self {
        // An interval of zero would loop for ever.
        let reap_interval = options.check_reap_interval.max(Duration::from_millis(1));
        let mut store = Self {
            // A fresh Consul server makes some writes before its first client.
            index: 4,
            own_node: options.node_name.clone(),
            nodes: BTreeMap::new(),
            tables: TableIndexes::default(),
            agent: Agent::default(),
            kv: KvTable::default(),
            kv_timers: KvTimers::new(options.kv_tombstone_ttl, now),
            sessions: SessionTable::default(),
            events: EventTable::default(),
            coordinates: CoordinateTable::new(options.coordinate_update_period, now),
            next_reap: now + reap_interval,
            reap_interval,
            deregister_after_min: options.check_deregister_interval_min,
            update_interval: options.check_update_interval,
        };
        let at = store.next_index();
        store.put_node(own_node_info(options, addr), at);
        store.put_service(&options.node_name, consul_service(), at);
        store.put_check(&options.node_name, serf_health(), at, now);
        store
    }
}

fn own_node_info(options: &DevRegistryOptions, addr: SocketAddr) -> NodeInfo {
    let ip = if addr.ip().is_unspecified() { [127, 0, 0, 1].into() } else { addr.ip() };
    let family = if ip.is_ipv4() { "ipv4" } else { "ipv6" };
    let address = ip.to_string();
    let names = ["lan".to_owned(), format!("lan_{family}"), "wan".to_owned(), format!("wan_{family}")];
    NodeInfo {
        id: uuid(),
        name: options.node_name.clone(),
        tagged_addresses: Some(names.into_iter().map(|name| (name, address.clone())).collect()),
        address,
        meta: [("consul-network-segment".to_owned(), String::new())].into(),
    }
}

/// Every Consul server lists itself.
fn consul_service() -> Service {
    let facts = [
        ("non_voter", "false"),
        ("raft_version", "3"),
        ("serf_protocol_current", "2"),
        ("serf_protocol_max", "5"),
        ("serf_protocol_min", "1"),
        ("version", CONSUL_VERSION),
    ];
    Service {
        id: "consul".to_owned(),
        name: "consul".to_owned(),
        tags: Vec::new(),
        address: String::new(),
        tagged_addresses: BTreeMap::new(),
        meta: facts.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect(),
        port: i64::from(SERVER_PORT),
        weights: Weights { passing: 1, warning: 1 },
        enable_tag_override: false,
    }
}

/// The check that every node with an agent has.
fn serf_health() -> Check {
    Check {
        name: "Serf Health Status".to_owned(),
        status: Status::Passing,
        output: "Agent alive and reachable".to_owned(),
        ..Check::of(None, "serfHealth".to_owned())
    }
}

/// A random UUID.
pub(super) fn uuid() -> String {
    let [a, b, c] = [fastrand::u64(..), fastrand::u64(..), fastrand::u64(..)];
    format!(
        "{:08x}-{:04x}-4{:03x}-{:04x}-{:012x}",
        a & 0xffff_ffff,
        (a >> 32) & 0xffff,
        b & 0xfff,
        0x8000 | (b >> 16) & 0x3fff,
        c & 0xffff_ffff_ffff
    )
}
