//! Which requests are retried, on which instances and how often, and which are never retried.

use std::time::Duration;

use outrigger_tests::{
    client::Response,
    instance::{Answer, Gate, Instance, Request, refusing_addr},
    sidecar::{Services, Sidecar},
};
use tokio::time::Instant;

const OFF: &str = "circuit_breaker: off";

fn request(method: &str, more: &str) -> String {
    let body =
        if matches!(method, "POST" | "PUT" | "PATCH") { "Content-Length: 4\r\n\r\nbody" } else { "\r\n" };
    format!("{method} / HTTP/1.1\r\nHost: orders\r\n{more}{body}")
}

/// Three instances; two of them answer with `bad`.
async fn one_good(
    settings: &str,
    bad: impl Fn(&Request) -> Answer + Clone + Send + Sync + 'static,
) -> (Sidecar, [Instance; 3]) {
    let all = [
        Instance::start("good").await,
        Instance::scripted("bad1", bad.clone()).await,
        Instance::scripted("bad2", bad).await,
    ];
    let sidecar = Sidecar::orders(settings, &[&all[0], &all[1], &all[2]]).await;
    (sidecar, all)
}

fn bad_count(all: &[Instance; 3]) -> usize {
    all[1].count() + all[2].count()
}

/// Sends six requests. Each must be answered by the good instance, at least two after a retry.
async fn assert_retried(sidecar: &Sidecar, all: &[Instance; 3], request: &str) {
    let mut client = sidecar.client().await;
    let method = request.split(' ').next().unwrap();
    for nth in 0..6 {
        client.send(request).await;
        let response = client.response_to(method).await;
        assert_eq!((response.status, response.instance()), (200, "good"), "{nth} {request:?}: {response:?}");
    }
    assert!(bad_count(all) >= 2, "no request was retried: {request:?}");
}

/// Sends six requests. Each must be sent once, and a bad instance's answer must have this status and reason.
async fn assert_not_retried(
    sidecar: &Sidecar,
    all: &[Instance; 3],
    request: &str,
    status: u16,
    reason: &str,
) {
    let mut client = sidecar.client().await;
    let method = request.split(' ').next().unwrap();
    let mut failed = 0;
    for nth in 1..=6 {
        client.send(request).await;
        let response = client.response_to(method).await;
        if response.status != 200 {
            assert_eq!((response.status, response.reason()), (status, reason), "{request:?}: {response:?}");
            failed += 1;
        }
        assert_eq!(all.iter().map(Instance::count).sum::<usize>(), nth, "sent again: {request:?}");
    }
    assert_eq!(failed, 4, "two of three instances are bad: {request:?}");
    assert_eq!(bad_count(all), 4);
}

#[tokio::test]
async fn a_refused_connection_moves_any_method_to_another_instance() {
    let good = Instance::start("good").await;
    let services = Services::of("orders", &[&good]).and_at("orders", "gone1", refusing_addr(), "").and_at(
        "orders",
        "gone2",
        refusing_addr(),
        "",
    );
    let sidecar = Sidecar::start("", &services).await;
    let mut client = sidecar.client().await;
    for method in ["GET", "POST", "PATCH", "PUT", "DELETE", "POST"] {
        let response = client.exchange(request(method, "")).await;
        assert_eq!((response.status, response.instance()), (200, "good"), "{method}: {response:?}");
    }
    assert!(good.seen().iter().all(|seen| seen.body().complete));
}

#[tokio::test]
async fn gateway_answers_to_idempotent_requests_are_retried_on_another_instance() {
    for status in [502, 503, 504] {
        for method in ["GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"] {
            let (sidecar, all) = one_good("", move |_| Answer::status(status, "no")).await;
            assert_retried(&sidecar, &all, &request(method, "")).await;
        }
    }
}

