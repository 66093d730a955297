//! A whole sidecar against the embedded registry, in this process.

use std::{net::Ipv4Addr, time::Duration};

use http::Request;
use http_body_util::Full;
use outrigger_config::{
    ConsulAddress, ConsulSettings, Drain, Listen, Propagation, Registry, Service, WorkerThreads,
};
use outrigger_devregistry::{DevRegistry, DevRegistryOptions};
use outrigger_proxy::Workers;
use outrigger_registration::http_client::exchange;
use tokio::{
    net::TcpListener,
    time::{Instant, timeout},
};

use super::*;
use crate::telemetry::error_chain;

const LONG: Duration = Duration::from_secs(20);

async fn registry() -> DevRegistry {
    DevRegistry::bind((Ipv4Addr::LOCALHOST, 0).into(), DevRegistryOptions::default()).await.unwrap()
}

/// Free ports everywhere, nothing registered, no wait for callers.
fn config(registry: SocketAddr) -> Config {
    let address = ConsulAddress { tls: false, host: registry.ip().to_string(), port: registry.port() };
    let mut config = Config {
        registry: Registry::Consul(ConsulSettings { address, ..ConsulSettings::default() }),
        drain: Drain { propagation: Propagation::Fixed(Duration::ZERO), timeout: LONG, ..Drain::default() },
        ..Config::default()
    };
    config.outbound.listen = Listen::localhost(0);
    config.admin.listen = Listen::localhost(0);
    config
}

fn orders(port: u16) -> Service {
    Service {
        name: "orders".into(),
        port,
        address: Some("127.0.0.1".into()),
        id: Some("orders-1".into()),
        tags: Vec::new(),
        meta: Default::default(),
        weights: Default::default(),
        health: Default::default(),
        deregister_after: Duration::from_secs(60),
    }
}

async fn start(config: Config) -> Result<App, StartError> {
    App::start(config, Workers::CurrentRuntime).await
}

async fn get(addr: SocketAddr, line: &str) -> (u16, String) {
    send(addr, line, "").await
}

async fn send(addr: SocketAddr, line: &str, body: &str) -> (u16, String) {
    let (method, path) = line.split_once(' ').unwrap();
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("host", "localhost")
        .header("x-outrigger-admin", "1")
        .body(Full::from(body.to_owned()))
        .unwrap();
    let answer = exchange(addr, request, LONG).await.unwrap();
    (answer.status().as_u16(), String::from_utf8_lossy(answer.body()).into_owned())
}

#[tokio::test]
async fn an_app_is_registered_drained_and_gone() {
    let registry = registry().await;
    let local = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut config = config(registry.addr());
    config.admin.metrics_listen = Some(Listen::from(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))));
    config.services = vec![orders(local.local_addr().unwrap().port())];
    let app = start(config).await.unwrap();
    let admin = app.admin_addr().unwrap();
    timeout(LONG, app.ready()).await.unwrap();
    assert_eq!(get(admin, "GET /readyz").await.0, 200);
    assert_eq!(get(app.metrics_addrs()[0], "GET /readyz").await.0, 200);
    assert!(get(registry.addr(), "GET /v1/health/service/orders?passing").await.1.contains("orders-1"));

    assert_eq!(get(admin, "POST /drain").await.0, 202);
    timeout(LONG, app.drain()).await.unwrap();
    assert_eq!(get(registry.addr(), "GET /v1/health/service/orders").await.1.trim(), "[]");
    assert_eq!(get(admin, "GET /readyz").await.0, 503);
    assert!(get(admin, "GET /drain").await.1.contains("\"safe_to_stop\":true"));
    // It still carries requests: the sidecar itself answers 404, because no instance is registered any more.
    assert_eq!(get(app.outbound_addrs()[0], "GET /svc/orders/").await.0, 404);

    let outbound = app.outbound_addrs()[0];
    let stopped = timeout(LONG, app.run_until(std::future::ready(()))).await.unwrap();
    assert_eq!(stopped, ShutdownSummary { aborted: 0 });
    for addr in [outbound, admin] {
        assert!(TcpListener::bind(addr).await.is_ok(), "{addr} is free again");
    }
    registry.shutdown().await;
}

