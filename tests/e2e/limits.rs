//! Limits on what one side can send, and the reason of each refusal.

use std::time::Duration;

use outrigger_tests::{
    client::Client,
    instance::{Answer, Gate, Instance},
    sidecar::Sidecar,
    wait,
};
use tokio::time::{Instant, sleep};

async fn orders(limits: &str) -> (Sidecar, Instance) {
    let instance = Instance::start("a").await;
    let settings = format!("outbound: {{listen: \"127.0.0.1:0\", limits: {{{limits}}}}}");
    (Sidecar::orders(&settings, &[&instance]).await, instance)
}

fn with_field_of(bytes: usize) -> String {
    format!("GET / HTTP/1.1\r\nHost: orders\r\nX-Long: {}\r\n\r\n", "x".repeat(bytes))
}

#[tokio::test]
async fn a_head_of_more_than_64_kib_is_refused() {
    let (sidecar, instance) = orders("").await;
    assert_eq!(sidecar.exchange(with_field_of(60_000)).await.status, 200, "below the limit");
    for bytes in [66_000, 100_000, 300_000] {
        let mut client = sidecar.client().await;
        // The sidecar may close the connection before the whole head was written.
        let _ = client.try_send(with_field_of(bytes)).await;
        let response = client.response().await;
        assert_eq!(response.status, 431, "{bytes}: {response:?}");
        client.wait_closed().await;
    }
    assert_eq!(instance.count(), 1);
}

#[tokio::test]
async fn a_target_of_more_than_64_kib_is_refused() {
    let (sidecar, instance) = orders("").await;
    let mut client = sidecar.client().await;
    let _ = client.try_send(format!("GET /{} HTTP/1.1\r\nHost: orders\r\n\r\n", "x".repeat(70_000))).await;
    let response = client.response().await;
    assert!(matches!(response.status, 414 | 431), "{response:?}");
    assert_eq!(instance.count(), 0);
}

#[tokio::test]
async fn more_than_100_fields_are_refused() {
    let (sidecar, instance) = orders("").await;
    let fields = |count: usize| {
        let more: String = (1..count).map(|nth| format!("X-{nth}: 1\r\n")).collect();
        format!("GET / HTTP/1.1\r\nHost: orders\r\n{more}\r\n")
    };
    assert_eq!(sidecar.exchange(fields(100)).await.status, 200);
    assert_eq!(sidecar.exchange(fields(101)).await.status, 431);
    assert_eq!(instance.count(), 1);
    let (sidecar, _instance) = orders("max_headers: 200").await;
    assert_eq!(sidecar.exchange(fields(200)).await.status, 200);
    assert_eq!(sidecar.exchange(fields(201)).await.status, 431);
}

#[tokio::test]
async fn an_answers_head_has_the_same_limits() {
    let instance = Instance::scripted("a", |_| Answer::ok("x").field("x-long", &"x".repeat(100_000))).await;
    let sidecar = Sidecar::orders("", &[&instance]).await;
    let response = sidecar.get("orders", "/").await;
    assert_eq!((response.status, response.reason()), (502, "bad_response"), "{response:?}");
}

#[tokio::test]
async fn a_head_that_takes_too_long_from_its_first_byte_is_refused() {
    let (sidecar, instance) = orders("head_timeout: 600ms").await;
    let mut client = sidecar.client().await;
    // The idle time before the first byte does not count.
    sleep(Duration::from_millis(900)).await;
    let since = Instant::now();
    client.send("GET / HTTP/1.1\r\n").await;
    let slow_head = async {
        let mut ticks = tokio::time::interval(Duration::from_millis(100));
        loop {
            ticks.tick().await;
            if client.wire.write(b"X: y\r\n").await.is_err() || since.elapsed() > Duration::from_millis(500) {
                break;
            }
        }
    };
    slow_head.await;
    let response = client.response().await;
    let took = since.elapsed();
    assert_eq!((response.status, response.reason()), (408, "slow_head"), "{response:?}");
    assert!(took >= Duration::from_millis(550) && took < Duration::from_secs(5), "{took:?}");
    client.wait_closed().await;
    assert_eq!(instance.count(), 0);
}

#[tokio::test]
async fn the_second_requests_slow_head_is_refused_too() {
    let (sidecar, instance) = orders("head_timeout: 600ms").await;
    let mut client = sidecar.client().await;
    assert_eq!(client.get("orders", "/").await.status, 200);
    sleep(Duration::from_millis(900)).await;
    assert_eq!(client.get("orders", "/").await.status, 200, "idle time does not count");
    client.send("GET / HTTP/1.1\r\n").await;
    let response = client.response().await;
    assert_eq!((response.status, response.reason()), (408, "slow_head"), "{response:?}");
    assert_eq!(instance.count(), 2);
}

