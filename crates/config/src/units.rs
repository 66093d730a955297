//! Durations, sizes, shares, whole numbers and switches: text ↔ value.
//!
//! Every number has a unit, except a count. There is no `KB`, because it can mean 1,000 or 1,024 bytes, and no
//! fraction of a unit, because `500ms` is the same as half a second.

use std::{ops::RangeInclusive, time::Duration};

use crate::{error::InvalidValue, keys};

pub(crate) const MS: Duration = Duration::from_millis(1);
pub(crate) const SECOND: Duration = Duration::from_secs(1);
pub(crate) const MINUTE: Duration = Duration::from_secs(60);
pub(crate) const HOUR: Duration = Duration::from_secs(3600);
pub(crate) const DAY: Duration = Duration::from_secs(24 * 3600);
pub(crate) const KIB: usize = 1024;
pub(crate) const MIB: usize = 1024 * 1024;

const DURATION_UNITS: [(&str, u64); 4] = [("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];
const SIZE_UNITS: [(&str, usize); 3] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];

/// `250ms`, `5s`, `1m30s`, `0`: units from large to small, each at most once.
pub(crate) fn duration(text: &str) -> Result<Duration, InvalidValue> {
    let wrong = || {
        InvalidValue::new(
            "is not a duration",
            "write a whole number and a unit (ms, s, m, h), as 250ms, 5s, 1m30s",
        )
    };
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) {
        return Err(InvalidValue::new("has no unit", format!("write {text}s or {text}ms")));
    }
    let mut millis = 0u64;
    let mut rest = text;
    let mut last_scale = u64::MAX;
    while !rest.is_empty() {
        let (number, after) = split_at_first(rest, |b| !b.is_ascii_digit());
        let (unit, after) = split_at_first(after, |b| b.is_ascii_digit());
        let scale = DURATION_UNITS.iter().find(|(name, _)| *name == unit).map(|(_, scale)| *scale);
        let scale = scale.filter(|scale| *scale < last_scale).ok_or_else(wrong)?;
        let number: u64 = number.parse().map_err(|_| wrong())?;
        millis = number.checked_mul(scale).and_then(|ms| millis.checked_add(ms)).ok_or_else(wrong)?;
        last_scale = scale;
        rest = after;
    }
    if last_scale == u64::MAX { Err(wrong()) } else { Ok(Duration::from_millis(millis)) }
}

/// Parses a duration in the format of a settings file, for a text from elsewhere.
///
/// # Errors
/// A message that quotes the text and describes the format.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    duration(text).map_err(|InvalidValue { what, hint }| format!("{text:?} {what}; {hint}"))
}

/// A duration of Go's `time.ParseDuration`: `1m30s`, `1.5h`, `100us`. `Some(None)`: it is negative. `None`: it is none.
pub fn parse_go_duration(text: &str) -> Option<Option<Duration>> {
    let (is_negative, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Some(Some(Duration::ZERO));
    }
    if rest.is_empty() {
        return None;
    }
    let mut nanos = 0.0_f64;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (number, after) = rest.split_at(end);
        let end = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        let (unit, after) = after.split_at(end);
        if !number.bytes().any(|byte| byte.is_ascii_digit()) || number.matches('.').count() > 1 {
            return None;
        }
        let scale = match unit {
            "ns" => 1.0,
            "us" | "µs" | "μs" => 1e3,
            "ms" => 1e6,
            "s" => 1e9,
            "m" => 60e9,
            "h" => 3600e9,
            _ => return None,
        };
        let number: f64 = format!("0{number}0").parse().ok()?;
        // `5.` and `.5` are numbers of Go; a zero at the end would change a whole number.
        let number =
            if rest[..rest.len() - after.len() - unit.len()].contains('.') { number } else { number / 10.0 };
        nanos += number * scale;
        rest = after;
    }
    // An int64 of nanoseconds.
    if nanos > 9.2e18 {
        return None;
    }
    Some((!is_negative).then(|| Duration::from_secs_f64(nanos / 1e9)))
}

fn split_at_first(text: &str, stop: impl Fn(u8) -> bool) -> (&str, &str) {
    // Both predicates change at an ASCII digit, so the text is cut between characters.
    text.split_at(text.bytes().position(stop).unwrap_or(text.len()))
}

