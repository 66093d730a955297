//! An error of the sidecar can be told apart from an answer of a service, and describes its cause.

use outrigger_tests::{
    instance::{Answer, Instance, refusing_addr},
    sidecar::{Services, Sidecar},
};
use serde_json::Value;

/// One error of each kind that a single request can cause.
#[tokio::test]
async fn each_reason_has_its_status_its_header_and_its_problem_body() {
    let hangs = Instance::scripted("hangs", |_| Answer::no_answer()).await;
    let garbage = Instance::scripted("garbage", |_| Answer::raw("garbage\r\n\r\n").then_close()).await;
    let closes = Instance::scripted("closes", |_| Answer::raw("").then_close()).await;
    let services = Services::default()
        .and("hangs", &hangs, "")
        .and("garbage", &garbage, "")
        .and("closes", &closes, "")
        .and_at("gone", "gone", refusing_addr(), "")
        .and_at("critical", "c1", refusing_addr(), "status: critical")
        .and_at("critical", "c2", refusing_addr(), "status: maintenance")
        .empty("nothing");
    let sidecar = Sidecar::start("defaults: {timeout: 300ms}", &services).await;
    let get = |host: &str| format!("GET /x HTTP/1.1\r\nHost: {host}\r\n\r\n");
    let post = |host: &str| format!("POST /x HTTP/1.1\r\nHost: {host}\r\nContent-Length: 2\r\n\r\nhi");
    let own = sidecar.addr();
    for (request, status, reason, detail) in [
        (get("unheard-of"), 404, "unknown_service", "unheard-of"),
        (get("nothing"), 404, "unknown_service", "nothing"),
        (get(&own.to_string()), 404, "no_route", "/svc/"),
        (get("10.0.0.1"), 421, "outside_host", "10.0.0.1"),
        (get("example.com"), 421, "outside_host", "example.com"),
        (get("critical"), 503, "no_usable_instance", "critical"),
        (get("gone"), 502, "connect_failed", "gone"),
        (get("hangs"), 504, "timeout", "hangs"),
        (post("hangs"), 504, "timeout", "hangs"),
        (get("garbage"), 502, "bad_response", "garbage"),
        (get("closes"), 502, "upstream_closed", "closes"),
        (post("closes"), 502, "sent_unknown", "closes"),
        ("CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n".to_owned(), 404, "unknown_service", "a"),
        ("GET / HTTP/1.1\r\n\r\n".to_owned(), 400, "bad_request", "Host"),
        (
            "POST / HTTP/1.1\r\nHost: gone\r\nTransfer-Encoding: gzip\r\n\r\n".to_owned(),
            501,
            "unsupported_coding",
            "gzip",
        ),
        ("GET / HTTP/3.0\r\nHost: gone\r\n\r\n".to_owned(), 505, "unsupported_version", "HTTP/3.0"),
        (
            format!("GET / HTTP/1.1\r\nHost: gone:{}\r\nOrigin: http://evil\r\n\r\n", own.port()),
            403,
            "forbidden_origin",
            "evil",
        ),
    ] {
        let response = sidecar.exchange(&request).await;
        assert_eq!((response.status, response.reason()), (status, reason), "{request:?}: {response:?}");
        assert_eq!(response.field("content-type"), "application/problem+json", "{reason}");
        assert_eq!(response.body_error, None);
        let problem = response.json();
        assert_eq!(problem["status"], status, "{problem}");
        for key in ["type", "title", "detail"] {
            assert!(problem[key].as_str().is_some_and(|text| !text.is_empty()), "{key} of {problem}");
        }
        assert!(problem.to_string().contains(reason), "the reason in the body: {problem}");
        assert!(problem.to_string().contains(detail), "{detail:?} in {problem}");
        assert!(response.head.has("date"), "the sidecar's own answer has a Date: {:?}", response.head);
    }
}

#[tokio::test]
async fn the_body_of_a_service_without_usable_instances_counts_them() {
    let services = Services::default()
        .and_at("orders", "a", refusing_addr(), "status: critical")
        .and_at("orders", "b", refusing_addr(), "status: critical")
        .and_at("orders", "c", refusing_addr(), "status: maintenance");
    let sidecar = Sidecar::start("", &services).await;
    let response = sidecar.get("orders", "/").await;
    assert_eq!(response.reason(), "no_usable_instance");
    let problem = response.json();
    let detail = problem["detail"].as_str().unwrap_or_default();
    assert!(detail.contains('3') && detail.contains("2 critical"), "{problem}");
}

