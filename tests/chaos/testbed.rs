//! The setup of most cases: a real Consul, a service of three instances, and the sidecar of an app that
//! calls it.

use std::time::Duration;

use outrigger_tests::{consul::Consul, load::RequestResults, registry::ConsulAgent, wait};

use crate::{caller::CallerSidecar, case::SetupError, case_report::CaseReport, fleet::Fleet};

/// The service's name.
pub(crate) const SERVICE: &str = "orders";

/// The parts, which end in this order when it is dropped.
#[derive(Debug)]
pub(crate) struct Testbed {
    /// The sidecar under test.
    pub(crate) caller: CallerSidecar,
    /// The service's instances.
    pub(crate) fleet: Fleet,
    /// The registry, spoken to by HTTP.
    pub(crate) agent: ConsulAgent,
    _consul: Consul,
}

impl Testbed {
    /// Three of our own servers; the sidecar has the defaults and `settings` (YAML).
    pub(crate) async fn with_three(settings: &str) -> Result<Self, SetupError> {
        let consul = Consul::server().await?;
        let fleet = Fleet::start_three(SERVICE, ConsulAgent(consul.http_addr())).await;
        Ok(Self::start_caller(consul, fleet, settings).await)
    }

    /// With this fleet, which is not started yet.
    pub(crate) async fn with_fleet(mut fleet: Fleet, settings: &str) -> Result<Self, SetupError> {
        let consul = Consul::server().await?;
        for member in &mut fleet.members {
            member.start().await;
        }
        fleet.register(ConsulAgent(consul.http_addr())).await;
        Ok(Self::start_caller(consul, fleet, settings).await)
    }

    async fn start_caller(consul: Consul, fleet: Fleet, settings: &str) -> Self {
        let agent = ConsulAgent(consul.http_addr());
        let caller = CallerSidecar::start(consul.http_addr(), SERVICE, settings).await;
        Self { caller, fleet, agent, _consul: consul }
    }

    /// Waits until every instance is passing in the registry and trusted by the sidecar.
    pub(crate) async fn wait_all_trusted(&self) {
        self.fleet.wait_passing(self.agent).await;
        self.wait_trusted(self.fleet.members.len(), wait::TIMEOUT).await;
    }

    /// Waits until the sidecar trusts this many.
    pub(crate) async fn wait_trusted(&self, count: usize, bound: Duration) {
        wait::until(&format!("{count} instances are trusted"), bound, async || {
            let metrics = self.caller.metrics().await;
            metrics.sum("outrigger_instances_trust", &[("trust", "trusted")]) == count as f64
        })
        .await;
    }

    /// Ejections so far.
    pub(crate) async fn ejections(&self) -> f64 {
        let metrics = self.caller.metrics().await;
        let kind = |kind| metrics.sum("outrigger_ejections_total", &[("kind", kind)]);
        kind("hard") + kind("soft")
    }

    /// The report of a load that has ended, with the checks of every case.
    pub(crate) async fn report(&self, tally: &RequestResults) -> CaseReport {
        let mut row = CaseReport::from_load(tally, self.caller.retried().await);
        self.fleet.check_posts(tally, &mut row);
        row
    }
}
