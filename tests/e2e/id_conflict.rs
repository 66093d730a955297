//! Two processes that register one id, as a copied unit file makes them.

use std::{path::Path, time::Duration};

use outrigger_tests::{
    consul::{self, Consul},
    instance::Instance,
    process::Process,
    registry::ConsulAgent,
    wait,
};
use serde_json::Value;
use tokio::time::sleep;

use crate::registered::{dev_registry, item, settings};

/// Longest wait for a process to recognise the conflict, or to take the id over from one that has left.
const ROUNDS: Duration = Duration::from_secs(20);

/// Longest wait for a process to take the id over from one that was killed: the TTL of 30 s, and a question.
const TTL_AND_A_ROUND: Duration = Duration::from_secs(45);

/// A sidecar of these services. `state`: its `state_dir`, else it has one of its own.
async fn start_with(agent: ConsulAgent, services: &[String], state: Option<&Path>) -> Process {
    let state = state.map_or(String::new(), |folder| format!("state_dir: {}\n", folder.display()));
    Process::run(&(settings(agent, services) + &state)).await
}

async fn start(agent: ConsulAgent, app: &Instance) -> Process {
    start_with(agent, &[item("orders", app)], None).await
}

async fn registration(process: &Process, service: &str) -> Value {
    let page = process.admin_json("/readyz").await;
    let all = page["registrations"].as_array().unwrap();
    all.iter().find(|one| one["service"] == service).cloned().unwrap_or_default()
}

/// Waits until the agent has the registration of this app, and its check passes.
async fn wait_registered(agent: ConsulAgent, app: &Instance, within: Duration) {
    wait::until("the app is registered and passing", within, async || {
        agent.get("/v1/health/service/orders").await[0]["Service"]["Port"] == app.addr().port()
            && agent.health("orders").await == [("orders-1".to_owned(), "passing".to_owned())]
    })
    .await;
}

/// Waits until the process is in this state, and says that another process registers the id for that app.
async fn wait_conflict(process: &Process, state: &str, other: &Instance) {
    let text = format!("another process registers id orders-1 for address {}; ", other.addr());
    wait::until(&format!("{state}: {text}"), ROUNDS, async || {
        let registration = registration(process, "orders").await;
        registration["state"] == state
            && registration["conflict"].as_str().is_some_and(|conflict| conflict.starts_with(&text))
    })
    .await;
    let metrics = process.admin_get("/metrics").await.text();
    assert!(metrics.contains("\noutrigger_registration_conflict{service=\"orders\"} 1\n"), "{metrics}");
    wait::until_true("the log says so", || process.log().contains(&text)).await;
}

async fn terminate(mut process: Process) {
    process.signal("TERM");
    assert_eq!(process.wait_exit(ROUNDS).await.code(), Some(0), "{}", process.log());
}

async fn check_conflict(agent: ConsulAgent) {
    let apps = [Instance::start("first").await, Instance::start("later").await];
    let first = start(agent, &apps[0]).await;
    wait_registered(agent, &apps[0], ROUNDS).await;
    let later = start(agent, &apps[1]).await;
    wait_conflict(&first, "registered", &apps[1]).await;
    wait_conflict(&later, "conflict", &apps[0]).await;
    wait_registered(agent, &apps[0], ROUNDS).await;

    // Neither of them writes any more.
    let held = agent.get("/v1/agent/service/orders-1").await;
    let before = [registrations(&first).await, registrations(&later).await];
    sleep(Duration::from_secs(5)).await;
    assert_eq!(agent.get("/v1/agent/service/orders-1").await, held);
    assert_eq!([registrations(&first).await, registrations(&later).await], before);

    terminate(first).await;
    wait_registered(agent, &apps[1], ROUNDS).await;
    wait::until("the conflict is over", ROUNDS, async || {
        registration(&later, "orders").await["conflict"].is_null()
    })
    .await;

    // The first one comes back as the later one, and leaves without taking the other's registration with it.
    let back = start(agent, &apps[0]).await;
    wait_conflict(&back, "conflict", &apps[1]).await;
    wait_registered(agent, &apps[1], ROUNDS).await;
    terminate(back).await;
    wait_registered(agent, &apps[1], Duration::from_secs(1)).await;

    let back = start(agent, &apps[0]).await;
    wait_conflict(&back, "conflict", &apps[1]).await;
    let mut killed = later;
    killed.signal("KILL");
    killed.wait_exit(wait::TIMEOUT).await;
    wait_registered(agent, &apps[0], TTL_AND_A_ROUND).await;
    terminate(back).await;
    agent.wait_health("orders", &[]).await;
}

