//! Outlier detection: an instance that fails is ejected before the registry reports it, and is chosen again when it has
//! recovered. The last instance is never ejected.

use std::{
    io::{Read, Write},
    net::SocketAddr,
    time::Duration,
};

use outrigger_devregistry::{DevRegistry, DevRegistryOptions};
use outrigger_tests::{
    client::Client,
    instance::{Answer, Instance, Kill},
    registry::ConsulAgent,
    registry_proxy::{RegistryMode, RegistryProxy},
    sidecar::{Services, Sidecar},
    wait,
};
use serde_json::json;
use socket2::{Domain, Socket, Type};
use tokio::time::Instant;

use crate::app;

pub(crate) async fn assert_all_succeed(sidecar: &Sidecar, requests: usize) {
    let mut client = sidecar.client().await;
    for _ in 0..requests {
        assert_eq!(client.get("orders", "/").await.status, 200);
    }
}

fn trust(sidecar: &Sidecar, trust: &str) -> f64 {
    sidecar.metric("outrigger_instances_trust", &[("service", "orders"), ("trust", trust)])
}

pub(crate) fn ejected(sidecar: &Sidecar, kind: &str) -> f64 {
    sidecar.metric("outrigger_ejections_total", &[("service", "orders"), ("kind", kind)])
}

#[tokio::test]
async fn an_instance_that_refuses_connections_is_ejected_at_once_and_returns() {
    let all = [Instance::start("a").await, Instance::start("b").await, Instance::start("c").await];
    let sidecar = Sidecar::orders("", &[&all[0], &all[1], &all[2]]).await;
    assert_all_succeed(&sidecar, 9).await;
    all[1].kill(Kill::Fin).await;
    assert_all_succeed(&sidecar, 60).await;
    let refused =
        sidecar.metric("outrigger_attempts_total", &[("service", "orders"), ("outcome", "connect_refused")]);
    assert!((1.0..=2.0).contains(&refused), "{refused} attempts after the kill");
    assert_eq!((ejected(&sidecar, "hard"), trust(&sidecar, "ejected")), (1.0, 1.0));
    let ejected_endpoints: Vec<_> =
        sidecar.endpoints("orders").into_iter().filter(|one| !one.usable).collect();
    let [out] = &ejected_endpoints[..] else { panic!("{ejected_endpoints:?}") };
    let why = out.why_not.clone().unwrap_or_default();
    assert!(why.starts_with("ejected ") && why.contains("(it refused connections"), "{why}");
    assert_eq!((out.trust, out.ejected.map(|ejected| ejected.why)), ("ejected", Some("unreachable")));

    all[1].listen_again().await;
    let before = all[1].count();
    wait::until("the instance is chosen again", wait::TIMEOUT, async || {
        assert_all_succeed(&sidecar, 3).await;
        all[1].count() > before
    })
    .await;
    assert_eq!(trust(&sidecar, "trusted"), 3.0);
}

/// No connection can be made to a multicast address: ENETUNREACH, from this machine.
const NO_WAY: std::net::SocketAddr =
    std::net::SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::new(224, 0, 0, 1)), 80);

#[tokio::test]
async fn an_instance_to_which_this_machine_has_no_way_is_passed_over_and_shown_as_such() {
    let (a, b) = (Instance::start("a").await, Instance::start("b").await);
    let services = Services::of("orders", &[&a, &b]).and_at("orders", "far", NO_WAY, "");
    let sidecar = Sidecar::start("defaults: {outlier: {base_ejection_time: 30s}}", &services).await;
    assert_all_succeed(&sidecar, 30).await;
    let attempts = |outcome: &str| {
        sidecar.metric("outrigger_attempts_total", &[("service", "orders"), ("outcome", outcome)])
    };
    assert!(
        (1.0..=2.0).contains(&attempts("unreachable_from_here")),
        "{}",
        attempts("unreachable_from_here")
    );
    let endpoints = sidecar.endpoints("orders");
    let far = endpoints.iter().find(|one| one.id.contains("far")).unwrap();
    assert_eq!(far.ejected.map(|ejected| ejected.why), Some("unreachable_from_here"));
    assert_eq!(far.failures, 0, "it may serve others well");
    let why = far.why_not.clone().unwrap_or_default();
    assert!(why.contains("this machine has no way to it"), "{why}");
}

