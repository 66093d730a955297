//! Metrics that are read from the clusters when they are scraped, because they change between requests too.

use std::{
    fmt,
    sync::{Arc, Weak, atomic::Ordering::Relaxed},
};

use outrigger_config as config;
use outrigger_discovery::{ChainProblemKind, unix_time};
use outrigger_policy::circuit_breaker::BreakerState;
use prometheus::{
    GaugeVec, IntCounterVec, IntGaugeVec, Opts, Registry,
    core::{Collector, Desc},
    proto::MetricFamily,
};
use tokio::time::Instant;

use crate::{
    metrics::labels::instance_label,
    upstream::{
        chain_state::ChainState,
        cluster::Cluster,
        failover::{ExactSet, Failover},
        manager::ClusterManager,
        subset::Subset,
    },
};

/// Registers the metrics that are read from `clusters`.
///
/// # Errors
/// When `registry` has a metric of the same name.
pub(crate) fn register(registry: &Registry, clusters: &Arc<ClusterManager>) -> Result<(), prometheus::Error> {
    let families = ClusterFamilies::new()?;
    let descs = families.collectors().iter().flat_map(|one| one.desc()).cloned().collect();
    registry.register(Box::new(ClusterCollector { clusters: Arc::downgrade(clusters), descs }))
}

struct ClusterCollector {
    clusters: Weak<ClusterManager>,
    descs: Vec<Desc>,
}

impl fmt::Debug for ClusterCollector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClusterCollector")
    }
}

/// The metrics of one scrape. Each scrape makes its own, so that two at once do not disturb each other.
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
    subset_usable: IntGaugeVec,
    subset_responses: IntCounterVec,
    mirrored: IntCounterVec,
    failover_active: IntGaugeVec,
    failover_attempts: IntCounterVec,
    zone_share: GaugeVec,
    chain_problems: IntGaugeVec,
    certificate_expiry: IntGaugeVec,
}

impl ClusterFamilies {
    fn new() -> Result<Self, prometheus::Error> {
        let service = &["service"];
        let gauge = |name, help| IntGaugeVec::new(Opts::new(name, help), service);
        let counter = |name, help, labels| IntCounterVec::new(Opts::new(name, help), labels);
        // An id is unique on its node.
        let instance = &["service", "instance", "node"];
        Ok(Self {
            state: IntGaugeVec::new(
                Opts::new(
                    "outrigger_breaker_state",
                    "State of the circuit breaker: 0 closed, 1 half-open, 2 open; with a subset: of requests for that subset.",
                ),
                &["service", "subset"],
            )?,
            trips: counter(
                "outrigger_breaker_trips_total",
                "How often the circuit breaker opened; with a subset: that of requests for that subset.",
                &["service", "subset"],
            )?,
            budget: gauge("outrigger_retry_budget", "Retries that the retry budget allows now.")?,
            idle: gauge("outrigger_pool_idle_connections", "Idle connections to instances.")?,
            pending: gauge(
                "outrigger_pending",
                "Requests that wait because max_in_flight requests are in flight.",
            )?,
            trust: IntGaugeVec::new(
                Opts::new(
                    "outrigger_instances_trust",
                    "Instances in service, by ejection state: trusted, ejected or probation.",
                ),
                &["service", "trust"],
            )?,
            panic: gauge(
                "outrigger_panic",
                "1 in panic mode: no endpoint is healthy, so that ejected ones are picked too.",
            )?,
            ejections: counter(
                "outrigger_ejections_total",
                "Ejections, by kind of evidence; spared: not ejected, only because of max_ejection_percent.",
                &["service", "kind"],
            )?,
            subset_usable: IntGaugeVec::new(
                Opts::new(
                    "outrigger_subset_usable_instances",
                    "Instances of a subset that may be picked now.",
                ),
                &["service", "subset"],
            )?,
            subset_responses: counter(
                "outrigger_subset_responses_total",
                "Responses to the app of requests that went to a subset, by class of the status.",
                &["service", "subset", "class"],
            )?,
            mirrored: counter(
                "outrigger_mirrored_requests_total",
                "Copies of requests for a mirror, by result; limit, body: not sent.",
                &["service", "result"],
            )?,
            failover_active: IntGaugeVec::new(
                Opts::new(
                    "outrigger_failover_active",
                    "1 while requests go to a failover target; with a subset: those for that subset.",
                ),
                &["service", "subset"],
            )?,
            failover_attempts: counter(
                "outrigger_failover_attempts_total",
                "Attempts that went to an instance of a failover target.",
                &["service", "target"],
            )?,
            chain_problems: IntGaugeVec::new(
                Opts::new(
                    "outrigger_chain_problems",
                    "Parts of the chain of a service in Consul that have no effect, by kind.",
                ),
                &["service", "kind"],
            )?,
            certificate_expiry: IntGaugeVec::new(
                Opts::new(
                    "outrigger_tls_certificate_expiry_seconds",
                    "Seconds until the first certificate of its kind expires, below 0 after it.",
                ),
                &["service", "certificate"],
            )?,
            zone_share: GaugeVec::new(
                Opts::new("outrigger_zone_share", "Share of each zone in the requests, while zones count."),
                &["service", "zone"],
            )?,
            picks: counter(
                "outrigger_instance_picks_total",
                "Picks of an instance, retries included.",
                instance,
            )?,
            failures: counter(
                "outrigger_instance_failures_total",
                "Attempts that count as a failure of the instance.",
                instance,
            )?,
        })
    }

