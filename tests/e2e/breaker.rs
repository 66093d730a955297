//! The circuit breaker stops requests to a service that fails, and admits them again when the service has recovered.

use std::time::Duration;

use outrigger_tests::{
    instance::{Answer, Gate, Instance},
    sidecar::{Services, Sidecar},
    wait,
};

const QUICK: &str = "defaults: {retry: {max_retries: 0}, circuit_breaker: {min_requests: 10, open_for: 500ms, max_open_for: 1s}}";

async fn failing(status: u16, settings: &str) -> (Sidecar, Instance) {
    let instance = Instance::scripted("a", move |_| Answer::status(status, "no")).await;
    (Sidecar::orders(settings, &[&instance]).await, instance)
}

fn state(sidecar: &Sidecar) -> &'static str {
    sidecar.proxy.status().iter().find(|cluster| cluster.service == "orders").map_or("none", |c| c.breaker)
}

async fn send(sidecar: &Sidecar, requests: usize) {
    let mut client = sidecar.client().await;
    for _ in 0..requests {
        client.get("orders", "/").await;
    }
}

#[tokio::test]
async fn the_breaker_opens_reports_its_state_probes_and_closes() {
    let (sidecar, instance) = failing(503, QUICK).await;
    send(&sidecar, 9).await;
    assert_eq!(state(&sidecar), "closed");
    send(&sidecar, 1).await;
    assert_eq!((state(&sidecar), instance.count()), ("open", 10));

    let refused = sidecar.get("orders", "/").await;
    assert_eq!((refused.status, refused.reason()), (503, "circuit_open"), "{refused:?}");
    let seconds: u64 = refused.field("retry-after").parse().expect("Retry-After in seconds");
    assert!((1..=2).contains(&seconds), "{refused:?}");
    assert_eq!(refused.json()["status"], 503);
    assert_eq!(instance.count(), 10, "an open breaker sends no request");

    // A failed probe opens the breaker again, for longer.
    wait::until("a probe is let through", wait::TIMEOUT, async || {
        sidecar.get("orders", "/").await.reason().is_empty()
    })
    .await;
    assert_eq!((state(&sidecar), instance.count()), ("open", 11));

    instance.set_script(|_| Answer::ok("well"));
    wait::until("the breaker closes", wait::TIMEOUT, async || sidecar.get("orders", "/").await.status == 200)
        .await;
    assert_eq!(state(&sidecar), "closed");
    send(&sidecar, 5).await;
    assert_eq!(instance.count(), 17);
}

#[tokio::test]
async fn half_open_lets_one_probe_through_at_a_time() {
    let (sidecar, instance) = failing(503, QUICK).await;
    send(&sidecar, 10).await;
    let gate = Gate::closed();
    let opened = gate.clone();
    instance.set_script(move |_| Answer::ok("well").when(&opened));
    let mut probe = sidecar.client().await;
    wait::until("a probe is under way", wait::TIMEOUT, async || {
        if instance.in_flight() == 1 {
            return true;
        }
        probe = sidecar.client().await;
        probe.send("GET / HTTP/1.1\r\nHost: orders\r\n\r\n").await;
        // The request is either refused at once or admitted as the probe.
        tokio::select! {
            _ = probe.wire.fill() => false,
            () = instance.wait_requests(11) => true,
        }
    })
    .await;
    for _ in 0..5 {
        assert_eq!(sidecar.get("orders", "/").await.reason(), "circuit_open");
    }
    assert_eq!(instance.count(), 11);
    gate.open();
    assert_eq!(probe.response().await.status, 200);
    wait::until_true("the breaker is closed", || state(&sidecar) == "closed").await;
}

#[tokio::test]
async fn a_probe_that_the_client_cancels_does_not_count_and_frees_its_slot() {
    let (sidecar, instance) = failing(503, QUICK).await;
    send(&sidecar, 10).await;
    instance.set_script(|_| Answer::no_answer());
    wait::until("a probe is under way", wait::TIMEOUT, async || {
        let mut probe = sidecar.client().await;
        probe.send("GET / HTTP/1.1\r\nHost: orders\r\n\r\n").await;
        tokio::time::timeout(Duration::from_millis(200), probe.wire.fill()).await.is_err()
    })
    .await;
    wait::until_true("the probe has ended", || sidecar.proxy.in_flight() == 0).await;
    instance.set_script(|_| Answer::ok("well"));
    wait::until("the next probe closes the breaker", wait::TIMEOUT, async || {
        sidecar.get("orders", "/").await.status == 200
    })
    .await;
}

#[tokio::test]
async fn answers_other_than_gateway_errors_never_open_the_breaker() {
    for status in [500, 404, 429, 501] {
        let (sidecar, instance) = failing(status, QUICK).await;
        send(&sidecar, 60).await;
        assert_eq!((state(&sidecar), instance.count()), ("closed", 60), "{status}");
    }
}

