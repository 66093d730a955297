//! The test harness: a scripted agent, a log of what happened, and a registration that runs against the agent.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use outrigger_config::{Health, Weights};
use outrigger_registry::{
    AgentService, AnswerFuture, Cursor, Error, HealthStatus, OwnCheck, Registrar, Registration,
    ReportedHealth, ServiceChecks, WatchAnswer,
    testing::{instance, list},
};
use tokio::{
    sync::{Notify, watch},
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

use super::{
    handle::LifecycleHandle,
    health::health_label,
    maintenance::Maintenance,
    maintenance_file::MaintenanceFile,
    registrant::{ProbeTask, Registrant},
    status::{RegistrationPhase, RegistrationState},
    withdraw,
    withdraw::PropagationMonitor,
};

/// What happened, in order. Each line ends in `(ready)` where `/readyz` answered 200 at that time.
#[derive(Debug, Default)]
pub(super) struct EventLog {
    lines: Mutex<Vec<(String, Instant)>>,
    handle: Mutex<Option<LifecycleHandle>>,
}

impl EventLog {
    /// Reads the readiness from `handle` from now on.
    pub(super) fn observe(&self, handle: &LifecycleHandle) {
        *self.handle.lock().unwrap() = Some(handle.clone());
    }

    pub(super) fn push(&self, what: &str) {
        let ready = self.handle.lock().unwrap().as_ref().is_some_and(|handle| handle.state().is_ready());
        let line = format!("{what}{}", if ready { " (ready)" } else { "" });
        self.lines.lock().unwrap().push((line, Instant::now()));
    }

    pub(super) fn lines(&self) -> Vec<String> {
        self.lines.lock().unwrap().iter().map(|(line, _)| line.clone()).collect()
    }

    pub(super) fn at(&self, line: &str) -> Instant {
        self.lines.lock().unwrap().iter().rev().find(|(l, _)| l == line).unwrap().1
    }
}

/// A call to the agent that changes something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum AgentCall {
    Register,
    Deregister,
    Report(ReportedHealth, String),
    Maintenance(bool),
    Remove(String),
}

impl AgentCall {
    /// The line of the call in the [`EventLog`].
    fn event(&self) -> &'static str {
        match self {
            Self::Register => "register",
            Self::Deregister => "deregister",
            Self::Report(health, _) => health_label(*health),
            Self::Maintenance(_) => "maintenance",
            Self::Remove(_) => "remove",
        }
    }
}

/// What the agent holds, and how it answers.
#[derive(Debug, Default)]
pub(super) struct AgentState {
    pub(super) held: Option<AgentService>,
    pub(super) register_count: u64,
    /// The initial health of the last registration.
    pub(super) initial: Option<ReportedHealth>,
    pub(super) calls: Vec<(Instant, AgentCall)>,
    /// These calls, in order, are never answered.
    pub(super) stalls: VecDeque<&'static str>,
    /// These calls fail with a broken connection while this is set.
    pub(super) down: bool,
    /// Every call is refused with this status and text.
    pub(super) refuses: Option<(u16, &'static str)>,
    /// The checks of the service.
    pub(super) checks: ServiceChecks,
    /// The credentials that the service was registered with, and those of the calls.
    pub(super) held_credentials: u64,
    pub(super) credentials: u64,
    /// The catalog does not list the service until it is registered again.
    pub(super) unlisted: bool,
    /// The catalog never lists the service.
    pub(super) never_listed: bool,
    /// The node's name, where it has changed.
    pub(super) node: Option<&'static str>,
    /// Rises with every change of another instance of the service.
    pub(super) index: u64,
    /// How often the list was queried, and how often a query was answered.
    pub(super) list_requests: usize,
    pub(super) list_answers: usize,
}

impl AgentState {
    /// Removes the service and its checks.
    pub(super) fn wipe(&mut self) {
        (self.held, self.checks) = (None, ServiceChecks::default());
    }
}

/// An agent that holds one service. It answers at once unless its state says otherwise; `agent_service` blocks
/// on the hash, `catalog_entry` on the cursor.
#[derive(Debug, Default)]
pub(super) struct FakeAgent {
    pub(super) state: Mutex<AgentState>,
    pub(super) events: EventLog,
    changed: Notify,
    credentials: watch::Sender<u64>,
}

impl FakeAgent {
    /// An agent that holds `service` and its check from the start.
    pub(super) fn holding(service: AgentService, own: Option<OwnCheck>) -> Arc<Self> {
        let agent = Self::default();
        agent.change(|agent| (agent.held, agent.checks.own) = (Some(service), own));
        Arc::new(agent)
    }

    pub(super) fn state(&self) -> MutexGuard<'_, AgentState> {
        self.state.lock().unwrap()
    }