#[tokio::test]
async fn head_gets_an_errors_head_and_no_body() {
    let sidecar = Sidecar::start("", &Services::default().empty("orders")).await;
    let mut client = sidecar.client().await;
    for _ in 0..2 {
        let response = client.exchange("HEAD / HTTP/1.1\r\nHost: orders\r\n\r\n").await;
        assert_eq!((response.status, response.reason(), response.body.len), (404, "unknown_service", 0));
    }
}

#[tokio::test]
async fn an_instances_own_error_is_passed_on_as_it_is() {
    let instance =
        Instance::scripted("a", |_| Answer::status(500, "mine").field("content-type", "x/y")).await;
    let sidecar = Sidecar::orders("", &[&instance]).await;
    let response = sidecar.get("orders", "/").await;
    assert_eq!((response.status, response.text().as_str()), (500, "mine"));
    assert_eq!((response.reason(), response.field("content-type")), ("", "x/y"));
}

#[tokio::test]
async fn each_error_is_counted_under_its_own_reason() {
    let services = Services::default().and_at("gone", "gone", refusing_addr(), "");
    let sidecar = Sidecar::start("", &services).await;
    sidecar.get("gone", "/").await;
    sidecar.get("gone", "/").await;
    for _ in 0..3 {
        sidecar.get("never-heard-of", "/").await;
    }
    let count = |labels: &[(&str, &str)]| sidecar.metric("outrigger_errors_total", labels);
    assert!((count(&[("service", "gone"), ("reason", "connect_failed")]) - 2.0).abs() < 0.1);
    assert!((count(&[("reason", "unknown_service")]) - 3.0).abs() < 0.1);
    assert!(count(&[("service", "never-heard-of")]) < 0.1, "an unknown name must not become a label");
}

#[tokio::test]
async fn text_from_the_request_cannot_break_the_problem_body() {
    let sidecar = Sidecar::start("", &Services::default().empty("orders")).await;
    let own = sidecar.addr().to_string();
    let mut own_errors = 0;
    for target in ["/\"x\"", "/svc/a\"b/", "/<script>", "/\\u0000", "/svc/%22%0a/", "/svc/%00/", "/svc/{}/"] {
        let response = sidecar.get(&own, target).await;
        assert!(response.status >= 400, "{target}");
        if response.reason().is_empty() {
            // An invalid target: refused before the request was parsed, without a body.
            assert_eq!((response.status, response.body.len), (400, 0), "{target}");
            continue;
        }
        own_errors += 1;
        assert!(matches!(response.json(), Value::Object(_)), "{target}: {}", response.text());
        assert_ne!(response.field("content-type"), "text/html");
    }
    assert!(own_errors >= 3, "only {own_errors} answers had a problem body");
}

