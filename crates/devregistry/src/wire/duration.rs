//! Go's durations: `10s`, `1h2m`, `1.5s`, `-5m`.

use std::time::Duration;

/// A signed duration, nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct GoDuration(pub(crate) i64);

impl GoDuration {
    /// The duration, if it is above zero.
    pub(crate) fn positive(self) -> Option<Duration> {
        u64::try_from(self.0).ok().filter(|nanos| *nanos > 0).map(Duration::from_nanos)
    }
}

/// Parses as Go does.
///
/// # Errors
/// Go's error text.
pub(crate) fn parse(text: &str) -> Result<GoDuration, String> {
    let invalid = || format!("time: invalid duration {text:?}");
    let (sign, mut rest) = match text.as_bytes().first() {
        Some(b'-') => (-1.0, &text[1..]),
        Some(b'+') => (1.0, &text[1..]),
        _ => (1.0, text),
    };
    if rest == "0" {
        return Ok(GoDuration(0));
    }
    if rest.is_empty() {
        return Err(invalid());
    }
    let mut nanos = 0.0;
    while !rest.is_empty() {
        let digits = rest.find(|char: char| !char.is_ascii_digit() && char != '.').unwrap_or(rest.len());
        let number: f64 = rest[..digits].parse().map_err(|_| invalid())?;
        rest = &rest[digits..];
        let end = rest.find(|char: char| char.is_ascii_digit() || char == '.').unwrap_or(rest.len());
        if end == 0 {
            return Err(format!("time: missing unit in duration {text:?}"));
        }
        let unit = unit_nanos(&rest[..end])
            .ok_or_else(|| format!("time: unknown unit {:?} in duration {text:?}", &rest[..end]))?;
        nanos += number * unit;
        rest = &rest[end..];
    }
    let nanos = sign * nanos;
    #[expect(clippy::cast_possible_truncation, reason = "the range was checked")]
    let in_range = (nanos.abs() < i64::MAX as f64).then_some(nanos.round() as i64);
    in_range.map(GoDuration).ok_or_else(invalid)
}

/// A unit's nanoseconds.
fn unit_nanos(name: &str) -> Option<f64> {
    Some(match name {
        "ns" => 1.0,
        "us" | "µs" | "μs" => 1e3,
        "ms" => 1e6,
        "s" => 1e9,
        "m" => 60e9,
        "h" => 3600e9,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_go_reads_them() {
        let cases = [
            ("10s", Ok(10_000_000_000)),
            ("1h2m", Ok(3_720_000_000_000)),
            ("1.5s", Ok(1_500_000_000)),
            ("1us", Ok(1_000)),
            ("-5m", Ok(-300_000_000_000)),
            ("0", Ok(0)),
            ("0s", Ok(0)),
            ("1", Err("time: missing unit in duration \"1\"")),
            ("", Err("time: invalid duration \"\"")),
            ("abc", Err("time: invalid duration \"abc\"")),
            ("1x", Err("time: unknown unit \"x\" in duration \"1x\"")),
            ("99999999999h", Err("time: invalid duration \"99999999999h\"")),
        ];
        for (text, expected) in cases {
            assert_eq!(parse(text), expected.map(GoDuration).map_err(str::to_owned), "{text}");
        }
    }
}
