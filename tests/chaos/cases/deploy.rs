//! Rolling deploys, with the steps of a real deploy only: SIGTERM to a sidecar, a new sidecar, the wait until
//! the registry lists it as passing.

use std::time::Duration;

use outrigger_tests::{
    consul::Consul,
    load::{Load, LoadPlan},
    registry::ConsulAgent,
};
use tokio::time::Instant;

use crate::{
    caller::CallerSidecar,
    case::{CaseResult, RunLength},
    case_report::{CaseReport, format_millis},
    deployed::{DeployedInstance, stop_all},
    fleet::Fleet,
};

pub(super) async fn three(form: RunLength) -> CaseResult {
    let consul = Consul::server().await?;
    let agent = consul.http_addr();
    let mut fleet = Fleet::new("orders");
    let mut running = Vec::new();
    for _ in 0..3 {
        running.push(DeployedInstance::start(fleet.add_own_server(), "orders", agent).await);
    }
    let caller = CallerSidecar::start(agent, "orders", "").await;
    let load = Load::start(caller.addr(), LoadPlan::mixed("orders", form.pick([400, 300])));
    load.wait_requests(200).await;
    let mut slowest = Duration::ZERO;
    for _ in 0..form.pick([5, 1]) {
        for at in 0..3 {
            let old = running.remove(0);
            slowest = slowest.max(stop_and_time(old).await);
            running.push(DeployedInstance::start(&fleet.members[at], "orders", agent).await);
        }
    }
    load.wait_requests(load.requests() + 200).await;
    Ok(report(load, &caller, &fleet, running, slowest).await)
}

pub(super) async fn one(form: RunLength) -> CaseResult {
    let consul = Consul::server().await?;
    let agent = consul.http_addr();
    let mut fleet = Fleet::new("orders");
    let mut only = DeployedInstance::start(fleet.add_own_server(), "orders", agent).await;
    let caller = CallerSidecar::start(agent, "orders", "").await;
    let load = Load::start(caller.addr(), LoadPlan::mixed("orders", form.pick([400, 300])));
    load.wait_requests(200).await;
    let mut slowest = Duration::ZERO;
    for _ in 0..form.pick([5, 2]) {
        let new = DeployedInstance::start(fleet.add_own_server(), "orders", agent).await;
        slowest = slowest.max(stop_and_time(std::mem::replace(&mut only, new)).await);
        ConsulAgent(agent).wait_health("orders", &[(&only.id, "passing")]).await;
    }
    load.wait_requests(load.requests() + 200).await;
    Ok(report(load, &caller, &fleet, vec![only], slowest).await)
}

/// Stops the instance and returns how long that took.
async fn stop_and_time(old: DeployedInstance) -> Duration {
    let from = Instant::now();
    old.stop().await;
    from.elapsed()
}

async fn report(
    load: Load,
    caller: &CallerSidecar,
    fleet: &Fleet,
    running: Vec<DeployedInstance>,
    slowest: Duration,
) -> CaseReport {
    let tally = load.stop().await;
    stop_all(running).await;
    let mut row = CaseReport::from_load(&tally, caller.retried().await);
    row.require(tally.failures().requests() == 0, || format!("{} failed", tally.describe_failures()));
    row.note(format!("the slowest stopped within {}", format_millis(slowest)));
    fleet.check_posts(&tally, &mut row);
    row
}