    fn record_cluster(&self, cluster: &Cluster, now: std::time::Instant) {
        let service = &[&*cluster.label];
        let signed = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
        let view = cluster.view.load_full();
        let idle: usize = view.all_endpoints().map(|one| one.pool.idle()).sum();
        let policy = &view.settings.policy;
        self.record_breaker(cluster, None, policy, now);
        self.budget
            .with_label_values(service)
            .set(signed(cluster.budget.available(&policy.retry.budget, now)));
        self.idle.with_label_values(service).set(signed(idle as u64));
        if let Some(bulkhead) = &view.settings.bulkhead {
            self.pending.with_label_values(service).set(signed(bulkhead.pending() as u64));
        }
        let (counts, totals) = (cluster.ejector.counts(), cluster.ejector.ejection_totals());
        let states =
            [("trusted", counts.healthy), ("ejected", counts.ejected), ("probation", counts.probation)];
        // Until the first ejection all are trusted.
        let any = totals.iter().any(|total| *total > 0) || counts.ejected + counts.probation > 0;
        let shown = if any { states.len() } else { 1 };
        for (trust, count) in states.into_iter().take(shown) {
            self.trust.with_label_values(&[&*cluster.label, trust]).set(signed(count as u64));
        }
        for subset in view.settings.subsets() {
            self.record_subset(cluster, subset);
            self.record_breaker(cluster, Some(subset), policy, now);
        }
        let mirror = view.settings.traffic.as_ref().and_then(|traffic| traffic.mirror.as_ref());
        for (result, count) in mirror.into_iter().flat_map(|mirror| mirror.results()) {
            add(&self.mirrored, &[&*cluster.label, result], count);
        }
        if let Some(failover) = &*cluster.failover.load() {
            self.record_failover(cluster, view.settings.subsets(), failover);
        }
        self.record_exact_targets(cluster);
        if let Some(ChainState::Known { chain, .. }) = cluster.chain.load().as_deref() {
            for kind in ChainProblemKind::ALL {
                let problems = chain.problems.iter().filter(|one| one.kind == kind).count();
                self.chain_problems
                    .with_label_values(&[&*cluster.label, kind.label()])
                    .set(signed(problems as u64));
            }
        }
        if let Some(tls) = &view.settings.tls {
            let times = tls.times();
            let instances = view.all_endpoints().filter_map(|one| one.tls.as_ref()?.not_after()).min();
            let now = i64::try_from(unix_time().as_secs()).unwrap_or(i64::MAX);
            for (certificate, not_after) in
                [("authority", times.authority), ("client", times.client), ("instance", instances)]
            {
                if let Some(not_after) = not_after {
                    let left = not_after.saturating_sub(now);
                    self.certificate_expiry.with_label_values(&[&*cluster.label, certificate]).set(left);
                }
            }
        }
        for (zone, share) in view.set.zone_shares() {
            self.zone_share.with_label_values(&[&*cluster.label, &*instance_label(&zone)]).set(share);
        }
        self.panic.with_label_values(service).set(i64::from(counts.panic));
        for (kind, count) in ["hard", "soft", "spared"].into_iter().zip(totals) {
            add(&self.ejections, &[&*cluster.label, kind], count);
        }
        for endpoint in view.all_endpoints() {
            let (id, node) = (instance_label(&endpoint.id.id), instance_label(&endpoint.id.node));
            let instance = &[&*cluster.label, &*id, &*node];
            add(&self.picks, instance, endpoint.picks.load(Relaxed));
            add(&self.failures, instance, endpoint.failures.load(Relaxed));
        }
    }

