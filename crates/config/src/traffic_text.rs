//! Traffic rules as the YAML of a settings file, each in one line.

use crate::{
    FailoverTarget, HeaderEdits, Mirror, OnEmpty, PathMatch, Route, RouteMatch, RouteTarget, Secret, Split,
    SplitEntry, SplitTarget, Sticky, Subset, ValueMatch, ValueTest, ZoneRouting, expand, format_duration,
    http_words,
    text::{HIDDEN, quote},
};

/// YAML in one line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Flow {
    Scalar(String),
    List(Vec<Flow>),
    Map(Vec<(String, Flow)>),
}

impl std::fmt::Display for Flow {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Scalar(text) => f.write_str(&quote_if_needed(&expand::escape(text))),
            Self::List(items) => {
                let items: Vec<_> = items.iter().map(ToString::to_string).collect();
                write!(f, "[{}]", items.join(", "))
            }
            Self::Map(entries) => {
                let entry = |(key, value): &(String, Flow)| format!("{}: {value}", quote_if_needed(key));
                write!(f, "{{{}}}", entries.iter().map(entry).collect::<Vec<_>>().join(", "))
            }
        }
    }
}

/// The text, in quotes where YAML would not read it as it is.
fn quote_if_needed(text: &str) -> String {
    let is_plain =
        |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.' | b'/' | b'%');
    let begins = text.starts_with(|one: char| one.is_ascii_alphanumeric() || one == '/');
    if begins && text.bytes().all(is_plain) && !text.eq_ignore_ascii_case("null") {
        return text.to_owned();
    }
    quote(text)
}

/// Adds a value at a dotted key.
pub(crate) fn insert(entries: &mut Vec<(String, Flow)>, key: &str, value: Flow) {
    let Some((section, rest)) = key.split_once('.') else {
        entries.push((key.to_owned(), value));
        return;
    };
    for (known, inside) in entries.iter_mut() {
        if let (true, Flow::Map(inside)) = (known == section, inside) {
            return insert(inside, rest, value);
        }
    }
    let mut inside = Vec::new();
    insert(&mut inside, rest, value);
    entries.push((section.to_owned(), Flow::Map(inside)));
}

fn scalar(text: impl ToString) -> Flow {
    Flow::Scalar(text.to_string())
}

fn map<const N: usize>(entries: [(&str, Flow); N]) -> Flow {
    Flow::Map(entries.map(|(key, value)| (key.to_owned(), value)).into())
}

fn texts<T: ToString>(items: &[T]) -> Flow {
    Flow::List(items.iter().map(|item| Flow::Scalar(item.to_string())).collect())
}

pub(crate) fn subsets(subsets: &[Subset]) -> Flow {
    let one = |Subset { name, tags, meta, filter, only_passing: _ }: &Subset| {
        let mut parts = Vec::new();
        if !tags.is_empty() {
            parts.push(("tags".to_owned(), texts(tags)));
        }
        if !meta.is_empty() {
            let meta = meta.iter().map(|(key, glob)| (key.clone(), scalar(&glob.0)));
            parts.push(("meta".to_owned(), Flow::Map(meta.collect())));
        }
        parts.extend(filter.iter().map(|filter| ("filter".to_owned(), scalar(filter.text()))));
        (name.to_string(), Flow::Map(parts))
    };
    Flow::Map(subsets.iter().map(one).collect())
}

fn target(target: &SplitTarget) -> (&'static str, Flow) {
    match target {
        SplitTarget::Subset(name) => ("subset", scalar(name)),
        SplitTarget::Service(name) => ("service", scalar(name)),
        SplitTarget::Exact(target) => ("target", scalar(&target.place.id)),
    }
}

pub(crate) fn split(split: &Split) -> Flow {
    let entry = |SplitEntry { to, weight }: &SplitEntry| {
        let (whole, part) = (weight / 100, weight % 100);
        let weight = if part == 0 { whole.to_string() } else { format!("{whole}.{part:02}") };
        map([target(to), ("weight", scalar(weight))])
    };
    Flow::List(split.entries.iter().map(entry).collect())
}

pub(crate) fn sticky(sticky: &Sticky) -> Flow {
    match sticky {
        Sticky::Header(name) => map([("header", scalar(name))]),
        Sticky::Cookie(name) => map([("cookie", scalar(name))]),
    }
}

