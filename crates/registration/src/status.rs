//! The status of the registration: for `/readyz`, the metrics and the tasks that maintain it.

use std::{borrow::Cow, fmt, sync::Arc};

use outrigger_registry::{ReportedHealth, Rival};
use tokio::{
    sync::{Notify, watch},
    time::Instant,
};

use crate::health::HealthReason;

/// The phase of the registration.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RegistrationPhase {
    /// There is nothing to register: no service in the settings, or a registry of static instances.
    #[default]
    Off,
    /// The app has not been healthy yet.
    AwaitingApp,
    /// The first registration is being sent.
    Registering,
    /// The registry has taken the registration.
    Registered,
    /// The registry forgot or changed the registration; the app is being registered again.
    Lost,
    /// Another process that registered the same id first keeps it; the app is not registered.
    Conflict,
    /// The app was deregistered by this process.
    Left,
}

impl RegistrationPhase {
    /// Every phase.
    pub const ALL: [Self; 7] = [
        Self::Off,
        Self::AwaitingApp,
        Self::Registering,
        Self::Registered,
        Self::Lost,
        Self::Conflict,
        Self::Left,
    ];

    /// The name on pages, in metrics and in logs.
    pub fn label(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::AwaitingApp => "awaiting_app",
            Self::Registering => "registering",
            Self::Registered => "registered",
            Self::Lost => "lost",
            Self::Conflict => "conflict",
            Self::Left => "left",
        }
    }
}

/// Whether the address that is registered accepts connections from here ([`outrigger_config::ReachTest`]).
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub enum Reachability {
    /// The app is not healthy, or its registered address is not to be tested.
    #[default]
    Unknown,
    /// The app is healthy. Its registered address has neither accepted a connection yet nor failed twice.
    Pending,
    /// It cannot be tested; why.
    NotTested(String),
    /// It accepts connections.
    Reached,
    /// It accepts no connection although the app is healthy.
    Unreachable(Unreachable),
}

/// How the registered address of a healthy app fails.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unreachable {
    /// The address and the kind of failure, as `the registered address 10.0.0.5:8080 refuses connections from here`. The same for as
    /// long as it fails in this way.
    pub kind: String,
    /// The first error of that kind.
    pub error: String,
}

impl fmt::Display for Unreachable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, error } = self;
        if error.is_empty() { f.write_str(kind) } else { write!(f, "{kind}: {error}") }
    }
}

impl Reachability {
    /// The failure, if it fails.
    pub fn failure(&self) -> Option<&Unreachable> {
        match self {
            Self::Unreachable(failure) => Some(failure),
            Self::Unknown | Self::Pending | Self::NotTested(_) | Self::Reached => None,
        }
    }
}

/// The registration at one moment.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct RegistrationStatus {
    /// The phase.
    pub phase: RegistrationPhase,
    /// The instance id; empty when there is nothing to register.
    pub id: String,
    /// A registration was sent at least once. The registry may hold it even if no answer came.
    pub sent: bool,
    /// How often the registry took a registration. Each one needs new reports.
    pub generation: u64,
    /// The result of the last probe of the app. Empty before the first probe.
    pub probe_detail: String,
    /// Why the app is not healthy, by the last probe that told its health. Its text is the first one of its kind. `None`: it is
    /// healthy, or was not probed yet.
    pub reason: Option<HealthReason>,
    /// Why the health of the app is unknown: it could not be probed from here for so long that the last result says nothing of
    /// now. The registry keeps the last health. `None`: a probe has told it not long ago.
    pub unprobed: Option<String>,
    /// Whether the registered address accepts connections from here.
    pub reach: Reachability,
    /// The health last reported to the registry in the current generation.
    pub reported: Option<ReportedHealth>,
    /// Why the last call failed, with its causes. `None`: it succeeded.
    pub error: Option<String>,
    /// Another process that registers the same id. `None`: none is known.
    pub rival: Option<Rival>,
    /// Why the app is in maintenance, from this process or another client: as last seen at the registry, or as
    /// it will be restored with the next registration. `None`: not in maintenance.
    pub maintenance: Option<String>,
    /// The last request made to this process, until the registry has taken it.
    pub pending_request: Option<MaintenanceRequest>,
    /// How many requests were made to this process.
    pub request_count: u64,
}

/// A request to begin maintenance, or to end it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MaintenanceRequest {
    /// Begin, for this reason.
    On(String),
    /// End.
    Off,
}