    fn record_breaker(
        &self,
        cluster: &Cluster,
        subset: Option<&Subset>,
        policy: &config::Policy,
        now: std::time::Instant,
    ) {
        let breaker = cluster.breaker(subset);
        let labels = &[&*cluster.label, subset.map_or("", |subset| &**subset.name())];
        self.state.with_label_values(labels).set(match breaker.state(policy.circuit_breaker.as_ref(), now) {
            BreakerState::Closed => 0,
            BreakerState::HalfOpen => 1,
            BreakerState::Open => 2,
        });
        add(&self.trips, labels, breaker.trips());
    }

    fn record_subset(&self, cluster: &Cluster, subset: &Subset) {
        let usable = i64::try_from(subset.set().usable()).unwrap_or(i64::MAX);
        self.subset_usable.with_label_values(&[&*cluster.label, &**subset.name()]).set(usable);
        for (class, count) in subset.responses() {
            add(&self.subset_responses, &[&*cluster.label, &**subset.name(), class], count);
        }
    }

    fn record_failover(&self, cluster: &Cluster, subsets: &[Arc<Subset>], failover: &Failover) {
        let of_subsets = subsets.iter().map(|subset| (&**subset.name(), &subset.over));
        for (subset, over) in [("", &cluster.over)].into_iter().chain(of_subsets) {
            self.failover_active.with_label_values(&[&*cluster.label, subset]).set(i64::from(over.is_over()));
        }
        self.record_attempts(cluster, failover);
    }

    /// What chains name of the cluster. Of several with one name the counts are added.
    fn record_exact_targets(&self, cluster: &Cluster) {
        let exact = cluster.exact_targets.load();
        let mut counted: Vec<&Arc<Subset>> = Vec::new();
        for ExactSet { set, failover } in exact.iter().flat_map(|exact| &exact.0) {
            if !counted.iter().any(|one| Arc::ptr_eq(one, set)) {
                counted.push(set);
                if !set.name().is_empty() {
                    self.record_subset(cluster, set);
                }
            }
            if let Some(failover) = failover {
                let active = self.failover_active.with_label_values(&[&*cluster.label, &**set.name()]);
                active.set(active.get().max(i64::from(set.over.is_over())));
                self.record_attempts(cluster, failover);
            }
        }
    }

    fn record_attempts(&self, cluster: &Cluster, failover: &Failover) {
        for target in &failover.targets {
            let labels = &[&*cluster.label, &*target.label];
            add(&self.failover_attempts, labels, target.attempts.load(Relaxed));
        }
    }

    fn collectors(&self) -> [&dyn Collector; 18] {
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
            &self.subset_usable,
            &self.subset_responses,
            &self.mirrored,
            &self.failover_active,
            &self.failover_attempts,
            &self.zone_share,
            &self.chain_problems,
            &self.certificate_expiry,
        ]
    }
}

/// A counter appears with its first event.
fn add(family: &IntCounterVec, labels: &[&str], count: u64) {
    if count > 0 {
        family.with_label_values(labels).inc_by(count);
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
            // A name that never had an instance gets no series.
            if cluster.is_declared() || cluster.ever_had_instances() {
                families.record_cluster(&cluster, now);
            }
        }
        families.collectors().iter().flat_map(|one| one.collect()).collect()
    }
}
