//! What a compiled chain says, as traffic rules.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use outrigger_config::{
    ExactPlace, ExactTarget, HeaderEdits, OnEmpty, PathMatch, Pattern, PolicyTuning, Route, RouteMatch,
    RouteTarget, Split, SplitEntry, SplitTarget, Subset, SubsetFilter, TrafficRules, ValueMatch, ValueTest,
    parse_go_duration,
};
use outrigger_registry::chain::{self, Chain};

/// Deepest nesting of nodes. Consul flattens splitters, so that there are three.
const MAX_DEPTH: usize = 16;
/// Most regular expressions of a chain: each may take some memory in each thread.
const MAX_PATTERNS: usize = 64;
/// What Consul writes where no `ConnectTimeout` is set.
const UNSET_CONNECT_TIMEOUT: &str = "5s";
/// A filter that no instance passes.
const NOTHING: &str = "Service.Port == 0 and Service.Port == 1";
const MAX_RETRIES: u32 = 10;
const HOUR: Duration = Duration::from_secs(3600);
const MINUTE: Duration = Duration::from_secs(60);

/// What is wrong with a chain, or not known here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChainProblem {
    /// Its kind.
    pub kind: ChainProblemKind,
    /// A sentence about it.
    pub text: String,
}

/// The kinds of problems.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ChainProblemKind {
    /// A route that no request takes, because a part of its match is not known or cannot be read.
    Route,
    /// The filter of a subset cannot be used.
    Filter,
    /// A field that is not known, and has no effect.
    UnknownField,
    /// A node or a target that is not there.
    Broken,
}

impl ChainProblemKind {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Route, Self::Filter, Self::UnknownField, Self::Broken];

    /// A label for a metric.
    pub fn label(self) -> &'static str {
        match self {
            Self::Route => "route",
            Self::Filter => "filter",
            Self::UnknownField => "unknown_field",
            Self::Broken => "broken",
        }
    }
}

/// What a chain says of a service.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ChainRules {
    /// The default where the chain is that of a service without entries.
    pub rules: TrafficRules,
    /// `http`, `http2` or `grpc`, as an entry states it. `None`: nothing is stated.
    pub protocol: Option<String>,
    /// What of it has no effect.
    pub problems: Vec<ChainProblem>,
}

/// The last filters that could be used, by the ids of their targets.
pub(super) type GoodFilters = HashMap<String, SubsetFilter>;

/// What a chain says. `good` has the filters of earlier chains, and gets those of this one.
pub(super) fn rules_of(chain: &Chain, good: &mut GoodFilters) -> ChainRules {
    let mut walk = Walk { chain, good, problems: Vec::new(), targets: BTreeMap::new(), patterns: 0 };
    let rules = walk.rules();
    let problems = walk.problems;
    let known = |id: &String, _: &mut SubsetFilter| chain.targets.contains_key(id);
    good.retain(known);
    let protocol = Some(chain.protocol.to_ascii_lowercase()).filter(|name| !name.is_empty() && name != "tcp");
    ChainRules { rules, protocol, problems }
}

/// The chain with the filters that are in use, in place of those that cannot be used.
pub(super) fn with_good_filters(chain: &Chain, good: &GoodFilters) -> Chain {
    let mut chain = chain.clone();
    for (id, target) in &mut chain.targets {
        if let Some(filter) = good.get(id).filter(|_| !target.subset.filter.is_empty()) {
            filter.text().clone_into(&mut target.subset.filter);
        }
    }
    chain
}

struct Walk<'c> {
    chain: &'c Chain,
    good: &'c mut GoodFilters,
    problems: Vec<ChainProblem>,
    /// Those of resolvers, by the names of their nodes.
    targets: BTreeMap<String, Arc<ExactTarget>>,
    patterns: usize,
}

