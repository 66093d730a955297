//! What pages and scrapes are told of the clusters.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Weak, atomic::Ordering::Relaxed},
    time::Duration,
};

use outrigger_config::{Balance, format_coarse_duration};
use outrigger_discovery::Knowledge;
use outrigger_policy::{
    circuit_breaker::BreakerState,
    outlier_detection::{EjectionDetails, EjectionReason, EjectionState},
};
use prometheus::{
    IntCounterVec, IntGaugeVec, Opts,
    core::{Collector, Desc},
    proto::MetricFamily,
};
use tokio::time::Instant;

use crate::upstream::{
    cluster::{Cluster, ClusterSettings},
    endpoint::Endpoint,
    manager::ClusterManager,
};

/// One service, as it is called now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterStatus {
    /// Its name in the registry.
    pub service: String,
    /// The datacenter asked for.
    pub datacenter: Option<String>,
    /// The tags it is narrowed to.
    pub tags: Vec<String>,
    /// Whether the file names it.
    pub declared: bool,
    /// How an instance is chosen.
    pub balance: &'static str,
    /// Whether the registry has answered.
    pub answered: bool,
    /// The snapshot's version.
    pub version: u64,
    /// `closed`, `open`, `half_open`.
    pub breaker: &'static str,
    /// Times the breaker has opened.
    pub breaker_trips: u64,
    /// Retries that the budget allows now.
    pub retry_budget: u64,
    /// Answers to the app.
    pub requests: u64,
    /// Attempts made again.
    pub retries: u64,
    /// Requests that ended with an error of ours: refused, failed or cut, not those whose app left.
    pub failures: u64,
    /// Every known instance.
    pub endpoints: Vec<EndpointStatus>,
}

/// One instance, as it is called now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointStatus {
    /// Its id in the registry.
    pub id: String,
    /// `address:port`, or `-`.
    pub address: String,
    /// Health as the registry states it.
    pub status: &'static str,
    /// Whether picks may go to it: the registry lets it be chosen, and it is not ejected.
    pub usable: bool,
    /// Why picks do not go to it, or why they hardly should.
    pub why_not: Option<String>,
    /// It is kept although the registry no longer lists it, or says that its node is lost.
    pub suspect: bool,
    /// How far it is trusted: `trusted`, `ejected`, `probation`, `panic`.
    pub trust: &'static str,
    /// Where it is not.
    pub ejected: Option<EjectedStatus>,
    /// Its share now.
    pub weight: u32,
    /// Requests under way.
    pub in_flight: usize,
    /// Connections open.
    pub connections: usize,
    /// Of those, idle.
    pub idle: usize,
    /// Times it was picked.
    pub picks: u64,
    /// Attempts that blame it.
    pub failures: u64,
}

/// Why an instance is not trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EjectedStatus {
    /// The reason as text: `EjectionReason::label` of outrigger-policy.
    pub why: &'static str,
    /// How long it has not been trusted.
    pub ago: Duration,
    /// When it is tried again; zero once it is.
    pub tried_in: Duration,
}

/// The words of the configuration.
fn balance_label(balance: Balance) -> &'static str {
    match balance {
        Balance::RoundRobin => "round_robin",
        Balance::Random => "random",
        Balance::Weighted => "weighted",
    }
}

fn breaker_label(state: BreakerState) -> &'static str {
    match state {
        BreakerState::Closed => "closed",
        BreakerState::Open => "open",
        BreakerState::HalfOpen => "half_open",
    }
}

/// Why it was taken out, for people.
fn describe_reason(why: EjectionReason, settings: &ClusterSettings) -> String {
    match why {
        EjectionReason::Unreachable => "it refused connections or could not be reached".to_owned(),
        EjectionReason::ConnectTimeouts => "connections to it timed out".to_owned(),
        EjectionReason::ConsecutiveFailures => {
            let most = settings.policy.outlier.and_then(|outlier| outlier.consecutive_failures);
            format!("it failed {} requests in a row", most.unwrap_or_default())
        }
        EjectionReason::SuccessRate => "it failed far more requests than the others".to_owned(),
        EjectionReason::Probation => "it failed the request that tried it out".to_owned(),
    }
}

/// Why an endpoint that the registry lets be chosen is not trusted, and what becomes of it.
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
        EjectionState::Panic => "used all the same, for none is trusted".to_owned(),
    };
    let ago = format_coarse_duration(now.saturating_duration_since(ejected.since));
    Some(format!("ejected {ago} ago ({}), {next}", describe_reason(ejected.reason, settings)))
}

