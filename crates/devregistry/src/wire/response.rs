//! The bodies that clients get. The order of the fields and the forms of an absent value are Consul's: an empty `Meta`
//! is `{}` from the agent and the catalog but `null` from health.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::store::{self, Row};

type StringMap<'a> = &'a BTreeMap<String, String>;

#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct WeightsJson {
    passing: i64,
    warning: i64,
}

#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct TaggedAddressJson<'a> {
    address: &'a str,
    port: i64,
}

type TaggedAddresses<'a> = BTreeMap<&'a str, TaggedAddressJson<'a>>;

/// A service as the agent shows it.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct AgentService<'a> {
    #[serde(rename = "ID")]
    id: &'a str,
    #[serde(rename = "Service")]
    name: &'a str,
    #[serde(rename = "Tags")]
    tags: &'a [String],
    #[serde(rename = "Meta")]
    meta: StringMap<'a>,
    #[serde(rename = "Port")]
    port: i64,
    #[serde(rename = "Address")]
    address: &'a str,
    #[serde(rename = "TaggedAddresses", skip_serializing_if = "BTreeMap::is_empty")]
    tagged_addresses: TaggedAddresses<'a>,
    #[serde(rename = "Weights")]
    weights: WeightsJson,
    #[serde(rename = "EnableTagOverride")]
    enable_tag_override: bool,
    #[serde(rename = "ContentHash", skip_serializing_if = "Option::is_none")]
    pub(crate) content_hash: Option<String>,
}

impl<'a> From<&'a store::Service> for AgentService<'a> {
    fn from(service: &'a store::Service) -> Self {
        Self {
            id: &service.id,
            name: &service.name,
            tags: &service.tags,
            meta: &service.meta,
            port: service.port,
            address: &service.address,
            tagged_addresses: tagged_addresses(service),
            weights: weights(service),
            enable_tag_override: service.enable_tag_override,
            content_hash: None,
        }
    }
}

/// The fields of Connect, always empty.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "PascalCase")]
struct EmptyProxy {
    mesh_gateway: EmptyObject,
    expose: EmptyObject,
}

#[derive(Debug, Clone, Serialize)]
struct EmptyObject {}

const NO_PROXY: EmptyProxy = EmptyProxy { mesh_gateway: EmptyObject {}, expose: EmptyObject {} };

/// A service as `health/service` and `catalog/node` show it.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct NodeService<'a> {
    #[serde(rename = "ID")]
    id: &'a str,
    #[serde(rename = "Service")]
    name: &'a str,
    #[serde(rename = "Tags")]
    tags: &'a [String],
    #[serde(rename = "Address")]
    address: &'a str,
    #[serde(rename = "TaggedAddresses", skip_serializing_if = "BTreeMap::is_empty")]
    tagged_addresses: TaggedAddresses<'a>,
    #[serde(rename = "Meta")]
    meta: Option<StringMap<'a>>,
    #[serde(rename = "Port")]
    port: i64,
    #[serde(rename = "Weights")]
    weights: WeightsJson,
    #[serde(rename = "EnableTagOverride")]
    enable_tag_override: bool,
    #[serde(rename = "Proxy")]
    proxy: EmptyProxy,
    #[serde(rename = "Connect")]
    connect: EmptyObject,
    #[serde(rename = "CreateIndex")]
    create_index: u64,
    #[serde(rename = "ModifyIndex")]
    modify_index: u64,
}

