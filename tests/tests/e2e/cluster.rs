//! A cluster of three Consul servers loses its leader under traffic.

use std::time::Duration;

use outrigger_tests::{
    consul::{self, Cluster},
    instance::Instance,
    load::{Load, Plan},
    registry::Agent,
    wait,
};

use crate::app;

#[tokio::test]
async fn a_leader_that_is_killed_under_traffic_costs_no_request() {
    if !consul::available("a leader that is killed under traffic costs no request") {
        return;
    }
    let mut cluster = Cluster::three().await.expect("three servers");
    let leader = cluster.leader().await.expect("a leader");
    let agent = Agent(cluster.servers()[(leader + 1) % 3].http_addr());
    let all = [Instance::start("a").await, Instance::start("b").await, Instance::start("c").await];
    for instance in &all[..2] {
        agent.register("orders", instance).await;
    }
    agent.shows("orders", &[("a", "passing"), ("b", "passing")]).await;

    let (app, addr) = app::routing(agent.0, "upstreams: [{service: orders}]").await;
    let load = Load::start(addr, Plan::get("orders").methods(&["GET", "POST"]));
    load.ok_more(200).await;

    assert_eq!(cluster.kill_leader().await.expect("it was killed"), leader);
    let next = cluster.leader().await.expect("another leader");
    assert_ne!(next, leader);
    load.ok_more(500).await;

    // It learns from the new leader, too.
    agent.register("orders", &all[2]).await;
    wait::until("the new instance is used", Duration::from_secs(90), async || all[2].count() > 20).await;

    cluster.server(leader).start().await.expect("the killed one comes back");
    load.ok_more(500).await;
    load.stop().await.assert_clean(1200);
    app.shutdown().await;
}
