//! A registry that answers an empty list by mistake. No request fails because of this list while the instances answer;
//! if the index does not rise, for ten seconds.

use std::time::Duration;

use outrigger::App;
use outrigger_devregistry::{DevRegistry, DevRegistryOptions};
use outrigger_tests::{
    client::{self, Client},
    consul,
    instance::{Instance, Kill},
    registry::ConsulAgent,
    registry_proxy::{RegistryMode, RegistryProxy},
    wait,
};
use serde_json::json;
use tokio::time::{Instant, sleep};

use crate::app;

struct EmptyListSetup {
    registry: DevRegistry,
    front: RegistryProxy,
}

impl EmptyListSetup {
    async fn of(instances: &[&Instance]) -> Self {
        let registry = DevRegistry::bind("127.0.0.1:0".parse().unwrap(), DevRegistryOptions::default())
            .await
            .expect("a registry");
        let front = RegistryProxy::start(registry.addr()).await;
        for instance in instances {
            ConsulAgent(registry.addr()).register("orders", instance).await;
        }
        Self { registry, front }
    }

    fn agent(&self) -> ConsulAgent {
        ConsulAgent(self.registry.addr())
    }
}

fn metric(app: &App, name: &str) -> f64 {
    let families = app.metrics().gather();
    let all = families.iter().filter(|family| family.name() == name).flat_map(|family| family.get_metric());
    all.map(|metric| metric.get_gauge().get_value() + metric.get_counter().get_value()).sum()
}

