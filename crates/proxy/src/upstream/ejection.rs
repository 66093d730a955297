//! Takes endpoints out of the pick and brings them back: the acting half of what `policy::outlier`
//! decides.
//!
//! The judge sits behind one lock per cluster, so that two workers cannot take the last two out; a
//! request meets that lock only after a failure. Probes and the passing of time are one task's.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use outrigger_config as config;
use outrigger_policy::{
    Outcome, Sent,
    circuit_breaker::BreakerState,
    outlier_detection::{
        Detector, EjectionCounts, EjectionDetails, EjectionEvent, EndpointStats, FailureAttribution, Report,
        ReturnedBy,
    },
};
use parking_lot::Mutex;
use tokio::{sync::Notify, task::JoinSet, time::Instant};
use tracing::{info, warn};

use crate::upstream::{cluster::Cluster, connect::connect_outcome, endpoint::Endpoint};

/// With nothing due, the breaker is looked at this often: while it is open, probes are due.
const BREAKER_CHECK_INTERVAL: Duration = Duration::from_millis(250);

/// For how long it is said to those who wait that nobody is there. Whoever asks has waited for as long, so
/// that it is their own time in which it was lost.
const PROBE_RESULT_TTL: Duration = Duration::from_secs(1);

/// The judge of a cluster's endpoints.
#[derive(Debug)]
pub(crate) struct OutlierEjector {
    detector: Mutex<Detector>,
    /// Endpoints whose silence is to be looked into.
    to_probe: Mutex<Vec<Arc<Endpoint>>>,
    /// Rung when something has changed, so that the task asks again what is due.
    wakeup: Notify,
    /// Endpoints taken out: because nobody accepts there, and because of what they answered.
    hard_ejections: AtomicU64,
    soft_ejections: AtomicU64,
    capped_ejections: AtomicU64,
}

impl OutlierEjector {
    pub(crate) fn new(settings: Option<&config::OutlierDetection>) -> Self {
        Self {
            detector: Mutex::new(Detector::new(settings)),
            to_probe: Mutex::default(),
            wakeup: Notify::new(),
            hard_ejections: AtomicU64::new(0),
            soft_ejections: AtomicU64::new(0),
            capped_ejections: AtomicU64::new(0),
        }
    }

    /// Goes on by other settings; whoever is out stays out.
    pub(crate) fn apply_settings(&self, cluster: &Cluster, settings: Option<&config::OutlierDetection>) {
        let events = self.detector.lock().apply_settings(settings);
        self.handle_events(cluster, events);
    }

    /// The breaker may have opened: ask again what is due.
    pub(crate) fn wake(&self) {
        self.wakeup.notify_one();
    }

    /// A request has waited long for this endpoint's answer: is anybody there at all? True once that is
    /// known, and nobody is.
    pub(crate) fn check_stalled(&self, endpoint: &Arc<Endpoint>, now: Instant) -> bool {
        if now.checked_sub(PROBE_RESULT_TTL).is_some_and(|since| endpoint.unreachable_since(since)) {
            return true;
        }
        if endpoint.try_begin_probe(now) {
            self.to_probe.lock().push(endpoint.clone());
            self.wakeup.notify_one();
        }
        false
    }

    /// How many stand where.
    pub(crate) fn counts(&self) -> EjectionCounts {
        self.detector.lock().counts()
    }

    /// Why an endpoint is not trusted; `None`: it is.
    pub(crate) fn ejection_of(&self, record: &Arc<EndpointStats>) -> Option<EjectionDetails> {
        self.detector.lock().ejection_details(record)
    }

    /// Taken out so far: hard, soft, and those whom only the cap kept in.
    pub(crate) fn ejection_totals(&self) -> [u64; 3] {
        [
            self.hard_ejections.load(Relaxed),
            self.soft_ejections.load(Relaxed),
            self.capped_ejections.load(Relaxed),
        ]
    }

    /// Who is known now, and whom the registry lets be chosen.
    pub(crate) fn set_members(&self, cluster: &Cluster, members: Vec<(Arc<EndpointStats>, bool)>) {
        let events = self.detector.lock().set_members(members, Instant::now().into_std());
        self.handle_events(cluster, events);
    }

    /// An attempt ended in a way that the judge must hear of.
    pub(crate) fn report(
        &self,
        cluster: &Cluster,
        record: &Arc<EndpointStats>,
        report: Report,
        now: Instant,
    ) {
        let events = self.detector.lock().report(record, report, now.into_std(), fastrand::u64(..));
        if !events.is_empty() {
            self.handle_events(cluster, events);
            self.wakeup.notify_one();
        }
    }

