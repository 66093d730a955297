use std::collections::BTreeMap;

use outrigger_config::Policy;
use outrigger_policy::{
    Outcome, Sent,
    outlier_detection::{AttemptGuard, Detector, Eligibility, FailureAttribution},
};
use outrigger_registry::{HealthStatus, InstanceFacts, InstanceId, NodeFacts, testing::instance};
use tokio::time::Instant;

use super::*;
use crate::upstream::pick_set::{PickSet, PickSetBuilder};

fn endpoint(n: u16) -> Arc<Endpoint> {
    let id = InstanceId { datacenter: "dc1".into(), node: "n".into(), id: n.to_string().into() };
    let now = Instant::now().into_std();
    Arc::new(Endpoint::new(id, ([127, 0, 0, 1], n).into(), 1, 1, &Policy::default(), now))
}

fn rule(own: &str, min_instances: usize) -> config::ZoneRouting {
    let from = vec![ZoneSource::ServiceMeta("zone".into()), ZoneSource::NodeMeta("zone".into())];
    config::ZoneRouting { own: own.into(), from, min_instances }
}

/// A set of endpoints in these zones, in the order of their numbers from 1.
fn set(rule: &config::ZoneRouting, zones: &[&str]) -> (PickSet, Vec<Arc<Endpoint>>) {
    let mut builder = PickSetBuilder::default();
    let endpoints: Vec<_> = (1..).zip(zones).map(|(n, _)| endpoint(n)).collect();
    for (endpoint, zone) in endpoints.iter().zip(zones) {
        builder.add_in((*zone).into(), endpoint, 1, None);
    }
    (builder.build_with_zones(Balance::RoundRobin, Some(rule)), endpoints)
}

fn callers(zones: &[(&str, usize)]) -> CallerZones {
    CallerZones(zones.iter().map(|(zone, count)| ((*zone).into(), *count)).collect())
}

/// How often each endpoint is picked, by its number.
fn counts(set: &PickSet, picks: usize) -> BTreeMap<u16, usize> {
    let cursor = Cursor::new(0);
    let mut counts = BTreeMap::new();
    for _ in 0..picks {
        *counts.entry(set.pick(&cursor, &[], &[], true).unwrap().addr.port()).or_default() += 1;
    }
    counts
}

#[tokio::test]
async fn requests_stay_where_the_zone_has_its_share_and_else_as_many_as_make_it_even() {
    let (set, _) = set(&rule("a", 6), &["a", "a", "b", "b", "b", "b"]);
    set.update_zones(Some(&callers(&[("a", 1), ("b", 2)])));
    assert_eq!(counts(&set, 60), [(1, 30), (2, 30)].into(), "a third of each: all stay");
    set.update_zones(Some(&callers(&[("a", 2), ("b", 1)])));
    let even = [(1, 15), (2, 15), (3, 8), (4, 8), (5, 7), (6, 7)];
    let got = counts(&set, 60);
    assert_eq!((got[&1], got[&2]), (15, 15), "exactly a half stays");
    assert!(even[2..].iter().all(|(n, due)| got[n].abs_diff(*due) <= 1), "{got:?}");
    // Without callers that are known each zone has as many: a third for a half.
    set.update_zones(None);
    let got = counts(&set, 3000);
    assert!((got[&1] + got[&2]).abs_diff(2000) <= 2, "{got:?}");
}

#[tokio::test]
async fn with_few_instances_and_for_a_retry_zones_do_not_count() {
    let (set, endpoints) = set(&rule("a", 4), &["a", "b", "b"]);
    set.update_zones(None);
    assert_eq!(counts(&set, 30), [(1, 10), (2, 10), (3, 10)].into());
    assert!(set.zone_shares().is_empty());
    let (set, _) = self::set(&rule("a", 3), &["a", "b", "b"]);
    set.update_zones(Some(&callers(&[("b", 1)])));
    assert_eq!(counts(&set, 30), [(1, 30)].into(), "no caller is known here");
    let cursor = Cursor::new(0);
    let first = set.pick(&cursor, &[], &[], true).unwrap();
    assert!(!Arc::ptr_eq(&first, &set.pick(&cursor, std::slice::from_ref(&first), &[], true).unwrap()));
    drop(endpoints);
}

#[tokio::test]
async fn an_ejected_instance_does_not_count_and_a_zone_without_any_loses_none() {
    let (set, endpoints) = set(&rule("a", 2), &["a", "a", "b", "b"]);
    let callers = callers(&[("a", 1), ("b", 1)]);
    set.update_zones(Some(&callers));
    assert_eq!(counts(&set, 20).len(), 2, "all stay");
    let mut detector = Detector::default();
    let (settings, now) = (config::OutlierDetection::default(), Instant::now().into_std());
    let members = endpoints.iter().map(|one| (one.clone(), Eligibility::InService));
    let _ = detector.set_members(Some(&settings), members, now);
    let _ = detector.advance(now, false);
    let mut eject = |at: usize| {
        let guard = AttemptGuard::begin(endpoints[at].clone(), Some(&settings), true).unwrap();
        let blame = &mut FailureAttribution::default();
        let report = guard.record_end(Some(&settings), blame, Outcome::ConnectRefused, Sent::Nothing, now);
        detector.report(Some(&settings), &endpoints[at], report.unwrap(), now, 0);
    };
    eject(0);
    set.update_zones(Some(&callers));
    // A third for a half: two thirds stay, with the one that is left.
    let got = counts(&set, 3000);
    assert!(got[&2].abs_diff(2000) <= 2 && !got.contains_key(&1), "{got:?}");
    eject(1);
    // Before the shares follow, the others take what the zone cannot.
    assert_eq!(counts(&set, 300).keys().copied().collect::<Vec<_>>(), [3, 4]);
    set.update_zones(Some(&callers));
    assert_eq!(counts(&set, 300), [(3, 150), (4, 150)].into());
}

#[test]
fn the_zone_is_in_the_metadata_of_the_instance_or_of_its_node() {
    let from = rule("a", 1).from;
    let meta = |zone: &str| Arc::new(BTreeMap::from([("zone".to_owned(), zone.to_owned())]));
    let node = |zone: &str| {
        let node = Arc::new(NodeFacts { meta: meta(zone), ..NodeFacts::default() });
        Arc::new(InstanceFacts { node, ..InstanceFacts::default() })
    };
    let plain = instance("n", "1", HealthStatus::Passing);
    assert_eq!(&*zone_of(&plain, &from), "");
    let by_node = Instance { facts: node("b"), ..plain.clone() };
    assert_eq!(&*zone_of(&by_node, &from), "b");
    let by_both = Instance { meta: meta("c"), ..by_node.clone() };
    assert_eq!(&*zone_of(&by_both, &from), "c");
    let ill = Instance { status: HealthStatus::Critical, ..by_both.clone() };
    assert_eq!(
        CallerZones::of(&[by_both, by_node.clone(), ill, by_node], &from),
        callers(&[("b", 2), ("c", 1)])
    );
}
