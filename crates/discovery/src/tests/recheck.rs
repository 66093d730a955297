//! Answers in which many instances are gone at once.

use std::{sync::atomic::Ordering::Relaxed, time::Duration};

use outrigger_registry::{Consistency, Cursor, HealthStatus, Instance, WatchAnswer};
use tokio::time::{Instant, sleep};

use super::{PendingQuery, Rig, addr, ids, instance, list, log_capture, no_leader, settle, unreachable};
use crate::Follower;

const MS: Duration = Duration::from_millis(1);
const ORDERS: &str = "datacenter=\"\",service=\"orders\"";

/// A service with the instances `listed`, of which `answering` still answer after an empty answer.
async fn follow_then_answer_empty(
    rig: &mut Rig,
    listed: &[&str],
    answering: &[&str],
) -> (Follower, PendingQuery) {
    let (follower, asked) = rig.follow_and_answer("orders", list(7, listed)).await;
    rig.liveness.set_accepting(answering);
    asked.answer(list(8, &[]));
    let asked = rig.next().await;
    (follower, asked)
}

fn suspect_updates(rig: &Rig, reason: &str) -> f64 {
    let name = format!(
        "outrigger_registry_suspect_updates_total{{datacenter=\"\",reason=\"{reason}\",service=\"orders\"}}"
    );
    rig.metric(&name).unwrap()
}

fn suspects(follower: &Follower) -> Vec<String> {
    follower.status().suspects.iter().map(|id| id.id.to_string()).collect()
}

#[tokio::test(start_paused = true)]
async fn an_empty_answer_is_followed_at_once_by_a_consistent_read() {
    let mut rig = Rig::new();
    let start = Instant::now();
    let (follower, asked) = follow_then_answer_empty(&mut rig, &["a", "b"], &["a", "b"]).await;
    assert_eq!((asked.cursor, asked.consistency), (Cursor::START, Consistency::Consistent));
    assert!(asked.at - start < 10 * MS, "{:?}", asked.at - start);
    assert_eq!(ids(&follower), ["a", "b"]);
    assert_eq!(suspects(&follower), ["a", "b"]);
    assert_eq!(suspect_updates(&rig, "empty"), 1.0);
    assert_eq!(rig.metric(&format!("outrigger_suspect_instances{{{ORDERS}}}")), Some(2.0));
}