    /// Records the call, and fails or stalls as the state says.
    async fn record_call(&self, name: &'static str, call: Option<AgentCall>) -> Result<(), Error> {
        let with = self.state().credentials;
        self.credentials.send_if_modified(|credentials| std::mem::replace(credentials, with) != with);
        let stall = {
            let mut agent = self.state();
            if let Some(call) = call {
                self.events.push(call.event());
                agent.calls.push((Instant::now(), call));
            }
            let stall = agent.stalls.front() == Some(&name);
            if stall {
                agent.stalls.pop_front();
            } else if agent.down {
                return Err(Error::Connect {
                    address: "agent".into(),
                    source: std::io::ErrorKind::ConnectionRefused.into(),
                });
            } else if let Some((status, text)) = agent.refuses {
                let (request, text) = (name.to_owned(), text.to_owned());
                return Err(Error::Refused { request, status, text, hint: None });
            }
            stall
        };
        if stall {
            std::future::pending::<()>().await;
        }
        Ok(())
    }

    pub(super) fn change(&self, change: impl FnOnce(&mut AgentState)) {
        change(&mut self.state());
        self.changed.notify_waiters();
    }

    pub(super) fn forget(&self) {
        self.change(AgentState::wipe);
    }

    /// Replaces the credentials; the next call reads them.
    pub(super) fn rotate_credentials(&self) {
        self.state().credentials += 1;
    }

    pub(super) fn call_times(&self, is_wanted: impl Fn(&AgentCall) -> bool) -> Vec<Instant> {
        self.state().calls.iter().filter(|(_, call)| is_wanted(call)).map(|(at, _)| *at).collect()
    }

    pub(super) fn register_calls(&self) -> usize {
        self.call_times(|call| *call == AgentCall::Register).len()
    }
}

pub(super) fn is_report(call: &AgentCall) -> bool {
    matches!(call, AgentCall::Report(..))
}

impl Registrar for FakeAgent {
    fn register<'a>(&'a self, registration: &'a Registration) -> AnswerFuture<'a, ()> {
        Box::pin(async move {
            self.record_call("register", Some(AgentCall::Register)).await?;
            self.change(|agent| {
                agent.register_count += 1;
                agent.held = Some(AgentService {
                    id: registration.id.clone(),
                    name: registration.name.clone(),
                    address: registration.address.clone(),
                    port: registration.port.into(),
                    tags: registration.tags.clone(),
                    meta: registration.meta.clone(),
                    weights: registration.weights,
                    enable_tag_override: false,
                    content_hash: format!("h{}", agent.register_count),
                });
                agent.held_credentials = agent.credentials;
                let own = agent.checks.own.get_or_insert_with(|| own_check(registration.initial_health, ""));
                own.has_our_name = true;
                agent.initial = Some(registration.initial_health);
                agent.unlisted = false;
            });
            Ok(())
        })
    }

    fn service_checks<'a>(&'a self, _id: &'a str) -> AnswerFuture<'a, ServiceChecks> {
        Box::pin(async move {
            self.record_call("checks", None).await?;
            Ok(self.state().checks.clone())
        })
    }

    fn deregister_check<'a>(&'a self, check: &'a str) -> AnswerFuture<'a, ()> {
        Box::pin(async move {
            self.record_call("remove", Some(AgentCall::Remove(check.to_owned()))).await?;
            let checks = &mut self.state().checks;
            checks.others.retain(|other| other != check);
            checks.own.take_if(|own| own.id == check);
            Ok(())
        })
    }

    fn deregister<'a>(&'a self, id: &'a str) -> AnswerFuture<'a, ()> {
        Box::pin(async move {
            self.record_call("deregister", Some(AgentCall::Deregister)).await?;
            assert!(self.state().held.as_ref().is_none_or(|held| held.id == id), "another service: {id}");
            self.forget();
            Ok(())
        })
    }

