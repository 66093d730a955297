//! The test harness: a registration that runs against an agent in memory, with the real code of Consul's registrar.

use std::{sync::Arc, time::Duration};

use outrigger_config::{Drain, Health, Propagation};
use outrigger_events::{EventFilter, Events};
pub(crate) use outrigger_registry::consul::testing::{
    AgentCall, AgentState, CHECK_OUTPUT, DRAIN_OUTPUT, EventLog, FakeAgent, LIVENESS_CHALLENGE, own_check,
    registration as test_registration,
};
use outrigger_registry::{Registration, ReportedHealth};
use tokio::{
    sync::watch,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

use crate::{
    app_address::AppAddress,
    claim::{ClaimFile, ClaimPlace},
    drain::DrainControl,
    maintenance::{Maintenance, MaintenanceFile},
    registrant::{ProbeTask, Registrant},
    status::{RegistrationPhase, RegistrationState},
    withdraw::{self, PropagationMonitor},
};

pub(crate) fn is_report(call: &AgentCall) -> bool {
    matches!(call, AgentCall::Report(..))
}

/// Settings of a drain that waits for callers for a fixed time.
pub(crate) fn fixed_drain(wait: Duration) -> Drain {
    Drain { propagation: Propagation::Fixed(wait), ..Drain::default() }
}

/// Waits for callers for a fixed time, without a watch.
pub(crate) fn fixed_propagation(wait: Duration) -> PropagationMonitor {
    PropagationMonitor::new(fixed_drain(wait), None)
}

/// A watch that shows nothing, so that `wait` holds.
pub(crate) fn unobserved_propagation(wait: Duration) -> PropagationMonitor {
    PropagationMonitor::new(Drain { unobserved_wait: wait, ..Drain::default() }, None)
}

pub(crate) struct RegistrantFixture {
    pub(crate) agent: Arc<FakeAgent>,
    pub(crate) health: watch::Sender<Option<ReportedHealth>>,
    pub(crate) state: RegistrationState,
    pub(crate) maintenance: Maintenance,
    pub(crate) registrant: Registrant,
    pub(crate) events: Events,
    pub(crate) started_at: Instant,
}

/// A registrant. Its app has this health from the start.
pub(crate) fn start_registrant(health: Option<ReportedHealth>) -> RegistrantFixture {
    start_registrant_at(FakeAgent::default(), health, MaintenanceFile::default())
}

/// The same with this agent and this maintenance file.
pub(crate) fn start_registrant_at(
    agent: FakeAgent,
    health: Option<ReportedHealth>,
    file: MaintenanceFile,
) -> RegistrantFixture {
    start_registrant_on(Arc::new(agent), test_registration(), health, file, None)
}

/// The same with this registration and this place of the claim, at an agent that others may use, too.
pub(crate) fn start_registrant_on(
    agent: Arc<FakeAgent>,
    registration: Registration,
    health: Option<ReportedHealth>,
    file: MaintenanceFile,
    claim: Option<ClaimPlace>,
) -> RegistrantFixture {
    let sender = watch::Sender::new(health);
    let state = RegistrationState::new(RegistrationPhase::AwaitingApp, "orders-1");
    let pending = || tokio_util::task::AbortOnDropHandle::new(tokio::spawn(std::future::pending()));
    let probing = ProbeTask {
        app_started: CancellationToken::new(),
        service: test_registration().name,
        settings: Health::default(),
        app: AppAddress { port: test_registration().port, only: None, registered: None },
        local: sender.clone(),
        results: sender.clone(),
        task: pending(),
        reach_task: pending(),
    };
    let events = Events::default();
    state.load_maintenance(file.read());
    let maintenance = Maintenance {
        registrar: agent.clone(),
        registration: registration.clone(),
        state: state.clone(),
        file,
        events: events.clone(),
    };
    let registrant =
        Registrant::start_with_probe(registration, probing, maintenance.clone(), ClaimFile::new(claim));
    RegistrantFixture {
        agent,
        health: sender,
        state,
        maintenance,
        registrant,
        events,
        started_at: Instant::now(),
    }
}

impl RegistrantFixture {
    /// Waits on the paused clock until `is` holds. Returns how long it took.
    pub(crate) async fn wait_until(&self, is: impl Fn(&AgentState) -> bool) -> Duration {
        let from = Instant::now();
        while !is(&self.agent.state()) {
            assert!(from.elapsed() < Duration::from_secs(300), "never true: {:?}", self.agent.state());
            sleep(Duration::from_millis(10)).await;
        }
        from.elapsed()
    }
}

/// `kind: reason` of each event.
pub(crate) fn event_lines(events: &Events) -> Vec<String> {
    let all = events.page(&EventFilter::default(), None, usize::MAX).events;
    all.iter().map(|one| format!("{}: {}", one.kind(), one.reason())).collect()
}

/// Runs every step of the withdrawal without waiting for callers. True: a registration had been sent.
pub(crate) async fn withdraw_at_once(registrant: Registrant, state: &RegistrationState) -> bool {
    let drain = DrainControl::default();
    let propagation = fixed_propagation(Duration::ZERO);
    withdraw::run_all([registrant].into_iter(), &propagation, &drain).await;
    state.current().sent
}

pub(crate) const PASSING: Option<ReportedHealth> = Some(ReportedHealth::Passing);

pub(crate) const RENEW_AND_A_TICK: Duration = Duration::from_millis(10_010);
