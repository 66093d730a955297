//! The registration with a real Consul: the catalog shows the true state of the app after every disturbance.

use std::{net::SocketAddr, path::Path, time::Duration};

use outrigger_tests::{
    consul::{self, Consul, http},
    instance::{Instance, Kill},
    process::{self, Process},
    registry::ConsulAgent,
    wait,
};
use serde_json::{Value, json};
use tokio::time::Instant;

/// Longest wait for a change of the catalog: a renewal, a check of the registration, and room for a busy machine.
const CHANGE_TIMEOUT: Duration = Duration::from_secs(30);

/// Settings of a sidecar that registers this instance as service `name`.
fn settings(consul: SocketAddr, name: &str, id: &str, app: &Instance, more: &str) -> String {
    format!(
        "registry: {{consul: {{address: \"http://{consul}\"{more}}}}}\ndrain: {{propagation: 0s}}\n\
         service: {{name: {name}, id: {id}, port: {}, address: 127.0.0.1, \
         health: {{http: /health, interval: 200ms, timeout: 200ms}}}}\n",
        app.addr().port(),
    )
}

async fn orders(agent: ConsulAgent, app: &Instance) -> Process {
    let process = Process::run(&settings(agent.0, "orders", "orders-1", app, "")).await;
    agent.wait_health("orders", &[("orders-1", "passing")]).await;
    process
}

/// Waits until `service` has exactly these ids and statuses.
async fn wait_health(agent: ConsulAgent, service: &str, expected: &[(&str, &str)]) {
    let expected: Vec<_> = expected.iter().map(|(id, status)| ((*id).into(), (*status).into())).collect();
    wait::until(&format!("{service} is {expected:?}"), CHANGE_TIMEOUT, async || {
        let mut health = agent.health(service).await;
        health.sort();
        health == expected
    })
    .await;
}

async fn kill_9(mut process: Process) {
    process.signal("KILL");
    process.wait_exit(wait::TIMEOUT).await;
}

async fn terminate(mut process: Process) {
    process.signal("TERM");
    assert_eq!(process.wait_exit(CHANGE_TIMEOUT).await.code(), Some(0), "{}", process.log());
}

/// Makes a token for the service. Returns its secret and its accessor, which deletes it.
async fn create_token(consul: &Consul) -> (String, String) {
    let body = json!({"ServiceIdentities": [{"ServiceName": "orders"}]}).to_string();
    let mut created = None;
    wait::until("the agent creates a token", CHANGE_TIMEOUT, async || {
        let answer = http::put(consul.http_addr(), "/v1/acl/token?token=root", &body).await;
        let answer = answer.ok().filter(|answer| answer.status() == 200);
        created = answer.and_then(|answer| serde_json::from_slice::<Value>(answer.body()).ok());
        created.is_some()
    })
    .await;
    let created = created.unwrap();
    let field = |key: &str| created[key].as_str().unwrap().to_owned();
    (field("SecretID"), field("AccessorID"))
}

async fn delete_token(consul: &Consul, accessor: &str) {
    let path = format!("/v1/acl/token/{accessor}?token=root");
    let answer = http::call(consul.http_addr(), ::http::Method::DELETE, &path, "").await.unwrap();
    assert_eq!(answer.status(), 200, "{answer:?}");
}

#[tokio::test]
async fn with_a_rotated_token_a_dead_app_and_its_removal_reach_the_catalog() {
    if !consul::available("with a rotated token, a dead app and its removal reach the catalog") {
        return;
    }
    let acl = "acl { enabled = true default_policy = \"allow\" tokens { master = \"root\" } }";
    let consul = Consul::server_with(acl).await.expect("a server");
    let agent = ConsulAgent(consul.http_addr());
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    let (secret, mut accessor) = create_token(&consul).await;
    std::fs::write(&file, secret).unwrap();
    let app = Instance::start("app").await;
    let more = format!(", token_file: {}", file.display());
    let process = Process::run(&settings(agent.0, "orders", "orders-1", &app, &more)).await;
    agent.wait_health("orders", &[("orders-1", "passing")]).await;

    let rotate = async |old: &mut String| {
        let (secret, accessor) = create_token(&consul).await;
        std::fs::write(&file, secret).unwrap();
        delete_token(&consul, old).await;
        *old = accessor;
    };
    rotate(&mut accessor).await;
    app.kill(Kill::Reset).await;
    wait_health(agent, "orders", &[("orders-1", "critical")]).await;
    // A second rotation just before the deregistration.
    rotate(&mut accessor).await;
    terminate(process).await;
    wait_health(agent, "orders", &[]).await;
}

