//! Round robin: within one View the first picks of any two endpoints differ by at most one, also when
//! many threads pick.

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
        usable: impl Fn(usize) -> bool,
    ) -> Option<usize> {
        self.cycle.pick(counter, random, usable)
    }
}

/// The indexes of the endpoints with a weight above 0.
pub(super) fn usable_indexes(weights: &[u32]) -> Vec<u32> {
    (0..).zip(weights).filter(|&(_, &weight)| weight > 0).map(|(index, _)| index).collect()
}
