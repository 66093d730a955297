//! Which instances a request goes to: subsets, split, routes, mirror and failover of an upstream.
//!
//! They are read layer by layer, those of the file first and then those of documents: a subset is put over the one of its name,
//! key by key, as are the keys of the mirror; a split, a list of routes and a failover replace those below. What a route sets of the policy of
//! its target is read last ([`TrafficReading::finish`]), because the target may be another service.

mod cycle;
mod edits;
mod failover;
mod matching;
mod mirror;
mod route;
mod rule_names;
mod subsets;
mod target;
mod zone;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use rule_names::RuleNames;

pub(crate) use cycle::{NamedServices, ServiceCycle, ServiceLinks};

use super::{
    policy::{out_of_bounds, read_policy},
    reader::{Reader, Source},
    section::Section,
};
use crate::{
    Config, Failover, Policy, Registry, RouteTarget, Split, Sticky, Subset, SubsetFilter, TrafficRules,
    UnknownKeys,
    error::InvalidValue,
    format_size, keys,
    raw::{Node, NodeValue},
    units::KIB,
};

/// Most bytes of names and values in the rules of an upstream.
const MAX_RULES_BYTES: usize = 64 * KIB;
/// Most regular expressions in the routes of an upstream: each may take some memory in each thread.
const MAX_PATTERNS: usize = 64;

/// A file of instances evaluates no filters.
pub(crate) fn check_registry(r: &mut Reader<'_>, config: &Config) {
    if !matches!(config.registry, Registry::File(_)) {
        return;
    }
    for (n, upstream) in config.upstreams.iter().enumerate() {
        for Subset { name, filter, .. } in &upstream.traffic.subsets {
            if filter.as_ref().is_none_or(SubsetFilter::is_evaluated_here) {
                continue;
            }
            let (list, key) =
                (format!("upstreams[{n}].subsets"), format!("upstreams[{n}].subsets.{name}.filter"));
            let what = "selects what only Consul lists of an instance, and registry.file has no Consul";
            let hint =
                "a file of instances has Service.{ID,Service,Tags,Meta,Address,Port,Weights} for filters";
            r.report(&r.origins.get(&list).clone(), &key, InvalidValue::new(what, hint));
        }
    }
}

/// A failover to the own datacenter goes to the same instances. Which one is the agent's own is known in the running sidecar only.
pub(crate) fn check_failovers(r: &mut Reader<'_>, config: &Config) {
    let default = match &config.registry {
        Registry::Consul(consul) => consul.datacenter.as_deref(),
        Registry::File(_) => None,
    };
    for (n, upstream) in config.upstreams.iter().enumerate() {
        let Some(own) = upstream.datacenter.as_deref().or(default) else { continue };
        for target in upstream.traffic.failover.iter().flat_map(|failover| &failover.targets) {
            if let Some(datacenter) = target.datacenter.as_deref()
                && target.service.is_none()
                && datacenter.eq_ignore_ascii_case(own)
            {
                let key = format!("upstreams[{n}].failover");
                let what = format!("names {datacenter}, which is the upstream's own datacenter");
                r.warn(r.origins.get(&key).clone(), &key, what, "remove it: no other instances are there");
            }
        }
    }
}

/// Traffic rules of which the routes have no policies yet.
#[derive(Debug, Clone, Default)]
pub(crate) struct TrafficReading {
    rules: TrafficRules,
    sticky: Option<Sticky>,
    return_after: Option<Duration>,
    overrides: Vec<RouteOverride>,
}

/// What a route sets of a policy, as it is written.
#[derive(Debug, Clone)]
struct RouteOverride {
    route: usize,
    source: Source,
    section: Node,
}

/// The policies of services that a route may go to.
#[derive(Debug)]
pub(crate) struct ServicePolicies {
    defaults: Policy,
    services: BTreeMap<String, Policy>,
}

impl ServicePolicies {
    /// `service: NAME` is the upstream of that name without tags and datacenter.
    pub(crate) fn new(config: &Config) -> Self {
        let plain = config.upstreams.iter().filter(|upstream| upstream.is_whole_service());
        let plain = plain.map(|upstream| (upstream.service.to_ascii_lowercase(), upstream.policy.clone()));
        let tuned = config.tuned.iter().map(|tuned| (tuned.service.clone(), tuned.policy.clone()));
        Self { defaults: config.defaults.clone(), services: plain.chain(tuned).collect() }
    }

