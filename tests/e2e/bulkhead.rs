//! A service that hangs holds at most the configured number of requests.

use std::time::Duration;

use outrigger_tests::{
    client::Client,
    instance::{Answer, Gate, Instance},
    sidecar::{Services, Sidecar},
    wait,
};
use tokio::time::Instant;

const GET: &str = "GET / HTTP/1.1\r\nHost: orders\r\n\r\n";

async fn gated() -> (Instance, Gate) {
    let gate = Gate::closed();
    let instance = Instance::scripted("a", {
        let gate = gate.clone();
        move |_| Answer::ok("x").when(&gate)
    })
    .await;
    (instance, gate)
}

/// Sends `count` requests and does not read their answers.
async fn send_requests(sidecar: &Sidecar, count: usize) -> Vec<Client> {
    let mut clients = Vec::new();
    for _ in 0..count {
        let mut client = sidecar.client().await;
        client.send(GET).await;
        clients.push(client);
    }
    clients
}

#[tokio::test]
async fn requests_beyond_max_in_flight_wait_and_requests_beyond_max_pending_are_rejected() {
    let (instance, gate) = gated().await;
    let settings = "defaults: {max_in_flight: 2, max_pending: 1, pending_timeout: 10s}";
    let sidecar = Sidecar::orders(settings, &[&instance]).await;
    let mut clients = send_requests(&sidecar, 2).await;
    instance.wait_requests(2).await;
    clients.extend(send_requests(&sidecar, 1).await);
    wait::until_true("one request waits", || {
        sidecar.metric("outrigger_pending", &[("service", "orders")]) == 1.0
    })
    .await;
    let rejected = sidecar.exchange(GET).await;
    assert_eq!(
        (rejected.status, rejected.reason(), rejected.field("retry-after")),
        (503, "bulkhead_full", "1")
    );
    assert!(rejected.text().contains("max_pending"), "{}", rejected.text());
    assert_eq!(instance.count(), 2, "max_in_flight is not exceeded");
    assert_eq!(sidecar.metric("outrigger_shed_total", &[("why", "max_pending")]), 1.0);
    gate.open();
    for mut client in clients {
        assert_eq!(client.response().await.status, 200);
    }
    assert_eq!(sidecar.metric("outrigger_pending", &[]), 0.0);
    assert_eq!(sidecar.exchange(GET).await.status, 200, "the slots are free again");
}

#[tokio::test]
async fn the_wait_is_bounded_by_its_time_out_and_by_the_apps_deadline() {
    let (instance, gate) = gated().await;
    let settings = "defaults: {max_in_flight: 1, pending_timeout: 300ms}";
    let sidecar = Sidecar::orders(settings, &[&instance]).await;
    let _held = send_requests(&sidecar, 1).await;
    instance.wait_requests(1).await;
    let since = Instant::now();
    let rejected = sidecar.exchange(GET).await;
    assert_eq!((rejected.status, rejected.reason()), (503, "bulkhead_full"), "{rejected:?}");
    assert!(rejected.text().contains("pending_timeout"), "{}", rejected.text());
    assert!(since.elapsed() >= Duration::from_millis(300));
    let since = Instant::now();
    let rejected =
        sidecar.exchange("GET / HTTP/1.1\r\nHost: orders\r\nx-outrigger-timeout: 50ms\r\n\r\n").await;
    assert_eq!((rejected.status, rejected.reason()), (504, "deadline_exceeded"), "{rejected:?}");
    assert!(since.elapsed() < Duration::from_millis(290), "{:?}", since.elapsed());
    assert_eq!(sidecar.metric("outrigger_shed_total", &[("why", "pending_timeout")]), 1.0);
    gate.open();
}

#[tokio::test]
async fn each_service_has_its_own_bulkhead() {
    let (stuck, gate) = gated().await;
    let healthy = Instance::start("healthy").await;
    let services = Services::of("orders", &[&stuck]).and("stock", &healthy, "");
    let settings = "defaults: {max_in_flight: 1, max_pending: 0}";
    let sidecar = Sidecar::start(settings, &services).await;
    let _held = send_requests(&sidecar, 1).await;
    stuck.wait_requests(1).await;
    assert_eq!(sidecar.exchange(GET).await.status, 503);
    assert_eq!(sidecar.get("stock", "/").await.status, 200);
    assert_eq!(
        sidecar.metric("outrigger_breaker_trips_total", &[]),
        0.0,
        "a rejection does not count as a failure"
    );
    gate.open();
}

#[tokio::test]
async fn an_app_that_disconnects_frees_its_slot() {
    let (instance, gate) = gated().await;
    let settings = "defaults: {max_in_flight: 1, max_pending: 1, pending_timeout: 20s}";
    let sidecar = Sidecar::orders(settings, &[&instance]).await;
    let held = send_requests(&sidecar, 1).await;
    instance.wait_requests(1).await;
    let waiting = send_requests(&sidecar, 1).await;
    let pending = || sidecar.metric("outrigger_pending", &[]);
    wait::until_true("one request waits", || pending() == 1.0).await;
    drop(waiting);
    wait::until_true("no request waits", || pending() == 0.0).await;
    drop(held);
    gate.open();
    assert_eq!(sidecar.exchange(GET).await.status, 200);
}

#[tokio::test]
async fn a_slot_is_held_to_the_last_byte_of_the_answer() {
    let gate = Gate::closed();
    let instance = Instance::scripted("a", {
        let gate = gate.clone();
        move |_| {
            Answer::raw("HTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\npart")
                .then_wait(&gate)
                .then_write("rest")
        }
    })
    .await;
    let settings = "defaults: {max_in_flight: 1, max_pending: 0}";
    let sidecar = Sidecar::orders(settings, &[&instance]).await;
    let mut client = sidecar.client().await;
    client.send(GET).await;
    assert_eq!(client.head().await.unwrap().split_start_line().1, "200");
    assert_eq!(sidecar.exchange(GET).await.status, 503);
    gate.open();
    wait::until_true("the slot is free", || sidecar.proxy.in_flight() == 0).await;
    assert_eq!(sidecar.exchange(GET).await.status, 200);
}
