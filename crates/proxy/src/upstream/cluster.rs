//! A service's endpoints as a pick reads them, and the state of the service as a whole.

use std::{
    collections::HashMap,
    fmt,
    hash::{BuildHasherDefault, Hasher},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use arc_swap::{ArcSwap, ArcSwapOption};
use outrigger_config::{self as config, count, format_coarse_duration, format_duration, tag_list};
use outrigger_discovery::{Follower, Knowledge, WatchReason};
use outrigger_events::{Event, EventKind, Events};
use outrigger_policy::{
    Breaker, Cursor, LatencyHistogram, RetryBudget, Verdict,
    circuit_breaker::{BreakerOpen, Permit},
    outlier_detection::{Report, stall::PeakLatency},
};
use outrigger_registry::{Instance, Query};
use tokio::{sync::watch, time::Instant};

pub(crate) use settings::{ClusterSettings, tune_policy};
pub(crate) use view::{View, last_resort_label};

use crate::{
    host::ServiceName,
    limit::limit,
    reason::{Reason, Refusal},
    transport::pool::OpenConnection,
    upstream::{
        chain_state::ChainState,
        ejection::OutlierEjector,
        endpoint::Endpoint,
        endpoint_tls::fails_alike,
        failover::{ExactTargets, Failover},
        failover_state::FailoverState,
        pick_set::PickSet,
        subset::{LiveSubsets, Subset},
        zones::CallerZones,
    },
};

/// How recent a response is evidence that an endpoint can be used in another one's place.
const RECENT_SUCCESS: Duration = Duration::from_secs(10);

/// The identity of a cluster: the service, a datacenter and tags. All lower case.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct ClusterKey {
    pub(crate) service: Arc<str>,
    pub(crate) datacenter: Option<Arc<str>>,
    /// Sorted, without duplicates.
    pub(crate) tags: Arc<[Arc<str>]>,
}

impl ClusterKey {
    pub(crate) fn new(service: &str, datacenter: Option<&str>, tags: &[String]) -> Self {
        let mut tags: Vec<Arc<str>> = tags.iter().map(|tag| tag.to_ascii_lowercase().into()).collect();
        tags.sort();
        tags.dedup();
        Self {
            service: service.to_ascii_lowercase().into(),
            datacenter: datacenter.map(|name| name.to_ascii_lowercase().into()),
            tags: tags.into(),
        }
    }

    /// What the registry is asked for: the service, with instances of all tags.
    pub(crate) fn query(&self, address: config::AddressKind) -> Query {
        Query { address, ..Query::new(self.service.clone(), self.datacenter.clone()) }
    }
}

impl From<&ServiceName<'_>> for ClusterKey {
    fn from(name: &ServiceName<'_>) -> Self {
        Self {
            service: name.service.as_ref().into(),
            datacenter: name.datacenter.as_deref().map(Into::into),
            tags: name.tag.as_deref().map(Arc::from).into_iter().collect(),
        }
    }
}

/// `orders`, `orders[v2]`, `orders@dc2`: the label in metrics and logs. No service name has brackets or
/// an `@`, and tags that have some are quoted, so no two keys share a label.
impl fmt::Display for ClusterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.service, tag_list(&self.tags))?;
        match &self.datacenter {
            Some(datacenter) => write!(f, "@{datacenter}"),
            None => Ok(()),
        }
    }
}

/// One service's endpoints.
#[derive(Debug)]
pub(crate) struct Cluster {
    pub(crate) key: ClusterKey,
    /// The name in texts, metrics and logs.
    pub(crate) label: Arc<str>,
    /// The configuration names it.
    declared: AtomicBool,
    pub(crate) view: ArcSwap<View>,
    breaker: Breaker,
    /// Where what the breaker does is recorded.
    events: Events,
    pub(crate) budget: RetryBudget,
    pub(crate) peak_latency: PeakLatency,
    /// Recent response times; recorded only while `hedge` is on.
    pub(crate) latency: LatencyHistogram,
    pub(crate) ejector: OutlierEjector,
    pub(crate) cursor: Cursor,
    /// The subsets of its endpoints that are in use.
    pub(crate) live_subsets: Arc<LiveSubsets>,
    /// `None`: its requests go nowhere else.
    pub(crate) failover: ArcSwapOption<Failover>,
    /// What chains name of it.
    pub(crate) exact_targets: ArcSwapOption<ExactTargets>,
    /// What the registry says of its requests. `None`: it is not asked.
    pub(crate) chain: ArcSwapOption<ChainState>,
    /// False: the registry is asked what it says of its requests, and has not answered.
    pub(crate) is_routed: watch::Sender<bool>,
    /// Of requests that may go to all its endpoints.
    pub(crate) over: FailoverState,
    /// The zones of the calling service, as they were last looked at. `None`: it is not known.
    pub(crate) callers: ArcSwapOption<CallerZones>,
    /// Another one, of another question, once the settings have another `address`.
    pub(crate) follower: ArcSwap<Follower>,
    /// The version of the View.
    changed: watch::Sender<u64>,
    pub(crate) opened_at: Instant,
    /// Whole seconds from `opened_at` to the last request.
    last_used: AtomicU64,
    /// Whether an instance with the cluster's tags was ever listed.
    had_instances: AtomicBool,
    /// Connections of its TCP listener.
    tcp_places: Arc<AtomicUsize>,
}

