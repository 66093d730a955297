//! Numbers and booleans in text, as Go's `strconv` reads them.

use super::quote;

/// Reads an integer of 64 bits as `strconv.ParseInt` with base 0 does: decimal, `0x`, `0o` or `0`, `0b`, with `_`
/// between digits.
///
/// # Errors
/// Go's error text.
pub fn parse_int(text: &str) -> Result<i64, String> {
    let fail = |why: &str| format!("strconv.ParseInt: parsing {}: {why}", quote(text));
    let syntax = || fail("invalid syntax");
    let (negative, digits) = match text.as_bytes().first() {
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        _ => (false, text),
    };
    let lower = digits.to_ascii_lowercase();
    let (base, number, prefixed) = match lower.get(..2) {
        Some("0x") => (16, &lower[2..], true),
        Some("0o") => (8, &lower[2..], true),
        Some("0b") => (2, &lower[2..], true),
        _ if lower.len() > 1 && lower.starts_with('0') => (8, &lower[1..], true),
        _ => (10, &*lower, false),
    };
    if !underscores_separate_digits(number, prefixed) {
        return Err(syntax());
    }
    let mut value: i128 = 0;
    for digit in number.chars().filter(|char| *char != '_') {
        let digit = digit.to_digit(base).ok_or_else(syntax)?;
        // Beyond the range of an i64 only the syntax of the rest matters.
        value = (value * i128::from(base) + i128::from(digit)).min(i128::from(u64::MAX));
    }
    i64::try_from(if negative { -value } else { value }).map_err(|_| fail("value out of range"))
}

/// Whether there is a digit, and each `_` stands between two digits; a prefix counts as a digit.
fn underscores_separate_digits(number: &str, prefixed: bool) -> bool {
    let mut after_digit = prefixed;
    for char in number.chars() {
        if char == '_' && !after_digit {
            return false;
        }
        after_digit = char != '_';
    }
    !number.is_empty() && after_digit
}

/// Reads an integer of 64 bits without a sign as `strconv.ParseUint` with base 10 does.
///
/// # Errors
/// Go's error text.
pub fn parse_uint(text: &str) -> Result<u64, String> {
    let fail = |why: &str| format!("strconv.ParseUint: parsing {}: {why}", quote(text));
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(fail("invalid syntax"));
    }
    text.parse().map_err(|_| fail("value out of range"))
}

/// Reads a boolean as `strconv.ParseBool` does.
///
/// # Errors
/// Go's error text.
pub fn parse_bool(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        other => Err(format!("strconv.ParseBool: parsing {}: invalid syntax", quote(other))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_are_read_as_go_reads_them() {
        let good = [
            ("0", 0),
            ("8300", 8300),
            ("-1", -1),
            ("+7", 7),
            ("0x1F", 31),
            ("0o17", 15),
            ("017", 15),
            ("0b101", 5),
            ("1_000", 1000),
            ("0x_ff", 255),
            ("9223372036854775807", i64::MAX),
            ("-9223372036854775808", i64::MIN),
        ];
        for (text, expected) in good {
            assert_eq!(parse_int(text), Ok(expected), "{text}");
        }
        for text in ["", "-", "abc", "80.5", "1__0", "_1", "1_", "08", "0x", "0xg", " 1"] {
            let expected = format!("strconv.ParseInt: parsing \"{text}\": invalid syntax");
            assert_eq!(parse_int(text), Err(expected));
        }
        for text in
            ["9223372036854775808", "-9223372036854775809", "99999999999999999999999999999999999999999"]
        {
            let expected = format!("strconv.ParseInt: parsing \"{text}\": value out of range");
            assert_eq!(parse_int(text), Err(expected));
        }
    }

    #[test]
    fn integers_without_a_sign_are_read_as_go_reads_them() {
        assert_eq!((parse_uint("0"), parse_uint("0018446744073709551615")), (Ok(0), Ok(u64::MAX)));
        for text in ["", "-1", "+1", "1_0", "0x1", "1.5", " 1", "a"] {
            let expected = format!("strconv.ParseUint: parsing \"{text}\": invalid syntax");
            assert_eq!(parse_uint(text), Err(expected));
        }
        let expected = "strconv.ParseUint: parsing \"18446744073709551616\": value out of range";
        assert_eq!(parse_uint("18446744073709551616"), Err(expected.to_owned()));
    }

    #[test]
    fn booleans_are_read_as_go_reads_them() {
        assert_eq!((parse_bool("t"), parse_bool("FALSE")), (Ok(true), Ok(false)));
        assert_eq!(parse_bool("yes"), Err("strconv.ParseBool: parsing \"yes\": invalid syntax".to_owned()));
    }
}