#[tokio::test]
async fn a_machine_that_has_no_way_to_the_only_instance_opens_no_breaker() {
    let services = Services::default().and_at("orders", "far", NO_WAY, "");
    let sidecar = Sidecar::start("", &services).await;
    for _ in 0..40 {
        let answer = sidecar.get("orders", "/").await;
        assert!(matches!(answer.reason(), "connect_failed" | "local_resource"), "{answer:?}");
    }
}

#[tokio::test]
async fn an_instance_is_ejected_after_five_503_and_the_last_one_never() {
    let healthy = Instance::start("a").await;
    let failing = Instance::scripted("b", |_| Answer::status(503, "no")).await;
    let sidecar =
        Sidecar::orders("defaults: {outlier: {base_ejection_time: 30s}}", &[&healthy, &failing]).await;
    assert_all_succeed(&sidecar, 60).await;
    assert_eq!((failing.count(), ejected(&sidecar, "soft")), (5, 1.0));
    let why = sidecar.endpoints("orders").into_iter().find_map(|one| one.why_not).unwrap_or_default();
    assert!(why.contains("(it failed 5 requests in a row), tried again in "), "{why}");

    let only = Instance::scripted("x", |_| Answer::status(503, "no")).await;
    let settings = "defaults: {circuit_breaker: off, retry: off}";
    let sidecar = Sidecar::orders(settings, &[&only]).await;
    let mut client = sidecar.client().await;
    for _ in 0..20 {
        assert_eq!(client.get("orders", "/").await.status, 503);
    }
    assert_eq!(only.count(), 20, "the only instance gets every request");
}

#[tokio::test]
async fn after_a_loss_of_all_instances_the_first_one_back_is_used_soon() {
    let all = [Instance::start("a").await, Instance::start("b").await];
    let sidecar = Sidecar::orders("", &[&all[0], &all[1]]).await;
    assert_all_succeed(&sidecar, 4).await;
    for one in &all {
        one.kill(Kill::Reset).await;
    }
    // Enough failures to open the breaker too.
    for _ in 0..40 {
        let answer = sidecar.get("orders", "/").await;
        assert!(matches!(answer.reason(), "connect_failed" | "circuit_open"), "{answer:?}");
    }
    all[0].listen_again().await;
    let back = Instant::now();
    wait::until("a request is answered", wait::TIMEOUT, async || {
        sidecar.get("orders", "/").await.status == 200
    })
    .await;
    // A probe is sent every 250 ms; the rest is room for a busy machine.
    assert!(back.elapsed() < Duration::from_secs(3), "{:?}", back.elapsed());
}

#[tokio::test]
async fn with_outlier_detection_off_a_failing_instance_keeps_its_share() {
    let healthy = Instance::start("a").await;
    let failing = Instance::scripted("b", |_| Answer::status(503, "no")).await;
    let sidecar = Sidecar::orders("defaults: {outlier: off}", &[&healthy, &failing]).await;
    assert_all_succeed(&sidecar, 40).await;
    assert_eq!(failing.count(), 20);
}

#[tokio::test]
async fn a_bad_answer_counts_the_same_with_a_body_and_without() {
    let healthy = Instance::start("a").await;
    let failing = Instance::scripted("b", |_| Answer::status(503, "with a body")).await;
    let sidecar =
        Sidecar::orders("defaults: {outlier: {base_ejection_time: 30s}}", &[&healthy, &failing]).await;
    let mut client = sidecar.client().await;
    for _ in 0..60 {
        // A POST is not repeated, so the whole answer is passed on.
        client.post("orders", "/", "x").await;
    }
    assert_eq!((failing.count(), ejected(&sidecar, "soft")), (5, 1.0));
}

