//! What is known about the registration: for `/readyz`, the metrics and the tasks that keep it.

use std::sync::Arc;

use outrigger_registry::ReportedHealth;
use tokio::sync::{Notify, watch};

/// Where the registration stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RegistrationPhase {
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

impl RegistrationPhase {
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
pub struct RegistrationStatus {
    /// Where it stands.
    pub phase: RegistrationPhase,
    /// Its id; empty when there is nothing to register.
    pub id: String,
    /// A registration was sent at least once: it may be there even if no answer ever came.
    pub sent: bool,
    /// How often the registry took it: another number is another registration to report on.
    pub generation: u64,
    /// What the last probe of the app found. Empty before the first one.
    pub probe_detail: String,
    /// What the registry was last told about the app, since the current generation began.
    pub reported: Option<ReportedHealth>,
    /// Why the last call failed, with its causes. `None`: it did not.
    pub error: Option<String>,
    /// Why the app is in maintenance, whoever ordered it: as the registry was last seen to hold it, or is
    /// to hold it again with the next registration. `None`: it is not.
    pub maintenance: Option<String>,
    /// The last order given here, until the registry has taken it.
    pub pending_request: Option<MaintenanceRequest>,
    /// How many orders were given here.
    pub request_count: u64,
    /// The number of the credentials with which the registry took the registration.
    pub credentials: u64,
}

/// An order to go into maintenance, or out of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MaintenanceRequest {
    /// Into it, for this reason.
    On(String),
    /// Out of it.
    Off,
}

impl RegistrationStatus {
    /// How it is to be with maintenance, once every order is carried out.
    pub fn desired_maintenance(&self) -> Option<&str> {
        match &self.pending_request {
            Some(MaintenanceRequest::On(reason)) => Some(reason),
            Some(MaintenanceRequest::Off) => None,
            None => self.maintenance.as_deref(),
        }
    }

    /// Whether the registry has taken it, and so can be told how the app is.
    pub(crate) fn is_accepted(&self) -> bool {
        match self.phase {
            RegistrationPhase::Registered | RegistrationPhase::Lost => true,
            RegistrationPhase::Off
            | RegistrationPhase::AwaitingApp
            | RegistrationPhase::Registering
            | RegistrationPhase::Left => false,
        }
    }
}

/// The one copy of it, shared.
#[derive(Debug, Clone)]
pub(crate) struct RegistrationState(Arc<watch::Sender<RegistrationStatus>>, Arc<Notify>);

impl RegistrationState {
    pub(crate) fn new(phase: RegistrationPhase, id: &str) -> Self {
        let status = RegistrationStatus {
            phase,
            id: id.to_owned(),
            sent: false,
            generation: 0,
            probe_detail: String::new(),
            reported: None,
            error: None,
            maintenance: None,
            pending_request: None,
            request_count: 0,
            credentials: 0,
        };
        Self(Arc::new(watch::Sender::new(status)), Arc::default())
    }

    pub(crate) fn current(&self) -> RegistrationStatus {
        self.0.borrow().clone()
    }

    pub(crate) fn subscribe(&self) -> watch::Receiver<RegistrationStatus> {
        self.0.subscribe()
    }

    pub(crate) fn set_phase(&self, phase: RegistrationPhase) {
        self.0.send_if_modified(|status| std::mem::replace(&mut status.phase, phase) != phase);
    }

    /// Another registration is to be kept from now on, or none (an empty id). An order of maintenance holds
    /// for it too: it is the same app.
    pub(crate) fn start_registration(&self, phase: RegistrationPhase, id: &str) {
        self.0.send_if_modified(|status| {
            let news = status.id != id || status.phase != phase;
            if news {
                id.clone_into(&mut status.id);
                status.phase = phase;
                status.sent = false;
                status.probe_detail.clear();
                status.reported = None;
                status.error = None;
            }
            news
        });
    }

    /// Asks for a probe out of turn.
    pub(crate) fn request_probe(&self) {
        self.1.notify_one();
    }

    /// Resolves when one is asked for.
    pub(crate) async fn wait_probe_request(&self) {
        self.1.notified().await;
    }

    /// The app was probed.
    pub(crate) fn record_probe(&self, why: &str) {
        self.0.send_if_modified(|status| {
            let news = status.probe_detail != why;
            if news {
                why.clone_into(&mut status.probe_detail);
            }
            news
        });
    }

    /// Maintenance was ordered here, or ended.
    pub(crate) fn request_maintenance(&self, order: MaintenanceRequest) {
        self.0.send_modify(|status| {
            status.pending_request = Some(order);
            status.request_count += 1;
        });
    }

    /// The registry has taken what was to be at `before`. False: there was another order since, or it is
    /// another registration.
    pub(crate) fn confirm_maintenance(&self, before: &RegistrationStatus) -> bool {
        let mut last = false;
        self.0.send_if_modified(|status| {
            last = (status.request_count, &status.id) == (before.request_count, &before.id);
            if last {
                status.maintenance = status.desired_maintenance().map(str::to_owned);
            }
            last && status.pending_request.take().is_some()
        });
        last
    }

    /// The registry was seen to hold this, in an answer to a question asked at `before`. True: that is
    /// news. What was ordered here meanwhile stays, and what is to be restored: the answer may be older.
    pub(crate) fn record_maintenance(
        &self,
        before: &RegistrationStatus,
        maintenance: Option<String>,
    ) -> bool {
        self.0.send_if_modified(|status| {
            let settled = before.pending_request.is_none()
                && (before.request_count, before.generation) == (status.request_count, status.generation)
                && status.phase == RegistrationPhase::Registered;
            settled && std::mem::replace(&mut status.maintenance, maintenance.clone()) != maintenance
        })
    }

    /// What an earlier run wrote down.
    pub(crate) fn load_maintenance(&self, maintenance: Option<String>) {
        self.0.send_modify(|status| status.maintenance = maintenance);
    }

    /// A registration is about to be sent.
    pub(crate) fn record_sent(&self) {
        self.0.send_if_modified(|status| !std::mem::replace(&mut status.sent, true));
    }

    /// The registry took it, with these credentials.
    pub(crate) fn record_registered(&self, credentials: u64) {
        self.0.send_modify(|status| {
            status.credentials = credentials;
            status.phase = RegistrationPhase::Registered;
            status.generation += 1;
            status.reported = None;
            status.error = None;
        });
    }

    /// The registry was told `health` of registration `generation`.
    pub(crate) fn record_reported(&self, generation: u64, health: ReportedHealth) {
        self.0.send_if_modified(|status| {
            let news = status.generation == generation
                && (status.reported != Some(health) || status.error.is_some());
            if news {
                status.reported = Some(health);
                status.error = None;
            }
            news
        });
    }

    /// A call failed. True when the call before it had not: the one time that is worth a log line.
    pub(crate) fn record_failure(&self, error: String) -> bool {
        let mut first = false;
        self.0.send_if_modified(|status| {
            first = status.error.is_none();
            status.error.replace(error.clone()) != Some(error)
        });
        first
    }
}
