//! What the app sends behind a request that is under way: it is read ahead up to a bound, and the end of the connection is
//! noticed beyond it.

use outrigger_tests::{
    instance::{Answer, Instance},
    sidecar::Sidecar,
};

/// More than is read ahead.
const MUCH: usize = 60_000;

#[tokio::test]
async fn an_app_that_leaves_is_noticed_behind_any_number_of_pipelined_bytes() {
    for behind in [0, 100, MUCH] {
        for resets in [false, true] {
            let instance = Instance::scripted("a", |_| Answer::no_answer()).await;
            let sidecar = Sidecar::orders("", &[&instance]).await;
            let mut client = sidecar.client().await;
            let behind = format!("GET / HTTP/1.1\r\nX: {}", "a".repeat(behind));
            client.send(format!("GET / HTTP/1.1\r\nHost: orders\r\n\r\n{behind}")).await;
            instance.wait_requests(1).await;
            if resets {
                client.reset();
            } else {
                drop(client);
            }
            instance.wait_connection_end(0).await;
        }
    }
}

#[tokio::test]
async fn an_app_that_leaves_while_its_request_waits_gives_up_its_place() {
    let instance = Instance::scripted("a", |_| Answer::no_answer()).await;
    let settings = "defaults: {max_in_flight: 1, max_pending: 1, pending_timeout: 1h, timeout: 1h}";
    let sidecar = Sidecar::orders(settings, &[&instance]).await;
    let mut first = sidecar.client().await;
    first.send("GET / HTTP/1.1\r\nHost: orders\r\n\r\n").await;
    instance.wait_requests(1).await;
    for behind in [0, MUCH] {
        let mut waiting = sidecar.client().await;
        waiting.send(format!("GET / HTTP/1.1\r\nHost: orders\r\n\r\n{}", "a".repeat(behind))).await;
        let pending = || sidecar.metric("outrigger_pending", &[("service", "orders")]);
        outrigger_tests::wait::until_true("the request waits", || pending() == 1.0).await;
        drop(waiting);
        outrigger_tests::wait::until_true("the place is free", || pending() == 0.0).await;
    }
    assert_eq!(instance.count(), 1);
}

#[tokio::test]
async fn a_hundred_pipelined_requests_are_answered_in_their_order() {
    let instance = Instance::scripted("a", |request| Answer::ok(request.target())).await;
    let sidecar = Sidecar::orders("", &[&instance]).await;
    let mut client = sidecar.client().await;
    let all: String = (0..100).map(|at| format!("GET /{at} HTTP/1.1\r\nHost: orders\r\n\r\n")).collect();
    client.send(all).await;
    for at in 0..100 {
        let response = client.response().await;
        assert_eq!((response.status, response.text()), (200, format!("/{at}")));
    }
}

/// A close with unread bytes resets the connection, and a reset destroys what was not read yet.
#[tokio::test]
async fn a_response_that_closes_arrives_whole_whatever_was_sent_behind_the_request() {
    let instance = Instance::scripted("a", |_| Answer::pattern(300_000)).await;
    let sidecar = Sidecar::orders("", &[&instance]).await;
    let mut client = sidecar.client().await;
    let request = "GET / HTTP/1.1\r\nHost: orders\r\nConnection: close\r\n\r\n";
    client.send(format!("{request}{}", "GET / HTTP/1.1\r\nHost: orders\r\n\r\n".repeat(1000))).await;
    instance.wait_requests(1).await;
    let response = client.response().await;
    assert!(response.body.is_pattern && response.body.len == 300_000, "{:?}", response.body_error);
    assert_eq!(instance.count(), 1);
}
