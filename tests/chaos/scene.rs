//! What most cases stand on: a real Consul, a service of three instances, and the sidecar of one that
//! calls it.

use std::time::Duration;

use outrigger_tests::{consul::Consul, registry::Agent, wait};

use crate::{cases::Trouble, client::Tally, fleet::Fleet, row::Row, sidecar::Caller};

/// The service's name.
pub(crate) const SERVICE: &str = "orders";

/// All of it. Ends when it is dropped, in this order.
#[derive(Debug)]
pub(crate) struct Scene {
    /// The sidecar under test.
    pub(crate) caller: Caller,
    /// The service's instances.
    pub(crate) fleet: Fleet,
    /// The registry, spoken to by HTTP.
    pub(crate) agent: Agent,
    _consul: Consul,
}

impl Scene {
    /// Three of our own servers; the sidecar goes by the defaults and `settings` (YAML).
    pub(crate) async fn of_three(settings: &str) -> Result<Self, Trouble> {
        let consul = Consul::server().await?;
        let fleet = Fleet::three(SERVICE, Agent(consul.http_addr())).await;
        Ok(Self::called(consul, fleet, settings).await)
    }

    /// These, not started yet.
    pub(crate) async fn of(mut fleet: Fleet, settings: &str) -> Result<Self, Trouble> {
        let consul = Consul::server().await?;
        for member in &mut fleet.members {
            member.start().await;
        }
        fleet.register(Agent(consul.http_addr())).await;
        Ok(Self::called(consul, fleet, settings).await)
    }

    async fn called(consul: Consul, fleet: Fleet, settings: &str) -> Self {
        let agent = Agent(consul.http_addr());
        let caller = Caller::start(consul.http_addr(), SERVICE, settings).await;
        Self { caller, fleet, agent, _consul: consul }
    }

    /// Waits until the registry shows every instance as passing, and the sidecar trusts them all.
    pub(crate) async fn all_trusted(&self) {
        self.fleet.passes(self.agent).await;
        self.trusts(self.fleet.members.len(), wait::BOUND).await;
    }

    /// Waits until the sidecar trusts this many.
    pub(crate) async fn trusts(&self, count: usize, bound: Duration) {
        wait::until(&format!("{count} instances are trusted"), bound, async || {
            let metrics = self.caller.metrics().await;
            metrics.sum("outrigger_instances_trust", &[("trust", "trusted")]) == count as f64
        })
        .await;
    }

    /// Times that an instance was taken out.
    pub(crate) async fn ejections(&self) -> f64 {
        let metrics = self.caller.metrics().await;
        let kind = |kind| metrics.sum("outrigger_ejections_total", &[("kind", kind)]);
        kind("hard") + kind("soft")
    }

    /// The row of a load that has ended, with what must hold in every case.
    pub(crate) async fn row(&self, tally: &Tally) -> Row {
        let mut row = Row::of(tally, self.caller.retried().await);
        self.fleet.audit(tally, &mut row);
        row
    }
}
