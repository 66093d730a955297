use outrigger_discovery::Discovery;
use outrigger_policy::{
    Outcome, Sent,
    outlier_detection::{AttemptGuard, Detector, EjectionState, Eligibility, FailureAttribution},
};
use outrigger_registry::{InstanceId, LastResort, testing::ScriptedRegistry};
use tokio::runtime::Handle;

use super::*;
use crate::{metrics::Metrics, upstream::pick_set::PickSetBuilder};

#[test]
fn the_label_names_tags_and_datacenter() {
    let tags = ["V2".to_owned()];
    let two = ["b".to_owned(), "a".to_owned()];
    let one = ["a,b".to_owned()];
    for (key, label) in [
        (ClusterKey::new("orders", None, &two), "orders[a,b]"),
        (ClusterKey::new("orders", None, &one), "orders[\"a,b\"]"),
        (ClusterKey::new("Orders", None, &[]), "orders"),
        (ClusterKey::new("orders", None, &tags), "orders[v2]"),
        (ClusterKey::new("orders", Some("DC2"), &tags), "orders[v2]@dc2"),
    ] {
        assert_eq!(key.to_string(), label);
    }
}

/// A cluster with the endpoints 0 and 1, and with 2 and 3 of instances that drain.
fn cluster_that_drains() -> (Cluster, [Arc<Endpoint>; 4]) {
    let (registry, _questions) = ScriptedRegistry::new();
    let metrics = prometheus::Registry::new();
    let discovery =
        Discovery::new(registry, config::DiscoverySettings::default(), Handle::current(), &metrics).unwrap();
    let policy = config::Policy::default();
    let key = ClusterKey::new("orders", None, &[]);
    let follower = discovery.follow(key.query(config::AddressKind::Auto), WatchReason::OnDemand).unwrap();
    let settings = ClusterSettings::new(
        policy.clone(),
        &config::TrafficRules::default(),
        Metrics::new(1).unwrap().service_series(None),
    );
    let cluster = Cluster::new(key, false, settings, follower, discovery.events().clone());
    let endpoints = [1, 2, 3, 4].map(|n: u16| {
        let id = InstanceId { datacenter: "dc1".into(), node: "n".into(), id: n.to_string().into() };
        let now = Instant::now().into_std();
        Arc::new(Endpoint::new(id, ([127, 0, 0, 1], n).into(), 1, 1, &policy, now))
    });
    for draining in &endpoints[2..] {
        draining.set_draining(true);
    }
    let settings = cluster.view.load().settings.clone();
    let mut set = PickSetBuilder::default();
    endpoints[..2].iter().for_each(|one| set.add(one, 1, None));
    endpoints[2..].iter().for_each(|one| set.add(one, 0, Some((LastResort::Draining, 1))));
    drop(cluster.swap_view(View {
        set: set.build(policy.balance),
        not_serving: endpoints[2..].into(),
        aliases: Box::default(),
        own: Vec::new(),
        settings,
        snapshot: Arc::default(),
    }));
    (cluster, endpoints)
}

/// Puts the endpoint on probation: it failed requests, and accepts connections again.
fn put_on_probation(endpoint: &Arc<Endpoint>, other: &Arc<Endpoint>) {
    let settings = config::OutlierDetection::default();
    let (outlier, mut now) = (Some(&settings), Instant::now().into_std());
    let mut detector = Detector::default();
    let members = [endpoint, other].map(|one| (one.clone(), Eligibility::InService));
    let _ = detector.set_members(outlier, members, now);
    let _ = detector.advance(now, false);
    let mut reports = Vec::new();
    for _ in 0..settings.consecutive_failures.unwrap() {
        let guard = AttemptGuard::begin(endpoint.clone(), outlier, true).unwrap();
        let blame = &mut FailureAttribution::default();
        reports.extend(guard.record_end(outlier, blame, Outcome::Status(503), Sent::Head, now));
    }
    for report in reports {
        detector.report(outlier, endpoint, report, now, 0);
    }
    now += 2 * settings.base_ejection_time;
    let _ = detector.advance(now, false);
    detector.report_probe(outlier, endpoint, true, now, 0);
    assert_eq!(endpoint.stats.ejection_state(), EjectionState::Probation);
}

