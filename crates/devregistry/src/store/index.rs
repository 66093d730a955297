//! Which index a reader gets, and what wakes a blocked query. The two differ: as in Consul, a change may raise an index
//! without waking a query.
//!
//! Each service has its own index, so that a change of another service does not wake its watchers. All names without
//! instances share one index: that of the last time any service lost its last instance, or, before the first such
//! loss, that of everything.

use std::collections::BTreeMap;

/// When each kind of row last changed. Indexes only grow.
#[derive(Debug, Default)]
pub(super) struct TableIndexes {
    pub(super) nodes: u64,
    pub(super) services: u64,
    pub(super) checks: u64,
    /// When a service last lost its last instance.
    last_extinction: Option<u64>,
    /// By lower-case name, when a check of the service last changed.
    checks_of: BTreeMap<String, u64>,
    /// By lower-case name, of services with at least one instance.
    by_service: BTreeMap<String, ServiceIndexes>,
}

/// When a service last changed.
#[derive(Debug, Clone, Copy, Default)]
struct ServiceIndexes {
    /// In any way, the health of its instances included.
    with_health: u64,
    /// Its instances themselves.
    instances: u64,
}

/// What a query reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Topic {
    /// `catalog/nodes`
    Nodes,
    /// `catalog/node/N`
    Node(String),
    /// `catalog/services`
    Services,
    /// `catalog/service/S`
    Instances(String),
    /// `health/service/S`
    Health(String),
    /// `health/checks/S`; the name in lower case.
    ChecksOf(String),
    /// `health/state/…`, `health/node/N`
    Checks,
    /// `kv/KEY`
    Key(String),
    /// `kv/PREFIX?recurse`, `kv/PREFIX?keys`
    Keys(String),
    /// `session/list`
    Sessions,
    /// `session/info/ID`
    Session(String),
    /// `session/node/N`
    SessionsOf(String),
    /// `coordinate/nodes`
    Coordinates,
    /// `coordinate/node/N`
    CoordinatesOf(String),
    /// What this registry never has.
    Never,
}

/// The index of a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TopicIndex {
    /// The index in the answer's header.
    pub(crate) index: u64,
    /// A blocked query reads again when this has grown,
    pub(super) wake: u64,
    /// or when this has changed: how much of the name of what does not exist does exist. Always the same for what
    /// exists.
    reach: usize,
}

impl TopicIndex {
    /// The index of something that exists, or of names without structure.
    pub(super) fn new(index: u64, wake: u64) -> Self {
        Self { index, wake, reach: usize::MAX }
    }

    /// The index of something that does not exist: the watched prefix is `reach` bytes of its name.
    pub(super) fn of_missing(index: u64, wake: u64, reach: usize) -> Self {
        Self { index, wake, reach }
    }

    /// Whether a query that saw `seen` reads again now.
    pub(crate) fn has_woken(self, seen: Self) -> bool {
        self.wake > seen.wake || self.reach != seen.reach
    }
}

impl TableIndexes {
    /// An instance of `name` came or changed.
    pub(super) fn instance_changed(&mut self, name: &str, at: u64) {
        self.services = at;
        self.by_service.insert(name.to_lowercase(), ServiceIndexes { with_health: at, instances: at });
    }

    /// An instance of `name` went; `last`: it was the last one.
    pub(super) fn instance_removed(&mut self, name: &str, last: bool, at: u64) {
        self.instance_changed(name, at);
        if last {
            self.by_service.remove(&name.to_lowercase());
            self.last_extinction = Some(at);
        }
    }

    /// The health of an instance of `name` changed.
    pub(super) fn health_changed(&mut self, name: &str, at: u64) {
        if let Some(changed) = self.by_service.get_mut(&name.to_lowercase()) {
            changed.with_health = at;
        }
    }

    /// A check of `service` (empty: of a node) changed.
    pub(super) fn check_changed(&mut self, service: &str, at: u64) {
        self.checks = at;
        if !service.is_empty() {
            self.checks_of.insert(service.to_lowercase(), at);
        }
    }

    /// The index of `health/checks` of a service: the index of all checks, and the wake of the service.
    pub(super) fn checks_index(&self, name: &str) -> TopicIndex {
        TopicIndex::new(self.checks, self.checks_of.get(name).copied().unwrap_or_default())
    }

    /// The index of `catalog/service` (or, with `health`, `health/service`) of `name`.
    pub(super) fn service_index(&self, name: &str, health: bool) -> TopicIndex {
        match (self.by_service.get(&name.to_lowercase()), self.last_extinction) {
            (Some(changed), _) => TopicIndex::new(
                changed.with_health,
                if health { changed.with_health } else { changed.instances },
            ),
            (None, Some(extinction)) => TopicIndex::new(extinction, extinction),
            (None, None) => {
                let rows = self.nodes.max(self.services);
                TopicIndex::new(if health { rows.max(self.checks) } else { rows }, self.services)
            }
        }
    }
}