#[tokio::test]
async fn an_instance_that_cuts_its_answers_is_ejected_after_five() {
    let healthy = Instance::start("a").await;
    let cut = Answer::raw("HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\npart").then_close();
    let failing = Instance::scripted("b", move |_| cut.clone()).await;
    let settings = "defaults: {outlier: {base_ejection_time: 30s}, circuit_breaker: off}";
    let sidecar = Sidecar::orders(settings, &[&healthy, &failing]).await;
    let mut broken = 0;
    for _ in 0..60 {
        let mut client = sidecar.client().await;
        client.send("GET / HTTP/1.1\r\nHost: orders\r\n\r\n").await;
        // The answer may be cut before its head has been passed on.
        broken += usize::from(!client.try_response_to("GET").await.is_ok_and(|got| got.body_error.is_none()));
    }
    assert_eq!((failing.count(), broken, ejected(&sidecar, "soft")), (5, 5, 1.0));
}

#[tokio::test]
async fn an_instance_that_causes_time_outs_is_ejected_after_five() {
    let healthy = Instance::start("a").await;
    let hung = Instance::scripted("b", |_| Answer::no_answer()).await;
    let settings = "defaults: {timeout: 100ms, outlier: {base_ejection_time: 30s}, circuit_breaker: off}";
    let sidecar = Sidecar::orders(settings, &[&healthy, &hung]).await;
    let mut late = 0;
    for _ in 0..40 {
        late += usize::from(sidecar.get("orders", "/").await.status == 504);
    }
    assert_eq!((hung.count(), late, ejected(&sidecar, "soft")), (5, 5, 1.0));
}

/// A listening socket with a full backlog: a connection to it is neither accepted nor refused.
struct FullBacklog {
    addr: SocketAddr,
    listener: Socket,
    queued: Vec<Socket>,
}

impl FullBacklog {
    fn listening() -> Self {
        let listener = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
        listener.bind(&any.into()).unwrap();
        listener.listen(0).unwrap();
        let addr = listener.local_addr().unwrap().as_socket().unwrap();
        Self { addr, listener, queued: Vec::new() }
    }

    fn fill(mut self) -> Self {
        loop {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
            let connected = socket.connect_timeout(&self.addr.into(), Duration::from_millis(300));
            self.queued.push(socket);
            if connected.is_err() {
                return self;
            }
        }
    }
}

#[tokio::test]
async fn an_instance_with_a_full_backlog_costs_two_attempts_and_no_request() {
    for settings in ["", "defaults: {timeout: 600ms}"] {
        let healthy = Instance::start("a").await;
        let full = FullBacklog::listening().fill();
        let services = Services::of("orders", &[&healthy]).and_at("orders", "full", full.addr, "");
        let sidecar = Sidecar::start(settings, &services).await;
        assert_all_succeed(&sidecar, 20).await;
        let attempts = sidecar.metric("outrigger_attempts_total", &[("outcome", "connect_timeout")]);
        assert_eq!((attempts, ejected(&sidecar, "hard")), (2.0, 1.0), "{settings:?}");
    }
}

#[tokio::test]
async fn a_slow_instance_is_probed_once_a_second_at_most() {
    let slow = Instance::scripted("slow", |_| Answer::no_answer()).await;
    let sidecar = Sidecar::orders("defaults: {timeout: 4500ms, retry: {max_retries: 1}}", &[&slow]).await;
    let mut all = Vec::new();
    for _ in 0..3 {
        let mut client = sidecar.client().await;
        client.send("GET / HTTP/1.1\r\nHost: orders\r\n\r\n").await;
        all.push(client);
    }
    for mut client in all {
        assert_eq!(client.response().await.status, 504);
    }
    let probes = slow.accepted() - 3;
    assert!((1..=4).contains(&probes), "{probes} probes within 3.5 s");
}

