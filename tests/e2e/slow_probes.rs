//! A request that decides for others, and has no verdict for long, gives its place to the next one: the probe of a
//! half-open breaker, and the request of an instance's probation.

use outrigger_tests::{
    client::Client,
    instance::{Answer, Gate, Instance},
    sidecar::Sidecar,
    wait,
};

const QUICK: &str = "defaults: {retry: {max_retries: 0}, circuit_breaker: {min_requests: 10, open_for: 200ms, max_open_for: 200ms}}";

const LONG_POLL: &str = "GET /slow HTTP/1.1\r\nHost: orders\r\n\r\n";
const UPLOAD: &str = "POST /slow HTTP/1.1\r\nHost: orders\r\nContent-Length: 100\r\n\r\nhalf";
const TUNNEL: &str =
    "GET /slow HTTP/1.1\r\nHost: orders\r\nConnection: upgrade\r\nUpgrade: x\r\nContent-Length: 0\r\n\r\n";

fn breaker(sidecar: &Sidecar) -> &'static str {
    sidecar.proxy.status().iter().find(|cluster| cluster.service == "orders").map_or("none", |c| c.breaker)
}

/// An open breaker in front of one instance.
async fn open(settings: &str) -> (Sidecar, Instance) {
    let instance = Instance::scripted("a", |_| Answer::status(503, "no")).await;
    let sidecar = Sidecar::orders(settings, &[&instance]).await;
    let mut client = sidecar.client().await;
    for _ in 0..10 {
        client.get("orders", "/").await;
    }
    assert_eq!(breaker(&sidecar), "open");
    (sidecar, instance)
}

/// Sends `request` until it reaches the instance as the probe.
async fn send_probe(sidecar: &Sidecar, instance: &Instance, request: &str) -> Client {
    let before = instance.count();
    loop {
        let mut probe = sidecar.client().await;
        probe.send(request).await;
        // Refused at once, or admitted.
        tokio::select! {
            _ = probe.wire.fill() => {}
            () = instance.wait_requests(before + 1) => return probe,
        }
    }
}

async fn wait_for_success(sidecar: &Sidecar) {
    wait::until("another request is answered", wait::TIMEOUT, async || {
        sidecar.get("orders", "/").await.status == 200
    })
    .await;
}

#[tokio::test]
async fn a_half_open_breaker_closes_beside_a_probe_that_takes_long() {
    for request in [LONG_POLL, UPLOAD] {
        let (sidecar, instance) = open(QUICK).await;
        let gate = Gate::closed();
        instance.set_script({
            let gate = gate.clone();
            move |request| match request.target() {
                "/slow" => Answer::raw("").when(&gate).then_close(),
                _ => Answer::ok("well"),
            }
        });
        let mut slow = send_probe(&sidecar, &instance, request).await;
        assert_eq!(breaker(&sidecar), "half_open", "{request}");
        wait_for_success(&sidecar).await;
        assert_eq!(breaker(&sidecar), "closed", "{request}");
        // Its own end, a failure, changes nothing any more.
        if request == UPLOAD {
            slow.send("x".repeat(96)).await;
        }
        gate.open();
        assert_eq!(slow.response().await.status, 502, "{request}");
        assert_eq!(breaker(&sidecar), "closed", "{request}");
        assert_eq!(sidecar.get("orders", "/").await.status, 200);
    }
}

#[tokio::test]
async fn a_probe_that_waits_in_the_bulkhead_does_not_keep_the_others_out() {
    let settings = QUICK.replace("defaults: {", "defaults: {max_in_flight: 1, pending_timeout: 1h, ");
    let (sidecar, instance) = open(&settings).await;
    instance.set_script(|request| match request.target() {
        "/slow" => Answer::no_answer(),
        _ => Answer::ok("well"),
    });
    let slow = send_probe(&sidecar, &instance, LONG_POLL).await;
    // The next probe waits for the slot of the slow one, with a place in the half-open breaker of its own.
    let mut waiting = vec![];
    wait::until("a probe waits in the bulkhead", wait::TIMEOUT, async || {
        let mut client = sidecar.client().await;
        client.send("GET /waits HTTP/1.1\r\nHost: orders\r\n\r\n").await;
        let admitted = tokio::time::timeout(std::time::Duration::from_millis(500), client.wire.fill()).await;
        waiting.extend(admitted.is_err().then_some(client));
        waiting.len() == 2
    })
    .await;
    drop(slow);
    for client in &mut waiting {
        assert_eq!(client.response().await.status, 200);
    }
    assert_eq!(breaker(&sidecar), "closed");
}

#[tokio::test]
async fn the_head_of_a_stream_or_a_tunnel_is_a_verdict() {
    for (request, head) in [
        (LONG_POLL, "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n"),
        (TUNNEL, "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n"),
    ] {
        let (sidecar, instance) = open(QUICK).await;
        instance.set_script(move |_| Answer::raw(head).then_hang());
        let _stream = send_probe(&sidecar, &instance, request).await;
        wait::until_true("the breaker closes", || breaker(&sidecar) == "closed").await;
    }
}

#[tokio::test]
async fn a_reload_while_a_slow_probe_is_under_way_leaves_a_way_back() {
    let (sidecar, instance) = open(QUICK).await;
    instance.set_script(|request| match request.target() {
        "/slow" => Answer::no_answer(),
        _ => Answer::ok("well"),
    });
    let _slow = send_probe(&sidecar, &instance, LONG_POLL).await;
    let longer = QUICK.replace("200ms", "30s");
    sidecar.apply_settings(&longer).await;
    wait_for_success(&sidecar).await;
    assert_eq!(breaker(&sidecar), "closed");
}

#[tokio::test]
async fn an_instance_on_probation_returns_beside_a_request_that_takes_long() {
    let healthy = Instance::start("a").await;
    let failing = Instance::scripted("b", |_| Answer::status(503, "no")).await;
    let settings = "defaults: {outlier: {base_ejection_time: 300ms, max_ejection_time: 300ms}}";
    let sidecar = Sidecar::orders(settings, &[&healthy, &failing]).await;
    let trust =
        |word: &str| sidecar.metric("outrigger_instances_trust", &[("service", "orders"), ("trust", word)]);
    let mut client = sidecar.client().await;
    while trust("ejected") < 0.5 {
        assert_eq!(client.get("orders", "/").await.status, 200);
    }
    failing.set_script(|request| match request.target() {
        "/slow" => Answer::ok("late"),
        _ => Answer::ok("well"),
    });
    // PUT may be repeated, so it may decide; its body takes long.
    let upload = "PUT /slow HTTP/1.1\r\nHost: orders\r\nContent-Length: 100\r\n\r\nhalf";
    let before = failing.count();
    let mut uploads = vec![];
    wait::until("an upload decides the probation", wait::TIMEOUT, async || {
        let mut upload_client = sidecar.client().await;
        upload_client.send(upload).await;
        uploads.push(upload_client);
        failing.count() > before
    })
    .await;
    assert_eq!((failing.count() - before, trust("probation")), (1, 1.0));
    wait::until("the instance is trusted again", wait::TIMEOUT, async || {
        client.get("orders", "/").await;
        trust("trusted") > 1.5
    })
    .await;
}
