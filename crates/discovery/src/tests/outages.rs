//! What a watch does when the registry fails.

use std::{sync::Arc, time::Duration};

use outrigger_registry::{Consistency, Cursor, Error};
use tokio::time::{Instant, sleep, timeout};

use super::{Rig, ids, list, no_leader, settle, unreachable};

const WEEK: Duration = Duration::from_secs(7 * 24 * 3600);

#[tokio::test(start_paused = true)]
async fn a_silent_registry_leaves_the_last_answer_in_place() {
    let mut rig = Rig::new();
    let (follower, _asked) = rig.follow_and_answer("orders", list(7, &["a", "b"])).await;
    let before = follower.snapshot();
    sleep(WEEK).await;
    assert!(Arc::ptr_eq(&before, &follower.snapshot()));
    assert!(follower.status().confirmed_ago >= Some(WEEK));
}

#[tokio::test(start_paused = true)]
async fn a_failing_registry_leaves_the_last_answer_in_place() {
    let mut rig = Rig::new();
    let (follower, mut asked) = rig.follow_and_answer("orders", list(7, &["a", "b"])).await;
    let before = follower.snapshot();
    let since = Instant::now();
    while since.elapsed() < WEEK / 7 {
        asked.fail(unreachable());
        asked = rig.next().await;
        assert_eq!((asked.cursor, asked.consistency), (Cursor::START, Consistency::Default));
    }
    assert!(Arc::ptr_eq(&before, &follower.snapshot()));
    let status = follower.status();
    assert_eq!(status.error.as_deref(), Some("connect to 127.0.0.1:8500: refused by the test"));
    assert!(status.failures > 1000, "{}", status.failures);

    asked.answer(list(8, &["a", "b"]));
    settle().await;
    let status = follower.status();
    assert_eq!((status.error, status.failures, status.index), (None, 0, 8));
    assert!(Arc::ptr_eq(&before, &follower.snapshot()));
}

#[tokio::test(start_paused = true)]
async fn errors_back_off_to_half_a_minute_with_full_jitter() {
    let mut rig = Rig::new();
    let _follower = rig.follow("orders");
    let mut pauses = Vec::new();
    let mut asked = rig.next().await;
    for n in 0..220 {
        let failed_at = asked.at;
        asked.fail(unreachable());
        asked = rig.next().await;
        let pause = asked.at - failed_at;
        let ceiling = Duration::from_millis(250 << n.min(7)).min(Duration::from_secs(30));
        // After a short pause the rate limiter may delay a query, by 100 ms at most.
        assert!(pause <= ceiling + Duration::from_millis(102), "{pause:?} after error {n}");
        pauses.push(pause);
    }
    let late = pauses[20..].iter().sum::<Duration>() / 200;
    assert!((10..20).contains(&late.as_secs()), "{late:?} on average, not about 15 s");
}

/// Fails queries until the back-off can be long. Returns when the last query failed.
async fn fail_until_long_backoff(rig: &mut Rig) -> Instant {
    for _ in 0..20 {
        rig.next().await.fail(unreachable());
    }
    Instant::now()
}

#[tokio::test(start_paused = true)]
async fn a_service_whose_requests_fail_is_asked_for_every_second() {
    let mut rig = Rig::new();
    let follower = rig.follow("orders");
    let begun = fail_until_long_backoff(&mut rig).await;
    let mut failed_at = begun;
    for _ in 0..200 {
        // Requests fail all the time.
        let asked = loop {
            follower.request_refresh();
            match timeout(Duration::from_millis(10), rig.next()).await {
                Ok(asked) => break asked,
                Err(_) => continue,
            }
        };
        let pause = asked.at - failed_at;
        assert!(pause <= Duration::from_millis(1_200), "{pause:?}");
        failed_at = Instant::now();
        asked.fail(unreachable());
    }
    assert!(failed_at - begun >= Duration::from_secs(100), "not in a tight loop");
}

