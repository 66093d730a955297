//! A registry as in production: three servers, and an agent in client mode that all sidecars query; three
//! instances, each registered by its own sidecar; and a caller.

use std::time::Duration;

use outrigger_tests::{
    consul::{Consul, ConsulCluster, http},
    load::{Load, RequestResults},
    process::Process,
    registry::ConsulAgent,
};
use tokio::time::Instant;

use crate::{
    caller::CallerSidecar,
    case::SetupError,
    case_report::CaseReport,
    deployed::{DeployedInstance, stop_all},
    fleet::Fleet,
};

/// Longest time from the return of the registry until all instances are registered and passing.
pub(crate) const RECOVERY_LIMIT: Duration = Duration::from_secs(10);
/// A loss that the registry reports is accepted after this time: the hold is 10 s.
const LOSS_ACCEPTED_AFTER: Duration = Duration::from_secs(12);

/// A cluster with an agent, three instances with sidecars, and a caller with load.
pub(crate) struct ClusterTestbed {
    running: Vec<DeployedInstance>,
    pub(crate) caller: CallerSidecar,
    fleet: Fleet,
    pub(crate) agent: Consul,
    pub(crate) cluster: ConsulCluster,
}

impl ClusterTestbed {
    /// Returns once all instances are passing.
    pub(crate) async fn start() -> Result<Self, SetupError> {
        Self::start_with("").await
    }

    /// As [`ClusterTestbed::start`]; the caller has `settings` too (lines of YAML).
    pub(crate) async fn start_with(settings: &str) -> Result<Self, SetupError> {
        let cluster = ConsulCluster::start_three().await?;
        let agent = cluster.start_agent().await?;
        let mut fleet = Fleet::new("orders");
        let mut running = Vec::new();
        for _ in 0..3 {
            running.push(DeployedInstance::start(fleet.add_own_server(), "orders", agent.http_addr()).await);
        }
        let caller = CallerSidecar::start(agent.http_addr(), "orders", settings).await;
        Ok(Self { running, caller, fleet, agent, cluster })
    }

    /// Whether all instances are registered at the agent, and the servers list them as passing.
    pub(crate) async fn all_passing(&self) -> bool {
        let at_agent = http::get(self.agent.http_addr(), "/v1/agent/services").await;
        let at_agent = at_agent.map(|answer| String::from_utf8_lossy(answer.body()).into_owned());
        let known = |one: &DeployedInstance| {
            at_agent.as_ref().is_ok_and(|all| all.contains(&format!("{:?}", one.id)))
        };
        self.running.iter().all(known) && self.all_listed().await
    }

    /// Whether the servers list all instances as passing.
    pub(crate) async fn all_listed(&self) -> bool {
        let health = ConsulAgent(self.agent.http_addr()).health("orders").await;
        self.running.iter().all(|one| health.contains(&(one.id.clone(), "passing".to_owned())))
    }

    /// Waits until `again` holds, for three times [`RECOVERY_LIMIT`] at most, and then until a loss that the
    /// registry may report late would be accepted. Returns how long the recovery took `since`, and the smallest
    /// number of instances that the caller could choose from meanwhile.
    pub(crate) async fn observe_recovery(
        &self,
        load: &Load,
        since: Instant,
        again: impl AsyncFn(&Self) -> bool,
    ) -> (Duration, usize) {
        let mut fewest = usize::MAX;
        while !again(self).await && since.elapsed() < RECOVERY_LIMIT * 3 {
            fewest = fewest.min(count_usable(&self.caller.process).await);
            load.run_for(Duration::from_millis(20)).await;
        }
        let took = since.elapsed();
        let late = load.elapsed() + LOSS_ACCEPTED_AFTER;
        while load.elapsed() < late {
            fewest = fewest.min(count_usable(&self.caller.process).await);
            load.run_for(Duration::from_millis(100)).await;
        }
        (took, fewest)
    }

    /// Prints the logs of all sidecars on stderr, for a case that fails.
    pub(crate) fn print_logs(&self) {
        eprintln!("the caller:\n{}", self.caller.process.log());
        for one in &self.running {
            eprintln!("{}:\n{}", one.id, one.process.log());
        }
    }

    /// How many registrations of the instances the registry accepted.
    pub(crate) async fn registrations(&self) -> f64 {
        let mut all = 0.0;
        for one in &self.running {
            all += one.metrics().await.sum("outrigger_registrations_total", &[]);
        }
        all
    }

    /// Stops all sidecars in order, and reports the results of the load.
    pub(crate) async fn report(self, tally: &RequestResults) -> CaseReport {
        let retried = self.caller.retried().await;
        stop_all(self.running).await;
        let mut row = CaseReport::from_load(tally, retried);
        row.require(tally.failures().requests() == 0, || format!("{} failed", tally.describe_failures()));
        self.fleet.check_posts(tally, &mut row);
        row
    }
}

/// How many instances a sidecar may choose from.
pub(crate) async fn count_usable(process: &Process) -> usize {
    let page = process.admin_get("/services").await.json();
    let instances = page["services"][0]["instances"].as_array().cloned().unwrap_or_default();
    instances.iter().filter(|one| one["usable"] == true).count()
}
