//! Stalls: an instance that accepts requests and answers none, as a stopped process does, is passed over, and the safe requests that
//! wait there are answered by another one. A slow request is not taken for a stall.

use std::time::Duration;

use outrigger_tests::{
    client::Client,
    instance::{Answer, Gate, Instance, Request},
    load::{Load, LoadPlan},
    sidecar::Sidecar,
    wait,
};
use tokio::time::Instant;

use crate::ejection::{assert_all_succeed, ejected};

/// Sends a request to `/hang`; a drop of the client closes the connection.
async fn hanging(sidecar: &Sidecar, method: &str) -> Client {
    let mut client = sidecar.client().await;
    client.send(format!("{method} /hang HTTP/1.1\r\nHost: orders\r\ncontent-length: 0\r\n\r\n")).await;
    client
}

#[tokio::test]
async fn a_stalled_instance_is_passed_over_until_it_answers() {
    let gate = Gate::closed();
    let hung = Instance::scripted("hung", {
        let gate = gate.clone();
        move |_| Answer::ok("late").when(&gate)
    })
    .await;
    let healthy = Instance::start("well").await;
    let sidecar = Sidecar::orders("", &[&healthy, &hung]).await;
    // Enough clients, so that two of them wait for the hung instance.
    let mut waiting = Vec::new();
    while hung.count() < 2 {
        waiting.push(hanging(&sidecar, "POST").await);
        wait::until_true("the request has arrived", || hung.count() + healthy.count() >= waiting.len()).await;
    }
    wait::until_true("the instance is passed over", || {
        let why = |one: outrigger_proxy::EndpointStatus| one.why_not.unwrap_or_default();
        sidecar.endpoints("orders").into_iter().any(|one| why(one).starts_with("stalled: "))
    })
    .await;
    let before = hung.count();
    assert_all_succeed(&sidecar, 40).await;
    assert_eq!(hung.count(), before, "no other request was sent to it");
    assert_eq!(
        ejected(&sidecar, "soft") + ejected(&sidecar, "hard"),
        0.0,
        "a stall is no reason for an ejection"
    );

    gate.open();
    wait::until("the instance is chosen again", wait::TIMEOUT, async || {
        assert_all_succeed(&sidecar, 2).await;
        hung.count() > before
    })
    .await;
}

#[tokio::test]
async fn requests_that_wait_for_a_stalled_instance_are_answered_by_another() {
    let hung = Instance::scripted("hung", |_| Answer::no_answer()).await;
    let healthy = Instance::start("well").await;
    let settings = "defaults: {timeout: 5s, outlier: {base_ejection_time: 30s}}";
    let sidecar = Sidecar::orders(settings, &[&healthy, &hung]).await;
    let mut posts = [hanging(&sidecar, "POST").await, hanging(&sidecar, "POST").await];
    let load = Load::start(sidecar.addr(), LoadPlan::get("orders").methods(&["GET", "HEAD", "OPTIONS"]));
    wait::until_true("the waiting requests lead to an ejection", || ejected(&sidecar, "soft") > 0.5).await;
    load.wait_successes(100).await;
    load.stop().await.assert_clean(100);
    let won = sidecar.metric("outrigger_stalled_attempts_total", &[("result", "won")]);
    assert!(won >= 5.0, "{won}");
    let shown = sidecar.proxy.status()[0].beside_stalled;
    assert!(shown >= 5, "{shown} of them in /services");
    assert_eq!(sidecar.metric("outrigger_hedges_total", &[]), 0.0, "hedging is off");

    let mut late = 0;
    for post in &mut posts {
        late += usize::from(post.response().await.status == 504);
    }
    let sent = |one: &Instance| one.seen().iter().filter(|seen| seen.request.method() == "POST").count();
    assert_eq!((late, sent(&hung), sent(&healthy)), (1, 1, 1), "a POST is not repeated");
}

/// Whether an instance of `orders` is shown as stalled.
fn is_one_stalled(sidecar: &Sidecar) -> bool {
    let why = |one: &outrigger_proxy::EndpointStatus| one.why_not.clone().unwrap_or_default();
    sidecar.endpoints("orders").iter().any(|one| why(one).starts_with("stalled: "))
}