/// How long an app that leaves was critical in the registry before it was gone; `None`: never.
async fn time_shown_as_critical() -> Option<Duration> {
    let registry = registry().await;
    let local = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut config = config(registry.addr());
    config.services = vec![orders(local.local_addr().unwrap().port())];
    config.drain = Drain::default();
    let app = start(config).await.unwrap();
    timeout(LONG, app.ready()).await.unwrap();

    let agent = registry.addr();
    let watched = async {
        let mut critical: Option<Instant> = None;
        loop {
            let (_, health) = get(agent, "GET /v1/health/service/orders").await;
            if health.trim() == "[]" {
                return critical.map(|since| since.elapsed());
            }
            if health.contains("\"critical\"") {
                critical.get_or_insert_with(Instant::now);
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    let (shown, ()) = timeout(LONG, async { tokio::join!(watched, app.drain()) }).await.unwrap();
    timeout(LONG, app.shutdown()).await.unwrap();
    registry.shutdown().await;
    shown
}

#[tokio::test]
async fn an_app_that_leaves_is_critical_before_it_is_gone() {
    // Half of the real time, and several tries, because a busy machine may delay the observer.
    for _ in 0..5 {
        if time_shown_as_critical().await >= Some(Duration::from_millis(250)) {
            return;
        }
    }
    panic!("it was critical for a moment only");
}

#[tokio::test]
async fn maintenance_at_the_registry_survives_a_corrected_registration() {
    let registry = registry().await;
    let local = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = local.local_addr().unwrap().port();
    let mut config = config(registry.addr());
    config.services = vec![orders(port)];
    let app = start(config).await.unwrap();
    timeout(LONG, app.ready()).await.unwrap();
    let agent = registry.addr();
    let line = "PUT /v1/agent/service/maintenance/orders-1?enable=true&reason=disk";
    assert_eq!(get(agent, line).await.0, 200);
    let other = r#"{"Name":"orders","ID":"orders-1","Port":1,"Check":{"CheckID":"other","TTL":"60s"}}"#;
    assert_eq!(send(agent, "PUT /v1/agent/service/register", other).await.0, 200);

    let corrected = timeout(LONG, async {
        loop {
            let (_, health) = get(agent, "GET /v1/health/service/orders").await;
            assert!(health.contains("_service_maintenance:orders-1"), "{health}");
            assert_eq!(get(agent, "GET /v1/health/service/orders?passing").await.1.trim(), "[]");
            if health.contains(&format!("\"Port\":{port},")) && !health.contains("\"other\"") {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    corrected.await.unwrap();
    assert_eq!(app.registrations()[0].status.generation, 2);
    timeout(LONG, app.shutdown()).await.unwrap();
    registry.shutdown().await;
}

#[tokio::test]
async fn readyz_names_the_app_that_does_not_listen() {
    let registry = registry().await;
    let local = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = local.local_addr().unwrap().port();
    drop(local);
    let mut config = config(registry.addr());
    config.services = vec![orders(port)];
    let app = start(config).await.unwrap();
    let refused = format!("127.0.0.1:{port}: Connection refused");
    let seen = timeout(LONG, async {
        loop {
            let (status, body) = get(app.admin_addr().unwrap(), "GET /readyz").await;
            assert_eq!(status, 503);
            if body.contains(&refused) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    seen.await.unwrap();
    timeout(LONG, app.shutdown()).await.unwrap();
}

/// A blocking exchange, on the thread of the control plane: while it lasts, nothing else runs there.
fn get_while_the_control_plane_is_blocked(addr: SocketAddr, path: &str) -> String {
    use std::io::{Read as _, Write as _};
    let mut socket = std::net::TcpStream::connect(addr).unwrap();
    socket.set_read_timeout(Some(LONG)).unwrap();
    write!(socket, "GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).unwrap();
    answer
}

#[tokio::test]
async fn the_admin_side_has_a_thread_of_its_own() {
    let registry = registry().await;
    let mut config = config(registry.addr());
    config.admin.metrics_listen = Some(Listen::from(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))));
    let app = start(config).await.unwrap();
    for addr in [app.admin_addr().unwrap(), app.metrics_addrs()[0]] {
        for path in ["/healthz", "/metrics"] {
            let answer = get_while_the_control_plane_is_blocked(addr, path);
            assert!(answer.starts_with("HTTP/1.1 200"), "{addr} {path}: {answer}");
        }
    }
    timeout(LONG, app.shutdown()).await.unwrap();
    registry.shutdown().await;
}

#[tokio::test]
async fn the_network_is_not_told_where_the_app_was_looked_for() {
    let registry = registry().await;
    let mut config = config(registry.addr());
    config.admin.metrics_listen = Some(Listen::from(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))));
    let port = outrigger_net::reserve_addr().port();
    config.services = vec![orders(port)];
    let app = start(config).await.unwrap();
    let told = timeout(LONG, async {
        while !get(app.admin_addr().unwrap(), "GET /readyz").await.1.contains("Connection refused") {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        get(app.metrics_addrs()[0], "GET /readyz").await
    });
    let (status, body) = told.await.unwrap();
    assert_eq!(status, 503);
    assert!(body.contains("the local app is not healthy yet: see /readyz of the admin side"), "{body}");
    assert!(!body.contains(&format!(":{port}")), "{body}");
    timeout(LONG, app.shutdown()).await.unwrap();
    registry.shutdown().await;
}

#[tokio::test]
async fn every_occupied_port_is_named_at_once_with_the_flag_of_its_listener() {
    let registry = registry().await;
    let mut taken = Vec::new();
    for _ in 0..4 {
        taken.push(TcpListener::bind("127.0.0.1:0").await.unwrap());
    }
    let addrs: Vec<_> = taken.iter().map(|one| one.local_addr().unwrap()).collect();
    let mut all = config(registry.addr());
    all.outbound.listen = addrs[0].into();
    all.admin.listen = addrs[1].into();
    all.admin.metrics_listen = Some(addrs[2].into());
    all.upstreams.push(outrigger_config::Upstream {
        service: "reports".to_owned(),
        listen: Some(addrs[3].into()),
        protocol: outrigger_config::Protocol::default(),
        tls: None,
        tcp: outrigger_config::TcpSettings::default(),
        hosts: Vec::new(),
        tags: vec!["v2".to_owned()],
        datacenter: None,
        policy: outrigger_config::Policy::default(),
        traffic: outrigger_config::TrafficRules::default(),
    });
    let error = start(all).await.unwrap_err();
    assert!(error.is_bind_error(), "{error:?}");
    let text = error_chain(&error);
    for (name, addr) in [
        "--listen (outbound.listen)",
        "--admin-listen (admin.listen)",
        "--metrics-listen (admin.metrics_listen)",
        "upstreams.reports[v2].listen",
    ]
    .into_iter()
    .zip([addrs[0], addrs[1], addrs[2], addrs[3]])
    {
        let line = text.lines().find(|line| line.starts_with(&format!("{name}: listen on {addr}")));
        assert!(line.is_some_and(|line| line.contains("choose another port")), "{name} {addr} in {text}");
    }
    assert_eq!(text.lines().count(), 4, "{text}");

    let mut one = config(registry.addr());
    one.admin.metrics_listen = Some(addrs[2].into());
    let text = error_chain(&start(one).await.unwrap_err());
    assert!(text.starts_with("--metrics-listen") && text.lines().count() == 1, "{text}");
}

#[tokio::test]
async fn a_sidecar_starts_without_a_reachable_registry() {
    let gone = registry().await;
    let addr = gone.addr();
    gone.shutdown().await;
    let app = start(config(addr)).await.unwrap();
    timeout(LONG, app.ready()).await.unwrap();
    assert_eq!(get(app.admin_addr().unwrap(), "GET /healthz").await.0, 200);
    timeout(LONG, app.shutdown()).await.unwrap();
}

#[tokio::test]
async fn a_missing_file_of_instances_is_an_error_that_names_it() {
    let config = Config { registry: Registry::File("/no/such/services.yaml".into()), ..Config::default() };
    let error = start(config).await.unwrap_err();
    assert!(!error.is_bind_error());
    assert!(error_chain(&error).contains("/no/such/services.yaml"), "{error:?}");
}

#[tokio::test]
async fn a_missing_token_file_is_an_error_that_names_it_and_the_start() {
    let registry = registry().await;
    let mut config = config(registry.addr());
    let Registry::Consul(consul) = &mut config.registry else { unreachable!() };
    consul.token = Some(outrigger_config::Token::File("/no/such/token".into()));
    let error = start(config).await.unwrap_err();
    assert!(!error.is_bind_error());
    let text = error_chain(&error);
    assert!(text.contains("/no/such/token") && text.contains("at start"), "{text}");
}

#[test]
fn auto_is_at_most_two_threads() {
    assert!(matches!(proxy_workers(WorkerThreads::Auto), Workers::Threads(1..=2)));
    assert_eq!(proxy_workers(WorkerThreads::Count(7)), Workers::Threads(7));
}