/// `policy`: what each route sets of its policy.
pub(crate) fn route(route: &Route, policy: Vec<(String, Flow)>) -> Flow {
    let Route { matcher, to, on_empty, policy: _, rewrite_prefix, headers, tuning: _, number: _ } = route;
    let mut out = Vec::new();
    if *matcher != RouteMatch::default() {
        out.push(("match".to_owned(), match_of(matcher)));
    }
    let to = match to {
        RouteTarget::Own => None,
        RouteTarget::Subset(name) => Some(map([("subset", scalar(name))])),
        RouteTarget::Service(name) => Some(map([("service", scalar(name))])),
        RouteTarget::Exact(target) => Some(map([("target", scalar(&target.place.id))])),
        RouteTarget::Split(shares) => Some(match &shares.sticky {
            None => map([("split", split(shares))]),
            Some(by) => map([("split", split(shares)), ("sticky", sticky(by))]),
        }),
    };
    out.extend(to.map(|to| ("to".to_owned(), to)));
    match on_empty {
        OnEmpty::Fail => {}
        OnEmpty::Any => out.push(("on_empty".to_owned(), scalar("any"))),
        OnEmpty::Subset(name) => out.push(("on_empty".to_owned(), map([("subset", scalar(name))]))),
    }
    out.extend(policy);
    out.extend(rewrite_prefix.iter().map(|prefix| ("rewrite".to_owned(), map([("prefix", scalar(prefix))]))));
    if *headers != HeaderEdits::default() {
        out.push(("headers".to_owned(), headers_of(headers)));
    }
    Flow::Map(out)
}

pub(crate) fn match_of(RouteMatch { path, headers, query, methods }: &RouteMatch) -> Flow {
    let path = path.as_ref().map(path_match);
    let map_of = |values: Vec<(String, Flow)>| (!values.is_empty()).then_some(Flow::Map(values));
    let headers = headers.iter().map(|(name, value)| (name.clone(), header_match(name, value)));
    let query = query.iter().map(|(name, value)| (name.clone(), value_match(value)));
    let methods = (!methods.is_empty()).then(|| texts(methods));
    let parts = [
        ("path", path),
        ("headers", map_of(headers.collect())),
        ("query", map_of(query.collect())),
        ("methods", methods),
    ];
    Flow::Map(parts.into_iter().filter_map(|(key, part)| Some((key.to_owned(), part?))).collect())
}

pub(crate) fn path_match(path: &PathMatch) -> Flow {
    match path {
        PathMatch::Exact(text) => map([("exact", scalar(text))]),
        PathMatch::Prefix(text) => map([("prefix", scalar(text))]),
        PathMatch::Regex(pattern) => map([("regex", scalar(&pattern.text))]),
    }
}

/// Of a field that has credentials, only which test it is.
pub(crate) fn header_match(name: &str, wanted: &ValueMatch) -> Flow {
    let hidden = || HIDDEN.to_owned();
    let test = match &wanted.test {
        _ if !http_words::has_credentials(name) => return value_match(wanted),
        ValueTest::Present => return value_match(wanted),
        ValueTest::Prefix(_) => ValueTest::Prefix(hidden()),
        ValueTest::Suffix(_) => ValueTest::Suffix(hidden()),
        ValueTest::Exact(_) | ValueTest::Regex(_) => ValueTest::Exact(hidden()),
    };
    value_match(&ValueMatch { test, negated: wanted.negated })
}

pub(crate) fn value_match(ValueMatch { test, negated }: &ValueMatch) -> Flow {
    let test = match test {
        ValueTest::Present => ("present", scalar(true)),
        ValueTest::Exact(text) => ("exact", scalar(text)),
        ValueTest::Prefix(text) => ("prefix", scalar(text)),
        ValueTest::Suffix(text) => ("suffix", scalar(text)),
        ValueTest::Regex(pattern) => ("regex", scalar(&pattern.text)),
    };
    if *negated { map([test, ("not", scalar(true))]) } else { map([test]) }
}

fn headers_of(HeaderEdits { set, add, remove }: &HeaderEdits) -> Flow {
    let fields = |fields: &[(String, Secret)]| {
        let all = fields.iter().map(|(name, _)| (name.clone(), scalar(HIDDEN)));
        (!fields.is_empty()).then(|| Flow::Map(all.collect()))
    };
    let remove = (!remove.is_empty()).then(|| texts(remove));
    let parts = [("set", fields(set)), ("add", fields(add)), ("remove", remove)];
    Flow::Map(parts.into_iter().filter_map(|(key, part)| Some((key.to_owned(), part?))).collect())
}

pub(crate) fn zone(ZoneRouting { own, from, min_instances }: &ZoneRouting) -> Flow {
    map([("own", scalar(own)), ("from", texts(from)), ("min_instances", scalar(min_instances))])
}

pub(crate) fn failover(targets: &[FailoverTarget]) -> Flow {
    let one = |FailoverTarget { service, datacenter }: &FailoverTarget| {
        let parts =
            [("service", service.as_ref().map(scalar)), ("datacenter", datacenter.as_ref().map(scalar))];
        Flow::Map(parts.into_iter().filter_map(|(key, part)| Some((key.to_owned(), part?))).collect())
    };
    Flow::List(targets.iter().map(one).collect())
}

/// Every key, also with its default.
pub(crate) fn mirror(mirror: &Mirror) -> Flow {
    map([
        ("to", map([target(&mirror.to)])),
        ("share", scalar(mirror.share)),
        ("methods", texts(&mirror.methods)),
        ("credentials", scalar(if mirror.keep_credentials { "keep" } else { "drop" })),
        ("max_in_flight", scalar(mirror.max_in_flight)),
        ("timeout", scalar(format_duration(mirror.timeout))),
    ])
}