/// The duration in the format of a settings file (`1m30s`); parts below a millisecond are cut off.
pub fn format_duration(value: Duration) -> String {
    let mut millis = value.as_millis();
    if millis == 0 {
        return "0s".to_owned();
    }
    let mut out = String::new();
    for (unit, scale) in DURATION_UNITS {
        let scale = u128::from(scale);
        if millis >= scale {
            out.push_str(&format!("{}{unit}", millis / scale));
            millis %= scale;
        }
    }
    out
}

/// The duration rounded to whole seconds, below one second to whole milliseconds, for logs and pages: `2s`, `350ms`,
/// `1m30s`.
pub fn format_coarse_duration(value: Duration) -> String {
    let rounded = |unit: Duration| {
        let units = (value.as_nanos() + unit.as_nanos() / 2) / unit.as_nanos();
        unit.saturating_mul(u32::try_from(units).unwrap_or(u32::MAX))
    };
    let millis = rounded(MS);
    format_duration(if millis < SECOND { millis } else { rounded(SECOND) })
}

/// `64KiB`, `1MiB`, or plain bytes.
pub(crate) fn size(text: &str) -> Result<usize, InvalidValue> {
    let hint = "write bytes, or a whole number with KiB, MiB or GiB, as 64KiB";
    let digits = text.bytes().position(|b| !b.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let scale = match unit.trim_start() {
        "" | "B" => 1,
        unit => SIZE_UNITS
            .iter()
            .find(|(name, _)| *name == unit)
            .map(|(_, scale)| *scale)
            .ok_or_else(|| InvalidValue::new("is not a size", hint))?,
    };
    let number: usize = number.parse().map_err(|_| InvalidValue::new("is not a size", hint))?;
    number.checked_mul(scale).ok_or_else(|| InvalidValue::new("is not a size", hint))
}

/// The size in the format of a settings file: the largest unit that gives a whole number.
pub fn format_size(bytes: usize) -> String {
    SIZE_UNITS
        .iter()
        .find(|(_, scale)| bytes > 0 && bytes.is_multiple_of(*scale))
        .map_or_else(|| bytes.to_string(), |(unit, scale)| format!("{}{unit}", bytes / scale))
}

/// `20%` or `0.2`.
pub(crate) fn ratio(text: &str) -> Result<f64, InvalidValue> {
    let wrong = || InvalidValue::new("is not a share", "write 20% or 0.2");
    let (number, scale) = match text.strip_suffix('%') {
        Some(number) => (number.trim_end(), 100.0),
        None => (text, 1.0),
    };
    // `f64` would accept `inf` and `1e9` too.
    if number.is_empty() || !number.bytes().all(|b| b.is_ascii_digit() || b == b'.') {
        return Err(wrong());
    }
    number.parse::<f64>().map(|number| number / scale).map_err(|_| wrong())
}

/// A percentage from 0 to 100: `30`, `30%` or `12.5%`. A fraction needs the sign, because `0.3` could mean 30 %.
pub(crate) fn percent(text: &str) -> Result<f64, InvalidValue> {
    let number = match text.strip_suffix('%') {
        Some(number) if !number.contains('%') => ratio(number.trim_end()).ok(),
        _ => integer(0..=u32::MAX)(text).ok().map(f64::from),
    };
    let number = number.ok_or_else(|| InvalidValue::new("is not a percentage", "write 30 or 30%"))?;
    let in_range = (0.0..=100.0).contains(&number);
    if in_range { Ok(number) } else { Err(InvalidValue::new("is out of range", "allowed: 0 to 100")) }
}

/// A whole number within a range.
pub(crate) fn integer<T>(range: RangeInclusive<T>) -> impl Fn(&str) -> Result<T, InvalidValue>
where
    T: TryFrom<u64> + PartialOrd + std::fmt::Display + Copy,
{
    move |text| {
        let (low, high) = (range.start(), range.end());
        if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
            return Err(InvalidValue::new("is not a whole number", format!("allowed: {low} to {high}")));
        }
        let value = text.parse::<u64>().ok().and_then(|n| T::try_from(n).ok());
        value
            .filter(|value| range.contains(value))
            .ok_or_else(|| InvalidValue::new("is out of range", format!("allowed: {low} to {high}")))
    }
}

/// A duration within a range.
pub(crate) fn duration_in(
    range: RangeInclusive<Duration>,
) -> impl Fn(&str) -> Result<Duration, InvalidValue> {
    in_range(duration, range, format_duration)
}

