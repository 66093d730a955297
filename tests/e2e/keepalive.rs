//! Connections are kept open on both sides, and no request is lost on a connection that was closed meanwhile.

use std::time::Duration;

use outrigger_tests::{
    instance::{Answer, ConnectionEnd, Instance},
    load::{Load, LoadPlan},
    sidecar::Sidecar,
    wait,
};
use tokio::time::{Instant, sleep};

#[tokio::test]
async fn requests_of_one_app_connection_share_one_connection_to_the_instance() {
    let instance = Instance::start("a").await;
    let sidecar = Sidecar::orders("", &[&instance]).await;
    let mut client = sidecar.client().await;
    for _ in 0..20 {
        assert_eq!(client.get("orders", "/").await.status, 200);
    }
    assert_eq!(instance.accepted(), 1);
    assert!(sidecar.metric("outrigger_pool_connections_total", &[("event", "reused")]) >= 19.0);
    assert!((sidecar.metric("outrigger_pool_connections_total", &[("event", "opened")]) - 1.0).abs() < 0.1);
}

#[tokio::test]
async fn an_idle_app_connection_is_parked_and_works_again() {
    let instance = Instance::start("a").await;
    let sidecar = Sidecar::orders("", &[&instance]).await;
    let mut client = sidecar.client().await;
    for _ in 0..3 {
        assert_eq!(client.get("orders", "/").await.status, 200);
        wait::until_true("the connection is parked", || {
            sidecar.metric("outrigger_app_connections", &[("state", "parked")]) > 0.5
        })
        .await;
    }
    // A request that arrives in two parts on a parked connection is answered.
    client.send("GET / HTTP/1.1\r\nHo").await;
    sleep(Duration::from_millis(50)).await;
    client.send("st: orders\r\n\r\n").await;
    assert_eq!(client.response().await.status, 200);
}

#[tokio::test]
async fn a_connection_without_a_request_is_kept_too() {
    let instance = Instance::start("a").await;
    let sidecar = Sidecar::orders("", &[&instance]).await;
    let mut client = sidecar.client().await;
    sleep(Duration::from_millis(2500)).await;
    assert_eq!(client.get("orders", "/").await.status, 200);
}

/// hyper's own head time-out would close an idle connection after 30 s without an answer.
#[tokio::test]
async fn a_post_after_31_idle_seconds_works() {
    let instance = Instance::start("a").await;
    let sidecar = Sidecar::orders("", &[&instance]).await;
    let mut used = sidecar.client().await;
    let mut fresh = sidecar.client().await;
    assert_eq!(used.get("orders", "/").await.status, 200);
    sleep(Duration::from_secs(31)).await;
    for client in [&mut used, &mut fresh] {
        let response = client.post("orders", "/", "body").await;
        assert_eq!(response.status, 200, "{response:?}");
    }
    assert_eq!(instance.seen().last().unwrap().body().text(), "body");
}

#[tokio::test]
async fn an_app_connection_is_closed_after_the_idle_limit() {
    let instance = Instance::start("a").await;
    let settings = "outbound: {listen: \"127.0.0.1:0\", limits: {idle: 1500ms}}";
    let sidecar = Sidecar::orders(settings, &[&instance]).await;
    let mut client = sidecar.client().await;
    assert_eq!(client.get("orders", "/").await.status, 200);
    let since = Instant::now();
    client.wait_closed().await;
    assert!(since.elapsed() > Duration::from_millis(1300), "{:?}", since.elapsed());
}

#[tokio::test]
async fn a_close_by_one_side_does_not_close_the_connection_of_the_other() {
    let instance = Instance::scripted("a", |request| match request.target() {
        "/close" => Answer::ok("bye").closing(),
        _ => Answer::ok("ok"),
    })
    .await;
    let sidecar = Sidecar::orders("", &[&instance]).await;
    let mut client = sidecar.client().await;
    assert_eq!(client.get("orders", "/close").await.text(), "bye");
    assert_eq!(
        client.get("orders", "/").await.text(),
        "ok",
        "a close by the instance does not close the app's connection"
    );
    let last = client.exchange("GET / HTTP/1.1\r\nHost: orders\r\nConnection: close\r\n\r\n").await;
    assert_eq!(last.text(), "ok");
    client.wait_closed().await;
    assert_eq!(client.wire.buffered(), b"");
    let mut client = sidecar.client().await;
    assert_eq!(client.get("orders", "/").await.text(), "ok");
    assert_eq!(instance.accepted(), 2, "a close by the app does not close the instance's connection");
}