    /// The policy that a route without settings of its own has; `own` is that of its upstream.
    pub(crate) fn of_target<'p>(&'p self, to: &RouteTarget, own: &'p Policy) -> &'p Policy {
        match to {
            RouteTarget::Service(service) => self.services.get(&**service).unwrap_or(&self.defaults),
            RouteTarget::Own | RouteTarget::Subset(_) | RouteTarget::Split(_) | RouteTarget::Exact(_) => own,
        }
    }
}

impl From<TrafficRules> for TrafficReading {
    fn from(rules: TrafficRules) -> Self {
        let sticky = rules.split.as_ref().and_then(|split| split.sticky.clone());
        let return_after = rules.failover.as_ref().map(|failover| failover.return_after);
        Self { rules, sticky, return_after, overrides: Vec::new() }
    }
}

impl TrafficReading {
    /// Puts the rules of the section over those that were read before. `service` is the one that they are of. `above`: the layers
    /// that are read later. A list that one of them replaces is passed over, because what it names may be gone there; and a
    /// subset that one of them has may be named already.
    pub(super) fn read(&mut self, r: &mut Reader<'_>, s: &Section<'_>, service: &str, above: &[Node]) {
        let is_given = |key: &&keys::KeySpec| s.node(key.name).is_some();
        if !keys::TRAFFIC.iter().any(|key| is_given(&key)) {
            return;
        }
        // A rule without the part that an older version does not know is another rule.
        let source = r.source.clone();
        if let Source::Document { unknown, .. } = &mut r.source {
            *unknown = UnknownKeys::Refuse;
        }
        for key in keys::TRAFFIC.iter().filter(is_given) {
            if let Some(node) = s.node(key.name) {
                r.origins.set(s.key(key.name), r.origin_at(node.at));
            }
        }
        self.check_size(r, s);
        subsets::read(r, s, &mut self.rules.subsets);
        let is_replaced =
            |key: &str| above.iter().any(|layer| layer.keys_with_values().any(|one| one == key));
        let later = above.iter().filter_map(|layer| layer.get("subsets"));
        let later = later.flat_map(Node::keys_with_values).map(Arc::from);
        let subsets = self.rules.subsets.iter().map(|subset| Arc::clone(&subset.name)).chain(later).collect();
        let names = RuleNames { service, subsets, is_open: r.is_alone };
        if !is_replaced("split")
            && let Some(entries) = target::read_split(r, s, &names)
        {
            self.rules.split = Some(Split { entries, sticky: None });
        }
        if let Some(sticky) = target::read_sticky(r, s, keys::STICKY) {
            self.sticky = Some(sticky);
        }
        if !is_replaced("routes") {
            self.read_routes(r, s, &names);
        }
        mirror::read(r, s, &names, &mut self.rules.mirror);
        if let Some(targets) = failover::read_targets(r, s, &names) {
            let return_after = Failover::RETURN_AFTER;
            self.rules.failover = (!targets.is_empty()).then_some(Failover { targets, return_after });
        }
        zone::read(r, s, &mut self.rules.zone);
        if let Some(return_after) = failover::read_return_after(r, s) {
            self.return_after = Some(return_after);
        }
        r.source = source;
    }

    fn read_routes(&mut self, r: &mut Reader<'_>, s: &Section<'_>, names: &RuleNames<'_>) {
        let Some(sections) = route::sections(r, s) else { return };
        self.overrides.clear();
        self.rules.routes.clear();
        let mut takes_all = None;
        for (n, section) in sections.iter().enumerate() {
            if let Some(first) = takes_all {
                let what = format!("is never reached: routes[{first}] takes every request");
                r.warn(r.origin_of(section), &section.path, what, "put it before that one, or remove it");
            }
            r.origins.set(section.path.clone(), r.origin_of(section));
            let route = route::read(r, section, names);
            if takes_all.is_none() && route::takes_everything(&route.matcher) {
                takes_all = Some(n);
            }
            if let Some(written) = route::policy_keys(section) {
                self.overrides.push(RouteOverride { route: n, source: r.source.clone(), section: written });
            }
            self.rules.routes.push(route);
        }
        let patterns: usize = self.rules.routes.iter().map(|route| matching::patterns(&route.matcher)).sum();
        if patterns > MAX_PATTERNS {
            let what = format!("has {patterns} regular expressions, more than {MAX_PATTERNS}");
            r.report_set(&s.key("routes"), what, "use exact, prefix or suffix");
        }
    }

