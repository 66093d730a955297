//! The lifecycle of one sidecar process: registration, renewal, drain and deregistration.

use std::time::Duration;

use outrigger_devregistry::{DevRegistry, DevRegistryOptions};
use outrigger_tests::{
    client::{self, Client},
    consul::{self, Consul},
    instance::{Answer, Gate, Instance, Kill},
    load::{Load, LoadPlan},
    process::{self, Process},
    registry::ConsulAgent,
    wait,
};

use crate::app;

async fn registry() -> (DevRegistry, ConsulAgent) {
    let registry = DevRegistry::bind("127.0.0.1:0".parse().unwrap(), DevRegistryOptions::default())
        .await
        .expect("a registry");
    let agent = ConsulAgent(registry.addr());
    (registry, agent)
}

/// Settings of a sidecar with this instance as its app.
fn settings(agent: ConsulAgent, app: &Instance, more: &str) -> String {
    format!(
        "registry: {{consul: {{address: \"http://{}\"}}}}\n\
         service: {{name: orders, id: orders-1, port: {}, address: 127.0.0.1, tags: [v2], meta: {{a: b}}, \
         weights: {{passing: 7}}, health: {{http: /health, interval: 100ms, timeout: 100ms}}}}\n{more}",
        agent.0,
        app.addr().port(),
    )
}

#[tokio::test]
async fn the_app_is_registered_as_the_settings_say_and_the_sidecar_becomes_ready() {
    let (_registry, agent) = registry().await;
    let app = Instance::start("app").await;
    let process = Process::run(&settings(agent, &app, "")).await;
    process.wait_ready().await;
    agent.wait_health("orders", &[("orders-1", "passing")]).await;
    let entry = &agent.get("/v1/health/service/orders").await[0]["Service"].clone();
    assert_eq!(entry["Port"], app.addr().port());
    assert_eq!(entry["Address"], "127.0.0.1");
    assert_eq!(entry["Tags"], serde_json::json!(["v2"]));
    assert_eq!(entry["Meta"]["a"], "b");
    assert_eq!(entry["Weights"]["Passing"], 7);
    assert_eq!(app.seen()[0].request.target(), "/health");
}

#[tokio::test]
async fn an_unhealthy_app_is_not_registered_and_one_that_becomes_unhealthy_is_critical_at_once() {
    let (_registry, agent) = registry().await;
    let app = Instance::scripted("app", |_| Answer::status(503, "starting")).await;
    let process = Process::run(&settings(agent, &app, "")).await;
    app.wait_requests(3).await;
    assert_eq!(agent.health("orders").await, []);
    assert_eq!(process.admin_get("/readyz").await.status, 503);
    assert_eq!(process.admin_get("/healthz").await.status, 200, "the sidecar itself is healthy");

    app.set_script(|_| Answer::ok("healthy"));
    process.wait_ready().await;
    agent.wait_health("orders", &[("orders-1", "passing")]).await;
    for (status, health) in [(429, "warning"), (500, "critical"), (200, "passing")] {
        app.set_script(move |_| Answer::status(status, "x"));
        agent.wait_health("orders", &[("orders-1", health)]).await;
    }
    app.kill(Kill::Reset).await;
    agent.wait_health("orders", &[("orders-1", "critical")]).await;
}

#[tokio::test]
async fn the_app_is_registered_again_when_the_registry_has_lost_it() {
    let (registry, agent) = registry().await;
    let app = Instance::start("app").await;
    let process = Process::run(&settings(agent, &app, "")).await;
    process.wait_ready().await;
    agent.deregister("orders-1").await;
    agent.wait_health("orders", &[("orders-1", "passing")]).await;

    registry.shutdown().await;
    let again = DevRegistry::bind(agent.0, DevRegistryOptions::default()).await.expect("the same port");
    wait::until("the app is registered again", Duration::from_secs(40), async || {
        agent.health("orders").await == [("orders-1".to_owned(), "passing".to_owned())]
    })
    .await;
    drop(again);
}

