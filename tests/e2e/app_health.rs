//! The health of the app: where and how the sidecar asks, and what the registry, `/readyz` and the log say of it.

use std::{net::SocketAddr, time::Duration};

use outrigger_tests::{
    consul::{self, Consul},
    instance::{Answer, Instance, Kill},
    process::Process,
    registry::ConsulAgent,
    wait,
};
use serde_json::Value;

use crate::registered::dev_registry;

/// An app that listens on `ip` alone.
async fn app_on(ip: [u8; 4]) -> Instance {
    Instance::start_on(SocketAddr::from((ip, 0)), "app", |_| Answer::ok("hello")).await
}

/// A sidecar of `orders`. `service` are further keys of the service.
fn settings(agent: ConsulAgent, app: &Instance, service: &str, more: &str) -> String {
    let port = app.addr().port();
    format!(
        "registry: {{consul: {{address: \"http://{}\"}}}}\n\
         service: {{name: orders, id: orders-1, port: {port}, {service}}}\n{more}\n",
        agent.0
    )
}

#[tokio::test]
async fn an_app_that_listens_on_its_own_address_alone_is_registered_and_waited_for() {
    for service in [
        "address: 127.0.0.2, health: {interval: 200ms, timeout: 200ms}",
        "address: 127.0.0.2, health: {http: /health, interval: 200ms, timeout: 200ms}",
        "address: 127.0.0.3, health: {address: 127.0.0.2, interval: 200ms, timeout: 200ms}",
    ] {
        let (_registry, agent) = dev_registry().await;
        let app = app_on([127, 0, 0, 2]).await;
        let drain = "drain: {propagation: 0s, timeout: 1m, await_app: on}";
        let mut process = Process::run(&settings(agent, &app, service, drain)).await;
        process.wait_ready().await;
        agent.wait_health("orders", &[("orders-1", "passing")]).await;

        process.signal("TERM");
        // The app still listens, so the sidecar is still there.
        tokio::time::sleep(Duration::from_millis(1500)).await;
        assert!(outrigger_net::connect(process.outbound(), wait::TIMEOUT).await.is_ok(), "{service}");
        app.kill(Kill::Reset).await;
        assert_eq!(process.wait_exit(wait::TIMEOUT).await.code(), Some(0), "{}", process.log());
    }
}

/// With room for a busy machine, so that no probe is out of time.
const PROBED: &str = "health: {http: /health, interval: 5s, timeout: 4s}";

/// What the output of the check is without a reason.
const OUTPUT: &str = "outrigger: reported by the sidecar";

/// Longest wait for an output that changes alone: the pause between two renewals, and room for a busy machine.
const RENEWED: Duration = Duration::from_secs(30);

async fn output(agent: ConsulAgent) -> String {
    agent.get("/v1/agent/checks").await["service:orders-1"]["Output"].as_str().unwrap_or_default().to_owned()
}

/// Waits until the check says this, and `/readyz` the same.
async fn wait_output(agent: ConsulAgent, process: &Process, reason: Option<&str>) {
    let expected = reason.map_or_else(|| OUTPUT.to_owned(), |reason| format!("{OUTPUT}: {reason}"));
    wait::until(&format!("the output is {expected}"), RENEWED, async || output(agent).await == expected)
        .await;
    let page = process.admin_json("/readyz").await;
    assert_eq!(page["registrations"][0]["reason"].as_str(), reason, "{page}");
}

/// The lines of the log about the app with this message.
fn logged(process: &Process, message: &str) -> Vec<Value> {
    process.log_lines().into_iter().filter(|line| line["message"] == message).collect()
}

