//! The compiled chain of a service: what Consul's service-resolver, service-splitter, service-router and service-defaults say of its
//! requests.
//!
//! The names of nodes are opaque. A field that this version does not know is kept by its name: where it is a part of a match, the
//! route would match something else without it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::null::or_default;

/// What is not known, by name.
pub type Unknown = Map<String, Value>;

/// A compiled chain.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Chain {
    /// The service that it is of.
    pub service_name: String,
    /// The datacenter for which it was compiled.
    pub datacenter: String,
    /// `tcp`, which an unconfigured service has, `http`, `http2` or `grpc`.
    pub protocol: String,
    /// Where a request begins. Empty: the chain says nothing.
    pub start_node: String,
    /// By their opaque names.
    pub nodes: BTreeMap<String, Node>,
    /// By their ids.
    pub targets: BTreeMap<String, Target>,
}

/// A node of a chain: one of the three parts is there.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Node {
    /// Of a router: the first that matches takes the request.
    #[serde(deserialize_with = "or_default")]
    pub routes: Vec<Route>,
    /// Of a splitter.
    #[serde(deserialize_with = "or_default")]
    pub splits: Vec<Split>,
    /// Of a resolver.
    pub resolver: Option<ResolverNode>,
}

/// A route.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Route {
    /// What it matches, and what it sets.
    #[serde(deserialize_with = "or_default")]
    pub definition: Definition,
    /// Where it goes.
    pub next_node: String,
}

/// What a route matches, and what it sets.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Definition {
    /// Absent: every request.
    #[serde(rename = "Match")]
    pub matcher: Option<Match>,
    /// Absent: nothing is set.
    pub destination: Option<Destination>,
}

/// What a request has to be like.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Match {
    /// Absent: every request.
    #[serde(rename = "HTTP")]
    pub http: Option<HttpMatch>,
    /// What is not known.
    #[serde(flatten)]
    pub unknown: Unknown,
}

/// What a request of HTTP has to be like: all that is set.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct HttpMatch {
    /// The whole path.
    pub path_exact: String,
    /// Its beginning.
    pub path_prefix: String,
    /// The whole path.
    pub path_regex: String,
    /// All of them.
    #[serde(deserialize_with = "or_default")]
    pub header: Vec<ValueMatch>,
    /// All of them.
    #[serde(deserialize_with = "or_default")]
    pub query_param: Vec<ValueMatch>,
    /// One of them. Empty: every method.
    #[serde(deserialize_with = "or_default")]
    pub methods: Vec<String>,
    /// What is not known.
    #[serde(flatten)]
    pub unknown: Unknown,
}

/// What a header or a parameter of the query has to be like: one of these.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ValueMatch {
    /// Its name.
    pub name: String,
    /// It is there.
    pub present: bool,
    /// Its value.
    pub exact: String,
    /// The beginning of its value.
    pub prefix: String,
    /// The end of its value.
    pub suffix: String,
    /// The whole value.
    pub regex: String,
    /// The opposite.
    pub invert: bool,
    /// What is not known.
    #[serde(flatten)]
    pub unknown: Unknown,
}

/// What a route sets.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Destination {
    /// As the entry names it; the next node says where a request goes.
    pub service: String,
    /// As the entry names it.
    pub service_subset: String,
    /// As the entry names it.
    pub namespace: String,
    /// What takes the place of the matched path.
    pub prefix_rewrite: String,
    /// A duration of Go, as `15s`.
    pub request_timeout: String,
    /// Most attempts after the first.
    pub num_retries: u32,
    /// Try again where no connection could be made.
    pub retry_on_connect_failure: bool,
    /// Try again after these.
    #[serde(deserialize_with = "or_default")]
    pub retry_on_status_codes: Vec<u16>,
    /// What is not known.
    #[serde(flatten)]
    pub unknown: Unknown,
}

/// A part of a splitter.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Split {
    /// In percent.
    pub weight: f64,
    /// Where it goes.
    pub next_node: String,
    /// What is not known.
    #[serde(flatten)]
    pub unknown: Unknown,
}

/// A resolver.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ResolverNode {
    /// A duration of Go. Consul writes its default of `5s` where none is set.
    pub connect_timeout: String,
    /// There is no entry about it.
    #[serde(rename = "Default")]
    pub is_default: bool,
    /// The id of its target.
    pub target: String,
    /// Where requests go while the target has no usable instance.
    #[serde(deserialize_with = "or_default")]
    pub failover: Failover,
    /// What is not known.
    #[serde(flatten)]
    pub unknown: Unknown,
}

/// The failover of a resolver.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Failover {
    /// Ids of targets, in the order of use.
    #[serde(deserialize_with = "or_default")]
    pub targets: Vec<String>,
}

/// A target.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Target {
    /// Its service.
    pub service: String,
    /// The name of the subset. Empty: every instance.
    pub service_subset: String,
    /// Its datacenter.
    pub datacenter: String,
    /// What the subset has.
    #[serde(deserialize_with = "or_default")]
    pub subset: TargetSubset,
    /// It is outside of the mesh.
    pub external: bool,
}

/// What a subset has.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct TargetSubset {
    /// An expression of the filter language. Empty: every instance.
    pub filter: String,
    /// Without instances that have a check in the state `warning`.
    pub only_passing: bool,
}

/// Reads the answer of `GET /v1/discovery-chain/NAME`.
///
/// # Errors
/// It is no JSON, or no chain.
pub fn parse(body: &[u8]) -> serde_json::Result<Chain> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Answer {
        chain: Chain,
    }
    serde_json::from_slice::<Answer>(body).map(|answer| answer.chain)
}