impl Cluster {
    pub(crate) fn new(
        key: ClusterKey,
        declared: bool,
        settings: ClusterSettings,
        follower: Follower,
        events: Events,
    ) -> Self {
        let opened_at = Instant::now();
        let now = opened_at.into_std();
        let label: Arc<str> = key.to_string().into();
        let policy = &settings.policy;
        Self {
            key,
            declared: AtomicBool::new(declared),
            breaker: Breaker::new(now),
            budget: RetryBudget::new(&policy.retry.budget, now),
            peak_latency: PeakLatency::default(),
            latency: LatencyHistogram::new(now),
            ejector: OutlierEjector::new(label.clone(), events.clone()),
            events,
            label,
            // Sidecars that start together must not all begin with the same instance.
            cursor: Cursor::new(fastrand::u64(..)),
            live_subsets: settings.live_subsets.clone(),
            failover: ArcSwapOption::empty(),
            exact_targets: ArcSwapOption::empty(),
            chain: ArcSwapOption::empty(),
            is_routed: watch::Sender::new(true),
            over: FailoverState::new(),
            callers: ArcSwapOption::empty(),
            view: ArcSwap::from_pointee(View {
                set: PickSet::empty(policy.balance),
                not_serving: Box::default(),
                aliases: Box::default(),
                own: Vec::new(),
                settings: Arc::new(settings),
                snapshot: Arc::default(),
            }),
            follower: ArcSwap::from_pointee(follower),
            changed: watch::Sender::new(0),
            opened_at,
            last_used: AtomicU64::new(0),
            had_instances: AtomicBool::new(false),
            tcp_places: Arc::default(),
        }
    }

    /// Whether the configuration names it.
    pub(crate) fn is_declared(&self) -> bool {
        self.declared.load(Relaxed)
    }

    /// Records whether the configuration names it.
    pub(crate) fn set_declared(&self, declared: bool) {
        self.declared.store(declared, Relaxed);
        self.follower.load().set_reason(watch_reason(declared));
    }

    /// What the registry is asked for.
    pub(crate) fn query(&self) -> Query {
        self.follower.load().query().clone()
    }

    /// The datacenter of its instances. `None`: it never had one.
    pub(crate) fn datacenter(&self) -> Option<Arc<str>> {
        let view = self.view.load();
        view.snapshot.instances.first().map(|one| one.id.datacenter.clone())
    }

    /// Notes a request.
    pub(crate) fn mark_used(&self, now: Instant) {
        let seconds = now.saturating_duration_since(self.opened_at).as_secs();
        // One store a second, not one a request: the cache line stays shared between workers.
        if self.last_used.load(Relaxed) != seconds {
            self.last_used.store(seconds, Relaxed);
        }
    }

    /// Whether requests or tunnels of it are in flight. The blocks of the workers are read, so that a request costs nothing
    /// more for it.
    pub(crate) fn is_in_use(&self) -> bool {
        // Names without an instance share their cells.
        self.ever_had_instances() && self.view.load().settings.series.in_flight() > 0
    }

    /// When the last request came, to the second; or the last tick of the sweep that found one in flight.
    pub(crate) fn last_used_at(&self) -> Instant {
        self.opened_at + Duration::from_secs(self.last_used.load(Relaxed))
    }

