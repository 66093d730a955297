//! A watch without errors.

use std::time::Duration;

use outrigger_registry::{Consistency, Cursor, HealthStatus, testing::LONGEST_WAIT};
use tokio::time::{Instant, sleep, timeout};

use super::{Rig, ids, instance, list, settle};
use crate::Knowledge;

#[tokio::test(start_paused = true)]
async fn an_on_demand_service_is_asked_for_at_once() {
    let mut rig = Rig::new();
    let start = Instant::now();
    let _follower = rig.follow("orders");
    let asked = rig.next().await;
    assert_eq!((asked.at, &*asked.query.service), (start, "orders"));
    assert_eq!((asked.cursor, asked.consistency), (Cursor::START, Consistency::Default));
}

#[tokio::test(start_paused = true)]
async fn declared_services_are_asked_for_within_100_ms() {
    let mut rig = Rig::new();
    let start = Instant::now();
    let _followers: Vec<_> = (0..200).map(|n| rig.declare(&format!("s{n}"))).collect();
    let mut early = 0;
    for _ in 0..200 {
        let after = rig.next().await.at - start;
        assert!(after <= Duration::from_millis(101), "{after:?}");
        early += usize::from(after < Duration::from_millis(50));
    }
    assert!((40..160).contains(&early), "{early} of 200 in the first half");
}

#[tokio::test(start_paused = true)]
async fn an_answer_is_in_the_snapshot_and_wakes_its_followers() {
    let mut rig = Rig::new();
    let mut follower = rig.follow("orders");
    assert_eq!(follower.snapshot().knowledge, Knowledge::Unasked);
    let asked = rig.next().await;
    asked.answer(list(7, &["b", "a"]));
    follower.first_answer().await;
    assert_eq!(follower.changed().await.version, 1);
    assert_eq!(
        (ids(&follower), follower.snapshot().knowledge),
        (vec!["a".into(), "b".into()], Knowledge::Answered)
    );

    let asked = rig.next().await;
    assert_eq!(asked.cursor, Cursor::at(7));
    asked.answer(list(8, &["b"]));
    assert_eq!(follower.changed().await.version, 2);
    assert_eq!(ids(&follower), ["b"]);
}

#[tokio::test(start_paused = true)]
async fn an_empty_first_answer_is_an_answer() {
    let mut rig = Rig::new();
    let (follower, _asked) = rig.follow_and_answer("empty", list(7, &[])).await;
    follower.first_answer().await;
    let snapshot = follower.snapshot();
    assert_eq!((snapshot.knowledge, snapshot.instances.len()), (Knowledge::Answered, 0));
    assert!(!follower.ever_had_instances());
    assert_eq!(follower.status().empty_hint, Some("may be the token"));
}

#[tokio::test(start_paused = true)]
async fn an_unchanged_answer_swaps_nothing_and_wakes_no_follower() {
    let mut rig = Rig::new();
    let (mut follower, asked) = rig.follow_and_answer("orders", list(7, &["a", "b"])).await;
    let before = follower.changed().await;
    sleep(Duration::from_secs(20)).await;
    asked.answer(list(9, &["b", "a"])); // the same instances in another order at another index
    let asked = rig.next().await;
    assert_eq!(asked.cursor, Cursor::at(9));
    assert!(std::sync::Arc::ptr_eq(&before, &follower.snapshot()));
    assert!(timeout(Duration::from_secs(60), follower.changed()).await.is_err());
    let status = follower.status();
    assert_eq!(
        (status.learned_ago, status.confirmed_ago),
        (Some(Duration::from_secs(80)), Some(Duration::from_secs(60)))
    );
    drop(asked);
}

#[tokio::test(start_paused = true)]
async fn a_change_of_status_alone_is_a_change() {
    let mut rig = Rig::new();
    let (follower, asked) = rig.follow_and_answer("orders", list(7, &["a"])).await;
    let mut answer = list(8, &[]);
    answer.instances = vec![instance("a", HealthStatus::Critical)];
    asked.answer(answer);
    settle().await;
    let counts = follower.status().instances;
    assert_eq!((counts.passing, counts.critical, counts.total()), (0, 1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_slow_follower_gets_only_the_latest_snapshot() {
    let mut rig = Rig::with(outrigger_config::DiscoverySettings { mass_loss: None, ..Default::default() });
    let mut follower = rig.follow("orders");
    for index in 1..=3 {
        rig.next().await.answer(list(index, &[&index.to_string()]));
    }
    settle().await;
    assert_eq!(follower.changed().await.version, 3);
    assert!(timeout(Duration::from_secs(1), follower.changed()).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn waits_are_between_two_thirds_and_all_of_the_longest_wait() {
    let mut rig = Rig::new();
    let services: Vec<_> = (0..200).map(|n| rig.declare(&format!("s{n}"))).collect();
    let mut long = 0;
    for _ in &services {
        let wait = rig.next().await.wait;
        assert!((LONGEST_WAIT * 2 / 3..=LONGEST_WAIT).contains(&wait), "{wait:?}");
        long += usize::from(wait > LONGEST_WAIT * 5 / 6);
    }
    assert!((40..160).contains(&long), "{long} of 200 in the upper half");
}

#[tokio::test(start_paused = true)]
async fn a_full_re_read_follows_about_every_five_minutes() {
    let mut rig = Rig::new();
    let _follower = rig.follow("orders");
    let mut rereads = Vec::new();
    while rereads.len() < 20 {
        let asked = rig.next().await;
        if asked.cursor == Cursor::START {
            rereads.push(asked.at);
        } else {
            sleep(asked.wait).await;
        }
        asked.answer(list(7, &["a"]));
    }
    for pair in rereads.windows(2) {
        let after = (pair[1] - pair[0]).as_secs_f64();
        assert!((240.0..=361.5).contains(&after), "{after} s");
    }
}

#[tokio::test(start_paused = true)]
async fn a_full_re_read_finds_a_change_that_ended_no_query() {
    let mut rig = Rig::new();
    let (follower, mut asked) = rig.follow_and_answer("orders", list(203, &["renamed"])).await;
    while asked.cursor != Cursor::START {
        sleep(asked.wait).await;
        asked.answer(list(203, &["renamed"]));
        asked = rig.next().await;
    }
    asked.answer(list(202, &[])); // as Consul does: the right answer has a lower index
    let asked = rig.next().await;
    assert_eq!((ids(&follower), asked.cursor), (vec![], Cursor::at(202)));
}

#[tokio::test(start_paused = true)]
async fn an_index_that_went_back_resets_the_cursor() {
    for flagged in [true, false] {
        let mut rig = Rig::new();
        let (_follower, asked) = rig.follow_and_answer("orders", list(33, &["a"])).await;
        let mut answer = list(if flagged { 0 } else { 12 }, &["a"]);
        answer.index_went_back = flagged;
        asked.answer(answer);
        let asked = rig.next().await;
        assert_eq!(asked.cursor, Cursor::START);
        asked.answer(list(12, &["a"]));
        assert_eq!(rig.next().await.cursor, Cursor::at(12));
        assert_eq!(rig.metric("outrigger_watch_index_resets_total"), Some(1.0), "flagged: {flagged}");
    }
}
