//! Writes and reads the network coordinates of nodes. As in Consul they are written in batches, and those of unknown nodes
//! are dropped without an error.

use std::time::Instant;

use super::{
    coordinate_table::{Coordinate, NodeCoordinate},
    state::Store,
};

impl Store {
    /// A client tells the coordinate of a node.
    pub(crate) fn update_coordinate(&mut self, told: NodeCoordinate, now: Instant) {
        self.coordinates.tell(told, now);
    }

    /// All coordinates, by node and segment.
    pub(crate) fn coordinates(&self) -> impl Iterator<Item = &NodeCoordinate> {
        self.coordinates.rows.values().map(|(row, _)| row)
    }

    /// Those of a node, by segment. Names are compared without case.
    pub(crate) fn coordinates_of(&self, node: &str) -> impl Iterator<Item = &NodeCoordinate> {
        self.coordinates.of_node(node).map(|(row, _)| row)
    }

    /// Writes what is due.
    pub(super) fn write_coordinates(&mut self, now: Instant) {
        if self.coordinates.take_own(now) {
            let node = self.own_node.clone();
            let own = NodeCoordinate { node, segment: String::new(), coordinate: Coordinate::origin() };
            self.coordinates.tell(own, now);
        }
        if !self.coordinates.take_batch(now) {
            return;
        }
        let at = self.next_index();
        self.coordinates.index = at;
        for ((node, segment), coordinate) in std::mem::take(&mut self.coordinates.pending) {
            if self.node(&node).is_some() {
                let key = (node.to_lowercase(), segment.to_lowercase());
                self.coordinates.rows.insert(key, (NodeCoordinate { node, segment, coordinate }, at));
            }
        }
    }
}