impl<'c> Walk<'c> {
    fn rules(&mut self) -> TrafficRules {
        let chain: &'c Chain = self.chain;
        let mut rules = TrafficRules::default();
        let Some(start) = self.node(&chain.start_node) else { return rules };
        if start.routes.is_empty() {
            rules.split = self.split(&chain.start_node);
        }
        for (n, route) in start.routes.iter().enumerate() {
            let is_last = n + 1 == start.routes.len();
            if is_last && is_catch_all(route) {
                rules.split = self.split(&route.next_node);
                break;
            }
            rules.routes.extend(self.route(n, route));
        }
        // A service without entries about its instances.
        let is_plain = |target: &ExactTarget| {
            let ExactTarget { place, failover, connect_timeout } = target;
            let is_own = *place.service == *self.chain.service_name.to_ascii_lowercase();
            let is_whole = place.datacenter.is_none() && place.subset.is_none();
            is_own && is_whole && failover.is_empty() && connect_timeout.is_none()
        };
        let only = rules.split.as_ref().and_then(|split| match &*split.entries {
            [SplitEntry { to: SplitTarget::Exact(target), .. }] => Some(target.clone()),
            _ => None,
        });
        if only.is_some_and(|target| is_plain(&target)) {
            rules.split = None;
        }
        rules
    }

    fn note(&mut self, kind: ChainProblemKind, text: String) {
        let problem = ChainProblem { kind, text };
        if !self.problems.contains(&problem) {
            self.problems.push(problem);
        }
    }

    fn note_unknown(&mut self, place: &str, unknown: &chain::Unknown) {
        for name in unknown.iter().filter(|(_, value)| says_something(value)).map(|(name, _)| name) {
            self.note(
                ChainProblemKind::UnknownField,
                format!("{place}: {name} is not known, and has no effect"),
            );
        }
    }