async fn the_reason_is_in_the_check_on_the_page_and_in_the_log_of(agent: ConsulAgent) {
    let app = Instance::start("app").await;
    let process = Process::run(&settings(agent, &app, PROBED, "")).await;
    process.wait_ready().await;
    wait_output(agent, &process, None).await;

    let port = app.addr().port();
    app.set_script(|_| {
        Answer::raw("HTTP/1.1 503 {\"level\":\"ERROR\"}\u{1b}[2J\r\ncontent-length: 0\r\n\r\n")
    });
    agent.wait_health("orders", &[("orders-1", "critical")]).await;
    let broken = |process: &Process| logged(process, "the local app is not healthy for another reason");
    wait::until_true("the log has the line", || !logged(&process, "the local app is not healthy").is_empty())
        .await;
    let first = logged(&process, "the local app is not healthy").remove(0);
    assert_eq!((&first["service"], &first["id"]), (&"orders".into(), &"orders-1".into()), "{first}");
    let page = process.admin_json("/readyz").await;
    let reason = page["registrations"][0]["reason"].as_str().unwrap().to_owned();
    assert_eq!(first["why"], *reason, "{first}");
    assert_eq!(output(agent).await, format!("{OUTPUT}: {reason}"));

    app.set_script(|_| Answer::status(404, "no"));
    let why = format!("GET http://127.0.0.1:{port}/health answered 404 Not Found");
    wait_output(agent, &process, Some(&why)).await;
    assert!(broken(&process).iter().any(|line| line["why"] == *why), "{}", process.log());

    app.kill(Kill::Reset).await;
    wait::until("the output says that it refuses", RENEWED, async || output(agent).await.contains("refused"))
        .await;
    app.listen_again().await;
    app.set_script(|_| Answer::ok("well"));
    agent.wait_health("orders", &[("orders-1", "passing")]).await;
    wait_output(agent, &process, None).await;
    // The sidecar takes each of these outputs for its own.
    let log = process.log();
    assert!(!log.contains("another client"), "{log}");
}

#[tokio::test]
async fn the_reason_why_the_app_is_not_healthy_is_in_the_check_on_the_page_and_in_the_log() {
    let (_registry, agent) = dev_registry().await;
    the_reason_is_in_the_check_on_the_page_and_in_the_log_of(agent).await;
}

#[tokio::test]
async fn consul_shows_the_reason_why_the_app_is_not_healthy() {
    if !consul::available("Consul shows the reason why the app is not healthy") {
        return;
    }
    let consul = Consul::server().await.expect("a server");
    the_reason_is_in_the_check_on_the_page_and_in_the_log_of(ConsulAgent(consul.http_addr())).await;
}

#[tokio::test]
async fn a_probe_follows_redirects_with_its_fields_and_a_reload_changes_them() {
    let (_registry, agent) = dev_registry().await;
    let app = Instance::start_on(SocketAddr::from(([127, 0, 0, 1], 0)), "app", |request| {
        let has_key = request.head.get("x-key") == Some("hush");
        match request.target() {
            "/health" if has_key => Answer::status(302, "").field("location", "http://app.example/up"),
            "/up" if has_key => Answer::status(401, ""),
            _ => Answer::status(500, ""),
        }
    })
    .await;
    let probe = |key: &str| {
        format!(
            "health: {{http: /health, method: OPTIONS, host: app.example, headers: {{x-key: {key}}}, status: '200,401', \
             interval: 5s, timeout: 4s}}"
        )
    };
    let process = Process::run(&settings(agent, &app, &probe("hush"), "")).await;
    process.wait_ready().await;
    agent.wait_health("orders", &[("orders-1", "passing")]).await;
    let seen = app.seen();
    assert!(
        seen.iter().any(|one| (one.request.method(), one.request.target()) == ("OPTIONS", "/health")),
        "{seen:?}"
    );
    let config = process.admin_get("/config").await.text();
    assert!(config.contains("x-key") && !config.contains("hush"), "{config}");

    process.write_settings(&settings(agent, &app, &probe("other"), ""));
    let answer = process.admin_post("/reload").await;
    assert!(answer.text().contains("health.headers: (hidden) → (hidden)"), "{}", answer.text());
    agent.wait_health("orders", &[("orders-1", "critical")]).await;
    assert!(
        output(agent).await.ends_with(
            "OPTIONS http://127.0.0.1:PORT/health answered 500 Internal Server Error"
                .replace("PORT", &app.addr().port().to_string())
                .as_str()
        )
    );
    assert!(!process.log().contains("hush") && !process.log().contains("x-key: other"), "{}", process.log());
}
