//! What the file listed when it was last good, with a version per service. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::shape::{Entry, Services};
use crate::{Cursor, Instance, InstanceId, Unusable, resolve::Listed};

/// The version of a service that was never listed.
const NEVER: u64 = 1;

/// The last good content.
#[derive(Debug)]
pub(super) struct Table {
    services: BTreeMap<String, Service>,
    version: u64,
    lives: u64,
}

/// One service. It stays, empty, when the file no longer lists it, so that its watchers hear of it.
#[derive(Debug, Default)]
struct Service {
    version: u64,
    listed: Vec<(Entry, u64)>,
}

impl Table {
    pub(super) fn new(services: Services) -> Self {
        let mut table = Self { services: BTreeMap::new(), version: NEVER, lives: 0 };
        table.replace(services);
        table
    }

    /// Takes over a new content. Only services whose content differs get a new version.
    pub(super) fn replace(&mut self, mut services: Services) {
        let names: BTreeSet<String> = self.services.keys().chain(services.keys()).cloned().collect();
        for name in names {
            let entries = services.remove(&name).unwrap_or_default();
            let Self { version, lives, .. } = self;
            let service = self.services.entry(name).or_default();
            service.replace(entries, version, lives);
        }
    }

    /// Where a watch of `service` stands.
    pub(super) fn cursor(&self, service: &str) -> Cursor {
        Cursor::at(self.services.get(service).map_or(NEVER, |service| service.version))
    }

    /// The instances of `service`; none when the file does not list it.
    pub(super) fn listed(&self, service: &str) -> Vec<Listed> {
        let Some(service) = self.services.get(service) else { return Vec::new() };
        service.listed.iter().map(|(entry, life)| listed(entry, *life)).collect()
    }
}

impl Service {
    fn replace(&mut self, entries: Vec<Entry>, version: &mut u64, lives: &mut u64) {
        if self.version != 0 && entries.iter().eq(self.listed.iter().map(|(entry, _)| entry)) {
            return;
        }
        *version += 1;
        self.version = *version;
        let before = std::mem::take(&mut self.listed);
        self.listed = entries
            .into_iter()
            .map(|entry| {
                let same = before.iter().find(|(old, _)| same_life(old, &entry));
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

fn same_life(old: &Entry, new: &Entry) -> bool {
    old.id == new.id && old.host == new.host && old.port == new.port
}

fn listed(entry: &Entry, life: u64) -> Listed {
    let id = InstanceId { datacenter: "file".into(), node: "file".into(), id: entry.id.as_str().into() };
    let instance = Instance {
        id,
        addr: Err(Unusable::NoAddress),
        tags: entry.tags.iter().map(|tag| Arc::from(tag.as_str())).collect(),
        meta: Arc::new(entry.meta.clone()),
        weights: entry.weights,
        status: entry.status,
        node_lost: false,
        create_index: life,
    };
    Listed { host: entry.host.as_str().into(), port: entry.port.into(), instance }
}

#[cfg(test)]
mod tests {
    use super::{super::shape::parse, *};

    fn services(text: &str) -> Services {
        parse(&format!("services: {text}")).unwrap()
    }

    fn lives(table: &Table, service: &str) -> Vec<u64> {
        table.listed(service).iter().map(|listed| listed.instance.create_index).collect()
    }

    #[test]
    fn a_change_of_one_service_leaves_the_others_where_they_were() {
        let mut table = Table::new(services("{a: ['x:1'], b: ['x:2']}"));
        let (a, b) = (table.cursor("a"), table.cursor("b"));
        table.replace(services("{a: ['x:1', 'x:3'], b: ['x:2']}"));
        assert_ne!(table.cursor("a"), a);
        assert_eq!(table.cursor("b"), b);
    }

    #[test]
    fn a_service_that_is_no_longer_listed_is_empty_and_newer() {
        let mut table = Table::new(services("{a: ['x:1']}"));
        let listed = table.cursor("a");
        table.replace(services("{}"));
        let gone = table.cursor("a");
        assert_ne!(gone, listed);
        assert_eq!(table.listed("a"), []);
        table.replace(services("{}"));
        assert_eq!(table.cursor("a"), gone);
        assert_eq!(table.cursor("never"), Cursor::at(NEVER));
    }

    #[test]
    fn a_life_goes_on_while_id_and_address_do() {
        let mut table = Table::new(services("{a: ['x:1', 'x:2']}"));
        let before = lives(&table, "a");
        table.replace(services("{a: ['x:2', {address: x, port: 1, weight: 7}]}"));
        assert_eq!(lives(&table, "a"), [before[1], before[0]], "order and weight do not matter");
        table.replace(services("{a: [{address: y, port: 1, id: 'x:1'}, 'x:2']}"));
        let moved = lives(&table, "a");
        assert_eq!(moved[1], before[1]);
        assert!(!before.contains(&moved[0]), "another address is another life");
    }
}
