use std::time::Duration;

use outrigger_config as config;
use outrigger_discovery::{Discovery, WatchReason};
use outrigger_policy::{
    Outcome, Sent,
    outlier_detection::{AttemptGuard, EjectionState, Eligibility, FailureAttribution},
};
use outrigger_registry::{InstanceId, LastResort, testing::ScriptedRegistry};
use tokio::{runtime::Handle, time::advance};

use super::*;
use crate::{
    metrics::Metrics,
    upstream::{
        cluster::{ClusterKey, ClusterSettings, View},
        pick_set::PickSetBuilder,
        subset::LiveSubsets,
    },
};

const RETURN_AFTER: Duration = Duration::from_secs(10);

/// What an own endpoint is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Own {
    Healthy,
    /// It refuses connections.
    Ejected,
    Leaving,
    /// Kept although the registry lists it no more: it counts as healthy.
    Suspect,
}

/// A cluster with its discovery, which lives as long.
struct FailoverRig {
    cluster: Arc<Cluster>,
    endpoints: Vec<Arc<Endpoint>>,
    _discovery: Arc<Discovery>,
}

impl FailoverRig {
    fn new(datacenter: Option<&str>, states: &[Own]) -> Self {
        let (registry, _questions) = ScriptedRegistry::new();
        let discovery = Discovery::new(
            registry,
            config::DiscoverySettings::default(),
            Handle::current(),
            &prometheus::Registry::new(),
        );
        let discovery = discovery.unwrap();
        let policy = config::Policy::default();
        let key = ClusterKey::new("orders", datacenter, &[]);
        let follower = discovery.follow(key.query(config::AddressKind::Auto), WatchReason::OnDemand).unwrap();
        let series = Metrics::new(1).unwrap().service_series(None);
        let settings = ClusterSettings::new(policy.clone(), &config::TrafficRules::default(), series);
        let cluster = Arc::new(Cluster::new(key, false, settings, follower, discovery.events().clone()));
        let now = Instant::now().into_std();
        let endpoint = |n: usize| {
            let id = InstanceId { datacenter: "dc1".into(), node: "n".into(), id: n.to_string().into() };
            let addr = ([127, 0, 0, 1], u16::try_from(n + 1).unwrap()).into();
            Arc::new(Endpoint::new(id, addr, 1, 1, &policy, now).of_service(&cluster.label))
        };
        let endpoints: Vec<_> = (0..states.len()).map(endpoint).collect();
        let rig = Self { cluster, endpoints, _discovery: discovery };
        rig.set(states);
        for (endpoint, state) in rig.endpoints.iter().zip(states) {
            if *state == Own::Ejected {
                rig.fail(endpoint, Outcome::ConnectRefused);
            }
        }
        rig
    }

    /// Publishes a View in which the endpoints are this.
    fn set(&self, states: &[Own]) {
        let (mut set, mut members) = (PickSetBuilder::default(), Vec::new());
        for (endpoint, state) in self.endpoints.iter().zip(states) {
            let is_leaving = *state == Own::Leaving;
            endpoint.set_draining(is_leaving);
            let last_resort = is_leaving.then_some((LastResort::Draining, 1));
            set.add(endpoint, u32::from(!is_leaving), last_resort);
            let eligibility = if is_leaving { Eligibility::OutOfService } else { Eligibility::InService };
            members.push((endpoint.clone(), eligibility));
        }
        let view = self.cluster.view.load_full();
        let policy = &view.settings.policy;
        self.cluster.ejector.set_members(policy.outlier.as_ref(), members);
        drop(self.cluster.swap_view(View {
            set: set.build(policy.balance),
            not_serving: Box::default(),
            aliases: Box::default(),
            own: Vec::new(),
            settings: view.settings.clone(),
            snapshot: Arc::default(),
        }));
        for subset in self.cluster.live_subsets.all() {
            let mut all = PickSetBuilder::default();
            self.endpoints.iter().for_each(|one| all.add(one, 1, None));
            drop(subset.replace_set(all.build(policy.balance)));
        }
        self.cluster.ejector.advance(Instant::now(), false);
    }

