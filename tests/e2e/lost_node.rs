//! An instance that only the loss of its node makes critical is used while no other is.

use std::time::Duration;

use outrigger_devregistry::{DevRegistry, DevRegistryOptions};
use outrigger_tests::{
    client,
    consul::{self, ConsulCluster},
    instance::{Instance, Kill},
    load::{Load, LoadPlan},
    registry::ConsulAgent,
    wait,
};
use serde_json::{Value, json};

use crate::app;

const ORDERS: &str = "upstreams: [{service: orders}]";

/// Lists the instance on a node of its own, with checks of this node and one of the instance.
async fn list(agent: ConsulAgent, instance: &Instance, node_checks: &[(&str, &str)], own: &str) {
    let name = instance.name();
    let check = |id: &str, status: &str, service: Value| json!({"Node": name, "CheckID": id, "Name": id, "Status": status, "ServiceID": service});
    let mut checks: Vec<_> = node_checks.iter().map(|(id, status)| check(id, status, json!(""))).collect();
    checks.push(check(&format!("service:{name}"), own, json!(name)));
    let addr = instance.addr();
    let service = json!({"ID": name, "Service": "orders", "Address": addr.ip(), "Port": addr.port()});
    let body = json!({"Node": name, "Address": "127.0.0.1", "Service": service, "Checks": checks});
    agent.put("/v1/catalog/register", &body).await;
}

#[tokio::test]
async fn an_instance_of_a_lost_node_is_used_until_another_one_is_healthy() {
    let registry = DevRegistry::bind("127.0.0.1:0".parse().unwrap(), DevRegistryOptions::default())
        .await
        .expect("a registry");
    let agent = ConsulAgent(registry.addr());
    let (lost, other) = (Instance::start("lost").await, Instance::start("other").await);
    list(agent, &lost, &[("serfHealth", "critical")], "passing").await;
    let (app, addr) = app::start_router(registry.addr(), ORDERS).await;
    let get = async || client::get(addr, "orders", "/").await;
    let shown = |instance: &Instance| {
        let clusters = app.clusters();
        let found = clusters[0].endpoints.iter().find(|one| one.id == instance.name());
        found.map(|one| (one.usable, one.why_not.clone().unwrap_or_default())).unwrap_or_default()
    };
    let response = get().await;
    assert_eq!(response.status, 200, "{}", response.text());
    assert!(
        shown(&lost).1.contains("critical by its node alone: in use, because no other"),
        "{:?}",
        shown(&lost)
    );

    // Whatever else is critical means that it must not be used.
    for (node_checks, own) in [
        (&[("serfHealth", "critical"), ("disk", "critical")][..], "passing"),
        (&[("serfHealth", "critical"), ("disk", "passing"), ("_node_maintenance", "critical")], "passing"),
        (&[("serfHealth", "critical"), ("disk", "passing"), ("_node_maintenance", "passing")], "critical"),
    ] {
        list(agent, &lost, node_checks, own).await;
        wait::until("it is not used", wait::TIMEOUT, async || get().await.reason() == "no_usable_instance")
            .await;
        assert!(!shown(&lost).0, "{:?}", shown(&lost));
        for id in ["disk", "_node_maintenance"] {
            agent.put("/v1/catalog/deregister", &json!({"Node": "lost", "CheckID": id})).await;
        }
        list(agent, &lost, &[("serfHealth", "critical")], "passing").await;
        wait::until("it is used again", wait::TIMEOUT, async || get().await.status == 200).await;
    }

    list(agent, &other, &[("serfHealth", "passing")], "passing").await;
    wait::until_true("the other instance is known", || shown(&other).0).await;
    let before = lost.count();
    for _ in 0..20 {
        assert_eq!(get().await.status, 200);
    }
    assert_eq!(lost.count(), before, "another instance is healthy");
    assert!(shown(&lost).1.contains("used only while no other"), "{:?}", shown(&lost));
    // The registry still lists the other one as passing.
    other.kill(Kill::Reset).await;
    for _ in 0..20 {
        assert_eq!(get().await.status, 200);
    }
    assert!(lost.count() >= before + 20);

    // It is probed, so that it is used again at once.
    lost.kill(Kill::Reset).await;
    wait::until("no instance is left", wait::TIMEOUT, async || get().await.status != 200).await;
    lost.listen_again().await;
    wait::until("it is used again", wait::TIMEOUT, async || get().await.status == 200).await;
    app.shutdown().await;
}

#[tokio::test]
async fn the_last_instance_is_used_while_its_agent_is_dead() {
    if !consul::available("the last instance is used while its agent is dead") {
        return;
    }
    let cluster = ConsulCluster::start_three().await.expect("three servers");
    let mut agent = cluster.start_agent().await.expect("an agent");
    let server = ConsulAgent(cluster.servers()[0].http_addr());
    let instance = Instance::start("a").await;
    ConsulAgent(agent.http_addr()).register("orders", &instance).await;
    server.wait_health("orders", &[("a", "passing")]).await;
    let (app, addr) = app::start_router(server.0, ORDERS).await;
    let load = Load::start(addr, LoadPlan::get("orders").methods(&["GET", "POST"]));
    load.wait_successes(100).await;

    agent.kill().expect("kill the agent");
    // The answer is suspect at first, because requests succeed: it is accepted after ten seconds.
    wait::until("the sidecar accepts that the instance is critical", Duration::from_secs(60), async || {
        app.clusters()[0].endpoints.iter().any(|one| one.status == "critical")
    })
    .await;
    load.wait_successes(200).await;
    // A sidecar that has never known it as healthy.
    let (late, late_addr) = app::start_router(server.0, ORDERS).await;
    let response = client::get(late_addr, "orders", "/").await;
    assert_eq!(response.status, 200, "{}", response.text());

    agent.start().await.expect("start the agent");
    wait::until("the instance is healthy", Duration::from_secs(60), async || {
        app.clusters()[0].endpoints.iter().any(|one| one.status == "passing")
    })
    .await;
    load.wait_successes(100).await;
    load.stop().await.assert_clean(400);
    app.shutdown().await;
    late.shutdown().await;
}
