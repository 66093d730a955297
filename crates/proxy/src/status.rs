//! The state of every cluster and endpoint, for the status pages.

use std::{
    collections::HashMap,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use outrigger_config::{AddressKind, TlsVerify, count, format_coarse_duration};
use outrigger_discovery::Knowledge;
use outrigger_policy::{
    circuit_breaker::BreakerState,
    outlier_detection::{EjectionDetails, EjectionReason, EjectionState},
};
use outrigger_registry::{Instance, InstanceId, LastResort};
use serde::Serialize;
use tokio::time::Instant;

use crate::upstream::{
    chain_state::ChainState,
    cluster::{Cluster, ClusterSettings, View, last_resort_label},
    endpoint::Endpoint,
    failover::FailoverTarget,
    subset::Subset,
};

/// The state of one service in use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterStatus {
    /// Its name in the registry.
    pub service: String,
    /// The datacenter that is asked for.
    pub datacenter: Option<String>,
    /// The tags that an instance must have.
    pub tags: Vec<String>,
    /// Whether the settings declare it.
    pub declared: bool,
    /// The load balancer: `round_robin`, `random`, `weighted`.
    pub balance: &'static str,
    /// At which addresses its instances are called.
    pub address: AddressKind,
    /// Whether the registry has answered.
    pub answered: bool,
    /// The snapshot's version.
    pub version: u64,
    /// `closed`, `open`, `half_open`.
    pub breaker: &'static str,
    /// How often the breaker opened.
    pub breaker_trips: u64,
    /// Retries that the budget allows now.
    pub retry_budget: u64,
    /// Responses to the app.
    pub requests: u64,
    /// Retries.
    pub retries: u64,
    /// Requests that were sent to a second instance too, because the first one was stalled, and that have ended.
    pub beside_stalled: u64,
    /// Requests that the sidecar refused, failed or cut; not when the app disconnected.
    pub failures: u64,
    /// Its subsets, in the order of the settings.
    pub subsets: Vec<SubsetStatus>,
    /// Where its requests go while no instance is usable. `None`: nowhere.
    pub failover: Option<FailoverStatus>,
    /// What the registry says of its requests. `None`: it is not asked.
    pub chain: Option<ChainStatus>,
    /// Every known instance.
    pub endpoints: Vec<EndpointStatus>,
}

/// What the registry says of the requests of a service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ChainStatus {
    /// `in_effect`, `default` (it says nothing of the requests), `ignored` (the file or a document says where they go), `unasked`, or
    /// `unavailable`.
    pub state: &'static str,
    /// Why there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// `http`, `http2` or `grpc`. `None`: nothing is stated.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub protocol: Option<String>,
    /// How many routes it has.
    pub routes: usize,
    /// What it names.
    pub targets: Vec<ChainTargetStatus>,
    /// What of it has no effect.
    pub problems: Vec<ChainProblemStatus>,
}

/// What of a chain has no effect.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ChainProblemStatus {
    /// As the metric has it.
    pub kind: &'static str,
    /// A sentence.
    pub problem: String,
}

/// A target of a chain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ChainTargetStatus {
    /// As Consul calls it.
    pub id: String,
    /// How many instances may be picked now.
    pub usable: usize,
    /// Whether its requests go to a failover target now.
    pub failover_active: bool,
}

pub(crate) fn chain_status(state: &ChainState) -> ChainStatus {
    let without = |state, error| ChainStatus {
        state,
        error,
        protocol: None,
        routes: 0,
        targets: Vec::new(),
        problems: Vec::new(),
    };
    match state {
        ChainState::Ignored => without("ignored", None),
        ChainState::Unasked => without("unasked", None),
        ChainState::Unavailable(error) => without("unavailable", Some(error.clone())),
        ChainState::Known { chain, targets } => ChainStatus {
            state: if chain.rules.choose_instances() { "in_effect" } else { "default" },
            error: None,
            protocol: chain.protocol.clone(),
            routes: chain.rules.routes.len(),
            targets: targets
                .iter()
                .map(|(id, set)| ChainTargetStatus {
                    id: id.to_string(),
                    usable: set.set().usable(),
                    failover_active: set.over.is_over(),
                })
                .collect(),
            problems: chain
                .problems
                .iter()
                .map(|one| ChainProblemStatus { kind: one.kind.label(), problem: one.text.clone() })
                .collect(),
        },
    }
}

/// The state of a subset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubsetStatus {
    /// Its name.
    pub name: String,
    /// Listed instances of it.
    pub instances: usize,
    /// Those that may be picked now.
    pub usable: usize,
    /// The circuit breaker of the requests for it: `closed`, `open`, `half_open`.
    pub breaker: &'static str,
    /// How often it opened.
    pub breaker_trips: u64,
    /// Responses to the app of requests that went to it, by class of the status: `2xx`, …, `other`.
    pub responses: Vec<(&'static str, u64)>,
}