#[tokio::test]
async fn a_connection_beyond_the_limit_is_answered_503_and_closed() {
    let (sidecar, instance) = orders("max_connections: 3").await;
    let mut held = Vec::new();
    for _ in 0..3 {
        let mut client = sidecar.client().await;
        assert_eq!(client.get("orders", "/").await.status, 200);
        held.push(client);
    }
    let mut one_more = sidecar.client().await;
    one_more.send("GET / HTTP/1.1\r\nHost: orders\r\n\r\n").await;
    let response = one_more.response().await;
    assert_eq!((response.status, response.reason()), (503, "too_many_connections"), "{response:?}");
    one_more.wait_closed().await;
    assert_eq!(held[0].get("orders", "/").await.status, 200, "the other connections are still served");

    held.pop();
    wait::until("a new connection is accepted again", wait::TIMEOUT, async || {
        let mut client = Client::connect(sidecar.addr()).await;
        client.send("GET / HTTP/1.1\r\nHost: orders\r\n\r\n").await;
        client.try_response_to("GET").await.is_ok_and(|response| response.status == 200)
    })
    .await;
    assert!(instance.count() >= 5);
}

#[tokio::test]
async fn requests_beyond_an_instances_connections_wait_and_those_beyond_the_queue_are_rejected() {
    let gate = Gate::closed();
    let opened = gate.clone();
    let instance = Instance::scripted("a", move |_| Answer::ok("ok").when(&opened)).await;
    let settings = "defaults: {pool: {max_connections: 2, max_idle: 2, max_waiting: 3}}";
    let sidecar = Sidecar::orders(settings, &[&instance]).await;
    let mut held = Vec::new();
    for nth in 1..=5 {
        let mut client = sidecar.client().await;
        client.send("GET / HTTP/1.1\r\nHost: orders\r\n\r\n").await;
        instance.wait_requests(nth.min(2)).await;
        wait::until_true("the request is in flight", || sidecar.proxy.in_flight() == nth).await;
        held.push(client);
    }
    let response = sidecar.get("orders", "/").await;
    assert_eq!((response.status, response.reason()), (503, "overloaded"), "{response:?}");
    assert_eq!((instance.count(), instance.accepted()), (2, 2));
    gate.open();
    for client in &mut held {
        assert_eq!(client.response().await.status, 200);
    }
    assert_eq!((instance.count(), instance.accepted()), (5, 2), "the waiting requests were sent");
}

#[tokio::test]
async fn a_request_that_waits_too_long_for_a_connection_is_rejected() {
    let instance = Instance::scripted("a", |_| Answer::no_answer()).await;
    let settings = "defaults: {timeout: 400ms, pool: {max_connections: 1, max_idle: 1}}";
    let sidecar = Sidecar::orders(settings, &[&instance]).await;
    let mut first = sidecar.client().await;
    first.send("GET / HTTP/1.1\r\nHost: orders\r\n\r\n").await;
    instance.wait_requests(1).await;
    let response = sidecar.exchange("POST / HTTP/1.1\r\nHost: orders\r\nContent-Length: 0\r\n\r\n").await;
    assert!(matches!(response.status, 503 | 504), "{response:?}");
    assert!(!response.reason().is_empty());
}

#[tokio::test]
async fn unknown_names_beyond_their_quota_take_the_place_of_older_ones_and_refuse_no_service() {
    let instance = Instance::start("a").await;
    for quota in ["max_unknown: 4", "max_services: 4"] {
        let sidecar = Sidecar::orders(&format!("discovery: {{{quota}}}"), &[&instance]).await;
        let mut client = sidecar.client().await;
        for nth in 0..20 {
            let response = client.get(&format!("unknown-{nth}"), "/").await;
            assert_eq!((response.status, response.reason()), (404, "unknown_service"), "{quota}: {nth}");
        }
        assert_eq!(client.get("orders", "/").await.status, 200, "{quota}: the first request to a service");
        assert_eq!(client.get("unknown-0", "/").await.reason(), "unknown_service", "it takes a place again");
        assert_eq!(client.get("orders", "/").await.status, 200);
    }
}

#[tokio::test]
async fn new_names_beyond_their_rate_are_refused_and_known_services_are_served() {
    let instance = Instance::start("a").await;
    let sidecar = Sidecar::orders("discovery: {max_new_per_second: 1}", &[&instance]).await;
    let mut client = sidecar.client().await;
    let mut refused = Vec::new();
    for nth in 0..400 {
        let response = client.get(&format!("unknown-{nth}"), "/").await;
        match response.status {
            404 => assert_eq!(response.reason(), "unknown_service", "{nth}"),
            _ => refused.push(response),
        }
    }
    assert!(refused.len() >= 50, "{} of 400 were refused", refused.len());
    for response in &refused {
        assert_eq!((response.status, response.reason()), (503, "too_many_services"));
        assert_eq!(response.field("retry-after"), "1");
        let limit = "max_new_per_second: 1 (discovery.max_new_per_second)";
        assert!(response.text().contains(limit), "{}", response.text());
    }
    let counted = sidecar.metric("outrigger_watch_refused_total", &[("reason", "too_many_new")]);
    assert_eq!(counted, refused.len() as f64);
}