#[tokio::test(start_paused = true)]
async fn a_registry_that_answers_for_one_service_is_asked_for_the_others() {
    for _ in 0..50 {
        let mut rig = Rig::new();
        let _orders = rig.follow("orders");
        fail_until_long_backoff(&mut rig).await;
        let _payments = rig.follow("payments");
        let asked = loop {
            let asked = rig.next().await;
            if &*asked.query.service == "payments" {
                break asked;
            }
            asked.fail(unreachable());
        };
        asked.answer(list(7, &["a"]));
        let since = Instant::now();
        let services = [rig.next().await, rig.next().await].map(|asked| asked.query.service);
        assert!(services.contains(&"orders".into()), "{services:?}");
        assert!(since.elapsed() <= Duration::from_millis(1_200), "{:?}", since.elapsed());
    }
}

#[tokio::test(start_paused = true)]
async fn a_query_that_was_pending_when_the_outage_ended_is_retried_soon_after_it_fails() {
    for _ in 0..50 {
        let mut rig = Rig::new();
        let _orders = rig.follow("orders");
        fail_until_long_backoff(&mut rig).await;
        let pending = rig.next().await;
        let _payments = rig.follow("payments");
        rig.next().await.answer(list(7, &["a"]));
        let _next = rig.next().await;
        sleep(Duration::from_secs(5)).await;
        pending.fail(unreachable());
        let failed_at = Instant::now();
        assert_eq!(&*rig.next().await.query.service, "orders");
        assert!(failed_at.elapsed() <= Duration::from_millis(1_300), "{:?}", failed_at.elapsed());
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_resets_the_back_off() {
    let mut rig = Rig::new();
    let _follower = rig.follow("orders");
    for round in 0..20 {
        for _ in 0..12 {
            rig.next().await.fail(unreachable());
        }
        rig.next().await.answer(list(7, &["a"]));
        let asked = rig.next().await;
        sleep(Duration::from_secs(1)).await;
        let failed_at = Instant::now();
        asked.fail(unreachable());
        let asked = rig.next().await;
        let pause = asked.at - failed_at;
        assert!(pause <= Duration::from_millis(252), "{pause:?} in round {round}");
        asked.fail(unreachable());
    }
}

#[tokio::test(start_paused = true)]
async fn an_error_resets_the_cursor() {
    let mut rig = Rig::new();
    let (_follower, asked) = rig.follow_and_answer("orders", list(33, &["a"])).await;
    assert_eq!(asked.cursor, Cursor::at(33));
    asked.fail(unreachable());
    let asked = rig.next().await;
    assert_eq!(asked.cursor, Cursor::START);
    asked.answer(list(33, &["a"]));
    assert_eq!(rig.next().await.cursor, Cursor::at(33));
}

#[tokio::test(start_paused = true)]
async fn without_a_leader_a_stale_answer_is_used_with_its_age() {
    let mut rig = Rig::new();
    let (follower, asked) = rig.follow_and_answer("orders", list(33, &["a"])).await;
    asked.fail(no_leader());
    let asked = rig.next().await;
    assert_eq!(asked.consistency, Consistency::Default, "one error is no outage");
    asked.fail(no_leader());

    let asked = rig.next().await;
    assert_eq!((asked.consistency, asked.cursor), (Consistency::Stale, Cursor::START));
    let mut answer = list(34, &["a", "b"]);
    (answer.age, answer.known_leader) = (Some(Duration::from_secs(21)), false);
    asked.answer(answer);

    let asked = rig.next().await;
    assert_eq!((asked.consistency, asked.cursor), (Consistency::Default, Cursor::START));
    assert_eq!(ids(&follower), ["a", "b"]);
    let status = follower.status();
    assert!(status.confirmed_ago >= Some(Duration::from_secs(21)), "{:?}", status.confirmed_ago);
    assert_eq!((status.known_leader, status.failures, status.error.is_some()), (false, 2, true));
    assert_eq!(rig.metric("outrigger_watch_stale_answers_total"), Some(1.0));

    asked.answer(list(35, &["a", "b"]));
    let asked = rig.next().await;
    assert_eq!((asked.consistency, asked.cursor), (Consistency::Default, Cursor::at(35)));
    let status = follower.status();
    assert_eq!((status.known_leader, status.failures, status.error), (true, 0, None));
}

#[tokio::test(start_paused = true)]
async fn before_the_first_answer_one_error_is_followed_by_a_stale_read() {
    let mut rig = Rig::new();
    let follower = rig.follow("orders");
    rig.next().await.fail(no_leader());
    let asked = rig.next().await;
    assert_eq!(asked.consistency, Consistency::Stale);
    asked.answer(list(7, &["a"]));
    assert_eq!(rig.next().await.consistency, Consistency::Default);
    assert_eq!(ids(&follower), ["a"]);
}

#[tokio::test(start_paused = true)]
async fn a_stale_answer_older_than_the_snapshot_is_ignored() {
    let mut rig = Rig::new();
    let (follower, mut asked) = rig.follow_and_answer("orders", list(33, &["a"])).await;
    while asked.consistency == Consistency::Default {
        asked.fail(no_leader());
        asked = rig.next().await;
    }
    asked.answer(list(32, &[]));
    settle().await;
    assert_eq!((ids(&follower), follower.status().index), (vec!["a".into()], 33));
}

#[tokio::test(start_paused = true)]
async fn a_stale_read_that_fails_too_changes_nothing() {
    let mut rig = Rig::new();
    let (follower, mut asked) = rig.follow_and_answer("orders", list(33, &["a"])).await;
    for expected in [Consistency::Default, Consistency::Default, Consistency::Stale] {
        assert_eq!(asked.consistency, expected);
        asked.fail(no_leader());
        asked = rig.next().await;
    }
    assert_eq!(asked.consistency, Consistency::Default);
    assert_eq!((ids(&follower), follower.status().failures), (vec!["a".into()], 2));
}

#[tokio::test(start_paused = true)]
async fn errors_that_every_server_has_are_not_followed_by_a_stale_read() {
    let cases: [fn() -> Error; 4] = [
        unreachable,
        || Error::Refused {
            request: "GET /".into(),
            status: 403,
            text: "Permission denied".into(),
            hint: None,
        },
        || Error::Malformed { request: "GET /".into(), reason: "no JSON".into() },
        || Error::TooLarge { request: "GET /".into(), limit: 1 },
    ];
    for error in cases {
        let mut rig = Rig::new();
        let _follower = rig.follow("orders");
        for _ in 0..10 {
            let asked = rig.next().await;
            assert_eq!(asked.consistency, Consistency::Default);
            asked.fail(error());
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_answered_refusal_is_told_to_those_that_wait_for_an_answer() {
    let refused = |status| Error::Refused { request: "GET /".into(), status, text: "no".into(), hint: None };
    for (error, is_refusal) in [
        (refused(403), true),
        (refused(400), true),
        (refused(404), true),
        (Error::Malformed { request: "GET /".into(), reason: "no JSON".into() }, true),
        (Error::TooLarge { request: "GET /".into(), limit: 1 }, true),
        // Another moment may bring an answer.
        (refused(429), false),
        (refused(500), false),
        (no_leader(), false),
        (unreachable(), false),
    ] {
        let mut rig = Rig::new();
        let follower = rig.follow("orders");
        let text = format!("{error:?}");
        rig.next().await.fail(error);
        settle().await;
        let told = timeout(Duration::from_millis(1), follower.refused()).await.is_ok();
        assert_eq!(told, is_refusal, "{text}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_service_that_alone_is_answered_500_is_refused_after_a_second_try() {
    let mut rig = Rig::new();
    let (_good, _asked) = rig.follow_and_answer("good", list(7, &["a"])).await;
    let bad = rig.follow("bad");
    let since = Instant::now();
    let refused = async {
        loop {
            let asked = rig.next().await;
            if *asked.query.service == *"bad" {
                let (request, text) = ("GET /".into(), "No path to datacenter".into());
                asked.fail(Error::Refused { request, status: 500, text, hint: None });
            }
        }
    };
    tokio::select! {
        () = bad.refused() => {}
        () = refused => {}
    }
    assert!(since.elapsed() < Duration::from_secs(3), "{:?}", since.elapsed());
}