#[tokio::test]
async fn a_request_that_changes_something_waits_at_a_stalled_instance_unless_hedging_is_on() {
    // No request is hedged because it is slow, before a minute has passed.
    for (settings, method, is_sent_twice) in [
        ("", "PUT", false),
        ("", "DELETE", false),
        ("retry: {non_idempotent: true}", "POST", false),
        ("", "GET", true),
        ("", "OPTIONS", true),
        ("retry: {stalled: off}", "GET", false),
        ("hedge: {min_delay: 1m}", "PUT", true),
        ("hedge: {min_delay: 1m}, retry: {stalled: off}", "PUT", false),
    ] {
        let case = format!("{method} with {{{settings}}}");
        let hung = Instance::scripted("hung", |_| Answer::no_answer()).await;
        let healthy = Instance::start("well").await;
        let sidecar = Sidecar::orders(&format!("defaults: {{{settings}}}"), &[&healthy, &hung]).await;
        // In turn: two for each instance.
        let mut clients = Vec::new();
        while clients.len() < 4 {
            clients.push(hanging(&sidecar, method).await);
            wait::until_true("the request has arrived", || hung.count() + healthy.count() >= clients.len())
                .await;
        }
        assert_eq!((hung.count(), healthy.count()), (2, 2), "{case}");
        let made = || sidecar.proxy.status()[0].beside_stalled;
        if is_sent_twice {
            for client in &mut clients {
                assert_eq!(client.response_to(method).await.status, 200, "{case}");
            }
            assert_eq!((hung.count(), healthy.count(), made()), (2, 4, 2), "{case}");
        } else {
            wait::until_true("the instance is stalled", || is_one_stalled(&sidecar)).await;
            // Each waiting request looks four times a second whether it may go to the other instance, which answers.
            let until = Instant::now() + Duration::from_millis(750);
            let mut others = 0;
            while Instant::now() < until {
                assert_eq!(sidecar.get("orders", "/").await.status, 200, "{case}");
                others += 1;
            }
            assert_eq!((hung.count(), healthy.count(), made()), (2, 2 + others, 0), "{case}");
        }
        assert_eq!(sidecar.metric("outrigger_hedges_total", &[]), 0.0, "{case}");
    }
}

