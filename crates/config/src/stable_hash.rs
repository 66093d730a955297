//! A hash by which every sidecar decides alike.

/// A hash of a text that is the same in every sidecar, in every version of Outrigger and after a restart: FNV-1a, and the last step
/// of MurmurHash3, which spreads texts that differ in their last letter alone over all bits.
pub fn stable_hash(text: &[u8]) -> u64 {
    let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    let mut hash = text.iter().fold(0xcbf2_9ce4_8422_2325, step);
    for factor in [0xff51_afd7_ed55_8ccd, 0xc4ce_b9fe_1a85_ec53] {
        hash = (hash ^ (hash >> 33)).wrapping_mul(factor);
    }
    hash ^ (hash >> 33)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A value that moved would move users between the parts of a split, and instances in and out of a rollout.
    #[test]
    fn the_hash_of_a_text_never_changes() {
        assert_eq!(stable_hash(b""), 0xefd0_1f60_ba99_2926);
        assert_eq!(stable_hash(b"orders-1"), 0x2bd3_2c40_d89d_1f41);
    }
}
