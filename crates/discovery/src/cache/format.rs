//! The format of the state file. Pure.
//!
//! A header line, `outrigger-state VERSION CHECKSUM LENGTH`, and LENGTH bytes of JSON. The checksum
//! (FNV-1a, 64 bits) detects a torn or damaged file. It does not protect against a forged file; the
//! file's mode does.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc, time::Duration};

use outrigger_config::Weights;
use outrigger_registry::{HealthStatus, Instance, InstanceId, Query};
use serde::{Deserialize, Serialize};

use super::record::{PresumedGoneRecord, ServiceRecord};
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
    index: u64,
    heard_unix_ms: u64,
    #[serde(skip_serializing_if = "std::ops::Not::not", default)]
    heard_is_estimate: bool,
    instances: Vec<StoredInstance>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    lost: Option<StoredPresumedGone>,
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
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "HealthStatus", rename_all = "snake_case")]
enum StoredStatus {
    Passing,
    Warning,
    Critical,
    Maintenance,
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
            index: record.index,
            heard_unix_ms: millis(record.confirmed),
            heard_is_estimate: record.is_estimate,
            instances: to_stored(&record.instances),
            lost: record.presumed_gone.as_ref().map(|lost| StoredPresumedGone {
                index: lost.index,
                unix_ms: millis(lost.at),
                instances: to_stored(&lost.instances),
            }),
        }
    }

    fn into_record(self) -> ServiceRecord {
        ServiceRecord {
            query: Query { service: self.service, datacenter: self.datacenter },
            instances: from_stored(self.instances),
            index: self.index,
            confirmed: Duration::from_millis(self.heard_unix_ms),
            is_estimate: self.heard_is_estimate,
            presumed_gone: self.lost.map(|gone| PresumedGoneRecord {
                instances: from_stored(gone.instances),
                index: gone.index,
                at: Duration::from_millis(gone.unix_ms),
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
fn from_stored(listed: Vec<StoredInstance>) -> Arc<[Instance]> {
    sort_and_dedup(listed.into_iter().map(StoredInstance::into_instance).collect()).into()
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
        })
    }

    fn into_instance(self) -> Instance {
        let (passing, warning) = self.weights;
        Instance {
            id: InstanceId { datacenter: self.datacenter, node: self.node, id: self.id },
            addr: Ok(self.addr),
            named: None,
            tags: self.tags.into(),
            meta: Arc::new(self.meta),
            weights: Weights { passing: passing.max(1), warning },
            status: self.status,
            node_lost: self.node_lost,
            draining: self.draining,
            create_index: self.create_index,
        }
    }
}
