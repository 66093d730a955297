//! Writes and reads the rows of the catalog. Each write gets its index; a write that changes nothing leaves the
//! indexes of the rows as they are.

use std::{collections::BTreeMap, time::Instant};

use super::{
    index::{Topic, TopicIndex},
    model::{Check, Node, NodeInfo, Row, Service, Status},
    state::Store,
};

impl Store {
    /// Every node, by name.
    pub(crate) fn nodes(&self) -> impl Iterator<Item = &Node> {
        self.nodes.values()
    }

    /// One node. Names are compared without case.
    pub(crate) fn node(&self, name: &str) -> Option<&Node> {
        self.nodes
            .get(name)
            .or_else(|| self.nodes.values().find(|node| eq_ignore_case(&node.info.name, name)))
    }

    /// The instances of a service, by node and id. Names are compared without case.
    pub(crate) fn instances<'a>(
        &'a self,
        name: &'a str,
    ) -> impl Iterator<Item = (&'a Node, &'a Row<Service>)> {
        self.nodes.values().flat_map(move |node| {
            node.services
                .values()
                .filter(move |row| eq_ignore_case(&row.value.name, name))
                .map(move |row| (node, row))
        })
    }

    /// The index of a topic.
    pub(crate) fn topic_index(&self, topic: &Topic) -> TopicIndex {
        let tables = &self.tables;
        match topic {
            Topic::Nodes => TopicIndex::new(tables.nodes, tables.nodes),
            Topic::Node(name) => match self.node(name) {
                Some(node) => TopicIndex::new(
                    tables.nodes.max(tables.services),
                    node.modify_index.max(node.services_changed),
                ),
                // Grows with the removal of the node.
                None => TopicIndex::new(1, tables.nodes),
            },
            Topic::Services => TopicIndex::new(tables.services, tables.services),
            Topic::Instances(name) => tables.service_index(name, false),
            Topic::Health(name) => tables.service_index(name, true),
            Topic::ChecksOf(name) => tables.checks_index(name),
            Topic::Checks => TopicIndex::new(tables.checks, tables.checks),
            Topic::Key(key) => self.kv.key_index(key),
            Topic::Keys(prefix) => self.kv.prefix_index(prefix),
            Topic::Sessions => self.sessions.table_index(),
            Topic::Session(id) => self.sessions.session_index(id),
            Topic::SessionsOf(node) => self.sessions.node_index(node),
            Topic::Coordinates => self.coordinates.table_index(),
            Topic::CoordinatesOf(node) => self.coordinates.node_index(node),
            Topic::Never => TopicIndex::new(1, 0),
        }
    }

    /// The index of the last write.
    pub(crate) fn last_index(&self) -> u64 {
        self.index
    }

    /// The index of the next write. A write that changes nothing uses one, too.
    pub(super) fn next_index(&mut self) -> u64 {
        self.index += 1;
        self.index
    }

    pub(super) fn put_node(&mut self, about: NodeInfo, at: u64) {
        let node = self.nodes.entry(about.name.clone()).or_insert_with(|| Node {
            info: about.clone(),
            create_index: at,
            modify_index: 0,
            services_changed: 0,
            services: BTreeMap::new(),
            checks: BTreeMap::new(),
        });
        if node.modify_index != 0 && node.info == about {
            return;
        }
        node.info = about;
        node.modify_index = at;
        self.tables.nodes = at;
        let names: Vec<String> = node.services.values().map(|row| row.value.name.clone()).collect();
        names.iter().for_each(|name| self.tables.instance_changed(name, at));
    }

    pub(super) fn put_service(&mut self, node: &str, service: Service, at: u64) {
        let Some(node) = self.nodes.get_mut(node) else { return };
        let (id, name) = (service.id.clone(), service.name.clone());
        let old = node.services.get(&id);
        if old.is_some_and(|row| row.value == service) {
            return;
        }
        let create_index = old.map_or(at, |row| row.create_index);
        let renamed = old.map(|row| row.value.name.clone()).filter(|old| !eq_ignore_case(old, &name));
        for row in node.checks.values_mut().filter(|row| row.value.service_id == id) {
            let check = &mut row.value;
            if (&check.service_name, &check.service_tags) != (&service.name, &service.tags) {
                check.service_name.clone_from(&service.name);
                check.service_tags.clone_from(&service.tags);
                row.modify_index = at;
                self.tables.check_changed(&name, at);
            }
        }
        node.services.insert(id, Row { value: service, create_index, modify_index: at });
        node.services_changed = at;
        self.tables.instance_changed(&name, at);
        if let Some(old) = renamed {
            let last = self.instances(&old).next().is_none();
            self.tables.instance_removed(&old, last, at);
        }
    }

    pub(super) fn remove_service(&mut self, node: &str, id: &str, at: u64) {
        let Some(node) = self.nodes.get_mut(node) else { return };
        let Some(row) = node.services.remove(id) else { return };
        node.services_changed = at;
        let name = row.value.name;
        let last = self.instances(&name).next().is_none();
        self.tables.instance_removed(&name, last, at);
    }

    pub(super) fn put_check(&mut self, node: &str, check: Check, at: u64, now: Instant) {
        let Some(node) = self.nodes.get_mut(node) else { return };
        let old = node.checks.get(&check.id);
        if old.is_some_and(|row| row.value == check) {
            return;
        }
        let old_service = old.map(|row| row.value.service_name.clone());
        let create_index = old.map_or(at, |row| row.create_index);
        let (name, service) = (node.info.name.clone(), check.service_name.clone());
        let ends_sessions = (check.status == Status::Critical).then(|| check.id.clone());
        node.checks.insert(check.id.clone(), Row { value: check, create_index, modify_index: at });
        self.check_changed(&name, &service, at);
        if let Some(old) = old_service.filter(|old| *old != service) {
            self.check_changed(&name, &old, at);
        }
        if let Some(check) = ends_sessions {
            self.end_sessions_with_check(&name, &check, at, now);
        }
    }

    pub(super) fn remove_check(&mut self, node: &str, id: &str, at: u64, now: Instant) {
        let Some(listed) = self.nodes.get_mut(node) else { return };
        let Some(row) = listed.checks.remove(id) else { return };
        self.check_changed(node, &row.value.service_name, at);
        self.end_sessions_with_check(node, id, at, now);
    }

    /// A check of `service` on `node` changed; without a service, the health of every service of the node.
    fn check_changed(&mut self, node: &str, service: &str, at: u64) {
        self.tables.check_changed(service, at);
        if !service.is_empty() {
            self.tables.health_changed(service, at);
        } else if let Some(node) = self.nodes.get(node) {
            for row in node.services.values() {
                self.tables.health_changed(&row.value.name, at);
            }
        }
    }

    /// Registers what a client describes about a node without an agent.
    pub(crate) fn catalog_register(
        &mut self,
        about: NodeInfo,
        service: Option<Service>,
        checks: Vec<Check>,
        now: Instant,
    ) {
        let at = self.next_index();
        let node = about.name.clone();
        self.put_node(about, at);
        if let Some(service) = service {
            self.put_service(&node, service, at);
        }
        for mut check in checks {
            if let Some(row) = self.nodes.get(&node).and_then(|node| node.services.get(&check.service_id)) {
                check.service_name = row.value.name.clone();
                check.service_tags = row.value.tags.clone();
            }
            self.put_check(&node, check, at, now);
        }
    }

    /// Removes a service, a check, or without either the whole node.
    pub(crate) fn catalog_deregister(
        &mut self,
        node: &str,
        service: Option<&str>,
        check: Option<&str>,
        now: Instant,
    ) {
        let at = self.next_index();
        match (service, check) {
            (Some(service), _) => {
                self.remove_checks_of(node, service, at, now);
                self.remove_service(node, service, at);
            }
            (None, Some(check)) => self.remove_check(node, check, at, now),
            (None, None) => self.remove_node(node, at, now),
        }
    }

    fn remove_node(&mut self, name: &str, at: u64, now: Instant) {
        let Some(node) = self.nodes.get(name) else { return };
        let services: Vec<String> = node.services.keys().cloned().collect();
        let checks: Vec<String> = node.checks.keys().cloned().collect();
        checks.iter().for_each(|id| self.remove_check(name, id, at, now));
        services.iter().for_each(|id| self.remove_service(name, id, at));
        self.nodes.remove(name);
        self.tables.nodes = at;
        self.coordinates.remove_node(name, at);
        self.end_sessions_of(name, at, now);
    }

    pub(super) fn remove_checks_of(
        &mut self,
        node: &str,
        service: &str,
        at: u64,
        now: Instant,
    ) -> Vec<String> {
        let Some(listed) = self.nodes.get(node) else { return Vec::new() };
        let ids: Vec<String> = listed
            .checks
            .values()
            .filter(|row| row.value.service_id == service)
            .map(|row| row.value.id.clone())
            .collect();
        ids.iter().for_each(|id| self.remove_check(node, id, at, now));
        ids
    }
}

/// Consul compares names without case.
fn eq_ignore_case(a: &str, b: &str) -> bool {
    a == b || a.to_lowercase() == b.to_lowercase()
}