/// The failover of a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FailoverStatus {
    /// Whether requests that may go to every instance go to a target now.
    pub active: bool,
    /// The subsets of which the requests do.
    pub active_subsets: Vec<String>,
    /// In the order of use.
    pub targets: Vec<FailoverTargetStatus>,
}

/// A target of a failover.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FailoverTargetStatus {
    /// The service, as metrics call it.
    pub service: String,
    /// How many instances can take requests now.
    pub usable: usize,
    /// Attempts that went there.
    pub attempts: u64,
    /// Whether it is the service's own datacenter, with no other instances.
    pub is_own_datacenter: bool,
}

/// The state of one instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointStatus {
    /// Its id in the registry, unique on its node.
    pub id: String,
    /// Its node in the registry.
    pub node: String,
    /// `address:port`, or `-`.
    pub address: String,
    /// Its health in the registry.
    pub status: &'static str,
    /// The id of the instance by which its endpoint is called, when both have one address. The counts are there.
    pub same_as: Option<String>,
    /// Whether it may be picked: the registry lists it as usable, and it is not ejected; or it is a last resort, and no other may be picked.
    pub usable: bool,
    /// Why it is not picked, or is picked only because no other is better.
    pub why_not: Option<String>,
    /// Whether it is kept although the registry no longer lists it, or lists its node as lost.
    pub suspect: bool,
    /// Its ejection state: `trusted`, `ejected`, `probation`, `panic`.
    pub trust: &'static str,
    /// `None`: it is not ejected.
    pub ejected: Option<EjectedStatus>,
    /// Its weight in the registry.
    pub weight: u32,
    /// Requests in flight.
    pub in_flight: usize,
    /// Open connections.
    pub connections: usize,
    /// Open connections that carry no request.
    pub idle: usize,
    /// How often it was picked.
    pub picks: u64,
    /// Attempts that count as its failure.
    pub failures: u64,
}

/// Why an instance was ejected, and when it returns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EjectedStatus {
    /// The reason as text: `EjectionReason::label` of outrigger-policy.
    pub why: &'static str,
    /// Time since the ejection.
    pub ago: Duration,
    /// Time until its probation; zero once that has begun.
    pub tried_in: Duration,
}

/// The state of a breaker as pages call it.
pub(crate) fn breaker_label(state: BreakerState) -> &'static str {
    match state {
        BreakerState::Closed => "closed",
        BreakerState::Open => "open",
        BreakerState::HalfOpen => "half_open",
    }
}

fn describe_reason(why: EjectionReason, settings: &ClusterSettings) -> String {
    match why {
        EjectionReason::Unreachable => "it refused connections or could not be reached".to_owned(),
        EjectionReason::UnreachableFromHere => {
            "this machine has no way to it, while it reaches other instances".to_owned()
        }
        EjectionReason::ConnectTimeouts => "connections to it timed out".to_owned(),
        EjectionReason::ConsecutiveFailures => {
            let most = settings.policy.outlier.and_then(|outlier| outlier.consecutive_failures);
            format!("it failed {} in a row", count(most.unwrap_or_default(), "request"))
        }
        EjectionReason::SuccessRate => "it failed far more requests than the others".to_owned(),
        EjectionReason::Probation => "failed its probation request".to_owned(),
    }
}

/// Why an endpoint in service is not healthy, and what happens next.
fn describe_ejection(
    endpoint: &Endpoint,
    ejected: &EjectionDetails,
    settings: &ClusterSettings,
    now: std::time::Instant,
) -> Option<String> {
    let left = ejected.until.saturating_duration_since(now);
    let next = match endpoint.stats.ejection_state() {
        EjectionState::Healthy => return None,
        EjectionState::Ejected if left.is_zero() => "is being tried again".to_owned(),
        EjectionState::Ejected => format!("tried again in {}", format_coarse_duration(left)),
        EjectionState::Probation => "the next request that may be retried decides".to_owned(),
        EjectionState::Panic => "in use: panic mode (no healthy endpoint)".to_owned(),
    };
    let ago = format_coarse_duration(now.saturating_duration_since(ejected.since));
    Some(format!("ejected {ago} ago ({}), {next}", describe_reason(ejected.reason, settings)))
}

