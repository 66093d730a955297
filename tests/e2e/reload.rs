//! A reload applies at once, and keeps connections, requests and learned state.

use std::time::Duration;

use outrigger_tests::{
    client::Client,
    instance::{Answer, Gate, Instance, Kill},
    load::{Load, LoadPlan},
    sidecar::{Services, Sidecar},
    wait,
};

const UPGRADE: &str =
    "GET /chat HTTP/1.1\r\nHost: orders\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";

/// Settings that change everything that a reload can change in the data path.
const EVERYTHING: &str = "defaults:\n  timeout: 5s\n  per_try_timeout: 4s\n  connect_timeout: 2s\n  body_idle: 30s\n  \
     balance: random\n  retry: {max_retries: 1, budget: {ratio: 50%, window: 20s}}\n  \
     circuit_breaker: {min_requests: 50, window: 20s}\n  outlier: {consecutive_failures: 9, window: 20s}\n  \
     pool: {max_connections: 64, max_idle: 32, idle_timeout: 5s}\n\
     discovery: {first_answer: 2s, mass_loss: off}\n\
     log: {access: true}";

#[tokio::test]
async fn no_request_fails_while_all_settings_change_repeatedly() {
    let all = [Instance::start("a").await, Instance::start("b").await, Instance::start("c").await];
    let sidecar = Sidecar::orders("", &[&all[0], &all[1], &all[2]]).await;
    let load = Load::start(sidecar.addr(), LoadPlan::get("orders").methods(&["GET", "POST"]));
    load.wait_successes(200).await;
    for _ in 0..10 {
        sidecar.apply_settings(EVERYTHING).await;
        load.wait_successes(50).await;
        sidecar.apply_settings("").await;
        load.wait_successes(50).await;
    }
    load.stop().await.assert_clean(1200);
}

#[tokio::test]
async fn connections_to_instances_and_of_the_app_are_kept() {
    let all = [Instance::start("a").await, Instance::start("b").await];
    let sidecar = Sidecar::orders("", &[&all[0], &all[1]]).await;
    let mut client = sidecar.client().await;
    for n in 0..8 {
        if n % 2 == 0 {
            sidecar
                .apply_settings(if n % 4 == 0 {
                    "defaults: {timeout: 3s, pool: {idle_timeout: 10s}}"
                } else {
                    ""
                })
                .await;
        }
        let answer = client.get("orders", "/").await;
        assert_eq!((answer.status, answer.field("connection")), (200, ""));
        client.get("orders", "/").await;
    }
    assert_eq!(
        [all[0].accepted(), all[1].accepted()],
        [1, 1],
        "one connection to each instance for all requests"
    );
    assert_eq!(all[0].count() + all[1].count(), 16);
}

#[tokio::test]
async fn a_request_in_flight_keeps_its_settings() {
    const LENGTH: u64 = 8 * 1024 * 1024;
    let gate = Gate::closed();
    let opened = gate.clone();
    let instance = Instance::scripted("a", move |request| match request.target() {
        "/down" => Answer::pattern(LENGTH),
        "/chat" => Answer::upgrade("websocket"),
        "/slow" => Answer::ok("late").when(&opened),
        _ => Answer::ok("got it"),
    })
    .await;
    let sidecar = Sidecar::orders("defaults: {timeout: 15s}", &[&instance]).await;
    // A client that stops reading, so that the download pauses in its middle.
    let mut download = Client::connect_small_buffer(sidecar.addr()).await;
    download.send("GET /down HTTP/1.1\r\nHost: orders\r\n\r\n").await;
    let mut upload = sidecar.client().await;
    upload.send("POST /up HTTP/1.1\r\nHost: orders\r\nContent-Length: 1048576\r\n\r\n").await;
    upload.send_pattern(512 * 1024).await.unwrap();
    let mut tunnel = sidecar.client().await;
    tunnel.send(UPGRADE).await;
    assert_eq!(tunnel.head().await.unwrap().split_start_line().1, "101");
    let mut slow = sidecar.client().await;
    slow.send("GET /slow HTTP/1.1\r\nHost: orders\r\n\r\n").await;
    instance.wait_requests(4).await;

    // With the new time-out, the requests in flight would end at once.
    sidecar.apply_settings("defaults: {timeout: 1ms, body_idle: 10ms}\noutbound: {listen: \"127.0.0.1:0\", limits: {tunnel_idle: 1s}}").await;
    let refused = sidecar.get("orders", "/slow").await;
    assert_eq!(refused.reason(), "timeout", "the next request uses the new settings");
    sidecar.apply_settings("").await;

    gate.open();
    assert_eq!(slow.response().await.text(), "late");
    let body = download.response().await.body;
    assert!(body.complete && body.is_pattern && body.len == LENGTH, "{body:?}");
    upload.send_pattern(512 * 1024).await.unwrap();
    assert_eq!(upload.response().await.status, 200);
    tunnel.send("still there").await;
    wait::until("the echo comes back", wait::TIMEOUT, async || {
        tunnel.wire.buffered() == b"still there" || !tunnel.wire.fill().await.unwrap()
    })
    .await;
    assert_eq!(tunnel.wire.buffered(), b"still there");
}

