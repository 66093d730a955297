//! The JSON of the answers of Consul, and their meaning. Pure.
//!
//! Consul writes an empty map as `null`, as `{}` or not at all, depending on the endpoint; so every field
//! except the identity of a service may be absent or null. Unknown fields are skipped, because newer
//! versions add some.

use std::{collections::BTreeMap, sync::Arc};

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use outrigger_config::Weights;
use serde::Deserialize;

use super::{
    agent::{check_id, check_name, has_reason},
    agent_api::{AgentService, OwnCheck, ServiceChecks},
};
use crate::{
    CheckFacts, DRAINING_MARK, FactPool, HealthStatus, Instance, InstanceFacts, InstanceId, KvEntry,
    NodeFacts, ReportedHealth, Unusable, null::or_default, resolve::UnresolvedInstance,
};

/// The check by which the servers of Consul report the contact with the agent of a node.
const SERF_HEALTH: &str = "serfHealth";

/// How the output of a check begins that Consul has set to critical because its TTL passed.
const TTL_EXPIRED: &str = "TTL expired";

/// An instance of an answer, at each of its addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ListedInstance {
    /// At the address that is listed.
    pub(super) lan: UnresolvedInstance,
    /// Host and port for other networks, where they are others.
    pub(super) wan: Option<(Arc<str>, i64)>,
}

impl ListedInstance {
    /// At the address for other networks, if `wan`.
    pub(super) fn at(self, wan: bool) -> UnresolvedInstance {
        match self.wan.filter(|_| wan) {
            Some((host, port)) => UnresolvedInstance { host, port, ..self.lan },
            None => self.lan,
        }
    }
}

/// Parses the body of `/v1/health/service/:name`. For a service without instances Consul answers `[]`:
/// `null` comes from something else and must not be read as the loss of all instances.
pub(super) fn parse_health_service(body: &[u8]) -> serde_json::Result<Vec<ListedInstance>> {
    let entries: Vec<RawHealthEntry> = serde_json::from_slice(body)?;
    let mut pool = FactPool::default();
    Ok(entries.into_iter().map(|entry| entry.into_listed(&mut pool)).collect())
}

/// Parses the body of `/v1/agent/service/:id`.
pub(super) fn parse_agent_service(body: &[u8]) -> serde_json::Result<AgentService> {
    serde_json::from_slice::<RawService>(body).map(RawService::into_agent_service)
}

/// Parses the body of `/v1/agent/services`.
pub(super) fn parse_agent_services(body: &[u8]) -> serde_json::Result<Vec<AgentService>> {
    let services: Option<BTreeMap<String, RawService>> = serde_json::from_slice(body)?;
    Ok(services.unwrap_or_default().into_values().map(RawService::into_agent_service).collect())
}

