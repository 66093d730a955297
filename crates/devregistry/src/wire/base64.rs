//! Base64 with padding (RFC 4648 §4), as Go's `base64.StdEncoding` reads and writes it: line ends are skipped, and an
//! error names the position of the first wrong byte.

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
const PADDING: u8 = b'=';
/// Digits of a group, and bytes that a full group stands for.
const GROUP: usize = 4;
const GROUP_BYTES: usize = 3;

/// `bytes` in base64.
pub(crate) fn encode(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len().div_ceil(GROUP_BYTES) * GROUP);
    for chunk in bytes.chunks(GROUP_BYTES) {
        let bits =
            (0..GROUP_BYTES).fold(0_u32, |bits, at| bits << 8 | chunk.get(at).map_or(0, |b| u32::from(*b)));
        for at in 0..GROUP {
            let digit = ALPHABET[(bits >> (18 - 6 * at) & 63) as usize];
            out.push(char::from(if at <= chunk.len() { digit } else { PADDING }));
        }
    }
    out
}

/// The bytes that `text` stands for.
///
/// # Errors
/// The position of the byte at which Go's decoder stops: the first byte outside the alphabet, the start of a last
/// group that is too short, wrong padding, or the first byte after the padding.
pub(crate) fn decode(text: &str) -> Result<Vec<u8>, usize> {
    let mut out = Vec::with_capacity(text.len() / GROUP * GROUP_BYTES);
    let mut input = text.bytes().enumerate().filter(|(_, byte)| !matches!(byte, b'\r' | b'\n'));
    let (mut bits, mut digits) = (0_u32, 0_usize);
    while let Some((at, byte)) = input.next() {
        if byte != PADDING {
            let digit = ALPHABET.iter().position(|known| *known == byte).ok_or(at)?;
            bits = bits << 6 | u32::try_from(digit).unwrap_or(0);
            digits += 1;
            if digits == GROUP {
                out.extend_from_slice(&bits.to_be_bytes()[1..]);
                (bits, digits) = (0, 0);
            }
            continue;
        }
        match digits {
            0 | 1 => return Err(at),
            2 => match input.next() {
                None => return Err(text.len()),
                Some((_, PADDING)) => {}
                Some((second, _)) => return Err(second - 1),
            },
            _ => {}
        }
        // A group of two digits stands for one byte, one of three for two.
        let padded = bits << (6 * (GROUP - digits));
        out.extend_from_slice(&padded.to_be_bytes()[1..digits]);
        return input.next().map_or(Ok(out), |(after, _)| Err(after));
    }
    if digits == 0 { Ok(out) } else { Err(text.len() - digits) }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    #[test]
    fn the_examples_of_rfc_4648() {
        let cases = [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("fooba", "Zm9vYmE="),
            ("foobar", "Zm9vYmFy"),
        ];
        for (plain, encoded) in cases {
            assert_eq!(encode(plain.as_bytes()), encoded);
            assert_eq!(decode(encoded).as_deref(), Ok(plain.as_bytes()), "{encoded}");
        }
    }

    #[test]
    fn an_error_is_at_the_byte_at_which_go_stops() {
        let cases = [
            ("not base64!", 3),
            ("x", 0),
            ("eA", 0),
            ("e A==", 1),
            ("Zm9vYg", 4),
            ("=", 0),
            ("Z===", 1),
            ("Zg=", 3),
            ("Zg=x", 2),
            ("Zg==x", 4),
            ("Zm8=x", 4),
        ];
        for (text, at) in cases {
            assert_eq!(decode(text), Err(at), "{text}");
        }
        assert_eq!(decode("Zg\r\n==\n"), Ok(b"f".to_vec()), "line ends are skipped");
    }

    proptest! {
        #[test]
        fn what_was_encoded_is_decoded(bytes in vec(any::<u8>(), 0..40)) {
            prop_assert_eq!(decode(&encode(&bytes)), Ok(bytes));
        }
    }
}