#[tokio::test(start_paused = true)]
async fn one_empty_answer_loses_no_instance_and_the_watch_goes_on() {
    let mut rig = Rig::new();
    let (mut follower, asked) = rig.follow_and_answer("orders", list(7, &["a", "b"])).await;
    let before = follower.changed().await;
    rig.liveness.set_accepting(&["a", "b"]);
    asked.answer(list(8, &[]));
    rig.next().await.answer(list(9, &["a", "b"]));
    let asked = rig.next().await;
    assert_eq!((asked.cursor, asked.consistency), (Cursor::at(9), Consistency::Default));
    assert!(std::sync::Arc::ptr_eq(&before, &follower.snapshot()), "no follower woke");
    assert!(suspects(&follower).is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_service_scaled_to_zero_is_gone_in_a_moment() {
    let mut rig = Rig::new();
    let (mut follower, asked) = rig.follow_and_answer("orders", list(7, &["a", "b", "c"])).await;
    follower.changed().await;
    let start = Instant::now();
    asked.answer(list(8, &[]));
    assert!(follower.changed().await.instances.is_empty());
    assert!(start.elapsed() < 10 * MS, "{:?}", start.elapsed());
    let asked = rig.next().await;
    assert_eq!((asked.cursor, asked.consistency), (Cursor::at(8), Consistency::Default));
}

#[tokio::test(start_paused = true)]
async fn suspects_that_do_not_answer_are_dropped_and_the_others_stay() {
    let mut rig = Rig::new();
    let (follower, _asked) = follow_then_answer_empty(&mut rig, &["a", "b", "c"], &["b"]).await;
    assert_eq!(ids(&follower), ["b"]);
    assert_eq!(suspects(&follower), ["b"]);
}

#[tokio::test(start_paused = true)]
async fn a_suspect_that_stops_answering_is_dropped_before_the_next_query() {
    let mut rig = Rig::new();
    let (follower, asked) = follow_then_answer_empty(&mut rig, &["a", "b"], &["a", "b"]).await;
    rig.liveness.set_accepting(&["b"]);
    asked.answer(list(8, &[]));
    let asked = rig.next().await;
    assert_eq!((ids(&follower), asked.consistency), (vec!["b".into()], Consistency::Consistent));
}

#[tokio::test(start_paused = true)]
async fn a_loss_confirmed_for_more_than_a_second_is_accepted() {
    let mut rig = Rig::new();
    let (follower, asked) = rig.follow_and_answer("orders", list(7, &["a", "b", "c"])).await;
    rig.liveness.set_accepting(&["a", "b"]);
    let start = Instant::now();
    asked.answer(list(8, &["c"]));
    let mut asked = rig.next().await;
    let mut reads = Vec::new();
    while asked.consistency == Consistency::Consistent {
        assert_eq!(ids(&follower), ["a", "b", "c"]);
        reads.push((asked.at - start).as_millis());
        asked.answer(list(8, &["c"]));
        asked = rig.next().await;
    }
    assert_eq!(ids(&follower), ["c"]);
    assert_eq!(reads.len(), 4, "at once and every 400 ms: {reads:?}");
    assert!((1_000..1_500).contains(&start.elapsed().as_millis()), "{:?}", start.elapsed());
    assert_eq!(asked.cursor, Cursor::at(8));
    assert_eq!(suspect_updates(&rig, "collapsed"), 1.0, "repeated answers count as one suspect answer");
}

#[tokio::test(start_paused = true)]
async fn all_instances_of_a_restarted_agent_are_kept_for_ten_seconds_of_answers() {
    let mut rig = Rig::new();
    let (follower, mut asked) = follow_then_answer_empty(&mut rig, &["a", "b"], &["a", "b"]).await;
    let stopping = Instant::now();
    while stopping.elapsed() < Duration::from_secs(5) {
        assert_eq!(asked.consistency, Consistency::Consistent);
        asked.answer(list(8, &[]));
        asked = rig.next().await;
    }
    let away = Instant::now();
    while away.elapsed() < Duration::from_secs(60) || asked.consistency == Consistency::Stale {
        asked.fail(no_leader());
        asked = rig.next().await;
    }
    let back = Instant::now();
    while back.elapsed() < Duration::from_secs(9) {
        asked.answer(list(9, &[]));
        asked = rig.next().await;
        assert_eq!(ids(&follower), ["a", "b"], "{:?} after it is back", back.elapsed());
    }
    asked.answer(list(10, &["a", "b"]));
    rig.next().await;
    assert_eq!((ids(&follower).len(), suspects(&follower).len()), (2, 0));
}

/// Answers `[]` at `index` until the loss is accepted. Returns when it was, and the next query.
async fn answer_empty_until_accepted(
    rig: &mut Rig,
    mut asked: PendingQuery,
    index: u64,
) -> (Instant, PendingQuery) {
    while asked.consistency == Consistency::Consistent {
        asked.answer(list(index, &[]));
        asked = rig.next().await;
    }
    (asked.at, asked)
}

#[tokio::test(start_paused = true)]
async fn an_empty_answer_at_an_old_index_is_believed_after_ten_seconds() {
    for index in [7, 6] {
        let mut rig = Rig::new();
        let (follower, asked) = rig.follow_and_answer("orders", list(7, &["a", "b"])).await;
        rig.liveness.set_accepting(&["a", "b"]);
        let start = Instant::now();
        asked.answer(list(index, &[]));
        let asked = rig.next().await;
        let (accepted_at, _asked) = answer_empty_until_accepted(&mut rig, asked, index).await;
        let took = (accepted_at - start).as_millis();
        assert!((10_000..10_800).contains(&took), "index {index}: {took} ms");
        assert!(ids(&follower).is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn a_fault_of_less_than_ten_seconds_loses_no_instance() {
    let mut rig = Rig::new();
    let (follower, asked) = rig.follow_and_answer("orders", list(7, &["a", "b"])).await;
    rig.liveness.set_accepting(&["a", "b"]);
    let start = Instant::now();
    asked.answer(list(7, &[]));
    let mut asked = rig.next().await;
    while start.elapsed() < Duration::from_millis(9_500) {
        assert_eq!(ids(&follower), ["a", "b"], "after {:?}", start.elapsed());
        asked.answer(list(7, &[]));
        asked = rig.next().await;
    }
    asked.answer(list(7, &["a", "b"]));
    rig.next().await;
    assert_eq!((ids(&follower), follower.status().presumed_gone), (vec!["a".into(), "b".into()], None));
}

#[tokio::test(start_paused = true)]
async fn an_error_restarts_the_confirmation() {
    let mut rig = Rig::new();
    let (follower, mut asked) = follow_then_answer_empty(&mut rig, &["a"], &["a"]).await;
    for _ in 0..5 {
        // 400 ms, then an error with its pause: each series of confirmations is shorter than a second.
        for _ in 0..2 {
            asked.answer(list(8, &[]));
            asked = rig.next().await;
        }
        assert_eq!(ids(&follower), ["a"]);
        asked.fail(unreachable());
        asked = rig.next().await;
    }
    assert_eq!(ids(&follower), ["a"]);
}

#[tokio::test(start_paused = true)]
async fn instances_presumed_gone_are_in_the_status_until_listed_again() {
    let mut rig = Rig::new();
    let (follower, asked) = follow_then_answer_empty(&mut rig, &["a", "b", "c"], &["a", "b"]).await;
    let (_, asked) = answer_empty_until_accepted(&mut rig, asked, 8).await;
    sleep(Duration::from_secs(3)).await;
    let presumed_gone = |follower: &Follower| {
        follower.status().presumed_gone.map(|(instances, ago)| (instances, ago.as_secs()))
    };
    assert_eq!(presumed_gone(&follower), Some((2, 3)), "without c, which did not answer");
    asked.answer(list(9, &["b"]));
    let asked = rig.next().await;
    assert_eq!(presumed_gone(&follower).map(|(instances, _)| instances), Some(1));
    sleep(Duration::from_secs(600)).await;
    assert_eq!(presumed_gone(&follower), None, "after ten minutes");
    drop(asked);
}

#[tokio::test(start_paused = true)]
async fn instances_lost_by_mistake_are_found_again_at_the_same_index() {
    let mut rig = Rig::new();
    let (follower, asked) = follow_then_answer_empty(&mut rig, &["a"], &["a"]).await;
    let (accepted_at, mut asked) = answer_empty_until_accepted(&mut rig, asked, 8).await;
    let mut reads = Vec::new();
    while (asked.at - accepted_at) < Duration::from_secs(120) {
        if asked.cursor == Cursor::START {
            reads.push((asked.at - accepted_at).as_secs_f64());
        } else {
            assert_eq!(asked.cursor, Cursor::at(8));
            sleep(asked.wait).await;
        }
        asked.answer(list(8, &[]));
        asked = rig.next().await;
    }
    assert!(reads[0] < 1.5 && reads[1] < 4.0, "{reads:?}");
    let pauses: Vec<_> = reads.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(pauses.iter().all(|pause| *pause < 6.0), "always short: {pauses:?}");
    assert!(reads.len() < 40, "and not too many: {pauses:?}");
    while asked.cursor != Cursor::START {
        sleep(asked.wait).await;
        asked.answer(list(8, &[]));
        asked = rig.next().await;
    }
    asked.answer(list(8, &["a"]));
    rig.next().await;
    assert_eq!(ids(&follower), ["a"]);
}

#[tokio::test(start_paused = true)]
async fn a_registry_that_repeats_its_mistake_without_blocking_is_asked_every_few_seconds() {
    let mut rig = Rig::new();
    let (_follower, asked) = follow_then_answer_empty(&mut rig, &["a"], &["a"]).await;
    let (accepted_at, mut asked) = answer_empty_until_accepted(&mut rig, asked, 8).await;
    let mut last = accepted_at;
    let mut queries = 0;
    while asked.at - accepted_at < Duration::from_secs(120) {
        assert!(asked.at - last < Duration::from_secs(5), "{:?} without a query", asked.at - last);
        last = asked.at;
        queries += 1;
        asked.answer(list(8, &[]));
        asked = rig.next().await;
    }
    assert!(queries < 60, "{queries} queries in two minutes");
    sleep(Duration::from_secs(600)).await;
    for _ in 0..20 {
        last = asked.at;
        asked.answer(list(8, &[]));
        asked = rig.next().await;
    }
    assert!(asked.at - last > Duration::from_secs(10), "{:?}: no longer presumed gone", asked.at - last);
}

#[tokio::test(start_paused = true)]
async fn a_registry_that_lost_its_data_is_believed_after_ten_seconds() {
    for flagged in [true, false] {
        let mut rig = Rig::new();
        let (follower, asked) = rig.follow_and_answer("orders", list(700, &["a", "b", "c"])).await;
        rig.liveness.set_accepting(&["a", "b", "c"]);
        let start = Instant::now();
        let forgotten =
            || WatchAnswer { index_went_back: flagged, ..list(if flagged { 0 } else { 15 }, &["a"]) };
        asked.answer(forgotten());
        loop {
            let asked = rig.next().await;
            if asked.consistency == Consistency::Default {
                break;
            }
            assert_eq!(ids(&follower), ["a", "b", "c"], "after {:?}", start.elapsed());
            asked.answer(list(16, &["a"]));
        }
        assert_eq!(ids(&follower), ["a"]);
        let took = start.elapsed();
        assert!((10_000..11_000).contains(&took.as_millis()), "{took:?}, flagged: {flagged}");
        assert_eq!(suspect_updates(&rig, "index_went_back"), 1.0);
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_without_an_index_counts_as_an_index_that_went_back() {
    let mut rig = Rig::new();
    let (_follower, asked) = rig.follow_and_answer("orders", list(700, &["a"])).await;
    rig.liveness.set_accepting(&["a"]);
    asked.answer(list(0, &[]));
    rig.next().await;
    assert_eq!(suspect_updates(&rig, "index_went_back"), 1.0);
}

#[tokio::test(start_paused = true)]
async fn losing_more_than_half_is_suspect_and_half_is_not() {
    let mut rig = Rig::new();
    let (follower, asked) = rig.follow_and_answer("orders", list(7, &["a", "b", "c", "d"])).await;
    rig.liveness.set_accepting(&["a", "b", "c", "d"]);
    asked.answer(list(8, &["c", "d"]));
    let asked = rig.next().await;
    assert_eq!((ids(&follower), asked.consistency), (vec!["c".into(), "d".into()], Consistency::Default));

    // Within 2 s the two losses would count as one.
    sleep(Duration::from_secs(2)).await;
    asked.answer(list(9, &["e"]));
    let asked = rig.next().await;
    assert_eq!(asked.consistency, Consistency::Consistent);
    assert_eq!(
        (ids(&follower), suspects(&follower)),
        (["c", "d", "e"].map(String::from).into(), ["c", "d"].map(String::from).into(),)
    );
    assert_eq!(suspect_updates(&rig, "collapsed"), 1.0);
}

#[tokio::test(start_paused = true)]
async fn an_orderly_drain_is_never_delayed() {
    for status in [HealthStatus::Critical, HealthStatus::Maintenance] {
        let mut rig = Rig::new();
        let (follower, asked) = rig.follow_and_answer("orders", list(7, &["a"])).await;
        rig.liveness.set_accepting(&["a"]);
        asked.answer(WatchAnswer { instances: vec![instance("a", status)], ..list(8, &[]) });
        rig.next().await.answer(list(9, &[]));
        let asked = rig.next().await;
        assert_eq!((ids(&follower).len(), asked.consistency), (0, Consistency::Default));
    }
}

#[tokio::test(start_paused = true)]
async fn an_instance_registered_again_under_another_id_is_not_listed_twice() {
    let mut rig = Rig::new();
    let (follower, asked) = rig.follow_and_answer("orders", list(7, &["a"])).await;
    rig.liveness.set_accepting(&["a"]);
    let renamed = Instance { addr: Ok(addr("a")), ..instance("z", HealthStatus::Passing) };
    asked.answer(WatchAnswer { instances: vec![renamed], ..list(8, &[]) });
    rig.next().await;
    assert_eq!((ids(&follower), suspects(&follower).len()), (vec!["z".into()], 0));
}

#[tokio::test(start_paused = true)]
async fn a_suspect_whose_address_another_service_lists_is_dropped_at_once() {
    let mut rig = Rig::new();
    let (follower, orders) = rig.follow_and_answer("orders", list(7, &["a", "b"])).await;
    let reused = Instance { addr: Ok(addr("a")), ..instance("p", HealthStatus::Passing) };
    let payments = WatchAnswer { instances: vec![reused], ..list(8, &[]) };
    let (_payments, _asked) = rig.follow_and_answer("payments", payments).await;
    rig.liveness.set_accepting(&["a", "b"]);
    orders.answer(list(9, &[]));
    rig.next().await;
    assert_eq!(ids(&follower), ["b"]);
}

#[tokio::test(start_paused = true)]
async fn of_two_services_with_one_address_that_both_vanish_the_second_is_kept() {
    let mut rig = Rig::new();
    let (orders, asked_orders) = rig.follow_and_answer("orders", list(7, &["a"])).await;
    let (admin, asked_admin) = rig.follow_and_answer("admin", list(7, &["a"])).await;
    rig.liveness.set_accepting(&["a"]);
    // Both list the address: the service that vanishes first loses its suspect by the rule of the test above.
    asked_orders.answer(list(8, &[]));
    rig.next().await;
    assert!(ids(&orders).is_empty());
    asked_admin.answer(list(8, &[]));
    let asked = rig.next().await;
    assert_eq!((ids(&admin), asked.consistency), (vec!["a".into()], Consistency::Consistent));
}

#[tokio::test(start_paused = true)]
async fn recent_traffic_keeps_a_suspect_that_accepts_no_connection() {
    let mut rig = Rig::new();
    rig.liveness.set_serving(&["b"]);
    let (follower, _asked) = follow_then_answer_empty(&mut rig, &["a", "b"], &[]).await;
    assert_eq!(ids(&follower), ["b"]);
}

#[tokio::test(start_paused = true)]
async fn lost_nodes_are_kept_while_traffic_to_them_succeeds() {
    let lost = |index| {
        let one = |id| Instance { node_lost: true, ..instance(id, HealthStatus::Critical) };
        WatchAnswer { instances: vec![one("a"), one("b")], ..list(index, &[]) }
    };
    let mut rig = Rig::new();
    let (follower, asked) = rig.follow_and_answer("orders", list(7, &["a", "b"])).await;
    rig.liveness.set_serving(&["a", "b"]);
    asked.answer(lost(8));
    let asked = rig.next().await;
    assert_eq!(follower.status().instances.passing, 2);
    assert_eq!(suspect_updates(&rig, "nodes_lost"), 1.0);

    rig.liveness.set_serving(&["b"]);
    rig.liveness.set_accepting(&["a", "b"]);
    asked.answer(lost(8));
    rig.next().await;
    let counts = follower.status().instances;
    assert_eq!(
        (counts.passing, counts.critical),
        (1, 1),
        "a connection is no evidence for an instance on a lost node"
    );
}

#[tokio::test(start_paused = true)]
async fn while_the_registry_fails_suspects_stay_and_reads_use_the_default_consistency() {
    let mut rig = Rig::new();
    let start = Instant::now();
    let (follower, mut asked) = follow_then_answer_empty(&mut rig, &["a"], &["a"]).await;
    assert_eq!(asked.consistency, Consistency::Consistent);
    while start.elapsed() < Duration::from_secs(60) {
        asked.fail(no_leader());
        asked = rig.next().await;
        assert_ne!(asked.consistency, Consistency::Consistent, "no consistent read after an error");
        assert_eq!(ids(&follower), ["a"]);
    }
    while asked.consistency == Consistency::Stale {
        asked.fail(no_leader());
        asked = rig.next().await;
    }
    let back = Instant::now();
    asked.answer(list(9, &[]));
    asked = rig.next().await;
    while asked.consistency == Consistency::Consistent {
        assert_eq!(ids(&follower), ["a"]);
        asked.answer(list(9, &[]));
        asked = rig.next().await;
    }
    assert!(ids(&follower).is_empty());
    assert!((10_000..11_000).contains(&back.elapsed().as_millis()), "{:?} of answers", back.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_silent_registry_drops_no_suspect() {
    let mut rig = Rig::new();
    let (follower, _asked) = follow_then_answer_empty(&mut rig, &["a"], &["a"]).await;
    sleep(Duration::from_secs(24 * 3600)).await;
    assert_eq!(ids(&follower), ["a"]);
}

#[tokio::test(start_paused = true)]
async fn eight_probes_run_at_once_over_all_services_and_end_after_300_ms() {
    let mut rig = Rig::new();
    let names: Vec<_> = (0..20).map(|n| format!("i{n}")).collect();
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    let (follower, orders) = rig.follow_and_answer("orders", list(7, &names)).await;
    let others: Vec<_> = names.iter().map(|name| format!("p-{name}")).collect();
    let others: Vec<_> = others.iter().map(String::as_str).collect();
    let (other, payments) = rig.follow_and_answer("payments", list(7, &others)).await;
    rig.liveness.set_accepting(&[names, others].concat());
    *rig.liveness.delay.lock().unwrap() = Duration::from_secs(3600);
    let start = Instant::now();
    orders.answer(list(8, &[]));
    payments.answer(list(8, &[]));
    while !ids(&follower).is_empty() || !ids(&other).is_empty() {
        settle().await;
        assert!(start.elapsed() < Duration::from_secs(4), "{:?}", start.elapsed());
    }
    assert_eq!(rig.liveness.asked.load(Relaxed), 40);
    assert_eq!(rig.liveness.most_at_once.load(Relaxed), 8);
    // 40 in five rounds of eight, 300 ms each.
    assert!((1_500..1_600).contains(&start.elapsed().as_millis()), "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_guard_that_is_off_believes_everything() {
    let mut rig = Rig::with(outrigger_config::DiscoverySettings { mass_loss: None, ..Default::default() });
    let (follower, asked) = follow_then_answer_empty(&mut rig, &["a", "b"], &["a", "b"]).await;
    assert_eq!((ids(&follower).len(), asked.consistency), (0, Consistency::Default));
}

#[tokio::test(start_paused = true)]
async fn a_suspect_answer_is_one_warning_and_a_real_loss_none() {
    log_capture::take();
    let mut rig = Rig::new();
    let (_follower, asked) = follow_then_answer_empty(&mut rig, &["a", "b", "c"], &["a", "b"]).await;
    asked.answer(list(8, &[]));
    rig.next().await.answer(list(9, &["a", "b"]));
    rig.next().await;
    let logged = log_capture::take();
    let of = |what: &str| logged.iter().filter(|line| line.contains(what)).count();
    assert_eq!(of("WARN"), 1, "{logged:?}");
    assert_eq!(of("the registry's answer is suspect"), 1, "{logged:?}");
    assert_eq!(of("suspect instances are listed again"), 1, "{logged:?}");

    let mut rig = Rig::new();
    follow_then_answer_empty(&mut rig, &["a", "b"], &[]).await;
    let logged = log_capture::take();
    assert!(!logged.iter().any(|line| line.contains("WARN")), "{logged:?}");
    assert!(logged.iter().any(|line| line.contains("do not answer either")), "{logged:?}");
}

#[tokio::test]
async fn without_a_proxy_a_real_connection_decides() {
    let mut rig = Rig::new();
    rig.discovery.set_liveness(std::sync::Arc::new(crate::suspects::ConnectProbe));
    let there = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let at = |id, listener: &std::net::TcpListener| Instance {
        addr: Ok(listener.local_addr().unwrap()),
        ..instance(id, HealthStatus::Passing)
    };
    let both = vec![at("gone", &gone), at("there", &there)];
    let (follower, asked) =
        rig.follow_and_answer("orders", WatchAnswer { instances: both, ..list(7, &[]) }).await;
    drop(gone);
    asked.answer(list(8, &[]));
    rig.next().await;
    assert_eq!((ids(&follower), suspects(&follower)), (vec!["there".into()], vec!["there".into()]));
}

#[tokio::test(start_paused = true)]
async fn a_guard_that_is_turned_off_keeps_no_suspect_after_the_next_answer() {
    let mut rig = Rig::new();
    let (follower, asked) = follow_then_answer_empty(&mut rig, &["a", "b"], &["a", "b"]).await;
    assert_eq!(suspects(&follower), ["a", "b"]);
    rig.discovery
        .apply_settings(outrigger_config::DiscoverySettings { mass_loss: None, ..Default::default() });
    asked.answer(list(8, &[]));
    let asked = rig.next().await;
    assert!(ids(&follower).is_empty() && suspects(&follower).is_empty());
    assert_eq!(asked.consistency, Consistency::Default);
}
