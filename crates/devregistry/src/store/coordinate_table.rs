//! Network coordinates: where the nodes are, in round-trip times.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use super::index::TopicIndex;

/// The dimensions of a coordinate.
pub(crate) const DIMENSIONS: usize = 8;
/// How long after its start an agent tells its own coordinate.
const OWN_DELAY: Duration = Duration::from_secs(15);

/// The coordinate of a node.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Coordinate {
    /// Seconds in each dimension.
    pub(crate) vec: Vec<f64>,
    pub(crate) error: f64,
    pub(crate) adjustment: f64,
    pub(crate) height: f64,
}

impl Coordinate {
    /// That of a node which has measured nothing yet.
    pub(crate) fn origin() -> Self {
        Self { vec: vec![0.0; DIMENSIONS], error: 1.5, adjustment: 0.0, height: 1e-5 }
    }
}

/// A coordinate of a node in a network segment.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct NodeCoordinate {
    /// As the client wrote it.
    pub(crate) node: String,
    pub(crate) segment: String,
    pub(crate) coordinate: Coordinate,
}

/// The coordinates of all nodes.
#[derive(Debug)]
pub(super) struct CoordinateTable {
    /// By node and segment, in lower case; each with the index of its last change.
    pub(super) rows: BTreeMap<(String, String), (NodeCoordinate, u64)>,
    /// What was told since the last batch. Of a node and a segment the last one counts.
    pub(super) pending: BTreeMap<(String, String), Coordinate>,
    /// How often what is pending is written.
    period: Duration,
    /// When what is pending is written.
    due: Option<Instant>,
    /// When the agent tells its own coordinate.
    own_due: Option<Instant>,
    /// Of the last batch.
    pub(super) index: u64,
    /// When a row was last removed.
    removed: u64,
}

impl CoordinateTable {
    pub(super) fn new(period: Duration, now: Instant) -> Self {
        Self {
            rows: BTreeMap::new(),
            pending: BTreeMap::new(),
            period,
            due: None,
            own_due: now.checked_add(OWN_DELAY),
            index: 0,
            removed: 0,
        }
    }

    /// Keeps what was told for the next batch.
    pub(super) fn tell(&mut self, told: NodeCoordinate, now: Instant) {
        self.pending.insert((told.node, told.segment), told.coordinate);
        self.due = self.due.or(now.checked_add(self.period));
    }

    /// When something is due.
    pub(super) fn next_due(&self) -> Option<Instant> {
        [self.due, self.own_due].into_iter().flatten().min()
    }

    /// Whether the agent tells its own coordinate now.
    pub(super) fn take_own(&mut self, now: Instant) -> bool {
        self.own_due.take_if(|due| *due <= now).is_some()
    }

    /// Whether what is pending is written now.
    pub(super) fn take_batch(&mut self, now: Instant) -> bool {
        self.due.take_if(|due| *due <= now).is_some()
    }

    /// The coordinates of a node, by segment.
    pub(super) fn of_node(&self, node: &str) -> impl Iterator<Item = &(NodeCoordinate, u64)> {
        let name = node.to_lowercase();
        self.rows.iter().filter(move |((node, _), _)| *node == name).map(|(_, row)| row)
    }

    /// Forgets a node that was removed.
    pub(super) fn remove_node(&mut self, node: &str, at: u64) {
        let name = node.to_lowercase();
        let before = self.rows.len();
        self.rows.retain(|(node, _), _| *node != name);
        if self.rows.len() < before {
            (self.index, self.removed) = (at, at);
        }
    }

    /// The index of the whole list.
    pub(super) fn table_index(&self) -> TopicIndex {
        TopicIndex::new(self.index, self.newest(self.rows.values()))
    }

    /// The index of one node's coordinates.
    pub(super) fn node_index(&self, node: &str) -> TopicIndex {
        TopicIndex::new(self.index, self.newest(self.of_node(node)))
    }

    fn newest<'a>(&self, rows: impl Iterator<Item = &'a (NodeCoordinate, u64)>) -> u64 {
        rows.map(|(_, at)| *at).max().unwrap_or_default().max(self.removed)
    }
}
