//! `kill -9`: an instance dies without a word.

use std::time::Duration;

use outrigger_tests::{consul::Consul, registry::Agent};
use tokio::time::{Instant, sleep};

use super::{Case, Form, Need, Trouble};
use crate::{
    client::{Load, Plan, Tally},
    fleet::{Fleet, GLANCE},
    row::{Row, millis},
    sidecar::Caller,
};

/// One of three, again and again.
pub(crate) const ONE: Case = Case {
    name: "kill-one",
    promise: "kill -9 of one of three, ten times: no GET fails, a POST only as sent_unknown; \
              the dead one is not tried later than 100 ms after",
    needs: &[Need::Consul],
    limit: [Duration::from_secs(180), Duration::from_secs(60)],
    run: |form| Box::pin(one(form)),
};

/// Two of three.
pub(crate) const TWO: Case = Case {
    name: "kill-two",
    promise: "kill -9 of two of three at once at 1,000 requests a second: the same",
    needs: &[Need::Consul],
    limit: [Duration::from_secs(60), Duration::from_secs(40)],
    run: |form| Box::pin(two(form)),
};

/// The last attempt on a dead instance comes before this.
const LATEST: Duration = Duration::from_millis(100);
/// For this long its attempts are watched: longer than any back-off, shorter than its first new trial by
/// a request could be.
const WATCHED: Duration = Duration::from_millis(1500);

async fn one(form: Form) -> Result<Row, Trouble> {
    let consul = Consul::server().await?;
    let agent = Agent(consul.http_addr());
    let mut fleet = Fleet::three("orders", agent).await;
    let caller = Caller::start(consul.http_addr(), "orders", "").await;
    let load = Load::start(caller.addr(), Plan::mixed("orders", form.pick([400, 300])));
    load.reaches(200).await;
    let mut last = Duration::ZERO;
    for nth in 0..form.pick([10, 2]) {
        let victim = nth % 3;
        last = last.max(killed(&mut fleet, &caller, &[victim]).await);
        fleet.members[victim].start().await;
        back(&fleet, &caller, agent, &load).await;
    }
    let tally = load.stop().await;
    Ok(judge(&tally, &caller, &fleet, last).await)
}

async fn two(form: Form) -> Result<Row, Trouble> {
    let consul = Consul::server().await?;
    let agent = Agent(consul.http_addr());
    let mut fleet = Fleet::three("orders", agent).await;
    let caller = Caller::start(consul.http_addr(), "orders", "").await;
    let load = Load::start(caller.addr(), Plan::mixed("orders", 1000));
    load.reaches(form.pick([3000, 1000])).await;
    let last = killed(&mut fleet, &caller, &[0, 2]).await;
    load.reaches(form.pick([10_000, 4000])).await;
    let tally = load.stop().await;
    Ok(judge(&tally, &caller, &fleet, last).await)
}

/// Kills these at once, and says when the sidecar last picked one of them, counted from the kill.
async fn killed(fleet: &mut Fleet, caller: &Caller, victims: &[usize]) -> Duration {
    let names: Vec<String> = victims.iter().map(|at| fleet.members[*at].name.clone()).collect();
    let picks = async || -> f64 {
        let metrics = caller.metrics().await;
        names.iter().map(|name| metrics.sum("outrigger_instance_picks_total", &[("instance", name)])).sum()
    };
    for at in victims {
        fleet.members[*at].kill();
    }
    let at = Instant::now();
    let mut seen = picks().await;
    // Nothing is known of before the first look: it is counted as a pick.
    let mut last = at.elapsed();
    while at.elapsed() < WATCHED {
        sleep(GLANCE).await;
        let now = picks().await;
        // One that has left the table has no series any more: less is no pick.
        if now > seen {
            last = at.elapsed();
        }
        seen = now;
    }
    last
}

/// Waits until everybody is registered as passing and gets requests again.
async fn back(fleet: &Fleet, caller: &Caller, agent: Agent, load: &Load) {
    let all: Vec<_> = fleet.members.iter().map(|member| (member.name.as_str(), "passing")).collect();
    agent.shows(&fleet.service, &all).await;
    loop {
        let metrics = caller.metrics().await;
        if metrics.sum("outrigger_instances_trust", &[("trust", "trusted")]) >= fleet.members.len() as f64 {
            break;
        }
        sleep(GLANCE).await;
    }
    load.reaches(load.requests() + 50).await;
}

async fn judge(tally: &Tally, caller: &Caller, fleet: &Fleet, last: Duration) -> Row {
    let mut row = Row::of(tally, caller.retried().await);
    let gets = tally.method("GET").failed().requests();
    row.promise(gets == 0, || format!("{gets} GETs failed"));
    let others =
        tally.method("POST").only(|one| one.failed.as_deref().is_some_and(|why| why != "502 sent_unknown"));
    row.promise(others.requests() == 0, || format!("POSTs failed otherwise: {}", others.failed_by_class()));
    row.promise(last < LATEST, || format!("the dead one was tried {} after", millis(last)));
    row.note(format!("last attempt on a dead one {} after the kill", millis(last)));
    fleet.audit(tally, &mut row);
    row
}
