//! Bodies of any size with known bytes: sent without being kept, checked by comparing
//! slices, so that a gigabyte costs no memory and an unoptimised test build stays fast.

use std::sync::LazyLock;

/// Prime, so that no power-of-two buffer on the way can shift the pattern without being seen.
const PERIOD: usize = 65_521;

/// Two periods: any `PERIOD` bytes from any place are one slice.
static TABLE: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut state: u32 = 0x9e37_79b9;
    let mut period = Vec::with_capacity(PERIOD);
    for _ in 0..PERIOD {
        // xorshift32: no two stretches of the period are alike.
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        period.push(state.to_le_bytes()[0]);
    }
    period.repeat(2)
});

/// At most `want` bytes of the pattern from `position` on; never empty unless `want` is 0.
pub fn slice_at(position: u64, want: usize) -> &'static [u8] {
    let start = offset(position);
    &TABLE[start..start + want.min(PERIOD)]
}

/// The first `len` bytes.
pub fn bytes(len: usize) -> Vec<u8> {
    let mut all = Vec::with_capacity(len);
    while all.len() < len {
        all.extend_from_slice(slice_at(all.len() as u64, len - all.len()));
    }
    all
}

/// Whether `bytes` are what the pattern has from `position` on.
pub fn matches(mut position: u64, mut bytes: &[u8]) -> bool {
    while !bytes.is_empty() {
        let expected = slice_at(position, bytes.len());
        let (now, later) = bytes.split_at(expected.len());
        if now != expected {
            return false;
        }
        position += now.len() as u64;
        bytes = later;
    }
    true
}

fn offset(position: u64) -> usize {
    usize::try_from(position % PERIOD as u64).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shifted_or_changed_pattern_does_not_match() {
        let mut all = bytes(3 * PERIOD + 17);
        assert!(matches(0, &all));
        assert!(matches(1000, &all[1000..]));
        assert!(!matches(1001, &all[1000..]));
        all[2 * PERIOD] ^= 1;
        assert!(!matches(0, &all));
    }
}