/// An attempt that made no connection counts as no retry while another endpoint may take the request: the pick that follows
/// must not give one that was tried, or the same attempt would be made again and again.
#[tokio::test]
async fn the_pick_after_an_attempt_gives_an_untried_endpoint_whenever_there_is_another() {
    for (has_probation, has_refused) in [(false, false), (true, false), (false, true), (true, true)] {
        let (cluster, endpoints) = cluster_that_drains();
        if has_probation {
            put_on_probation(&endpoints[1], &endpoints[0]);
        }
        if has_refused {
            endpoints[2].note_outcome(Outcome::ConnectRefused);
        }
        let is_usable = |at: usize, retryable| match at {
            1 => retryable || !has_probation,
            2 => !has_refused,
            _ => true,
        };
        for (before, now, retryable) in (0..16_usize)
            .flat_map(|before| (0..4).flat_map(move |now| [(before, now, false), (before, now, true)]))
        {
            let mut tried: Vec<_> =
                (0..4).filter(|at| before & 1 << at != 0).map(|at| endpoints[at].clone()).collect();
            let is_left = |at: &usize| before & 1 << at == 0 && *at != now && is_usable(*at, retryable);
            let case = format!("tried {before:04b} and {now}, {retryable}, {has_probation}, {has_refused}");
            // The healthy ones first.
            let ranks: [&[usize]; 2] = [&[0, 1], &[2, 3]];
            let best: Vec<_> = ranks
                .iter()
                .map(|rank| rank.iter().copied().filter(is_left).collect::<Vec<_>>())
                .find(|left| !left.is_empty())
                .unwrap_or_default();
            let is_best = |picked: &Arc<Endpoint>| best.iter().any(|at| Arc::ptr_eq(&endpoints[*at], picked));
            let other = cluster.pick_other(None, &tried, &endpoints[now], retryable);
            assert_eq!(other.as_ref().map(is_best), (!best.is_empty()).then_some(true), "{case}");
            tried.push(endpoints[now].clone());
            let picked = cluster.pick(None, &tried, &[], retryable);
            if best.is_empty() {
                assert!(
                    picked.is_none_or(|one| tried.iter().any(|tried| Arc::ptr_eq(tried, &one))),
                    "{case}"
                );
            } else {
                assert!(picked.as_ref().is_some_and(is_best), "{case}");
            }
        }
    }
}

/// Another request decides it: the same pick again would pass it over again, and might never come to an endpoint that is left.
#[tokio::test]
async fn a_pick_gives_none_that_this_request_has_passed_over() {
    let (cluster, endpoints) = cluster_that_drains();
    let chosen = |bits: usize| -> Vec<_> {
        (0..4).filter(|at| bits & 1 << at != 0).map(|at| endpoints[at].clone()).collect()
    };
    for (tried, passed) in (0..16).flat_map(|tried| (0..16).map(move |passed| (tried, passed))) {
        let picked = cluster.pick(None, &chosen(tried), &chosen(passed), true);
        let at = picked.map(|one| endpoints.iter().position(|other| Arc::ptr_eq(other, &one)).unwrap());
        let case = format!("tried {tried:04b}, passed {passed:04b}: {at:?}");
        let untried = !(tried | passed) & 0b1111;
        match at {
            Some(at) => {
                assert_eq!(passed & 1 << at, 0, "{case}");
                assert!(untried == 0 || untried & 1 << at != 0, "{case}");
            }
            // One that was tried is used again, unless it was passed over; for a first attempt none was.
            None => assert!(passed == 0b1111 || untried == 0 && tried & !passed == 0, "{case}"),
        }
    }
}