/// The status of one cluster.
pub(crate) fn cluster_status(cluster: &Cluster) -> ClusterStatus {
    let now = Instant::now().into_std();
    let view = cluster.view.load_full();
    let (requests, retries, failures) = view.settings.series.totals();
    let live: HashMap<_, &Arc<Endpoint>> = view.endpoints.iter().map(|one| (&one.id, one)).collect();
    let suspects = cluster.suspects();
    let not_serving: HashMap<_, &Arc<Endpoint>> = view.not_serving.iter().map(|one| (&one.id, one)).collect();
    let endpoints = view
        .snapshot
        .instances
        .iter()
        .map(|instance| {
            let usable = live.get(&instance.id);
            let endpoint = usable.or_else(|| not_serving.get(&instance.id));
            let ejected = usable.and_then(|one| cluster.ejector.ejection_of(&one.stats));
            let suspect = suspects.binary_search(&instance.id).is_ok();
            let why_not = match (&instance.addr, usable) {
                (_, Some(one)) => {
                    let ejection =
                        ejected.as_ref().and_then(|ejected| describe_ejection(one, ejected, &view.settings, now));
                    let suspicion = suspect.then(|| {
                        "suspect: the registry no longer lists it, or has lost its node; kept while it answers"
                            .to_owned()
                    });
                    let stalled = one.is_stalled().then(|| {
                        "passed over: requests wait for it for more than a second, and it answers nobody".to_owned()
                    });
                    let all: Vec<_> = ejection.into_iter().chain(suspicion).chain(stalled).collect();
                    (!all.is_empty()).then(|| all.join("; "))
                }
                (Err(unusable), None) => Some(unusable.to_string()),
                (Ok(_), None) if !cluster.matches(instance) => Some("has not the tags asked for".to_owned()),
                (Ok(_), None) if instance.weight() > 0 => Some("joins".to_owned()),
                (Ok(_), None) => Some(format!("{} in the registry", instance.status.label())),
            };
            EndpointStatus {
                id: instance.id.id.to_string(),
                address: instance.addr.as_ref().map_or_else(|_| "-".to_owned(), ToString::to_string),
                status: instance.status.label(),
                usable: usable.is_some_and(|one| one.stats.ejection_state() != EjectionState::Ejected),
                why_not,
                suspect,
                trust: endpoint.map_or("-", |one| one.stats.ejection_state().label()),
                ejected: ejected.map(|ejected| EjectedStatus {
                    why: ejected.reason.label(),
                    ago: now.saturating_duration_since(ejected.since),
                    tried_in: ejected.until.saturating_duration_since(now),
                }),
                weight: instance.weight(),
                in_flight: endpoint.map_or(0, |one| one.in_flight()),
                connections: endpoint.map_or(0, |one| one.pool.open()),
                idle: endpoint.map_or(0, |one| one.pool.idle()),
                picks: endpoint.map_or(0, |one| one.picks.load(Relaxed)),
                failures: endpoint.map_or(0, |one| one.failures.load(Relaxed)),
            }
        })
        .collect();
    ClusterStatus {
        service: cluster.key.service.to_string(),
        datacenter: cluster.key.datacenter.as_deref().map(str::to_owned),
        tags: cluster.key.tags.iter().map(ToString::to_string).collect(),
        declared: cluster.is_declared(),
        balance: balance_label(view.settings.policy.balance),
        answered: view.snapshot.knowledge == Knowledge::Answered,
        version: view.snapshot.version,
        breaker: breaker_label(cluster.breaker.state(now)),
        breaker_trips: cluster.breaker.trips(),
        retry_budget: cluster.budget.available(now),
        requests,
        retries,
        failures,
        endpoints,
    }
}

/// Families that are read when they are scraped: they would be wrong between two requests otherwise.
///
/// `outrigger_breaker_state{service}` (0 closed, 1 half-open, 2 open), `outrigger_breaker_trips_total`,
/// `outrigger_retry_budget`, `outrigger_pool_idle_connections`, `outrigger_pending`, and by instance
/// `outrigger_instance_picks_total` and `outrigger_instance_failures_total`; of the trust in instances
/// `outrigger_instances_trust`, `outrigger_panic` and `outrigger_ejections_total`.
pub(crate) struct ClusterCollector {
    clusters: Weak<ClusterManager>,
    descs: Vec<Desc>,
}

impl fmt::Debug for ClusterCollector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClusterCollector")
    }
}

/// One scrape's own families, so that two scrapes at once do not see each other's holes.
struct ClusterFamilies {
    state: IntGaugeVec,
    trips: IntCounterVec,
    budget: IntGaugeVec,
    idle: IntGaugeVec,
    pending: IntGaugeVec,
    picks: IntCounterVec,
    failures: IntCounterVec,
    trust: IntGaugeVec,
    panic: IntGaugeVec,
    ejections: IntCounterVec,
}

