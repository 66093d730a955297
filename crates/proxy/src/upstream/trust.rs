//! Takes endpoints out of the pick and brings them back: the acting half of what `policy::outlier`
//! decides.
//!
//! The judge sits behind one lock per cluster, so that two workers cannot take the last two out; a
//! request meets that lock only after a failure. Probes and the passing of time are one task's.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
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
use tokio::{sync::Notify, task::JoinSet, time::Instant};
use tracing::{info, warn};

use crate::upstream::{cluster::Cluster, connect, endpoint::Endpoint};

/// With nothing due, the breaker is looked at this often: while it is open, probes are due.
const LOOK: Duration = Duration::from_millis(250);

/// For how long it is said to those who wait that nobody is there. Whoever asks has waited for as long, so
/// that it is their own time in which it was lost.
const NEWS: Duration = Duration::from_secs(1);

/// The judge of a cluster's endpoints.
#[derive(Debug)]
pub(crate) struct Trust {
    judge: Mutex<Detector>,
    /// Endpoints whose silence is to be looked into.
    doubted: Mutex<Vec<Arc<Endpoint>>>,
    /// Rung when something has changed, so that the task asks again what is due.
    bell: Notify,
    /// Endpoints taken out: because nobody accepts there, and because of what they answered.
    hard: AtomicU64,
    soft: AtomicU64,
    spared: AtomicU64,
}

impl Trust {
    pub(crate) fn new(settings: Option<&config::OutlierDetection>) -> Self {
        Self {
            judge: Mutex::new(Detector::new(settings)),
            doubted: Mutex::default(),
            bell: Notify::new(),
            hard: AtomicU64::new(0),
            soft: AtomicU64::new(0),
            spared: AtomicU64::new(0),
        }
    }

    /// Goes on by other settings; whoever is out stays out.
    pub(crate) fn adopt(&self, cluster: &Cluster, settings: Option<&config::OutlierDetection>) {
        let events = self.judge().apply_settings(settings);
        self.tell(cluster, events);
    }

    /// The breaker may have opened: ask again what is due.
    pub(crate) fn ring(&self) {
        self.bell.notify_one();
    }

    /// A request has waited long for this endpoint's answer: is anybody there at all? True once that is
    /// known, and nobody is.
    pub(crate) fn doubt(&self, endpoint: &Arc<Endpoint>, now: Instant) -> bool {
        if now.checked_sub(NEWS).is_some_and(|since| endpoint.lost_after(since)) {
            return true;
        }
        if endpoint.begin_doubt(now) {
            self.doubted.lock().unwrap_or_else(PoisonError::into_inner).push(endpoint.clone());
            self.bell.notify_one();
        }
        false
    }

    fn judge(&self) -> MutexGuard<'_, Detector> {
        self.judge.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many stand where.
    pub(crate) fn counts(&self) -> EjectionCounts {
        self.judge().counts()
    }

    /// Why an endpoint is not trusted; `None`: it is.
    pub(crate) fn why_not(&self, record: &Arc<EndpointStats>) -> Option<EjectionDetails> {
        self.judge().ejection_details(record)
    }

    /// Taken out so far: hard, soft, and those whom only the cap kept in.
    pub(crate) fn ejected(&self) -> [u64; 3] {
        [self.hard.load(Relaxed), self.soft.load(Relaxed), self.spared.load(Relaxed)]
    }

    /// Who is known now, and whom the registry lets be chosen.
    pub(crate) fn follow(&self, cluster: &Cluster, members: Vec<(Arc<EndpointStats>, bool)>) {
        let events = self.judge().set_members(members, Instant::now().into_std());
        self.tell(cluster, events);
    }

    /// An attempt ended in a way that the judge must hear of.
    pub(crate) fn report(
        &self,
        cluster: &Cluster,
        record: &Arc<EndpointStats>,
        report: Report,
        now: Instant,
    ) {
        let events = self.judge().report(record, report, now.into_std(), fastrand::u64(..));
        if !events.is_empty() {
            self.tell(cluster, events);
            self.bell.notify_one();
        }
    }

