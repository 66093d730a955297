//! The data of the catalog, without rules.

use std::{collections::BTreeMap, time::Duration};

use serde::Serialize;

/// Health of one check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Status {
    Passing,
    Warning,
    Critical,
}

impl Status {
    /// The name in JSON.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Passing => "passing",
            Self::Warning => "warning",
            Self::Critical => "critical",
        }
    }

    /// The status with this name.
    pub(crate) fn parse(name: &str) -> Option<Self> {
        [Self::Passing, Self::Warning, Self::Critical].into_iter().find(|status| status.label() == name)
    }
}

/// A row of the catalog: its value, and the indexes at which it was made and last changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Row<T> {
    pub(crate) value: T,
    pub(crate) create_index: u64,
    pub(crate) modify_index: u64,
}

/// A node with an agent, or a node that a client described.
#[derive(Debug, Clone)]
pub(crate) struct Node {
    pub(crate) info: NodeInfo,
    pub(crate) create_index: u64,
    pub(crate) modify_index: u64,
    /// The index at which a service of this node was last added, removed or changed.
    pub(crate) services_changed: u64,
    pub(crate) services: BTreeMap<String, Row<Service>>,
    pub(crate) checks: BTreeMap<String, Row<Check>>,
}

/// The description of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NodeInfo {
    /// A UUID; empty for a node that a client described.
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) address: String,
    /// `None` for a node that a client described.
    pub(crate) tagged_addresses: Option<BTreeMap<String, String>>,
    pub(crate) meta: BTreeMap<String, String>,
}

/// One instance of a service. The JSON is that of `agent/services`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Service {
    #[serde(rename = "ID")]
    pub(crate) id: String,
    #[serde(rename = "Service")]
    pub(crate) name: String,
    pub(crate) tags: Vec<String>,
    pub(crate) meta: BTreeMap<String, String>,
    /// Any number: Consul validates none.
    pub(crate) port: i64,
    pub(crate) address: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) tagged_addresses: BTreeMap<String, TaggedAddress>,
    pub(crate) weights: Weights,
    pub(crate) enable_tag_override: bool,
}

/// An address with a name: `lan`, `wan`, `lan_ipv4`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct TaggedAddress {
    pub(crate) address: String,
    pub(crate) port: i64,
}

/// The weights of an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Weights {
    pub(crate) passing: i64,
    pub(crate) warning: i64,
}

/// One check, of a service or (without a service id) of the whole node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Check {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) status: Status,
    pub(crate) notes: String,
    pub(crate) output: String,
    pub(crate) service_id: String,
    pub(crate) service_name: String,
    pub(crate) service_tags: Vec<String>,
    /// `ttl`, `http`, `tcp`, `maintenance`, or empty.
    pub(crate) kind: &'static str,
}

impl Check {
    /// A critical check with this id, of a service or of the node. The other fields are empty.
    pub(super) fn of(service: Option<&Service>, id: String) -> Self {
        Self {
            id,
            name: String::new(),
            status: Status::Critical,
            notes: String::new(),
            output: String::new(),
            service_id: service.map(|service| service.id.clone()).unwrap_or_default(),
            service_name: service.map(|service| service.name.clone()).unwrap_or_default(),
            service_tags: service.map(|service| service.tags.clone()).unwrap_or_default(),
            kind: "",
        }
    }
}

/// A service as a client registers it.
#[derive(Debug, Clone)]
pub(crate) struct NewService {
    pub(crate) service: Service,
    pub(crate) checks: Vec<NewCheck>,
}

/// A check as a client registers it.
#[derive(Debug, Clone)]
pub(crate) struct NewCheck {
    /// Absent: made from the service's id, or the check's name.
    pub(crate) id: Option<String>,
    /// Empty: made from the service's name.
    pub(crate) name: String,
    pub(crate) notes: String,
    /// Absent: critical.
    pub(crate) status: Option<Status>,
    pub(crate) kind: CheckKind,
    /// Successes in a row that a failed probe needs to pass again.
    pub(crate) successes: u32,
    /// Failures in a row that a passing probe needs to be critical.
    pub(crate) failures: u32,
    /// Remove the service when critical for this long. Absent: never.
    pub(crate) deregister_after: Option<Duration>,
}

/// How the status of a check is found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum CheckKind {
    /// The client reports it, at least this often.
    Ttl(Duration),
    /// The agent probes.
    Probe(Probe),
}

impl CheckKind {
    pub(crate) fn label(&self) -> &'static str {
        match self {
            Self::Ttl(_) => "ttl",
            Self::Probe(Probe { target: ProbeTarget::Http { .. }, .. }) => "http",
            Self::Probe(Probe { target: ProbeTarget::Tcp(_), .. }) => "tcp",
        }
    }
}

/// A probe that the agent repeats.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Probe {
    pub(crate) target: ProbeTarget,
    /// Pause between two probes.
    pub(crate) interval: Duration,
    /// Longest wait for an answer.
    pub(crate) timeout: Duration,
    /// Bytes of the answer's body that are kept, the last ones.
    pub(crate) output_max: usize,
}

/// The target of a probe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ProbeTarget {
    Http { url: String, method: String, headers: Vec<(String, String)>, body: String },
    Tcp(String),
}