    fn node(&mut self, name: &str) -> Option<&'c chain::Node> {
        let chain: &'c Chain = self.chain;
        let node = chain.nodes.get(name);
        if node.is_none() && !name.is_empty() {
            self.note(ChainProblemKind::Broken, format!("the node {name} is not there"));
        }
        node
    }

    /// The shares of a node. `None`: it leads nowhere.
    fn split(&mut self, name: &str) -> Option<Split> {
        let mut leaves = Vec::new();
        self.gather(name, 100.0, MAX_DEPTH, &mut leaves);
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to 10000")]
        let weight = |percent: f64| (percent.clamp(0.0, 100.0) * 100.0).round() as u32;
        let mut entries: Vec<SplitEntry> = Vec::new();
        for (target, percent) in leaves {
            let same = entries
                .iter_mut()
                .find(|entry| matches!(&entry.to, SplitTarget::Exact(known) if *known == target));
            match same {
                Some(same) => same.weight += weight(percent),
                None => entries.push(SplitEntry { to: SplitTarget::Exact(target), weight: weight(percent) }),
            }
        }
        let total: u32 = entries.iter().map(|entry| entry.weight).sum();
        (total > 0).then_some(Split { entries, sticky: None })
    }

    fn gather(&mut self, name: &str, share: f64, depth: usize, out: &mut Vec<(Arc<ExactTarget>, f64)>) {
        let Some(depth) = depth.checked_sub(1) else { return };
        let Some(node) = self.node(name) else { return };
        for split in &node.splits {
            self.note_unknown(&format!("the splitter {name}"), &split.unknown);
            self.gather(&split.next_node, share * split.weight / 100.0, depth, out);
        }
        if node.resolver.is_some() {
            out.extend(self.target(name).map(|target| (target, share)));
        }
    }

    /// What a resolver is for.
    fn target(&mut self, name: &str) -> Option<Arc<ExactTarget>> {
        if let Some(known) = self.targets.get(name) {
            return Some(known.clone());
        }
        let chain: &'c Chain = self.chain;
        let resolver = chain.nodes.get(name)?.resolver.as_ref()?;
        self.note_unknown(&format!("the resolver {name}"), &resolver.unknown);
        let place = self.place(&resolver.target)?;
        let failover = resolver.failover.targets.iter().filter_map(|id| self.place(id)).collect();
        let connect_timeout = Some(&*resolver.connect_timeout)
            .filter(|text| *text != UNSET_CONNECT_TIMEOUT)
            .and_then(go_duration)
            .map(|time| time.clamp(Duration::from_millis(1), MINUTE));
        let target = Arc::new(ExactTarget { place, failover, connect_timeout });
        self.targets.insert(name.to_owned(), target.clone());
        Some(target)
    }

    fn place(&mut self, id: &str) -> Option<ExactPlace> {
        let chain: &'c Chain = self.chain;
        let Some(target) = chain.targets.get(id) else {
            self.note(ChainProblemKind::Broken, format!("the target {id} is not there"));
            return None;
        };
        let has_subset = !target.subset.filter.is_empty() || target.subset.only_passing;
        let subset = has_subset.then(|| {
            let name = match &*target.service_subset {
                "" => "default",
                name => name,
            };
            Subset {
                filter: self.filter(id, name, target),
                only_passing: target.subset.only_passing,
                ..Subset::of_all(name)
            }
        });
        let datacenter = target.datacenter.to_ascii_lowercase();
        let is_elsewhere = !datacenter.is_empty() && !self.chain.datacenter.eq_ignore_ascii_case(&datacenter);
        Some(ExactPlace {
            id: id.into(),
            service: target.service.to_ascii_lowercase().into(),
            datacenter: is_elsewhere.then(|| datacenter.into()),
            subset,
        })
    }

    /// The filter of a target; where it cannot be used, its last good one, or one that no instance passes.
    fn filter(&mut self, id: &str, name: &str, target: &chain::Target) -> Option<SubsetFilter> {
        let text = &target.subset.filter;
        if text.is_empty() {
            return None;
        }
        match SubsetFilter::parse(text) {
            Ok(filter) => {
                self.good.insert(id.to_owned(), filter.clone());
                Some(filter)
            }
            Err(error) => {
                let last = self.good.get(id).cloned();
                let service = &target.service;
                let then = match &last {
                    Some(last) => format!("the last good one is used: {}", last.text()),
                    None => "no instance is in it".to_owned(),
                };
                let text =
                    format!("the filter of the subset {name} of {service} is wrong: {text}: {error}; {then}");
                self.note(ChainProblemKind::Filter, text);
                last.or_else(|| SubsetFilter::parse(NOTHING).ok())
            }
        }
    }

    /// `None`: no request takes it.
    fn route(&mut self, n: usize, route: &chain::Route) -> Option<Route> {
        let place = format!("routes[{n}]");
        let matcher = match self.matcher(&route.definition) {
            Ok(matcher) => matcher,
            Err(why) => {
                self.note(ChainProblemKind::Route, format!("{place} never matches: {why}"));
                return None;
            }
        };
        let Some(split) = self.split(&route.next_node) else {
            self.note(ChainProblemKind::Route, format!("{place} never matches: it leads nowhere"));
            return None;
        };
        let to = match &*split.entries {
            [SplitEntry { to: SplitTarget::Exact(target), .. }] => RouteTarget::Exact(target.clone()),
            _ => RouteTarget::Split(split),
        };
        let nothing = chain::Destination::default();
        let destination = route.definition.destination.as_ref().unwrap_or(&nothing);
        self.note_unknown(&format!("{place}.Destination"), &destination.unknown);
        let is_rewritten = matches!(matcher.path, Some(PathMatch::Exact(_) | PathMatch::Prefix(_)));
        let rewrite = Some(&destination.prefix_rewrite).filter(|prefix| is_rewritten && !prefix.is_empty());
        Some(Route {
            to,
            on_empty: OnEmpty::Fail,
            policy: None,
            rewrite_prefix: rewrite.cloned(),
            headers: HeaderEdits::default(),
            tuning: tuning(destination).map(Arc::new),
            number: Some(n),
            matcher,
        })
    }

    fn matcher(&mut self, definition: &chain::Definition) -> Result<RouteMatch, String> {
        let Some(matcher) = &definition.matcher else { return Ok(RouteMatch::default()) };
        refuse_unknown("Match", &matcher.unknown)?;
        let Some(http) = &matcher.http else { return Ok(RouteMatch::default()) };
        refuse_unknown("Match.HTTP", &http.unknown)?;
        let path = match (&*http.path_exact, &*http.path_prefix, &*http.path_regex) {
            ("", "", "") => None,
            (exact, "", "") => Some(PathMatch::Exact(exact.to_owned())),
            ("", prefix, "") => Some(PathMatch::Prefix(prefix.to_owned())),
            ("", "", regex) => Some(PathMatch::Regex(self.pattern(regex)?)),
            _ => return Err("it has several paths".to_owned()),
        };
        let mut values = |all: &[chain::ValueMatch], key: &str| {
            let one = |value: &chain::ValueMatch| self.value(value, key);
            all.iter().map(one).collect::<Result<Vec<_>, String>>()
        };
        let mut headers = Vec::new();
        for (name, value) in values(&http.header, "Header")? {
            let name = name.to_ascii_lowercase();
            if name.starts_with(':') {
                return Err(format!(
                    "Match.HTTP.Header {name} is no field of a request: use the path, QueryParam or Methods"
                ));
            }
            // As in Envoy: of an absent field only `Present` holds inverted.
            if value.negated && value.test != ValueTest::Present {
                headers.push((name.clone(), ValueMatch { test: ValueTest::Present, negated: false }));
            }
            headers.push((name, value));
        }
        Ok(RouteMatch {
            path,
            headers,
            query: values(&http.query_param, "QueryParam")?,
            methods: http.methods.clone(),
        })
    }

    fn value(&mut self, value: &chain::ValueMatch, key: &str) -> Result<(String, ValueMatch), String> {
        refuse_unknown(&format!("Match.HTTP.{key}"), &value.unknown)?;
        let texts = [&value.exact, &value.prefix, &value.suffix, &value.regex];
        let test = match texts.map(String::as_str) {
            ["", "", "", ""] if value.present => ValueTest::Present,
            [exact, "", "", ""] if !exact.is_empty() => ValueTest::Exact(exact.to_owned()),
            ["", prefix, "", ""] if !prefix.is_empty() => ValueTest::Prefix(prefix.to_owned()),
            ["", "", suffix, ""] if !suffix.is_empty() => ValueTest::Suffix(suffix.to_owned()),
            ["", "", "", regex] if !regex.is_empty() => ValueTest::Regex(self.pattern(regex)?),
            _ => return Err(format!("Match.HTTP.{key} {} says not what its value has to be", value.name)),
        };
        Ok((value.name.clone(), ValueMatch { test, negated: value.invert }))
    }

    fn pattern(&mut self, text: &str) -> Result<Pattern, String> {
        self.patterns += 1;
        if self.patterns > MAX_PATTERNS {
            return Err(format!("the chain has more than {MAX_PATTERNS} regular expressions"));
        }
        Pattern::parse(text).map_err(|what| format!("{text:?} {what}"))
    }
}

