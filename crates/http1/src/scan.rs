//! Search for the bytes at which a head is taken apart: eight at a time, because most lines are short.

/// `0x01` in each byte.
const ONES: u64 = u64::MAX / 255;
/// The highest bit of each byte.
const HIGHS: u64 = ONES << 7;

/// The length of `data` before its first byte that is below `BELOW` or is DEL.
#[inline(always)]
pub(crate) fn len_before<const BELOW: u8>(data: &[u8]) -> usize {
    // Four words without a loop: most lines end in them.
    let Some((start, rest)) = data.split_first_chunk::<32>() else { return len_before_in_end::<BELOW>(data) };
    let word = |at: usize| word_at(start, at);
    let (at, hits) = match () {
        () if is_marked::<BELOW>(word(0)) => (0, hits::<BELOW>(word(0))),
        () if is_marked::<BELOW>(word(8)) => (8, hits::<BELOW>(word(8))),
        () if is_marked::<BELOW>(word(16)) => (16, hits::<BELOW>(word(16))),
        () if is_marked::<BELOW>(word(24)) => (24, hits::<BELOW>(word(24))),
        () => return 32 + len_before_in_long::<BELOW>(rest),
    };
    match hits {
        // Marked by a byte above 0x7f.
        0 => len_before_in_end::<BELOW>(data),
        _ => at + (hits.trailing_zeros() / 8) as usize,
    }
}

/// The same for what follows in a long line: whole blocks, which the compiler compares with vector instructions.
fn len_before_in_long<const BELOW: u8>(data: &[u8]) -> usize {
    let mut rest = data;
    while let Some((block, behind)) = rest.split_first_chunk::<32>() {
        if block.iter().fold(false, |any, byte| any | (*byte < BELOW) | (*byte == 0x7f)) {
            break;
        }
        rest = behind;
    }
    data.len() - rest.len() + len_before_in_end::<BELOW>(rest)
}

/// The same word by word.
fn len_before_in_end<const BELOW: u8>(data: &[u8]) -> usize {
    let mut rest = data;
    while let Some((eight, behind)) = rest.split_first_chunk::<8>() {
        let hits = hits::<BELOW>(u64::from_le_bytes(*eight));
        if hits != 0 {
            return data.len() - rest.len() + (hits.trailing_zeros() / 8) as usize;
        }
        rest = behind;
    }
    let in_rest = rest.iter().position(|byte| *byte < BELOW || *byte == 0x7f);
    data.len() - rest.len() + in_rest.unwrap_or(rest.len())
}

fn word_at(bytes: &[u8; 32], at: usize) -> u64 {
    bytes[at..].first_chunk().map_or(0, |eight| u64::from_le_bytes(*eight))
}

/// Whether there may be such a byte: never blind to one, but set also by a byte above 0x7f.
fn is_marked<const BELOW: u8>(word: u64) -> bool {
    (word.wrapping_sub(ONES * BELOW as u64) | word.wrapping_add(ONES)) & HIGHS != 0
}

/// The highest bit of each byte that is below `BELOW` or is DEL. The lowest one is exact; a borrow may set bits above it.
fn hits<const BELOW: u8>(word: u64) -> u64 {
    let below = word.wrapping_sub(ONES * BELOW as u64) & !word;
    let del = word ^ (ONES * 0x7f);
    (below | del.wrapping_sub(ONES) & !del) & HIGHS
}

/// The length of the token (RFC 9110 §5.6.2) at the start of `data`.
#[inline]
pub(crate) fn token_len(data: &[u8]) -> usize {
    // Sixteen bytes without a loop: most names end in them.
    let Some((start, rest)) = data.split_first_chunk::<16>() else { return token_len_in_rest(data) };
    let ends = |at: usize| !is_token_byte(start[at]);
    match () {
        () if ends(0) => 0,
        () if ends(1) => 1,
        () if ends(2) => 2,
        () if ends(3) => 3,
        () if ends(4) => 4,
        () if ends(5) => 5,
        () if ends(6) => 6,
        () if ends(7) => 7,
        () if ends(8) => 8,
        () if ends(9) => 9,
        () if ends(10) => 10,
        () if ends(11) => 11,
        () if ends(12) => 12,
        () if ends(13) => 13,
        () if ends(14) => 14,
        () if ends(15) => 15,
        () => 16 + token_len_in_rest(rest),
    }
}

/// The same byte by byte.
fn token_len_in_rest(data: &[u8]) -> usize {
    data.iter().position(|byte| !is_token_byte(*byte)).unwrap_or(data.len())
}

