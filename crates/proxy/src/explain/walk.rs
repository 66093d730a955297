//! The way of a request to its destinations: head, name, rules.

use std::sync::Arc;

use outrigger_config::{
    self as config, Origins, describe_header_match, describe_match, describe_path_match, describe_value_match,
};
use outrigger_http1::{Framing, Head, HeadKind, HeadParser, Inbox, Name};
use tokio::time::Instant;

use super::{
    destination::describe_destination,
    inquiry::{Inquiry, KnownService, RoutePolicy, Way, describe_refusal},
    model::{
        ExplainedChain, ExplainedEntry, ExplainedHead, ExplainedMirror, ExplainedName, ExplainedRoute,
        ExplainedRules, ExplainedSplit, Explanation, PassedRoute,
    },
    request::{ExplainError, ExplainRequest, RequestUrl},
};
use crate::{
    context::{ConnectionInfo, DownstreamSettings},
    host::ServiceName,
    limit::refused_head,
    reason::{Reason, Refusal},
    request::{
        call::Call,
        fields::RequestFacts,
        handle::check_loop,
        matching::{Asked, Mismatch, is_copy, mismatch, sticky_value},
        route::{self, Destination},
        rules::{MAX_SERVICES, change_head, is_service_usable, is_usable, refuse_long_way},
    },
    status::chain_status,
    upstream::{
        cluster::{Cluster, ClusterKey, tune_policy},
        exact::LinkedTarget,
        manager::{ClusterManager, SettingsPlace},
        traffic::{Mirror, Route, RouteDestination, Split, Target, Traffic},
    },
};

/// Most destinations that are told.
const MAX_DESTINATIONS: usize = 64;

/// The request on its way.
struct Walk<'a> {
    inquiry: Inquiry<'a>,
    head: &'a Head,
    out: &'a mut Explanation,
    policy: Option<RoutePolicy>,
    /// What the route of a chain sets, and its key.
    tuning: Option<(String, Arc<config::PolicyTuning>)>,
    on_empty: Option<String>,
}

/// What a request would meet on a connection to this listener. `listener`: its address.
///
/// # Errors
/// No client would send it.
pub(crate) fn explain(
    request: &ExplainRequest,
    url: &RequestUrl,
    info: &ConnectionInfo,
    origins: &Origins,
) -> Result<Explanation, ExplainError> {
    let text = request.head(url)?;
    let mut out = Explanation::default();
    out.request.method.clone_from(&request.method);
    out.request.target.clone_from(&url.target);
    out.request.listener = Some(info.local.to_string());
    out.request.listener_service = info.listener.kind.cluster().map(|cluster| cluster.label.to_string());
    let settings = info.listener.settings.load_full();
    if let Err(refusal) = follow(&text, info, &settings, origins, &mut out) {
        out.refused = Some(describe_refusal(&refusal));
    }
    Ok(out)
}

fn parse_head(text: &str, settings: &DownstreamSettings) -> Result<Head, Refusal> {
    let limits = settings.request_heads;
    let mut inbox = Inbox::from(text.as_bytes());
    match HeadParser::new(HeadKind::Request, limits, Vec::new()).parse(&mut inbox, Vec::new) {
        Ok(Some(head)) => Ok(head),
        Ok(None) => Err(Refusal::new(Reason::BadRequest, "the head has no end")),
        Err(refused) => {
            let detail = refused_head(&refused, &limits, false);
            Err(Refusal { detail, ..Refusal::from(refused) })
        }
    }
}

