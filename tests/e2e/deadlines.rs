//! The app's own deadline limits the whole request, and the remaining time is sent to the instance.

use std::time::Duration;

use outrigger_tests::{
    instance::{Answer, Gate, Instance, Request},
    sidecar::Sidecar,
    wait,
};
use tokio::time::Instant;

fn get(fields: &str) -> String {
    format!("GET / HTTP/1.1\r\nHost: orders\r\n{fields}\r\n")
}

/// The remaining milliseconds in this field of the instance's latest request.
fn remaining(instance: &Instance, field: &str, unit: &str) -> Option<u64> {
    let seen = instance.seen();
    let value = seen.last().unwrap().request.head.get(field).unwrap_or_default().to_owned();
    if value.is_empty() {
        return None;
    }
    let number = value.strip_suffix(unit);
    Some(number.and_then(|number| number.parse().ok()).unwrap_or_else(|| panic!("{field}: {value:?}")))
}

#[tokio::test]
async fn a_request_ends_with_the_apps_own_deadline() {
    let slow = Instance::scripted("slow", |_| Answer::no_answer()).await;
    let sidecar = Sidecar::orders("", &[&slow]).await;
    for field in ["x-outrigger-timeout: 300ms\r\n", "grpc-timeout: 300m\r\n", "grpc-timeout: 300000u\r\n"] {
        let since = Instant::now();
        let response = sidecar.exchange(get(field)).await;
        assert_eq!((response.status, response.reason()), (504, "deadline_exceeded"), "{response:?}");
        let took = since.elapsed();
        assert!(took >= Duration::from_millis(300) && took < Duration::from_secs(5), "{took:?}");
    }
    assert_eq!(sidecar.metric("outrigger_errors_total", &[("reason", "deadline_exceeded")]), 3.0);
    assert_eq!(sidecar.metric("outrigger_attempts_total", &[("outcome", "deadline")]), 3.0);
}

#[tokio::test]
async fn deadlines_that_are_too_short_do_not_open_the_breaker() {
    let slow = Instance::scripted("slow", |_| Answer::ok("x").delayed(Duration::from_millis(50))).await;
    let sidecar = Sidecar::orders("", &[&slow]).await;
    let mut client = sidecar.client().await;
    for _ in 0..30 {
        let response = client.exchange(get("x-outrigger-timeout: 1ms\r\n")).await;
        assert_eq!(response.reason(), "deadline_exceeded");
    }
    assert_eq!(client.get("orders", "/").await.status, 200);
}

#[tokio::test]
async fn a_requests_time_out_cannot_lengthen_the_routes() {
    let slow = Instance::scripted("slow", |_| Answer::no_answer()).await;
    let sidecar = Sidecar::orders("defaults: {timeout: 200ms}", &[&slow]).await;
    let response = sidecar.exchange(get("x-outrigger-timeout: 1m\r\n")).await;
    assert_eq!((response.status, response.reason()), (504, "timeout"), "{response:?}");
}

#[tokio::test]
async fn the_deadline_holds_over_all_attempts_and_the_pauses_between() {
    let bad =
        Instance::scripted("bad", |_| Answer::status(503, "no").delayed(Duration::from_millis(80))).await;
    let settings = "defaults: {retry: {max_retries: 10, backoff_base: 50ms, backoff_max: 50ms}}";
    let sidecar = Sidecar::orders(settings, &[&bad]).await;
    let since = Instant::now();
    let response = sidecar.exchange(get("x-outrigger-timeout: 300ms\r\n")).await;
    // Either the last attempt is cut, or there is no time for another pause and the 503 is passed on.
    assert!(matches!(response.status, 503 | 504), "{response:?}");
    assert!(since.elapsed() < Duration::from_secs(5));
    assert!(bad.count() >= 2 && bad.count() <= 4, "{} attempts", bad.count());
}