#[tokio::test]
async fn no_get_fails_when_an_instance_closes_without_notice_after_a_few_requests() {
    let all = [scripted_closer("a", 3).await, scripted_closer("b", 1).await];
    let sidecar = Sidecar::orders("", &[&all[0], &all[1]]).await;
    let load = Load::start(sidecar.addr(), LoadPlan::get("orders"));
    load.wait_successes(3000).await;
    load.stop().await.assert_clean(3000);
}

#[tokio::test]
async fn no_get_fails_when_the_only_instance_closes_without_notice_after_a_few_requests() {
    let only = scripted_closer("a", 2).await;
    let sidecar = Sidecar::orders("", &[&only]).await;
    let load =
        Load::start(sidecar.addr(), LoadPlan::get("orders").methods(&["GET", "PUT", "DELETE", "HEAD"]));
    load.wait_successes(2000).await;
    load.stop().await.assert_clean(2000);
}

#[tokio::test]
async fn an_instance_that_announces_its_close_costs_no_request() {
    let only = Instance::scripted("a", |request| match request.nth_on_connection {
        2 => Answer::ok("x").closing(),
        _ => Answer::ok("x"),
    })
    .await;
    let sidecar = Sidecar::orders("", &[&only]).await;
    let load = Load::start(sidecar.addr(), LoadPlan::get("orders").methods(&["GET", "POST"]));
    load.wait_successes(2000).await;
    load.stop().await.assert_clean(2000);
}

async fn scripted_closer(name: &str, after: usize) -> Instance {
    Instance::scripted(name, move |request| match request.nth_on_connection + 1 {
        nth if nth >= after => Answer::ok("x").then_close(),
        _ => Answer::ok("x"),
    })
    .await
}

#[tokio::test]
async fn a_post_is_not_sent_on_a_connection_that_the_instance_has_closed() {
    let instance = scripted_closer("a", 1).await;
    let sidecar = Sidecar::orders("", &[&instance]).await;
    let mut client = sidecar.client().await;
    for nth in 0..10 {
        assert_eq!(client.get("orders", "/").await.status, 200);
        // The FIN of the instance has arrived before the POST is sent.
        assert_eq!(instance.wait_connection_end(2 * nth).await, ConnectionEnd::ByScript);
        let response = client.post("orders", "/", "body").await;
        assert_eq!(response.status, 200, "{response:?}");
        assert_eq!(instance.wait_connection_end(2 * nth + 1).await, ConnectionEnd::ByScript);
    }
    assert_eq!(instance.count(), 20, "no request was sent twice");
}

#[tokio::test]
async fn a_post_whose_connection_closes_silently_is_reported_and_not_sent_again() {
    let all = [silent_on_post("a").await, silent_on_post("b").await];
    let sidecar = Sidecar::orders("", &[&all[0], &all[1]]).await;
    let mut client = sidecar.client().await;
    for nth in 1..=4 {
        assert_eq!(client.get("orders", "/").await.status, 200);
        let response = client.post("orders", "/", "body").await;
        assert_eq!((response.status, response.reason()), (502, "sent_unknown"), "{response:?}");
        let posts: usize =
            all.iter().flat_map(|one| one.seen()).filter(|seen| seen.request.method() == "POST").count();
        assert_eq!(posts, nth, "each POST was sent once");
    }
}

async fn silent_on_post(name: &str) -> Instance {
    Instance::scripted(name, |request| match request.method() {
        "POST" => Answer::raw("").then_close(),
        _ => Answer::ok("x"),
    })
    .await
}

#[tokio::test]
async fn a_408_on_an_idle_connection_ends_it_and_is_no_answer() {
    // Some servers send 408 on an idle connection that has become too old.
    let instance = Instance::scripted("a", |request| match request.nth_on_connection {
        0 => Answer::ok("x")
            .then_pause(Duration::from_millis(100))
            .then_write("HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n")
            .then_close(),
        _ => Answer::ok("x"),
    })
    .await;
    let sidecar = Sidecar::orders("", &[&instance]).await;
    let load = Load::start(sidecar.addr(), LoadPlan::get("orders").methods(&["GET", "POST"]));
    load.wait_successes(300).await;
    load.stop().await.assert_clean(300);
}

#[tokio::test]
async fn idle_connections_to_an_instance_are_closed_before_the_instance_closes_them() {
    let instance = Instance::start("a").await;
    let sidecar =
        Sidecar::orders("defaults: {pool: {idle_timeout: 1s, non_idempotent_max_idle: 500ms}}", &[&instance])
            .await;
    assert_eq!(sidecar.get("orders", "/").await.status, 200);
    let since = Instant::now();
    assert_eq!(instance.wait_connection_end(0).await, ConnectionEnd::Idle);
    assert!(since.elapsed() > Duration::from_millis(700), "{:?}", since.elapsed());
}