/// Sends one request after the other for this long. Each must be answered with 200.
async fn assert_all_succeed(client: &mut Client, time: Duration) {
    let end = Instant::now() + time;
    while Instant::now() < end {
        let answer = client.get("orders", "/").await;
        assert_eq!(answer.status, 200, "{answer:?}");
        sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn an_empty_list_at_an_unchanged_index_costs_no_request_for_nine_seconds() {
    let all = [Instance::start("a").await, Instance::start("b").await];
    let setup = EmptyListSetup::of(&[&all[0], &all[1]]).await;
    let index = setup.agent().service_index("orders").await;
    let (app, addr) = app::start_router(setup.front.addr(), "upstreams: [{service: orders}]").await;
    let mut client = Client::connect(addr).await;
    assert_all_succeed(&mut client, Duration::from_millis(100)).await;

    setup.front.set(RegistryMode::EmptyAt(index));
    assert_all_succeed(&mut client, Duration::from_secs(9)).await;
    assert_eq!(metric(&app, "outrigger_suspect_instances"), 2.0);
    for one in &app.clusters()[0].endpoints {
        let why = one.why_not.clone().unwrap_or_default();
        assert!(one.suspect && one.usable && why.starts_with("suspect: "), "{one:?}");
    }
    wait::until("the hold ends", wait::TIMEOUT, async || client.get("orders", "/").await.status == 404).await;
    let refused = client.get("orders", "/").await;
    assert_eq!(refused.reason(), "unknown_service");
    assert!(refused.text().contains("2 instances were presumed gone "), "{}", refused.text());

    // The right answer has the same index as the wrong one, so a blocking query would not return it.
    setup.front.set(RegistryMode::Pass);
    let right = Instant::now();
    wait::until("the instances are used again", wait::TIMEOUT, async || {
        client.get("orders", "/").await.status == 200
    })
    .await;
    assert!(right.elapsed() < Duration::from_secs(15), "{:?}", right.elapsed());
    app.shutdown().await;
}

#[tokio::test]
async fn successful_requests_keep_an_instance_that_accepts_no_new_connection() {
    let instance = Instance::start("a").await;
    let setup = EmptyListSetup::of(&[&instance]).await;
    let index = setup.agent().service_index("orders").await;
    let (app, addr) = app::start_router(setup.front.addr(), "upstreams: [{service: orders}]").await;
    let mut client = Client::connect(addr).await;
    assert_all_succeed(&mut client, Duration::from_millis(50)).await;

    instance.stop_accepting().await;
    setup.front.set(RegistryMode::EmptyAt(index));
    // Each probe of the suspect is refused, while requests succeed on the open connections.
    wait::until("the instance is suspect", wait::TIMEOUT, async || {
        assert_all_succeed(&mut client, Duration::from_millis(5)).await;
        metric(&app, "outrigger_suspect_instances") == 1.0
    })
    .await;
    assert_all_succeed(&mut client, Duration::from_secs(3)).await;
    assert_eq!(instance.accepted(), 1, "all requests use one connection");
    app.shutdown().await;
}

#[tokio::test]
async fn earlier_successes_do_not_keep_an_instance_that_refuses_connections() {
    let all = [Instance::start("a").await, Instance::start("b").await];
    let setup = EmptyListSetup::of(&[&all[0], &all[1]]).await;
    let index = setup.agent().service_index("orders").await;
    let (app, addr) = app::start_router(setup.front.addr(), "upstreams: [{service: orders}]").await;
    let mut client = Client::connect(addr).await;
    while all.iter().any(|one| one.count() == 0) {
        assert_all_succeed(&mut client, Duration::from_millis(5)).await;
    }
    all[1].kill(Kill::Fin).await;
    let killed = Instant::now();
    wait::until("the instance is ejected", wait::TIMEOUT, async || {
        assert_all_succeed(&mut client, Duration::from_millis(5)).await;
        app.clusters()[0].endpoints.iter().any(|one| one.trust == "ejected")
    })
    .await;
    setup.front.set(RegistryMode::EmptyAt(index));
    wait::until_true("the instance is removed", || app.clusters()[0].endpoints.len() == 1).await;
    // A successful answer counts as evidence of life for five seconds.
    assert!(killed.elapsed() < Duration::from_secs(4), "{:?}", killed.elapsed());
    assert_eq!(metric(&app, "outrigger_suspect_instances"), 1.0, "the other instance is kept");
    app.shutdown().await;
}

/// Removes two of three instances from the registry at once; they still accept connections.
async fn assert_removal_is_accepted_before_the_hold_ends(at: std::net::SocketAddr) {
    let all = [Instance::start("a").await, Instance::start("b").await, Instance::start("c").await];
    ConsulAgent(at).register("orders", &all[0]).await;
    register_on_node(ConsulAgent(at), &[&all[1], &all[2]], "passing").await;
    let (app, addr) = app::start_router(at, "upstreams: [{service: orders}]").await;
    let mut client = Client::connect(addr).await;
    wait::until("each instance gets a request", wait::TIMEOUT, async || {
        assert_all_succeed(&mut client, Duration::from_millis(50)).await;
        all.iter().all(|one| one.count() > 0)
    })
    .await;
    ConsulAgent(at).put("/v1/catalog/deregister", &json!({"Node": "far"})).await;
    let removed = Instant::now();
    wait::until_true("both instances are removed", || app.clusters()[0].endpoints.len() == 1).await;
    assert_eq!(metric(&app, "outrigger_registry_suspect_updates_total"), 1.0);
    // Four queries in 1.2 s confirm the removal; the hold is 10 s.
    assert!(removed.elapsed() < Duration::from_secs(6), "{:?}", removed.elapsed());
    app.shutdown().await;
}

#[tokio::test]
async fn a_removal_is_accepted_well_before_the_hold_ends_on_the_dev_registry() {
    let setup = EmptyListSetup::of(&[]).await;
    assert_removal_is_accepted_before_the_hold_ends(setup.registry.addr()).await;
}

#[tokio::test]
async fn a_removal_is_accepted_well_before_the_hold_ends_on_consul() {
    if consul::available("a removal is accepted well before the hold ends on Consul") {
        let consul = consul::Consul::server().await.expect("a server");
        assert_removal_is_accepted_before_the_hold_ends(consul.http_addr()).await;
    }
}

/// Registers the instances on one node; `serf` is the status of the node's own check.
async fn register_on_node(agent: ConsulAgent, all: &[&Instance], serf: &str) {
    for one in all {
        let service =
            json!({"ID": one.name(), "Service": "orders", "Address": "127.0.0.1", "Port": one.addr().port()});
        let check =
            json!({"Node": "far", "CheckID": "serfHealth", "Name": "Serf Health Status", "Status": serf});
        let body = json!({"Node": "far", "Address": "127.0.0.1", "Service": service, "Check": check});
        agent.put("/v1/catalog/register", &body).await;
    }
}

#[tokio::test]
async fn the_loss_of_a_node_is_suspect_only_while_requests_succeed() {
    for traffic in [true, false] {
        let all = [Instance::start("a").await, Instance::start("b").await];
        let all = [&all[0], &all[1]];
        let setup = EmptyListSetup::of(&[]).await;
        register_on_node(setup.agent(), &all, "passing").await;
        let (app, addr) = app::start_router(setup.front.addr(), "upstreams: [{service: orders}]").await;
        if traffic {
            let mut client = Client::connect(addr).await;
            while all.iter().any(|one| one.count() == 0) {
                assert_all_succeed(&mut client, Duration::from_millis(5)).await;
            }
        }
        register_on_node(setup.agent(), &all, "critical").await;
        let critical =
            || app.clusters()[0].endpoints.iter().filter(|one| one.status == "critical").count() == 2;
        wait::until_true("the registry's status is accepted in the end", critical).await;
        let suspect_updates = metric(&app, "outrigger_registry_suspect_updates_total");
        assert_eq!(suspect_updates, if traffic { 1.0 } else { 0.0 }, "traffic: {traffic}");
        app.shutdown().await;
    }
}

#[tokio::test]
async fn an_agent_that_streams_is_believed_as_fast_and_raises_no_alarm() {
    let all = [Instance::start("a").await, Instance::start("b").await, Instance::start("c").await];
    let setup = EmptyListSetup::of(&[&all[0], &all[1], &all[2]]).await;
    setup.front.set(RegistryMode::Streaming);
    let (app, _) = app::start_router(setup.front.addr(), "upstreams: [{service: orders}]").await;
    let page = async |query: &str| {
        client::get(app.admin_addrs()[0], "localhost", &format!("/services{query}")).await
    };
    let orders = async || page("").await.json()["services"][0].clone();
    assert_eq!(orders().await["registry"]["known_leader"], true);

    // Two of three are deregistered, and still accept connections: that is believed when consistent reads have confirmed it
    // for longer than confirm_for (1 s), and not only after hold_for (10 s).
    let from = Instant::now();
    for gone in &all[1..] {
        setup.agent().deregister(gone.name()).await;
    }
    wait::until("the two are gone", Duration::from_secs(30), async || {
        orders().await["instances"].as_array().unwrap().len() == 1
    })
    .await;
    assert!(from.elapsed() < Duration::from_secs(8), "{:?}", from.elapsed());
    assert_eq!(orders().await["registry"]["known_leader"], true);
    let text = page("?format=text").await.text();
    assert!(!text.contains("leader"), "{text}");
    assert_eq!(metric(&app, "outrigger_watch_errors_total"), 0.0);
    app.shutdown().await;
}