#[tokio::test]
async fn each_attempt_carries_the_remaining_deadline() {
    let first = Gate::closed();
    let gate = first.clone();
    let instance = Instance::scripted("a", move |request| match request.nth {
        0 => Answer::raw("").when(&gate).then_close(),
        _ => Answer::ok("x"),
    })
    .await;
    let sidecar = Sidecar::orders("", &[&instance]).await;
    let mut client = sidecar.client().await;
    client.send(get("x-outrigger-timeout: 5s\r\ngrpc-timeout: 4S\r\n")).await;
    instance.wait_requests(1).await;
    let before = remaining(&instance, "x-outrigger-timeout", "ms").unwrap();
    assert!(before <= 4_000, "the shorter deadline applies: {before}");
    assert_eq!(remaining(&instance, "grpc-timeout", "m"), Some(before));
    tokio::time::sleep(Duration::from_millis(100)).await;
    first.open();
    assert_eq!(client.response().await.status, 200);
    let after = remaining(&instance, "x-outrigger-timeout", "ms").unwrap();
    assert!(after <= before - 100, "{after} after {before}");
    assert_eq!(remaining(&instance, "grpc-timeout", "m"), Some(after));
}

#[tokio::test]
async fn the_routes_deadline_is_sent_to_the_instance_and_its_time_out_is_not() {
    let instance = Instance::start("a").await;
    let sidecar = Sidecar::orders("defaults: {timeout: 3s}", &[&instance]).await;
    sidecar.get("orders", "/").await;
    assert_eq!(
        remaining(&instance, "x-outrigger-timeout", "ms"),
        None,
        "no field is added without a deadline"
    );

    let settings = "defaults: {timeout: 3s, deadline: 5s}";
    let sidecar = Sidecar::orders(settings, &[&instance]).await;
    sidecar.get("orders", "/").await;
    let left = remaining(&instance, "x-outrigger-timeout", "ms").unwrap();
    assert!(left <= 3_000 && left > 1_000, "the time-out is shorter than the deadline: {left}");
    assert_eq!(remaining(&instance, "grpc-timeout", "m"), None);
    // The end of the time-out is unknown until the body has been sent.
    let mut client = sidecar.client().await;
    client.send("POST / HTTP/1.1\r\nHost: orders\r\nContent-Length: 4\r\n\r\nbo").await;
    instance.wait_requests(3).await;
    let left = remaining(&instance, "x-outrigger-timeout", "ms").unwrap();
    assert!(left <= 5_000 && left > 3_000, "{left}");
    client.send("dy").await;
    assert_eq!(client.response_to("POST").await.status, 200);
}

#[tokio::test]
async fn the_routes_deadline_ends_a_stream() {
    let instance = Instance::scripted("a", |_| {
        Answer::raw("HTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\npart").then_hang()
    })
    .await;
    let sidecar = Sidecar::orders("defaults: {deadline: 300ms}", &[&instance]).await;
    let response = sidecar.exchange(get("")).await;
    assert!(response.status == 200 && response.body_error.is_some(), "{response:?}");
}

#[tokio::test]
async fn an_expired_deadline_sends_nothing_and_an_invalid_one_is_refused() {
    let instance = Instance::start("a").await;
    let sidecar = Sidecar::orders("", &[&instance]).await;
    let response = sidecar.exchange(get("x-outrigger-timeout: 0\r\n")).await;
    assert_eq!((response.status, response.reason()), (504, "deadline_exceeded"), "{response:?}");
    let response = sidecar.exchange(get("x-outrigger-timeout: soon\r\n")).await;
    assert_eq!((response.status, response.reason()), (400, "bad_request"), "{response:?}");
    assert!(response.text().contains("x-outrigger-timeout"), "{response:?}");
    assert_eq!(instance.count(), 0);
    // An invalid grpc-timeout is forwarded unchanged.
    assert_eq!(sidecar.exchange(get("grpc-timeout: soon\r\n")).await.status, 200);
    assert_eq!(instance.only_request().request.head.get("grpc-timeout"), Some("soon"));
}

#[tokio::test]
async fn an_answer_that_exceeds_the_deadline_is_cut() {
    let gate = Gate::closed();
    let instance = Instance::scripted("a", {
        let gate = gate.clone();
        move |_| Answer::raw("HTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\npart").then_wait(&gate)
    })
    .await;
    let sidecar = Sidecar::orders("", &[&instance]).await;
    let mut client = sidecar.client().await;
    client.send(get("x-outrigger-timeout: 300ms\r\n")).await;
    let response = client.response().await;
    assert_eq!(response.status, 200);
    assert!(response.body_error.is_some(), "{response:?}");
    wait::until_true("the error is counted", || {
        sidecar.metric("outrigger_errors_total", &[("reason", "deadline_exceeded")]) == 1.0
    })
    .await;
    assert_eq!(sidecar.endpoints("orders")[0].failures, 0, "the instance is not at fault");
    gate.open();
}