#[tokio::test]
async fn an_ejected_instance_stays_ejected() {
    let healthy = Instance::start("a").await;
    let failing = Instance::scripted("b", |_| Answer::status(503, "no")).await;
    let sidecar = Sidecar::orders(
        "defaults: {outlier: {base_ejection_time: 1h, max_ejection_time: 1h}}",
        &[&healthy, &failing],
    )
    .await;
    let mut client = sidecar.client().await;
    let trust =
        |trust| sidecar.metric("outrigger_instances_trust", &[("service", "orders"), ("trust", trust)]);
    for _ in 0..40 {
        assert_eq!(client.get("orders", "/").await.status, 200);
    }
    assert_eq!((failing.count(), trust("ejected")), (5, 1.0));
    for settings in [EVERYTHING, "", "defaults: {outlier: {base_ejection_time: 1s}}"] {
        sidecar.apply_settings(settings).await;
        for _ in 0..10 {
            assert_eq!(client.get("orders", "/").await.status, 200);
        }
        assert_eq!((failing.count(), trust("ejected")), (5, 1.0), "after {settings}");
    }
    // The settings without outlier detection admit it again.
    sidecar.apply_settings("defaults: {outlier: off}").await;
    for _ in 0..10 {
        client.get("orders", "/").await;
    }
    assert!(failing.count() > 5);
}

#[tokio::test]
async fn an_open_breaker_stays_open_over_a_reload_and_can_be_turned_off() {
    let instance = Instance::scripted("a", |_| Answer::status(503, "no")).await;
    let settings = "defaults: {retry: off, outlier: off, circuit_breaker: {open_for: 1h, max_open_for: 1h}}";
    let sidecar = Sidecar::orders(settings, &[&instance]).await;
    let mut client = sidecar.client().await;
    for _ in 0..20 {
        client.get("orders", "/").await;
    }
    assert_eq!(client.get("orders", "/").await.reason(), "circuit_open");
    sidecar.apply_settings("defaults: {retry: off, outlier: off, circuit_breaker: {min_requests: 1000, open_for: 1h, max_open_for: 1h}}").await;
    assert_eq!(client.get("orders", "/").await.reason(), "circuit_open");
    assert_eq!(sidecar.metric("outrigger_breaker_trips_total", &[]), 1.0);
    sidecar.apply_settings("defaults: {retry: off, outlier: off, circuit_breaker: off}").await;
    instance.set_script(|_| Answer::ok("healthy"));
    assert_eq!(client.get("orders", "/").await.status, 200);
}

#[tokio::test]
async fn a_reload_changes_max_connections_also_while_requests_wait_for_one() {
    let gate = Gate::closed();
    let opened = gate.clone();
    let instance = Instance::scripted("a", move |_| Answer::ok("ok").when(&opened)).await;
    let pool = |max: usize| format!("defaults: {{pool: {{max_connections: {max}, max_idle: 1}}}}");
    let sidecar = Sidecar::orders(&pool(1), &[&instance]).await;
    let mut clients = Vec::new();
    for _ in 0..4 {
        let mut client = sidecar.client().await;
        client.send("GET / HTTP/1.1\r\nHost: orders\r\n\r\n").await;
        clients.push(client);
    }
    instance.wait_requests(1).await;
    wait::until_true("the other requests wait", || sidecar.proxy.in_flight() == 4).await;
    assert_eq!(instance.count(), 1);
    sidecar.apply_settings(&pool(3)).await;
    instance.wait_requests(3).await;
    // With a lower limit, the connections in use are kept, and no new request starts until fewer than the limit are in
    // use.
    sidecar.apply_settings(&pool(1)).await;
    gate.open();
    for mut client in clients {
        assert_eq!(client.response().await.status, 200);
    }
    wait::until_true("all requests have ended", || sidecar.endpoints("orders")[0].in_flight == 0).await;
    let second_gate = Gate::closed();
    let closed = second_gate.clone();
    instance.set_script(move |_| Answer::ok("ok").when(&closed));
    let mut clients = Vec::new();
    for _ in 0..3 {
        let mut client = sidecar.client().await;
        client.send("GET / HTTP/1.1\r\nHost: orders\r\n\r\n").await;
        clients.push(client);
    }
    instance.wait_requests(5).await;
    wait::until_true("the other requests wait", || sidecar.proxy.in_flight() == 3).await;
    assert_eq!((instance.count(), sidecar.endpoints("orders")[0].in_flight), (5, 1));
    second_gate.open();
    for mut client in clients {
        assert_eq!(client.response().await.status, 200);
    }
}