#[tokio::test]
async fn a_gateway_answer_to_a_post_is_passed_on() {
    for method in ["POST", "PATCH", "LOCK"] {
        let (sidecar, all) = one_good("", |_| Answer::status(503, "no")).await;
        assert_not_retried(&sidecar, &all, &request(method, ""), 503, "").await;
    }
}

#[tokio::test]
async fn other_answers_are_never_retried() {
    for status in [400, 404, 429, 500, 501, 505] {
        let (sidecar, all) = one_good("", move |_| Answer::status(status, "no")).await;
        assert_not_retried(&sidecar, &all, &request("GET", ""), status, "").await;
    }
}

#[tokio::test]
async fn a_connection_that_ends_before_the_answer_is_retried_for_idempotent_requests() {
    for bad in
        [Answer::raw("").then_close(), Answer::raw("").then_reset(), Answer::raw("HTTP/1.1 20").then_close()]
    {
        for method in ["GET", "PUT", "DELETE"] {
            let bad = bad.clone();
            let (sidecar, all) = one_good("", move |_| bad.clone()).await;
            assert_retried(&sidecar, &all, &request(method, "")).await;
        }
    }
}

#[tokio::test]
async fn a_sent_post_is_not_repeated() {
    for bad in [Answer::raw("").then_close(), Answer::raw("").then_reset()] {
        for method in ["POST", "PATCH"] {
            let bad = bad.clone();
            let (sidecar, all) = one_good("", move |_| bad.clone()).await;
            assert_not_retried(&sidecar, &all, &request(method, ""), 502, "sent_unknown").await;
        }
    }
}

#[tokio::test]
async fn a_post_with_an_idempotency_key_is_retried() {
    for bad in [Answer::status(503, "no"), Answer::raw("").then_close()] {
        let (sidecar, all) = one_good("", move |_| bad.clone()).await;
        assert_retried(&sidecar, &all, &request("POST", "Idempotency-Key: \"k1\"\r\n")).await;
        let seen = all[0].first_with_method("POST");
        assert_eq!(seen.request.head.get("idempotency-key"), Some("\"k1\""), "the field is forwarded");
    }
}

#[tokio::test]
async fn a_post_is_retried_where_configured() {
    let settings = "upstreams: [{service: orders, retry: {non_idempotent: true}}]";
    let (sidecar, all) = one_good(settings, |_| Answer::raw("").then_close()).await;
    assert_retried(&sidecar, &all, &request("POST", "")).await;
}

#[tokio::test]
async fn a_request_can_turn_its_retries_off() {
    let (sidecar, all) = one_good("", |_| Answer::status(503, "no")).await;
    assert_not_retried(&sidecar, &all, &request("GET", "x-outrigger-retry: off\r\n"), 503, "").await;
    assert!(!all[0].seen()[0].request.head.has("x-outrigger-retry"), "the field is not forwarded");
}

#[tokio::test]
async fn settings_can_turn_retries_off_and_choose_the_statuses() {
    let (sidecar, all) = one_good("defaults: {retry: {max_retries: 0}}", |_| Answer::status(503, "no")).await;
    assert_not_retried(&sidecar, &all, &request("GET", ""), 503, "").await;
    let (sidecar, all) =
        one_good("defaults: {retry: {statuses: [500]}}", |_| Answer::status(500, "no")).await;
    assert_retried(&sidecar, &all, &request("GET", "")).await;
    let (sidecar, all) =
        one_good("defaults: {retry: {statuses: [500]}}", |_| Answer::status(503, "no")).await;
    assert_not_retried(&sidecar, &all, &request("GET", ""), 503, "").await;
}