    /// An attempt at the endpoint fails.
    fn fail(&self, endpoint: &Arc<Endpoint>, outcome: Outcome) {
        let settings = self.cluster.view.load().settings.clone();
        let outlier = settings.policy.outlier.as_ref();
        let Some(guard) = AttemptGuard::begin(endpoint.clone(), outlier, true) else { return };
        let (blame, now) = (&mut FailureAttribution::default(), Instant::now());
        if let Some(report) = guard.record_end(outlier, blame, outcome, Sent::Head, now.into_std()) {
            self.cluster.report(endpoint, report, now);
        }
    }

    /// A probe connects to the endpoint.
    fn accept(&self, endpoint: &Arc<Endpoint>) {
        let outlier = config::OutlierDetection::default();
        self.cluster.ejector.report_probe(Some(&outlier), endpoint, true);
        self.cluster.check_failover(Instant::now());
    }

    fn fail_over_to(&self, target: &Self) -> Arc<Failover> {
        let everything = config::Subset::of_all("");
        let all = target.cluster.live_subsets.join(&everything, config::Balance::RoundRobin);
        target.set(&vec![Own::Healthy; target.endpoints.len()]);
        let target = FailoverTarget {
            datacenter: None,
            is_reported: Arc::default(),
            label: target.cluster.label.clone(),
            all,
            subsets: Box::default(),
            attempts: Arc::default(),
        };
        let failover = Arc::new(Failover { return_after: RETURN_AFTER, targets: [target].into() });
        self.cluster.failover.store(Some(failover.clone()));
        self.cluster.check_failover(Instant::now());
        failover
    }

    fn pick(&self, failover: &Failover, tried: &[Arc<Endpoint>], retryable: bool) -> Option<Arc<Endpoint>> {
        let now = Instant::now();
        let next = self.cluster.next_pick(Some(failover), None, retryable, now);
        let request = PickRequest { subset: None, tried, passed: &[], retryable, now };
        let picked = self.cluster.pick_over(failover, request);
        if tried.is_empty() {
            // What is told of a pick beforehand is what it does.
            let told = next.map(|next| next.endpoints).unwrap_or_default();
            let is_told = |one: &Arc<Endpoint>| told.iter().any(|told| Arc::ptr_eq(told, one));
            assert_eq!(picked.is_some(), !told.is_empty(), "{picked:?}, told {told:?}");
            assert!(picked.as_ref().is_none_or(is_told), "{picked:?}, told {told:?}");
        }
        picked
    }

    fn pick_other(
        &self,
        failover: &Failover,
        tried: &[Arc<Endpoint>],
        current: &Arc<Endpoint>,
    ) -> Option<Arc<Endpoint>> {
        let (now, passed) = (Instant::now(), std::slice::from_ref(current));
        let request = PickRequest { subset: None, tried, passed, retryable: true, now };
        self.cluster.pick_untried_over(failover, request, &Tried(tried, passed))
    }

    fn position(&self, endpoint: &Arc<Endpoint>) -> Option<usize> {
        self.endpoints.iter().position(|one| Arc::ptr_eq(one, endpoint))
    }

    fn is_panicking(&self) -> bool {
        self.cluster.ejector.counts().panic
    }
}

/// Every list of at most three states.
fn lists() -> Vec<Vec<Own>> {
    let mut all: Vec<Vec<Own>> = vec![Vec::new()];
    let mut longest = all.clone();
    for _ in 0..3 {
        let longer = longest.iter().flat_map(|list| {
            [Own::Healthy, Own::Ejected, Own::Leaving, Own::Suspect]
                .map(|state| list.iter().copied().chain([state]).collect::<Vec<_>>())
        });
        longest = longer.collect();
        all.extend(longest.clone());
    }
    all
}

/// Which endpoints a first pick may take: `Ok` with own ones, `Err` for the target.
fn expected(own: &[Own], is_target_up: bool) -> Result<Vec<usize>, ()> {
    let those = |states: &[Own]| {
        own.iter().enumerate().filter(|(_, one)| states.contains(one)).map(|(at, _)| at).collect()
    };
    let healthy: Vec<usize> = those(&[Own::Healthy, Own::Suspect]);
    if !healthy.is_empty() {
        return Ok(healthy);
    }
    if is_target_up {
        return Err(());
    }
    let leaving: Vec<usize> = those(&[Own::Leaving]);
    Ok(if leaving.is_empty() { those(&[Own::Ejected]) } else { leaving })
}

