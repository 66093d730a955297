//! Several services beside one sidecar: an app with an API port and an admin port is one process with two registrations, each with
//! its own health and maintenance.

use outrigger_tests::{
    consul::{self, Consul},
    instance::{Answer, Instance},
    process::{self, Process},
    registry::ConsulAgent,
    wait,
};
use serde_json::{Value, json};

use crate::registered::{dev_registry, item, settings};

async fn assert_each_has_its_own_life(agent: ConsulAgent) {
    let (orders, admin) = (Instance::start("orders").await, Instance::start("admin").await);
    let both = [item("orders", &orders), item("orders-admin", &admin)];
    admin.set_script(|_| Answer::status(503, "no"));
    let mut process = Process::run(&settings(agent, &both)).await;

    // One that is not healthy keeps the sidecar from being ready, and the other from nothing.
    agent.wait_health("orders", &[("orders-1", "passing")]).await;
    wait::until("only the other one is missing", wait::TIMEOUT, async || {
        let unready = process.admin_json("/readyz").await;
        assert_eq!(unready["ready"], false, "{unready}");
        let missing = unready["missing"].as_array().unwrap();
        missing.len() == 1 && missing[0].as_str().unwrap().starts_with("orders-admin: the local app is not")
    })
    .await;
    admin.set_script(|_| Answer::ok("healthy"));
    process.wait_ready().await;
    agent.wait_health("orders-admin", &[("orders-admin-1", "passing")]).await;
    let ready = process.admin_json("/readyz").await;
    let names: Vec<_> =
        ready["registrations"].as_array().unwrap().iter().map(|one| &one["service"]).collect();
    assert_eq!(names, ["orders", "orders-admin"]);

    // One turns critical alone.
    admin.set_script(|_| Answer::status(503, "no"));
    agent.wait_health("orders-admin", &[("orders-admin-1", "critical")]).await;
    assert_eq!(agent.health("orders").await, [("orders-1".to_owned(), "passing".to_owned())]);
    assert_eq!(
        process.metric("outrigger_app_health{health=\"critical\",service=\"orders-admin\"}").await,
        1.0
    );
    assert_eq!(process.metric("outrigger_app_health{health=\"passing\",service=\"orders\"}").await, 1.0);
    admin.set_script(|_| Answer::ok("healthy"));
    agent.wait_health("orders-admin", &[("orders-admin-1", "passing")]).await;

    // Maintenance of one, by the command.
    let at = process.admin().to_string();
    let said = process::run_outrigger(&[
        "maintenance",
        "on",
        "--service",
        "orders-admin",
        "--reason",
        "disk",
        "--admin",
        &at,
    ])
    .await;
    assert!(said.status.success(), "{said:?}");
    let lines = String::from_utf8(said.stdout).unwrap();
    assert_eq!(
        lines,
        "orders: not in maintenance (registration: registered)\n\
         orders-admin: in maintenance: disk (registration: registered)\n"
    );
    agent.wait_health("orders-admin", &[("orders-admin-1", "critical")]).await;
    assert_eq!(agent.health("orders").await, [("orders-1".to_owned(), "passing".to_owned())]);
    assert_eq!(process.admin_post("/maintenance?enable=true&service=nothing").await.status, 404);
    assert_eq!(process.admin_post("/maintenance?enable=false&service=orders-admin-1").await.status, 200);
    agent.wait_health("orders-admin", &[("orders-admin-1", "passing")]).await;

    // Both leave.
    let drained = process::run_outrigger(&["drain", "--wait", "--admin", &at]).await;
    assert!(drained.status.success(), "{drained:?}");
    for service in ["orders", "orders-admin"] {
        agent.wait_health(service, &[]).await;
    }
    let states: Vec<_> = process.admin_json("/drain").await["registrations"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| (one["service"].clone(), one["state"].clone()))
        .collect();
    assert_eq!(states, [(json!("orders"), json!("left")), (json!("orders-admin"), json!("left"))]);
    process.signal("TERM");
    assert!(process.wait_exit(wait::TIMEOUT).await.success(), "{}", process.log());
}

#[tokio::test]
async fn each_of_two_services_has_its_own_health_and_maintenance_and_both_drain() {
    let (_registry, agent) = dev_registry().await;
    assert_each_has_its_own_life(agent).await;
}

#[tokio::test]
async fn each_of_two_services_has_its_own_health_and_maintenance_at_a_real_agent_too() {
    if !consul::available("two services beside one sidecar at a real agent") {
        return;
    }
    let consul = Consul::dev().await.expect("an agent");
    assert_each_has_its_own_life(ConsulAgent(consul.http_addr())).await;
}

#[tokio::test]
async fn a_reload_adds_and_removes_a_service_and_leaves_the_other() {
    let (_registry, agent) = dev_registry().await;
    let (orders, admin) = (Instance::start("orders").await, Instance::start("admin").await);
    let both = [item("orders", &orders), item("orders-admin", &admin)];
    let process = Process::run(&settings(agent, &both[..1])).await;
    process.wait_ready().await;
    let reload = async |items: &[String]| {
        process.write_settings(&settings(agent, items));
        let answer = process.admin_post("/reload").await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        serde_json::from_str::<Value>(&answer.text()).unwrap()
    };
    let index = async || agent.service_index("orders").await;
    let before = index().await;
    let added = reload(&both).await;
    let changed = added["changed"].as_array().unwrap();
    assert!(changed.contains(&json!("services.orders-admin-1.name: (not set) → orders-admin")), "{added}");
    agent.wait_health("orders-admin", &[("orders-admin-1", "passing")]).await;
    // In another place of the list.
    assert_eq!(reload(&[both[1].clone(), both[0].clone()]).await["changed"], json!([]));
    reload(&both[..1]).await;
    agent.wait_health("orders-admin", &[]).await;
    assert_eq!(index().await, before, "the other service was not touched");
    assert_eq!(process.metric("outrigger_registrations_total{service=\"orders\"}").await, 1.0);
    assert_eq!(process.admin_get("/readyz").await.status, 200);
}