impl ClusterFamilies {
    fn new() -> Result<Self, prometheus::Error> {
        let service = &["service"];
        let gauge = |name, help| IntGaugeVec::new(Opts::new(name, help), service);
        let counter = |name, help, labels| IntCounterVec::new(Opts::new(name, help), labels);
        let instance = &["service", "instance"];
        Ok(Self {
            state: gauge("outrigger_breaker_state", "0 closed, 1 half-open, 2 open.")?,
            trips: counter("outrigger_breaker_trips_total", "Times the breaker has opened.", service)?,
            budget: gauge("outrigger_retry_budget", "Retries that the budget allows now.")?,
            idle: gauge("outrigger_pool_idle_connections", "Idle connections to instances.")?,
            pending: gauge("outrigger_pending", "Requests that wait for one of max_in_flight to end.")?,
            trust: IntGaugeVec::new(
                Opts::new("outrigger_instances_trust", "Usable instances by how far they are trusted."),
                &["service", "trust"],
            )?,
            panic: gauge("outrigger_panic", "1 while no instance is trusted and all may be chosen.")?,
            ejections: counter(
                "outrigger_ejections_total",
                "Instances taken out, by kind of evidence; `spared`: only the cap kept it in.",
                &["service", "kind"],
            )?,
            picks: counter("outrigger_instance_picks_total", "Picks of an instance.", instance)?,
            failures: counter(
                "outrigger_instance_failures_total",
                "Attempts that blame the instance.",
                instance,
            )?,
        })
    }

    fn record_cluster(&self, cluster: &Cluster, now: std::time::Instant) {
        let service = &[&*cluster.label];
        let signed = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
        let view = cluster.view.load_full();
        let idle: usize = view.endpoints.iter().chain(&view.not_serving).map(|one| one.pool.idle()).sum();
        self.state.with_label_values(service).set(match cluster.breaker.state(now) {
            BreakerState::Closed => 0,
            BreakerState::HalfOpen => 1,
            BreakerState::Open => 2,
        });
        self.trips.with_label_values(service).inc_by(cluster.breaker.trips());
        self.budget.with_label_values(service).set(signed(cluster.budget.available(now)));
        self.idle.with_label_values(service).set(signed(idle as u64));
        let pending = view.settings.bulkhead.as_ref().map_or(0, |bulkhead| bulkhead.pending());
        self.pending.with_label_values(service).set(signed(pending as u64));
        let counts = cluster.ejector.counts();
        let states =
            [("trusted", counts.healthy), ("ejected", counts.ejected), ("probation", counts.probation)];
        for (trust, count) in states {
            self.trust.with_label_values(&[&*cluster.label, trust]).set(signed(count as u64));
        }
        self.panic.with_label_values(service).set(i64::from(counts.panic));
        for (kind, count) in ["hard", "soft", "spared"].into_iter().zip(cluster.ejector.ejection_totals()) {
            self.ejections.with_label_values(&[&*cluster.label, kind]).inc_by(count);
        }
        for endpoint in view.endpoints.iter().chain(&view.not_serving) {
            let instance = &[&*cluster.label, &*endpoint.id.id];
            self.picks.with_label_values(instance).inc_by(endpoint.picks.load(Relaxed));
            self.failures.with_label_values(instance).inc_by(endpoint.failures.load(Relaxed));
        }
    }

    fn collectors(&self) -> [&dyn Collector; 10] {
        [
            &self.state,
            &self.trips,
            &self.budget,
            &self.idle,
            &self.pending,
            &self.picks,
            &self.failures,
            &self.trust,
            &self.panic,
            &self.ejections,
        ]
    }
}

impl ClusterCollector {
    /// # Errors
    /// Never with these names; the signature is the library's.
    pub(crate) fn new(clusters: &Arc<ClusterManager>) -> Result<Self, prometheus::Error> {
        let descs = ClusterFamilies::new()?.collectors().iter().flat_map(|one| one.desc()).cloned().collect();
        Ok(Self { clusters: Arc::downgrade(clusters), descs })
    }
}

impl Collector for ClusterCollector {
    fn desc(&self) -> Vec<&Desc> {
        self.descs.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let (Some(clusters), Ok(families)) = (self.clusters.upgrade(), ClusterFamilies::new()) else {
            return Vec::new();
        };
        let now = Instant::now().into_std();
        for cluster in clusters.clusters() {
            // A name that never had an instance is no label.
            if cluster.is_declared() || cluster.ever_had_instances() {
                families.record_cluster(&cluster, now);
            }
        }
        families.collectors().iter().flat_map(|one| one.collect()).collect()
    }
}
