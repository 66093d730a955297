//! The format of the state file. Pure.
//!
//! A header line, `outrigger-state VERSION CHECKSUM LENGTH`, and LENGTH bytes of JSON. The checksum
//! (FNV-1a, 64 bits) detects a torn or damaged file. It does not protect against a forged file; the
//! file's mode does.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc, time::Duration};

use outrigger_config::{AddressKind, Weights};
use outrigger_registry::{
    CheckFacts, FactPool, HealthStatus, Instance, InstanceFacts, InstanceId, NodeFacts, Query, chain::Chain,
};
use serde::{Deserialize, Serialize};

use super::record::{ChainRecord, PresumedGoneRecord, ServiceRecord};
use crate::instances::sort_and_dedup;

const MAGIC: &str = "outrigger-state";
/// Raised when an older reader would misread the file.
const VERSION: u32 = 1;

/// Why a file's content cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum ContentError {
    /// The content is not what was written.
    #[error("it is damaged: {0}")]
    Damaged(String),
    /// Written by another version.
    #[error("it has version {found}, and this program reads version {VERSION}")]
    Version {
        /// The version in the header.
        found: String,
    },
    /// This process may not read the file, or is out of files or memory: nothing is known of the content.
    #[error("it cannot be read now: {0}")]
    Unread(String),
    /// The file is valid, but not of this registry or not safe to use.
    #[error("it is foreign: {0}")]
    Foreign(String),
}

impl ContentError {
    /// The suffix with which the file is renamed: one of a closed list, so that renamed files do not
    /// accumulate.
    pub(super) fn label(&self) -> &'static str {
        match self {
            Self::Damaged(_) => "damaged",
            Self::Version { .. } => "version",
            Self::Foreign(_) => "foreign",
            Self::Unread(_) => "unread",
        }
    }
}

#[derive(Serialize, Deserialize)]
struct StoredBody<'a> {
    registry: std::borrow::Cow<'a, str>,
    services: Vec<StoredService>,
}

#[derive(Serialize, Deserialize)]
struct StoredService {
    service: Arc<str>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    datacenter: Option<Arc<str>>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    filter: Option<Arc<str>>,
    /// Absent in files of older versions.
    #[serde(with = "StoredAddress", skip_serializing_if = "is_auto", default)]
    address: AddressKind,
    index: u64,
    heard_unix_ms: u64,
    #[serde(skip_serializing_if = "std::ops::Not::not", default)]
    heard_is_estimate: bool,
    instances: Vec<StoredInstance>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    lost: Option<StoredPresumedGone>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    chain: Option<StoredChain>,
}

#[derive(Serialize, Deserialize)]
struct StoredChain {
    heard_unix_ms: u64,
    #[serde(skip_serializing_if = "std::ops::Not::not", default)]
    is_default: bool,
    chain: Arc<Chain>,
}

#[derive(Serialize, Deserialize)]
struct StoredPresumedGone {
    index: u64,
    unix_ms: u64,
    instances: Vec<StoredInstance>,
}

#[derive(Serialize, Deserialize)]
struct StoredInstance {
    datacenter: Arc<str>,
    node: Arc<str>,
    id: Arc<str>,
    addr: SocketAddr,
    tags: Vec<Arc<str>>,
    meta: BTreeMap<String, String>,
    /// While passing, and while warning.
    weights: (u16, u16),
    #[serde(with = "StoredStatus")]
    status: HealthStatus,
    node_lost: bool,
    #[serde(skip_serializing_if = "std::ops::Not::not", default)]
    draining: bool,
    create_index: u64,
    /// Absent in files of older versions.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    facts: Option<StoredFacts>,
}

/// What filters select beside the rest.
#[derive(Serialize, Deserialize)]
struct StoredFacts {
    service: Arc<str>,
    #[serde(skip_serializing_if = "str::is_empty", default)]
    address: Arc<str>,
    port: i64,
    #[serde(skip_serializing_if = "str::is_empty", default)]
    node_address: Arc<str>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty", default)]
    node_meta: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    checks: Vec<StoredCheck>,
}