#[tokio::test]
async fn the_app_is_registered_again_at_a_real_agent_that_lost_its_data() {
    if !consul::available("the app is registered again at a real agent that lost its data") {
        return;
    }
    let mut consul = Consul::dev().await.expect("an agent");
    let agent = ConsulAgent(consul.http_addr());
    let app = Instance::start("app").await;
    let process = Process::run(&settings(agent, &app, "")).await;
    process.wait_ready().await;
    agent.wait_health("orders", &[("orders-1", "passing")]).await;
    consul.stop().await.expect("stop the agent");
    consul.start().await.expect("start the agent without data");
    wait::until("the app is registered again", Duration::from_secs(40), async || {
        agent.health("orders").await == [("orders-1".to_owned(), "passing".to_owned())]
    })
    .await;
    assert_eq!(process.admin_get("/readyz").await.status, 200);
}

#[tokio::test]
async fn sigterm_deregisters_first_and_then_exits_with_0() {
    let (_registry, agent) = registry().await;
    let app = Instance::start("app").await;
    let mut process = Process::run(&settings(agent, &app, "drain: {propagation: 1s, timeout: 10s}")).await;
    process.wait_ready().await;
    let other = Instance::start("other").await;
    agent.register("payments", &other).await;
    assert_eq!(client::get(process.outbound(), "payments", "/").await.status, 200);

    process.signal("TERM");
    wait::until("the app is deregistered", wait::TIMEOUT, async || agent.health("orders").await.is_empty())
        .await;
    assert_eq!(process.admin_get("/readyz").await.status, 503);
    assert_eq!(
        client::get(process.outbound(), "payments", "/").await.status,
        200,
        "the outbound listener still serves"
    );
    let status = process.wait_exit(wait::TIMEOUT).await;
    assert_eq!(status.code(), Some(0), "{}", process.log());
}

#[tokio::test]
async fn a_request_in_flight_at_sigterm_is_finished() {
    let (_registry, agent) = registry().await;
    let app = Instance::start("app").await;
    let gate = Gate::closed();
    let opened = gate.clone();
    let slow = Instance::scripted("slow", move |_| Answer::ok("finished").when(&opened)).await;
    agent.register("payments", &slow).await;
    let mut process = Process::run(&settings(agent, &app, "drain: {propagation: 100ms, timeout: 15s}")).await;
    process.wait_ready().await;
    let mut client = Client::connect(process.outbound()).await;
    client.send("POST / HTTP/1.1\r\nHost: payments\r\nContent-Length: 0\r\n\r\n").await;
    slow.wait_requests(1).await;
    let outbound = process.outbound();
    process.signal("TERM");
    wait::until("the listener is closed", wait::TIMEOUT, async || {
        tokio::net::TcpStream::connect(outbound).await.is_err()
    })
    .await;
    gate.open();
    assert_eq!(client.response().await.text(), "finished");
    assert_eq!(process.wait_exit(wait::TIMEOUT).await.code(), Some(0));
}

#[tokio::test]
async fn a_second_signal_ends_the_process_at_once() {
    let (_registry, agent) = registry().await;
    let app = Instance::start("app").await;
    let hung = Instance::scripted("hung", |_| Answer::no_answer()).await;
    agent.register("payments", &hung).await;
    let mut process = Process::run(&settings(agent, &app, "drain: {propagation: 100ms, timeout: 1m}")).await;
    process.wait_ready().await;
    let mut client = Client::connect(process.outbound()).await;
    client.send("GET / HTTP/1.1\r\nHost: payments\r\n\r\n").await;
    hung.wait_requests(1).await;
    process.signal("TERM");
    wait::until("the app is deregistered", wait::TIMEOUT, async || agent.health("orders").await.is_empty())
        .await;
    process.signal("INT");
    assert_eq!(process.wait_exit(Duration::from_secs(5)).await.code(), Some(1));
}

