//! Which inputs hyper reads, too: it costs many times as much as all other checks together.

/// One input in so many.
const SHARE: u64 = 32;

/// Whether hyper reads this input: always the same answer, so that a finding is found again.
pub fn is_for_hyper(input: &[u8]) -> bool {
    let hash = input.iter().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    (hash >> 32).is_multiple_of(SHARE)
}