#[tokio::test]
async fn the_last_answer_is_passed_on_when_every_attempt_failed() {
    let all = [
        Instance::scripted("a", |_| Answer::status(503, "no").field("retry-after", "7")).await,
        Instance::scripted("b", |_| Answer::status(503, "no").field("retry-after", "7")).await,
        Instance::scripted("c", |_| Answer::status(503, "no").field("retry-after", "7")).await,
        Instance::scripted("d", |_| Answer::status(503, "no").field("retry-after", "7")).await,
    ];
    let sidecar =
        Sidecar::orders(&format!("defaults: {{{OFF}}}"), &[&all[0], &all[1], &all[2], &all[3]]).await;
    let response = sidecar.get("orders", "/").await;
    assert_eq!((response.status, response.text().as_str()), (503, "no"));
    assert_eq!((response.reason(), response.field("retry-after")), ("", "7"), "the instance's own answer");
    let counts: Vec<_> = all.iter().map(Instance::count).collect();
    assert_eq!(counts.iter().sum::<usize>(), 3, "one attempt and two retries: {counts:?}");
    assert!(counts.iter().all(|count| *count <= 1), "each attempt on another instance: {counts:?}");
}

#[tokio::test]
async fn a_retry_uses_the_same_instance_where_there_is_only_one() {
    let only = Instance::scripted("a", |request| match request.nth % 3 {
        2 => Answer::ok("third"),
        _ => Answer::status(503, "no"),
    })
    .await;
    let sidecar = Sidecar::orders("", &[&only]).await;
    assert_eq!(sidecar.get("orders", "/").await.text(), "third");
    assert_eq!(only.count(), 3);
}

#[tokio::test]
async fn an_attempt_beyond_per_try_timeout_is_cancelled_and_retried() {
    let (sidecar, all) = one_good("defaults: {per_try_timeout: 150ms}", |_| Answer::no_answer()).await;
    assert_retried(&sidecar, &all, &request("GET", "")).await;
    assert!(all[1].wait_connection_end(0).await != outrigger_tests::instance::ConnectionEnd::ByScript);
    let (sidecar, all) = one_good("defaults: {per_try_timeout: 150ms}", |_| Answer::no_answer()).await;
    assert_not_retried(&sidecar, &all, &request("POST", ""), 504, "timeout").await;
}

#[tokio::test]
async fn a_connect_beyond_connect_timeout_is_cancelled_and_retried() {
    // A full backlog drops SYNs: a connect neither succeeds nor fails.
    let (full, _held) = full_backlog().await;
    let good = Instance::start("good").await;
    let services = Services::of("orders", &[&good]).and_at("orders", "full", full, "");
    let sidecar = Sidecar::start("defaults: {connect_timeout: 150ms}", &services).await;
    for method in ["GET", "POST", "GET", "POST"] {
        let response = sidecar.exchange(request(method, "")).await;
        assert_eq!((response.status, response.instance()), (200, "good"), "{method}: {response:?}");
    }
}

async fn full_backlog() -> (std::net::SocketAddr, Vec<tokio::task::JoinHandle<()>>) {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(1).unwrap();
    let addr = listener.local_addr().unwrap();
    let held = (0..8)
        .map(|_| {
            tokio::spawn(async move {
                let _connected = tokio::net::TcpStream::connect(addr).await;
                std::future::pending::<()>().await;
            })
        })
        .collect();
    outrigger_tests::wait::until("the backlog is full", outrigger_tests::wait::TIMEOUT, async || {
        let connect = tokio::net::TcpStream::connect(addr);
        tokio::time::timeout(Duration::from_millis(100), connect).await.is_err()
    })
    .await;
    // The listener stays open until the process ends and never accepts.
    std::mem::forget(listener);
    (addr, held)
}

#[tokio::test]
async fn no_attempt_begins_after_the_deadline_and_the_answer_is_504() {
    let gate = Gate::closed();
    let opened = gate.clone();
    let (sidecar, all) = one_good("defaults: {timeout: 400ms, per_try_timeout: 300ms}", move |_| {
        Answer::ok("late").when(&opened)
    })
    .await;
    all[0].set_script(|_| Answer::no_answer());
    let since = Instant::now();
    let response = sidecar.get("orders", "/").await;
    assert_eq!((response.status, response.reason()), (504, "timeout"), "{response:?}");
    let took = since.elapsed();
    assert!(took >= Duration::from_millis(390), "{took:?}");
    assert!(took < Duration::from_secs(5), "{took:?}");
    gate.open();
    let counts: usize = all.iter().map(Instance::count).sum();
    assert!((1..=2).contains(&counts), "{counts} attempts in 400 ms of 300 ms each");
}

