//! The query string: `a=1&b&c=x+y`.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;

/// The parameters, in order.
#[derive(Debug, Default)]
pub(super) struct QueryParams(Vec<(String, String)>);

impl QueryParams {
    /// `None`: a bad escape.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let pairs = text.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            Some((decode(name)?, decode(value)?))
        });
        pairs.collect::<Option<_>>().map(Self)
    }

    /// The first value; empty for a bare name.
    pub(super) fn first(&self, name: &str) -> Option<&str> {
        self.all(name).next()
    }

    /// Every value.
    pub(super) fn all<'a>(&'a self, name: &str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// Whether the parameter is present, with any value.
    pub(super) fn has(&self, name: &str) -> bool {
        self.first(name).is_some()
    }
}

fn decode(text: &str) -> Option<String> {
    let good = |at: usize| {
        let hex = text.as_bytes().get(at + 1..at + 3);
        hex.is_some_and(|hex| hex.iter().all(u8::is_ascii_hexdigit))
    };
    if !text.match_indices('%').all(|(at, _)| good(at)) {
        return None;
    }
    let spaced: Cow<'_, str> = if text.contains('+') { text.replace('+', " ").into() } else { text.into() };
    Some(percent_decode_str(&spaced).decode_utf8_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_decoded_and_kept_in_order() {
        let query = QueryParams::parse("tag=a&tag=b+c%2F&passing&e=").unwrap();
        assert_eq!(query.all("tag").collect::<Vec<_>>(), ["a", "b c/"]);
        assert_eq!(query.first("passing"), Some(""));
        assert!(query.has("e") && !query.has("PASSING"));
        assert!(QueryParams::parse("a=%zz").is_none() && QueryParams::parse("a=%2").is_none());
    }
}
