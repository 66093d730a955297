//! At which of its addresses an instance is called: by `address`, with two datacenters.

use std::net::SocketAddr;

use outrigger::App;
use outrigger_tests::{
    client,
    consul::{self, ConsulDatacenters},
    instance::{Answer, Instance},
    load::{Load, LoadPlan},
    registry::ConsulAgent,
    wait,
};
use serde_json::{Value, json};

use crate::app;

/// The host of the service in `dc2`, and in `dc1`.
const ELSEWHERE: &str = "orders.service.dc2.consul";
const HERE: &str = "orders.service.dc1.consul";

/// One instance of `orders` in each datacenter, each with two addresses, of which each is a process that says its name; and a sidecar at
/// the agent of `dc1`.
struct AddressSite {
    consul: ConsulDatacenters,
    _instances: Vec<Instance>,
    app: App,
    addr: SocketAddr,
}

fn router_settings(dc1: &consul::Consul, settings: &str) -> outrigger_config::LoadedConfig {
    app::router_settings(&format!("address: \"{}\"", dc1.url()), settings)
}

impl AddressSite {
    async fn start(extra: &str, settings: &str) -> Self {
        let consul = ConsulDatacenters::start_with(extra).await.expect("two datacenters");
        let mut instances = Vec::new();
        for (n, agent) in [(1, &consul.dc1), (2, &consul.dc2)] {
            let start = async |kind: &str, last: u8| {
                let name = format!("dc{n}-{kind}");
                let body = name.clone();
                let addr = SocketAddr::from(([127, 0, 8, last], 0));
                Instance::start_on(addr, &name, move |_| Answer::ok(&body)).await
            };
            let (lan, wan) = (start("lan", 10 * n + 1).await, start("wan", 10 * n + 2).await);
            let place = |one: &Instance| json!({"Address": one.addr().ip(), "Port": one.addr().port()});
            let body = json!({
                "Name": "orders", "ID": "a", "Address": lan.addr().ip(), "Port": lan.addr().port(),
                "TaggedAddresses": {"lan": place(&lan), "wan": place(&wan)},
            });
            let agent = ConsulAgent(agent.http_addr());
            agent.put("/v1/agent/service/register", &body).await;
            agent.wait_health("orders", &[("a", "passing")]).await;
            instances.extend([lan, wan]);
        }
        let app =
            App::start(router_settings(&consul.dc1, settings), outrigger_proxy::Workers::CurrentRuntime)
                .await
                .expect("start the app");
        wait::within("it is ready", app.ready()).await;
        let addr = app.outbound_addrs()[0];
        Self { consul, _instances: instances, app, addr }
    }

    async fn apply(&self, settings: &str) {
        self.app.apply(router_settings(&self.consul.dc1, settings)).await.expect("a reload");
    }

    /// The process that answers.
    async fn answers(&self, host: &str) -> String {
        let response = client::get(self.addr, host, "/").await;
        assert_eq!(response.status, 200, "{}", response.text());
        response.text()
    }

    async fn wait_for(&self, host: &str, expected: &str) {
        wait::until(expected, wait::TIMEOUT, async || self.answers(host).await == expected).await;
    }

    async fn page(&self, path: &str) -> Value {
        let admin = self.app.admin_addr().expect("an admin side");
        client::get(admin, "localhost", path).await.json()
    }

    /// The entry of `orders` itself in `/services`.
    async fn shown(&self) -> Value {
        let page = self.page("/services").await;
        let all = page["services"].as_array().cloned().unwrap_or_default();
        all.into_iter()
            .find(|one| one["datacenter"].is_null() && !one["calls"].is_null())
            .expect("the service")
    }
}