    fn check_size(&self, r: &mut Reader<'_>, s: &Section<'_>) {
        let nodes = keys::TRAFFIC.iter().filter_map(|key| Some((key.name, s.node(key.name)?)));
        let sizes: Vec<_> = nodes.map(|(name, node)| (name, size_of_node(node))).collect();
        let all: usize = sizes.iter().map(|(_, size)| size).sum();
        if all > MAX_RULES_BYTES
            && let Some((name, _)) = sizes.iter().max_by_key(|(_, size)| *size)
        {
            let what =
                format!("the traffic rules have {all} bytes, more than {}", format_size(MAX_RULES_BYTES));
            r.report_set(&s.key(name), what, "make them fewer");
        }
    }

    /// The services that get requests of this one by its split or its failover.
    pub(crate) fn named_services(&self) -> NamedServices {
        let targets = self.rules.failover.iter().flat_map(|failover| &failover.targets);
        // One in another datacenter is another service.
        let failover = targets.filter(|target| target.datacenter.is_none());
        NamedServices {
            split: target::services(self.rules.split.as_ref()),
            failover: failover.filter_map(|target| target.service.clone()).collect(),
        }
    }

    /// The rules, with the policies of routes. `path` is that of the upstream, and `own` is its policy.
    pub(super) fn finish(
        self,
        r: &mut Reader<'_>,
        path: &str,
        own: &Policy,
        others: &ServicePolicies,
    ) -> TrafficRules {
        let Self { mut rules, sticky, return_after, overrides } = self;
        match (&mut rules.split, sticky) {
            (Some(split), sticky) => split.sticky = sticky,
            (None, Some(_)) => {
                let key = keys::join(path, "sticky");
                r.warn(r.origins.get(&key).clone(), &key, "is not used: there is no split", "remove it");
            }
            (None, None) => {}
        }
        match (&mut rules.failover, return_after) {
            (Some(failover), Some(after)) => failover.return_after = after,
            (None, Some(_)) => {
                let key = keys::join(path, "return_after");
                r.warn(r.origins.get(&key).clone(), &key, "is not used: there is no failover", "remove it");
            }
            (_, None) => {}
        }
        let source = r.source.clone();
        for RouteOverride { route, source, section } in overrides {
            let Some(target) = rules.routes.get_mut(route) else { continue };
            let base = others.of_target(&target.to, own);
            r.source = source;
            let s = r.open_section(format!("{path}.routes[{route}]"), keys::ROUTE_POLICY, Some(&section));
            let policy = read_policy(r, &s, base);
            check_bounds(r, &s, base, &policy);
            target.policy = (policy != *base).then(|| Arc::new(policy));
        }
        r.source = source;
        rules
    }
}

/// Reports what a route of a document takes out of the bounds of documents without a value that says so: by `off` of a section.
fn check_bounds(r: &mut Reader<'_>, s: &Section<'_>, base: &Policy, policy: &Policy) {
    let is_document = matches!(r.source, Source::Document { .. });
    if !is_document || r.bounds.is_empty() || r.has_problem_below(&s.path) {
        return;
    }
    for (key, wrong, _) in out_of_bounds(r, base, policy).into_iter().filter(|(.., is_same)| !is_same) {
        let (origin, path) = (r.origin_of(s), s.path.clone());
        r.report(&origin, &path, InvalidValue { what: format!("{key} {}", wrong.what), ..wrong });
    }
}

/// The bytes of all names and values.
fn size_of_node(node: &Node) -> usize {
    match &node.value {
        NodeValue::Null => 0,
        NodeValue::Scalar(text) => text.len(),
        NodeValue::Seq(items) => items.iter().map(size_of_node).sum(),
        NodeValue::Map(entries) => {
            entries.iter().map(|(key, inside)| key.name.len() + size_of_node(inside)).sum()
        }
    }
}
