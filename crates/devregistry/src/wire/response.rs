//! The bodies that clients get. The order of the fields and the forms of an absent value are Consul's: an empty `Meta`
//! is `{}` from the agent and the catalog but `null` from health.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::store::{self, Row, TaggedAddress, Weights};

type StringMap<'a> = &'a BTreeMap<String, String>;
type TaggedAddresses<'a> = &'a BTreeMap<String, TaggedAddress>;

/// A service as `agent/service` shows it.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct AgentService<'a> {
    #[serde(flatten)]
    pub(crate) service: &'a store::Service,
    #[serde(rename = "ContentHash")]
    pub(crate) content_hash: &'a str,
}

/// The fields of Connect, always empty.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "PascalCase")]
struct EmptyProxy {
    mesh_gateway: EmptyObject,
    expose: EmptyObject,
}

/// `{}`: what is always empty here.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct EmptyObject {}

const NO_PROXY: EmptyProxy = EmptyProxy { mesh_gateway: EmptyObject {}, expose: EmptyObject {} };

/// A service as `health/service` and `catalog/node` show it.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct NodeService<'a> {
    #[serde(rename = "ID")]
    id: &'a str,
    service: &'a str,
    tags: &'a [String],
    address: &'a str,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    tagged_addresses: TaggedAddresses<'a>,
    meta: Option<StringMap<'a>>,
    port: i64,
    weights: Weights,
    enable_tag_override: bool,
    proxy: EmptyProxy,
    connect: EmptyObject,
    create_index: u64,
    modify_index: u64,
}

impl<'a> From<&'a Row<store::Service>> for NodeService<'a> {
    fn from(row: &'a Row<store::Service>) -> Self {
        let service = &row.value;
        Self {
            id: &service.id,
            service: &service.name,
            tags: &service.tags,
            address: &service.address,
            tagged_addresses: &service.tagged_addresses,
            meta: Some(&service.meta).filter(|meta| !meta.is_empty()),
            port: service.port,
            weights: service.weights,
            enable_tag_override: service.enable_tag_override,
            proxy: NO_PROXY,
            connect: EmptyObject {},
            create_index: row.create_index,
            modify_index: row.modify_index,
        }
    }
}

/// A node.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct NodeJson<'a> {
    #[serde(rename = "ID")]
    id: &'a str,
    node: &'a str,
    address: &'a str,
    datacenter: &'a str,
    tagged_addresses: Option<StringMap<'a>>,
    meta: Option<StringMap<'a>>,
    create_index: u64,
    modify_index: u64,
}

impl<'a> NodeJson<'a> {
    pub(crate) fn new(node: &'a store::Node, datacenter: &'a str) -> Self {
        Self {
            id: &node.info.id,
            node: &node.info.name,
            address: &node.info.address,
            datacenter,
            tagged_addresses: node.info.tagged_addresses.as_ref(),
            meta: Some(&node.info.meta).filter(|meta| !meta.is_empty()),
            create_index: node.create_index,
            modify_index: node.modify_index,
        }
    }
}

/// A check, as the catalog and the agent's list show it.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct CheckJson<'a> {
    node: &'a str,
    #[serde(rename = "CheckID")]
    id: &'a str,
    name: &'a str,
    status: &'static str,
    notes: &'a str,
    output: &'a str,
    #[serde(rename = "ServiceID")]
    service_id: &'a str,
    service_name: &'a str,
    service_tags: Option<&'a [String]>,
    #[serde(rename = "Type")]
    kind: &'a str,
    definition: CheckDefinition,
    create_index: u64,
    modify_index: u64,
}

impl<'a> CheckJson<'a> {
    /// As the catalog lists it.
    pub(crate) fn from_row(node: &'a str, row: &'a Row<store::Check>) -> Self {
        Self {
            create_index: row.create_index,
            modify_index: row.modify_index,
            ..Self::from_check(node, &row.value)
        }
    }

    /// As the agent holds it: without indexes.
    pub(crate) fn from_check(node: &'a str, check: &'a store::Check) -> Self {
        Self {
            node,
            id: &check.id,
            name: &check.name,
            status: check.status.label(),
            notes: &check.notes,
            output: &check.output,
            service_id: &check.service_id,
            service_name: &check.service_name,
            service_tags: Some(&check.service_tags),
            kind: check.kind,
            definition: CheckDefinition::Absent {},
            create_index: 0,
            modify_index: 0,
        }
    }

