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
    /// Why the app is to be in maintenance. `None`: nobody ordered it here.
    pub maintenance: Option<String>,
}

impl Standing {
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

    /// Maintenance was ordered, or ended.
    pub(crate) fn order(&self, reason: Option<String>) {
        self.0.send_if_modified(|standing| {
            std::mem::replace(&mut standing.maintenance, reason.clone()) != reason
        });
    }

    /// A registration is about to be sent.
    pub(crate) fn asked(&self) {
        self.0.send_if_modified(|standing| !std::mem::replace(&mut standing.asked, true));
    }

    /// The registry took it.
    pub(crate) fn registered(&self) {
        self.0.send_modify(|standing| {
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
