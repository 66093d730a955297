//! Settings of services from documents of the registry's KV.

use std::collections::BTreeMap;

use super::{Policy, TrafficRules};

/// Which documents of the registry's KV set how services are called, and what they may set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DynamicConfig {
    /// The documents are the keys below `PREFIX/settings/`. Absent (the default, or `off`): no document is read.
    pub prefix: Option<String>,
    /// The groups of settings that a document may have. Default `tuning`.
    pub allow: Vec<SettingGroup>,
    /// Services that a document may send requests of another service to. Default none.
    pub allow_services: Vec<String>,
    /// Ranges for values of documents, by the key in a document: `timeout`, `retry.max_retries`. A document with a value
    /// outside is refused. Default none: the ranges are those of the file.
    pub bounds: BTreeMap<String, Bounds>,
}

impl Default for DynamicConfig {
    fn default() -> Self {
        Self {
            prefix: None,
            allow: vec![SettingGroup::Tuning],
            allow_services: Vec::new(),
            bounds: BTreeMap::new(),
        }
    }
}

/// A group of settings of a document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SettingGroup {
    /// How a service is called: the keys of `defaults`, except `retry.non_idempotent` and `address`.
    Tuning,
    /// Which instances of a service are called, and at which `address`: `subsets`, `split`, `sticky`, `routes` and `mirror`. Only documents about one
    /// service have them; what they send to another service needs [`DynamicConfig::allow_services`].
    Routing,
}

/// A range, both ends included; the texts are values of the setting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bounds {
    /// The lowest value.
    pub low: String,
    /// The highest value.
    pub high: String,
}

/// A service that is not declared in the file and has settings of its own from documents.
#[derive(Debug, Clone, PartialEq)]
pub struct TunedService {
    /// Its name, in lower case.
    pub service: String,
    /// The policy: the defaults, overridden by the documents.
    pub policy: Policy,
    /// The rules of the documents.
    pub traffic: TrafficRules,
}

/// What becomes of a key that no version of Outrigger up to this one knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnknownKeys {
    /// A warning: a newer sidecar may know it.
    Warn,
    /// A problem: it is a typing error of the writer.
    Refuse,
}
