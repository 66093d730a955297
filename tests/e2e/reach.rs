//! An app that is healthy beside the sidecar while its registered address accepts no connection: it listens on one address, and
//! another one is registered.

use std::net::{IpAddr, SocketAddr};

use outrigger_net::reserve_addr;
use outrigger_tests::{
    consul::{self, Consul},
    instance::{Answer, Instance, Kill},
    process::{Process, run_outrigger},
    registry::ConsulAgent,
    wait,
};
use serde_json::Value;

use crate::registered::{dev_registry, item_with, settings};

async fn app_at(addr: SocketAddr) -> Instance {
    Instance::start_on(addr, "app", |_| Answer::ok("hello")).await
}

/// The app at `ip` on a port that is free at 127.0.0.1, and so, very likely, at the addresses beside it.
async fn app_on(ip: impl Into<IpAddr>) -> Instance {
    app_at(SocketAddr::new(ip.into(), reserve_addr().port())).await
}

/// `/readyz`.
async fn readiness(process: &Process) -> Value {
    process.admin_json("/readyz").await
}

/// Waits until `/readyz` says so of the registered address of the service with this number.
async fn wait_reach(process: &Process, number: usize, expected: &str) {
    wait::until(
        &format!("the registered address of service {number}: {expected}"),
        wait::TIMEOUT,
        async || {
            let page = readiness(process).await;
            page["registrations"][number]["reach"].as_str().is_some_and(|reach| reach.contains(expected))
        },
    )
    .await;
}

/// Waits until the output of the check of `orders` at the agent contains `expected`, or not.
async fn wait_output(agent: ConsulAgent, expected: &str, is_there: bool) {
    wait::until(&format!("the output of the check: {expected}, {is_there}"), wait::TIMEOUT, async || {
        let checks = agent.get("/v1/agent/checks").await;
        let output = checks["service:orders-1"]["Output"].as_str().unwrap_or_default();
        output.starts_with("outrigger: reported by the sidecar") && output.contains(expected) == is_there
    })
    .await;
}

/// The lines of the log with a message that contains `message`.
fn logged(process: &Process, message: &str) -> Vec<Value> {
    let is_wanted = |line: &Value| line["message"].as_str().is_some_and(|text| text.contains(message));
    process.log_lines().into_iter().filter(is_wanted).collect()
}

#[tokio::test]
async fn a_registered_address_that_refuses_is_a_warning_until_the_app_listens_there() {
    let (_registry, agent) = dev_registry().await;
    let app = app_on([127, 0, 0, 1]).await;
    let registered = SocketAddr::from(([127, 0, 0, 2], app.addr().port()));
    let metrics = "admin: {listen: 127.0.0.1:0, metrics_listen: 127.0.0.1:0}\n";
    let text = settings(agent, &[item_with("orders", &app, "address: 127.0.0.2", "")]) + metrics;
    let process = Process::run(&text).await;
    process.wait_ready().await;
    let refuses = format!("the registered address {registered} refuses connections from here");
    wait_reach(&process, 0, &refuses).await;
    agent.wait_health("orders", &[("orders-1", "passing")]).await;
    wait_output(agent, &refuses, true).await;
    assert_eq!(process.metric("outrigger_app_unreachable{service=\"orders\"}").await, 1.0);
    let warnings = logged(&process, &refuses);
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert_eq!((&warnings[0]["level"], &warnings[0]["service"]), (&"WARN".into(), &"orders".into()));
    assert!(warnings[0]["app"].as_str().unwrap().contains(&app.addr().to_string()), "{warnings:?}");
    let started = logged(&process, "the app is registered once it is healthy");
    assert_eq!(started[0]["reach"], format!("warn at {registered}"));
    // The network is not told the address.
    let seen = logged(&process, "metrics and health for the network");
    let network: SocketAddr = seen[0]["addr"].as_str().unwrap().parse().unwrap();
    let page = outrigger_tests::client::get(network, &network.to_string(), "/readyz").await.text();
    assert!(page.contains("\"reach\"") && !page.contains("127.0.0.2"), "{page}");

    let there = app_at(registered).await;
    wait_reach(&process, 0, "reached").await;
    wait_output(agent, "the registered address", false).await;
    assert_eq!(process.metric("outrigger_app_unreachable{service=\"orders\"}").await, 0.0);
    assert_eq!(logged(&process, "accepts connections from here again").len(), 1);
    assert_eq!(process.metric("outrigger_registrations_total{service=\"orders\"}").await, 1.0);
    assert!(there.accepted() > 0);
}

