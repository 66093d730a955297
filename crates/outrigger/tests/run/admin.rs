//! `outrigger wait` and `outrigger maintenance`, leftover registrations, and a sidecar without `-- app`.

use std::process::{Command, Output};

use rustix::process::Signal;

use crate::harness::{RunningSidecar, SidecarBuilder, registry, send_request, wait_until, wait_until_listed};

async fn outrigger(sidecar: &RunningSidecar, line: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_outrigger"));
    command.args(line.split_whitespace()).arg("--admin").arg(sidecar.admin.to_string());
    tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
}

fn stdout(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout.clone()).unwrap()
}

#[tokio::test]
async fn wait_returns_when_the_sidecar_routes_and_with_registered_when_the_app_is_healthy() {
    let registry = registry().await;
    let sidecar = SidecarBuilder::new(&registry, "").start();
    assert_eq!(stdout(&outrigger(&sidecar, "wait --timeout 60s").await), "ready\n");
    let late = outrigger(&sidecar, "wait --registered --timeout 300ms").await;
    assert_eq!(late.status.code(), Some(1));
    let why = String::from_utf8(late.stderr).unwrap();
    assert!(why.contains("not healthy yet"), "{why}");

    let _app = tokio::net::TcpListener::bind(("127.0.0.1", sidecar.port)).await.unwrap();
    assert_eq!(stdout(&outrigger(&sidecar, "wait --registered --timeout 60s").await), "ready\n");
}

#[tokio::test]
async fn every_command_finds_the_admin_side_by_its_variable_and_by_a_url() {
    let registry = registry().await;
    let sidecar = SidecarBuilder::new(&registry, "").start();
    let run = async |line: &str, variable: String| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_outrigger"));
        command.args(line.split_whitespace()).env("OUTRIGGER_ADMIN_LISTEN", variable);
        stdout(&tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap())
    };
    let admin = sidecar.admin;
    // As for a listener on all addresses.
    let variable = || format!("0.0.0.0:{}", admin.port());
    assert_eq!(run("wait --timeout 60s", variable()).await, "ready\n");
    assert_eq!(run("reload", variable()).await, "nothing has changed\n");
    assert!(run("maintenance status", variable()).await.starts_with("not in maintenance"));
    // The flag wins, and a URL is one of its forms.
    let line = format!("reload --admin http://localhost:{}/", admin.port());
    assert_eq!(run(&line, "localhost:1".to_owned()).await, "nothing has changed\n");
    assert!(run("drain", variable()).await.contains("\"phase\""));
}

#[tokio::test]
async fn version_is_a_command_and_a_flag() {
    let print = async |argument: &'static str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_outrigger"));
        command.arg(argument);
        stdout(&tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap())
    };
    let version = print("version").await;
    assert!(version.starts_with(concat!("outrigger ", env!("CARGO_PKG_VERSION"))), "{version}");
    for flag in ["-V", "--version"] {
        assert_eq!(print(flag).await, version);
    }
}

#[tokio::test]
async fn maintenance_survives_a_lost_registration_until_it_is_turned_off() {
    let registry = registry().await;
    let sidecar = SidecarBuilder::new(&registry, "").start();
    let _app = tokio::net::TcpListener::bind(("127.0.0.1", sidecar.port)).await.unwrap();
    wait_until_listed(&registry, &[("orders-1", "passing")]).await;
    sidecar.wait_until_ready().await;

    let on = outrigger(&sidecar, "maintenance on --reason disk&swap").await;
    assert!(stdout(&on).contains("in maintenance: disk&swap"), "{on:?}");
    wait_until_listed(&registry, &[("orders-1", "critical")]).await;
    let page = sidecar.get_json("/readyz").await;
    assert_eq!(page["registrations"][0]["maintenance"], "disk&swap");
    assert_eq!(page["ready"], true, "it still carries requests");
    let (_, metrics) = send_request(sidecar.admin, "GET /metrics", "").await.unwrap();
    assert!(metrics.lines().any(|line| line == "outrigger_maintenance{service=\"orders\"} 1"), "{metrics}");

    send_request(registry.addr(), "PUT /v1/agent/service/deregister/orders-1", "").await.unwrap();
    wait_until("it is registered again", async || {
        let (_, body) = send_request(registry.addr(), "GET /v1/health/service/orders", "").await.unwrap();
        body.contains("_service_maintenance:orders-1") && body.contains("passing")
    })
    .await;

    assert!(stdout(&outrigger(&sidecar, "maintenance status").await).contains("disk&swap"));
    assert!(stdout(&outrigger(&sidecar, "maintenance off").await).contains("not in maintenance"));
    wait_until_listed(&registry, &[("orders-1", "passing")]).await;
}