/// Bytes of a token.
const TOKEN: [bool; 256] = {
    let mut table = [false; 256];
    let mut at = 0;
    while at < 256 {
        let byte = at as u8;
        table[at] = byte.is_ascii_alphanumeric()
            || matches!(
                byte,
                b'!' | b'#'
                    | b'$'
                    | b'%'
                    | b'&'
                    | b'\''
                    | b'*'
                    | b'+'
                    | b'-'
                    | b'.'
                    | b'^'
                    | b'_'
                    | b'`'
                    | b'|'
                    | b'~'
            );
        at += 1;
    }
    table
};

/// Whether a byte may stand in a token (RFC 9110 §5.6.2).
pub(crate) fn is_token_byte(byte: u8) -> bool {
    TOKEN[byte as usize]
}

/// The end of a line, and how far it was looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LineEnd {
    /// Position of the LF; `None` when it is not there yet.
    pub(crate) lf: Option<usize>,
    /// Where the search goes on when more bytes are there.
    pub(crate) searched: usize,
    /// A control character stands in the line: not HTAB, and not the CR of a CRLF.
    pub(crate) has_controls: bool,
}

/// Looks for the end of a line from `from` on.
pub(crate) fn line_end(data: &[u8], from: usize) -> LineEnd {
    let (mut at, mut has_controls) = (from, false);
    loop {
        at += len_before::<b' '>(data.get(at..).unwrap_or_default());
        let (lf, searched) = match (data.get(at), data.get(at + 1)) {
            (Some(b'\r'), Some(b'\n')) => (Some(at + 1), at + 2),
            (Some(b'\n'), _) => (Some(at), at + 1),
            // A CR at the end of what is there is judged with the byte behind it.
            (None, _) | (Some(b'\r'), None) => (None, at),
            (Some(byte), _) => {
                has_controls |= *byte != b'\t';
                at += 1;
                continue;
            }
        };
        return LineEnd { lf, searched, has_controls };
    }
}

#[cfg(test)]
mod tests {
    use super::{LineEnd, is_token_byte, len_before, line_end, token_len};

    #[test]
    fn the_first_byte_is_found_wherever_it_stands() {
        for len in 0..120 {
            for at in 0..len {
                for byte in [0, 1, b'\t', b'\r', b'\n', 0x1f, b' ', 0x7e, 0x7f, 0x80, 0xff] {
                    // Around it: the neighbours of the bounds, which a borrow could mark.
                    for fill in [b'!', b'~', 0x80, 0xa0, 0xff] {
                        let mut data = vec![fill; len];
                        data[at] = byte;
                        let expected = |below: u8| if byte < below || byte == 0x7f { at } else { len };
                        assert_eq!(len_before::<0x20>(&data), expected(0x20), "{byte:#x} at {at} of {len}");
                        assert_eq!(len_before::<0x21>(&data), expected(0x21), "{byte:#x} at {at} of {len}");
                    }
                }
            }
        }
        assert_eq!(len_before::<0x20>(b""), 0);
    }

    #[test]
    fn tokens_end_at_the_first_byte_of_another_class() {
        for byte in 0..=u8::MAX {
            for at in 0..20 {
                let mut data = [b'a'; 20];
                data[at] = byte;
                assert_eq!(token_len(&data), if is_token_byte(byte) { 20 } else { at });
            }
            let is_delimiter = b"\"(),/:;<=>?@[\\]{}".contains(&byte);
            assert_eq!(is_token_byte(byte), byte.is_ascii_graphic() && !is_delimiter, "{byte:#x}");
        }
    }

    #[test]
    fn a_line_ends_in_crlf_or_in_a_bare_lf() {
        let table: &[(&[u8], Option<usize>, usize, bool)] = &[
            (b"ab\r\ncd", Some(3), 4, false),
            (b"ab\ncd", Some(2), 3, false),
            (b"a\tb\n", Some(3), 4, false),
            (b"a\x01b\n", Some(3), 4, true),
            (b"a\x7fb\n", Some(3), 4, true),
            (b"a\rb\n", Some(3), 4, true),
            (b"a\r\r\n", Some(3), 4, true),
            (b"ab", None, 2, false),
            (b"ab\r", None, 2, false),
            (b"", None, 0, false),
        ];
        for (data, lf, searched, has_controls) in table {
            let expected = LineEnd { lf: *lf, searched: *searched, has_controls: *has_controls };
            assert_eq!(line_end(data, 0), expected, "{}", data.escape_ascii());
        }
    }
}