#[tokio::test]
async fn the_time_out_is_over_all_attempts() {
    let only = Instance::scripted("a", |_| Answer::no_answer()).await;
    let sidecar = Sidecar::orders("defaults: {timeout: 300ms}", &[&only]).await;
    for method in ["GET", "POST"] {
        let since = Instant::now();
        let response = sidecar.exchange(request(method, "")).await;
        assert_eq!((response.status, response.reason()), (504, "timeout"), "{method}: {response:?}");
        assert!(since.elapsed() >= Duration::from_millis(290));
    }
    assert_eq!(only.count(), 2);
}

#[tokio::test]
async fn an_answer_longer_than_the_time_out_is_not_cut() {
    let slow = Instance::scripted("a", |_| {
        Answer::raw("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\na")
            .then_pause(Duration::from_millis(600))
            .then_write("b")
    })
    .await;
    let sidecar = Sidecar::orders("defaults: {timeout: 200ms}", &[&slow]).await;
    let response = sidecar.get("orders", "/").await;
    assert_eq!((response.text().as_str(), response.body_error), ("ab", None));
}

#[tokio::test]
async fn retries_of_sent_requests_are_limited_by_their_budget() {
    let all = [
        Instance::scripted("a", |_| Answer::status(503, "no")).await,
        Instance::scripted("b", |_| Answer::status(503, "no")).await,
    ];
    let settings =
        format!("defaults: {{{OFF}, retry: {{budget: {{ratio: 0.1, min_per_second: 0, window: 60s}}}}}}");
    let sidecar = Sidecar::orders(&settings, &[&all[0], &all[1]]).await;
    let mut client = sidecar.client().await;
    for _ in 0..200 {
        assert_eq!(client.get("orders", "/").await.status, 503);
    }
    let attempts = all[0].count() + all[1].count();
    assert!((200 + 10..=200 + 21).contains(&attempts), "{attempts} attempts for 200 requests at 10 %");
    assert!(sidecar.metric("outrigger_retries_total", &[("why", "budget")]) > 0.0);
}

#[tokio::test]
async fn retries_of_unsent_requests_need_no_budget() {
    let good = Instance::start("good").await;
    let services = Services::of("orders", &[&good]).and_at("orders", "gone", refusing_addr(), "");
    let settings = format!("defaults: {{{OFF}, retry: {{budget: {{ratio: 0, min_per_second: 0}}}}}}");
    let sidecar = Sidecar::start(&settings, &services).await;
    let mut client = sidecar.client().await;
    for _ in 0..40 {
        assert_eq!(client.get("orders", "/").await.status, 200);
    }
}

#[tokio::test]
async fn an_error_of_another_sidecar_is_passed_on_and_not_retried() {
    let (sidecar, all) =
        one_good("", |_| Answer::status(503, "{}").field("x-outrigger-error", "circuit_open")).await;
    assert_not_retried(&sidecar, &all, &request("GET", ""), 503, "circuit_open").await;
}

#[tokio::test]
async fn a_request_with_a_cut_body_is_not_retried() {
    let (sidecar, all) = one_good("", |_| Answer::ok("bad")).await;
    for _ in 0..3 {
        let mut client = sidecar.client().await;
        client.send("PUT / HTTP/1.1\r\nHost: orders\r\nContent-Length: 10\r\n\r\nhalf").await;
        drop(client);
    }
    outrigger_tests::wait::until_true("each request has ended", || sidecar.proxy.in_flight() == 0).await;
    assert!(all.iter().map(Instance::count).sum::<usize>() <= 3);
}

