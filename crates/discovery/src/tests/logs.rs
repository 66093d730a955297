//! Which lines are logged, and how often.

use std::time::Duration;

use outrigger_registry::Error;
use tokio::time::{Instant, sleep};

use super::{Rig, list, log_capture::take, settle, unreachable};

#[tokio::test(start_paused = true)]
async fn an_outage_of_many_services_is_one_line_and_so_is_its_end() {
    take();
    let mut rig = Rig::new();
    let _followers: Vec<_> = (0..20).map(|n| rig.follow(&format!("s{n}"))).collect();
    let mut blocked = Vec::new();
    while blocked.len() < 20 {
        let asked = rig.next().await;
        if asked.cursor.index() == 0 { asked.answer(list(7, &["a"])) } else { blocked.push(asked) }
    }
    take();

    blocked.into_iter().for_each(|asked| asked.fail(unreachable()));
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(300) {
        rig.next().await.fail(unreachable());
    }
    let logged = take();
    let [line] = &logged[..] else { panic!("not one line: {logged:?}") };
    assert!(
        line.starts_with("WARN")
            && line.contains("the registry gives no usable answer, going on with its last answers"),
        "{line}"
    );
    assert!(line.contains("connect to 127.0.0.1:8500: refused by the test"), "{line}");

    for _ in 0..20 {
        rig.next().await.answer(list(7, &["a"]));
    }
    settle().await;
    let logged = take();
    let [line] = &logged[..] else { panic!("not one line: {logged:?}") };
    assert!(line.starts_with("INFO") && line.contains("registry answers again"), "{line}");
}

#[tokio::test(start_paused = true)]
async fn an_outage_that_a_new_name_finds_begins_after_the_answers_to_others() {
    let mut rig = Rig::new();
    let (_orders, _asked) = rig.follow_and_answer("orders", list(7, &["a"])).await;
    sleep(Duration::from_secs(3600)).await;
    take();
    // In use, but without an answer of its own.
    let _new = rig.follow("new");
    rig.next().await.fail(unreachable());
    settle().await;
    let logged = take();
    let [line] = &logged[..] else { panic!("not one line: {logged:?}") };
    let message = "the registry gives no usable answer, going on with its last answers";
    assert!(line.contains(message) && line.contains("service=new"), "{line}");
    assert!(line.contains("answered_ago=\"1h\""), "{line}");
}

#[tokio::test(start_paused = true)]
async fn a_change_is_one_line_with_its_counts_and_an_unchanged_answer_none() {
    take();
    let mut rig = Rig::new();
    let (_follower, asked) = rig.follow_and_answer("orders", list(7, &["a"])).await;
    let logged = take();
    let [line] = &logged[..] else { panic!("not one line: {logged:?}") };
    assert!(line.contains("service changed") && line.contains("service=orders"), "{line}");
    assert!(line.contains("passing=1") && line.contains("critical=0"), "{line}");

    sleep(Duration::from_secs(30)).await;
    asked.answer(list(8, &["a"]));
    rig.next().await;
    assert_eq!(take(), Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn a_service_that_alone_keeps_failing_is_logged_once() {
    take();
    let mut rig = Rig::new();
    let _followers = [rig.follow("bad"), rig.follow("good")];
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(300) {
        let asked = rig.next().await;
        if *asked.query.service == *"bad" { asked.fail(unreachable()) } else { asked.answer(list(7, &["a"])) }
    }
    let warnings = take().into_iter().filter(|line| line.starts_with("WARN")).collect::<Vec<_>>();
    assert_eq!(warnings.len(), 1, "{warnings:?}");
}

#[tokio::test(start_paused = true)]
async fn a_made_up_name_is_not_logged() {
    take();
    let mut rig = Rig::new();
    let (_follower, _asked) = rig.follow_and_answer("made-up", list(7, &[])).await;
    assert_eq!(take(), Vec::<String>::new());
}

fn forbidden() -> Error {
    let (request, text) = ("GET /v1/health/service/bad".into(), "Permission denied".into());
    Error::Refused { request, status: 403, text, hint: None }
}

/// Answers every query for five minutes: `good` as it should be, and `bad` with `error`. Returns the warnings.
async fn warnings_beside_a_good_service(rig: &mut Rig, error: fn() -> Error) -> Vec<String> {
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(300) {
        let asked = rig.next().await;
        if *asked.query.service == *"bad" {
            asked.fail(error());
        } else {
            let wait = asked.wait;
            // As a registry does: the first query is answered at once, and the others after their wait.
            let pause = if asked.cursor.index() == 0 { Duration::ZERO } else { wait };
            tokio::spawn(async move {
                sleep(pause).await;
                asked.answer(list(7, &["a"]));
            });
        }
    }
    take().into_iter().filter(|line| line.starts_with("WARN") || line.contains("registry answers")).collect()
}

#[tokio::test(start_paused = true)]
async fn a_service_that_the_registry_refuses_is_no_outage_of_the_registry() {
    take();
    let mut rig = Rig::new();
    let _followers = [rig.declare("good"), rig.declare("bad")];
    let lines = warnings_beside_a_good_service(&mut rig, forbidden).await;
    let [line] = &lines[..] else { panic!("not one line: {lines:?}") };
    assert!(
        line.contains("the registry answers for other services") && line.contains("service=bad"),
        "{line}"
    );
    assert!(line.contains("Permission denied"), "{line}");
    let status = rig.discovery.services();
    assert_eq!(status.iter().map(|one| one.failures > 0).collect::<Vec<_>>(), [true, false]);
}

#[tokio::test(start_paused = true)]
async fn a_registry_that_refuses_every_service_is_one_outage() {
    take();
    let mut rig = Rig::new();
    let _followers: Vec<_> = (0..20).map(|n| rig.declare(&format!("s{n}"))).collect();
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(60) {
        rig.next().await.fail(forbidden());
    }
    let warnings = take().into_iter().filter(|line| line.starts_with("WARN")).collect::<Vec<_>>();
    let [line] = &warnings[..] else { panic!("not one line: {warnings:?}") };
    assert!(line.contains("the registry has given no usable answer since the start"), "{line}");
}
