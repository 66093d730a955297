//! The query of a request: as it was sent, and as Go reads it, for answers that are as Consul's.

use std::borrow::Cow;

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

#[cfg(test)]
mod tests {
    use super::*;

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
