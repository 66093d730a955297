//! Where a request arrives: how the service is called, its instances, and what the first attempt would pick.

use std::sync::Arc;

use outrigger_config::{self as config, PolicySetting, list_policy_settings};
use outrigger_discovery::Knowledge;
use outrigger_policy::retry::RetryEligibility;

use super::{
    inquiry::{Inquiry, Way, describe_refusal, millis},
    model::{
        ExplainedBreaker, ExplainedBulkhead, ExplainedCandidate, ExplainedDestination, ExplainedFailover,
        ExplainedKnowledge, ExplainedLimits, ExplainedPick, ExplainedSetting, ExplainedSubset,
        ExplainedTarget, ExplainedZone,
    },
};
use crate::{
    reason::Reason,
    request::explain::describe_open,
    status::{breaker_label, endpoint_statuses},
    upstream::{
        cluster::Cluster,
        endpoint::Endpoint,
        over::{LinkedFailover, NextPick},
        pick_set::Rank,
        subset::Subset,
        zones::zone_of,
    },
};

pub(super) fn describe_destination(inquiry: &Inquiry<'_>, way: &Way<'_>) -> ExplainedDestination {
    let Way { share, service, route, target, .. } = *way;
    let own = match &service.cluster {
        Some(cluster) => cluster.view.load().settings.policy.clone(),
        None => service.placed.policy.clone(),
    };
    let policy = route.map_or(&own, |route| &route.policy);
    let (place, base) = match route {
        Some(route) => (route.base.policy_place, &route.base.policy),
        None => (service.placed.policy_place, &own),
    };
    let of_route = route.map(|route| (route.key.as_str(), &*route.policy));
    let settings = list_policy_settings(inquiry.origins, &place.to_string(), base, of_route);
    let rules_place = service.placed.rules_place;
    let mut out = ExplainedDestination {
        share,
        service: service.key.to_string(),
        subset: way.named_subset().map(|subset| {
            let key = target.map_or_else(
                || format!("{rules_place}.subsets.{}", subset.name()),
                |key| format!("{key}.subset"),
            );
            ExplainedSubset { name: subset.name().to_string(), origin: inquiry.origin(&key), key }
        }),
        target: target.map(str::to_owned),
        declared: service.cluster.as_ref().is_some_and(|cluster| cluster.is_declared()),
        registry: ExplainedKnowledge {
            state: "not_open",
            first_answer_ms: millis(inquiry.clusters.first_answer()),
            ..ExplainedKnowledge::default()
        },
        settings_at: place.to_string(),
        settings: settings.into_iter().map(explained_setting).collect(),
        limits: describe_limits(inquiry, policy, service.cluster.as_deref()),
        breaker: ExplainedBreaker {
            state: if policy.circuit_breaker.is_some() { "closed" } else { "off" },
            refuses_for_ms: None,
        },
        bulkhead: None,
        pick: ExplainedPick {
            balance: own.balance.as_str(),
            from: "none",
            rank: "none",
            ..ExplainedPick::default()
        },
        candidates: Vec::new(),
        failover: None,
        without_instance: describe_emptiness(inquiry, way, policy),
        refused: None,
    };
    if let Some(cluster) = &service.cluster {
        describe_cluster(inquiry, way, policy, cluster, &mut out);
    }
    out
}

fn explained_setting(PolicySetting { key, value, origin, is_of_route }: PolicySetting) -> ExplainedSetting {
    ExplainedSetting { key, value, origin, of_route: is_of_route }
}

fn describe_limits(
    inquiry: &Inquiry<'_>,
    policy: &config::Policy,
    cluster: Option<&Cluster>,
) -> ExplainedLimits {
    let now = inquiry.now.into_std();
    let first = RetryEligibility::new(&policy.retry, inquiry.traits, 0, true);
    let hedge = policy.hedge.as_ref().filter(|_| first.allows_hedge());
    ExplainedLimits {
        timeout_ms: millis(policy.timeout),
        per_try_timeout_ms: policy.per_try_timeout.map(millis),
        connect_timeout_ms: millis(policy.connect_timeout),
        deadline_ms: policy.deadline.map(millis),
        own_deadline_ms: inquiry.own_deadline.map(millis),
        max_retries: policy.retry.max_retries,
        repeatable: first.is_repeatable(),
        forbids_retries: !inquiry.traits.allowed,
        statuses: policy.retry.statuses.clone(),
        retry_budget: cluster.map(|cluster| cluster.budget.available(&policy.retry.budget, now)),
        hedge_after_ms: hedge.zip(cluster).and_then(|(hedge, cluster)| {
            let usual = cluster.latency.percentile(hedge.percentile, now)?;
            Some(millis(usual.max(hedge.min_delay)))
        }),
    }
}

