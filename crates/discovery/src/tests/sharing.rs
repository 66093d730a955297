//! Sharing of watches, their lifetime, and the quotas.

use std::{sync::Arc, time::Duration};

use outrigger_registry::{Cursor, Query};
use tokio::{
    runtime::{Builder, Handle},
    time::{sleep, timeout},
};

use super::{Rig, ids, list, query, scripted, settle};
use crate::{Discovery, FollowError, Follower, Knowledge, WatchReason};

fn quotas(max_services: usize, max_unknown: usize) -> outrigger_config::DiscoverySettings {
    outrigger_config::DiscoverySettings { max_services, max_unknown, ..Default::default() }
}

#[tokio::test(start_paused = true)]
async fn followers_of_one_service_share_one_watch() {
    let mut rig = Rig::new();
    let (one, _asked) = rig.follow_and_answer("orders", list(7, &["a"])).await;
    let other = rig.follow("orders");
    assert!(Arc::ptr_eq(&one.snapshot(), &other.snapshot()));
    assert_eq!(other.status().followers, 2);
    settle().await;
    assert!(rig.asked.try_recv().is_err(), "a second watch");
}

#[tokio::test(start_paused = true)]
async fn another_datacenter_is_another_service() {
    let mut rig = Rig::new();
    let _one = rig.follow("orders");
    let elsewhere = Query { datacenter: Some("dc2".into()), ..query("orders") };
    let _other = rig.discovery.follow(elsewhere.clone(), WatchReason::OnDemand).unwrap();
    assert_eq!(rig.next().await.query, query("orders"));
    assert_eq!(rig.next().await.query, elsewhere);
}