/// The callers use their own sidecar. The callee's sidecar drains, and its app is killed as soon as the drain reports
/// that this is safe.
#[tokio::test]
async fn a_drain_under_load_costs_the_callers_no_request() {
    let (_registry, agent) = registry().await;
    let all = [Instance::start("app").await, Instance::start("other").await];
    agent.register("orders", &all[1]).await;
    let callee = Process::run(&settings(agent, &all[0], "drain: {propagation: 2s}")).await;
    callee.wait_ready().await;
    agent.wait_health("orders", &[("orders-1", "passing"), ("other", "passing")]).await;
    let (app, addr) = app::start_router(agent.0, "upstreams: [{service: orders}]").await;
    // Three methods over two instances: each instance gets each method.
    let load = Load::start(addr, LoadPlan::get("orders").methods(&["GET", "POST", "POST"]));
    load.wait_successes(200).await;
    assert!(all[0].seen().iter().any(|seen| seen.request.method() == "POST"), "the callee gets its share");

    let admin = callee.admin().to_string();
    let drained = process::run_outrigger(&["drain", "--wait", "--admin", &admin]).await;
    assert!(drained.status.success(), "{drained:?}");
    assert_eq!(String::from_utf8_lossy(&drained.stdout).trim(), "safe to stop");
    all[0].kill(Kill::Reset).await;
    load.wait_successes(300).await;
    load.stop().await.assert_clean(500);
    // The drained sidecar still routes for its own app until it gets a signal.
    assert_eq!(client::get(callee.outbound(), "orders", "/").await.status, 200);
    app.shutdown().await;
}

#[tokio::test]
async fn a_post_to_drain_needs_the_field_that_no_browser_sets() {
    let (_registry, agent) = registry().await;
    let app = Instance::start("app").await;
    let process = Process::run(&settings(agent, &app, "drain: {propagation: 100ms}")).await;
    process.wait_ready().await;
    let admin = process.admin();
    let bare = format!("POST /drain HTTP/1.1\r\nHost: {admin}\r\nContent-Length: 0\r\n\r\n");
    assert_eq!(client::exchange(admin, bare).await.status, 403);
    let rebound =
        "POST /drain HTTP/1.1\r\nHost: evil.example\r\nx-outrigger-admin: 1\r\nContent-Length: 0\r\n\r\n";
    assert!(client::exchange(admin, rebound).await.status >= 400);
    assert_eq!(client::get(admin, &admin.to_string(), "/drain").await.status, 200, "a GET changes nothing");
    agent.wait_health("orders", &[("orders-1", "passing")]).await;
    assert!(process.admin_post("/drain").await.status < 300);
    wait::until("the app is deregistered", wait::TIMEOUT, async || agent.health("orders").await.is_empty())
        .await;
}

#[tokio::test]
async fn an_occupied_port_is_an_error_that_names_it() {
    let held = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = held.local_addr().unwrap();
    let mut process = Process::start(&format!("outbound: {{listen: \"{addr}\"}}"));
    let status = process.wait_exit(wait::TIMEOUT).await;
    assert_eq!(status.code(), Some(1));
    assert!(process.log().contains(&addr.to_string()), "{}", process.log());
}

#[tokio::test]
async fn a_crash_leaves_a_check_that_turns_critical_by_itself() {
    if !consul::available("a crash leaves a check that turns critical by itself") {
        return;
    }
    let consul = Consul::dev().await.expect("an agent");
    let agent = ConsulAgent(consul.http_addr());
    let app = Instance::start("app").await;
    let mut process = Process::run(&settings(agent, &app, "")).await;
    process.wait_ready().await;
    agent.wait_health("orders", &[("orders-1", "passing")]).await;
    process.signal("KILL");
    process.wait_exit(wait::TIMEOUT).await;
    // The TTL is 30 s.
    wait::until("the check turns critical", Duration::from_secs(60), async || {
        agent.health("orders").await == [("orders-1".to_owned(), "critical".to_owned())]
    })
    .await;
}

#[tokio::test]
async fn without_a_file_the_flags_and_the_environment_are_enough() {
    let (_registry, agent) = registry().await;
    let app = Instance::start("app").await;
    let port = app.addr().port().to_string();
    let check = process::run_outrigger(&[
        "check",
        "--service",
        "orders",
        "--port",
        &port,
        "--consul",
        &format!("http://{}", agent.0),
    ])
    .await;
    assert!(check.status.success(), "{check:?}");
    let output = String::from_utf8_lossy(&check.stdout).into_owned();
    assert!(output.contains("orders") && output.contains(&agent.0.to_string()), "{output}");
}