/// A part of a match that is not known would leave out requests.
fn refuse_unknown(place: &str, unknown: &chain::Unknown) -> Result<(), String> {
    match unknown.iter().find(|(_, value)| says_something(value)) {
        Some((name, _)) => Err(format!("{place}.{name} is not known")),
        None => Ok(()),
    }
}

/// Whether a value is another one than what Go writes for a field that is not set.
fn says_something(value: &serde_json::Value) -> bool {
    use serde_json::Value;
    match value {
        Value::Null => false,
        Value::Bool(set) => *set,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Object(entries) => entries.values().any(says_something),
    }
}

/// The route that the compiler appends: every request, and nothing is set.
fn is_catch_all(route: &chain::Route) -> bool {
    let every = chain::HttpMatch { path_prefix: "/".to_owned(), ..chain::HttpMatch::default() };
    let takes_all = route.definition.matcher.as_ref().is_some_and(|matcher| {
        matcher.unknown.is_empty() && matcher.http.as_ref().is_some_and(|http| *http == every)
    });
    let sets = |to: &chain::Destination| {
        let chain::Destination { service, service_subset, namespace, .. } = to.clone();
        let plain = chain::Destination { service, service_subset, namespace, ..Default::default() };
        *to != plain
    };
    takes_all && !route.definition.destination.as_ref().is_some_and(sets)
}

/// What a route sets of a policy. Connections that cannot be made are always tried again, where there are retries.
fn tuning(to: &chain::Destination) -> Option<PolicyTuning> {
    let timeout = go_duration(&to.request_timeout).filter(|time| !time.is_zero());
    let codes =
        || to.retry_on_status_codes.iter().copied().filter(|code| (400..=599).contains(code)).collect();
    let names_codes = !to.retry_on_status_codes.is_empty();
    let out = PolicyTuning {
        timeout: timeout.map(|time| time.clamp(Duration::from_millis(1), HOUR)),
        max_retries: (to.num_retries > 0).then_some(to.num_retries.min(MAX_RETRIES)),
        // What is retried is what the route names.
        statuses: (names_codes || to.retry_on_connect_failure).then(codes),
    };
    (out != PolicyTuning::default()).then_some(out)
}

/// A duration as Go writes it. `None`: it is none, or negative.
fn go_duration(text: &str) -> Option<Duration> {
    parse_go_duration(text).flatten()
}

#[cfg(test)]
mod tests;