/// Id, name, status and type of a check, and whether it is of the service.
#[derive(Serialize, Deserialize)]
struct StoredCheck(Arc<str>, Arc<str>, Arc<str>, Arc<str>, bool);

#[derive(Serialize, Deserialize)]
#[serde(remote = "HealthStatus", rename_all = "snake_case")]
enum StoredStatus {
    Passing,
    Warning,
    Critical,
    Maintenance,
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "AddressKind", rename_all = "snake_case")]
enum StoredAddress {
    Auto,
    Lan,
    Wan,
}

fn is_auto(address: &AddressKind) -> bool {
    *address == AddressKind::Auto
}

/// The whole file.
pub(super) fn encode(registry: &str, records: &[ServiceRecord]) -> serde_json::Result<Vec<u8>> {
    let services = records.iter().map(StoredService::of).collect();
    let body = serde_json::to_vec(&StoredBody { registry: registry.into(), services })?;
    let mut file = format!("{MAGIC} {VERSION} {:016x} {}\n", checksum(&body), body.len()).into_bytes();
    file.extend(body);
    Ok(file)
}

/// The records of a file about `registry`.
pub(super) fn decode(registry: &str, file: &[u8]) -> Result<Vec<ServiceRecord>, ContentError> {
    let body = parse_frame(file)?;
    let body: StoredBody<'_> =
        serde_json::from_slice(body).map_err(|error| ContentError::Damaged(error.to_string()))?;
    if body.registry != registry {
        return Err(ContentError::Foreign(format!(
            "it is about the registry {}, not {registry}",
            body.registry
        )));
    }
    Ok(body.services.into_iter().map(StoredService::into_record).collect())
}

fn parse_frame(file: &[u8]) -> Result<&[u8], ContentError> {
    let damaged = |what: &str| ContentError::Damaged(what.to_owned());
    let end = file.iter().take(128).position(|byte| *byte == b'\n');
    let (header, body) = match end {
        Some(end) => (&file[..end], &file[end + 1..]),
        None => return Err(damaged("no header")),
    };
    let header = std::str::from_utf8(header).map_err(|_| damaged("no header"))?;
    let words: Vec<_> = header.split(' ').collect();
    let (version, sum, len) = match words[..] {
        [MAGIC, version, sum, len] => (version, sum, len),
        [MAGIC, version, ..] if version != VERSION.to_string() => {
            return Err(ContentError::Version { found: version.to_owned() });
        }
        _ => return Err(damaged("no header")),
    };
    if version != VERSION.to_string() {
        return Err(ContentError::Version { found: version.to_owned() });
    }
    if len.parse() != Ok(body.len()) {
        return Err(damaged("its length does not match the header"));
    }
    if u64::from_str_radix(sum, 16) != Ok(checksum(body)) {
        return Err(damaged("its checksum does not match the header"));
    }
    Ok(body)
}

/// FNV-1a.
fn checksum(bytes: &[u8]) -> u64 {
    const BASIS: u64 = 0xcbf2_9ce4_8422_2325;
    const PRIME: u64 = 0x0100_0000_01b3;
    bytes.iter().fold(BASIS, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(PRIME))
}

impl StoredService {
    fn of(record: &ServiceRecord) -> Self {
        Self {
            service: record.query.service.clone(),
            datacenter: record.query.datacenter.clone(),
            filter: record.query.filter.clone(),
            address: record.query.address,
            index: record.index,
            heard_unix_ms: millis(record.confirmed),
            heard_is_estimate: record.is_estimate,
            instances: to_stored(&record.instances),
            lost: record.presumed_gone.as_ref().map(|lost| StoredPresumedGone {
                index: lost.index,
                unix_ms: millis(lost.at),
                instances: to_stored(&lost.instances),
            }),
            chain: record.chain.as_ref().map(|one| StoredChain {
                heard_unix_ms: millis(one.confirmed),
                is_default: one.is_default,
                chain: one.chain.clone(),
            }),
        }
    }