#[tokio::test]
async fn a_change_of_the_declared_services_keeps_connections() {
    let instance = Instance::start("a").await;
    let sidecar = Sidecar::orders("", &[&instance]).await;
    let mut client = sidecar.client().await;
    let declared = || sidecar.proxy.status().iter().filter(|one| one.declared).count();
    assert_eq!((client.get("orders", "/").await.status, declared()), (200, 0));
    for (settings, count) in [
        ("upstreams: [{service: orders, timeout: 2s}]", 1),
        ("upstreams: [{service: orders}, {service: others}]", 2),
        ("", 0),
    ] {
        sidecar.apply_settings(settings).await;
        assert_eq!((client.get("orders", "/").await.status, declared()), (200, count), "{settings}");
    }
    assert_eq!(instance.accepted(), 1);
    assert_eq!(sidecar.metric("outrigger_requests_total", &[("service", "orders")]), 4.0);
}

#[tokio::test]
async fn a_name_is_routed_by_the_new_settings() {
    let (old, new) = (Instance::start("old").await, Instance::start("new").await);
    let services = Services::default().and("orders", &old, "tags: [v1]").and("orders", &new, "tags: [v2]");
    let narrowed = |tag: &str| format!("upstreams: [{{service: orders, tags: [{tag}]}}]");
    let sidecar = Sidecar::start("", &services).await;
    let mut client = sidecar.client().await;
    // The first request makes a cluster on demand for the plain name.
    client.get("orders", "/").await;
    for tag in ["v1", "v2", "v1"] {
        sidecar.apply_settings(&narrowed(tag)).await;
        let expected = if tag == "v1" { "old" } else { "new" };
        for _ in 0..4 {
            assert_eq!(client.get("orders", "/").await.text(), expected, "narrowed to {tag}");
        }
    }
}

#[tokio::test]
async fn a_reload_changes_the_limits_towards_the_app() {
    let instance = Instance::start("a").await;
    let sidecar = Sidecar::orders("", &[&instance]).await;
    let mut client = sidecar.client().await;
    client.get("orders", "/").await;
    sidecar
        .apply_settings("outbound: {listen: \"127.0.0.1:0\", via: true, x_forwarded: true, limits: {max_connections: 1, max_headers: 10}}")
        .await;
    assert_eq!(client.get("orders", "/").await.status, 200, "an open connection is kept");
    let head = instance.seen()[1].request.head.clone();
    assert!(head.has("via") && head.has("x-forwarded-for"), "{head:?}");
    assert_eq!(sidecar.get("orders", "/").await.reason(), "too_many_connections");
    sidecar.apply_settings("").await;
    assert_eq!(sidecar.get("orders", "/").await.status, 200);
}

#[tokio::test]
async fn an_instance_that_died_before_the_reload_is_ejected_by_the_new_settings() {
    let (healthy, dead) = (Instance::start("a").await, Instance::start("b").await);
    let sidecar = Sidecar::orders("defaults: {outlier: off}", &[&healthy, &dead]).await;
    dead.kill(Kill::Reset).await;
    let mut client = sidecar.client().await;
    for _ in 0..4 {
        assert_eq!(client.get("orders", "/").await.status, 200, "a retry answers the request");
    }
    sidecar.apply_settings("").await;
    for _ in 0..4 {
        assert_eq!(client.get("orders", "/").await.status, 200);
    }
    let ejected = || sidecar.metric("outrigger_ejections_total", &[("service", "orders"), ("kind", "hard")]);
    assert_eq!(ejected(), 1.0);
    // The instance is probed and returns, because the detector tracks all endpoints again.
    dead.listen_again().await;
    wait::until("the instance is chosen again", Duration::from_secs(20), async || {
        client.get("orders", "/").await;
        sidecar.endpoints("orders").iter().all(|one| one.trust == "trusted")
    })
    .await;
}
