//! An agent of the tests' own, on a paused clock, and a registration's life against it.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use outrigger_config::{Health, Weights};
use outrigger_registry::{
    AgentService, AnswerFuture, Cursor, Error, HealthStatus, Instance, InstanceId, OwnCheck, Registrar,
    Registration, ReportedHealth, ServiceChecks, WatchAnswer,
};
use tokio::{
    sync::{Notify, watch},
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

use super::{
    callers::Callers,
    keeper::{Keeper, Probing},
    leave,
    maintenance::Office,
    note::Note,
    standing::{Board, Phase},
};

/// What was asked of the agent, and when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Call {
    Register,
    Deregister,
    Report(ReportedHealth, String),
    Maintenance(bool),
    Remove(String),
}

#[derive(Debug, Default)]
pub(super) struct Agent {
    pub(super) held: Option<AgentService>,
    pub(super) registers: u64,
    /// What the check of the last registration was to say from the start.
    pub(super) initial: Option<ReportedHealth>,
    pub(super) calls: Vec<(Instant, Call)>,
    /// These calls, in order, never answer.
    pub(super) stalls: VecDeque<&'static str>,
    /// These calls fail with a broken connection while this is set.
    pub(super) down: bool,
    /// Every call is answered so.
    pub(super) refuses: Option<(u16, &'static str)>,
    /// The checks of what is held.
    pub(super) checks: ServiceChecks,
    /// The credentials of what is held, and of the calls.
    pub(super) held_with: u64,
    pub(super) with: u64,
    /// Callers find nobody, whatever the agent holds, until it is registered again.
    pub(super) unlisted: bool,
    /// Callers find nobody, whatever happens.
    pub(super) blind: bool,
    /// The node's name, where it is another one by now.
    pub(super) node: Option<&'static str>,
    /// Rises with every change of others of the service.
    pub(super) index: u64,
    /// How often the list was asked for, and how often it answered.
    pub(super) asked: usize,
    pub(super) looks: usize,
}

impl Agent {
    /// It holds nothing any more.
    pub(super) fn wipe(&mut self) {
        (self.held, self.checks) = (None, ServiceChecks::default());
    }
}

/// An agent that answers at once unless told otherwise, and whose `held` blocks on the hash.
#[derive(Debug, Default)]
pub(super) struct Fake {
    pub(super) agent: Mutex<Agent>,
    changed: Notify,
    credentials: watch::Sender<u64>,
}

impl Fake {
    pub(super) fn agent(&self) -> MutexGuard<'_, Agent> {
        self.agent.lock().unwrap()
    }

