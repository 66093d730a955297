//! Uniformly random: threads share no state, and sidecars do not fall into the same order.

use super::cycle::{find_usable_from, random_index, usable_indexes};

/// Draws before a linear search. With half of the endpoints unusable, one pick in 65,536 searches.
const MAX_DRAWS: u32 = 16;

/// The endpoints that may be chosen.
#[derive(Debug)]
pub(super) struct Random {
    endpoints: Box<[u32]>,
}

impl Random {
    pub(super) fn new(weights: &[u32]) -> Self {
        Self { endpoints: usable_indexes(weights).into_boxed_slice() }
    }

    /// Draws until an endpoint is `usable`, which keeps the rest uniform; then searches.
    #[inline]
    pub(super) fn pick(&self, random: u64, usable: impl Fn(usize) -> bool) -> Option<usize> {
        if self.endpoints.is_empty() {
            return None;
        }
        let mut random = random;
        for _ in 0..MAX_DRAWS {
            let index = self.endpoints[random_index(random, self.endpoints.len())] as usize;
            if usable(index) {
                return Some(index);
            }
            random = next_random(random);
        }
        find_usable_from(&self.endpoints, random, usable)
    }
}

/// The next random number: step and output function of SplitMix64 (Steele, Lea and Flood,
/// "Fast splittable pseudorandom number generators", 2014).
pub(super) fn next_random(random: u64) -> u64 {
    let mut bits = random.wrapping_add(0x9E37_79B9_7F4A_7C15);
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    bits ^ (bits >> 31)
}
