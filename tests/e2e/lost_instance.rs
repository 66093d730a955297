//! An instance that is out while others are in is no news of the service; nor is a stream that is cut when it is old. And an
//! instance that passes on the errors of a sidecar behind it is compared with the others.

use std::time::Duration;

use outrigger_tests::{
    client::Client,
    instance::{Answer, Instance, Kill},
    sidecar::Sidecar,
    wait,
};

const STREAM: &str = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n";
const GET: &str = "GET / HTTP/1.1\r\nHost: orders\r\n\r\n";
const POST: &str = "POST / HTTP/1.1\r\nHost: orders\r\nContent-Length: 0\r\n\r\n";

fn trips(sidecar: &Sidecar) -> f64 {
    sidecar.metric("outrigger_breaker_trips_total", &[("service", "orders")])
}

/// Requests under way at each of three instances.
async fn spread(sidecar: &Sidecar, all: &[Instance; 3], request: &str, each: usize) -> Vec<Client> {
    let mut clients = vec![];
    while all.iter().any(|one| one.in_flight() < each) {
        let mut client = sidecar.client().await;
        client.send(request).await;
        clients.push(client);
        let arrived = || all.iter().map(Instance::in_flight).sum::<usize>();
        wait::until_true("the request arrives", || arrived() == clients.len()).await;
    }
    clients
}

#[tokio::test]
async fn what_one_killed_instance_of_three_had_under_way_opens_no_breaker() {
    for (settings, request, answer) in [
        ("", GET, STREAM),
        ("defaults: {outlier: off, circuit_breaker: {min_requests: 5}}", GET, STREAM),
        ("defaults: {circuit_breaker: {consecutive_failures: 3}}", GET, STREAM),
        // Without a head: a POST is not sent again, so the app sees each failure.
        ("defaults: {outlier: off, circuit_breaker: {min_requests: 5}}", POST, ""),
    ] {
        for how in [Kill::Fin, Kill::Reset] {
            let script = move |_: &_| Answer::raw(answer).then_hang();
            let all = [
                Instance::scripted("a", script).await,
                Instance::scripted("b", script).await,
                Instance::scripted("c", script).await,
            ];
            let sidecar = Sidecar::orders(settings, &[&all[0], &all[1], &all[2]]).await;
            let _clients = spread(&sidecar, &all, request, 20).await;
            let under_way = sidecar.proxy.in_flight();
            let lost = all[1].in_flight();
            all[1].kill(how).await;
            wait::until_true("its requests have ended", || sidecar.proxy.in_flight() == under_way - lost)
                .await;
            assert_eq!(trips(&sidecar), 0.0, "{settings} {request:?} {how:?}");
        }
    }
}

#[tokio::test]
async fn all_instances_that_cut_their_answers_open_the_breaker() {
    for (answer, request) in [("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nx", GET), ("", POST)] {
        let script = move |_: &_| Answer::raw(answer).then_close();
        let all = [
            Instance::scripted("a", script).await,
            Instance::scripted("b", script).await,
            Instance::scripted("c", script).await,
        ];
        let sidecar = Sidecar::orders("", &[&all[0], &all[1], &all[2]]).await;
        let mut sent = 0;
        while trips(&sidecar) < 0.5 {
            assert!(sent < 100, "closed after {sent} requests: {request:?}");
            let mut client = sidecar.client().await;
            client.send(request).await;
            // The answer may be cut before its head has been passed on.
            let _ = client.try_response_to("GET").await;
            sent += 1;
        }
    }
}

#[tokio::test]
async fn a_stream_that_is_cut_after_a_whole_window_is_not_counted() {
    let settings = "defaults: {circuit_breaker: {window: 1s, min_requests: 1, open_for: 1h, max_open_for: 1h}, \
                    outlier: {window: 1s, consecutive_failures: 1, max_ejection_percent: 100}}";
    for (age, expected) in [(Duration::from_millis(1_300), 0.0), (Duration::ZERO, 1.0)] {
        let instance = Instance::scripted("a", |_| Answer::raw(STREAM).then_hang()).await;
        let sidecar = Sidecar::orders(settings, &[&instance]).await;
        let mut client = sidecar.client().await;
        client.send(GET).await;
        client.head().await.expect("the head of the stream");
        // How old it becomes is what the test is about.
        tokio::time::sleep(age).await;
        instance.kill(Kill::Reset).await;
        client.wait_closed().await;
        wait::until_true("the request has ended", || sidecar.proxy.in_flight() == 0).await;
        assert_eq!(trips(&sidecar), expected, "{age:?}");
        let ejections =
            sidecar.metric("outrigger_ejections_total", &[("service", "orders"), ("kind", "soft")]);
        assert_eq!(ejections, expected, "{age:?}");
    }
}

#[tokio::test]
async fn an_instance_that_passes_on_errors_of_a_sidecar_behind_it_is_ejected_by_its_rate() {
    for (status, others) in [(503, 2), (404, 2), (503, 1)] {
        let all = [Instance::start("a").await, Instance::start("b").await];
        let bad = Instance::scripted("bad", move |_| {
            Answer::status(status, "no").field("x-outrigger-error", "no_usable_instance")
        })
        .await;
        let settings = "defaults: {outlier: {base_ejection_time: 1h, max_ejection_time: 1h}}";
        let used: Vec<&Instance> = all.iter().take(others).chain([&bad]).collect();
        let sidecar = Sidecar::orders(settings, &used).await;
        let mut client = sidecar.client().await;
        let mut errors = 0;
        for _ in 0..150 {
            errors += usize::from(client.get("orders", "/").await.status == status);
        }
        // Twenty requests are the fewest for a rate, and every fourth failure compares it.
        assert!((20..=24).contains(&bad.count()), "{} requests beside {others}", bad.count());
        assert_eq!(errors, bad.count(), "none is repeated");
        assert_eq!(trips(&sidecar), 0.0);
        let why = sidecar.endpoints("orders").into_iter().find_map(|one| one.ejected).map(|one| one.why);
        assert_eq!(why, Some("success_rate"));
    }
}