    fn report<'a>(&'a self, id: &'a str, health: ReportedHealth, output: &'a str) -> AnswerFuture<'a, ()> {
        Box::pin(async move {
            self.record_call("report", Some(AgentCall::Report(health, output.to_owned()))).await?;
            match &mut self.state().checks.own {
                Some(own) => {
                    let (id, has_our_name) = (own.id.clone(), own.has_our_name);
                    *own = OwnCheck { id, has_our_name, ..own_check(health, output) };
                    Ok(())
                }
                None => Err(Error::Refused {
                    request: "PUT /check".into(),
                    status: 500,
                    text: format!("CheckID {id:?} does not have associated TTL"),
                    hint: None,
                }),
            }
        })
    }

    fn set_maintenance<'a>(&'a self, _id: &'a str, on: bool, reason: &'a str) -> AnswerFuture<'a, ()> {
        Box::pin(async move {
            self.record_call("maintenance", Some(AgentCall::Maintenance(on))).await?;
            self.state().checks.maintenance = on.then(|| reason.to_owned());
            Ok(())
        })
    }

    fn agent_service<'a>(
        &'a self,
        _id: &'a str,
        hash: Option<&'a str>,
        wait: Duration,
    ) -> AnswerFuture<'a, Option<AgentService>> {
        Box::pin(async move {
            let until = Instant::now() + wait;
            loop {
                let changed = self.changed.notified();
                self.record_call("held", None).await?;
                let held = self.state().held.clone();
                let same = hash.is_some() && held.as_ref().map(|held| &*held.content_hash) == hash;
                if !same || Instant::now() >= until {
                    return Ok(held);
                }
                let _ = tokio::time::timeout_at(until, changed).await;
            }
        })
    }

    fn catalog_entry<'a>(
        &'a self,
        us: &'a Registration,
        cursor: Cursor,
        wait: Duration,
    ) -> AnswerFuture<'a, WatchAnswer> {
        Box::pin(async move {
            let until = Instant::now() + wait;
            self.state().list_requests += 1;
            self.record_call("listed", None).await?;
            self.state().list_answers += 1;
            loop {
                let changed = self.changed.notified();
                let (index, listed, node) = {
                    let agent = self.state();
                    let listed = agent.held.is_some() && !agent.unlisted && !agent.never_listed;
                    (2 * agent.index + 1 + u64::from(listed), listed, agent.node.unwrap_or("web-7"))
                };
                if Cursor::at(index) != cursor || Instant::now() >= until {
                    let listed = listed.then(|| instance(node, &us.id, HealthStatus::Passing));
                    return Ok(list(index, Vec::from_iter(listed)));
                }
                let _ = tokio::time::timeout_at(until, changed).await;
            }
        })
    }

    fn agent_services(&self) -> AnswerFuture<'_, Vec<AgentService>> {
        Box::pin(async { Ok(self.state().held.clone().into_iter().collect()) })
    }

    fn watch_credentials(&self) -> watch::Receiver<u64> {
        self.credentials.subscribe()
    }
}

pub(super) fn own_check(health: ReportedHealth, output: &str) -> OwnCheck {
    OwnCheck {
        id: "service:orders-1".into(),
        has_our_name: true,
        health,
        output: output.into(),
        ttl_expired: output == "TTL expired",
    }
}

pub(super) struct RegistrantFixture {
    pub(super) agent: Arc<FakeAgent>,
    pub(super) health: watch::Sender<Option<ReportedHealth>>,
    pub(super) state: RegistrationState,
    pub(super) maintenance: Maintenance,
    pub(super) registrant: Registrant,
    pub(super) started_at: Instant,
}

pub(super) fn test_registration() -> Registration {
    Registration {
        id: "orders-1".into(),
        name: "orders".into(),
        address: None,
        port: 8080,
        tags: vec!["v2".into()],
        meta: Default::default(),
        weights: Weights::default(),
        ttl: Duration::from_secs(30),
        deregister_after: Duration::from_secs(60),
        initial_health: ReportedHealth::Critical,
    }
}

/// A registrant. Its app has this health from the start.
pub(super) fn start_registrant(health: Option<ReportedHealth>) -> RegistrantFixture {
    start_registrant_at(FakeAgent::default(), health, MaintenanceFile::default())
}

/// The same with this agent and this maintenance file.
pub(super) fn start_registrant_at(
    agent: FakeAgent,
    health: Option<ReportedHealth>,
    file: MaintenanceFile,
) -> RegistrantFixture {
    let agent = Arc::new(agent);
    let sender = watch::Sender::new(health);
    let state = RegistrationState::new(RegistrationPhase::AwaitingApp, "orders-1");
    let probing = ProbeTask {
        app_started: CancellationToken::new(),
        settings: Health::default(),
        results: sender.clone(),
        task: tokio_util::task::AbortOnDropHandle::new(tokio::spawn(std::future::pending())),
    };
    let maintenance = Maintenance::load(agent.clone(), state.clone(), file);
    let registrant = Registrant::start_with_probe(test_registration(), probing, maintenance.clone());
    RegistrantFixture { agent, health: sender, state, maintenance, registrant, started_at: Instant::now() }
}

impl RegistrantFixture {
    /// Waits on the paused clock until `is` holds. Returns how long it took.
    pub(super) async fn wait_until(&self, is: impl Fn(&AgentState) -> bool) -> Duration {
        let from = Instant::now();
        while !is(&self.agent.state()) {
            assert!(from.elapsed() < Duration::from_secs(300), "never true: {:?}", self.agent.state());
            sleep(Duration::from_millis(10)).await;
        }
        from.elapsed()
    }
}

/// Runs every step of the withdrawal without waiting for callers. True: a registration had been sent.
pub(super) async fn withdraw_at_once(registrant: Registrant, state: &RegistrationState) -> bool {
    let drain = super::drain::DrainControl::default();
    withdraw::run_steps(registrant, &mut PropagationMonitor::fixed(Duration::ZERO), &drain).await;
    state.current().sent
}

pub(super) const PASSING: Option<ReportedHealth> = Some(ReportedHealth::Passing);

pub(super) const RENEW_AND_A_TICK: Duration = Duration::from_millis(10_010);