#[tokio::test]
async fn gateway_errors_broken_connections_and_time_outs_open_the_breaker() {
    let settings = &QUICK.replace("defaults: {", "defaults: {timeout: 60ms, ");
    for (what, bad) in [
        ("502", Answer::status(502, "no")),
        ("504", Answer::status(504, "no")),
        ("closed", Answer::raw("").then_close()),
        ("reset", Answer::raw("").then_reset()),
        ("garbage", Answer::raw("garbage\r\n\r\n").then_close()),
        ("silence", Answer::no_answer()),
    ] {
        let instance = Instance::scripted("a", move |_| bad.clone()).await;
        let sidecar = Sidecar::orders(settings, &[&instance]).await;
        send(&sidecar, 12).await;
        assert_eq!(state(&sidecar), "open", "{what}");
        assert_eq!(instance.count(), 10, "{what}");
    }
}

#[tokio::test]
async fn clients_that_disconnect_never_open_the_breaker() {
    let (sidecar, instance) = failing(503, QUICK).await;
    instance.set_script(|_| Answer::no_answer());
    for nth in 0..30 {
        let mut client = sidecar.client().await;
        client.send("GET / HTTP/1.1\r\nHost: orders\r\n\r\n").await;
        instance.wait_requests(nth + 1).await;
        drop(client);
        instance.wait_connection_end(nth).await;
    }
    assert_eq!(state(&sidecar), "closed");
}

#[tokio::test]
async fn failures_before_a_successful_retry_do_not_open_the_breaker() {
    let all = [Instance::start("good").await, Instance::scripted("bad", |_| Answer::status(503, "no")).await];
    let sidecar = Sidecar::orders(
        "defaults: {circuit_breaker: {min_requests: 10, failure_ratio: 0.1}}",
        &[&all[0], &all[1]],
    )
    .await;
    send(&sidecar, 60).await;
    assert_eq!(state(&sidecar), "closed");
    assert_eq!(all[0].count(), 60);
}

#[tokio::test]
async fn below_the_ratio_the_breaker_stays_closed() {
    let instance = Instance::scripted("a", |request| match request.nth % 5 {
        3 | 4 => Answer::status(503, "no"),
        _ => Answer::ok("ok"),
    })
    .await;
    let sidecar = Sidecar::orders(QUICK, &[&instance]).await;
    send(&sidecar, 100).await;
    assert_eq!((state(&sidecar), instance.count()), ("closed", 100));
}

#[tokio::test]
async fn each_service_has_its_own_breaker_and_it_can_be_off() {
    let bad = Instance::scripted("bad", |_| Answer::status(503, "no")).await;
    let services = outrigger_tests::sidecar::Services::of("orders", &[&bad]).and("payments", &bad, "");
    let settings = format!("{QUICK}\nupstreams: [{{service: payments, circuit_breaker: off}}]");
    let sidecar = Sidecar::start(&settings, &services).await;
    send(&sidecar, 12).await;
    assert_eq!(sidecar.get("orders", "/").await.reason(), "circuit_open");
    let mut client = sidecar.client().await;
    for _ in 0..30 {
        assert_eq!(client.get("payments", "/").await.reason(), "");
    }
}

#[tokio::test]
async fn consecutive_failures_open_the_breaker_where_configured() {
    let settings =
        "defaults: {retry: {max_retries: 0}, circuit_breaker: {consecutive_failures: 3, open_for: 5s}}";
    let (sidecar, instance) = failing(503, settings).await;
    send(&sidecar, 6).await;
    assert_eq!((state(&sidecar), instance.count()), ("open", 3));
}

#[tokio::test]
async fn an_open_breaker_probes_an_instance_that_joins_at_once() {
    // The mass-loss guard is off, because it would keep the failing instance.
    let settings = "discovery: {mass_loss: off}\n\
                    defaults: {circuit_breaker: {min_requests: 10, open_for: 1h, max_open_for: 1h}, retry: off}";
    let (sidecar, failing_instance) = failing(503, settings).await;
    send(&sidecar, 10).await;
    assert_eq!(sidecar.get("orders", "/").await.reason(), "circuit_open");

    // A change of another service does not lead to a probe.
    let other = Instance::start("b").await;
    sidecar.write_services(&Services::of("orders", &[&failing_instance]).and("elsewhere", &other, ""));
    wait::until("the list is read", wait::TIMEOUT, async || {
        sidecar.get("elsewhere", "/").await.status == 200
    })
    .await;
    assert_eq!(sidecar.get("orders", "/").await.reason(), "circuit_open");

    sidecar.write_services(&Services::of("orders", &[&other]));
    wait::until("the instance that joined gets a request", wait::TIMEOUT, async || {
        sidecar.get("orders", "/").await.status == 200
    })
    .await;
    assert_eq!((state(&sidecar), failing_instance.count()), ("closed", 10));
}