/// Why a last resort is used or not. `is_used`: it is. `ejection`: why it is ejected.
fn describe_last_resort(
    kind: LastResort,
    is_used: bool,
    endpoint: Option<&&Arc<Endpoint>>,
    ejection: Option<String>,
) -> String {
    let why = last_resort_label(kind);
    match (endpoint, ejection) {
        (_, ejection) if is_used => {
            let ejection = ejection.map(|ejection| format!("; {ejection}")).unwrap_or_default();
            format!("{why}: in use, because no other instance is usable{ejection}")
        }
        (_, Some(ejection)) => format!("{why}; {ejection}"),
        (Some(one), None) if one.is_usable_as_last_resort(true) => {
            format!("{why}: used only while no other instance is usable")
        }
        _ => format!("{why}, and it refuses connections"),
    }
}

/// What an instance shares with another one at its address. `shared`: the endpoint, if it is called by the id of the other one;
/// `is_used`: it is in service.
fn describe_sharing(instance: &Instance, shared: Option<&Arc<Endpoint>>, is_used: bool) -> Option<String> {
    match shared {
        Some(endpoint) => {
            let InstanceId { node, id, .. } = &endpoint.id;
            Some(format!("has the address of {id} on node {node}: one endpoint, counted there"))
        }
        None if is_used && instance.weight() == 0 => {
            Some("in use: another instance at this address is usable".to_owned())
        }
        None => None,
    }
}

fn subset_status(cluster: &Cluster, subset: &Subset, view: &View, now: std::time::Instant) -> SubsetStatus {
    let is_in = |one: &&Instance| cluster.matches(one) && subset.matches(one);
    SubsetStatus {
        name: subset.name().to_string(),
        instances: view.snapshot.instances.iter().filter(is_in).count(),
        usable: subset.set().usable(),
        breaker: breaker_label(subset.breaker.state(view.settings.policy.circuit_breaker.as_ref(), now)),
        breaker_trips: subset.breaker.trips(),
        responses: subset.responses().collect(),
    }
}

fn failover_status(cluster: &Cluster, settings: &ClusterSettings) -> Option<FailoverStatus> {
    let failover = cluster.failover.load_full()?;
    let subsets = settings.subsets().iter().filter(|subset| subset.over.is_over());
    let target = |target: &FailoverTarget| FailoverTargetStatus {
        service: target.label.to_string(),
        usable: target.all.set().healthy(),
        attempts: target.attempts.load(Relaxed),
        is_own_datacenter: cluster.datacenter().is_some_and(|own| target.is_in(&own)),
    };
    Some(FailoverStatus {
        active: cluster.over.is_over(),
        active_subsets: subsets.map(|subset| subset.name().to_string()).collect(),
        targets: failover.targets.iter().map(target).collect(),
    })
}