/// The memory for buffered bodies is limited for the whole process.
#[tokio::test]
async fn a_buffered_body_is_released_when_the_answer_begins() {
    let gate = Gate::closed();
    let held = gate.clone();
    let slow = Instance::scripted("slow", move |_| {
        Answer::raw("HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\n").then_wait(&held).then_write("late")
    })
    .await;
    let all = [Instance::start("good").await, Instance::scripted("bad", |_| Answer::status(503, "no")).await];
    let services = Services::of("slow", &[&slow]).and("orders", &all[0], "").and("orders", &all[1], "");
    let sidecar = Sidecar::start("defaults: {retry: {max_body: 1MiB}}", &services).await;
    let mut clients = Vec::new();
    for _ in 0..16 {
        let mut client = sidecar.client().await;
        client.send(format!("PUT / HTTP/1.1\r\nHost: slow\r\nContent-Length: {}\r\n\r\n", 1 << 20)).await;
        client.send_pattern(1 << 20).await.unwrap();
        assert_eq!(client.head().await.unwrap().split_start_line().1, "200");
        clients.push(client);
    }
    for _ in 0..2 {
        let response = sidecar.exchange(request("PUT", "")).await;
        assert_eq!((response.status, response.instance()), (200, "good"), "{response:?}");
    }
    assert_eq!(all[1].count(), 1);
    gate.open();
}

#[tokio::test]
async fn every_attempt_is_counted_once() {
    let (sidecar, all) = one_good("", |_| Answer::status(503, "no")).await;
    let mut client = sidecar.client().await;
    for _ in 0..30 {
        assert_eq!(client.get("orders", "/").await.status, 200);
    }
    let seen = all.iter().map(Instance::count).sum::<usize>() as f64;
    let service = [("service", "orders")];
    assert!((sidecar.metric("outrigger_attempts_total", &service) - seen).abs() < 0.1);
    assert!((sidecar.metric("outrigger_instance_picks_total", &service) - seen).abs() < 0.1);
    let requests = [("service", "orders"), ("code", "200")];
    outrigger_tests::wait::until_true("each request is counted", || {
        (sidecar.metric("outrigger_requests_total", &requests) - 30.0).abs() < 0.1
    })
    .await;
}

#[tokio::test]
async fn an_instance_killed_under_traffic_costs_no_request() {
    let all = [Instance::start("a").await, Instance::start("b").await, Instance::start("c").await];
    let sidecar = Sidecar::orders("", &[&all[0], &all[1], &all[2]]).await;
    let plan = outrigger_tests::load::LoadPlan::get("orders").methods(&["GET", "PUT", "DELETE"]);
    let load = outrigger_tests::load::Load::start(sidecar.addr(), plan);
    load.wait_successes(300).await;
    for how in [outrigger_tests::instance::Kill::Reset, outrigger_tests::instance::Kill::Fin] {
        all[1].kill(how).await;
        load.wait_successes(500).await;
        all[1].listen_again().await;
        load.wait_successes(500).await;
    }
    load.stop().await.assert_clean(2000);
}

#[tokio::test]
async fn the_answer_names_the_failure_when_every_instance_fails() {
    let services = Services::default().and_at("orders", "g1", refusing_addr(), "").and_at(
        "orders",
        "g2",
        refusing_addr(),
        "",
    );
    let sidecar = Sidecar::start("", &services).await;
    for method in ["GET", "POST"] {
        let response: Response = sidecar.exchange(request(method, "")).await;
        assert_eq!((response.status, response.reason()), (502, "connect_failed"), "{method}: {response:?}");
    }
    let closing = Instance::scripted("a", |_| Answer::raw("").then_close()).await;
    let sidecar = Sidecar::orders("", &[&closing]).await;
    let response = sidecar.exchange(request("GET", "")).await;
    assert_eq!((response.status, response.reason()), (502, "upstream_closed"), "{response:?}");
}