/// Parses the body of `/v1/agent/health/service/id/:id`: the checks of service `id`. The checks of its node
/// are in the body too and are left out. The body does not hold the types of the checks.
pub(super) fn parse_agent_health(id: &str, body: &[u8]) -> serde_json::Result<ServiceChecks> {
    let (own, mut checks) = (check_id(id), ServiceChecks::default());
    let held = serde_json::from_slice::<RawServiceHealth>(body)?.checks;
    for check in held.into_iter().filter(|check| check.service == id) {
        if is_maintenance(&check.id) {
            checks.maintenance = Some(check.notes);
        } else if check.id == own {
            checks.own = Some(check.into_own_check());
        } else {
            checks.others.push(check.id);
        }
    }
    Ok(checks)
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct RawHealthEntry {
    node: RawNode,
    service: RawService,
    #[serde(default, deserialize_with = "or_default")]
    checks: Vec<RawCheck>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct RawNode {
    node: Arc<str>,
    #[serde(default, deserialize_with = "or_default")]
    address: Arc<str>,
    #[serde(default, deserialize_with = "or_default")]
    datacenter: Arc<str>,
    #[serde(default, deserialize_with = "or_default")]
    tagged_addresses: RawNodeAddresses,
    #[serde(default, deserialize_with = "or_default")]
    meta: BTreeMap<String, String>,
}

/// Of the tagged addresses of a node.
#[derive(Deserialize, Default)]
struct RawNodeAddresses {
    #[serde(default, deserialize_with = "or_default")]
    wan: Arc<str>,
}

/// Of the tagged addresses of a service.
#[derive(Deserialize, Default)]
struct RawServiceAddresses {
    wan: Option<RawServiceAddress>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct RawServiceAddress {
    #[serde(default, deserialize_with = "or_default")]
    address: Arc<str>,
    #[serde(default, deserialize_with = "or_default")]
    port: i64,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct RawService {
    #[serde(rename = "ID")]
    id: Arc<str>,
    #[serde(default, deserialize_with = "or_default")]
    service: String,
    #[serde(default, deserialize_with = "or_default")]
    tags: Vec<Arc<str>>,
    #[serde(default, deserialize_with = "or_default")]
    meta: BTreeMap<String, String>,
    #[serde(default, deserialize_with = "or_default")]
    port: i64,
    #[serde(default, deserialize_with = "or_default")]
    address: Arc<str>,
    #[serde(default, deserialize_with = "or_default")]
    tagged_addresses: RawServiceAddresses,
    #[serde(default, deserialize_with = "or_default")]
    weights: RawWeights,
    #[serde(default, deserialize_with = "or_default")]
    enable_tag_override: bool,
    #[serde(default, deserialize_with = "or_default")]
    create_index: u64,
    #[serde(default, deserialize_with = "or_default")]
    content_hash: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct RawWeights {
    passing: i64,
    warning: i64,
}

impl Default for RawWeights {
    fn default() -> Self {
        Self { passing: 1, warning: 1 }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct RawCheck {
    #[serde(rename = "CheckID", default, deserialize_with = "or_default")]
    id: String,
    #[serde(default, deserialize_with = "or_default")]
    status: String,
    #[serde(default, deserialize_with = "or_default")]
    name: String,
    #[serde(rename = "Type", default, deserialize_with = "or_default")]
    kind: String,
    #[serde(default, deserialize_with = "or_default")]
    output: String,
    #[serde(rename = "ServiceID", default, deserialize_with = "or_default")]
    service: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct RawServiceHealth {
    #[serde(deserialize_with = "or_default")]
    checks: Vec<RawAgentCheck>,
}

/// A check that the agent holds.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct RawAgentCheck {
    #[serde(rename = "CheckID")]
    id: String,
    #[serde(default, deserialize_with = "or_default")]
    name: String,
    #[serde(default, deserialize_with = "or_default")]
    status: String,
    #[serde(default, deserialize_with = "or_default")]
    notes: String,
    #[serde(default, deserialize_with = "or_default")]
    output: String,
    #[serde(rename = "ServiceID", default, deserialize_with = "or_default")]
    service: String,
    #[serde(default, deserialize_with = "or_default")]
    service_name: String,
}

impl RawHealthEntry {
    fn into_listed(self, pool: &mut FactPool) -> ListedInstance {
        let wan = self.wan();
        let status = worst_status(&self.checks);
        let service = self.service;
        let weights = service.weights.clamp_weights();
        let node_lost = is_node_lost(&self.checks, weights);
        let draining = status == HealthStatus::Critical && is_draining(&self.checks);
        let node = NodeFacts { address: self.node.address.clone(), meta: pool.map(self.node.meta) };
        let facts = InstanceFacts {
            service: pool.text(&service.service),
            address: service.address.clone(),
            port: service.port,
            node: pool.node(node),
            checks: self.checks.iter().map(|check| check.facts(pool)).collect(),
        };
        let host = if service.address.is_empty() { self.node.address } else { service.address };
        let id = InstanceId { datacenter: self.node.datacenter, node: self.node.node, id: service.id };
        let instance = Instance {
            id,
            addr: Err(Unusable::NoAddress),
            named: None,
            facts: Arc::new(facts),
            tags: service.tags.into(),
            meta: pool.map(service.meta),
            weights,
            status,
            node_lost,
            draining,
            create_index: service.create_index,
        };
        let lan = UnresolvedInstance { host, port: service.port, instance };
        let wan = wan.filter(|(host, port)| (host, *port) != (&lan.host, lan.port));
        ListedInstance { lan, wan }
    }

    /// Host and port for other networks, as Consul's own proxies choose them: the `wan` address of the service, its address, the
    /// `wan` address of the node. `None`: there is none of these.
    fn wan(&self) -> Option<(Arc<str>, i64)> {
        let service = &self.service;
        let (host, port) = match &service.tagged_addresses.wan {
            Some(wan) if wan.port != 0 => (&wan.address, wan.port),
            Some(wan) => (&wan.address, service.port),
            None => (&service.address, service.port),
        };
        let node = &self.node.tagged_addresses.wan;
        let host = [host, node, &self.node.address].into_iter().find(|host| !host.is_empty())?;
        Some((host.clone(), port))
    }
}

impl RawService {
    fn into_agent_service(self) -> AgentService {
        AgentService {
            id: self.id.as_ref().to_owned(),
            name: self.service,
            address: Some(self.address.as_ref().to_owned()).filter(|address| !address.is_empty()),
            port: self.port,
            tags: self.tags.iter().map(|tag| tag.as_ref().to_owned()).collect(),
            meta: self.meta,
            weights: self.weights.clamp_weights(),
            enable_tag_override: self.enable_tag_override,
            content_hash: self.content_hash,
        }
    }
}

impl RawWeights {
    fn clamp_weights(&self) -> Weights {
        let within = |weight: i64, least: u16| {
            u16::try_from(weight.clamp(i64::from(least), i64::from(u16::MAX))).unwrap_or(u16::MAX)
        };
        Weights { passing: within(self.passing, 1), warning: within(self.warning, 0) }
    }
}

/// The worst status of all checks, those of the node included: a dead node turns only its `serfHealth`
/// critical and leaves the own check of the service at its last status.
fn worst_status(checks: &[RawCheck]) -> HealthStatus {
    checks.iter().map(RawCheck::status).max().unwrap_or(HealthStatus::Passing)
}

/// Whether only the health of the node is critical: the servers have lost contact with its agent, and by all other checks, those
/// of operators on the node included, the service would get traffic.
fn is_node_lost(checks: &[RawCheck], weights: Weights) -> bool {
    let (node, others): (Vec<_>, Vec<_>) = checks.iter().partition(|check| check.id == SERF_HEALTH);
    let worst = if weights.warning > 0 { HealthStatus::Warning } else { HealthStatus::Passing };
    node.iter().any(|check| check.status() == HealthStatus::Critical)
        && others.iter().all(|check| check.status() <= worst)
}

/// Whether each critical check says that the service leaves.
fn is_draining(checks: &[RawCheck]) -> bool {
    let mut critical = checks.iter().filter(|check| check.status() == HealthStatus::Critical).peekable();
    critical.peek().is_some() && critical.all(|check| has_draining_mark(&check.output))
}

/// Whether the output has the mark as a word. A check that is not renewed says nothing any more: Consul quotes its last output. Nor
/// does the reason of a sidecar, in which the word is part of a path or a name.
fn has_draining_mark(output: &str) -> bool {
    let is_word_part = |one: char| one.is_alphanumeric() || matches!(one, '_' | '-');
    !output.starts_with(TTL_EXPIRED)
        && !has_reason(output)
        && output.split(|one| !is_word_part(one)).any(|word| word == DRAINING_MARK)
}

impl RawAgentCheck {
    fn into_own_check(self) -> OwnCheck {
        OwnCheck {
            has_our_name: self.name == check_name(&self.service_name),
            health: match self.status.as_str() {
                "passing" => ReportedHealth::Passing,
                "warning" => ReportedHealth::Warning,
                _ => ReportedHealth::Critical,
            },
            id: self.id,
            ttl_expired: self.output.starts_with(TTL_EXPIRED),
            output: self.output,
        }
    }
}

fn is_maintenance(id: &str) -> bool {
    id == "_node_maintenance" || id.starts_with("_service_maintenance:")
}

impl RawCheck {
    fn facts(&self, pool: &mut FactPool) -> Arc<CheckFacts> {
        let check = CheckFacts {
            id: pool.text(&self.id),
            name: pool.text(&self.name),
            status: pool.text(&self.status),
            kind: pool.text(&self.kind),
            is_of_service: !self.service.is_empty(),
        };
        pool.check(check)
    }

    fn status(&self) -> HealthStatus {
        if self.is_maintenance() {
            return HealthStatus::Maintenance;
        }
        match self.status.as_str() {
            "passing" => HealthStatus::Passing,
            "warning" => HealthStatus::Warning,
            // Also an unknown status of a newer Consul: an instance that is not known to be healthy is not
            // used.
            _ => HealthStatus::Critical,
        }
    }

    fn is_maintenance(&self) -> bool {
        self.kind == "maintenance" || is_maintenance(&self.id)
    }
}
/// A key with its value.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct RawKvEntry {
    pub(super) key: String,
    /// Base64. Absent: empty.
    value: Option<String>,
    #[serde(default)]
    flags: u64,
    #[serde(default)]
    session: Option<String>,
    #[serde(default)]
    lock_index: u64,
    #[serde(default)]
    create_index: u64,
    #[serde(default)]
    modify_index: u64,
}

impl RawKvEntry {
    pub(super) fn decode(self) -> Result<KvEntry, base64::DecodeError> {
        Ok(KvEntry {
            key: self.key,
            value: BASE64.decode(self.value.unwrap_or_default())?,
            flags: self.flags,
            session: self.session.filter(|session| !session.is_empty()),
            lock_index: self.lock_index,
            create_index: self.create_index,
            modify_index: self.modify_index,
        })
    }
}
