//! A cycle of turns: the common part of round robin and weighted round robin.

use super::cursor::TurnCounter;

/// Turns beyond one cycle that a pick takes because other threads take turns meanwhile.
const EXTRA_TURNS: usize = 64;

/// A repeating sequence of endpoint indexes.
#[derive(Debug)]
pub(super) struct Cycle {
    turns: Box<[u32]>,
    length: Divisor,
}

impl Cycle {
    pub(super) fn new(turns: Vec<u32>) -> Self {
        let length = Divisor::new(turns.len().max(1) as u64);
        Self { turns: turns.into_boxed_slice(), length }
    }

    #[cfg(test)]
    pub(super) fn turns(&self) -> &[u32] {
        &self.turns
    }

    /// The next endpoint in turn that is `usable`.
    #[inline]
    pub(super) fn pick(
        &self,
        counter: &TurnCounter,
        random: u64,
        usable: impl Fn(usize) -> bool,
    ) -> Option<usize> {
        if self.turns.is_empty() {
            return None;
        }
        let index = self.next_turn(counter);
        if usable(index) { Some(index) } else { self.pick_next_usable(counter, random, usable) }
    }

    /// Takes turns until one falls on a `usable` endpoint.
    ///
    /// One cycle passes every endpoint, unless other threads keep taking the usable turns; after a few
    /// more turns any usable endpoint is taken. That one is searched first, so that a View without usable
    /// endpoints costs one search and no turns.
    #[cold]
    fn pick_next_usable(
        &self,
        counter: &TurnCounter,
        random: u64,
        usable: impl Fn(usize) -> bool,
    ) -> Option<usize> {
        let spare = find_usable_from(&self.turns, random, &usable)?;
        let turns = self.turns.len() + EXTRA_TURNS;
        (0..turns).map(|_| self.next_turn(counter)).find(|&index| usable(index)).or(Some(spare))
    }

    #[inline]
    fn next_turn(&self, counter: &TurnCounter) -> usize {
        self.turns[self.length.remainder(counter.next()) as usize] as usize
    }
}

/// The indexes of the endpoints with a weight above 0.
pub(super) fn usable_indexes(weights: &[u32]) -> Vec<u32> {
    (0..).zip(weights).filter(|&(_, &weight)| weight > 0).map(|(index, _)| index).collect()
}

/// The first `usable` endpoint from a random place on, wrapping around.
pub(super) fn find_usable_from(turns: &[u32], random: u64, usable: impl Fn(usize) -> bool) -> Option<usize> {
    let (before, after) = turns.split_at(random_index(random, turns.len()));
    after.iter().chain(before).map(|&index| index as usize).find(|&index| usable(index))
}

/// An index below `length`, uniform to within length/2⁶⁴; 0 for an empty slice.
#[inline]
pub(super) fn random_index(random: u64, length: usize) -> usize {
    ((u128::from(random) * length as u128) >> 64) as usize
}

/// Remainders by one divisor without a division, exact for every `u64`.
///
/// With c = ⌈2¹²⁸/d⌉, the low 128 bits of c·n are the fraction of n/d, and the fraction times d is the
/// remainder. Exact while 128 bits hold n and d together, which two `u64` always do: D. Lemire,
/// O. Kaser, N. Kurz, "Faster remainder by direct computation" (2019). Four multiplications
/// instead of a 64-bit division of 20 to 40 cycles on the processors that are slow at it.
#[derive(Debug, Clone, Copy)]
struct Divisor {
    divisor: u64,
    reciprocal: u128,
}

impl Divisor {
    /// `divisor` is not 0.
    fn new(divisor: u64) -> Self {
        // For 1 it wraps to 0, and so every remainder is 0.
        Self { divisor, reciprocal: (u128::MAX / u128::from(divisor)).wrapping_add(1) }
    }

    #[inline]
    fn remainder(self, number: u64) -> u64 {
        let fraction = self.reciprocal.wrapping_mul(u128::from(number));
        let divisor = u128::from(self.divisor);
        let low = ((fraction & u128::from(u64::MAX)) * divisor) >> 64;
        let high = (fraction >> 64) * divisor;
        ((high + low) >> 64) as u64
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_remainder_without_a_division_is_the_remainder(number: u64, divisor in 1..=u64::MAX) {
            prop_assert_eq!(Divisor::new(divisor).remainder(number), number % divisor);
        }

        #[test]
        fn a_remainder_by_a_small_divisor_near_its_multiples_is_the_remainder(divisor in 1..100_000_u64, multiple: u64, off in 0..3_u64) {
            let number = (multiple / divisor * divisor).wrapping_add(off).wrapping_sub(1);
            prop_assert_eq!(Divisor::new(divisor).remainder(number), number % divisor);
        }
    }

    #[test]
    fn a_random_index_reaches_both_ends_and_stays_inside() {
        assert_eq!((random_index(0, 10), random_index(u64::MAX, 10), random_index(u64::MAX, 0)), (0, 9, 0));
    }
}