#[tokio::test]
async fn an_app_that_died_with_its_sidecar_is_reported_critical_by_the_next_one_until_it_is_back() {
    if !consul::available("an app that died with its sidecar is reported critical by the next one") {
        return;
    }
    let consul = Consul::dev().await.expect("an agent");
    let agent = ConsulAgent(consul.http_addr());
    let app = Instance::start("app").await;
    kill_9(orders(agent, &app).await).await;
    app.kill(Kill::Reset).await;
    let from = Instant::now();
    let process = Process::run(&settings(agent.0, "orders", "orders-1", &app, "")).await;
    wait_health(agent, "orders", &[("orders-1", "critical")]).await;
    assert!(from.elapsed() < Duration::from_secs(20), "critical only after the TTL of 30 s");
    let page = process.admin_json("/readyz").await;
    assert!(page["missing"][0].as_str().unwrap().contains("not healthy yet"), "{page}");
    terminate(process).await;
    wait_health(agent, "orders", &[]).await;
}

#[tokio::test]
async fn foreign_checks_on_the_app_are_removed_and_the_replaced_ones_restored() {
    if !consul::available("foreign checks on the app are removed") {
        return;
    }
    let consul = Consul::dev().await.expect("an agent");
    let agent = ConsulAgent(consul.http_addr());
    let app = Instance::start("app").await;
    let _process = orders(agent, &app).await;

    let theirs = json!({"ID": "theirs", "Name": "theirs", "ServiceID": "orders-1", "TTL": "1h"});
    agent.put("/v1/agent/check/register", &theirs).await;
    wait_health(agent, "orders", &[("orders-1", "passing")]).await;

    // Consul keeps running this check under the sidecar's id, also after a new registration.
    let replaced = json!({"ID": "orders-1", "Name": "orders", "Port": app.addr().port(), "EnableTagOverride": true,
        "Check": {"CheckID": "service:orders-1", "Name": "theirs", "HTTP": "http://127.0.0.1:1/", "Interval": "1s"}});
    agent.put("/v1/agent/service/register", &replaced).await;
    let mut passing_since = None;
    wait::until(
        "the sidecar's registration is back and stays passing for longer than the foreign check takes",
        CHANGE_TIMEOUT,
        async || {
            let entry = agent.get("/v1/health/service/orders").await[0].clone();
            let passing = agent.health("orders").await == [("orders-1".to_owned(), "passing".to_owned())];
            let restored = passing && entry["Service"]["EnableTagOverride"] == false;
            passing_since = if restored { passing_since.or(Some(Instant::now())) } else { None };
            passing_since.is_some_and(|since| since.elapsed() > Duration::from_secs(3))
        },
    )
    .await;
}

#[tokio::test]
async fn stale_registrations_are_removed_and_live_or_foreign_ones_are_kept() {
    if !consul::available("stale registrations are removed, and live or foreign ones are kept") {
        return;
    }
    let consul = Consul::dev().await.expect("an agent");
    let agent = ConsulAgent(consul.http_addr());
    let app = Instance::start("app").await;
    let run = async |name, id| {
        let process = Process::run(&settings(agent.0, name, id, &app, "")).await;
        process.wait_ready().await;
        process
    };
    let _living = run("orders", "living").await;
    let _named = run("invoices", "named").await;
    kill_9(run("orders", "old").await).await;
    kill_9(run("payments", "renamed").await).await;
    let foreign = json!({"ID": "theirs", "Name": "orders", "Address": "127.0.0.1", "Port": app.addr().port(),
        "Meta": {"outrigger": "no, this is a note of ours"}});
    agent.put("/v1/agent/service/register", &foreign).await;

    let from = Instant::now();
    let new = run("orders", "new").await;
    wait_health(agent, "orders", &[("living", "passing"), ("new", "passing"), ("theirs", "passing")]).await;
    wait_health(agent, "payments", &[]).await;
    assert!(from.elapsed() < Duration::from_secs(60), "removed only by deregister_after");
    wait_health(agent, "invoices", &[("named", "passing")]).await;
    // No live registration was removed: its sidecar would have registered again and logged that.
    for process in [&_living, &_named, &new] {
        assert!(!process.log().contains("had forgotten"), "{}", process.log());
    }
}

/// Starts a sidecar that keeps its state in `folder`.
async fn start_with_state(agent: ConsulAgent, app: &Instance, folder: &Path) -> Process {
    let state = format!("state_dir: {}\n", folder.display());
    let process = Process::run(&(settings(agent.0, "orders", "orders-1", app, "") + &state)).await;
    process.wait_ready().await;
    process
}

/// Runs `outrigger maintenance`. Returns the exit code and the output.
async fn maintenance(process: &Process, arguments: &[&str]) -> (Option<i32>, String) {
    let admin = process.admin().to_string();
    let done = process::run_outrigger(&[&["maintenance"], arguments, &["--admin", &admin]].concat()).await;
    (done.status.code(), String::from_utf8_lossy(&[done.stdout, done.stderr].concat()).into_owned())
}