    /// Time since the last request, to the second.
    pub(crate) fn idle_for(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.last_used_at())
    }

    /// Whether an instance of this cluster was ever listed.
    pub(crate) fn ever_had_instances(&self) -> bool {
        self.had_instances.load(Relaxed)
    }

    /// Records that an instance of this cluster was listed.
    pub(crate) fn set_had_instances(&self) {
        self.had_instances.store(true, Relaxed);
    }

    /// A place for one more connection of its TCP listener, free again when dropped. `None`: `most` are open.
    pub(crate) fn take_tcp_place(&self, most: usize) -> Option<OpenConnection> {
        OpenConnection::reserve(&self.tcp_places, most)
    }

    /// Publishes a new View. Returns the old one, which a request must not drop.
    ///
    /// An endpoint that joins had no part in the failures that opened the breaker, so it ends the
    /// breaker's open time.
    pub(crate) fn swap_view(&self, view: View) -> Arc<View> {
        let version = view.snapshot.version;
        let view = Arc::new(view);
        let old = self.view.swap(view.clone());
        self.admit_to_joined(None, &view.set, &old.set);
        self.changed.send_replace(version);
        old
    }

    /// Whether the View shows an answer of the registry, also one from before a restart.
    pub(crate) fn has_answer(&self) -> bool {
        self.view.load().snapshot.knowledge != Knowledge::Unasked
    }

    /// Resolves at the first answer; a refusal is one. Call it with a time-out, because there may be none.
    pub(crate) async fn wait_for_first_answer(&self) {
        let (mut changed, follower) = (self.changed.subscribe(), self.follower.load_full());
        tokio::select! {
            // The sender lives as long as self.
            _ = changed.wait_for(|version| *version > 0) => {}
            () = follower.refused() => {}
        }
    }

    /// An endpoint of `subset`, or of all, that this request has not tried; see [`PickSet::pick`].
    #[inline]
    pub(crate) fn pick(
        &self,
        subset: Option<&Subset>,
        tried: &[Arc<Endpoint>],
        passed: &[Arc<Endpoint>],
        retryable: bool,
    ) -> Option<Arc<Endpoint>> {
        if let Some(subset) = subset {
            return subset.pick(tried, passed, retryable);
        }
        let mut view = self.view.load();
        loop {
            let picked = view.set.pick(&self.cursor, tried, passed, retryable);
            if picked.is_some() {
                return picked;
            }
            // All endpoints may have retired since the load; then there is a newer View.
            let newer = self.view.load();
            if Arc::ptr_eq(&view, &newer) {
                return None;
            }
            view = newer;
        }
    }

    /// Another endpoint of `subset`, or of all; see [`PickSet::pick_other`].
    pub(crate) fn pick_other(
        &self,
        subset: Option<&Subset>,
        tried: &[Arc<Endpoint>],
        now: &Arc<Endpoint>,
        retryable: bool,
    ) -> Option<Arc<Endpoint>> {
        match subset {
            Some(subset) => subset.pick_other(tried, now, retryable),
            None => self.view.load().set.pick_other(&self.cursor, tried, now, retryable),
        }
    }

    /// Works the shares of zones out anew. Called after each change of endpoints and their states, and of the callers.
    pub(crate) fn update_zones(&self) {
        let view = self.view.load_full();
        if view.settings.zone().is_none() {
            return;
        }
        let callers = self.callers.load();
        view.set.update_zones(callers.as_deref());
        for subset in self.live_subsets.all() {
            subset.set().update_zones(callers.as_deref());
        }
    }

    /// Whether an endpoint stands for the service, and is healthy.
    pub(crate) fn is_in(&self, endpoint: &Arc<Endpoint>) -> bool {
        endpoint.is_healthy() && self.view.load().set.standing().iter().any(|one| Arc::ptr_eq(one, endpoint))
    }

    /// Whether another endpoint is in, also one of a failover target.
    pub(crate) fn has_other_in(&self, endpoint: &Arc<Endpoint>) -> bool {
        self.ejector.is_relieved()
            || self
                .view
                .load()
                .set
                .standing()
                .iter()
                .any(|one| !Arc::ptr_eq(one, endpoint) && one.is_healthy())
    }

    /// Whether TLS to the endpoint fails as it does to every other one of which something is known: then it is a fault of this side's
    /// settings, and no evidence against the instance.
    pub(crate) fn fails_tls_alike(&self, endpoint: &Arc<Endpoint>) -> bool {
        let Some(own) = &endpoint.tls else { return false };
        let view = self.view.load();
        let others = view.set.standing().iter().filter(|one| !Arc::ptr_eq(one, endpoint));
        fails_alike(own.health(), others.filter_map(|one| Some(one.tls.as_ref()?.health())))
    }

    /// Whether an endpoint was deregistered or is ejected, so that a connection to it may lead nowhere. An instance that was registered
    /// anew at the same address has not left.
    pub(crate) fn has_left(&self, endpoint: &Endpoint) -> bool {
        if !endpoint.is_retired() {
            return endpoint.is_ejected();
        }
        !self.view.load().all_endpoints().any(|one| one.addr == endpoint.addr && !one.is_retired())
    }

    /// Whether another endpoint has answered a request lately, and is not ejected.
    pub(crate) fn serves_besides(&self, endpoint: &Arc<Endpoint>) -> bool {
        let now = Instant::now();
        let serves = |one: &Arc<Endpoint>| one.succeeded_within(RECENT_SUCCESS, now);
        self.view.load().set.standing().iter().any(|one| !Arc::ptr_eq(one, endpoint) && serves(one))
    }

    /// The breaker of the requests for `subset`, or of those for all endpoints: a subset that fails takes no requests from the
    /// others.
    #[inline]
    pub(crate) fn breaker<'a>(&'a self, subset: Option<&'a Subset>) -> &'a Breaker {
        subset.map_or(&self.breaker, |subset| &subset.breaker)
    }

    /// Passes an attempt's report to the detector.
    pub(crate) fn report(&self, endpoint: &Arc<Endpoint>, report: Report, now: Instant) {
        // What the detector may do depends on the targets as they are now.
        self.check_failover(now);
        let view = self.view.load();
        self.ejector.report(view.settings.policy.outlier.as_ref(), endpoint, report, now);
    }

    /// Lets a request pass the breaker of `subset`, or of the requests for all endpoints.
    #[inline]
    pub(crate) fn admit<'a>(
        &'a self,
        subset: Option<&'a Subset>,
        settings: Option<&'a config::CircuitBreaker>,
        now: Instant,
    ) -> Result<Permit<'a>, BreakerOpen> {
        let admitted = self.breaker(subset).admit(settings, now.into_std());
        if admitted.as_ref().is_ok_and(Permit::ends_open_time) {
            let reason = "its time is over, and a request is let through";
            self.record_breaker_event(subset, EventKind::BreakerHalfOpen, reason);
        }
        admitted
    }

    /// Records for the breaker what the app sees of a request, and acts on a failure. `subset`: as it was admitted.
    #[inline]
    pub(crate) fn record_verdict<'s>(
        &self,
        subset: impl FnOnce() -> Option<&'s Subset>,
        permit: Permit<'_>,
        verdict: Verdict,
        now: Instant,
    ) {
        self.end_permit(subset, permit, verdict, now);
        if verdict == Verdict::Failure {
            self.record_failure();
        }
    }

    /// Records for the breaker what the app would have seen of a request.
    #[inline]
    pub(crate) fn end_permit<'s>(
        &self,
        subset: impl FnOnce() -> Option<&'s Subset>,
        permit: Permit<'_>,
        verdict: Verdict,
        now: Instant,
    ) {
        if let Some(change) = permit.record(now.into_std(), verdict) {
            self.record_breaker_change(subset(), change);
        }
    }

    #[cold]
    pub(crate) fn record_event(&self, kind: EventKind, reason: impl AsRef<str>) {
        self.events.record(Event::new(kind, reason).of_service(&self.label));
    }

    /// Acts on a failed request: it may have opened the breaker, and then only probes find out.
    pub(crate) fn record_failure(&self) {
        self.ejector.wakeup.notify_one();
        self.request_refresh();
    }

    /// Asks the registry for instances soon, because a request has failed or found no endpoint.
    pub(crate) fn request_refresh(&self) {
        self.follower.load().request_refresh();
    }

    /// Notes that an endpoint takes no connections: the name that the registry lists for it may have another address now.
    pub(crate) fn note_connect_failure(&self, endpoint: &Endpoint) {
        if endpoint.named.is_some() {
            self.follower.load().request_lookup();
        }
    }

    /// The refusal of a request without an endpoint of `subset`, or of all, to pick. `first_answer`: the setting
    /// `discovery.first_answer`.
    pub(crate) fn refuse_pick(&self, subset: Option<&Subset>, first_answer: Duration) -> Refusal {
        self.request_refresh();
        self.describe_no_pick(subset, first_answer)
    }

    /// As [`Cluster::refuse_pick`], and asks the registry for nothing.
    pub(crate) fn describe_no_pick(&self, subset: Option<&Subset>, first_answer: Duration) -> Refusal {
        let view = self.view.load_full();
        let status = self.follower.load().status();
        let mut heard = match status.confirmed_ago {
            Some(ago) => format!("registry last heard {} ago", format_coarse_duration(ago)),
            None => "the registry has not answered for it yet".to_owned(),
        };
        if let Some((instances, ago)) = status.presumed_gone {
            let ago = format_coarse_duration(ago);
            let were = if instances == 1 { "was" } else { "were" };
            heard.push_str(&format!("; {} {were} presumed gone {ago} ago", count(instances, "instance")));
        }
        let label = &self.label;
        if view.snapshot.knowledge == Knowledge::Unasked {
            let error = status.error.map(|error| format!(": {error}")).unwrap_or_default();
            let limit = limit("discovery", "first_answer", format_duration(first_answer));
            let detail = format!("{label}: no answer from the registry yet{error}; {limit}");
            return Refusal::for_now(Reason::RegistryUnknown, detail);
        }
        let counts = view.snapshot.counts();
        if counts.total() == 0 {
            let hint = status.empty_hint.map(|hint| format!("; {hint}")).unwrap_or_default();
            let detail = format!("{label}: no instance is registered; {heard}{hint}");
            return Refusal::new(Reason::UnknownService, detail);
        }
        let mut known = format!("{label}: {} known", count(counts.total(), "instance"));
        for (status, count) in counts.by_status() {
            if count > 0 {
                known.push_str(&format!(", {count} {}", status.label()));
            }
        }
        for last in &*view.set.last_resorts {
            let (number, why) = (last.endpoints.len(), last_resort_label(last.kind));
            known.push_str(&format!(", {number} {why} and not accepting connections"));
        }
        if counts.unusable > 0 {
            known.push_str(&format!(", {} without a usable address", counts.unusable));
        }
        if !view.own.is_empty() {
            known.push_str(&format!(", {} at an address of this sidecar", view.own.len()));
        }
        if !self.key.tags.is_empty() {
            let tagged = view.snapshot.instances.iter().filter(|one| self.matches(one)).count();
            known.push_str(&format!(", {tagged} with the tags asked for"));
        }
        for target in self.failover.load().iter().flat_map(|failover| &failover.targets) {
            known.push_str(&format!("; failover {}: none usable", target.label));
        }
        let Some(subset) = subset.filter(|subset| !subset.name().is_empty()) else {
            return Refusal::for_now(Reason::NoUsableInstance, format!("{known}; {heard}"));
        };
        let listed = view.snapshot.instances.iter().filter(|one| self.matches(one) && subset.matches(one));
        let detail =
            format!("{known}, {} in the subset {}, none usable; {heard}", listed.count(), subset.name());
        Refusal::for_now(Reason::SubsetEmpty, detail)
    }

    /// Whether an instance has the cluster's tags.
    pub(crate) fn matches(&self, instance: &Instance) -> bool {
        instance.has_tags(&self.key.tags)
    }
}

/// Why a service is watched.
pub(crate) fn watch_reason(declared: bool) -> WatchReason {
    if declared { WatchReason::Declared } else { WatchReason::OnDemand }
}

/// Clusters by name.
#[derive(Debug, Default)]
pub(crate) struct NameIndex {
    /// By the service name alone: the usual request needs no key.
    pub(crate) plain: HashMap<Box<[u8]>, Arc<Cluster>, BuildHasherDefault<NameHasher>>,
    /// By service, datacenter and tags; and those of services that have the name of the sidecar itself, which no Host means.
    pub(crate) narrowed: HashMap<ClusterKey, Arc<Cluster>>,
}

/// FNV-1a (Fowler, Noll, Vo), which costs least for names of a few bytes. The names are those of clusters that are open, and
/// settings bound their number, so that colliding names cannot slow requests down.
#[derive(Debug, Clone, Copy)]
pub(crate) struct NameHasher(u64);

impl Default for NameHasher {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Hasher for NameHasher {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    fn write_usize(&mut self, _: usize) {
        // The length of a slice adds nothing to a hash of all of its bytes.
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

mod breakers;
mod settings;
mod view;

#[cfg(test)]
mod tests;