impl<'a> From<&'a Row<store::Service>> for NodeService<'a> {
    fn from(row: &'a Row<store::Service>) -> Self {
        let service = &row.value;
        Self {
            id: &service.id,
            name: &service.name,
            tags: &service.tags,
            address: &service.address,
            tagged_addresses: tagged_addresses(service),
            meta: Some(&service.meta).filter(|meta| !meta.is_empty()),
            port: service.port,
            weights: weights(service),
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
pub(crate) struct NodeJson<'a> {
    #[serde(rename = "ID")]
    id: &'a str,
    #[serde(rename = "Node")]
    name: &'a str,
    #[serde(rename = "Address")]
    address: &'a str,
    #[serde(rename = "Datacenter")]
    datacenter: &'a str,
    #[serde(rename = "TaggedAddresses")]
    tagged_addresses: Option<StringMap<'a>>,
    #[serde(rename = "Meta")]
    meta: Option<StringMap<'a>>,
    #[serde(rename = "CreateIndex")]
    create_index: u64,
    #[serde(rename = "ModifyIndex")]
    modify_index: u64,
}

impl<'a> NodeJson<'a> {
    pub(crate) fn new(node: &'a store::Node, datacenter: &'a str) -> Self {
        Self {
            id: &node.info.id,
            name: &node.info.name,
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
pub(crate) struct CheckJson<'a> {
    #[serde(rename = "Node")]
    node: &'a str,
    #[serde(rename = "CheckID")]
    id: &'a str,
    #[serde(rename = "Name")]
    name: &'a str,
    #[serde(rename = "Status")]
    status: &'static str,
    #[serde(rename = "Notes")]
    notes: &'a str,
    #[serde(rename = "Output")]
    output: &'a str,
    #[serde(rename = "ServiceID")]
    service_id: &'a str,
    #[serde(rename = "ServiceName")]
    service_name: &'a str,
    #[serde(rename = "ServiceTags")]
    service_tags: Option<&'a [String]>,
    #[serde(rename = "Type")]
    kind: &'a str,
    #[serde(rename = "Definition")]
    definition: CheckDefinition,
    #[serde(rename = "CreateIndex")]
    create_index: u64,
    #[serde(rename = "ModifyIndex")]
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
    Blank {
        #[serde(rename = "Interval")]
        interval: &'static str,
        #[serde(rename = "Timeout")]
        timeout: &'static str,
        #[serde(rename = "DeregisterCriticalServiceAfter")]
        deregister_after: &'static str,
        #[serde(rename = "HTTP")]
        http: &'static str,
        #[serde(rename = "Header")]
        header: Option<EmptyObject>,
        #[serde(rename = "Method")]
        method: &'static str,
        #[serde(rename = "Body")]
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
        deregister_after: "0s",
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
pub(crate) struct CatalogServiceEntry<'a> {
    #[serde(rename = "ID")]
    node_id: &'a str,
    #[serde(rename = "Node")]
    node: &'a str,
    #[serde(rename = "Address")]
    address: &'a str,
    #[serde(rename = "Datacenter")]
    datacenter: &'a str,
    #[serde(rename = "TaggedAddresses")]
    tagged_addresses: Option<StringMap<'a>>,
    #[serde(rename = "NodeMeta")]
    node_meta: Option<StringMap<'a>>,
    #[serde(rename = "ServiceKind")]
    kind: &'static str,
    #[serde(rename = "ServiceID")]
    id: &'a str,
    #[serde(rename = "ServiceName")]
    name: &'a str,
    #[serde(rename = "ServiceTags")]
    tags: &'a [String],
    #[serde(rename = "ServiceAddress")]
    service_address: &'a str,
    #[serde(rename = "ServiceTaggedAddresses", skip_serializing_if = "BTreeMap::is_empty")]
    service_tagged_addresses: TaggedAddresses<'a>,
    #[serde(rename = "ServiceWeights")]
    weights: WeightsJson,
    #[serde(rename = "ServiceMeta")]
    meta: StringMap<'a>,
    #[serde(rename = "ServicePort")]
    port: i64,
    #[serde(rename = "ServiceEnableTagOverride")]
    enable_tag_override: bool,
    #[serde(rename = "ServiceProxy")]
    proxy: EmptyProxy,
    #[serde(rename = "ServiceConnect")]
    connect: EmptyObject,
    #[serde(rename = "CreateIndex")]
    create_index: u64,
    #[serde(rename = "ModifyIndex")]
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
            kind: "",
            id: &service.id,
            name: &service.name,
            tags: &service.tags,
            service_address: &service.address,
            service_tagged_addresses: tagged_addresses(service),
            weights: weights(service),
            meta: &service.meta,
            port: service.port,
            enable_tag_override: service.enable_tag_override,
            proxy: NO_PROXY,
            connect: EmptyObject {},
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
    pub(crate) service: Option<AgentService<'a>>,
    pub(crate) checks: Option<Vec<CheckJson<'a>>>,
}

fn tagged_addresses(service: &store::Service) -> TaggedAddresses<'_> {
    service
        .tagged_addresses
        .iter()
        .map(|(name, to)| (name.as_str(), TaggedAddressJson { address: &to.address, port: to.port }))
        .collect()
}

fn weights(service: &store::Service) -> WeightsJson {
    WeightsJson { passing: service.weights.passing, warning: service.weights.warning }
}
