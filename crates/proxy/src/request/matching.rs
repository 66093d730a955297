//! What rules look at of a request: whether it is what a route asks for, and by what a sticky split chooses.

use std::{borrow::Cow, cell::Cell};

use outrigger_config::{PathMatch, Sticky, ValueMatch, ValueTest};
use outrigger_http1::{Field, Head, Name};

use crate::upstream::traffic::{Route, length_bit};

/// A field that says that a request is the copy of one, for a mirror.
pub(crate) const MIRROR_MARK: &str = "x-outrigger-mirror";

/// What routes look at of a request. What each of many routes would work out anew is kept.
pub(crate) struct Asked<'h> {
    head: &'h Head,
    /// As the instance would get it.
    target: &'h [u8],
    /// `usize::MAX`: not looked for yet.
    path_end: Cell<usize>,
    /// A bit for the length of each name that the codec does not know, 63 for all that are longer; and bit 0, once this is known.
    other_names: Cell<u64>,
}

impl<'h> Asked<'h> {
    pub(crate) fn new(head: &'h Head, target: &'h [u8]) -> Self {
        Self { head, target, path_end: Cell::new(usize::MAX), other_names: Cell::new(0) }
    }

    /// The target up to `?`, as it is written.
    fn path(&self) -> &'h [u8] {
        self.target.get(..self.path_end()).unwrap_or_default()
    }

    fn query(&self) -> &'h [u8] {
        self.target.get(self.path_end() + 1..).unwrap_or_default()
    }

    #[inline]
    fn path_end(&self) -> usize {
        if self.path_end.get() == usize::MAX {
            self.path_end.set(self.target.iter().position(|byte| *byte == b'?').unwrap_or(self.target.len()));
        }
        self.path_end.get()
    }

    /// Whether the request has no field with this name, as far as that is told without a search.
    #[inline]
    fn lacks(&self, known: Name, name: &str) -> bool {
        if known != Name::Other {
            return !self.head.has(known);
        }
        self.other_lengths() & length_bit(name.len()) == 0
    }

    /// False: the request lacks a header that the route asks for. Most routes end here.
    #[inline]
    pub(crate) fn may_match(&self, route: &Route) -> bool {
        let needed = route.needed_lengths;
        needed == 0 || self.other_lengths() & needed == needed
    }

    #[inline]
    fn other_lengths(&self) -> u64 {
        if self.other_names.get() == 0 {
            let lengths = self.others().map(|field| length_bit(self.head.name(field).len()));
            self.other_names.set(lengths.fold(1, |all, one| all | one));
        }
        self.other_names.get()
    }

    fn others(&self) -> impl Iterator<Item = &'h Field> {
        self.head.fields().iter().filter(|field| field.known == Name::Other)
    }

    /// The value of the fields with this name, which is in lower case; several are one, joined by a comma (RFC 9110 §5.3). `known`:
    /// what the codec calls the name.
    fn field(&self, known: Name, name: &str) -> Option<Cow<'h, [u8]>> {
        if known != Name::Other {
            return join(self.head.values(known));
        }
        let is_named = |field: &&Field| self.head.name(field).eq_ignore_ascii_case(name.as_bytes());
        join(self.others().filter(is_named).map(|field| self.head.value(field)))
    }
}

/// As `starts_with`. The last byte comes first, because prefixes of one service begin alike.
#[inline]
fn has_prefix(path: &[u8], prefix: &[u8]) -> bool {
    let Some((last, at)) = prefix.last().zip(prefix.len().checked_sub(1)) else { return true };
    path.get(at) == Some(last) && path.starts_with(prefix)
}

fn join<'h>(mut all: impl Iterator<Item = &'h [u8]>) -> Option<Cow<'h, [u8]>> {
    let first = all.next()?;
    let Some(second) = all.next() else { return Some(first.into()) };
    let mut joined = [first, second].join(&b","[..]);
    for value in all {
        joined.push(b',');
        joined.extend_from_slice(value);
    }
    Some(joined.into())
}

