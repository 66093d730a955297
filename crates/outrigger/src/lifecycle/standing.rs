//! What is known about the registration: for `/readyz`, the metrics and the tasks that keep it.

use std::sync::Arc;

use outrigger_registry::ReportedHealth;
use tokio::sync::{Notify, watch};

/// Where the registration stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Phase {
    /// There is nothing to register: no `service:`, or a registry of static instances.
    Off,
    /// The app has not been healthy yet.
    AwaitingApp,
    /// The registry is being asked to take it, for the first time.
    Registering,
    /// The registry has it.
    Registered,
    /// The registry forgot it or somebody changed it; it is being registered again.
    Lost,
    /// It was removed by us.
    Left,
}

impl Phase {
    /// Every one.
    pub const ALL: [Self; 6] =
        [Self::Off, Self::AwaitingApp, Self::Registering, Self::Registered, Self::Lost, Self::Left];

    /// The word for pages, metrics and logs.
    pub fn label(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::AwaitingApp => "awaiting_app",
            Self::Registering => "registering",
            Self::Registered => "registered",
            Self::Lost => "lost",
            Self::Left => "left",
        }
    }
}

/// The registration at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// Where it stands.
    pub phase: Phase,
    /// Its id; empty when there is nothing to register.
    pub id: String,
    /// A registration was sent at least once: it may be there even if no answer ever came.
    pub asked: bool,
    /// How often the registry took it: another number is another registration to report on.
    pub generation: u64,
    /// What the last probe of the app found. Empty before the first one.
    pub app: String,
    /// What the registry was last told about the app, since the current generation began.
    pub told: Option<ReportedHealth>,
    /// Why the last call failed, with its causes. `None`: it did not.
    pub error: Option<String>,
    /// Why the app is in maintenance, whoever ordered it: as the registry was last seen to hold it, or is
    /// to hold it again with the next registration. `None`: it is not.
    pub maintenance: Option<String>,
    /// The last order given here, until the registry has taken it.
    pub order: Option<Order>,
    /// How many orders were given here.
    pub orders: u64,
    /// The number of the credentials with which the registry took the registration.
    pub credentials: u64,
}

/// An order to go into maintenance, or out of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Order {
    /// Into it, for this reason.
    On(String),
    /// Out of it.
    Off,
}

impl Standing {
    /// How it is to be with maintenance, once every order is carried out.
    pub fn to_be(&self) -> Option<&str> {
        match &self.order {
            Some(Order::On(reason)) => Some(reason),
            Some(Order::Off) => None,
            None => self.maintenance.as_deref(),
        }
    }

    /// Whether the registry has taken it, and so can be told how the app is.
    pub(crate) fn is_taken(&self) -> bool {
        match self.phase {
            Phase::Registered | Phase::Lost => true,
            Phase::Off | Phase::AwaitingApp | Phase::Registering | Phase::Left => false,
        }
    }
}

/// The one copy of it, shared.
#[derive(Debug, Clone)]
pub(crate) struct Board(Arc<watch::Sender<Standing>>, Arc<Notify>);

impl Board {
    pub(crate) fn new(phase: Phase, id: &str) -> Self {
        let standing = Standing {
            phase,
            id: id.to_owned(),
            asked: false,
            generation: 0,
            app: String::new(),
            told: None,
            error: None,
            maintenance: None,
            order: None,
            orders: 0,
            credentials: 0,
        };
        Self(Arc::new(watch::Sender::new(standing)), Arc::default())
    }

    pub(crate) fn now(&self) -> Standing {
        self.0.borrow().clone()
    }

    pub(crate) fn subscribe(&self) -> watch::Receiver<Standing> {
        self.0.subscribe()
    }

    pub(crate) fn enter(&self, phase: Phase) {
        self.0.send_if_modified(|standing| std::mem::replace(&mut standing.phase, phase) != phase);
    }

    /// Another registration is to be kept from now on, or none (an empty id). An order of maintenance holds
    /// for it too: it is the same app.
    pub(crate) fn begin(&self, phase: Phase, id: &str) {
        self.0.send_if_modified(|standing| {
            let news = standing.id != id || standing.phase != phase;
            if news {
                id.clone_into(&mut standing.id);
                standing.phase = phase;
                standing.asked = false;
                standing.app.clear();
                standing.told = None;
                standing.error = None;
            }
            news
        });
    }

    /// Asks for a probe out of turn.
    pub(crate) fn probe_now(&self) {
        self.1.notify_one();
    }

    /// Resolves when one is asked for.
    pub(crate) async fn probe_asked(&self) {
        self.1.notified().await;
    }

    /// The app was probed.
    pub(crate) fn probed(&self, why: &str) {
        self.0.send_if_modified(|standing| {
            let news = standing.app != why;
            if news {
                why.clone_into(&mut standing.app);
            }
            news
        });
    }

    /// Maintenance was ordered here, or ended.
    pub(crate) fn order(&self, order: Order) {
        self.0.send_modify(|standing| {
            standing.order = Some(order);
            standing.orders += 1;
        });
    }

    /// The registry has taken what was to be at `before`. False: there was another order since, or it is
    /// another registration.
    pub(crate) fn confirmed(&self, before: &Standing) -> bool {
        let mut last = false;
        self.0.send_if_modified(|standing| {
            last = (standing.orders, &standing.id) == (before.orders, &before.id);
            if last {
                standing.maintenance = standing.to_be().map(str::to_owned);
            }
            last && standing.order.take().is_some()
        });
        last
    }

    /// The registry was seen to hold this, in an answer to a question asked at `before`. True: that is
    /// news. What was ordered here meanwhile stays, and what is to be restored: the answer may be older.
    pub(crate) fn saw(&self, before: &Standing, maintenance: Option<String>) -> bool {
        self.0.send_if_modified(|standing| {
            let settled = before.order.is_none()
                && (before.orders, before.generation) == (standing.orders, standing.generation)
                && standing.phase == Phase::Registered;
            settled && std::mem::replace(&mut standing.maintenance, maintenance.clone()) != maintenance
        })
    }

    /// What an earlier run wrote down.
    pub(crate) fn recall(&self, maintenance: Option<String>) {
        self.0.send_modify(|standing| standing.maintenance = maintenance);
    }

    /// A registration is about to be sent.
    pub(crate) fn asked(&self) {
        self.0.send_if_modified(|standing| !std::mem::replace(&mut standing.asked, true));
    }

    /// The registry took it, with these credentials.
    pub(crate) fn registered(&self, credentials: u64) {
        self.0.send_modify(|standing| {
            standing.credentials = credentials;
            standing.phase = Phase::Registered;
            standing.generation += 1;
            standing.told = None;
            standing.error = None;
        });
    }

    /// The registry was told `health` of registration `generation`.
    pub(crate) fn told(&self, generation: u64, health: ReportedHealth) {
        self.0.send_if_modified(|standing| {
            let news = standing.generation == generation
                && (standing.told != Some(health) || standing.error.is_some());
            if news {
                standing.told = Some(health);
                standing.error = None;
            }
            news
        });
    }

    /// A call failed. True when the call before it had not: the one time that is worth a log line.
    pub(crate) fn failed(&self, error: String) -> bool {
        let mut first = false;
        self.0.send_if_modified(|standing| {
            first = standing.error.is_none();
            standing.error.replace(error.clone()) != Some(error)
        });
        first
    }
}