    fn into_record(self) -> ServiceRecord {
        let service = self.service.clone();
        ServiceRecord {
            query: Query {
                filter: self.filter,
                address: self.address,
                ..Query::new(self.service, self.datacenter)
            },
            instances: from_stored(&service, self.instances),
            index: self.index,
            confirmed: Duration::from_millis(self.heard_unix_ms),
            is_estimate: self.heard_is_estimate,
            presumed_gone: self.lost.map(|gone| PresumedGoneRecord {
                instances: from_stored(&service, gone.instances),
                index: gone.index,
                at: Duration::from_millis(gone.unix_ms),
            }),
            chain: self.chain.map(|one| ChainRecord {
                chain: one.chain,
                is_default: one.is_default,
                confirmed: Duration::from_millis(one.heard_unix_ms),
            }),
        }
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// Drops instances without a usable address.
fn to_stored(instances: &[Instance]) -> Vec<StoredInstance> {
    instances.iter().filter_map(StoredInstance::of).collect()
}

/// Sorted like every snapshot, whatever the order in the file.
fn from_stored(service: &Arc<str>, listed: Vec<StoredInstance>) -> Arc<[Instance]> {
    let mut pool = FactPool::default();
    let instances = listed.into_iter().map(|one| one.into_instance(service, &mut pool));
    sort_and_dedup(instances.collect()).into()
}

impl StoredFacts {
    fn of(facts: &InstanceFacts) -> Self {
        let checks = facts.checks.iter().map(|check| {
            let CheckFacts { id, name, status, kind, is_of_service } = (**check).clone();
            StoredCheck(id, name, status, kind, is_of_service)
        });
        Self {
            service: facts.service.clone(),
            address: facts.address.clone(),
            port: facts.port,
            node_address: facts.node.address.clone(),
            node_meta: (*facts.node.meta).clone(),
            checks: checks.collect(),
        }
    }

    fn into_facts(self, pool: &mut FactPool) -> InstanceFacts {
        let node = NodeFacts { address: self.node_address, meta: pool.map(self.node_meta) };
        let checks = self.checks.into_iter().map(|StoredCheck(id, name, status, kind, is_of_service)| {
            let [id, name, status, kind] = [id, name, status, kind].map(|text| pool.text(&text));
            pool.check(CheckFacts { id, name, status, kind, is_of_service })
        });
        let checks = checks.collect();
        let (service, node) = (pool.text(&self.service), pool.node(node));
        InstanceFacts { service, address: self.address, port: self.port, node, checks }
    }
}

/// What a file of an older version says.
fn facts_of_address(service: &Arc<str>, addr: SocketAddr) -> InstanceFacts {
    InstanceFacts {
        service: service.clone(),
        address: addr.ip().to_string().into(),
        port: addr.port().into(),
        ..InstanceFacts::default()
    }
}

impl StoredInstance {
    fn of(instance: &Instance) -> Option<Self> {
        let InstanceId { datacenter, node, id } = instance.id.clone();
        Some(Self {
            datacenter,
            node,
            id,
            addr: *instance.addr.as_ref().ok()?,
            tags: instance.tags.to_vec(),
            meta: (*instance.meta).clone(),
            weights: (instance.weights.passing, instance.weights.warning),
            status: instance.status,
            node_lost: instance.node_lost,
            draining: instance.draining,
            create_index: instance.create_index,
            facts: Some(StoredFacts::of(&instance.facts)),
        })
    }

    fn into_instance(self, service: &Arc<str>, pool: &mut FactPool) -> Instance {
        let (passing, warning) = self.weights;
        let facts = match self.facts {
            Some(facts) => facts.into_facts(pool),
            None => facts_of_address(service, self.addr),
        };
        Instance {
            id: InstanceId { datacenter: self.datacenter, node: self.node, id: self.id },
            addr: Ok(self.addr),
            named: None,
            facts: Arc::new(facts),
            tags: self.tags.into(),
            meta: pool.map(self.meta),
            weights: Weights { passing: passing.max(1), warning },
            status: self.status,
            node_lost: self.node_lost,
            draining: self.draining,
            create_index: self.create_index,
        }
    }
}