/// A part of a match that does not hold for a request.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Mismatch<'r> {
    Path(&'r PathMatch),
    Method,
    Header(&'r str, &'r ValueMatch),
    Query(&'r str, &'r ValueMatch),
}

/// The first part of a route's match that does not hold. `None`: the request matches.
pub(crate) fn mismatch<'r>(route: &'r Route, asked: &Asked<'_>) -> Option<Mismatch<'r>> {
    let wanted = &route.rule.matcher;
    if let Some(path) = &wanted.path {
        let holds = match path {
            PathMatch::Exact(text) => asked.path() == text.as_bytes(),
            PathMatch::Prefix(text) => has_prefix(asked.path(), text.as_bytes()),
            PathMatch::Regex(pattern) => pattern.regex.is_match(asked.path()),
        };
        if !holds {
            return Some(Mismatch::Path(path));
        }
    }
    if !wanted.methods.is_empty() && !wanted.methods.iter().any(|one| one.as_bytes() == asked.head.method()) {
        return Some(Mismatch::Method);
    }
    for ((name, wanted), known) in wanted.headers.iter().zip(&route.header_names) {
        let holds = match asked.lacks(*known, name) {
            true => wanted.negated,
            false => passes(wanted, asked.field(*known, name).as_deref()),
        };
        if !holds {
            return Some(Mismatch::Header(name, wanted));
        }
    }
    let passes_query = |name: &str, wanted| passes(wanted, parameter(asked.query(), name.as_bytes()));
    let parameter = wanted.query.iter().find(|(name, wanted)| !passes_query(name, wanted));
    parameter.map(|(name, wanted)| Mismatch::Query(name, wanted))
}

/// The value of a query's parameter; one without `=` has an empty one.
fn parameter<'q>(query: &'q [u8], name: &[u8]) -> Option<&'q [u8]> {
    query.split(|byte| *byte == b'&').find_map(|pair| match pair.strip_prefix(name)? {
        [] => Some(&[][..]),
        [b'=', value @ ..] => Some(value),
        _ => None,
    })
}

fn passes(wanted: &ValueMatch, value: Option<&[u8]>) -> bool {
    let passes = value.is_some_and(|value| match &wanted.test {
        ValueTest::Present => true,
        ValueTest::Exact(text) => value == text.as_bytes(),
        ValueTest::Prefix(text) => value.starts_with(text.as_bytes()),
        ValueTest::Suffix(text) => value.ends_with(text.as_bytes()),
        ValueTest::Regex(pattern) => pattern.regex.is_match(value),
    });
    passes != wanted.negated
}

/// The text by which the entry of a split is chosen. `None`: the request takes its turn.
pub(crate) fn sticky_value<'h>(sticky: &Sticky, head: &'h Head) -> Option<&'h [u8]> {
    match sticky {
        Sticky::Header(name) => values(head, name).next(),
        Sticky::Cookie(name) => {
            let cookies = head.values(Name::Cookie).flat_map(|value| value.split(|byte| *byte == b';'));
            let mut pairs = cookies.map(<[u8]>::trim_ascii);
            pairs.find_map(|pair| pair.strip_prefix(name.as_bytes())?.strip_prefix(b"="))
        }
    }
    .filter(|value| !value.is_empty())
}

/// Whether a request is the copy of one, which is not copied again.
pub(crate) fn is_copy(head: &Head) -> bool {
    values(head, MIRROR_MARK).next().is_some()
}

/// The values of the fields with this name, which is in lower case.
fn values<'h>(head: &'h Head, name: &str) -> impl Iterator<Item = &'h [u8]> {
    let is_named = move |field: &&Field| head.name(field).eq_ignore_ascii_case(name.as_bytes());
    head.fields().iter().filter(is_named).map(|field| head.value(field))
}