    fn handle_events(&self, cluster: &Cluster, events: Vec<EjectionEvent>) {
        let service = &cluster.label;
        let name = |record: &Arc<EndpointStats>| {
            let view = cluster.view.load();
            let mut all = view.endpoints.iter().chain(&view.not_serving);
            all.find(|one| Arc::ptr_eq(&one.stats, record))
                .map_or_else(|| "-".into(), |one| one.id.id.clone())
        };
        for event in events {
            match event {
                EjectionEvent::Ejected { stats: record, reason: why, ejection_time: spell } => {
                    let count = if why.is_hard() { &self.hard_ejections } else { &self.soft_ejections };
                    count.fetch_add(1, Relaxed);
                    let (instance, why) = (name(&record), why.label());
                    warn!(%service, %instance, why, for_at_least = ?spell, "instance ejected");
                }
                EjectionEvent::CapReached { stats: record, reason: why } => {
                    self.capped_ejections.fetch_add(1, Relaxed);
                    let (instance, why) = (name(&record), why.label());
                    warn!(%service, %instance, why, "instance not ejected: max_ejection_percent is reached");
                }
                EjectionEvent::Probation { stats: record } => {
                    info!(%service, instance = %name(&record), "instance is tried out again");
                }
                EjectionEvent::Returned { stats: record, by } => {
                    info!(%service, instance = %name(&record), by = ?by, "instance trusted again");
                    if by == ReturnedBy::Probe {
                        cluster.breaker.half_open();
                    }
                }
                EjectionEvent::Panic(true) => warn!(%service, "no instance is trusted: all may be chosen"),
                EjectionEvent::Panic(false) => info!(%service, "an instance is trusted again"),
            }
        }
    }
}

/// Lets time pass for a cluster's endpoints and probes them, until the directory aborts it.
pub(crate) async fn run(cluster: Arc<Cluster>) {
    let mut probes = JoinSet::new();
    loop {
        let now = Instant::now().into_std();
        let open = cluster.breaker.state(now) != BreakerState::Closed;
        let due = cluster.ejector.detector.lock().advance(now, open);
        cluster.ejector.handle_events(&cluster, due.events);
        for record in due.probes {
            probes.spawn(probe_ejected(cluster.clone(), record));
        }
        let to_probe = std::mem::take(&mut *cluster.ejector.to_probe.lock());
        for endpoint in to_probe {
            probes.spawn(probe_stalled(cluster.clone(), endpoint));
        }
        let next_check = Instant::now() + BREAKER_CHECK_INTERVAL;
        let next = due.next.map_or(next_check, |next| Instant::from_std(next).min(next_check));
        // Nobody out, nothing open: only a ring can change that.
        let quiet = due.next.is_none() && !open;
        tokio::select! {
            () = cluster.ejector.wakeup.notified() => {}
            Some(_) = probes.join_next() => {}
            () = tokio::time::sleep_until(next), if !quiet => {}
        }
    }
}

/// Looks whether anybody is there, at the other end of requests that wait. A host that has vanished sends
/// no reset, so each connection to it would be believed in until its request's time is over. What is
/// found counts as any attempt's connect: two time-outs with no answer between take the endpoint out.
async fn probe_stalled(cluster: Arc<Cluster>, endpoint: Arc<Endpoint>) {
    let within = cluster.view.load().settings.policy.connect_timeout;
    let mut timeouts = 0;
    while timeouts < 2 {
        let Err(error) = outrigger_net::connect(endpoint.addr, within).await else { break };
        let outcome = connect_outcome(&error);
        let now = Instant::now();
        if let Some(mark) = endpoint.stats.begin_attempt(true)
            && let Some(report) =
                mark.record_end(&mut FailureAttribution::default(), outcome, Sent::Nothing, now.into_std())
        {
            cluster.ejector.report(&cluster, &endpoint.stats, report, now);
        }
        // One that refuses is there: what it has begun it may well be ending.
        if !matches!(outcome, Outcome::ConnectTimeout | Outcome::ConnectFailed) {
            break;
        }
        timeouts += 1;
    }
    if timeouts == 2 {
        warn!(service = %cluster.label, instance = %endpoint.id.id, "instance does not answer, nor accept connections");
    }
    endpoint.end_probe(timeouts == 2, Instant::now());
}

/// Tries a connection, which is closed at once.
async fn probe_ejected(cluster: Arc<Cluster>, record: Arc<EndpointStats>) {
    let (addr, within) = {
        let view = cluster.view.load();
        let Some(endpoint) = view.endpoints.iter().find(|one| Arc::ptr_eq(&one.stats, &record)) else {
            return;
        };
        (endpoint.addr, view.settings.policy.connect_timeout)
    };
    let connected = match outrigger_net::connect(addr, within).await {
        Ok(_) => true,
        // Our own shortage says nothing about the instance; the judge asks again.
        Err(error) if connect_outcome(&error) == Outcome::Resource => return,
        Err(_) => false,
    };
    let now = Instant::now().into_std();
    let events = cluster.ejector.detector.lock().report_probe(&record, connected, now, fastrand::u64(..));
    cluster.ejector.handle_events(&cluster, events);
}