async fn assert_required(agent: ConsulAgent) {
    let app = app_on([127, 0, 0, 1]).await;
    let registered = SocketAddr::from(([127, 0, 0, 2], app.addr().port()));
    let with = |health: &str| settings(agent, &[item_with("orders", &app, "address: 127.0.0.2", health)]);
    let mut process = Process::run(&with("reach: require")).await;
    let refuses = format!("the registered address {registered} refuses connections from here");
    wait::until("it is why the sidecar is not ready", wait::TIMEOUT, async || {
        let page = readiness(&process).await;
        page["ready"] == false && page["missing"][0].as_str().is_some_and(|text| text.starts_with(&refuses))
    })
    .await;
    assert_eq!(agent.health("orders").await, [], "it is not registered before it is reached");

    // Mended, broken and mended again, while it runs.
    let there = app_at(registered).await;
    process.wait_ready().await;
    agent.wait_health("orders", &[("orders-1", "passing")]).await;
    there.kill(Kill::Reset).await;
    agent.wait_health("orders", &[("orders-1", "critical")]).await;
    wait_output(agent, &refuses, true).await;
    there.listen_again().await;
    agent.wait_health("orders", &[("orders-1", "passing")]).await;
    wait_output(agent, &refuses, false).await;

    // Other settings, while it is broken.
    there.kill(Kill::Reset).await;
    agent.wait_health("orders", &[("orders-1", "critical")]).await;
    for (health, status, is_said) in [
        ("reach: warn", "passing", true),
        ("reach: require", "critical", true),
        ("reach: off", "passing", false),
    ] {
        process.write_settings(&with(health));
        assert_eq!(process.admin_post("/reload").await.status, 200);
        agent.wait_health("orders", &[("orders-1", status)]).await;
        wait_output(agent, &refuses, is_said).await;
        assert_eq!(readiness(&process).await["registrations"][0].get("reach").is_some(), is_said, "{health}");
    }
    process.signal("TERM");
    assert!(process.wait_exit(wait::TIMEOUT).await.success(), "{}", process.log());
}

#[tokio::test]
async fn an_app_that_requires_its_registered_address_is_passing_only_while_that_accepts() {
    let (_registry, agent) = dev_registry().await;
    assert_required(agent).await;
}

#[tokio::test]
async fn an_app_that_requires_its_registered_address_is_passing_at_a_real_agent_only_while_that_accepts() {
    if !consul::available("a registered address that is required, at a real agent") {
        return;
    }
    let consul = Consul::dev().await.expect("an agent");
    assert_required(ConsulAgent(consul.http_addr())).await;
}

#[tokio::test]
async fn each_of_several_services_has_its_own_registered_address() {
    let (_registry, agent) = dev_registry().await;
    let (api, admin, inner) =
        (app_on([127, 0, 0, 1]).await, app_on([127, 0, 0, 1]).await, app_on([127, 0, 0, 1]).await);
    let items = [
        item_with("orders", &api, "address: 127.0.0.1", "reach: require"),
        item_with("orders-admin", &admin, "address: 127.0.0.2", "reach: require"),
        item_with("orders-inner", &inner, "tags: [inner]", ""),
    ];
    let process = Process::run(&settings(agent, &items)).await;
    agent.wait_health("orders", &[("orders-1", "passing")]).await;
    agent.wait_health("orders-inner", &[("orders-inner-1", "passing")]).await;
    let registered = SocketAddr::from(([127, 0, 0, 2], admin.addr().port()));
    let refuses = format!("orders-admin: the registered address {registered} refuses connections from here");
    wait::until("the second one is missing", wait::TIMEOUT, async || {
        let page = readiness(&process).await;
        let missing = page["missing"].as_array().unwrap();
        missing.len() == 1 && missing[0].as_str().unwrap().starts_with(&refuses)
    })
    .await;
    wait_reach(&process, 0, "reached").await;
    // The agent's address, which is registered, is not known to the sidecar.
    wait_reach(&process, 2, "not tested: service.address is not set").await;
    let started = logged(&process, "the app is registered once it is healthy");
    assert!(started[2]["reach"].as_str().unwrap().starts_with("not tested"), "{started:?}");
    for (service, expected) in [("orders", 0.0), ("orders-admin", 1.0), ("orders-inner", 0.0)] {
        let series = format!("outrigger_app_unreachable{{service=\"{service}\"}}");
        assert_eq!(process.metric(&series).await, expected, "{series}");
    }
    let _there = app_at(registered).await;
    process.wait_ready().await;
    agent.wait_health("orders-admin", &[("orders-admin-1", "passing")]).await;
}

#[tokio::test]
async fn an_app_on_the_other_loopback_address_alone_is_not_reached() {
    if !outrigger_net::has_address(IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1])) {
        return;
    }
    let (v4, v6) = (IpAddr::from([127, 0, 0, 1]), IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1]));
    for (listens, registered) in [(v6, v4), (v4, v6)] {
        let (_registry, agent) = dev_registry().await;
        let app = app_on(listens).await;
        let address = format!("address: \"{registered}\"");
        let process = Process::run(&settings(agent, &[item_with("orders", &app, &address, "")])).await;
        process.wait_ready().await;
        let registered = SocketAddr::new(registered, app.addr().port());
        let refuses = format!("the registered address {registered} refuses connections from here");
        wait_reach(&process, 0, &refuses).await;
        wait_output(agent, &refuses, true).await;
    }
}

#[tokio::test]
async fn check_refuses_a_required_address_that_is_not_set() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("o.yaml");
    std::fs::write(&file, "service: {name: orders, port: 8080, health: {reach: require}}\n").unwrap();
    let said = run_outrigger(&["check", "-c", file.to_str().unwrap()]).await;
    let text =
        String::from_utf8(said.stderr.clone()).unwrap() + &String::from_utf8(said.stdout.clone()).unwrap();
    assert!(!said.status.success(), "{text}");
    assert!(
        text.contains("service.health.reach: require has no address to test; set service.address"),
        "{text}"
    );
}
