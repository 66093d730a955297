//! A registry as it is deployed: three servers, and an agent that is none, which everybody here asks; behind
//! it instances that are registered by sidecars of their own, and a caller.

use std::time::Duration;

use outrigger_tests::{
    consul::{Cluster, Consul, http},
    process::Process,
    registry::Agent,
    wait,
};
use tokio::time::Instant;

use crate::{
    cases::Trouble,
    client::{Load, Tally},
    deployed::{Deployed, stop_all},
    fleet::Fleet,
    row::Row,
    sidecar::Caller,
};

/// Everybody is registered and passing before this, once the registry is back.
pub(crate) const AGAIN: Duration = Duration::from_secs(10);
/// Whatever the registry says of a loss is believed by then: the hold is 10 s.
const BELIEVED: Duration = Duration::from_secs(12);
/// Longest wait until a table is confirmed again: the longest pause of a watch is 30 s.
const CONFIRMED: Duration = Duration::from_secs(60);

/// A cluster with an agent, three instances under sidecars, a caller with load.
pub(crate) struct Site {
    running: Vec<Deployed>,
    pub(crate) caller: Caller,
    fleet: Fleet,
    pub(crate) agent: Consul,
    pub(crate) cluster: Cluster,
}

impl Site {
    /// With everybody passing.
    pub(crate) async fn new() -> Result<Self, Trouble> {
        let cluster = Cluster::three().await?;
        let agent = cluster.agent().await?;
        let mut fleet = Fleet::of("orders");
        let mut running = Vec::new();
        for _ in 0..3 {
            running.push(Deployed::start(fleet.add_ours(), "orders", agent.http_addr()).await);
        }
        let caller = Caller::start(agent.http_addr(), "orders", "").await;
        Ok(Self { running, caller, fleet, agent, cluster })
    }

    /// Whether everybody is registered at the agent, and the servers list everybody as passing.
    pub(crate) async fn passing(&self) -> bool {
        let at_agent = http::get(self.agent.http_addr(), "/v1/agent/services").await;
        let at_agent = at_agent.map(|answer| String::from_utf8_lossy(answer.body()).into_owned());
        let known =
            |one: &Deployed| at_agent.as_ref().is_ok_and(|all| all.contains(&format!("{:?}", one.id)));
        self.running.iter().all(known) && self.listed().await
    }

    /// Whether the servers do.
    pub(crate) async fn listed(&self) -> bool {
        let health = Agent(self.agent.http_addr()).health("orders").await;
        self.running.iter().all(|one| health.contains(&(one.id.clone(), "passing".to_owned())))
    }

    /// Waits until `again` holds, for three times [`AGAIN`] at most, and then for as long as whatever is believed
    /// late takes to be believed. How long the first took `since`, and the fewest that the caller could choose
    /// from meanwhile.
    pub(crate) async fn watched(
        &self,
        load: &Load,
        since: Instant,
        again: impl AsyncFn(&Self) -> bool,
    ) -> (Duration, usize) {
        let mut fewest = usize::MAX;
        while !again(self).await && since.elapsed() < AGAIN * 3 {
            fewest = fewest.min(usable(&self.caller.process).await);
            load.goes_on(Duration::from_millis(20)).await;
        }
        let took = since.elapsed();
        let late = load.elapsed() + BELIEVED;
        while load.elapsed() < late {
            fewest = fewest.min(usable(&self.caller.process).await);
            load.goes_on(Duration::from_millis(100)).await;
        }
        (took, fewest)
    }

    /// Says on stderr what everybody logged: for a promise that is broken.
    pub(crate) fn tell(&self) {
        eprintln!("the caller:\n{}", self.caller.process.log());
        for one in &self.running {
            eprintln!("{}:\n{}", one.id, one.process.log());
        }
    }

    /// How often the registry took a registration of theirs.
    pub(crate) async fn registrations(&self) -> f64 {
        let mut all = 0.0;
        for one in &self.running {
            all += one.metrics().await.sum("outrigger_registrations_total", &[]);
        }
        all
    }

    /// Stops everybody in order, and says what the client got.
    pub(crate) async fn row(self, tally: &Tally) -> Row {
        let retried = self.caller.retried().await;
        stop_all(self.running).await;
        let mut row = Row::of(tally, retried);
        row.promise(tally.failed().requests() == 0, || format!("{} failed", tally.failed_by_class()));
        self.fleet.audit(tally, &mut row);
        row
    }
}

/// How many instances a sidecar may choose from.
pub(crate) async fn usable(process: &Process) -> usize {
    let page = process.ask("/services").await.json();
    let instances = page["services"][0]["instances"].as_array().cloned().unwrap_or_default();
    instances.iter().filter(|one| one["usable"] == true).count()
}

/// Waits until the table is confirmed by the registry again.
pub(crate) async fn confirmed(process: &Process, since: Instant) {
    wait::until("the table is confirmed again", CONFIRMED, async || {
        let page = process.ask("/services").await.json();
        let heard = page["services"][0]["registry"]["heard_ago_ms"].as_u64().unwrap_or(u64::MAX);
        u128::from(heard) < since.elapsed().as_millis()
    })
    .await;
}
