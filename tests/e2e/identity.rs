//! What one instance is: an id on its node; and what one endpoint is: an address.

use std::net::SocketAddr;

use outrigger::App;
use outrigger_devregistry::{DevRegistry, DevRegistryOptions};
use outrigger_tests::{
    client,
    consul::{self, Consul},
    instance::{Answer, Instance, Kill},
    registry::ConsulAgent,
    sidecar::{Services, Sidecar},
    wait,
};
use serde_json::{Value, json};

use crate::app;

/// Lists an instance of `orders` on a node without an agent.
async fn list_on(agent: ConsulAgent, node: &str, id: &str, addr: SocketAddr) {
    let service =
        json!({"ID": id, "Service": "orders", "Address": addr.ip().to_string(), "Port": addr.port()});
    let body = json!({"Node": node, "Address": "127.0.0.1", "Service": service});
    agent.put("/v1/catalog/register", &body).await;
}

/// The instances of `orders` on the page `/services`.
async fn shown(app: &App) -> Vec<Value> {
    let page = client::get(app.admin_addrs()[0], "localhost", "/services").await.json();
    let services = page["services"].as_array().unwrap();
    let orders = services.iter().find(|one| one["service"] == "orders").unwrap();
    orders["instances"].as_array().unwrap().clone()
}

/// The lines of a metric.
async fn series(app: &App, name: &str) -> Vec<String> {
    let text = client::get(app.admin_addrs()[0], "localhost", "/metrics").await.text();
    text.lines().filter(|line| line.starts_with(&format!("{name}{{"))).map(str::to_owned).collect()
}

/// One id on two nodes, and one address under two ids, by a registry with Consul's API.
async fn check_identity(agent: ConsulAgent) {
    let all = [Instance::start("one").await, Instance::start("two").await];
    list_on(agent, "n1", "o", all[0].addr()).await;
    list_on(agent, "n2", "o", all[1].addr()).await;
    agent.wait_health("orders", &[("o", "passing"), ("o", "passing")]).await;
    let (app, addr) = app::start_router(agent.0, "upstreams: [{service: orders}]").await;
    for _ in 0..20 {
        assert_eq!(client::get(addr, "orders", "/").await.status, 200);
    }
    assert_eq!((all[0].count(), all[1].count()), (10, 10));
    let picks = series(&app, "outrigger_instance_picks_total").await;
    assert_eq!(picks.len(), 2, "{picks:?}");
    for node in ["n1", "n2"] {
        let line = picks.iter().find(|line| line.contains(&format!("node=\"{node}\""))).unwrap();
        assert!(line.contains("instance=\"o\"") && line.ends_with(" 10"), "{line}");
        assert!(shown(&app).await.iter().any(|one| one["node"] == node && one["picks"] == 10));
    }
    let text = client::get(app.admin_addrs()[0], "localhost", "/services?format=text").await.text();
    assert!(text.contains("o on n1 ") && text.contains("o on n2 "), "{text}");

    // The first process is registered again, under another id.
    list_on(agent, "n1", "again", all[0].addr()).await;
    wait::until("the second id is listed", wait::TIMEOUT, async || shown(&app).await.len() == 3).await;
    let before = all.each_ref().map(Instance::count);
    for _ in 0..20 {
        assert_eq!(client::get(addr, "orders", "/").await.status, 200);
    }
    let after = all.each_ref().map(Instance::count);
    assert_eq!([after[0] - before[0], after[1] - before[1]], [10, 10], "one share for one process");
    let list = shown(&app).await;
    let of = |id: &str, node: &str| list.iter().find(|one| one["id"] == id && one["node"] == node).unwrap();
    assert_eq!(of("o", "n1")["same_as"], "again");
    assert_eq!((&of("again", "n1")["picks"], &of("o", "n1")["picks"]), (&json!(10), &json!(0)));

    // It is ejected as one: no request fails, and both ids are shown so.
    all[0].kill(Kill::Reset).await;
    for _ in 0..20 {
        assert_eq!(client::get(addr, "orders", "/").await.instance(), "two");
    }
    let list = shown(&app).await;
    for id in ["o", "again"] {
        let one = list.iter().find(|one| one["id"] == id && one["node"] == "n1").unwrap();
        assert_eq!((&one["trust"], &one["usable"]), (&json!("ejected"), &json!(false)), "{one}");
    }
    app.shutdown().await;
}

#[tokio::test]
async fn an_id_is_an_instance_of_its_node_and_an_address_one_endpoint() {
    let registry = DevRegistry::bind("127.0.0.1:0".parse().unwrap(), DevRegistryOptions::default())
        .await
        .expect("a registry");
    check_identity(ConsulAgent(registry.addr())).await;
}

#[tokio::test]
async fn by_consul_too_an_id_is_an_instance_of_its_node_and_an_address_one_endpoint() {
    if !consul::available("by Consul too, an id is an instance of its node and an address one endpoint") {
        return;
    }
    let consul = Consul::server().await.expect("an agent");
    check_identity(ConsulAgent(consul.http_addr())).await;
}

#[tokio::test]
async fn a_failed_request_is_not_repeated_at_the_same_address_while_there_is_another() {
    let broken = Instance::scripted("broken", |_| Answer::status(503, "no")).await;
    let good = Instance::start("good").await;
    let services = Services::of("orders", &[&good]).and_at("orders", "broken-1", broken.addr(), "").and_at(
        "orders",
        "broken-2",
        broken.addr(),
        "",
    );
    let sidecar = Sidecar::start("defaults: {outlier: off, retry: {max_retries: 1}}", &services).await;
    for _ in 0..20 {
        let response = sidecar.get("orders", "/").await;
        assert_eq!((response.status, response.instance()), (200, "good"), "{response:?}");
    }
    assert_eq!(broken.count(), 10, "one turn for the two registrations");
    assert_eq!(sidecar.endpoints("orders").len(), 3, "all are shown");
    // An address in another form is the same.
    let mapped = format!("[::ffff:{}]:{}", broken.addr().ip(), broken.addr().port());
    sidecar.write_services(&services.and_at("orders", "broken-3", mapped.parse().unwrap(), ""));
    wait::until_true("the third id is listed", || sidecar.endpoints("orders").len() == 4).await;
    let before = broken.count();
    for _ in 0..20 {
        assert_eq!(sidecar.get("orders", "/").await.status, 200);
    }
    assert_eq!(broken.count() - before, 10);
}