#[tokio::test]
async fn a_request_to_a_host_that_vanished_is_retried_long_before_its_time_out() {
    let vanishing = FullBacklog::listening();
    let listener = vanishing.listener.try_clone().unwrap();
    // Answers one request on one connection, and then nothing.
    let answering = tokio::task::spawn_blocking(move || {
        let (mut socket, _) = listener.accept().unwrap();
        let mut head = [0; 1024];
        assert!(socket.read(&mut head).unwrap() > 0);
        socket.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nlast").unwrap();
        socket
    });
    let good = Instance::start("good").await;
    let services = Services::of("orders", &[&good]).and_at("orders", "gone", vanishing.addr, "");
    let sidecar = Sidecar::start("defaults: {connect_timeout: 200ms}", &services).await;
    while sidecar.get("orders", "/").await.text() != "last" {}
    let _silent = answering.await.unwrap();
    let _full = tokio::task::spawn_blocking(|| vanishing.fill()).await.unwrap();

    let since = Instant::now();
    let mut posts = sidecar.client().await;
    assert_all_succeed(&sidecar, 4).await;
    assert!(since.elapsed() < Duration::from_secs(10), "{:?}", since.elapsed());
    assert_eq!(ejected(&sidecar, "hard"), 1.0);
    assert_eq!(sidecar.metric("outrigger_attempts_total", &[("outcome", "closed")]), 1.0);
    // The POST uses neither the idle connection to the vanished host nor that host.
    assert_eq!(posts.post("orders", "/", "x").await.instance(), "good");
}

#[tokio::test]
async fn an_ejection_ends_with_a_new_registration_and_with_no_other_change() {
    let registry = DevRegistry::bind("127.0.0.1:0".parse().unwrap(), DevRegistryOptions::default())
        .await
        .expect("a registry");
    let (agent, front) = (ConsulAgent(registry.addr()), RegistryProxy::start(registry.addr()).await);
    let healthy = Instance::start("a").await;
    let failing = Instance::scripted("b", |_| Answer::status(503, "no")).await;
    for instance in [&healthy, &failing] {
        agent.register("orders", instance).await;
    }
    let settings = "defaults: {outlier: {base_ejection_time: 60s}}\nupstreams: [{service: orders}]";
    let (app, addr) = app::start_router(front.addr(), settings).await;
    let failing_endpoint =
        || app.clusters()[0].endpoints.iter().find(|one| one.id == "b").cloned().expect("b");
    let mut client = Client::connect(addr).await;
    wait::until("b is ejected", wait::TIMEOUT, async || {
        assert_eq!(client.get("orders", "/").await.status, 200);
        failing_endpoint().trust == "ejected"
    })
    .await;

    // The same registration with other weights: the statistics of the endpoint stay.
    let version = app.clusters()[0].version;
    let (ip, port) = (failing.addr().ip().to_string(), failing.addr().port());
    let weights = json!({"Passing": 7, "Warning": 1});
    let changed = json!({"Name": "orders", "ID": "b", "Address": ip, "Port": port, "Weights": weights});
    agent.put("/v1/agent/service/register", &changed).await;
    wait::until_true("the change is known", || {
        failing_endpoint().weight == 7 && app.clusters()[0].version > version
    })
    .await;
    assert_eq!((failing_endpoint().trust, failing_endpoint().picks > 0), ("ejected", true));

    // A new registration with the same id and address, between two answers of the registry.
    front.set(RegistryMode::Refuse);
    agent.deregister("b").await;
    agent.put("/v1/agent/service/register", &changed).await;
    front.set(RegistryMode::Pass);
    // The ejection would last 30 s at least, so only the new registration can end it within 20 s.
    wait::until("b is trusted again", Duration::from_secs(20), async || {
        failing_endpoint().trust == "trusted"
    })
    .await;
    assert_eq!(failing_endpoint().picks, 0);
    app.shutdown().await;
}