/// What happens to the request while no instance is usable.
fn describe_emptiness(inquiry: &Inquiry<'_>, way: &Way<'_>, policy: &config::Policy) -> Vec<String> {
    let Way { share, service, subset, on_empty, failover, target, .. } = way;
    let mut out = Vec::new();
    let targets: Vec<String> = match (failover, target) {
        (Some(linked), _) => linked.failover.targets.iter().map(|target| target.label.to_string()).collect(),
        (None, Some(_)) => Vec::new(),
        (None, None) => {
            inquiry.clusters.targets_if_open(&service.key).iter().map(ToString::to_string).collect()
        }
    };
    if !targets.is_empty() {
        out.push(format!(
            "it goes to {}, by the failover, while an instance is healthy there",
            targets.join(", then ")
        ));
    }
    out.push("it goes to an instance that drains, or that is critical by its node alone".to_owned());
    if *share < 1.0 {
        out.push("the share of this entry goes to the other entries of the split".to_owned());
    }
    if let Some(on_empty) = on_empty {
        out.push(format!("it goes to {on_empty}, by on_empty of the route"));
        return out;
    }
    if policy.outlier.is_some() {
        let condition =
            if subset.is_some() { ", while no instance of the whole service is healthy" } else { "" };
        out.push(format!("it goes to an instance that is ejected (panic mode){condition}"));
    }
    let status = |reason: Reason| format!("{} {}", reason.status(), reason.label());
    let unknown = status(Reason::UnknownService);
    let reason = if way.named_subset().is_some() { Reason::SubsetEmpty } else { Reason::NoUsableInstance };
    out.push(format!("it is refused: {}; {unknown} where no instance is registered", status(reason)));
    out
}

fn describe_cluster(
    inquiry: &Inquiry<'_>,
    way: &Way<'_>,
    policy: &config::Policy,
    cluster: &Arc<Cluster>,
    out: &mut ExplainedDestination,
) {
    let (subset, now) = (way.subset, inquiry.now);
    let (view, status) = (cluster.view.load_full(), cluster.follower.load().status());
    out.registry.state = view.snapshot.knowledge.label();
    out.registry.heard_ago_ms = status.confirmed_ago.map(millis);
    out.registry.error = status.error;
    out.bulkhead = view.settings.bulkhead.as_ref().zip(policy.max_in_flight).map(|(bulkhead, max)| {
        let (in_flight, pending) = (bulkhead.in_flight(), bulkhead.pending());
        ExplainedBulkhead { in_flight, max_in_flight: max, pending }
    });
    let breaker = policy.circuit_breaker.as_ref();
    let held = cluster.breaker(subset);
    let refused_for = held.refusal(breaker, now.into_std());
    if breaker.is_some() {
        let state = breaker_label(held.state(breaker, now.into_std()));
        out.breaker = ExplainedBreaker { state, refuses_for_ms: refused_for.map(millis) };
    }
    let linked = &way.failover;
    let retryable = RetryEligibility::new(&policy.retry, inquiry.traits, 0, true).allows_retry();
    let failover = linked.as_ref().map(|linked| &*linked.failover);
    let next = cluster.next_pick(failover, subset, retryable, now);
    let own = next.as_ref().filter(|next| next.target.is_none());
    out.candidates = describe_candidates(inquiry, cluster, way.named_subset(), own, next.is_some());
    out.failover =
        linked.as_ref().map(|linked| describe_failover(inquiry, way, cluster, linked, next.as_ref()));
    out.pick.zones = match (subset, own) {
        (_, None) => Vec::new(),
        (Some(subset), _) => zones_of(subset.set().zone_shares()),
        (None, _) => zones_of(view.set.zone_shares()),
    };
    if let Some(NextPick { target, rank, endpoints }) = &next {
        let target = target.and_then(|at| linked.as_ref()?.clusters.get(at));
        out.pick.from = if target.is_some() { "failover" } else { "own" };
        out.pick.service = Some(target.unwrap_or(cluster).label.to_string());
        out.pick.rank = label_of(*rank);
        out.pick.among = endpoints.len();
    }
    let is_late = now >= cluster.opened_at + inquiry.clusters.first_answer();
    out.refused = match (refused_for, &next) {
        (Some(left), _) => Some({
            let name = subset.map(|subset| &**subset.name());
            describe_refusal(&describe_open(&cluster.label, name, policy, left))
        }),
        // Else the request waits for the first answer.
        (None, None) if view.snapshot.knowledge != Knowledge::Unasked || is_late => {
            Some(describe_refusal(&cluster.describe_no_pick(subset, inquiry.clusters.first_answer())))
        }
        (None, _) => None,
    };
}