/// A size within a range.
pub(crate) fn size_in(range: RangeInclusive<usize>) -> impl Fn(&str) -> Result<usize, InvalidValue> {
    in_range(size, range, format_size)
}

/// A share within a range.
pub(crate) fn ratio_in(range: RangeInclusive<f64>) -> impl Fn(&str) -> Result<f64, InvalidValue> {
    in_range(ratio, range, |value| value.to_string())
}

fn in_range<T: PartialOrd + Copy>(
    parse: fn(&str) -> Result<T, InvalidValue>,
    range: RangeInclusive<T>,
    format: fn(T) -> String,
) -> impl Fn(&str) -> Result<T, InvalidValue> {
    move |text| {
        let value = parse(text)?;
        let allowed = || format!("allowed: {} to {}", format(*range.start()), format(*range.end()));
        if range.contains(&value) { Ok(value) } else { Err(InvalidValue::new("is out of range", allowed())) }
    }
}

/// One of these, by its name.
pub(crate) fn one_of<T: Copy>(
    all: &[T],
    word: fn(T) -> &'static str,
) -> impl Fn(&str) -> Result<T, InvalidValue> {
    move |text| {
        all.iter().copied().find(|one| word(*one) == text).ok_or_else(|| {
            let words: Vec<_> = all.iter().copied().map(word).collect();
            let nearest = keys::nearest(text, words.iter().copied());
            let meant = nearest.map(|word| format!("did you mean {word}? ")).unwrap_or_default();
            let allowed = format!("{meant}allowed: {}", words.join(", "));
            InvalidValue::new("is not a value of this setting", allowed)
        })
    }
}

/// `true`, `false` and the other forms of YAML 1.1.
pub(crate) fn switch(text: &str) -> Result<bool, InvalidValue> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "on" | "yes" => Ok(true),
        "false" | "off" | "no" => Ok(false),
        _ => Err(InvalidValue::new("is neither true nor false", "write true or false")),
    }
}

