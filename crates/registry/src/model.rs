//! What a registry lists.

use std::{collections::BTreeMap, fmt, net::SocketAddr, sync::Arc};

use outrigger_config::Weights;

/// One entry of a registry's answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instance {
    /// Who it is.
    pub id: InstanceId,
    /// Where it is, or why it cannot be reached at all (an impossible port, a host name that does
    /// not resolve): such an instance is known but not usable.
    pub addr: Result<SocketAddr, Unusable>,
    /// Its tags, in the registry's order.
    pub tags: Arc<[Arc<str>]>,
    /// Its metadata.
    pub meta: Arc<BTreeMap<String, String>>,
    /// Its shares of traffic.
    pub weights: Weights,
    /// The worst of all its checks, the node's included.
    pub status: HealthStatus,
    /// It is critical for one reason alone: the registry has lost sight of its node (Consul:
    /// `serfHealth`), while its own checks say that it takes traffic. False with any other status.
    pub node_lost: bool,
    /// The registry's index of this life's first registration: another one is another life.
    pub create_index: u64,
}

impl Instance {
    /// The share of traffic it should get now: 0 when it should get none.
    pub fn weight(&self) -> u32 {
        match (&self.addr, self.status) {
            (Err(_), _) | (_, HealthStatus::Critical | HealthStatus::Maintenance) => 0,
            (Ok(_), HealthStatus::Passing) => u32::from(self.weights.passing),
            (Ok(_), HealthStatus::Warning) => u32::from(self.weights.warning),
        }
    }

    /// Whether it carries every one of `tags`. Consul compares tags without case.
    pub fn has_tags<T: AsRef<str>>(&self, tags: &[T]) -> bool {
        tags.iter().all(|wanted| self.tags.iter().any(|tag| tag.eq_ignore_ascii_case(wanted.as_ref())))
    }
}

/// An instance's identity: two answers with the same one mean the same instance.
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
    /// Taken out by hand: a service's or node's maintenance mode.
    Maintenance,
}

impl HealthStatus {
    /// The lower-case word for pages, metrics and logs.
    pub fn label(self) -> &'static str {
        match self {
            Self::Passing => "passing",
            Self::Warning => "warning",
            Self::Critical => "critical",
            Self::Maintenance => "maintenance",
        }
    }
}

/// Why an entry cannot be called whatever its health.
#[derive(Debug, Clone, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Unusable {
    /// The registry accepts any port number; this is none.
    #[error("port {0} is not between 1 and 65535")]
    Port(i64),
    /// Neither the service nor its node has an address.
    #[error("no address")]
    NoAddress,
    /// A host name that did not resolve.
    #[error("host name {host:?} does not resolve: {reason}")]
    Unresolved {
        /// The name.
        host: Arc<str>,
        /// What the resolver said.
        reason: Arc<str>,
    },
}
