//! Keeps a cluster's [`Detector`], logs and records its events, and counts ejections.
//!
//! The detector has one lock per cluster, so that two workers cannot both eject the last two endpoints.
//! A request takes the lock only after a failure. [`super::probe`] lets time pass and probes.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
};

use outrigger_config as config;
use outrigger_events::{Event, EventKind, Events};
use outrigger_policy::outlier_detection::{
    Detector, EjectionCounts, EjectionDetails, EjectionEvent, Eligibility, Report, ReturnedBy,
};
use outrigger_registry::InstanceId;
use parking_lot::Mutex;
use tokio::{sync::Notify, time::Instant};
use tracing::{info, warn};

use crate::upstream::endpoint::Endpoint;

/// The ejections of one cluster.
#[derive(Debug)]
pub(crate) struct OutlierEjector {
    service: Arc<str>,
    events: Events,
    detector: Mutex<Detector<Endpoint>>,
    /// Endpoints that requests wait for, to be probed.
    to_probe: Mutex<Vec<Arc<Endpoint>>>,
    /// Notified when something is due earlier than before.
    pub(super) wakeup: Notify,
    /// Whether requests have somewhere else to go.
    relieved: AtomicBool,
    /// Ejections so far: hard, soft, and those that the cap prevented.
    totals: [AtomicU64; 3],
}

/// The endpoints to probe now.
pub(super) struct DueProbes {
    pub(super) ejected: Vec<Arc<Endpoint>>,
    pub(super) stalled: Vec<Arc<Endpoint>>,
    /// When something is due next; `None`: not before a notification.
    pub(super) next: Option<Instant>,
}

impl OutlierEjector {
    /// Ejects endpoints of the cluster that the log calls `service`.
    pub(crate) fn new(service: Arc<str>, events: Events) -> Self {
        Self {
            service,
            events,
            detector: Mutex::default(),
            to_probe: Mutex::default(),
            wakeup: Notify::new(),
            relieved: AtomicBool::new(false),
            totals: Default::default(),
        }
    }

    /// Checks an endpoint for which a request waits long. True when a recent probe could not connect;
    /// otherwise a probe may start.
    pub(crate) fn check_stalled(&self, endpoint: &Arc<Endpoint>, now: Instant) -> bool {
        let now = now.into_std();
        if endpoint.stall.is_unreachable(now) {
            return true;
        }
        if endpoint.stall.try_begin_probe(now) {
            self.to_probe.lock().push(endpoint.clone());
            self.wakeup.notify_one();
        }
        false
    }

    /// Counts of the endpoints in service, or of the last resorts where there is none, by state.
    pub(crate) fn counts(&self) -> EjectionCounts {
        self.detector.lock().counts()
    }

    /// Why an endpoint is ejected or on probation; `None`: it is healthy.
    pub(crate) fn ejection_of(&self, endpoint: &Arc<Endpoint>) -> Option<EjectionDetails> {
        self.detector.lock().ejection_details(endpoint)
    }

    /// Ejections so far: hard, soft, and those that the cap prevented.
    pub(crate) fn ejection_totals(&self) -> [u64; 3] {
        self.totals.each_ref().map(|total| total.load(Relaxed))
    }

    /// Sets the known endpoints, with what the registry lets be chosen.
    pub(crate) fn set_members(
        &self,
        settings: Option<&config::OutlierDetection>,
        members: Vec<(Arc<Endpoint>, Eligibility)>,
    ) {
        let events = self.detector.lock().set_members(settings, members, Instant::now().into_std());
        self.record_events(events);
    }

    /// Whether requests have somewhere else to go, as it was last said.
    pub(crate) fn is_relieved(&self) -> bool {
        self.relieved.load(Relaxed)
    }

    /// Says whether requests have somewhere else to go while no endpoint is healthy.
    pub(crate) fn set_relieved(&self, relieved: bool) {
        if self.is_relieved() == relieved {
            return;
        }
        let mut detector = self.detector.lock();
        self.relieved.store(relieved, Relaxed);
        let events = detector.set_relieved(relieved);
        drop(detector);
        if !events.is_empty() {
            self.record_events(events);
            self.wakeup.notify_one();
        }
    }

    /// Decides on the report of an attempt.
    pub(crate) fn report(
        &self,
        settings: Option<&config::OutlierDetection>,
        endpoint: &Arc<Endpoint>,
        report: Report,
        now: Instant,
    ) {
        let random = fastrand::u64(..);
        let events = self.detector.lock().report(settings, endpoint, report, now.into_std(), random);
        if !events.is_empty() {
            self.record_events(events);
            self.wakeup.notify_one();
        }
    }

