//! Each usable endpoint in turn: between two Views, first picks to any two differ by at most one, in
//! the order in which the cursor was moved, however many threads move it.

use super::{cursor::TurnCounter, cycle::Cycle};

/// A cycle with one turn each.
#[derive(Debug)]
pub(super) struct RoundRobin {
    cycle: Cycle,
}

impl RoundRobin {
    pub(super) fn new(weights: &[u32]) -> Self {
        Self { cycle: Cycle::new(usable_indexes(weights)) }
    }

    #[inline]
    pub(super) fn pick(
        &self,
        counter: &TurnCounter,
        random: u64,
        ok: impl Fn(usize) -> bool,
    ) -> Option<usize> {
        self.cycle.pick(counter, random, ok)
    }
}

/// The places of the endpoints that may be chosen at all.
pub(super) fn usable_indexes(weights: &[u32]) -> Vec<u32> {
    (0..).zip(weights).filter(|&(_, &weight)| weight > 0).map(|(index, _)| index).collect()
}