/// The state of each known instance of a cluster, in the order of the view's snapshot.
pub(crate) fn endpoint_statuses(
    cluster: &Cluster,
    view: &View,
    now: std::time::Instant,
) -> Vec<EndpointStatus> {
    let live: HashMap<_, &Arc<Endpoint>> = view.set.endpoints.iter().map(|one| (&one.id, one)).collect();
    let suspects = cluster.follower.load().status().suspects;
    let in_use = view.set.last_resort_in_use();
    let aliases: HashMap<_, &Arc<Endpoint>> = view.aliases.iter().map(|(id, one)| (id, one)).collect();
    let not_serving: HashMap<_, &Arc<Endpoint>> = view.not_serving.iter().map(|one| (&one.id, one)).collect();
    view.snapshot
        .instances
        .iter()
        .map(|instance| {
            let shared = aliases.get(&instance.id).copied();
            let id = shared.map_or(&instance.id, |one| &one.id);
            let usable = live.get(id);
            let endpoint = usable.or_else(|| not_serving.get(id));
            let last_resort = instance.last_resort().map(|(kind, _)| kind).filter(|_| usable.is_none());
            let is_eligible = usable.is_some() || last_resort == Some(LastResort::NodeLost);
            let ejected = endpoint.filter(|_| is_eligible).and_then(|one| cluster.ejector.ejection_of(one));
            let is_used = last_resort.is_some()
                && last_resort == in_use
                && endpoint.is_some_and(|one| one.is_usable_as_last_resort(true));
            let suspect = suspects.binary_search(&instance.id).is_ok();
            let state = match (&instance.addr, usable) {
                (_, Some(one)) => {
                    let ejection =
                        ejected.as_ref().and_then(|ejected| describe_ejection(one, ejected, &view.settings, now));
                    let suspicion = suspect.then(|| {
                        "suspect: the registry no longer lists it, or has lost its node; kept while it answers"
                            .to_owned()
                    });
                    let stalled = one.is_stalled().then(|| {
                        "stalled: requests have waited for it for more than a second, and it answers none; passed \
                         over while another answers"
                            .to_owned()
                    });
                    let tls = one.tls.as_ref().and_then(|tls| tls.failure());
                    let tls = tls.map(|failure| format!("TLS fails: {failure}"));
                    ejection.into_iter().chain(tls).chain(suspicion).chain(stalled).collect()
                }
                (Err(unusable), None) => vec![unusable.to_string()],
                (Ok(_), None) if view.own.contains(&instance.id) => {
                    vec!["this sidecar: it listens on that address, and does not call itself".to_owned()]
                }
                (Ok(_), None) if !cluster.matches(instance) => vec!["lacks a tag that is asked for".to_owned()],
                (Ok(_), None) if instance.weight() > 0 => vec!["joins".to_owned()],
                (Ok(_), None) if last_resort.is_some() => {
                    let ejection = endpoint.zip(ejected.as_ref());
                    let ejection = ejection
                        .and_then(|(one, ejected)| describe_ejection(one, ejected, &view.settings, now));
                    let describe = |kind| describe_last_resort(kind, is_used, endpoint, ejection);
                    last_resort.map(describe).into_iter().collect()
                }
                (Ok(_), None) => vec![format!("{} in the registry", instance.status.label())],
            };
            let sharing = describe_sharing(instance, shared, usable.is_some());
            let why_not: Vec<_> = state.into_iter().chain(sharing).collect();
            // Shown once.
            let counted = endpoint.filter(|_| shared.is_none());
            EndpointStatus {
                id: instance.id.id.to_string(),
                node: instance.id.node.to_string(),
                same_as: shared.map(|one| one.id.id.to_string()),
                address: instance.addr.as_ref().map_or_else(|_| "-".to_owned(), ToString::to_string),
                status: instance.status.label(),
                usable: is_used
                    || usable.is_some_and(|one| one.stats.ejection_state() != EjectionState::Ejected),
                why_not: (!why_not.is_empty()).then(|| why_not.join("; ")),
                suspect,
                trust: endpoint.map_or("-", |one| one.stats.ejection_state().label()),
                ejected: ejected.map(|ejected| EjectedStatus {
                    why: ejected.reason.label(),
                    ago: now.saturating_duration_since(ejected.since),
                    tried_in: ejected.until.saturating_duration_since(now),
                }),
                weight: instance.weight(),
                in_flight: counted.map_or(0, |one| one.in_flight()),
                connections: counted.map_or(0, |one| one.pool.open()),
                idle: counted.map_or(0, |one| one.pool.idle()),
                picks: counted.map_or(0, |one| one.picks.load(Relaxed)),
                failures: counted.map_or(0, |one| one.failures.load(Relaxed)),
            }
        })
        .collect()
}

/// What people should know of TLS to the instances of a cluster, as sentences.
pub(crate) fn tls_warnings(cluster: &Cluster) -> Vec<String> {
    let view = cluster.view.load_full();
    let Some(tls) = &view.settings.tls else { return Vec::new() };
    let label = &cluster.label;
    let unchecked = (tls.settings().verify == TlsVerify::None)
        .then(|| format!("{label}: the certificates of its instances are not checked (tls.verify: none)"));
    let files = tls.problem().map(|problem| format!("{label}: the files of tls cannot be used: {problem}"));
    let failing = view.set.standing().iter().find(|one| cluster.fails_tls_alike(one));
    let failure = failing.and_then(|one| one.tls.as_ref()?.failure());
    let alike = failure.map(|failure| format!("{label}: TLS fails with every instance alike: {failure}"));
    unchecked.into_iter().chain(files).chain(alike).collect()
}

/// The state of one cluster now.
pub(crate) fn cluster_status(cluster: &Cluster) -> ClusterStatus {
    let now = Instant::now().into_std();
    let view = cluster.view.load_full();
    let (requests, retries, failures) = view.settings.series.totals();
    let endpoints = endpoint_statuses(cluster, &view, now);
    let policy = &view.settings.policy;
    ClusterStatus {
        service: cluster.key.service.to_string(),
        datacenter: cluster.key.datacenter.as_deref().map(str::to_owned),
        tags: cluster.key.tags.iter().map(ToString::to_string).collect(),
        declared: cluster.is_declared(),
        balance: policy.balance.as_str(),
        address: cluster.follower.load().query().address,
        answered: view.snapshot.knowledge == Knowledge::Answered,
        version: view.snapshot.version,
        breaker: breaker_label(cluster.breaker(None).state(policy.circuit_breaker.as_ref(), now)),
        breaker_trips: cluster.breaker(None).trips(),
        retry_budget: cluster.budget.available(&policy.retry.budget, now),
        requests,
        retries,
        beside_stalled: view.settings.series.beside_stalled(),
        failures,
        subsets: view.settings.subsets().iter().map(|one| subset_status(cluster, one, &view, now)).collect(),
        chain: cluster.chain.load().as_deref().map(chain_status),
        failover: failover_status(cluster, &view.settings),
        endpoints,
    }
}
