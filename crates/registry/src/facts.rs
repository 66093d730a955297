//! What a registry says of an instance beside what a request needs: what the filter of a subset may select.
//!
//! Equal parts of the instances of one answer are kept once ([`FactPool`]): instances of a service have few different sets of
//! metadata, and the check of a node is the same for all. In an answer with two checks an instance, the facts of one cost about
//! 350 bytes, a third of them for its own check. A map of metadata alone costs more than 600.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
};

/// What is listed of an instance for filters.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct InstanceFacts {
    /// The name of its service.
    pub service: Arc<str>,
    /// The address of the service as listed; empty: that of the node counts.
    pub address: Arc<str>,
    /// The port as listed, possible or not.
    pub port: i64,
    /// Its node.
    pub node: Arc<NodeFacts>,
    /// Its checks, those of the node included, in the registry's order.
    pub checks: Arc<[Arc<CheckFacts>]>,
}

/// What is listed of a node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct NodeFacts {
    /// Its address as listed.
    pub address: Arc<str>,
    /// Its metadata.
    pub meta: Arc<BTreeMap<String, String>>,
}

/// What is listed of a check, without what changes while its status stays.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct CheckFacts {
    /// Its id.
    pub id: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
    /// Its status as listed: `passing`, `warning`, `critical`, or what a newer registry has.
    pub status: Arc<str>,
    /// Its type; empty in older registries.
    pub kind: Arc<str>,
    /// It is a check of the service, not of the node.
    pub is_of_service: bool,
}

/// Keeps equal parts of instances once. It lives as long as an answer is read.
#[derive(Debug, Default)]
pub struct FactPool {
    texts: HashSet<Arc<str>>,
    maps: HashSet<Arc<BTreeMap<String, String>>>,
    nodes: HashSet<Arc<NodeFacts>>,
    checks: HashSet<Arc<CheckFacts>>,
}

impl FactPool {
    /// The text.
    pub fn text(&mut self, text: &str) -> Arc<str> {
        if let Some(known) = self.texts.get(text) {
            return known.clone();
        }
        let new: Arc<str> = text.into();
        self.texts.insert(new.clone());
        new
    }

    /// The metadata.
    pub fn map(&mut self, map: BTreeMap<String, String>) -> Arc<BTreeMap<String, String>> {
        keep_once(&mut self.maps, map)
    }

    /// The node.
    pub fn node(&mut self, node: NodeFacts) -> Arc<NodeFacts> {
        keep_once(&mut self.nodes, node)
    }

    /// The check.
    pub fn check(&mut self, check: CheckFacts) -> Arc<CheckFacts> {
        keep_once(&mut self.checks, check)
    }
}

fn keep_once<T: std::hash::Hash + Eq>(known: &mut HashSet<Arc<T>>, value: T) -> Arc<T> {
    if let Some(known) = known.get(&value) {
        return known.clone();
    }
    let new = Arc::new(value);
    known.insert(new.clone());
    new
}