    /// Counts the call, and stalls for ever when it is its turn to.
    async fn called(&self, name: &'static str, call: Option<Call>) -> Result<(), Error> {
        let with = self.agent().with;
        self.credentials.send_if_modified(|credentials| std::mem::replace(credentials, with) != with);
        let stall = {
            let mut agent = self.agent();
            if let Some(call) = call {
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

    pub(super) fn change(&self, change: impl FnOnce(&mut Agent)) {
        change(&mut self.agent());
        self.changed.notify_waiters();
    }

    pub(super) fn forget(&self) {
        self.change(Agent::wipe);
    }

    /// The credentials are replaced; the next call reads them.
    pub(super) fn rotate(&self) {
        self.agent().with += 1;
    }

    pub(super) fn times(&self, wanted: impl Fn(&Call) -> bool) -> Vec<Instant> {
        self.agent().calls.iter().filter(|(_, call)| wanted(call)).map(|(at, _)| *at).collect()
    }

    pub(super) fn registers(&self) -> usize {
        self.times(|call| *call == Call::Register).len()
    }
}

pub(super) fn reports(call: &Call) -> bool {
    matches!(call, Call::Report(..))
}

impl Registrar for Fake {
    fn register<'a>(&'a self, wanted: &'a Registration) -> AnswerFuture<'a, ()> {
        Box::pin(async move {
            self.called("register", Some(Call::Register)).await?;
            self.change(|agent| {
                agent.registers += 1;
                agent.held = Some(AgentService {
                    id: wanted.id.clone(),
                    name: wanted.name.clone(),
                    address: wanted.address.clone(),
                    port: wanted.port.into(),
                    tags: wanted.tags.clone(),
                    meta: wanted.meta.clone(),
                    weights: wanted.weights,
                    enable_tag_override: false,
                    content_hash: format!("h{}", agent.registers),
                });
                agent.held_with = agent.with;
                let own = agent.checks.own.get_or_insert_with(|| own_check(wanted.initial_health, ""));
                own.has_our_name = true;
                agent.initial = Some(wanted.initial_health);
                agent.unlisted = false;
            });
            Ok(())
        })
    }

    fn service_checks<'a>(&'a self, _id: &'a str) -> AnswerFuture<'a, ServiceChecks> {
        Box::pin(async move {
            self.called("checks", None).await?;
            Ok(self.agent().checks.clone())
        })
    }

    fn deregister_check<'a>(&'a self, check: &'a str) -> AnswerFuture<'a, ()> {
        Box::pin(async move {
            self.called("remove", Some(Call::Remove(check.to_owned()))).await?;
            let checks = &mut self.agent().checks;
            checks.others.retain(|other| other != check);
            checks.own.take_if(|own| own.id == check);
            Ok(())
        })
    }

    fn deregister<'a>(&'a self, _id: &'a str) -> AnswerFuture<'a, ()> {
        Box::pin(async move {
            self.called("deregister", Some(Call::Deregister)).await?;
            self.forget();
            Ok(())
        })
    }

    fn report<'a>(&'a self, id: &'a str, health: ReportedHealth, output: &'a str) -> AnswerFuture<'a, ()> {
        Box::pin(async move {
            self.called("report", Some(Call::Report(health, output.to_owned()))).await?;
            match &mut self.agent().checks.own {
                Some(own) => {
                    *own = OwnCheck { has_our_name: own.has_our_name, ..own_check(health, output) };
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
            self.called("maintenance", Some(Call::Maintenance(on))).await?;
            self.agent().checks.maintenance = on.then(|| reason.to_owned());
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
                self.called("held", None).await?;
                let held = self.agent().held.clone();
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
            self.agent().asked += 1;
            self.called("listed", None).await?;
            self.agent().looks += 1;
            loop {
                let changed = self.changed.notified();
                let (index, listed, node) = {
                    let agent = self.agent();
                    let listed = agent.held.is_some() && !agent.unlisted && !agent.blind;
                    (2 * agent.index + 1 + u64::from(listed), listed, agent.node.unwrap_or("web-7"))
                };
                if Cursor::at(index) != cursor || Instant::now() >= until {
                    let instances =
                        listed.then(|| instance(node, &us.id, HealthStatus::Passing)).into_iter().collect();
                    let (cursor, went_back, age, known_leader) = (Cursor::at(index), false, None, true);
                    return Ok(WatchAnswer {
                        instances,
                        cursor,
                        index_went_back: went_back,
                        age,
                        known_leader,
                    });
                }
                let _ = tokio::time::timeout_at(until, changed).await;
            }
        })
    }

    fn agent_services(&self) -> AnswerFuture<'_, Vec<AgentService>> {
        Box::pin(async { Ok(self.agent().held.clone().into_iter().collect()) })
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

/// An entry of a list.
pub(super) fn instance(node: &str, id: &str, status: HealthStatus) -> Instance {
    Instance {
        id: InstanceId { datacenter: "dc1".into(), node: node.into(), id: id.into() },
        addr: Ok(([127, 0, 0, 1], 8080).into()),
        tags: Arc::from([]),
        meta: Arc::default(),
        weights: Default::default(),
        status,
        create_index: 1,
        node_lost: false,
    }
}

pub(super) struct Life {
    pub(super) fake: Arc<Fake>,
    pub(super) health: watch::Sender<Option<ReportedHealth>>,
    pub(super) board: Board,
    pub(super) office: Office,
    pub(super) keeper: Keeper,
    pub(super) start: Instant,
}

pub(super) fn wanted() -> Registration {
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

/// A life whose app is `health` from the start.
pub(super) fn live(health: Option<ReportedHealth>) -> Life {
    live_at(Fake::default(), health, Note::default())
}

/// The same at this agent, with what an earlier run wrote down.
pub(super) fn live_at(fake: Fake, health: Option<ReportedHealth>, note: Note) -> Life {
    let fake = Arc::new(fake);
    let sender = watch::Sender::new(health);
    let board = Board::new(Phase::AwaitingApp, "orders-1");
    let probing = Probing {
        started: CancellationToken::new(),
        settings: Health::default(),
        told: sender.clone(),
        task: tokio::spawn(std::future::pending()),
    };
    let office = Office::open(fake.clone(), board.clone(), note);
    let keeper = Keeper::with_probing(wanted(), probing, office.clone());
    Life { fake, health: sender, board, office, keeper, start: Instant::now() }
}

impl Life {
    /// Waits on the paused clock until `is` holds; how long that took.
    pub(super) async fn until(&self, is: impl Fn(&Agent) -> bool) -> Duration {
        let from = Instant::now();
        while !is(&self.fake.agent()) {
            assert!(from.elapsed() < Duration::from_secs(300), "it never came true: {:?}", self.fake.agent());
            sleep(Duration::from_millis(10)).await;
        }
        from.elapsed()
    }
}

/// The whole of leaving, with callers that hear at once. True: there was something to leave.
pub(super) async fn leave(keeper: Keeper, board: &Board) -> bool {
    let drain = super::drain::Drain::new();
    let asked = board.clone();
    leave::run(keeper, &mut Callers::fixed(Duration::ZERO), &drain, &CancellationToken::new()).await;
    asked.now().asked
}

pub(super) const PASSING: Option<ReportedHealth> = Some(ReportedHealth::Passing);

pub(super) const RENEW_AND_A_TICK: Duration = Duration::from_millis(10_010);