impl RegistrationStatus {
    /// The maintenance reason once every request is carried out. `None`: not in maintenance.
    pub fn desired_maintenance(&self) -> Option<&str> {
        match &self.pending_request {
            Some(MaintenanceRequest::On(reason)) => Some(reason),
            Some(MaintenanceRequest::Off) => None,
            None => self.maintenance.as_deref(),
        }
    }

    /// What the registry is told beside `health`: why it is so, and how the registered address fails.
    pub(crate) fn explanation_of(&self, health: ReportedHealth) -> Option<Cow<'_, str>> {
        // Another health: that of the last report, or of a probe that ends just now.
        let reason = self.reason.as_ref().filter(|reason| reason.health == health);
        match (reason.map(|reason| &*reason.text), self.reach.failure().map(|failure| &*failure.kind)) {
            (Some(reason), Some(failure)) => Some(format!("{reason}; {failure}").into()),
            (reason, failure) => reason.or(failure).map(Cow::Borrowed),
        }
    }

    /// What to say of another process that registers the same id. `None`: none is known.
    pub fn conflict(&self) -> Option<String> {
        let rival = self.rival.as_ref()?;
        let follows = if rival.keeps_id {
            "it was first, so this process does not register the app until the other one leaves"
        } else {
            "this process was first and keeps the id"
        };
        Some(format!("another process registers id {} for {}; {follows}", self.id, rival.address))
    }

    /// Whether the registry has taken the registration, and a report of the app as healthy after it.
    pub(crate) fn is_reported_healthy(&self) -> bool {
        self.is_accepted() && matches!(self.reported, Some(ReportedHealth::Passing | ReportedHealth::Warning))
    }

    /// Whether the registry has taken the registration, so that health can be reported.
    pub(crate) fn is_accepted(&self) -> bool {
        matches!(self.phase, RegistrationPhase::Registered | RegistrationPhase::Lost)
    }
}

/// The status of one registration, which clones share.
#[derive(Debug, Clone)]
pub(crate) struct RegistrationState {
    status: watch::Sender<RegistrationStatus>,
    /// Notified: a probe is requested.
    probe_request: Arc<Notify>,
    /// The begin of the last probe that found the app healthy.
    healthy_probe: watch::Sender<Option<Instant>>,
}

impl RegistrationState {
    pub(crate) fn new(phase: RegistrationPhase, id: &str) -> Self {
        let status = RegistrationStatus { phase, id: id.to_owned(), ..RegistrationStatus::default() };
        Self {
            status: watch::Sender::new(status),
            probe_request: Arc::default(),
            healthy_probe: watch::Sender::new(None),
        }
    }

    pub(crate) fn current(&self) -> RegistrationStatus {
        self.status.borrow().clone()
    }

    pub(crate) fn subscribe(&self) -> watch::Receiver<RegistrationStatus> {
        self.status.subscribe()
    }

    pub(crate) fn set_phase(&self, phase: RegistrationPhase) {
        self.status.send_if_modified(|status| std::mem::replace(&mut status.phase, phase) != phase);
    }

    /// Starts another registration, or none (an empty id). Maintenance stays, because the app is the same.
    pub(crate) fn start_registration(&self, phase: RegistrationPhase, id: &str) {
        self.status.send_if_modified(|status| {
            let changed = status.id != id || status.phase != phase;
            if changed {
                id.clone_into(&mut status.id);
                status.phase = phase;
                status.sent = false;
                status.probe_detail.clear();
                status.reason = None;
                status.unprobed = None;
                status.reach = Reachability::Unknown;
                status.reported = None;
                status.error = None;
                status.rival = None;
            }
            changed
        });
    }

    /// Records the other process that registers the same id. True: that is news.
    pub(crate) fn record_rival(&self, rival: Option<&Rival>) -> bool {
        self.status.send_if_modified(|status| {
            let changed = status.rival.as_ref() != rival;
            if changed {
                status.rival = rival.cloned();
            }
            changed
        })
    }

    /// The other process keeps the id: what the registry holds is not this process's any more.
    pub(crate) fn yield_to_rival(&self) {
        self.status.send_if_modified(|status| {
            let changed = status.phase != RegistrationPhase::Conflict;
            if changed {
                status.phase = RegistrationPhase::Conflict;
                status.reported = None;
                status.error = None;
            }
            changed
        });
    }

    /// Requests a probe at once.
    pub(crate) fn request_probe(&self) {
        self.probe_request.notify_one();
    }

    /// Resolves when a probe is requested.
    pub(crate) async fn wait_probe_request(&self) {
        self.probe_request.notified().await;
    }

    /// Records the result of a probe.
    pub(crate) fn record_probe(&self, why: &str) {
        self.status.send_if_modified(|status| {
            let changed = status.probe_detail != why;
            if changed {
                why.clone_into(&mut status.probe_detail);
            }
            changed
        });
    }