#[tokio::test]
async fn maintenance_before_the_app_starts_holds_from_the_registration_on() {
    let registry = registry().await;
    let sidecar = SidecarBuilder::new(&registry, "").start();
    stdout(&outrigger(&sidecar, "wait").await);
    stdout(&outrigger(&sidecar, "maintenance on").await);
    let _app = tokio::net::TcpListener::bind(("127.0.0.1", sidecar.port)).await.unwrap();
    sidecar.wait_until_ready().await;
    wait_until_listed(&registry, &[("orders-1", "critical")]).await;
}

#[tokio::test]
async fn a_leftover_registration_of_an_earlier_run_is_removed_and_a_foreign_one_stays() {
    let registry = registry().await;
    let sidecar = SidecarBuilder::new(&registry, "");
    let port = sidecar.port;
    for (id, meta, port) in [
        ("left", r#"{"outrigger": "0.0.1"}"#, port),
        ("theirs", "{}", port),
        ("elsewhere", r#"{"outrigger": "0.0.1"}"#, 1),
    ] {
        let body = format!(
            r#"{{"ID": "{id}", "Name": "orders", "Address": "127.0.0.1", "Port": {port}, "Meta": {meta},
            "Check": {{"CheckID": "service:{id}", "Name": "Outrigger: health of orders", "TTL": "10m",
            "Status": "passing"}}}}"#
        );
        send_request(registry.addr(), "PUT /v1/agent/service/register", &body).await.unwrap();
    }
    let app = tokio::net::TcpListener::bind(("127.0.0.1", port)).await.unwrap();
    // Accepts, because the probes would fill the queue of a listener that does not.
    let accepts = tokio::spawn(async move { while app.accept().await.is_ok() {} });
    let _sidecar = sidecar.start();
    wait_until_listed(&registry, &[("elsewhere", "passing"), ("orders-1", "passing"), ("theirs", "passing")])
        .await;
    accepts.abort();
}

#[tokio::test]
async fn a_sidecar_with_await_app_carries_requests_until_the_apps_port_is_closed() {
    let registry = registry().await;
    let mut sidecar =
        SidecarBuilder::new(&registry, "drain: {await_app: on, propagation: 0s, timeout: 50s}").start();
    let app = tokio::net::TcpListener::bind(("127.0.0.1", sidecar.port)).await.unwrap();
    sidecar.wait_until_ready().await;
    sidecar.signal(Signal::TERM);
    wait_until("the drain is over", async || sidecar.get_json("/drain").await["phase"] == "safe").await;
    for _ in 0..3 {
        assert!(
            send_request(sidecar.outbound, "GET /svc/unknown/", "").await.is_some(),
            "the app may still call"
        );
        assert!(sidecar.child.try_wait().unwrap().is_none());
    }
    drop(app);
    assert_eq!(sidecar.wait_for_exit().await.code(), Some(0));
}

#[tokio::test]
async fn an_app_that_does_not_close_its_port_delays_the_sidecar_by_drain_timeout() {
    let registry = registry().await;
    let mut sidecar =
        SidecarBuilder::new(&registry, "drain: {await_app: on, propagation: 0s, timeout: 300ms}").start();
    let _app = tokio::net::TcpListener::bind(("127.0.0.1", sidecar.port)).await.unwrap();
    sidecar.wait_until_ready().await;
    sidecar.signal(Signal::TERM);
    assert_eq!(sidecar.wait_for_exit().await.code(), Some(0));
}