#[tokio::test]
async fn an_instance_is_called_at_the_address_that_the_settings_say_and_a_reload_under_load_changes_it() {
    if !consul::available("an instance is called at the address that the settings say") {
        return;
    }
    // The first service that is asked for is elsewhere: no answer has said yet which datacenter is the agent's own.
    let site = AddressSite::start("", "").await;
    for (host, expected) in [(ELSEWHERE, "dc2-wan"), (HERE, "dc1-lan"), ("orders", "dc1-lan")] {
        assert_eq!(site.answers(host).await, expected, "{host}");
    }
    let loads = ["orders", ELSEWHERE].map(|host| Load::start(site.addr, LoadPlan::get(host)));
    for (settings, own, other, address) in [
        ("defaults: {address: lan}", "dc1-lan", "dc2-lan", Some("lan")),
        ("defaults: {address: wan}", "dc1-wan", "dc2-wan", Some("wan")),
        ("upstreams: [{service: orders, address: lan}]", "dc1-lan", "dc2-lan", Some("lan")),
        ("", "dc1-lan", "dc2-wan", None),
    ] {
        site.apply(settings).await;
        site.wait_for("orders", own).await;
        site.wait_for(ELSEWHERE, other).await;
        // Both ways to the own datacenter have the same instances.
        site.wait_for(HERE, own).await;
        wait::until("the page says it", wait::TIMEOUT, async || {
            site.shown().await["address"].as_str() == address
        })
        .await;
        for load in &loads {
            load.wait_successes(50).await;
        }
    }
    for load in loads {
        load.stop().await.assert_clean(200);
    }
    site.apply("upstreams: [{service: orders, address: wan}]").await;
    site.wait_for("orders", "dc1-wan").await;
    let told = site.page("/explain?url=http://orders/").await.to_string();
    assert!(told.contains(r#""key":"address""#) && told.contains("test.yaml:"), "{told}");
    site.app.shutdown().await;
}

#[tokio::test]
async fn a_reload_that_changes_the_address_while_the_registry_is_away_waits_for_it_and_loses_no_request() {
    if !consul::available("a reload that changes the address while the registry is away") {
        return;
    }
    let mut site = AddressSite::start("", "upstreams: [{service: orders}]").await;
    assert_eq!(site.answers("orders").await, "dc1-lan");
    let load = Load::start(site.addr, LoadPlan::get("orders"));
    load.wait_successes(50).await;
    site.consul.dc1.kill().expect("kill the server");
    site.apply("upstreams: [{service: orders, address: wan}]").await;
    load.wait_successes(300).await;
    assert_eq!(site.answers("orders").await, "dc1-lan", "what is known goes on");
    assert_eq!(site.shown().await["address"], Value::Null, "the page says what is used");
    site.consul.dc1.start().await.expect("start it again");
    wait::until("it changes over", wait::TIMEOUT * 2, async || site.answers("orders").await == "dc1-wan")
        .await;
    load.wait_successes(50).await;
    load.stop().await.assert_clean(300);
    site.app.shutdown().await;
}

#[tokio::test]
async fn the_addresses_are_the_same_by_an_agent_that_translates_addresses() {
    if !consul::available("an agent that translates addresses") {
        return;
    }
    let site = AddressSite::start("translate_wan_addrs = true", "").await;
    // With `lan`, what it lists of another datacenter is the address of the one with the port of the other.
    for (settings, own, other) in
        [("defaults: {address: wan}", "dc1-wan", "dc2-wan"), ("", "dc1-lan", "dc2-wan")]
    {
        site.apply(settings).await;
        site.wait_for("orders", own).await;
        site.wait_for(ELSEWHERE, other).await;
    }
    site.app.shutdown().await;
}

#[tokio::test]
async fn a_failover_to_the_agents_own_datacenter_is_a_warning() {
    if !consul::available("a failover to the agent's own datacenter") {
        return;
    }
    let settings = "upstreams: [{service: orders, failover: [{datacenter: DC1}, {datacenter: dc2}]}]";
    let site = AddressSite::start("", settings).await;
    assert_eq!(site.answers("orders").await, "dc1-lan");
    let shown = site.shown().await;
    let warnings: Vec<_> = (0..2).map(|n| shown["failover"]["targets"][n]["warning"].clone()).collect();
    let own = "it is the service's own datacenter: no other instances are there";
    assert_eq!(warnings, [json!(own), Value::Null], "{shown}");
    site.app.shutdown().await;
}
