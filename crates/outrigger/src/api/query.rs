//! The query of a request: as it was sent, and as Go reads it, for answers that are as Consul's.

use std::{borrow::Cow, time::Duration};

use percent_encoding::percent_decode_str;

/// Names and values, in their order.
#[derive(Debug)]
pub(super) struct GoQuery<'a>(Vec<(Cow<'a, str>, Cow<'a, str>)>);

impl<'a> GoQuery<'a> {
    /// A pair that is no text is left out, as `URL.Query` does.
    pub(super) fn read(query: &'a str) -> Self {
        let decode = |text: &'a str| {
            let plus: Cow<'a, str> =
                if text.contains('+') { text.replace('+', " ").into() } else { text.into() };
            match plus {
                Cow::Borrowed(text) => percent_decode_str(text).decode_utf8().ok(),
                Cow::Owned(text) => {
                    percent_decode_str(&text).decode_utf8().ok().map(|text| Cow::Owned(text.into_owned()))
                }
            }
        };
        let pairs = query.split(['&', ';']).filter(|pair| !pair.is_empty());
        let read = |pair: &'a str| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            Some((decode(name)?, decode(value)?))
        };
        Self(pairs.filter_map(read).collect())
    }

    /// Every name.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|(name, _)| name.as_ref())
    }

    /// Whether there is such a name, whatever its value.
    pub(super) fn has(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    /// The first value.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_ref())
    }
}

/// The names and values of a query, as they were sent.
pub(super) fn pairs(query: &str) -> impl Iterator<Item = (&str, &str)> {
    let pairs = query.split('&').filter(|pair| !pair.is_empty());
    pairs.map(|pair| pair.split_once('=').unwrap_or((pair, "")))
}

/// A duration of Go's `time.ParseDuration`: `1m30s`, `1.5h`, `100us`. `Some(None)`: it is negative. `None`: it is none.
pub(super) fn go_duration(text: &str) -> Option<Option<Duration>> {
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

#[cfg(test)]
mod tests {
    use super::*;

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
            assert_eq!(go_duration(text), expected, "{text}");
        }
    }

    #[test]
    fn the_first_value_of_a_name_counts_and_a_name_needs_none() {
        let query = GoQuery::read("recurse&index=1&index=2&separator=%2F&a+b=c+d;stale=&&=x&bad=%ff");
        for (name, expected) in [
            ("recurse", Some("")),
            ("index", Some("1")),
            ("separator", Some("/")),
            ("a b", Some("c d")),
            ("stale", Some("")),
            ("bad", None),
            ("keys", None),
        ] {
            assert_eq!((query.get(name), query.has(name)), (expected, expected.is_some()), "{name}");
        }
    }
}