#[tokio::test(start_paused = true)]
async fn the_drop_of_the_last_follower_stops_the_watcher() {
    let mut rig = Rig::new();
    let (one, mut asked) = rig.follow_and_answer("orders", list(7, &["a"])).await;
    let other = rig.follow("orders");
    drop(one);
    settle().await;
    assert!(!asked.is_cancelled(), "one follower is left");
    drop(other);
    timeout(Duration::from_secs(1), asked.cancelled()).await.expect("the query is dropped");
    assert!(rig.discovery.services().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_forgotten_service_is_not_watched_and_its_old_followers_do_not_count_for_a_new_watch() {
    let mut rig = Rig::with(quotas(1, 1));
    let (old, mut asked) = rig.follow_and_answer("orders", list(7, &["a"])).await;
    rig.discovery.forget(&query("orders"));
    timeout(Duration::from_secs(1), asked.cancelled()).await.expect("the query is dropped");
    assert_eq!((ids(&old), rig.discovery.services().len()), (vec!["a".to_owned()], 0));
    let (new, asked) = rig.follow_and_answer("orders", list(8, &["b"])).await;
    old.set_reason(WatchReason::Declared);
    drop(old);
    settle().await;
    assert!(!asked.is_cancelled(), "the new follower is left");
    assert_eq!((new.status().followers, new.status().reason), (1, WatchReason::OnDemand));
    assert_eq!(rig.metric("outrigger_watch_evicted_total"), Some(1.0));
}

#[tokio::test(start_paused = true)]
async fn a_declared_service_is_not_forgotten() {
    let rig = Rig::new();
    let _declared = rig.declare("orders");
    for service in ["orders", "unknown"] {
        rig.discovery.forget(&query(service));
    }
    assert_eq!(rig.discovery.services().len(), 1);
    assert_eq!(rig.metric("outrigger_watch_evicted_total"), Some(0.0));
}

#[tokio::test(start_paused = true)]
async fn a_service_followed_again_starts_unasked() {
    let mut rig = Rig::new();
    let (first, asked) = rig.follow_and_answer("orders", list(7, &["a"])).await;
    drop((first, asked));
    let again = rig.follow("orders");
    assert_eq!((again.snapshot().knowledge, again.snapshot().version), (Knowledge::Unasked, 0));
    rig.next().await.answer(list(7, &["b"]));
    again.first_answer().await;
    assert_eq!(ids(&again), ["b"]);
}

#[tokio::test(start_paused = true)]
async fn an_update_of_one_service_touches_no_other() {
    const SERVICES: usize = 10_000;
    let mut rig = Rig::new();
    let followers: Vec<_> = (0..SERVICES).map(|n| rig.declare(&format!("s{n}"))).collect();
    let mut blocked = Vec::new();
    while blocked.len() < SERVICES {
        let asked = rig.next().await;
        if asked.cursor == Cursor::START {
            asked.answer(list(7, &["a"]));
        } else {
            blocked.push(asked);
        }
    }
    let before: Vec<_> = followers.iter().map(|follower| follower.snapshot()).collect();

    let target = blocked.iter().position(|asked| *asked.query.service == *"s4711").expect("watched");
    blocked.swap_remove(target).answer(list(8, &["a", "b"]));
    assert_eq!(*rig.next().await.query.service, *"s4711");
    for (n, (follower, before)) in followers.iter().zip(&before).enumerate() {
        assert_eq!(Arc::ptr_eq(before, &follower.snapshot()), n != 4711, "s{n}");
    }
    settle().await;
    assert!(rig.asked.try_recv().is_err(), "another watch woke up");
}

#[tokio::test(start_paused = true)]
async fn on_demand_services_beyond_the_quota_are_refused_and_declared_ones_never() {
    let rig = Rig::with(quotas(2, 100));
    let on_demand = |service: &str| rig.discovery.follow(query(service), WatchReason::OnDemand);
    let _declared = rig.declare("declared");
    let one = on_demand("one").expect("the second of two");
    assert_eq!(on_demand("two").unwrap_err(), FollowError::TooManyServices { limit: 2 });
    let _shared = on_demand("declared").expect("watched already");
    let _more = rig.declare("more");
    assert_eq!(on_demand("two").unwrap_err(), FollowError::TooManyServices { limit: 2 });
    assert_eq!(rig.metric("outrigger_watch_refused_total{reason=\"too_many_services\"}"), Some(2.0));
    drop((one, _more));
    on_demand("two").expect("one left");
}

#[tokio::test(start_paused = true)]
async fn names_without_instances_have_their_own_quota() {
    let mut rig = Rig::with(quotas(100, 2));
    let refused = |rig: &Rig| rig.discovery.follow(query("next"), WatchReason::OnDemand).err();
    let full = Some(FollowError::TooManyUnknown { limit: 2 });
    let (known, _a) = rig.follow_and_answer("known", list(7, &["a"])).await;
    let (unknown, b) = rig.follow_and_answer("unknown", list(7, &[])).await;
    let (other, _c) = rig.follow_and_answer("other", list(7, &[])).await;
    assert!(known.ever_had_instances() && !unknown.ever_had_instances());
    assert_eq!(refused(&rig), full);

    let declared = rig.declare("unknown");
    assert_eq!(refused(&rig), None, "a declared name has no quota");
    drop(declared);
    assert_eq!(refused(&rig), full, "on demand again");

    b.answer(list(8, &["b"]));
    let _b = rig.next().await;
    assert_eq!(refused(&rig), None, "it has an instance now");
    let unanswered = rig.follow("unanswered");
    assert_eq!(refused(&rig), None, "a name without an answer may still have instances");
    rig.next().await.answer(list(7, &[]));
    settle().await;
    let next = unanswered;
    assert_eq!(rig.discovery.follow(query("last"), WatchReason::OnDemand).err(), full);
    drop(other);
    let _last = rig.follow("last");
    drop(next);
}

#[tokio::test(start_paused = true)]
async fn who_declares_a_service_can_change_while_it_is_watched() {
    let mut rig = Rig::with(quotas(100, 1));
    let refused = |rig: &Rig| rig.discovery.follow(query("next"), WatchReason::OnDemand).err();
    let (unknown, asked) = rig.follow_and_answer("unknown", list(7, &[])).await;
    unknown.set_reason(WatchReason::Declared);
    assert_eq!((refused(&rig), unknown.status().reason), (None, WatchReason::Declared));
    unknown.set_reason(WatchReason::OnDemand);
    unknown.set_reason(WatchReason::OnDemand);
    assert_eq!(refused(&rig), Some(FollowError::TooManyUnknown { limit: 1 }));
    assert!(!asked.is_cancelled(), "the watch goes on");
    unknown.set_reason(WatchReason::Declared);
    drop(unknown);
    assert!(rig.discovery.services().is_empty());
}

#[tokio::test(start_paused = true)]
async fn lower_quotas_refuse_new_services_and_drop_none() {
    let mut rig = Rig::with(quotas(2, 100));
    let (_one, _a) = rig.follow_and_answer("one", list(7, &["a"])).await;
    let (_two, _b) = rig.follow_and_answer("two", list(7, &["b"])).await;
    let refused = |rig: &Rig| rig.discovery.follow(query("next"), WatchReason::OnDemand).err();
    assert_eq!(refused(&rig), Some(FollowError::TooManyServices { limit: 2 }));
    rig.discovery.apply_settings(quotas(3, 100));
    assert_eq!(refused(&rig), None);
    rig.discovery.apply_settings(quotas(1, 100));
    assert_eq!(refused(&rig), Some(FollowError::TooManyServices { limit: 1 }));
    assert_eq!(rig.discovery.services().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_service_that_lost_its_instances_does_not_count_as_unknown() {
    let mut rig = Rig::with(quotas(100, 1));
    let (follower, asked) = rig.follow_and_answer("orders", list(7, &["a"])).await;
    asked.answer(list(8, &[]));
    settle().await;
    assert!(follower.snapshot().instances.is_empty() && follower.ever_had_instances());
    let _other = rig.follow("other");
}

#[tokio::test(start_paused = true)]
async fn shutdown_stops_every_watcher_and_keeps_the_snapshots() {
    let mut rig = Rig::new();
    let (mut follower, asked) = rig.follow_and_answer("orders", list(7, &["a"])).await;
    follower.changed().await;
    let _unanswered = rig.declare("payments");
    timeout(Duration::from_secs(1), rig.discovery.shutdown()).await.expect("at once");
    assert!(asked.is_cancelled());
    assert_eq!(
        rig.discovery.follow(query("new"), WatchReason::Declared).unwrap_err(),
        FollowError::ShuttingDown
    );
    assert_eq!(ids(&follower), ["a"]);
    assert!(timeout(Duration::from_secs(3600), follower.changed()).await.is_err());
    assert_eq!(rig.discovery.services().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn dropping_discovery_stops_its_watchers() {
    let mut rig = Rig::new();
    let (follower, mut asked) = rig.follow_and_answer("orders", list(7, &["a"])).await;
    drop(rig.discovery);
    timeout(Duration::from_secs(1), asked.cancelled()).await.expect("the query is dropped");
    assert_eq!(ids(&follower), ["a"]);
}

#[tokio::test(start_paused = true)]
async fn services_are_listed_by_name_with_their_status() {
    let mut rig = Rig::new();
    let (_b, _asked) = rig.follow_and_answer("b", list(7, &["x", "y"])).await;
    let _a = rig.declare("a");
    sleep(Duration::from_secs(3)).await;
    let [a, b] = &rig.discovery.services()[..] else { panic!("two services") };
    assert_eq!((&*a.query.service, a.reason, a.knowledge), ("a", WatchReason::Declared, Knowledge::Unasked));
    assert_eq!((a.learned_ago, a.confirmed_ago, a.index), (None, None, 0));
    assert_eq!((&*b.query.service, b.reason, b.version), ("b", WatchReason::OnDemand, 1));
    assert_eq!((b.instances.passing, b.index, b.confirmed_ago), (2, 7, Some(Duration::from_secs(3))));
}

#[test]
fn callers_may_be_on_another_runtime_than_the_watchers() {
    let control = Builder::new_multi_thread().worker_threads(1).enable_time().build().unwrap();
    let (registry, mut asked) = scripted();
    let discovery = Discovery::new(
        registry,
        outrigger_config::DiscoverySettings::default(),
        control.handle().clone(),
        &prometheus::Registry::new(),
    )
    .unwrap();
    assert!(Handle::try_current().is_err(), "this thread has no runtime");
    let mut follower = discovery.follow(query("orders"), WatchReason::OnDemand).unwrap();
    asked.blocking_recv().unwrap().answer(list(7, &["a"]));

    let data = Builder::new_current_thread().enable_time().build().unwrap();
    let changed = data.block_on(async {
        timeout(Duration::from_secs(30), follower.first_answer()).await.expect("an answer");
        follower.changed().await
    });
    assert_eq!(changed.version, 1);
    data.block_on(discovery.shutdown());
}

#[test]
fn a_follower_may_be_used_on_any_thread() {
    fn anywhere<T: Send + Sync>() {}
    fn sent<T: Send>(_: impl Fn(&'static mut Follower) -> T) {}
    anywhere::<Follower>();
    anywhere::<Discovery>();
    sent(|follower| follower.changed());
    sent(|follower| follower.first_answer());
}

#[tokio::test(start_paused = true)]
async fn a_look_up_alone_counts_in_no_quota_and_is_none_of_a_service_in_use() {
    let mut rig = Rig::with(quotas(1, 1));
    let follow = |rig: &Rig, service: &str, reason| rig.discovery.follow(query(service), reason);
    let first = follow(&rig, "first", WatchReason::Lookup).unwrap();
    rig.next().await.answer(list(7, &[]));
    let _second = follow(&rig, "second", WatchReason::Lookup).expect("no quota applies");
    assert_eq!(first.status().reason, WatchReason::Lookup);
    assert_eq!(rig.metric("outrigger_watched_services{kind=\"lookup\"}"), Some(2.0));

    let in_use = follow(&rig, "orders", WatchReason::OnDemand).expect("the first of one");
    let full = Some(FollowError::TooManyServices { limit: 1 });
    assert_eq!(follow(&rig, "first", WatchReason::OnDemand).err(), full, "that it is looked up is no place");
    let looked_up = follow(&rig, "orders", WatchReason::Lookup).expect("watched already");
    assert_eq!(looked_up.status().reason, WatchReason::OnDemand);
    drop(in_use);
    assert_eq!(looked_up.status().reason, WatchReason::Lookup);
    assert!(looked_up.is_watched());
    let _next = follow(&rig, "first", WatchReason::OnDemand).expect("the place is free");
    rig.discovery.forget(&query("orders"));
    assert!(!looked_up.is_watched());
    drop((first, looked_up));
    assert_eq!(rig.metric("outrigger_watched_services{kind=\"lookup\"}"), Some(1.0));
}
