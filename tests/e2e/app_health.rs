//! The health of the app: where and how the sidecar asks, and what the registry, `/readyz` and the log say of it.

use std::{net::SocketAddr, time::Duration};

use outrigger_devregistry::{DevRegistry, DevRegistryOptions};
use outrigger_net::reserve_addr;
use outrigger_tests::{
    instance::{Answer, Instance, Kill},
    process::Process,
    registry::ConsulAgent,
    wait,
};

async fn dev_registry() -> (DevRegistry, ConsulAgent) {
    let registry =
        DevRegistry::bind(reserve_addr(), DevRegistryOptions::default()).await.expect("a registry");
    let agent = ConsulAgent(registry.addr());
    (registry, agent)
}

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
