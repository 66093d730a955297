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
    Outcome,
    breaker::State,
    outlier::{Counts, Ejected, Event, Judge, Record, Report, ReturnedBy},
};
use tokio::{sync::Notify, task::JoinSet, time::Instant};
use tracing::{info, warn};

use crate::upstream::{cluster::Cluster, connect};

/// With nothing due, the breaker is looked at this often: while it is open, probes are due.
const LOOK: Duration = Duration::from_millis(250);

/// The judge of a cluster's endpoints.
#[derive(Debug)]
pub(crate) struct Trust {
    judge: Mutex<Judge>,
    /// Rung when something has changed, so that the task asks again what is due.
    bell: Notify,
    /// Endpoints taken out: because nobody accepts there, and because of what they answered.
    hard: AtomicU64,
    soft: AtomicU64,
    spared: AtomicU64,
}

impl Trust {
    pub(crate) fn new(settings: Option<&config::Outlier>) -> Self {
        Self {
            judge: Mutex::new(Judge::new(settings)),
            bell: Notify::new(),
            hard: AtomicU64::new(0),
            soft: AtomicU64::new(0),
            spared: AtomicU64::new(0),
        }
    }

    /// The breaker may have opened: ask again what is due.
    pub(crate) fn ring(&self) {
        self.bell.notify_one();
    }

    fn judge(&self) -> MutexGuard<'_, Judge> {
        self.judge.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many stand where.
    pub(crate) fn counts(&self) -> Counts {
        self.judge().counts()
    }

    /// Why an endpoint is not trusted; `None`: it is.
    pub(crate) fn why_not(&self, record: &Arc<Record>) -> Option<Ejected> {
        self.judge().ejected(record)
    }

    /// Taken out so far: hard, soft, and those whom only the cap kept in.
    pub(crate) fn ejected(&self) -> [u64; 3] {
        [self.hard.load(Relaxed), self.soft.load(Relaxed), self.spared.load(Relaxed)]
    }

    /// Who is known now, and whom the registry lets be chosen.
    pub(crate) fn follow(&self, cluster: &Cluster, members: Vec<(Arc<Record>, bool)>) {
        let events = self.judge().follow(members, Instant::now().into_std());
        self.tell(cluster, events);
    }

    /// An attempt ended in a way that the judge must hear of.
    pub(crate) fn report(&self, cluster: &Cluster, record: &Arc<Record>, report: Report, now: Instant) {
        let events = self.judge().ask(record, report, now.into_std(), fastrand::u64(..));
        if !events.is_empty() {
            self.tell(cluster, events);
            self.bell.notify_one();
        }
    }

    fn tell(&self, cluster: &Cluster, events: Vec<Event>) {
        let service = &cluster.label;
        let name = |record: &Arc<Record>| {
            let view = cluster.view.load();
            let mut all = view.endpoints.iter().chain(&view.resting);
            all.find(|one| Arc::ptr_eq(&one.record, record))
                .map_or_else(|| "-".into(), |one| one.id.id.clone())
        };
        for event in events {
            match event {
                Event::Ejected { record, why, spell } => {
                    let count = if why.is_hard() { &self.hard } else { &self.soft };
                    count.fetch_add(1, Relaxed);
                    let (instance, why) = (name(&record), why.label());
                    warn!(%service, %instance, why, for_at_least = ?spell, "instance ejected");
                }
                Event::Spared { record, why } => {
                    self.spared.fetch_add(1, Relaxed);
                    let (instance, why) = (name(&record), why.label());
                    warn!(%service, %instance, why, "instance not ejected: max_ejected are out");
                }
                Event::Probation { record } => {
                    info!(%service, instance = %name(&record), "instance is tried out again");
                }
                Event::Returned { record, by } => {
                    info!(%service, instance = %name(&record), by = ?by, "instance trusted again");
                    if by == ReturnedBy::Probe {
                        cluster.breaker.half_open();
                    }
                }
                Event::Panic(true) => warn!(%service, "no instance is trusted: all may be chosen"),
                Event::Panic(false) => info!(%service, "an instance is trusted again"),
            }
        }
    }
}

/// Lets time pass for a cluster's endpoints and probes them, until the directory aborts it.
pub(crate) async fn watch(cluster: Arc<Cluster>) {
    let mut probes = JoinSet::new();
    loop {
        let now = Instant::now().into_std();
        let open = cluster.breaker.state(now) != State::Closed;
        let due = cluster.trust.judge().due(now, open);
        cluster.trust.tell(&cluster, due.events);
        for record in due.probes {
            probes.spawn(probe(cluster.clone(), record));
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

/// Tries a connection, which is closed at once.
async fn probe(cluster: Arc<Cluster>, record: Arc<Record>) {
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
    let events = cluster.trust.judge().probed(&record, connected, now, fastrand::u64(..));
    cluster.trust.tell(&cluster, events);
}
