//! Rows in and out of the catalog. Each write says at which index it happens; a write that changes
//! nothing moves nothing.

use std::collections::BTreeMap;

use super::{
    Store,
    index::{Mark, Topic},
    model::{Check, Node, NodeAbout, Row, Service},
};

impl Store {
    /// Every node, by name.
    pub(crate) fn nodes(&self) -> impl Iterator<Item = &Node> {
        self.nodes.values()
    }

    /// One node. Names are compared without case.
    pub(crate) fn node(&self, name: &str) -> Option<&Node> {
        self.nodes.get(name).or_else(|| self.nodes.values().find(|node| same(&node.about.name, name)))
    }

    /// The instances of a service, by node and id. Names are compared without case.
    pub(crate) fn instances<'a>(
        &'a self,
        name: &'a str,
    ) -> impl Iterator<Item = (&'a Node, &'a Row<Service>)> {
        self.nodes.values().flat_map(move |node| {
            node.services.values().filter(move |row| same(&row.what.name, name)).map(move |row| (node, row))
        })
    }

    /// Where a topic stands.
    pub(crate) fn mark(&self, topic: &Topic) -> Mark {
        let tables = &self.tables;
        match topic {
            Topic::Nodes => Mark { index: tables.nodes, wake: tables.nodes },
            Topic::Node(name) => match self.node(name) {
                Some(node) => Mark {
                    index: tables.nodes.max(tables.services),
                    wake: node.modify_index.max(node.services_changed),
                },
                None => Mark { index: 1, wake: 0 },
            },
            Topic::Services => Mark { index: tables.services, wake: tables.services },
            Topic::Instances(name) => tables.service(name, false),
            Topic::Health(name) => tables.service(name, true),
            Topic::ChecksOf(name) => tables.checks_of(name),
            Topic::Checks => Mark { index: tables.checks, wake: tables.checks },
        }
    }

    /// The index of the next write. Writes that turn out to change nothing use one up, too.
    pub(super) fn next_index(&mut self) -> u64 {
        self.index += 1;
        self.index
    }

    pub(super) fn put_node(&mut self, about: NodeAbout, at: u64) {
        let node = self.nodes.entry(about.name.clone()).or_insert_with(|| Node {
            about: about.clone(),
            create_index: at,
            modify_index: 0,
            services_changed: 0,
            services: BTreeMap::new(),
            checks: BTreeMap::new(),
        });
        if node.modify_index != 0 && node.about == about {
            return;
        }
        node.about = about;
        node.modify_index = at;
        self.tables.nodes = at;
        let names: Vec<String> = node.services.values().map(|row| row.what.name.clone()).collect();
        names.iter().for_each(|name| self.tables.instance_changed(name, at));
    }

    pub(super) fn put_service(&mut self, node: &str, service: Service, at: u64) {
        let Some(node) = self.nodes.get_mut(node) else { return };
        let (id, name) = (service.id.clone(), service.name.clone());
        let old = node.services.get(&id);
        if old.is_some_and(|row| row.what == service) {
            return;
        }
        let create_index = old.map_or(at, |row| row.create_index);
        let renamed = old.map(|row| row.what.name.clone()).filter(|old| !same(old, &name));
        for row in node.checks.values_mut().filter(|row| row.what.service_id == id) {
            let check = &mut row.what;
            if (&check.service_name, &check.service_tags) != (&service.name, &service.tags) {
                check.service_name.clone_from(&service.name);
                check.service_tags.clone_from(&service.tags);
                row.modify_index = at;
                self.tables.check_changed(&name, at);
            }
        }
        node.services.insert(id, Row { what: service, create_index, modify_index: at });
        node.services_changed = at;
        self.tables.instance_changed(&name, at);
        if let Some(old) = renamed {
            let last = self.instances(&old).next().is_none();
            self.tables.instance_gone(&old, last, at);
        }
    }

    pub(super) fn remove_service(&mut self, node: &str, id: &str, at: u64) {
        let Some(node) = self.nodes.get_mut(node) else { return };
        let Some(row) = node.services.remove(id) else { return };
        node.services_changed = at;
        let name = row.what.name;
        let last = self.instances(&name).next().is_none();
        self.tables.instance_gone(&name, last, at);
    }

    pub(super) fn put_check(&mut self, node: &str, check: Check, at: u64) {
        let Some(node) = self.nodes.get_mut(node) else { return };
        let old = node.checks.get(&check.id);
        if old.is_some_and(|row| row.what == check) {
            return;
        }
        let old_service = old.map(|row| row.what.service_name.clone());
        let create_index = old.map_or(at, |row| row.create_index);
        let (name, service) = (node.about.name.clone(), check.service_name.clone());
        node.checks.insert(check.id.clone(), Row { what: check, create_index, modify_index: at });
        self.check_changed(&name, &service, at);
        if let Some(old) = old_service.filter(|old| *old != service) {
            self.check_changed(&name, &old, at);
        }
    }

    pub(super) fn remove_check(&mut self, node: &str, id: &str, at: u64) {
        let Some(listed) = self.nodes.get_mut(node) else { return };
        let Some(row) = listed.checks.remove(id) else { return };
        self.check_changed(node, &row.what.service_name, at);
    }

    /// A check of `service` on `node` changed; with no service, every service of the node has.
    fn check_changed(&mut self, node: &str, service: &str, at: u64) {
        self.tables.check_changed(service, at);
        if !service.is_empty() {
            self.tables.health_changed(service, at);
        } else if let Some(node) = self.nodes.get(node) {
            for row in node.services.values() {
                self.tables.health_changed(&row.what.name, at);
            }
        }
    }

    /// What a client describes about a node that runs no agent.
    pub(crate) fn catalog_register(
        &mut self,
        about: NodeAbout,
        service: Option<Service>,
        checks: Vec<Check>,
    ) {
        let at = self.next_index();
        let node = about.name.clone();
        self.put_node(about, at);
        if let Some(service) = service {
            self.put_service(&node, service, at);
        }
        for mut check in checks {
            if let Some(row) = self.nodes.get(&node).and_then(|node| node.services.get(&check.service_id)) {
                check.service_name = row.what.name.clone();
                check.service_tags = row.what.tags.clone();
            }
            self.put_check(&node, check, at);
        }
    }

    /// Removes a service, a check, or with neither the whole node.
    pub(crate) fn catalog_deregister(&mut self, node: &str, service: Option<&str>, check: Option<&str>) {
        let at = self.next_index();
        match (service, check) {
            (Some(service), _) => {
                self.remove_checks_of(node, service, at);
                self.remove_service(node, service, at);
            }
            (None, Some(check)) => self.remove_check(node, check, at),
            (None, None) => self.remove_node(node, at),
        }
    }

    fn remove_node(&mut self, name: &str, at: u64) {
        let Some(node) = self.nodes.get(name) else { return };
        let services: Vec<String> = node.services.keys().cloned().collect();
        let checks: Vec<String> = node.checks.keys().cloned().collect();
        checks.iter().for_each(|id| self.remove_check(name, id, at));
        services.iter().for_each(|id| self.remove_service(name, id, at));
        self.nodes.remove(name);
        self.tables.nodes = at;
    }

    pub(super) fn remove_checks_of(&mut self, node: &str, service: &str, at: u64) -> Vec<String> {
        let Some(listed) = self.nodes.get(node) else { return Vec::new() };
        let ids: Vec<String> = listed
            .checks
            .values()
            .filter(|row| row.what.service_id == service)
            .map(|row| row.what.id.clone())
            .collect();
        ids.iter().for_each(|id| self.remove_check(node, id, at));
        ids
    }
}

/// Consul compares names without case.
fn same(a: &str, b: &str) -> bool {
    a == b || a.to_lowercase() == b.to_lowercase()
}