fn zones_of(shares: Vec<(Arc<str>, f64)>) -> Vec<ExplainedZone> {
    shares.into_iter().map(|(zone, share)| ExplainedZone { zone: zone.to_string(), share }).collect()
}

fn label_of(rank: Rank) -> &'static str {
    match rank {
        Rank::Responsive => "healthy",
        Rank::Probation => "probation",
        Rank::Healthy => "stalled",
        Rank::LastResort => "last_resort",
        Rank::Any => "panic",
    }
}

/// The instances of a cluster. `next`: what is picked of it; `is_picked`: something is picked, here or elsewhere.
fn describe_candidates(
    inquiry: &Inquiry<'_>,
    cluster: &Cluster,
    subset: Option<&Subset>,
    next: Option<&NextPick>,
    is_picked: bool,
) -> Vec<ExplainedCandidate> {
    let view = cluster.view.load_full();
    let statuses = endpoint_statuses(cluster, &view, inquiry.now.into_std());
    let zone = view.settings.zone();
    let is_taken = |endpoint: &Arc<Endpoint>| {
        next.is_some_and(|next| next.endpoints.iter().any(|one| Arc::ptr_eq(one, endpoint)))
    };
    let all = view.snapshot.instances.iter().zip(statuses);
    let candidates = all.map(|(instance, status)| {
        let has_tags = cluster.matches(instance);
        let in_subset = has_tags && subset.is_none_or(|subset| subset.matches(instance));
        let takes = in_subset && view.endpoint_of(&instance.id).is_some_and(&is_taken);
        let outside = subset
            .filter(|_| has_tags && !in_subset)
            .map(|subset| format!("not in the subset {}", subset.name()));
        let passed_over = (in_subset && status.usable && !takes && is_picked && status.why_not.is_none())
            .then(|| "passed over: another instance comes first".to_owned());
        let why_not: Vec<_> = outside.into_iter().chain(status.why_not).chain(passed_over).collect();
        ExplainedCandidate {
            id: status.id,
            node: status.node,
            address: status.address,
            status: status.status,
            weight: status.weight,
            zone: zone.map(|rule| zone_of(instance, &rule.from).to_string()),
            in_subset,
            usable: status.usable,
            takes,
            why_not: (!why_not.is_empty()).then(|| why_not.join("; ")),
        }
    });
    candidates.collect()
}

fn describe_failover(
    inquiry: &Inquiry<'_>,
    way: &Way<'_>,
    cluster: &Cluster,
    linked: &LinkedFailover,
    next: Option<&NextPick>,
) -> ExplainedFailover {
    let (failover, state) = (&linked.failover, cluster.failover_state(way.subset));
    let place = way.target.map_or_else(|| way.service.placed.rules_place.to_string(), str::to_owned);
    let key = format!("{place}.failover");
    let active = state.is_over();
    let targets = failover.targets.iter().zip(&linked.clusters).enumerate();
    ExplainedFailover {
        origin: inquiry.origin(&key),
        key,
        active,
        return_after_ms: millis(failover.return_after),
        returns_in_ms: state
            .healthy_for(inquiry.now)
            .filter(|_| active)
            .map(|healthy| millis(failover.return_after.saturating_sub(healthy))),
        targets: targets
            .map(|(at, (target, cluster))| {
                let subset = target.of(way.subset);
                // All endpoints of a target are a subset without a name.
                let named = Some(&**subset).filter(|subset| !subset.name().is_empty());
                let of_target = next.filter(|next| next.target == Some(at));
                ExplainedTarget {
                    service: target.label.to_string(),
                    subset: named.map(|subset| subset.name().to_string()),
                    usable: subset.set().healthy(),
                    candidates: describe_candidates(inquiry, cluster, named, of_target, next.is_some()),
                }
            })
            .collect(),
    }
}