#[tokio::test]
async fn a_limit_is_named_with_its_value_and_its_key_and_a_last_attempt_with_its_reason() {
    let hangs = Instance::scripted("hangs", |_| Answer::no_answer()).await;
    let closes = Instance::scripted("closes", |_| Answer::raw("").then_close()).await;
    let wordy = Instance::scripted("wordy", |_| {
        (0..1001).fold(Answer::ok("x"), |answer, n| answer.field(&format!("x-{n}"), "1"))
    })
    .await;
    let large = Instance::scripted("large", |_| Answer::ok("x").field("x", &"y".repeat(70_000))).await;
    let services = Services::default()
        .and("hangs", &hangs, "")
        .and("late", &hangs, "")
        .and("tries", &hangs, "")
        .and("closes", &closes, "")
        .and("wordy", &wordy, "")
        .and("large", &large, "");
    let settings = "defaults: {timeout: 300ms}\nupstreams: [{service: late, deadline: 150ms}, \
                    {service: tries, per_try_timeout: 50ms, timeout: 10s}]";
    let sidecar = Sidecar::start(settings, &services).await;
    let get = |host: &str, fields: &str| format!("GET /x HTTP/1.1\r\nHost: {host}\r\n{fields}\r\n");
    let many: String = (0..100).map(|n| format!("X-{n}: 1\r\n")).collect();
    for (request, reason, expected) in [
        (
            get("hangs", ""),
            "timeout",
            &["hangs: no answer in time; timeout: 300ms (upstreams.hangs.timeout); no time is left"][..],
        ),
        (
            get("hangs", "x-outrigger-timeout: 100ms\r\n"),
            "deadline_exceeded",
            &["within 100ms (x-outrigger-timeout or grpc-timeout)"],
        ),
        (get("late", ""), "deadline_exceeded", &["deadline: 150ms (upstreams.late.deadline)"]),
        (
            get("tries", ""),
            "timeout",
            &[
                "per_try_timeout: 50ms (upstreams.tries.per_try_timeout)",
                "attempt 3 was the last one; max_retries: 2 (upstreams.tries.retry.max_retries)",
            ],
        ),
        (
            "POST /x HTTP/1.1\r\nHost: closes\r\nContent-Length: 2\r\n\r\nhi".to_owned(),
            "sent_unknown",
            &[
                "POST may not be repeated without an Idempotency-Key",
                "non_idempotent: false (upstreams.closes.retry.non_idempotent)",
            ],
        ),
        (get("closes", "x-outrigger-retry: off\r\n"), "upstream_closed", &["x-outrigger-retry: off"]),
        (get("wordy", ""), "bad_response", &["max_headers: 1000 (outbound.limits.max_headers"]),
        (get("large", ""), "bad_response", &["max_header_bytes: 64KiB (outbound.limits.max_header_bytes)"]),
        (get("wordy", &many), "head_too_large", &["max_headers: 100 (outbound.limits.max_headers)"]),
        (
            get("wordy", &format!("x: {}\r\n", "y".repeat(70_000))),
            "head_too_large",
            &["max_header_bytes: 64KiB (outbound.limits.max_header_bytes)"],
        ),
        (
            format!("GET /{} HTTP/1.1\r\nHost: wordy\r\n\r\n", "y".repeat(70_000)),
            "uri_too_long",
            &["max_header_bytes: 64KiB (outbound.limits.max_header_bytes)"],
        ),
    ] {
        let response = sidecar.exchange(&request).await;
        let start = request.get(..60).unwrap_or(&request);
        assert_eq!(response.reason(), reason, "{start:?}: {response:?}");
        let problem = response.json();
        let detail = problem["detail"].as_str().unwrap_or_default();
        for part in expected {
            assert!(detail.contains(part), "{part:?} in {detail:?} of {start:?}");
        }
    }
}

#[tokio::test]
async fn an_upload_that_stops_is_told_its_limit() {
    let instance = Instance::start("a").await;
    let sidecar = Sidecar::orders("defaults: {body_idle: 100ms}", &[&instance]).await;
    let mut client = sidecar.client().await;
    client.send("POST / HTTP/1.1\r\nHost: orders\r\nContent-Length: 9\r\n\r\nhalf").await;
    let response = client.response_to("POST").await;
    assert_eq!((response.status, response.reason()), (408, "body_timeout"));
    assert!(response.text().contains("body_idle: 100ms (upstreams.orders.body_idle)"), "{}", response.text());
}

#[tokio::test]
async fn a_path_without_a_service_is_told_its_host_and_the_forms() {
    let sidecar = Sidecar::start("", &Services::default().empty("orders")).await;
    let own = sidecar.addr().to_string();
    let absolute = format!("http://{own}/items");
    for (host, target, shown) in [
        (
            own.as_str(),
            "/items",
            format!("the Host `{own}` is this sidecar's own address, and the path `/items`"),
        ),
        ("localhost:3000", "/", "the Host `localhost:3000` is".to_owned()),
        ("", "/items", "there is no Host, or an empty one".to_owned()),
        ("orders", &absolute, format!("the Host `{own}` is")),
        (&own, "/svc/a b?", String::new()),
        (&own, "/svc//x", "`` cannot be a service's name".to_owned()),
    ] {
        let response = sidecar.get(host, target).await;
        if target.contains(' ') {
            assert_eq!(response.status, 400);
            continue;
        }
        assert_eq!((response.status, response.reason()), (404, "no_route"), "{host} {target}: {response:?}");
        let problem = response.json();
        let detail = problem["detail"].as_str().unwrap_or_default();
        for part in [&shown, "`Host: orders`", "`/svc/orders/...`", "`http_proxy`"] {
            assert!(detail.contains(part), "{part:?} in {detail:?}");
        }
    }
    let response = sidecar.get(&own, &format!("/{}", "y".repeat(1000))).await;
    assert!(response.body.len < 1000, "a long path is cut: {}", response.text());
}
