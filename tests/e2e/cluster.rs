//! A cluster of three Consul servers loses its leader or its quorum under traffic.

use std::time::Duration;

use outrigger_tests::{
    client,
    consul::{self, ConsulCluster},
    instance::Instance,
    load::{Load, LoadPlan},
    process::Process,
    registry::ConsulAgent,
    wait,
};
use tokio::time::Instant;

use crate::app;

/// Starts a sidecar that registers `own` and declares `payments`.
async fn registered(agent: ConsulAgent, own: &Instance) -> Process {
    let settings = format!(
        "registry: {{consul: {{address: \"http://{}\"}}}}\n\
         service: {{name: orders, id: orders-1, port: {}, address: 127.0.0.1, \
         health: {{interval: 100ms, timeout: 100ms}}}}\n\
         upstreams: [{{service: payments}}]\ndrain: {{propagation: 500ms, timeout: 10s}}",
        agent.0,
        own.addr().port(),
    );
    let process = Process::run(&settings).await;
    process.wait_ready().await;
    agent.wait_health("orders", &[("orders-1", "passing")]).await;
    process
}

/// The value of the first series that starts with `series`.
async fn metric(process: &Process, series: &str) -> Option<f64> {
    let metrics = process.admin_get("/metrics").await;
    let text = metrics.text();
    let line = text.lines().find(|line| line.starts_with(series))?;
    line.rsplit(' ').next()?.parse().ok()
}

#[tokio::test]
async fn a_sidecar_stays_registered_while_the_leader_is_killed_and_loses_no_request() {
    if !consul::available("a sidecar stays registered while the leader is killed and loses no request") {
        return;
    }
    let mut cluster = ConsulCluster::start_three().await.expect("three servers");
    let leader = cluster.leader().await.expect("a leader");
    let agent = ConsulAgent(cluster.servers()[(leader + 1) % 3].http_addr());
    let own = Instance::start("own").await;
    let all = [Instance::start("a").await, Instance::start("b").await, Instance::start("c").await];
    for instance in &all[..2] {
        agent.register("payments", instance).await;
    }
    let process = registered(agent, &own).await;
    let create_index =
        |entries: serde_json::Value| entries[0]["Service"]["CreateIndex"].as_u64().expect("an index");
    let first = create_index(agent.get("/v1/health/service/orders").await);
    let load = Load::start(process.outbound(), LoadPlan::get("payments").methods(&["GET", "POST"]));
    load.wait_successes(200).await;

    assert_eq!(cluster.kill_leader().await.expect("kill the server"), leader);
    load.wait_successes(200).await;
    let age = metric(&process, "outrigger_table_age_seconds{").await;
    assert!(age.is_some_and(|age| age >= 0.0), "{age:?}");
    cluster.leader().await.expect("another leader");
    load.wait_successes(500).await;
    // Longer than the TTL of 30 s, so that a missed renewal would be seen.
    let end = Instant::now() + Duration::from_secs(35);
    while Instant::now() < end {
        assert_eq!(agent.health("orders").await, [("orders-1".to_owned(), "passing".to_owned())]);
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    agent.register("payments", &all[2]).await;
    wait::until("the new instance is used", Duration::from_secs(90), async || all[2].count() > 20).await;
    load.stop().await.assert_clean(900);

    assert_eq!(create_index(agent.get("/v1/health/service/orders").await), first, "the same registration");
    let times = metric(&process, "outrigger_registrations_total{service=\"orders\"}").await;
    assert_eq!(times, Some(1.0), "registered once:\n{}", process.log());
    let age = metric(&process, "outrigger_table_age_seconds{").await;
    assert!(age.is_some_and(|age| age < 60.0), "the table is confirmed again: {age:?}");
    assert_eq!(process.admin_get("/readyz").await.status, 200);
}

#[tokio::test]
async fn sigterm_without_a_leader_ends_in_time_and_the_registration_ends_with_the_next_leader() {
    if !consul::available("sigterm while there is no leader is bounded") {
        return;
    }
    let mut cluster = ConsulCluster::start_three().await.expect("three servers");
    let agent = ConsulAgent(cluster.servers()[0].http_addr());
    let (own, other) = (Instance::start("own").await, Instance::start("other").await);
    agent.register("payments", &other).await;
    let mut process = registered(agent, &own).await;

    for killed in 1..3 {
        cluster.server(killed).kill().expect("kill the server");
    }
    wait::until("the last server knows that there is no leader", Duration::from_secs(30), async || {
        agent.get("/v1/status/leader").await == ""
    })
    .await;
    let load = Load::start(process.outbound(), LoadPlan::get("payments"));
    load.wait_successes(50).await;
    process.signal("TERM");
    let from = Instant::now();
    wait::until_true("the log reports the shutdown", || process.log().contains("leaving; a second signal"))
        .await;
    assert_eq!(
        client::get(process.outbound(), "payments", "/").await.status,
        200,
        "the outbound listener still serves"
    );
    load.stop().await.assert_clean(50);
    let status = process.wait_exit(Duration::from_secs(40)).await;
    assert_eq!(status.code(), Some(0), "{}", process.log());
    // 3 s for the status report, 3 s for the deregistration, the propagation, and room for a slow machine.
    assert!(from.elapsed() < Duration::from_secs(9), "{:?}\n{}", from.elapsed(), process.log());

    for back in 1..3 {
        cluster.server(back).start().await.expect("restart the server");
    }
    agent.wait_health("orders", &[]).await;
}

#[tokio::test]
async fn a_leader_that_is_killed_under_traffic_costs_no_request() {
    if !consul::available("a leader that is killed under traffic costs no request") {
        return;
    }
    let mut cluster = ConsulCluster::start_three().await.expect("three servers");
    let leader = cluster.leader().await.expect("a leader");
    let agent = ConsulAgent(cluster.servers()[(leader + 1) % 3].http_addr());
    let all = [Instance::start("a").await, Instance::start("b").await, Instance::start("c").await];
    for instance in &all[..2] {
        agent.register("orders", instance).await;
    }
    agent.wait_health("orders", &[("a", "passing"), ("b", "passing")]).await;

    let (app, addr) = app::start_router(agent.0, "upstreams: [{service: orders}]").await;
    let load = Load::start(addr, LoadPlan::get("orders").methods(&["GET", "POST"]));
    load.wait_successes(200).await;

    assert_eq!(cluster.kill_leader().await.expect("kill the server"), leader);
    let next = cluster.leader().await.expect("another leader");
    assert_ne!(next, leader);
    load.wait_successes(500).await;

    // The sidecar also gets changes from the new leader.
    agent.register("orders", &all[2]).await;
    wait::until("the new instance is used", Duration::from_secs(90), async || all[2].count() > 20).await;

    cluster.server(leader).start().await.expect("restart the killed server");
    load.wait_successes(500).await;
    load.stop().await.assert_clean(1200);
    app.shutdown().await;
}