/// Follows the request as [`handle`](crate::request::handle) does, up to the pick of an instance.
fn follow(
    text: &str,
    info: &ConnectionInfo,
    settings: &DownstreamSettings,
    origins: &Origins,
    out: &mut Explanation,
) -> Result<(), Refusal> {
    let mut head = parse_head(text, settings)?;
    out.request.host = head.first(Name::Host).map(|host| String::from_utf8_lossy(host).into_owned());
    let mut facts = RequestFacts::new(settings.guards_browsers);
    facts.read(&mut head)?;
    if facts.ends_here {
        out.answered_here = true;
        return Ok(());
    }
    check_loop(info, settings, &head)?;
    let clusters = info.clusters();
    let named = match route::find(info, settings, &head, &mut facts)? {
        Destination::Cluster(cluster) => find_service(clusters, cluster.key.clone(), Some(cluster)),
        Destination::Service(name) => {
            let cluster = clusters.find(&name);
            find_service(clusters, key_of(&name, cluster.as_deref()), cluster)
        }
    };
    out.name = Some(ExplainedName {
        by: match (&info.listener.kind.cluster(), &facts.changes.path_form) {
            (Some(_), _) => "listener",
            (None, Some(_)) => "path",
            (None, None) => "host",
        },
        service: named.key.to_string(),
        datacenter: named.key.datacenter.as_deref().map(str::to_owned),
        tags: named.key.tags.iter().map(ToString::to_string).collect(),
    });
    route::check_protocol(settings, &named.key)?;
    let inquiry = Inquiry {
        origins,
        clusters,
        now: Instant::now(),
        traits: Call::traits_of(&head, &facts.changes, facts.is_grpc, &named.placed.policy),
        own_deadline: facts.deadline.timeout,
    };
    let mut walk = Walk { inquiry, head: &head, out, policy: None, tuning: None, on_empty: None };
    walk.apply_rules(&named, &mut facts);
    let bytes = |changed: &Option<Box<[u8]>>, own: &[u8]| {
        String::from_utf8_lossy(changed.as_deref().unwrap_or(own)).into_owned()
    };
    out.sent = Some(ExplainedHead {
        target: bytes(&facts.changes.target, head.target()),
        host: bytes(&facts.changes.host, head.first(Name::Host).unwrap_or_default()),
    });
    Ok(())
}

/// The key of the cluster of a name. One that the settings declare may be narrowed to tags that the name does not have.
fn key_of(name: &ServiceName<'_>, cluster: Option<&Cluster>) -> ClusterKey {
    cluster.map_or_else(|| ClusterKey::from(name), |cluster| cluster.key.clone())
}

fn find_service(clusters: &ClusterManager, key: ClusterKey, cluster: Option<Arc<Cluster>>) -> KnownService {
    let traffic = match &cluster {
        Some(cluster) => cluster.view.load().settings.traffic.clone(),
        None => clusters.rules_if_open(&key),
    };
    KnownService { placed: clusters.placed_settings(&key), key, cluster, traffic }
}

fn describe_target(target: &Target) -> String {
    match target {
        Target::Any => "any instance".to_owned(),
        Target::Subset(subset) => format!("the subset {}", subset.name()),
        Target::Service(name) => format!("the service {name}"),
        Target::Exact(target) => format!("the target {}", target.place.id),
    }
}

