//! The traffic rules of a service: which cluster and which subset of it a request goes to, and what a route changes.
//!
//! Only requests to a service with rules come here. The first route that matches decides, else the split; a service that is
//! chosen is called with its own split and settings, and never with its routes.

use std::{borrow::Cow, sync::Arc};

use outrigger_config::{self as config, PathMatch, Sticky, ValueMatch, ValueTest};
use outrigger_http1::{Head, Name};
use tokio::time::Instant;

use crate::{
    host::ServiceName,
    reason::{Reason, Refusal},
    request::{app::Downstream, applied::AppliedRules, fields::RequestFacts, mirror},
    upstream::{
        cluster::{Cluster, ClusterSettings},
        manager::ClusterManager,
        subset::Subset,
        traffic::{Mirror, Route, RouteDestination, Split, Target},
    },
};

/// Most services that one request is passed on through. The settings have no circle; those of two reloads may, for a moment.
const MAX_SERVICES: usize = 8;

/// The service of a request, as it was when the request found it.
pub(crate) struct RoutedService {
    pub(crate) cluster: Arc<Cluster>,
    pub(crate) settings: Arc<ClusterSettings>,
    /// `None`: the service has no rules.
    pub(crate) applied: Option<Box<AppliedRules>>,
}

impl RoutedService {
    /// See [`AppliedRules::subset`].
    pub(crate) fn subset(&self) -> Option<&Subset> {
        self.applied.as_ref()?.subset.as_deref()
    }

    /// What its rules say. `None`: it has none.
    pub(crate) fn rules(&self) -> Option<&AppliedRules> {
        self.applied.as_deref()
    }

    /// See [`AppliedRules::mirror`].
    pub(crate) fn mirror(&self) -> Option<&Arc<Mirror>> {
        self.applied.as_ref()?.mirror.as_ref()
    }
}

impl Downstream<'_> {
    /// Puts in place of `service` what its rules choose. Notes in `facts` what the instance gets otherwise than the app wrote it.
    /// False: the app is gone.
    pub(crate) async fn apply_rules(
        &mut self,
        service: &mut RoutedService,
        head: &Head,
        facts: &mut RequestFacts,
        accepted: Instant,
    ) -> Result<bool, Refusal> {
        let Some(traffic) = service.settings.traffic.clone() else { return Ok(true) };
        let route = {
            let target = facts.changes.target.as_deref().unwrap_or_else(|| head.target());
            traffic.routes.iter().find(|route| matches(&route.rule.matcher, head, target))
        };
        let clusters = self.info.clusters().clone();
        let own = &service.cluster;
        let mut to = match route.map(|route| &route.to) {
            None | Some(RouteDestination::Own) => choose_own(traffic.split.as_ref(), head, own, &clusters),
            Some(RouteDestination::To(target)) => target.clone(),
            Some(RouteDestination::Split(split)) => choose(split, head, own, &clusters),
        };
        if let Some(other) = route.and_then(|route| route.on_empty.as_ref())
            && !is_usable(&to, own, &clusters)
        {
            to = other.clone();
        }
        for _ in 0..MAX_SERVICES {
            let Target::Service(name) = &to else { break };
            let Some(next) = self.open_cluster(&ServiceName::plain(name), &facts.deadline, &accepted).await?
            else {
                return Ok(false);
            };
            next.mark_used(self.now);
            service.settings = next.view.load().settings.clone();
            service.cluster = next;
            let split = service.settings.traffic.as_ref().and_then(|traffic| traffic.split.as_ref());
            to = choose_own(split, head, &service.cluster, &clusters);
        }
        let mut failover = clusters.failover_of(&service.cluster);
        let tuning = route.and_then(|route| route.rule.tuning.as_ref());
        let subset = match to {
            Target::Any => None,
            Target::Subset(subset) => Some(subset),
            Target::Exact(target) => match clusters.exact_target(&service.cluster.key, &target) {
                Some(found) => {
                    if !found.cluster.has_answer() {
                        let name = name_of(&target.place);
                        if self.open_cluster(&name, &facts.deadline, &accepted).await?.is_none() {
                            return Ok(false);
                        }
                    }
                    // As the one exception of a first request: its failover is not known yet either.
                    for place in target.failover.iter().filter(|_| !found.has_usable()) {
                        if self.open_cluster(&name_of(place), &facts.deadline, &accepted).await?.is_none() {
                            return Ok(false);
                        }
                    }
                    found.cluster.mark_used(self.now);
                    service.cluster = found.cluster.clone();
                    service.settings = found.cluster.view.load().settings.clone();
                    if tuning.is_some() || target.connect_timeout.is_some() {
                        service.settings = service.settings.tuned(tuning, target.connect_timeout);
                    }
                    failover = found.failover.clone();
                    found.subset().cloned()
                }
                // The chain was replaced since the rules were read.
                None => None,
            },
            Target::Service(name) => {
                let detail = format!(
                    "{}: its rules lead through more than {MAX_SERVICES} services, last to {name}",
                    service.cluster.label
                );
                return Err(Refusal::new(Reason::LoopDetected, detail));
            }
        };
        let mirror = traffic.mirror.as_ref().filter(|mirror| {
            let is_copy = || values(head, mirror::MARK).next().is_some();
            mirror.takes(head.method()) && !facts.changes.upgrades && !is_copy()
        });
        service.applied = Some(Box::new(AppliedRules { subset, failover, mirror: mirror.cloned() }));
        if let Some(route) = route {
            if let Some(policy) = &route.rule.policy {
                service.settings = service.settings.with_policy(policy);
            }
            change_head(route, head, facts);
        }
        Ok(true)
    }
}