#[tokio::test]
async fn an_answer_that_the_app_does_not_read_is_cut_too() {
    // More than the buffers of the sockets hold.
    let instance = Instance::scripted("a", |_| Answer::pattern(64 << 20)).await;
    let sidecar = Sidecar::orders("defaults: {deadline: 300ms}", &[&instance]).await;
    let mut client = sidecar.client().await;
    client.send(get("")).await;
    wait::until_true("the error is counted", || {
        sidecar.metric("outrigger_errors_total", &[("reason", "deadline_exceeded")]) == 1.0
    })
    .await;
    wait::until_true("no resource is held for the request", || {
        sidecar.proxy.in_flight() == 0 && instance.in_flight() == 0
    })
    .await;
    assert_eq!(sidecar.endpoints("orders")[0].failures, 0, "the instance is not at fault");
    // The next request on another connection has its own deadline.
    instance.set_script(|_| Answer::ok("x"));
    assert_eq!(sidecar.get("orders", "/").await.status, 200);
}

#[tokio::test]
async fn an_upload_that_stalls_beyond_the_deadline_is_cut() {
    let instance = Instance::start("a").await;
    let sidecar = Sidecar::orders("", &[&instance]).await;
    let mut client = sidecar.client().await;
    let head =
        "POST / HTTP/1.1\r\nHost: orders\r\nx-outrigger-timeout: 300ms\r\nContent-Length: 9\r\n\r\nsome";
    client.send(head).await;
    let response = client.response_to("POST").await;
    assert_eq!((response.status, response.reason()), (504, "deadline_exceeded"), "{response:?}");
}

#[tokio::test]
async fn a_retry_waits_for_retry_after_when_no_other_instance_is_left() {
    let busy = Instance::scripted("busy", |request| match request.nth {
        0 => Answer::status(503, "later").field("retry-after", "1"),
        _ => Answer::ok("x"),
    })
    .await;
    let sidecar = Sidecar::orders("", &[&busy]).await;
    let since = Instant::now();
    assert_eq!(sidecar.get("orders", "/").await.status, 200);
    assert!(since.elapsed() >= Duration::from_secs(1), "{:?}", since.elapsed());
    assert_eq!(busy.count(), 2);
}

#[tokio::test]
async fn a_retry_waits_for_retry_after_on_any_retried_status() {
    let busy = Instance::scripted("busy", |request| match request.nth {
        0 => Answer::status(429, "later").field("retry-after", "1"),
        _ => Answer::ok("x"),
    })
    .await;
    let sidecar = Sidecar::orders("defaults: {retry: {statuses: [429]}}", &[&busy]).await;
    let since = Instant::now();
    assert_eq!(sidecar.get("orders", "/").await.status, 200);
    assert!(since.elapsed() >= Duration::from_secs(1), "{:?}", since.elapsed());
}

#[tokio::test]
async fn a_request_that_waits_for_retry_after_holds_no_connection() {
    let busy = Instance::scripted("busy", |request| match request.method() {
        "GET" => Answer::status(503, "later").field("retry-after", "30"),
        _ => Answer::ok("x"),
    })
    .await;
    let settings = "defaults: {timeout: 1m, retry: {max_retry_after: 30s}, \
                    pool: {max_connections: 1, max_idle: 1, max_waiting: 1}}";
    let sidecar = Sidecar::orders(settings, &[&busy]).await;
    let mut waiting = sidecar.client().await;
    waiting.send(get("")).await;
    busy.wait_requests(1).await;
    // Well before the 30 s of Retry-After have passed.
    let post = sidecar.exchange("POST / HTTP/1.1\r\nHost: orders\r\nContent-Length: 1\r\n\r\nx");
    let response = wait::within("another request is answered", post).await;
    assert_eq!(response.status, 200, "{response:?}");
    assert_eq!(sidecar.proxy.in_flight(), 1, "the first request still waits");
}