    fn tell(&self, cluster: &Cluster, events: Vec<EjectionEvent>) {
        let service = &cluster.label;
        let name = |record: &Arc<EndpointStats>| {
            let view = cluster.view.load();
            let mut all = view.endpoints.iter().chain(&view.resting);
            all.find(|one| Arc::ptr_eq(&one.record, record))
                .map_or_else(|| "-".into(), |one| one.id.id.clone())
        };
        for event in events {
            match event {
                EjectionEvent::Ejected { stats: record, reason: why, ejection_time: spell } => {
                    let count = if why.is_hard() { &self.hard } else { &self.soft };
                    count.fetch_add(1, Relaxed);
                    let (instance, why) = (name(&record), why.label());
                    warn!(%service, %instance, why, for_at_least = ?spell, "instance ejected");
                }
                EjectionEvent::CapReached { stats: record, reason: why } => {
                    self.spared.fetch_add(1, Relaxed);
                    let (instance, why) = (name(&record), why.label());
                    warn!(%service, %instance, why, "instance not ejected: max_ejected are out");
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
pub(crate) async fn watch(cluster: Arc<Cluster>) {
    let mut probes = JoinSet::new();
    loop {
        let now = Instant::now().into_std();
        let open = cluster.breaker.state(now) != BreakerState::Closed;
        let due = cluster.trust.judge().advance(now, open);
        cluster.trust.tell(&cluster, due.events);
        for record in due.probes {
            probes.spawn(probe(cluster.clone(), record));
        }
        let doubted =
            std::mem::take(&mut *cluster.trust.doubted.lock().unwrap_or_else(PoisonError::into_inner));
        for endpoint in doubted {
            probes.spawn(examine(cluster.clone(), endpoint));
        }
        let look = Instant::now() + LOOK;
        let next = due.next.map_or(look, |next| Instant::from_std(next).min(look));
        // Nobody out, nothing open: only a ring can change that.
        let quiet = due.next.is_none() && !open;
        tokio::select! {
            () = cluster.trust.bell.notified() => {}
            Some(_) = probes.join_next() => {}
            () = tokio::time::sleep_until(next), if !quiet => {}
        }
    }
}

/// Looks whether anybody is there, at the other end of requests that wait. A host that has vanished sends
/// no reset, so each connection to it would be believed in until its request's time is over. What is
/// found counts as any attempt's connect: two time-outs with no answer between take the endpoint out.
async fn examine(cluster: Arc<Cluster>, endpoint: Arc<Endpoint>) {
    let within = cluster.view.load().terms.policy.connect_timeout;
    let mut silent = 0;
    while silent < 2 {
        let Err(error) = connect::connect(endpoint.addr, within).await else { break };
        let now = Instant::now();
        if let Some(mark) = endpoint.record.begin_attempt(true)
            && let Some(report) = mark.record_end(
                &mut FailureAttribution::default(),
                error.outcome,
                Sent::Nothing,
                now.into_std(),
            )
        {
            cluster.trust.report(&cluster, &endpoint.record, report, now);
        }
        // One that refuses is there: what it has begun it may well be ending.
        if !matches!(error.outcome, Outcome::ConnectTimeout | Outcome::ConnectFailed) {
            break;
        }
        silent += 1;
    }
    if silent == 2 {
        warn!(service = %cluster.label, instance = %endpoint.id.id, "instance does not answer, nor accept connections");
    }
    endpoint.end_doubt(silent == 2, Instant::now());
}

/// Tries a connection, which is closed at once.
async fn probe(cluster: Arc<Cluster>, record: Arc<EndpointStats>) {
    let (addr, within) = {
        let view = cluster.view.load();
        let Some(endpoint) = view.endpoints.iter().find(|one| Arc::ptr_eq(&one.record, &record)) else {
            return;
        };
        (endpoint.addr, view.terms.policy.connect_timeout)
    };
    let connected = match connect::connect(addr, within).await {
        Ok(_) => true,
        // Our own shortage says nothing about the instance; the judge asks again.
        Err(error) if error.outcome == Outcome::Resource => return,
        Err(_) => false,
    };
    let now = Instant::now().into_std();
    let events = cluster.trust.judge().report_probe(&record, connected, now, fastrand::u64(..));
    cluster.trust.tell(&cluster, events);
}
