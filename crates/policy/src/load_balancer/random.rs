//! Uniformly at random: no state that threads share, and no order that sidecars could fall into
//! together.

use super::{
    cycle::{find_usable_from, random_index},
    round_robin::usable_indexes,
};

/// How often one that will not do is drawn again. With half of them bad, one pick in 65,536 comes to
/// the end of it.
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

    /// Draws until one is `ok`, which keeps the rest uniform; looks around when that takes too long.
    #[inline]
    pub(super) fn pick(&self, random: u64, ok: impl Fn(usize) -> bool) -> Option<usize> {
        if self.endpoints.is_empty() {
            return None;
        }
        let mut random = random;
        for _ in 0..MAX_DRAWS {
            let index = self.endpoints[random_index(random, self.endpoints.len())] as usize;
            if ok(index) {
                return Some(index);
            }
            random = next_random(random);
        }
        find_usable_from(&self.endpoints, random, ok)
    }
}

/// Another random number from one: the step and output function of SplitMix64 (Steele, Lea and Flood,
/// "Fast splittable pseudorandom number generators", 2014).
fn next_random(random: u64) -> u64 {
    let mut bits = random.wrapping_add(0x9E37_79B9_7F4A_7C15);
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    bits ^ (bits >> 31)
}