/// `on`, `off`; `true` and `false` as well, because YAML 1.1 reads the words as these.
pub(crate) fn on_or_off(text: &str) -> Result<bool, InvalidValue> {
    switch(text).map_err(|_| InvalidValue::new("is neither on nor off", "write on or off"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ms(text: &str, expected: Option<u64>) {
        assert_eq!(duration(text).ok(), expected.map(Duration::from_millis), "for {text:?}");
    }

    #[test]
    fn durations_are_those_of_go() {
        let ms = |ms| Some(Some(Duration::from_millis(ms)));
        for (text, expected) in [
            ("10s", ms(10_000)),
            ("1m30s", ms(90_000)),
            ("1.5s", ms(1_500)),
            (".5s", ms(500)),
            ("5.s", ms(5_000)),
            ("500ms", ms(500)),
            ("60000ms", ms(60_000)),
            ("2h", ms(7_200_000)),
            ("+1s", ms(1_000)),
            ("0", ms(0)),
            ("0s", ms(0)),
            ("-1s", Some(None)),
            ("1", None),
            ("abc", None),
            ("1 s", None),
            ("s", None),
            ("1.2.3s", None),
            ("-", None),
            ("", None),
            ("1d", None),
            ("99999999999h", None),
        ] {
            assert_eq!(parse_go_duration(text), expected, "{text}");
        }
    }

    #[test]
    fn a_coarse_duration_has_milliseconds_only_below_a_second() {
        for (millis, expected) in
            [(0, "0s"), (350, "350ms"), (999, "999ms"), (2_345, "2s"), (90_001, "1m30s"), (3_600_000, "1h")]
        {
            assert_eq!(format_coarse_duration(Duration::from_millis(millis)), expected);
        }
        assert_eq!(format_coarse_duration(Duration::from_nanos(999)), "0s");
    }

    #[test]
    fn a_coarse_duration_is_rounded_and_not_cut_off() {
        for (micros, expected) in [
            (1_600, "2ms"),
            (999_400, "999ms"),
            (999_600, "1s"),
            (1_499_999, "1s"),
            (1_500_000, "2s"),
            (59_700_000, "1m"),
            (3_599_900_000, "1h"),
        ] {
            assert_eq!(format_coarse_duration(Duration::from_micros(micros)), expected, "{micros} µs");
        }
        // Far beyond any age.
        assert!(format_coarse_duration(Duration::MAX).ends_with('s'));
    }

    #[test]
    fn durations_have_units_from_large_to_small() {
        ms("250ms", Some(250));
        ms("5s", Some(5_000));
        ms("1m30s", Some(90_000));
        ms("1h2m3s4ms", Some(3_723_004));
        ms("0", Some(0));
        ms("0s", Some(0));
        for text in
            ["", "5", "s", "5 s", "1.5s", "-1s", "30s1m", "1s1s", "5d", "5sec", "18446744073709551615h", "5é"]
        {
            ms(text, None);
        }
    }

    #[test]
    fn the_hint_for_a_number_without_a_unit_has_the_likely_units() {
        assert_eq!(duration("5").unwrap_err(), InvalidValue::new("has no unit", "write 5s or 5ms"));
    }

    #[test]
    fn sizes_are_bytes_or_binary_units() {
        let cases = [
            ("0", 0),
            ("65536", 65_536),
            ("64KiB", 65_536),
            ("1MiB", 1 << 20),
            ("2GiB", 2 << 30),
            ("7B", 7),
            ("64 KiB", 65_536),
        ];
        for (text, expected) in cases {
            assert_eq!(size(text).ok(), Some(expected), "for {text:?}");
        }
        for text in
            ["", "KiB", "64KB", "64k", "-1", "1.5MiB", "99999999999999999999", "18446744073709551615KiB"]
        {
            assert_eq!(size(text).ok(), None, "for {text:?}");
        }
    }

    #[test]
    fn shares_are_percentages_or_fractions() {
        for (text, expected) in [("20%", 0.2), ("0.2", 0.2), ("1", 1.0), ("0", 0.0), ("12.5 %", 0.125)] {
            assert_eq!(ratio(text).ok(), Some(expected), "for {text:?}");
        }
        for text in ["", "%", "-1", "inf", "nan", "1e3", ".", "1,5", "a"] {
            assert_eq!(ratio(text).ok(), None, "for {text:?}");
        }
    }

    #[test]
    fn a_percentage_is_a_whole_number_or_has_the_sign() {
        for (text, expected) in [("0", 0.0), ("30", 30.0), ("30%", 30.0), ("12.5 %", 12.5), ("100%", 100.0)] {
            assert_eq!(percent(text), Ok(expected), "for {text:?}");
        }
        for text in ["", "0.3", "%", "30%%", "101", "100.1%", "-1", "1e1", "a"] {
            assert!(percent(text).is_err(), "for {text:?}");
        }
    }

    #[test]
    fn the_hint_for_a_number_out_of_range_has_the_range() {
        let wrong = integer(1u16..=65535)("70000").unwrap_err();
        assert_eq!(wrong, InvalidValue::new("is out of range", "allowed: 1 to 65535"));
        let wrong = duration_in(Duration::from_secs(1)..=Duration::from_secs(60))("2m").unwrap_err();
        assert_eq!(wrong, InvalidValue::new("is out of range", "allowed: 1s to 1m"));
        assert!(ratio_in(0.0..=1.0)("20").is_err());
        assert!(size_in(0..=1024)("2KiB").is_err());
    }

    proptest! {
        #[test]
        fn a_formatted_duration_parses_to_itself(millis in any::<u32>()) {
            let value = Duration::from_millis(millis.into());
            prop_assert_eq!(duration(&format_duration(value)), Ok(value));
        }

        #[test]
        fn a_formatted_size_parses_to_itself(value in any::<usize>(), shift in 0usize..30) {
            let value = (value >> 32) << shift;
            prop_assert_eq!(size(&format_size(value)), Ok(value));
        }

        #[test]
        fn a_formatted_share_parses_to_itself(thousandths in 0u32..=1000) {
            let value = f64::from(thousandths) / 1000.0;
            prop_assert_eq!(ratio(&value.to_string()), Ok(value));
        }

        #[test]
        fn no_text_makes_a_parser_panic(text in ".*") {
            let _ = (duration(&text), size(&text), ratio(&text), switch(&text), integer(0u32..=9)(&text));
        }

        #[test]
        fn no_nearly_valid_text_makes_a_parser_panic(text in "[0-9hmsKMGiB.% é]{0,12}") {
            let _ = (duration(&text), size(&text), ratio(&text), percent(&text));
        }
    }
}