#[tokio::test]
async fn a_slow_request_is_sent_once_while_its_instance_answers_others() {
    let gate = Gate::closed();
    let script = || {
        let gate = gate.clone();
        move |request: &Request| match request.target() {
            "/hang" => Answer::ok("late").when(&gate),
            _ => Answer::ok("x"),
        }
    };
    let all = [Instance::scripted("a", script()).await, Instance::scripted("b", script()).await];
    let sidecar = Sidecar::orders("", &[&all[0], &all[1]]).await;
    let slow = |one: &Instance| one.seen().iter().filter(|seen| seen.request.target() == "/hang").count();
    // Many, so that their checks between two answers of the instance are enough to call it stalled.
    let mut waiting = Vec::new();
    for _ in 0..24 {
        waiting.push(hanging(&sidecar, "GET").await);
    }
    wait::until_true("all of them wait", || slow(&all[0]) + slow(&all[1]) == 24).await;
    let until = Instant::now() + Duration::from_millis(2_500);
    while Instant::now() < until {
        for _ in 0..2 {
            assert_eq!(sidecar.get("orders", "/").await.status, 200);
        }
        assert!(!is_one_stalled(&sidecar), "both instances answer");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(slow(&all[0]) + slow(&all[1]), 24);
    gate.open();
    for client in &mut waiting {
        assert_eq!(client.response().await.status, 200);
    }
    assert_eq!(sidecar.metric("outrigger_stalled_attempts_total", &[]), 0.0);
}

/// A request of `method` that takes long, while no other request waits.
async fn assert_sent_once(settings: &str, method: &str) {
    let slow = |request: &Request| match request.target() {
        "/hang" => Answer::ok("late").delayed(Duration::from_millis(3_500)),
        _ => Answer::ok("x"),
    };
    let all = [Instance::scripted("a", slow).await, Instance::scripted("b", slow).await];
    let sidecar = Sidecar::orders(&format!("defaults: {{{settings}}}"), &[&all[0], &all[1]]).await;
    // Both have answered just now, and quickly.
    assert_all_succeed(&sidecar, 4).await;
    let mut client = hanging(&sidecar, method).await;
    let case = format!("{method} with {{{settings}}}");
    assert_eq!(client.response_to(method).await.status, 200, "{case}");
    assert_eq!(all[0].count() + all[1].count(), 5, "{case}");
    assert_eq!(sidecar.metric("outrigger_stalled_attempts_total", &[]), 0.0, "{case}");
    assert_eq!(sidecar.metric("outrigger_hedges_total", &[]), 0.0, "{case}");
}

#[tokio::test]
async fn a_slow_request_that_waits_alone_is_sent_once() {
    tokio::join!(
        assert_sent_once("", "GET"),
        assert_sent_once("", "HEAD"),
        assert_sent_once("", "OPTIONS"),
        assert_sent_once("hedge: {min_delay: 1m}", "GET"),
        assert_sent_once("hedge: {min_delay: 1m}", "PUT"),
    );
}

#[tokio::test]
async fn a_slow_request_at_a_stopped_instance_is_answered_once_another_one_waits_there_too() {
    let hung = Instance::scripted("hung", |request| match request.target() {
        "/hang" => Answer::no_answer(),
        _ => Answer::ok("x"),
    })
    .await;
    let healthy = Instance::start("well").await;
    let sidecar = Sidecar::orders("", &[&healthy, &hung]).await;
    assert_all_succeed(&sidecar, 4).await;
    let (mut waiting, before) = (Vec::new(), hung.count());
    while hung.count() < before + 2 {
        waiting.push(hanging(&sidecar, "GET").await);
        wait::until_true("the request has arrived", || hung.count() + healthy.count() == 4 + waiting.len())
            .await;
    }
    for client in &mut waiting {
        let answer = client.response().await;
        assert_eq!((answer.status, answer.instance()), (200, "well"));
    }
    assert_eq!(sidecar.metric("outrigger_stalled_attempts_total", &[("result", "won")]), 2.0);
}

#[tokio::test]
async fn when_the_second_attempt_of_a_race_fails_a_third_instance_is_tried() {
    let hung = Instance::scripted("hung", |_| Answer::no_answer()).await;
    let busy = Instance::scripted("busy", |request| match request.target() {
        "/hang" => Answer::status(503, ""),
        _ => Answer::ok("busy"),
    })
    .await;
    let healthy = Instance::start("well").await;
    let settings = "defaults: {timeout: 10s, outlier: off, circuit_breaker: off}";
    let sidecar = Sidecar::orders(settings, &[&hung, &busy, &healthy]).await;
    // The load gets answers all the time, except from the hung instance.
    let load = Load::start(sidecar.addr(), LoadPlan::get("orders"));
    let mut waiting = Vec::new();
    for _ in 0..12 {
        waiting.push(hanging(&sidecar, "GET").await);
    }
    for client in &mut waiting {
        assert_eq!(client.response().await.status, 200);
    }
    load.stop().await.assert_clean(1);
    assert!(hung.count() > 0 && busy.count() > 0);
}

#[tokio::test]
async fn one_hung_instance_does_not_open_the_breaker_of_the_others() {
    let hung = Instance::scripted("hung", |_| Answer::no_answer()).await;
    let healthy = Instance::start("well").await;
    let settings =
        "defaults: {timeout: 800ms, circuit_breaker: {min_requests: 10}, outlier: {base_ejection_time: 30s}}";
    let sidecar = Sidecar::orders(settings, &[&healthy, &hung]).await;
    let mut waiting = Vec::new();
    while hung.count() < 20 {
        // A time-out ejects it, and it gets no more.
        assert!(waiting.len() < 500, "only {} requests reached it before a time-out", hung.count());
        waiting.push(hanging(&sidecar, "GET").await);
        // In short steps: all requests must arrive before the first one times out.
        wait::within("the request arrives", async {
            while hung.count() + healthy.count() < waiting.len() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        })
        .await;
    }
    wait::until_true("all requests have ended", || sidecar.proxy.in_flight() == 0).await;
    assert_eq!(ejected(&sidecar, "soft"), 1.0);
    assert_eq!(sidecar.metric("outrigger_breaker_trips_total", &[]), 0.0);
    assert_all_succeed(&sidecar, 10).await;
}

#[tokio::test]
async fn an_instance_that_is_as_slow_as_before_is_not_passed_over() {
    let slow = |_: &Request| Answer::ok("x").delayed(Duration::from_millis(1_500));
    let all = [Instance::scripted("a", slow).await, Instance::scripted("b", slow).await];
    let sidecar = Sidecar::orders("", &[&all[0], &all[1]]).await;
    assert_all_succeed(&sidecar, 2).await;
    let mut waiting = Vec::new();
    for _ in 0..12 {
        waiting.push(hanging(&sidecar, "GET").await);
    }
    for mut client in waiting {
        assert_eq!(client.response().await.status, 200);
        let why = |one: &outrigger_proxy::EndpointStatus| one.why_not.clone();
        assert!(sidecar.endpoints("orders").iter().all(|one| why(one).is_none()));
    }
    assert_eq!(all[0].count(), all[1].count(), "each in turn");
}