/// Local endpoints 0 to 3, each ejected, leaving, suspect or healthy; a target that is up, empty, or has only endpoints that refuse.
#[tokio::test(start_paused = true)]
async fn the_order_is_healthy_ones_then_targets_then_leaving_ones_then_panic() {
    let targets: [&[Own]; 3] = [&[Own::Healthy, Own::Healthy], &[], &[Own::Ejected]];
    for (own, target_states) in
        lists().into_iter().flat_map(|own| targets.map(|target| (own.clone(), target)))
    {
        let case = format!("{own:?}, target {target_states:?}");
        let target = FailoverRig::new(Some("dc2"), target_states);
        let rig = FailoverRig::new(None, &own);
        let failover = rig.fail_over_to(&target);
        let is_up = target_states.contains(&Own::Healthy);
        let expected = expected(&own, is_up);
        for retryable in [true, false] {
            let picked = rig.pick(&failover, &[], retryable);
            match (&picked, &expected) {
                (Some(one), Ok(ones)) => {
                    assert!(rig.position(one).is_some_and(|at| ones.contains(&at)), "{case}: {:?}", one.id);
                }
                (Some(one), Err(())) => assert!(target.position(one).is_some(), "{case}: {:?}", one.id),
                (None, Ok(ones)) => assert!(ones.is_empty(), "{case}"),
                (None, Err(())) => panic!("{case}: none"),
            }
        }
        assert_eq!(rig.cluster.over.is_over(), expected.is_err(), "{case}");
        // Panic mode never holds while the target is up, and holds else where none is healthy.
        let (healthy, any) =
            (own.iter().any(|one| matches!(one, Own::Healthy | Own::Suspect)), own.contains(&Own::Ejected));
        assert_eq!(rig.is_panicking(), any && !healthy && !is_up, "{case}");
        // The pick after an attempt gives an untried endpoint whenever there is another one.
        let all: Vec<_> = rig.endpoints.iter().chain(&target.endpoints).cloned().collect();
        for (tried, current) in
            (0..1_usize << all.len()).flat_map(|bits| all.iter().map(move |one| (bits, one)))
        {
            let mut tried: Vec<_> = all
                .iter()
                .enumerate()
                .filter(|(at, _)| tried & 1 << at != 0)
                .map(|(_, one)| one.clone())
                .collect();
            let other = rig.pick_other(&failover, &tried, current);
            tried.push(current.clone());
            let is_tried = |one: &Arc<Endpoint>| tried.iter().any(|tried| Arc::ptr_eq(tried, one));
            assert!(!other.as_ref().is_some_and(is_tried), "{case}");
            let picked = rig.pick(&failover, &tried, true);
            assert!(other.is_none() || picked.is_some_and(|one| !is_tried(&one)), "{case}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn panic_holds_at_once_when_the_target_loses_its_last_endpoint() {
    let target = FailoverRig::new(Some("dc2"), &[Own::Healthy]);
    let rig = FailoverRig::new(None, &[Own::Healthy, Own::Healthy]);
    let failover = rig.fail_over_to(&target);
    for at in [0, 1] {
        for _ in 0..5 {
            rig.fail(&rig.endpoints[at], Outcome::Status(503));
        }
    }
    let states = || rig.endpoints.iter().map(|one| one.stats.ejection_state()).collect::<Vec<_>>();
    assert_eq!(states(), [EjectionState::Ejected; 2], "more than half of them, and the last one");
    assert!(target.position(&rig.pick(&failover, &[], false).unwrap()).is_some());
    target.fail(&target.endpoints[0], Outcome::ConnectRefused);
    assert!(!rig.is_panicking(), "none has looked at the target yet");
    for retryable in [false, true] {
        assert!(rig.position(&rig.pick(&failover, &[], retryable).unwrap()).is_some());
    }
    assert!(rig.is_panicking() && !rig.cluster.over.is_over());
    // It comes back, and takes over at the next pick.
    target.accept(&target.endpoints[0]);
    assert!(target.position(&rig.pick(&failover, &[], false).unwrap()).is_some());
    rig.cluster.check_failover(Instant::now());
    assert!(!rig.is_panicking() && rig.cluster.over.is_over());
}

#[tokio::test(start_paused = true)]
async fn without_a_usable_target_the_last_endpoint_is_not_ejected() {
    let target = FailoverRig::new(Some("dc2"), &[Own::Ejected]);
    let rig = FailoverRig::new(None, &[Own::Healthy]);
    let failover = rig.fail_over_to(&target);
    for _ in 0..10 {
        rig.fail(&rig.endpoints[0], Outcome::Status(503));
    }
    assert_eq!(rig.endpoints[0].stats.ejection_state(), EjectionState::Healthy);
    assert!(rig.position(&rig.pick(&failover, &[], false).unwrap()).is_some());
}

#[tokio::test(start_paused = true)]
async fn requests_return_once_an_endpoint_has_been_healthy_for_so_long_without_a_break() {
    let target = FailoverRig::new(Some("dc2"), &[Own::Healthy]);
    let rig = FailoverRig::new(None, &[Own::Healthy]);
    let failover = rig.fail_over_to(&target);
    let goes_to_target = || target.position(&rig.pick(&failover, &[], true).unwrap()).is_some();
    assert!(!goes_to_target());
    rig.fail(&rig.endpoints[0], Outcome::ConnectRefused);
    assert!(goes_to_target());
    rig.accept(&rig.endpoints[0]);
    advance(RETURN_AFTER - Duration::from_millis(10)).await;
    assert!(goes_to_target(), "not yet");
    // A break: the time begins anew.
    rig.fail(&rig.endpoints[0], Outcome::ConnectRefused);
    rig.cluster.check_failover(Instant::now());
    rig.accept(&rig.endpoints[0]);
    advance(RETURN_AFTER - Duration::from_millis(10)).await;
    assert!(goes_to_target(), "not yet");
    advance(Duration::from_millis(20)).await;
    assert!(!goes_to_target());
    assert!(!rig.cluster.over.is_over());
}

#[tokio::test(start_paused = true)]
async fn requests_return_at_once_when_the_target_is_gone() {
    let target = FailoverRig::new(Some("dc2"), &[Own::Healthy]);
    let rig = FailoverRig::new(None, &[Own::Healthy]);
    let failover = rig.fail_over_to(&target);
    rig.fail(&rig.endpoints[0], Outcome::ConnectRefused);
    assert!(target.position(&rig.pick(&failover, &[], true).unwrap()).is_some());
    rig.accept(&rig.endpoints[0]);
    target.fail(&target.endpoints[0], Outcome::ConnectRefused);
    assert!(rig.position(&rig.pick(&failover, &[], true).unwrap()).is_some());
    assert!(!rig.cluster.over.is_over());
    target.accept(&target.endpoints[0]);
    assert!(rig.position(&rig.pick(&failover, &[], true).unwrap()).is_some(), "and they stay");
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_on_probation_is_tried_by_one_request_that_may_be_repeated() {
    let target = FailoverRig::new(Some("dc2"), &[Own::Healthy]);
    let rig = FailoverRig::new(None, &[Own::Healthy]);
    let failover = rig.fail_over_to(&target);
    for _ in 0..5 {
        rig.fail(&rig.endpoints[0], Outcome::Status(503));
    }
    let is_own = |retryable| rig.position(&rig.pick(&failover, &[], retryable).unwrap()).is_some();
    assert!(!is_own(true) && !is_own(false));
    advance(2 * config::OutlierDetection::default().base_ejection_time).await;
    rig.accept(&rig.endpoints[0]);
    assert_eq!(rig.endpoints[0].stats.ejection_state(), EjectionState::Probation);
    assert!(is_own(true) && !is_own(false), "only a request that may be repeated");
    let settings = rig.cluster.view.load().settings.clone();
    let guard = AttemptGuard::begin(rig.endpoints[0].clone(), settings.policy.outlier.as_ref(), true);
    assert!(guard.is_some() && !is_own(true), "one at a time");
    assert!(rig.cluster.over.is_over(), "the others stay with the target");
}

#[tokio::test(start_paused = true)]
async fn a_rule_is_one_live_subset_however_often_it_is_asked_for() {
    let live = LiveSubsets::default();
    let rule = |tag: &str| config::Subset { tags: vec![tag.into()], ..config::Subset::of_all("v") };
    let own = live.get(&rule("a"), config::Balance::RoundRobin);
    assert!(Arc::ptr_eq(&own, &live.join(&rule("a"), config::Balance::RoundRobin)));
    let other = live.join(&rule("b"), config::Balance::RoundRobin);
    assert_eq!(live.all().len(), 2);
    drop(other);
    assert_eq!(live.all().len(), 1, "it goes with its last user");
}