    /// Records a probe's result; true when it has brought the endpoint back.
    pub(super) fn report_probe(
        &self,
        settings: Option<&config::OutlierDetection>,
        endpoint: &Arc<Endpoint>,
        connected: bool,
    ) -> bool {
        let (now, random) = (Instant::now().into_std(), fastrand::u64(..));
        let events = self.detector.lock().report_probe(settings, endpoint, connected, now, random);
        let is_return = |event: &_| matches!(event, EjectionEvent::Returned { by: ReturnedBy::Probe, .. });
        let returned = events.iter().any(is_return);
        self.record_events(events);
        returned
    }

    /// Lets time pass. `breaker_open`: the cluster's breaker lets no request pass.
    pub(super) fn advance(&self, now: Instant, breaker_open: bool) -> DueProbes {
        let due = self.detector.lock().advance(now.into_std(), breaker_open);
        self.record_events(due.events);
        DueProbes {
            ejected: due.probes,
            stalled: std::mem::take(&mut *self.to_probe.lock()),
            next: due.next.map(Instant::from_std),
        }
    }

    /// Logs and records that requests wait for an endpoint that accepts no connections.
    pub(super) fn record_unreachable(&self, endpoint: &Endpoint) {
        let (service, InstanceId { node, id: instance, .. }) = (&self.service, &endpoint.id);
        warn!(%service, %instance, %node, "instance does not answer, nor accept connections");
        self.record(EventKind::InstanceProbed, Some(endpoint), "it does not answer, nor accept connections");
    }

    fn record_events(&self, events: Vec<EjectionEvent<Endpoint>>) {
        let service = &self.service;
        for event in events {
            match event {
                EjectionEvent::Ejected { endpoint, reason, ejection_time } => {
                    self.totals[usize::from(!reason.is_hard())].fetch_add(1, Relaxed);
                    let (InstanceId { node, id: instance, .. }, why) = (&endpoint.id, reason.label());
                    warn!(%service, %instance, %node, why, for_at_least = ?ejection_time, "instance ejected");
                    let time = config::format_coarse_duration(ejection_time);
                    let reason = format!("{why}; for at least {time}");
                    self.record(EventKind::InstanceEjected, Some(&endpoint), reason);
                }
                EjectionEvent::CapReached { endpoint, reason } => {
                    self.totals[2].fetch_add(1, Relaxed);
                    let (InstanceId { node, id: instance, .. }, why) = (&endpoint.id, reason.label());
                    warn!(%service, %instance, %node, why, "instance not ejected: max_ejection_percent is reached");
                    let reason = format!("{why}; max_ejection_percent is reached");
                    self.record(EventKind::EjectionPrevented, Some(&endpoint), reason);
                }
                EjectionEvent::Probation { endpoint } => {
                    let InstanceId { node, id: instance, .. } = &endpoint.id;
                    info!(%service, %instance, %node, "instance is on probation");
                    let reason = "a probe has connected; the next request that may be retried decides";
                    self.record(EventKind::InstanceProbation, Some(&endpoint), reason);
                }
                EjectionEvent::Returned { endpoint, by } => {
                    let InstanceId { node, id: instance, .. } = &endpoint.id;
                    info!(%service, %instance, %node, by = ?by, "instance is healthy again");
                    let reason = match by {
                        ReturnedBy::Request => "a request has succeeded",
                        ReturnedBy::Probe => "a probe has connected",
                    };
                    self.record(EventKind::InstanceBack, Some(&endpoint), reason);
                }
                EjectionEvent::Panic(true) => {
                    warn!(%service, "panic mode: no healthy instance, so ejected ones may be picked");
                    self.record(
                        EventKind::PanicBegan,
                        None,
                        "no healthy instance, so ejected ones may be picked",
                    );
                }
                EjectionEvent::Panic(false) => {
                    info!(%service, "panic mode ends: an instance is healthy again");
                    self.record(EventKind::PanicEnded, None, "an instance is healthy again");
                }
            }
        }
    }

    fn record(&self, kind: EventKind, endpoint: Option<&Endpoint>, reason: impl AsRef<str>) {
        let event = Event::new(kind, reason).of_service(&self.service);
        self.events.record(match endpoint {
            Some(Endpoint { id: InstanceId { id, node, .. }, .. }) => event.of_instance(id).on_node(node),
            None => event,
        });
    }
}