#[tokio::test]
async fn an_answer_with_a_retry_after_beyond_the_deadline_is_passed_on() {
    let busy = Instance::scripted("busy", |_| Answer::status(503, "later").field("retry-after", "60")).await;
    let sidecar = Sidecar::orders("defaults: {retry: {max_retry_after: 2m}}", &[&busy]).await;
    let response = sidecar.get("orders", "/").await;
    assert_eq!((response.status, response.field("retry-after")), (503, "60"));
    assert_eq!(busy.count(), 1);
    assert_eq!(sidecar.metric("outrigger_retries_total", &[("why", "deadline")]), 1.0);
}

/// Each within the request's 15 s: without the limit, the request would be held for 3 to 10 s.
#[tokio::test]
async fn a_response_that_asks_for_more_than_max_retry_after_goes_to_the_app_at_once() {
    const DATE: &[(&str, &str)] =
        &[("date", "Thu, 01 Jan 2026 00:00:00 GMT"), ("retry-after", "Thu, 01 Jan 2026 00:00:05 GMT")];
    let cases: [(&'static [(&'static str, &'static str)], usize); 6] = [
        (&[("retry-after", "10")], 1),
        (&[("retry-after", "3")], 2),
        (DATE, 1),
        // Without a Date, by the clock of this machine: a time that is far away.
        (&[("retry-after", "Fri, 31 Dec 9999 23:59:59 GMT")], 1),
        (&[("grpc-retry-pushback-ms", "4000")], 1),
        // The call is pushed back at every instance.
        (&[("grpc-retry-pushback-ms", "4000")], 2),
    ];
    for (fields, instances) in cases {
        let answer = move |_: &Request| {
            let answer = Answer::status(503, "later");
            fields.iter().fold(answer, |answer, (name, value)| answer.field(name, value))
        };
        let all = [Instance::scripted("a", answer).await, Instance::scripted("b", answer).await];
        let used: Vec<&Instance> = all.iter().take(instances).collect();
        let sidecar = Sidecar::orders("", &used).await;
        let since = Instant::now();
        let response = sidecar.get("orders", "/").await;
        assert!(since.elapsed() < Duration::from_millis(2_500), "{fields:?}: {:?}", since.elapsed());
        assert_eq!((response.status, response.text().as_str()), (503, "later"), "{fields:?}");
        let (name, value) = fields[fields.len() - 1];
        assert_eq!((response.reason(), response.field(name)), ("", value), "the instance's own answer");
        assert_eq!(sidecar.metric("outrigger_retries_total", &[("why", "pushback")]), 1.0, "{fields:?}");
    }
}

#[tokio::test]
async fn one_instances_retry_after_does_not_delay_a_retry_on_another() {
    let busy = Instance::scripted("busy", |_| Answer::status(503, "later").field("retry-after", "60")).await;
    let good = Instance::start("good").await;
    let sidecar = Sidecar::orders("", &[&busy, &good]).await;
    let since = Instant::now();
    for _ in 0..4 {
        assert_eq!(sidecar.get("orders", "/").await.instance(), "good");
    }
    assert!(busy.count() >= 1);
    assert!(since.elapsed() < Duration::from_secs(10), "{:?}", since.elapsed());
}

#[tokio::test]
async fn grpc_pushback_delays_the_retry_or_prevents_it() {
    let pushback = |millis: &'static str| {
        move |request: &Request| match request.nth {
            0 => Answer::status(503, "later").field("grpc-retry-pushback-ms", millis),
            _ => Answer::ok("x"),
        }
    };
    let busy = Instance::scripted("busy", pushback("400")).await;
    let sidecar = Sidecar::orders("", &[&busy]).await;
    let since = Instant::now();
    assert_eq!(sidecar.get("orders", "/").await.status, 200);
    assert!(since.elapsed() >= Duration::from_millis(400));

    let no_retry = Instance::scripted("no_retry", pushback("-1")).await;
    let sidecar = Sidecar::orders("", &[&no_retry]).await;
    assert_eq!(sidecar.get("orders", "/").await.status, 503);
    assert_eq!(no_retry.count(), 1);
    assert_eq!(sidecar.metric("outrigger_retries_total", &[("why", "pushback")]), 1.0);
}