    /// As `agent/health` shows it: without a type, with an empty definition.
    pub(crate) fn for_agent_health(node: &'a str, check: &'a store::Check) -> Self {
        Self {
            service_tags: Some(check.service_tags.as_slice()).filter(|tags| !tags.is_empty()),
            kind: "",
            definition: CheckDefinition::BLANK,
            ..Self::from_check(node, check)
        }
    }
}

/// The definition of a check, never shown.
#[derive(Debug, Clone, Serialize)]
#[serde(untagged)]
enum CheckDefinition {
    Absent {},
    #[serde(rename_all = "PascalCase")]
    Blank {
        interval: &'static str,
        timeout: &'static str,
        deregister_critical_service_after: &'static str,
        #[serde(rename = "HTTP")]
        http: &'static str,
        header: Option<EmptyObject>,
        method: &'static str,
        body: &'static str,
        #[serde(rename = "TLSSkipVerify")]
        tls_skip_verify: bool,
        #[serde(rename = "TCP")]
        tcp: &'static str,
    },
}

impl CheckDefinition {
    const BLANK: Self = Self::Blank {
        interval: "0s",
        timeout: "0s",
        deregister_critical_service_after: "0s",
        http: "",
        header: None,
        method: "",
        body: "",
        tls_skip_verify: false,
        tcp: "",
    };
}

/// An entry of `health/service`.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct HealthEntry<'a> {
    pub(crate) node: NodeJson<'a>,
    pub(crate) service: NodeService<'a>,
    pub(crate) checks: Vec<CheckJson<'a>>,
}

/// An entry of `catalog/service`.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct CatalogServiceEntry<'a> {
    #[serde(rename = "ID")]
    node_id: &'a str,
    node: &'a str,
    address: &'a str,
    datacenter: &'a str,
    tagged_addresses: Option<StringMap<'a>>,
    node_meta: Option<StringMap<'a>>,
    service_kind: &'static str,
    #[serde(rename = "ServiceID")]
    service_id: &'a str,
    service_name: &'a str,
    service_tags: &'a [String],
    service_address: &'a str,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    service_tagged_addresses: TaggedAddresses<'a>,
    service_weights: Weights,
    service_meta: StringMap<'a>,
    service_port: i64,
    service_enable_tag_override: bool,
    service_proxy: EmptyProxy,
    service_connect: EmptyObject,
    create_index: u64,
    modify_index: u64,
}

impl<'a> CatalogServiceEntry<'a> {
    pub(crate) fn new(node: &'a store::Node, row: &'a Row<store::Service>, datacenter: &'a str) -> Self {
        let service = &row.value;
        Self {
            node_id: &node.info.id,
            node: &node.info.name,
            address: &node.info.address,
            datacenter,
            tagged_addresses: node.info.tagged_addresses.as_ref(),
            node_meta: Some(&node.info.meta).filter(|meta| !meta.is_empty()),
            service_kind: "",
            service_id: &service.id,
            service_name: &service.name,
            service_tags: &service.tags,
            service_address: &service.address,
            service_tagged_addresses: &service.tagged_addresses,
            service_weights: service.weights,
            service_meta: &service.meta,
            service_port: service.port,
            service_enable_tag_override: service.enable_tag_override,
            service_proxy: NO_PROXY,
            service_connect: EmptyObject {},
            create_index: row.create_index,
            modify_index: row.modify_index,
        }
    }
}

/// `catalog/node`.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct NodeServices<'a> {
    pub(crate) node: NodeJson<'a>,
    pub(crate) services: BTreeMap<&'a str, NodeService<'a>>,
}

/// `catalog/node-services`.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct NodeServiceList<'a> {
    pub(crate) node: Option<NodeJson<'a>>,
    pub(crate) services: Option<Vec<NodeService<'a>>>,
}

/// `agent/health/service`.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct AgentHealth<'a> {
    pub(crate) aggregated_status: &'static str,
    pub(crate) service: Option<&'a store::Service>,
    pub(crate) checks: Option<Vec<CheckJson<'a>>>,
}
