//! What a registry lists.

use std::{collections::BTreeMap, fmt, net::SocketAddr, sync::Arc};

use outrigger_config::Weights;

use crate::InstanceFacts;

/// The mark in a check's output by which a sidecar says that its app is critical because it leaves. Sidecars of other versions
/// read it, so it must not change.
pub const DRAINING_MARK: &str = "draining";

/// One entry of a registry's answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instance {
    /// Its identity.
    pub id: InstanceId,
    /// Its address, or the reason why the instance has none that can be used (an impossible port, a host
    /// name that does not resolve).
    pub addr: Result<SocketAddr, Unusable>,
    /// Where the registry lists a host name: what the address comes from. `None`: it lists an IP address.
    pub named: Option<Arc<NamedHost>>,
    /// What only filters look at.
    pub facts: Arc<InstanceFacts>,
    /// Its tags, in the registry's order.
    pub tags: Arc<[Arc<str>]>,
    /// Its metadata.
    pub meta: Arc<BTreeMap<String, String>>,
    /// Its shares of traffic.
    pub weights: Weights,
    /// The worst status of all its checks, the node's checks included.
    pub status: HealthStatus,
    /// True: the instance is critical only because the registry has lost contact with its node (Consul:
    /// `serfHealth`); by its own checks it would get traffic. False with any other status.
    pub node_lost: bool,
    /// True: the instance is critical only because it leaves, and still takes requests: each of its critical checks has the
    /// [`DRAINING_MARK`]. False with any other status.
    pub draining: bool,
    /// The index of the registry at the first registration of this incarnation. A new index is a new
    /// incarnation.
    pub create_index: u64,
}

impl Instance {
    /// The share of traffic that the instance should get now; 0: none.
    pub fn weight(&self) -> u32 {
        match (&self.addr, self.status) {
            (Err(_), _) | (_, HealthStatus::Critical | HealthStatus::Maintenance) => 0,
            (Ok(_), HealthStatus::Passing) => u32::from(self.weights.passing),
            (Ok(_), HealthStatus::Warning) => u32::from(self.weights.warning),
        }
    }

    /// Why the instance may be used where none with a [`weight`](Self::weight) can be, with its share of traffic then. `None`: it
    /// may not.
    pub fn last_resort(&self) -> Option<(LastResort, u32)> {
        let kind = match self {
            Self { addr: Err(_), .. } => return None,
            Self { draining: true, .. } => LastResort::Draining,
            Self { node_lost: true, .. } => LastResort::NodeLost,
            _ => return None,
        };
        Some((kind, u32::from(self.weights.passing)))
    }

    /// Whether the instance has every one of `tags`. Consul compares tags without case.
    pub fn has_tags<T: AsRef<str>>(&self, tags: &[T]) -> bool {
        tags.iter().all(|wanted| self.tags.iter().any(|tag| tag.eq_ignore_ascii_case(wanted.as_ref())))
    }
}

/// Why a critical instance may be used while no other can be. In the order of use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum LastResort {
    /// It is [`draining`](Instance::draining): its sidecar says that it works, and that it ends soon.
    Draining,
    /// It is [`node_lost`](Instance::node_lost): it may have ended together with its node.
    NodeLost,
}

/// A host name that a registry lists as the address of an instance. Each address of the name is an [`Instance`] of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedHost {
    /// The name.
    pub host: Arc<str>,
    /// The id that is listed. The instance of the first address has it.
    pub id: Arc<str>,
    /// The port as listed, possible or not.
    pub port: i64,
    /// Addresses of the name in the other family (IPv6): probably the same hosts, to be connected to where the address fails.
    pub fallback: Box<[SocketAddr]>,
}

/// The identity of an instance: equal ids in two answers are the same instance.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct InstanceId {
    /// Datacenter of the node.
    pub datacenter: Arc<str>,
    /// Node that the instance is registered on.
    pub node: Arc<str>,
    /// Service id on that node.
    pub id: Arc<str>,
}

impl fmt::Display for InstanceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.datacenter, self.node, self.id)
    }
}

/// Health as the registry states it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum HealthStatus {
    /// Every check passes, or there is none.
    Passing,
    /// The worst check is a warning.
    Warning,
    /// A check is critical.
    Critical,
    /// Maintenance mode of the service or of its node: an operator has taken it out.
    Maintenance,
}

impl HealthStatus {
    /// The lower-case name for pages, metrics and logs.
    pub fn label(self) -> &'static str {
        match self {
            Self::Passing => "passing",
            Self::Warning => "warning",
            Self::Critical => "critical",
            Self::Maintenance => "maintenance",
        }
    }
}

/// Why an instance cannot be called whatever its health.
#[derive(Debug, Clone, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Unusable {
    /// The port number is not a TCP port: the registry accepts any number.
    #[error("port {0} is not between 1 and 65535")]
    Port(i64),
    /// Neither the service nor its node has an address.
    #[error("no address")]
    NoAddress,
    /// The IP address cannot be connected to from here.
    #[error("address {host:?}: {reason}")]
    Address {
        /// The address as listed.
        host: Arc<str>,
        /// Why not.
        reason: Arc<str>,
    },
    /// The host name does not resolve.
    #[error("host name {host:?} does not resolve: {reason}")]
    Unresolved {
        /// The name.
        host: Arc<str>,
        /// The error of the resolver.
        reason: Arc<str>,
    },
}