    /// Records why the app is not healthy. `None`: it is.
    pub(crate) fn record_reason(&self, reason: Option<HealthReason>) {
        self.status.send_if_modified(|status| {
            let changed = status.reason != reason;
            status.reason = reason;
            changed
        });
    }

    /// Records why the app could not be probed for long; the first reason stays, so that the text does not change with each probe.
    /// `None`: it was probed. True: that is a change.
    pub(crate) fn record_unprobed(&self, why: Option<&str>) -> bool {
        self.status.send_if_modified(|status| {
            let changed = status.unprobed.is_some() != why.is_some();
            if changed {
                status.unprobed = why.map(str::to_owned);
            }
            changed
        })
    }

    /// A probe that began at `began` found the app healthy.
    pub(crate) fn record_healthy_probe(&self, began: Instant) {
        self.healthy_probe.send_replace(Some(began));
    }

    /// Resolves when a probe that began after `since` has found the app healthy.
    pub(crate) async fn wait_healthy_probe(&self, since: Instant) {
        let is_later = |began: &Option<Instant>| began.is_some_and(|began| began > since);
        // Never an error: `self` holds the sender.
        let _ = self.healthy_probe.subscribe().wait_for(is_later).await;
    }

    /// Records whether the registered address accepts connections. The first error stays while it fails in one way, so that the text
    /// does not change with each try.
    pub(crate) fn record_reach(&self, reach: Reachability) {
        self.status.send_if_modified(|status| {
            let changed = match (&status.reach, &reach) {
                (Reachability::Unreachable(before), Reachability::Unreachable(now)) => {
                    before.kind != now.kind
                }
                (before, now) => before != now,
            };
            if changed {
                status.reach = reach;
            }
            changed
        });
    }

    /// Records a request until the registry has taken it.
    pub(crate) fn request_maintenance(&self, request: MaintenanceRequest) {
        self.status.send_modify(|status| {
            status.pending_request = Some(request);
            status.request_count += 1;
        });
    }

    /// The registry has taken the maintenance that was desired at `before`. False: another request came since,
    /// or another registration was started.
    pub(crate) fn confirm_maintenance(&self, before: &RegistrationStatus) -> bool {
        let mut last = false;
        self.status.send_if_modified(|status| {
            last = (status.request_count, &status.id) == (before.request_count, &before.id);
            if last {
                status.maintenance = status.desired_maintenance().map(str::to_owned);
            }
            last && status.pending_request.take().is_some()
        });
        last
    }

    /// Records the maintenance seen in an answer to a query that was sent at `before`. True: it is a change. The
    /// answer may be older than a request that came meanwhile, or than a registration that restores maintenance;
    /// both stay.
    pub(crate) fn record_maintenance(
        &self,
        before: &RegistrationStatus,
        maintenance: Option<String>,
    ) -> bool {
        self.status.send_if_modified(|status| {
            let settled = before.pending_request.is_none()
                && (before.request_count, before.generation) == (status.request_count, status.generation)
                && status.phase == RegistrationPhase::Registered;
            settled && std::mem::replace(&mut status.maintenance, maintenance.clone()) != maintenance
        })
    }

    /// Sets the reason that an earlier run saved.
    pub(crate) fn load_maintenance(&self, maintenance: Option<String>) {
        self.status.send_modify(|status| status.maintenance = maintenance);
    }

    /// A registration is about to be sent.
    pub(crate) fn record_sent(&self) {
        self.status.send_if_modified(|status| !std::mem::replace(&mut status.sent, true));
    }

    /// The registry took a registration.
    pub(crate) fn record_registered(&self) {
        self.status.send_modify(|status| {
            status.phase = RegistrationPhase::Registered;
            status.generation += 1;
            status.reported = None;
            status.error = None;
        });
    }

    /// `health` of registration `generation` was reported to the registry.
    pub(crate) fn record_reported(&self, generation: u64, health: ReportedHealth) {
        self.status.send_if_modified(|status| {
            let changed = status.generation == generation
                && (status.reported != Some(health) || status.error.is_some());
            if changed {
                status.reported = Some(health);
                status.error = None;
            }
            changed
        });
    }

    /// Records a failed call. True when the call before it succeeded: only then is it logged.
    pub(crate) fn record_failure(&self, error: String) -> bool {
        let mut first = false;
        self.status.send_if_modified(|status| {
            first = status.error.is_none();
            status.error.replace(error.clone()) != Some(error)
        });
        first
    }
}