impl Walk<'_> {
    /// As [`RoutedService::choose`](crate::request::rules::RoutedService::choose) and what applies it, for each destination that the
    /// request may get.
    fn apply_rules(&mut self, named: &KnownService, facts: &mut RequestFacts) {
        self.note_chain(named);
        let Some(traffic) = named.traffic.clone() else {
            return self.arrive(1.0, named, &Target::Any);
        };
        let place = named.placed.rules_place;
        let target = facts.changes.target.as_deref().unwrap_or_else(|| self.head.target());
        let (passed, route) = self.find_route(&traffic, &place.to_string(), target);
        let mut rules = ExplainedRules { service: named.key.to_string(), passed, route: None, split: None };
        let mut targets = match route.as_ref().map(|(_, route)| &route.to) {
            None | Some(RouteDestination::Own) => {
                self.choose_own(named, &format!("{place}.split"), &mut rules.split)
            }
            Some(RouteDestination::To(target)) => vec![(1.0, target.clone())],
            Some(RouteDestination::Split(split)) => {
                let key = route.as_ref().map(|(key, _)| format!("{key}.to.split")).unwrap_or_default();
                self.choose(split, named, &key, &mut rules.split)
            }
        };
        if let Some((key, route)) = &route {
            let mut is_empty = false;
            if let Some(other) = &route.on_empty {
                for (_, target) in &mut targets {
                    if !self.is_usable(target, named) {
                        (*target, is_empty) = (other.clone(), true);
                    }
                }
            }
            self.on_empty = route.on_empty.as_ref().map(describe_target).filter(|_| !is_empty);
            rules.route = Some(self.describe_route(key, route, is_empty));
            if let Some(policy) = &route.rule.policy {
                let base = match &route.rule.to {
                    config::RouteTarget::Service(name) => {
                        let (name, clusters) = (ServiceName::plain(name), self.inquiry.clusters);
                        clusters.placed_settings(&key_of(&name, clusters.find(&name).as_deref()))
                    }
                    _ => self.inquiry.clusters.placed_settings(&named.key),
                };
                self.policy = Some(RoutePolicy { key: key.clone(), policy: policy.clone(), base });
            }
            self.tuning = route.rule.tuning.as_ref().map(|tuning| (key.clone(), tuning.clone()));
        }
        self.out.mirror = traffic.mirror.as_ref().map(|mirror| {
            let policy = self.policy.as_ref().map_or(&named.placed.policy, |of_route| &of_route.policy);
            let key = format!("{}.mirror", named.placed.own_rules_place);
            self.describe_mirror(mirror, &key, facts, policy.retry.max_body)
        });
        let has_rules = !rules.passed.is_empty() || rules.route.is_some() || rules.split.is_some();
        if has_rules {
            self.out.rules.push(rules);
        }
        for (share, target) in targets {
            self.pass_on(share, named, &target, 0);
        }
        if let Some((_, route)) = route {
            change_head(route, self.head, facts);
        }
    }

    /// The routes that do not match, and the first one that does, with its key.
    fn find_route<'t>(
        &self,
        traffic: &'t Traffic,
        place: &str,
        target: &[u8],
    ) -> (Vec<PassedRoute>, Option<(String, &'t Route)>) {
        let (mut passed, asked) = (Vec::new(), Asked::new(self.head, target));
        for (n, route) in traffic.routes.iter().enumerate() {
            let key = format!("{place}.routes[{}]", route.rule.number.unwrap_or(n));
            let Some(mismatch) = mismatch(route, &asked) else {
                return (passed, Some((key, route)));
            };
            let why_not = match mismatch {
                Mismatch::Path(wanted) => format!("the path does not match {}", describe_path_match(wanted)),
                Mismatch::Method => {
                    format!("the method is none of {}", route.rule.matcher.methods.join(", "))
                }
                Mismatch::Header(name, wanted) => {
                    format!("the header {name} does not match {}", describe_header_match(name, wanted))
                }
                Mismatch::Query(name, wanted) => {
                    format!("the parameter {name} does not match {}", describe_value_match(wanted))
                }
            };
            passed.push(PassedRoute { origin: self.inquiry.origin(&key), key, why_not });
        }
        (passed, None)
    }

    fn describe_route(&self, key: &str, route: &Route, is_empty: bool) -> ExplainedRoute {
        let edits = &route.rule.headers;
        ExplainedRoute {
            key: key.to_owned(),
            origin: self.inquiry.origin(key),
            asks: describe_match(&route.rule.matcher),
            to: match &route.to {
                RouteDestination::Own => "where requests without a route go".to_owned(),
                RouteDestination::To(target) => describe_target(target),
                RouteDestination::Split(_) => "a split".to_owned(),
            },
            on_empty: route.on_empty.as_ref().map(describe_target),
            is_empty,
            sets_headers: edits.set.iter().chain(&edits.add).map(|(name, _)| name.clone()).collect(),
            removes_headers: edits.remove.clone(),
        }
    }

    fn describe_mirror(
        &self,
        mirror: &Mirror,
        key: &str,
        facts: &RequestFacts,
        most: usize,
    ) -> ExplainedMirror {
        let why_not = if !mirror.takes_method(self.head.method()) {
            Some("its method is none of mirror.methods")
        } else if facts.changes.upgrades {
            Some("it asks for another protocol")
        } else if is_copy(self.head) {
            Some("it is a copy itself, or says so (x-outrigger-mirror)")
        } else if matches!(facts.framing, Framing::Length(length) if length > most as u64) {
            Some("its body is longer than retry.max_body")
        } else {
            self.why_no_copy_arrives(&mirror.to)
        };
        ExplainedMirror {
            key: key.to_owned(),
            origin: self.inquiry.origin(key),
            to: describe_target(&mirror.to),
            share: mirror.rule.share,
            why_not,
        }
    }

    /// Copies are sent once, so that an instance that is usable now is required.
    fn why_no_copy_arrives(&self, to: &Target) -> Option<&'static str> {
        match to {
            Target::Any | Target::Exact(_) => None,
            Target::Subset(subset) => {
                (subset.set().usable() == 0).then_some("no instance of the subset is usable")
            }
            Target::Service(name) => {
                let cluster = self.inquiry.clusters.find(&ServiceName::plain(name))?;
                let is_empty = cluster.has_answer() && cluster.view.load().set.usable() == 0;
                is_empty.then_some("no instance of the service is usable")
            }
        }
    }

    /// The way of a request with this share of all to a target of `own`, perhaps through other services.
    fn pass_on(&mut self, share: f64, own: &KnownService, to: &Target, services: usize) {
        let Target::Service(name) = to else { return self.arrive(share, own, to) };
        if services >= MAX_SERVICES {
            let refusal = refuse_long_way(&own.key.to_string(), name);
            self.out.refused = Some(describe_refusal(&refusal));
            return;
        }
        let name = ServiceName::plain(name);
        let cluster = self.inquiry.clusters.find(&name);
        let next = find_service(self.inquiry.clusters, key_of(&name, cluster.as_deref()), cluster);
        self.note_chain(&next);
        let mut split = None;
        let targets = self.choose_own(&next, &format!("{}.split", next.placed.rules_place), &mut split);
        if split.is_some() {
            let service = next.key.to_string();
            self.out.rules.push(ExplainedRules { service, passed: Vec::new(), route: None, split });
        }
        for (part, target) in targets {
            self.pass_on(share * part, &next, &target, services + 1);
        }
    }

    fn choose_own(
        &self,
        own: &KnownService,
        key: &str,
        out: &mut Option<ExplainedSplit>,
    ) -> Vec<(f64, Target)> {
        match own.traffic.as_ref().and_then(|traffic| traffic.split.as_ref()) {
            Some(split) => self.choose(split, own, key, out),
            None => vec![(1.0, Target::Any)],
        }
    }

    /// The targets that a split may choose, with their shares.
    fn choose(
        &self,
        split: &Split,
        own: &KnownService,
        key: &str,
        out: &mut Option<ExplainedSplit>,
    ) -> Vec<(f64, Target)> {
        let usable: Vec<bool> = split.entries().map(|(target, _)| self.is_usable(target, own)).collect();
        let is_usable = |at: usize| usable.get(at) == Some(&true);
        let value = split.sticky.as_ref().and_then(|sticky| sticky_value(sticky, self.head));
        let chosen = value.and_then(|value| split.entry_of(value, is_usable));
        let weights = |counts: &dyn Fn(usize) -> bool| -> Vec<u32> {
            split.entries().enumerate().map(|(at, (_, weight))| if counts(at) { weight } else { 0 }).collect()
        };
        let mut counted = weights(&is_usable);
        if counted.iter().all(|weight| *weight == 0) {
            counted = weights(&|_| true);
        }
        let total: u64 = counted.iter().map(|weight| u64::from(*weight)).sum();
        let share_of = |weight: u32| if total == 0 { 0.0 } else { f64::from(weight) / total as f64 };
        let mut targets = Vec::new();
        let mut entries = Vec::new();
        for (at, ((target, weight), counted)) in split.entries().zip(counted).enumerate() {
            let share = share_of(counted);
            match chosen {
                Some(one) if one == at => targets.push((1.0, target.clone())),
                None if share > 0.0 => targets.push((share, target.clone())),
                Some(_) | None => {}
            }
            entries.push(ExplainedEntry {
                to: describe_target(target),
                weight: f64::from(weight) / 100.0,
                share,
                usable: is_usable(at),
                chosen: chosen == Some(at),
            });
        }
        *out = Some(ExplainedSplit {
            key: key.to_owned(),
            origin: self.inquiry.origin(key),
            sticky: split.sticky.as_ref().map(|sticky| match sticky {
                config::Sticky::Header(name) => format!("the header {name}"),
                config::Sticky::Cookie(name) => format!("the cookie {name}"),
            }),
            is_known: chosen.is_some(),
            entries,
        });
        targets
    }

    /// As [`is_usable`]; of the subsets of a service that is not open nothing is known.
    fn is_usable(&self, target: &Target, own: &KnownService) -> bool {
        match (&own.cluster, target) {
            (Some(cluster), target) => is_usable(target, cluster, self.inquiry.clusters),
            (None, Target::Service(name)) => is_service_usable(name, self.inquiry.clusters),
            (None, Target::Any | Target::Subset(_) | Target::Exact(_)) => true,
        }
    }

    fn arrive(&mut self, share: f64, service: &KnownService, to: &Target) {
        if self.out.destinations.len() >= MAX_DESTINATIONS {
            return;
        }
        let clusters = self.inquiry.clusters;
        let subset = match to {
            Target::Subset(subset) => Some(&**subset),
            Target::Exact(target) => {
                if let Some(found) = clusters.exact_target(&service.key, target) {
                    return self.arrive_exact(share, &found);
                }
                None
            }
            Target::Any | Target::Service(_) => None,
        };
        let (route, on_empty) = (self.policy.as_ref(), self.on_empty.as_deref());
        let failover = service.cluster.as_ref().and_then(|cluster| clusters.failover_of(cluster));
        let way = Way { share, service, subset, route, on_empty, failover, target: None };
        self.out.destinations.push(describe_destination(&self.inquiry, &way));
    }

    /// At what a chain names.
    fn arrive_exact(&mut self, share: f64, found: &LinkedTarget) {
        let clusters = self.inquiry.clusters;
        let service = find_service(clusters, found.cluster.key.clone(), Some(found.cluster.clone()));
        let target = format!("{}.targets[{}]", SettingsPlace::Chain, found.rule.place.id);
        let connect_timeout = found.rule.connect_timeout;
        let tuned = (self.tuning.is_some() || connect_timeout.is_some()).then(|| {
            let key = self.tuning.as_ref().map_or_else(|| target.clone(), |(key, _)| key.clone());
            let tuning = self.tuning.as_ref().map(|(_, tuning)| &**tuning);
            let policy = Arc::new(tune_policy(&service.placed.policy, tuning, connect_timeout));
            RoutePolicy { key, policy, base: service.placed.clone() }
        });
        let way = Way {
            share,
            service: &service,
            subset: found.subset().map(|subset| &**subset),
            route: self.policy.as_ref().or(tuned.as_ref()),
            on_empty: self.on_empty.as_deref(),
            failover: found.failover.clone(),
            target: Some(&target),
        };
        self.out.destinations.push(describe_destination(&self.inquiry, &way));
    }

    fn note_chain(&mut self, service: &KnownService) {
        let state = match &service.cluster {
            Some(cluster) => cluster.chain.load().as_deref().map(chain_status),
            None => self.inquiry.clusters.chain_if_open(&service.key).as_ref().map(chain_status),
        };
        let name = service.key.to_string();
        if let Some(status) = state
            && !self.out.chains.iter().any(|known| known.service == name)
        {
            self.out.chains.push(ExplainedChain { service: name, status });
        }
    }
}
