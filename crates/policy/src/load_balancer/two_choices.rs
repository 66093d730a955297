//! The less loaded one of two endpoints that are drawn at random by their weights.
//!
//! Two draws are enough to leave a slow endpoint alone, and cost the same for any number of endpoints; the least loaded one of all
//! would be picked by every thread and every sidecar at once (M. Mitzenmacher, "The power of two choices in randomized load
//! balancing", 2001).
//!
//! **A floor of exploration.** An endpoint that was slow once is measured by requests alone. So one pick in [`EXPLORE_ONE_IN`] takes
//! the first draw, whatever its load.

use super::{
    cycle::{find_usable_from, random_index, usable_indexes},
    random::next_random,
};

/// Draws of one endpoint before a linear search.
const MAX_DRAWS: u32 = 16;
/// One pick in so many takes an endpoint whatever its load.
const EXPLORE_ONE_IN: usize = 20;

/// The endpoints that may be chosen.
#[derive(Debug)]
pub(super) struct TwoChoices {
    /// With a weight above 0.
    endpoints: Box<[u32]>,
    /// The sum of the weights up to each one of `endpoints`, itself included.
    sums: Box<[u64]>,
    /// By index of all endpoints.
    weights: Box<[u32]>,
    explores: bool,
}

impl TwoChoices {
    /// `explores`: with a floor of exploration.
    pub(super) fn new(weights: &[u32], explores: bool) -> Self {
        let endpoints = usable_indexes(weights).into_boxed_slice();
        let sums = endpoints.iter().scan(0, |sum, &index| {
            *sum += u64::from(weights[index as usize]);
            Some(*sum)
        });
        Self { sums: sums.collect(), endpoints, weights: weights.into(), explores }
    }

    /// A `usable` endpoint: of two draws, the one with less load for its weight.
    pub(super) fn pick(
        &self,
        random: u64,
        usable: impl Fn(usize) -> bool,
        load: impl Fn(usize) -> u64,
    ) -> Option<usize> {
        let mut random = random;
        let first = self.draw(&mut random, &usable)?;
        if self.explores && random_index(random, EXPLORE_ONE_IN) == 0 {
            return Some(first);
        }
        let second = self.draw_other(&mut random, first, &usable);
        Some(second.filter(|&second| self.is_less(second, first, &load)).unwrap_or(first))
    }

    /// Whether `one` has less load for its weight than `other`. A request more counts for both, so that of two idle ones the heavier one is
    /// preferred.
    fn is_less(&self, one: usize, other: usize, load: impl Fn(usize) -> u64) -> bool {
        let scaled =
            |at: usize, by: usize| u128::from(load(at).saturating_add(1)) * u128::from(self.weights[by]);
        scaled(one, other) < scaled(other, one)
    }

    /// Draws until an endpoint is `usable`; then searches.
    fn draw(&self, random: &mut u64, usable: impl Fn(usize) -> bool) -> Option<usize> {
        let total = *self.sums.last()?;
        for _ in 0..MAX_DRAWS {
            let place = ((u128::from(*random) * u128::from(total)) >> 64) as u64;
            *random = next_random(*random);
            let at = self.sums.partition_point(|&sum| sum <= place);
            let index = self.endpoints[at] as usize;
            if usable(index) {
                return Some(index);
            }
        }
        find_usable_from(&self.endpoints, *random, usable)
    }

    /// Another one than `first`. `None`: there is none.
    fn draw_other(&self, random: &mut u64, first: usize, usable: impl Fn(usize) -> bool) -> Option<usize> {
        if self.endpoints.len() < 2 {
            return None;
        }
        self.draw(random, |index| index != first && usable(index))
    }
}