/// The name of the service that a chain names.
fn name_of(place: &config::ExactPlace) -> ServiceName<'_> {
    let datacenter = place.datacenter.as_deref().map(Cow::Borrowed);
    ServiceName { service: Cow::Borrowed(&*place.service), tag: None, datacenter }
}

/// What the split of a service says; without one, any instance.
fn choose_own(split: Option<&Split>, head: &Head, own: &Cluster, clusters: &ClusterManager) -> Target {
    split.map_or(Target::Any, |split| choose(split, head, own, clusters))
}

fn choose(split: &Split, head: &Head, own: &Cluster, clusters: &ClusterManager) -> Target {
    let value = split.sticky.as_ref().and_then(|sticky| sticky_value(sticky, head));
    let chosen = split.choose(value, |target| is_usable(target, own, clusters));
    chosen.cloned().unwrap_or(Target::Any)
}

/// Whether a target of `own`'s rules has a usable instance, or a failover for it, as far as it is known. Of a service that is not
/// open nothing is known.
fn is_usable(target: &Target, own: &Cluster, clusters: &ClusterManager) -> bool {
    match target {
        Target::Any => true,
        Target::Subset(subset) => own.has_usable(Some(&**subset)),
        Target::Service(name) => {
            let cluster = clusters.find(&ServiceName::plain(name)).filter(|cluster| cluster.has_answer());
            cluster.is_none_or(|cluster| cluster.has_usable(None))
        }
        Target::Exact(target) => {
            clusters.exact_target(&own.key, target).is_none_or(|target| target.has_usable())
        }
    }
}

fn sticky_value<'h>(sticky: &Sticky, head: &'h Head) -> Option<&'h [u8]> {
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

/// The values of the fields with this name, which is in lower case.
fn values<'h>(head: &'h Head, name: &str) -> impl Iterator<Item = &'h [u8]> {
    let is_named =
        move |field: &&outrigger_http1::Field| head.name(field).eq_ignore_ascii_case(name.as_bytes());
    head.fields().iter().filter(is_named).map(|field| head.value(field))
}

/// Whether a request matches. `target`: as the instance would get it.
fn matches(wanted: &config::RouteMatch, head: &Head, target: &[u8]) -> bool {
    let is_method =
        || wanted.methods.is_empty() || wanted.methods.iter().any(|one| one.as_bytes() == head.method());
    let (path, query) = match target.iter().position(|byte| *byte == b'?') {
        Some(at) => (target.get(..at).unwrap_or_default(), target.get(at + 1..).unwrap_or_default()),
        None => (target, &[][..]),
    };
    wanted.path.as_ref().is_none_or(|wanted| match wanted {
        PathMatch::Exact(text) => path == text.as_bytes(),
        PathMatch::Prefix(text) => path.starts_with(text.as_bytes()),
        PathMatch::Regex(pattern) => pattern.regex.is_match(path),
    }) && is_method()
        && wanted.headers.iter().all(|(name, wanted)| matches_field(wanted, head, name))
        && wanted.query.iter().all(|(name, wanted)| passes(wanted, parameter(query, name.as_bytes())))
}

/// Several fields of one name are matched as one value (RFC 9110 §5.3).
fn matches_field(wanted: &ValueMatch, head: &Head, name: &str) -> bool {
    let mut all = values(head, name);
    let Some(first) = all.next() else { return passes(wanted, None) };
    let Some(second) = all.next() else { return passes(wanted, Some(first)) };
    let mut joined = [first, second].join(&b","[..]);
    for value in all {
        joined.push(b',');
        joined.extend_from_slice(value);
    }
    passes(wanted, Some(&joined))
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

/// Notes what the route changes in the head that the instance gets.
fn change_head(route: &Route, head: &Head, facts: &mut RequestFacts) {
    let changes = &mut facts.changes;
    if let Some(prefix) = &route.rule.rewrite_prefix {
        let target = changes.target.as_deref().unwrap_or_else(|| head.target());
        let matched = match &route.rule.matcher.path {
            Some(PathMatch::Exact(text) | PathMatch::Prefix(text)) => text.len(),
            Some(PathMatch::Regex(_)) | None => 0,
        };
        let rest = target.get(matched..).unwrap_or_default();
        changes.target = Some([prefix.as_bytes(), rest].concat().into());
    }
    changes.add.extend_from_slice(&route.add);
    if !route.remove.is_empty() {
        changes.remove = Some(route.remove.clone());
    }
}