async fn registrations(process: &Process) -> f64 {
    process.metric("outrigger_registrations_total{service=\"orders\"}").await
}

/// A restart and a replacement of the first process leave it the first one.
async fn check_first_stays_first(agent: ConsulAgent) {
    let apps = [Instance::start("first").await, Instance::start("later").await];
    let folders = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let run = async |n: usize| start_with(agent, &[item("orders", &apps[n])], Some(folders[n].path())).await;
    let mut first = run(0).await;
    wait_registered(agent, &apps[0], ROUNDS).await;
    let later = run(1).await;
    wait_conflict(&later, "conflict", &apps[0]).await;
    wait_registered(agent, &apps[0], ROUNDS).await;

    let before = registrations(&later).await;
    let next = first.replace().await;
    assert_eq!(first.wait_exit(ROUNDS).await.code(), Some(0), "{}", first.log());
    next.wait_ready().await;
    wait_registered(agent, &apps[0], ROUNDS).await;
    sleep(Duration::from_secs(5)).await;
    wait_conflict(&later, "conflict", &apps[0]).await;
    assert_eq!(registrations(&later).await, before, "it does not step in between");
    assert_eq!(registrations(&next).await, 1.0);

    terminate(next).await;
    wait_registered(agent, &apps[1], ROUNDS).await;
    let back = run(0).await;
    wait_conflict(&back, "registered", &apps[1]).await;
    wait_conflict(&later, "conflict", &apps[0]).await;
    wait_registered(agent, &apps[0], ROUNDS).await;
    terminate(later).await;
    wait_registered(agent, &apps[0], Duration::from_secs(1)).await;
    terminate(back).await;
    agent.wait_health("orders", &[]).await;
}

/// Of two services beside one sidecar, one has an id that another process registers.
async fn check_each_service(agent: ConsulAgent) {
    let apps = [Instance::start("first").await, Instance::start("later").await];
    let admin = Instance::start("admin").await;
    let first = start(agent, &apps[0]).await;
    wait_registered(agent, &apps[0], ROUNDS).await;
    let later = start_with(agent, &[item("orders", &apps[1]), item("admin", &admin)], None).await;
    wait_conflict(&later, "conflict", &apps[0]).await;
    agent.wait_health("admin", &[("admin-1", "passing")]).await;
    let other = registration(&later, "admin").await;
    assert_eq!((&other["state"], &other["conflict"]), (&"registered".into(), &Value::Null), "{other}");
    assert_eq!(later.metric("outrigger_registration_conflict{service=\"admin\"}").await, 0.0);

    terminate(later).await;
    agent.wait_health("admin", &[]).await;
    wait_registered(agent, &apps[0], Duration::from_secs(1)).await;
    terminate(first).await;
    agent.wait_health("orders", &[]).await;
}

#[tokio::test]
async fn of_two_processes_with_one_id_the_later_one_stops_and_takes_over_when_the_other_is_gone() {
    let (_registry, agent) = dev_registry().await;
    check_conflict(agent).await;
}

#[tokio::test]
async fn by_consul_too_the_later_one_of_two_processes_with_one_id_stops() {
    if !consul::available("by Consul too, the later one of two processes with one id stops") {
        return;
    }
    let consul = Consul::dev().await.expect("an agent");
    check_conflict(ConsulAgent(consul.http_addr())).await;
}

#[tokio::test]
async fn the_first_of_two_processes_with_one_id_stays_the_first_over_a_restart_and_a_replacement() {
    let (_registry, agent) = dev_registry().await;
    check_first_stays_first(agent).await;
}

#[tokio::test]
async fn by_consul_too_the_first_of_two_processes_with_one_id_stays_the_first() {
    if !consul::available("by Consul too, the first of two processes with one id stays the first") {
        return;
    }
    let consul = Consul::dev().await.expect("an agent");
    check_first_stays_first(ConsulAgent(consul.http_addr())).await;
}

#[tokio::test]
async fn an_id_conflict_is_that_of_one_service() {
    let (_registry, agent) = dev_registry().await;
    check_each_service(agent).await;
}
