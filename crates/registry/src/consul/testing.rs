//! An agent for tests of other crates (feature `testing`): [`FakeAgent`] holds one service in memory, and fails or
//! stalls as the test says. What [`AgentApi`] makes of it is the real code.
#![allow(clippy::missing_panics_doc, reason = "a test fails by panicking")]

use std::{collections::VecDeque, fmt, sync::Arc, time::Duration};

use parking_lot::{Mutex, MutexGuard};
use tokio::{
    sync::{Notify, watch},
    time::Instant,
};

use super::{
    agent,
    agent_api::{AgentApi, AgentService, OwnCheck, ServiceChecks},
};
use crate::{
    AnswerFuture, Cursor, Error, HealthStatus, Registration, ReportedHealth, WatchAnswer,
    testing::{instance, list},
};

/// The output of a report.
pub const CHECK_OUTPUT: &str = agent::CHECK_OUTPUT;

/// The output of the report that the app leaves, and still works.
pub const DRAIN_OUTPUT: &str = agent::DRAIN_OUTPUT;

/// The output that tests whether another process renews a check.
pub const LIVENESS_CHALLENGE: &str = agent::LIVENESS_CHALLENGE;

/// What happened, in order. Each line ends in `(ready)` where the observed process was ready at that time.
#[derive(Default)]
pub struct EventLog {
    lines: Mutex<Vec<(String, Instant)>>,
    is_ready: Mutex<Option<Box<dyn Fn() -> bool + Send>>>,
}

impl EventLog {
    /// Reads the readiness from `is_ready` from now on.
    pub fn observe(&self, is_ready: impl Fn() -> bool + Send + 'static) {
        *self.is_ready.lock() = Some(Box::new(is_ready));
    }

    /// Adds a line.
    pub fn push(&self, what: &str) {
        let ready = self.is_ready.lock().as_ref().is_some_and(|is_ready| is_ready());
        let line = format!("{what}{}", if ready { " (ready)" } else { "" });
        self.lines.lock().push((line, Instant::now()));
    }

    /// Every line.
    pub fn lines(&self) -> Vec<String> {
        self.lines.lock().iter().map(|(line, _)| line.clone()).collect()
    }

    /// When `line` was added last.
    pub fn at(&self, line: &str) -> Option<Instant> {
        self.lines.lock().iter().rev().find(|(l, _)| l == line).map(|(_, at)| *at)
    }
}

impl fmt::Debug for EventLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.lines.lock().iter()).finish()
    }
}

/// A call to the agent that changes something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AgentCall {
    /// A registration.
    Register,
    /// The end of a registration.
    Deregister,
    /// Status and output of the check.
    Report(ReportedHealth, String),
    /// Maintenance on or off.
    Maintenance(bool),
    /// A check was removed.
    Remove(String),
}

impl AgentCall {
    /// The line of the call in the [`EventLog`].
    fn event(&self) -> &'static str {
        match self {
            Self::Register => "register",
            Self::Deregister => "deregister",
            Self::Report(ReportedHealth::Passing, _) => "passing",
            Self::Report(ReportedHealth::Warning, _) => "warning",
            Self::Report(ReportedHealth::Critical, _) => "critical",
            Self::Maintenance(_) => "maintenance",
            Self::Remove(_) => "remove",
        }
    }
}

/// What the agent holds, and how it answers.
#[derive(Debug, Default)]
pub struct AgentState {
    /// The service.
    pub held: Option<AgentService>,
    /// How often it was registered.
    pub register_count: u64,
    /// The initial health of the last registration.
    pub initial: Option<ReportedHealth>,
    /// Every call that changes something.
    pub calls: Vec<(Instant, AgentCall)>,
    /// These calls, in order, are never answered.
    pub stalls: VecDeque<&'static str>,
    /// Every call fails with a refused connection while this is set.
    pub down: bool,
    /// Every call is refused with this status and text.
    pub refuses: Option<(u16, &'static str)>,
    /// The checks of the service.
    pub checks: ServiceChecks,
    /// The credentials that the service was registered with.
    pub held_credentials: u64,
    /// The credentials of the calls.
    pub credentials: u64,
    /// The catalog does not list the service until it is registered again.
    pub unlisted: bool,
    /// The catalog never lists the service.
    pub never_listed: bool,
    /// The node's name, where it has changed.
    pub node: Option<&'static str>,
    /// Rises with every change of another instance of the service.
    pub index: u64,
    /// How often the list was queried.
    pub list_requests: usize,
    /// How often such a query was answered.
    pub list_answers: usize,
}

impl AgentState {
    /// Removes the service and its checks.
    pub fn wipe(&mut self) {
        (self.held, self.checks) = (None, ServiceChecks::default());
    }
}

/// An agent that holds one service. It answers at once unless its state says otherwise; `agent_service` blocks
/// on the hash, `catalog_entry` on the cursor.
#[derive(Debug, Default)]
pub struct FakeAgent {
    state: Mutex<AgentState>,
    /// The calls that change something, as lines.
    pub events: EventLog,
    changed: Notify,
    credentials: watch::Sender<u64>,
}

impl FakeAgent {
    /// An agent that holds `service` and its check from the start.
    pub fn holding(service: AgentService, own: Option<OwnCheck>) -> Arc<Self> {
        let agent = Self::default();
        agent.change(|agent| (agent.held, agent.checks.own) = (Some(service), own));
        Arc::new(agent)
    }

    /// What it holds, locked.
    pub fn state(&self) -> MutexGuard<'_, AgentState> {
        self.state.lock()
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

    /// Changes the state, and wakes every query that waits.
    pub fn change(&self, change: impl FnOnce(&mut AgentState)) {
        change(&mut self.state());
        self.changed.notify_waiters();
    }

    /// Forgets the service.
    pub fn forget(&self) {
        self.change(AgentState::wipe);
    }

    /// Replaces the credentials; the next call reads them.
    pub fn rotate_credentials(&self) {
        self.state().credentials += 1;
    }

    /// When each call was made that `is_wanted`.
    pub fn call_times(&self, is_wanted: impl Fn(&AgentCall) -> bool) -> Vec<Instant> {
        self.state().calls.iter().filter(|(_, call)| is_wanted(call)).map(|(at, _)| *at).collect()
    }

    /// The number of registrations that were sent.
    pub fn register_calls(&self) -> usize {
        self.call_times(|call| *call == AgentCall::Register).len()
    }
}

impl AgentApi for FakeAgent {
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

    fn update_check<'a>(
        &'a self,
        id: &'a str,
        health: ReportedHealth,
        output: &'a str,
    ) -> AnswerFuture<'a, ()> {
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

/// The check of `orders-1`, as this program makes it.
pub fn own_check(health: ReportedHealth, output: &str) -> OwnCheck {
    OwnCheck {
        id: "service:orders-1".into(),
        has_our_name: true,
        health,
        output: output.into(),
        ttl_expired: output == "TTL expired",
    }
}

/// A registration of service `orders`, port 8080, as `orders-1`.
pub fn registration() -> Registration {
    Registration {
        id: "orders-1".into(),
        name: "orders".into(),
        address: None,
        port: 8080,
        tags: vec!["v2".into()],
        meta: Default::default(),
        weights: Default::default(),
        ttl: Duration::from_secs(30),
        deregister_after: Duration::from_secs(60),
        initial_health: ReportedHealth::Critical,
    }
}
