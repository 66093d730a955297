//! Rolling deploys. All that is done is what a deploy does: SIGTERM to a sidecar, a new one, the wait until
//! the registry says that it is passing.

use std::time::Duration;

use outrigger_tests::{consul::Consul, registry::Agent};
use tokio::time::Instant;

use super::{Case, Form, Need, Trouble};
use crate::{
    client::{Load, Plan},
    deployed::{Deployed, stop_all},
    fleet::Fleet,
    row::{Row, millis},
    sidecar::Caller,
};

/// One after the other is stopped, and started in its place.
pub(crate) const ROLLING: Case = Case {
    name: "deploy-three",
    promise: "rolling deploy of three, each `outrigger run -- app`, five rounds: no request of any method fails",
    needs: &[Need::Consul],
    limit: [Duration::from_secs(240), Duration::from_secs(90)],
    run: |form| Box::pin(three(form)),
};

/// A new one is started beside the only one, which is then stopped.
pub(crate) const ONE: Case = Case {
    name: "deploy-one",
    promise: "the same for a service of one: start new, stop old",
    needs: &[Need::Consul],
    limit: [Duration::from_secs(240), Duration::from_secs(90)],
    run: |form| Box::pin(one(form)),
};

async fn three(form: Form) -> Result<Row, Trouble> {
    let consul = Consul::server().await?;
    let agent = consul.http_addr();
    let mut fleet = Fleet::of("orders");
    let mut running = Vec::new();
    for _ in 0..3 {
        running.push(Deployed::start(fleet.add_ours(), "orders", agent).await);
    }
    let caller = Caller::start(agent, "orders", "").await;
    let load = Load::start(caller.addr(), Plan::mixed("orders", form.pick([400, 300])));
    load.reaches(200).await;
    let mut slowest = Duration::ZERO;
    for _ in 0..form.pick([5, 1]) {
        for at in 0..3 {
            let old = running.remove(0);
            slowest = slowest.max(stopped(old).await);
            running.push(Deployed::start(&fleet.members[at], "orders", agent).await);
        }
    }
    load.reaches(load.requests() + 200).await;
    Ok(judge(load, &caller, &fleet, running, slowest).await)
}

async fn one(form: Form) -> Result<Row, Trouble> {
    let consul = Consul::server().await?;
    let agent = consul.http_addr();
    let mut fleet = Fleet::of("orders");
    let mut only = Deployed::start(fleet.add_ours(), "orders", agent).await;
    let caller = Caller::start(agent, "orders", "").await;
    let load = Load::start(caller.addr(), Plan::mixed("orders", form.pick([400, 300])));
    load.reaches(200).await;
    let mut slowest = Duration::ZERO;
    for _ in 0..form.pick([5, 2]) {
        let new = Deployed::start(fleet.add_ours(), "orders", agent).await;
        slowest = slowest.max(stopped(std::mem::replace(&mut only, new)).await);
        Agent(agent).shows("orders", &[(&only.id, "passing")]).await;
    }
    load.reaches(load.requests() + 200).await;
    Ok(judge(load, &caller, &fleet, vec![only], slowest).await)
}

/// How long it took to leave.
async fn stopped(old: Deployed) -> Duration {
    let from = Instant::now();
    old.stop().await;
    from.elapsed()
}

async fn judge(load: Load, caller: &Caller, fleet: &Fleet, running: Vec<Deployed>, slowest: Duration) -> Row {
    let tally = load.stop().await;
    stop_all(running).await;
    let mut row = Row::of(&tally, caller.retried().await);
    row.promise(tally.failed().requests() == 0, || format!("{} failed", tally.failed_by_class()));
    row.note(format!("the slowest left in {}", millis(slowest)));
    fleet.audit(&tally, &mut row);
    row
}