async fn assert_status(process: &Process, beginning: &str) {
    let (code, output) = maintenance(process, &["status"]).await;
    assert!(code == Some(0) && output.starts_with(beginning), "{output}");
}

async fn wait_status(process: &Process, beginning: &str) {
    wait::until(&format!("the status is {beginning:?}"), CHANGE_TIMEOUT, async || {
        let (code, output) = maintenance(process, &["status"]).await;
        code == Some(0) && output.starts_with(beginning)
    })
    .await;
}

fn describe(reason: Option<&str>) -> String {
    reason.map_or_else(|| "not in maintenance".to_owned(), |reason| format!("in maintenance: {reason}"))
}

/// Waits until the catalog shows this reason for maintenance (`None`: no maintenance), and the app's own check passes.
async fn wait_catalog_maintenance(agent: ConsulAgent, reason: Option<&str>) {
    wait::until(&format!("the maintenance in the catalog is {reason:?}"), CHANGE_TIMEOUT, async || {
        let entries = agent.get("/v1/health/service/orders").await;
        let checks = entries[0]["Checks"].as_array().cloned().unwrap_or_default();
        let maintenance = checks.iter().find(|check| check["CheckID"] == "_service_maintenance:orders-1");
        let passing = checks.iter().any(|c| c["CheckID"] == "service:orders-1" && c["Status"] == "passing");
        passing && maintenance.map(|check| check["Notes"].as_str().unwrap()) == reason
    })
    .await;
}

#[tokio::test]
async fn maintenance_follows_consul_and_a_command_outlives_outages_and_restarts() {
    if !consul::available("maintenance follows Consul") {
        return;
    }
    let mut consul = Consul::server().await.expect("a server");
    let agent = ConsulAgent(consul.http_addr());
    let app = Instance::start("app").await;
    let folder = tempfile::tempdir().unwrap();
    let process = start_with_state(agent, &app, folder.path()).await;

    // Maintenance that another program begins, and the sidecar's maintenance, which another program ends.
    let theirs = |on| format!("/v1/agent/service/maintenance/orders-1?enable={on}&reason=theirs");
    agent.put(&theirs(true), &Value::Null).await;
    assert_status(&process, "in maintenance: theirs").await;
    let page = process.admin_get("/readyz").await.text();
    assert!(page.contains("\"maintenance\":\"theirs\""), "{page}");
    agent.put(&theirs(false), &Value::Null).await;
    assert_status(&process, "not in maintenance (").await;
    assert_eq!(maintenance(&process, &["on", "--reason", "ours"]).await.0, Some(0));
    wait_catalog_maintenance(agent, Some("ours")).await;
    agent.put(&theirs(false), &Value::Null).await;
    assert_status(&process, "not in maintenance (").await;
    wait_catalog_maintenance(agent, None).await;

    // Commands while Consul is down.
    for (command, status, reason) in [
        (&["on", "--reason", "while down"][..], "not in maintenance; ordered", Some("while down")),
        (&["off"], "in maintenance: while down; ordered", None),
    ] {
        consul.stop().await.expect("stop Consul");
        assert_eq!(maintenance(&process, command).await.0, Some(1));
        assert_status(&process, status).await;
        consul.start().await.expect("start Consul");
        // A server that has just started answers by a part of its log, and so by an earlier state: the catalog alone proves nothing.
        wait_status(&process, &format!("{} (", describe(reason))).await;
        wait_catalog_maintenance(agent, reason).await;
    }

    // Restarts after a kill and after SIGTERM.
    assert_eq!(maintenance(&process, &["on", "--reason", "kept"]).await.0, Some(0));
    kill_9(process).await;
    let process = start_with_state(agent, &app, folder.path()).await;
    assert_status(&process, "in maintenance: kept").await;
    agent.deregister("orders-1").await;
    wait_catalog_maintenance(agent, Some("kept")).await;
    terminate(process).await;
    let process = start_with_state(agent, &app, folder.path()).await;
    wait_catalog_maintenance(agent, Some("kept")).await;
    let (code, output) = maintenance(&process, &["on", "--reason", "another"]).await;
    assert!(
        code == Some(0) && output.starts_with("in maintenance: kept"),
        "Consul keeps the first reason: {output}"
    );
    assert_eq!(maintenance(&process, &["off"]).await.0, Some(0));
    terminate(process).await;
    let process = start_with_state(agent, &app, folder.path()).await;
    wait_catalog_maintenance(agent, None).await;
    assert_status(&process, "not in maintenance (").await;
}
