//! Rolling deploys. All that is done is what a deploy does: SIGTERM to a sidecar, a new one, the wait until
//! the registry says that it is passing.

use std::time::Duration;

use outrigger_tests::{consul::Consul, registry::ConsulAgent};
use tokio::time::Instant;

use super::{Case, Requirement, RunLength, SetupError};
use crate::{
    caller::CallerSidecar,
    case_report::{CaseReport, format_millis},
    deployed::{DeployedInstance, stop_all},
    fleet::Fleet,
    load::{RateLoad, RatePlan},
};

/// One after the other is stopped, and started in its place.
pub(crate) const ROLLING: Case = Case {
    name: "deploy-three",
    promise: "rolling deploy of three, each `outrigger run -- app`, five rounds: no request of any method fails",
    needs: &[Requirement::Consul],
    limit: [Duration::from_secs(240), Duration::from_secs(90)],
    run: |form| Box::pin(three(form)),
};

/// A new one is started beside the only one, which is then stopped.
pub(crate) const ONE: Case = Case {
    name: "deploy-one",
    promise: "the same for a service of one: start new, stop old",
    needs: &[Requirement::Consul],
    limit: [Duration::from_secs(240), Duration::from_secs(90)],
    run: |form| Box::pin(one(form)),
};

async fn three(form: RunLength) -> Result<CaseReport, SetupError> {
    let consul = Consul::server().await?;
    let agent = consul.http_addr();
    let mut fleet = Fleet::new("orders");
    let mut running = Vec::new();
    for _ in 0..3 {
        running.push(DeployedInstance::start(fleet.add_own_server(), "orders", agent).await);
    }
    let caller = CallerSidecar::start(agent, "orders", "").await;
    let load = RateLoad::start(caller.addr(), RatePlan::mixed("orders", form.pick([400, 300])));
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

async fn one(form: RunLength) -> Result<CaseReport, SetupError> {
    let consul = Consul::server().await?;
    let agent = consul.http_addr();
    let mut fleet = Fleet::new("orders");
    let mut only = DeployedInstance::start(fleet.add_own_server(), "orders", agent).await;
    let caller = CallerSidecar::start(agent, "orders", "").await;
    let load = RateLoad::start(caller.addr(), RatePlan::mixed("orders", form.pick([400, 300])));
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

/// How long it took to leave.
async fn stop_and_time(old: DeployedInstance) -> Duration {
    let from = Instant::now();
    old.stop().await;
    from.elapsed()
}

async fn report(
    load: RateLoad,
    caller: &CallerSidecar,
    fleet: &Fleet,
    running: Vec<DeployedInstance>,
    slowest: Duration,
) -> CaseReport {
    let tally = load.stop().await;
    stop_all(running).await;
    let mut row = CaseReport::from_load(&tally, caller.retried().await);
    row.require(tally.failures().requests() == 0, || format!("{} failed", tally.describe_failures()));
    row.note(format!("the slowest left in {}", format_millis(slowest)));
    fleet.check_posts(&tally, &mut row);
    row
}
