//! The last good content of the file, with a version per service. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::shape::{StaticInstance, StaticServices};
use crate::{Cursor, Instance, InstanceFacts, InstanceId, Unusable, resolve::UnresolvedInstance};

/// The version of a service that was never listed.
const UNLISTED_VERSION: u64 = 1;

/// The last good content.
#[derive(Debug)]
pub(super) struct ServiceTable {
    services: BTreeMap<String, VersionedService>,
    version: u64,
    incarnations: u64,
}

/// One service. A service that the file no longer lists stays in the table, empty, so that its watches are
/// answered.
#[derive(Debug, Default)]
struct VersionedService {
    version: u64,
    instances: Vec<(StaticInstance, u64)>,
}

impl ServiceTable {
    pub(super) fn new(services: StaticServices) -> Self {
        let mut table = Self { services: BTreeMap::new(), version: UNLISTED_VERSION, incarnations: 0 };
        table.replace(services);
        table
    }

    /// Replaces the content. Only services with other instances than before get a new version.
    pub(super) fn replace(&mut self, mut services: StaticServices) {
        let names: BTreeSet<String> = self.services.keys().chain(services.keys()).cloned().collect();
        for name in names {
            let entries = services.remove(&name).unwrap_or_default();
            let Self { version, incarnations: lives, .. } = self;
            let service = self.services.entry(name).or_default();
            service.replace(entries, version, lives);
        }
    }

    /// The cursor of a watch of `service`.
    pub(super) fn cursor(&self, service: &str) -> Cursor {
        Cursor::at(self.services.get(service).map_or(UNLISTED_VERSION, |service| service.version))
    }

    /// The instances of `service`; none when the file does not list it.
    pub(super) fn instances(&self, service: &str) -> Vec<UnresolvedInstance> {
        let name: Arc<str> = service.into();
        let Some(service) = self.services.get(service) else { return Vec::new() };
        let service = service.instances.iter();
        service.map(|(entry, life)| unresolved_instance(&name, entry, *life)).collect()
    }
}

impl VersionedService {
    fn replace(&mut self, entries: Vec<StaticInstance>, version: &mut u64, lives: &mut u64) {
        if self.version != 0 && entries.iter().eq(self.instances.iter().map(|(entry, _)| entry)) {
            return;
        }
        *version += 1;
        self.version = *version;
        let before = std::mem::take(&mut self.instances);
        self.instances = entries
            .into_iter()
            .map(|entry| {
                let same = before.iter().find(|(old, _)| is_same_incarnation(old, &entry));
                let life = same.map_or_else(
                    || {
                        *lives += 1;
                        *lives
                    },
                    |(_, life)| *life,
                );
                (entry, life)
            })
            .collect();
    }
}

fn is_same_incarnation(old: &StaticInstance, new: &StaticInstance) -> bool {
    old.id == new.id && old.host == new.host && old.port == new.port
}

fn unresolved_instance(service: &Arc<str>, entry: &StaticInstance, life: u64) -> UnresolvedInstance {
    let id = InstanceId { datacenter: "file".into(), node: "file".into(), id: entry.id.as_str().into() };
    let host: Arc<str> = entry.host.as_str().into();
    let facts = InstanceFacts {
        service: service.clone(),
        address: host.clone(),
        port: entry.port.into(),
        ..InstanceFacts::default()
    };
    let instance = Instance {
        id,
        addr: Err(Unusable::NoAddress),
        named: None,
        facts: Arc::new(facts),
        tags: entry.tags.iter().map(|tag| Arc::from(tag.as_str())).collect(),
        meta: Arc::new(entry.meta.clone()),
        weights: entry.weights,
        status: entry.status,
        node_lost: false,
        draining: false,
        create_index: life,
    };
    UnresolvedInstance { host, port: entry.port.into(), instance }
}

#[cfg(test)]
mod tests {
    use super::{super::shape::parse, *};

    fn services(text: &str) -> StaticServices {
        parse(&format!("services: {text}")).unwrap()
    }

    fn incarnations(table: &ServiceTable, service: &str) -> Vec<u64> {
        table.instances(service).iter().map(|listed| listed.instance.create_index).collect()
    }

    #[test]
    fn a_change_of_one_service_leaves_the_versions_of_the_others() {
        let mut table = ServiceTable::new(services("{a: ['x:1'], b: ['x:2']}"));
        let (a, b) = (table.cursor("a"), table.cursor("b"));
        table.replace(services("{a: ['x:1', 'x:3'], b: ['x:2']}"));
        assert_ne!(table.cursor("a"), a);
        assert_eq!(table.cursor("b"), b);
    }

    #[test]
    fn a_service_that_is_no_longer_listed_is_empty_and_newer() {
        let mut table = ServiceTable::new(services("{a: ['x:1']}"));
        let listed = table.cursor("a");
        table.replace(services("{}"));
        let gone = table.cursor("a");
        assert_ne!(gone, listed);
        assert_eq!(table.instances("a"), []);
        table.replace(services("{}"));
        assert_eq!(table.cursor("a"), gone);
        assert_eq!(table.cursor("never"), Cursor::at(UNLISTED_VERSION));
    }

    #[test]
    fn an_incarnation_lasts_while_id_and_address_stay() {
        let mut table = ServiceTable::new(services("{a: ['x:1', 'x:2']}"));
        let before = incarnations(&table, "a");
        table.replace(services("{a: ['x:2', {address: x, port: 1, weight: 7}]}"));
        assert_eq!(incarnations(&table, "a"), [before[1], before[0]], "order and weight do not matter");
        table.replace(services("{a: [{address: y, port: 1, id: 'x:1'}, 'x:2']}"));
        let moved = incarnations(&table, "a");
        assert_eq!(moved[1], before[1]);
        assert!(!before.contains(&moved[0]), "another address is another incarnation");
    }
}
