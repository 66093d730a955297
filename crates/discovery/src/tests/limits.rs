//! How often a registry that answers too fast is asked.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::{Rig, list, unreachable};

#[tokio::test(start_paused = true)]
async fn a_registry_that_answers_at_once_without_a_change_is_asked_four_times_a_minute() {
    let mut rig = Rig::new();
    let _follower = rig.follow("orders");
    let start = Instant::now();
    let mut asked_at = Vec::new();
    while start.elapsed() < Duration::from_secs(600) {
        let asked = rig.next().await;
        asked_at.push(asked.at - start);
        asked.answer(list(7, &["a"]));
    }
    let late = asked_at.iter().filter(|at| at.as_secs() >= 60).count();
    assert!((30..=40).contains(&late), "{late} queries in the last nine minutes");
    assert!(asked_at.len() - late <= 12, "{} in the first", asked_at.len() - late);
    assert!(rig.metric("outrigger_watch_limited_total") >= Some(30.0));
}

#[tokio::test(start_paused = true)]
async fn the_limit_ends_once_the_registry_blocks_again() {
    let mut rig = Rig::new();
    let _follower = rig.follow("orders");
    for _ in 0..30 {
        rig.next().await.answer(list(7, &["a"]));
    }
    let asked = rig.next().await;
    sleep(asked.wait).await;
    asked.answer(list(7, &["a"]));
    let answered_at = Instant::now();
    for index in 8..10 {
        let asked = rig.next().await;
        assert!(asked.at - answered_at < Duration::from_millis(110), "{:?}", asked.at - answered_at);
        asked.answer(list(index, &[&index.to_string()]));
    }
}

#[tokio::test(start_paused = true)]
async fn a_registry_that_blocks_and_then_fails_is_not_limited() {
    let mut rig = Rig::new();
    let (_follower, mut asked) = rig.follow_and_answer("orders", list(7, &["a"])).await;
    for _ in 0..20 {
        sleep(Duration::from_secs(20)).await;
        asked.fail(unreachable());
        rig.next().await.answer(list(7, &["a"]));
        let answered_at = Instant::now();
        asked = rig.next().await;
        assert!(asked.at - answered_at < Duration::from_millis(110), "{:?}", asked.at - answered_at);
    }
}

#[tokio::test(start_paused = true)]
async fn two_changes_a_second_are_never_delayed() {
    let mut rig = Rig::new();
    let (_follower, mut asked) = rig.follow_and_answer("orders", list(1, &["0"])).await;
    for index in 2..200_u64 {
        sleep(Duration::from_millis(500)).await;
        let changed_at = Instant::now();
        asked.answer(list(index, &[&index.to_string()]));
        asked = rig.next().await;
        assert!(asked.at - changed_at <= Duration::from_millis(1), "{:?}", asked.at - changed_at);
    }
    assert_eq!(rig.metric("outrigger_watch_limited_total"), Some(0.0));
}

#[tokio::test(start_paused = true)]
async fn a_service_that_changes_all_the_time_is_read_once_a_second() {
    let mut rig = Rig::new();
    let _follower = rig.follow("orders");
    let start = Instant::now();
    let (mut last, mut queries, mut index) = (start, 0, 0);
    while start.elapsed() < Duration::from_secs(60) {
        let asked = rig.next().await;
        assert!(asked.at - last <= Duration::from_millis(1002), "late by {:?}", asked.at - last);
        (last, queries, index) = (asked.at, queries + 1, index + 1);
        asked.answer(list(index, &[&index.to_string()]));
    }
    assert!((60..=85).contains(&queries), "{queries} queries in a minute");
}
