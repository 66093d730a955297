//! The locks of one sidecar: what its callers ask for, and what is held.

mod acquire;
mod attempt;
mod ending;
mod leases;
mod overview;
mod restore;
mod waiters;

use std::{
    collections::{HashMap, HashSet},
    path::Path,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use outrigger_config::LockSettings;
use outrigger_events::{Event, EventKind, Events};
use outrigger_policy::backoff::Backoff;
use outrigger_registry::{Error as RegistryError, KnownLock, LockPlace, Locks, SessionId, SessionInfo};
use outrigger_task::essential;
use parking_lot::Mutex;
use tokio::{
    runtime::Handle,
    sync::{OwnedSemaphorePermit, RwLock, Semaphore, oneshot, watch},
    time::{Instant, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    AcquireError, BootClock, HoldState, LockName, Released,
    hold::{EndOfHold, Hold, close_session},
    metrics::Metrics,
    record::{Record, RecordedHold},
    sightings::Sightings,
    view::{View, Views},
};

pub use overview::{HeldHere, LeaseHere, LockView, LockWatch, LocksOverview, WaitingHere};
use waiters::Waiters;
pub use waiters::Waiting;

/// Longest time of one call of the registry within an attempt.
const CALL_TIMEOUT: Duration = Duration::from_secs(15);
/// Pauses after an error of the registry.
const BACKOFF: Backoff = Backoff { base: Duration::from_millis(250), max: Duration::from_secs(2) };
/// How much later than the end of its wait a request is answered at most, whatever the registry does.
const ANSWER_MARGIN: Duration = Duration::from_secs(2);
/// Most sessions that are opened at once.
const MAX_OPENINGS: usize = 64;
/// Most locks that a next attempt needs one round trip for.
const MAX_KNOWN: usize = 1024;

/// A request for a lock.
#[derive(Debug, Clone)]
pub struct Acquire {
    /// Which lock.
    pub name: LockName,
    /// Most holders: 1 is a mutex.
    pub limit: u32,
    /// What others read of the holder. At most some kilobytes.
    pub value: Vec<u8>,
    /// Longest wait; 0: one attempt.
    pub wait: Duration,
    /// How long the hold outlives the last renewal that reached the registry, at most. Between 10 s and a day; else the next of the two.
    pub session_ttl: Duration,
    /// It is for the sidecar itself: no event says that the app holds it.
    pub is_internal: bool,
}

/// A lock that is held until this value is dropped.
#[derive(Debug)]
pub struct Held {
    hold: Arc<Hold>,
    clock: BootClock,
}

/// A lease: a lock that is held while it is renewed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// Its id, by which it is renewed and given back.
    pub id: String,
    /// The fencing token.
    pub token: u64,
    /// It ends when it is not renewed for this time. Less than was asked for while the registry does not confirm the session: what is left
    /// of its certain time.
    pub ttl: Duration,
    /// For how long it is held for certain from now on, when nothing more is heard of this sidecar: less than `ttl` where the registry does not
    /// answer.
    pub certain_for: Duration,
}

/// The locks of one sidecar. Clones are the same.
#[derive(Debug, Clone)]
pub struct LockManager(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    registry: Arc<dyn Locks>,
    settings: LockSettings,
    /// Shown as the name of every session.
    holder: String,
    events: Events,
    clock: BootClock,
    /// Where holds and watches run, whatever thread asks for them.
    runtime: Handle,
    views: Views,
    sightings: Arc<Sightings>,
    metrics: Metrics,
    record: Arc<Record>,
    /// By their ids: held ones, and those of which the session is being ended.
    holds: Mutex<HashMap<String, Arc<Hold>>>,
    /// Changes when a lease begins.
    leases_begun: watch::Sender<()>,
    /// Leases that are asked for, by their ids: the record has them before the registry is asked, so that a next process knows of one that was
    /// acquired in the moment in which this process was killed.
    asked_for: Mutex<HashMap<String, RecordedHold>>,
    queues: Mutex<HashMap<LockPlace, Weak<Queue>>>,
    /// What the last attempt or release of this process saw, so that the next attempt needs one round trip.
    known: Mutex<HashMap<LockPlace, KnownLock>>,
    /// The names of sessions, which do not change.
    session_infos: Mutex<HashMap<SessionId, SessionInfo>>,
    /// One for each session that the registry is asked to open: a registry that does not answer keeps no more connections in use.
    openings: Arc<Semaphore>,
    /// One for each hold, until its end is told.
    slots: Arc<Semaphore>,
    waiters: Waiters,
    /// A lock was asked for, or taken over.
    is_used: AtomicBool,
    /// Requests, and sessions that are being ended.
    tasks: TaskTracker,
    phase: Mutex<Phase>,
    /// Read while a hold begins and is written to the record. A writer of it knows that no hold begins, once this process drains.
    begins: Arc<RwLock<()>>,
    /// What an earlier process left and is not taken over yet. Absent: its record was not read yet.
    restoring: watch::Sender<Option<Vec<RecordedHold>>>,
}

/// How far this process is with its end. Replaced when another process has not taken its place.
#[derive(Debug, Clone, Default)]
struct Phase {
    draining: CancellationToken,
    /// Cancelled before `draining`: another process takes the place of this one.
    replaced: CancellationToken,
    /// Another process goes on with the leases.
    handed_over: CancellationToken,
}

impl Phase {
    /// Why no lock is acquired any more. Absent: this process goes on.
    fn refusal(&self) -> Option<AcquireError> {
        self.draining.is_cancelled().then(|| self.why_draining())
    }

    fn why_draining(&self) -> AcquireError {
        if self.replaced.is_cancelled() { AcquireError::HandedOver } else { AcquireError::Draining }
    }
}

/// The requests of this process for one lock.
#[derive(Debug, Default)]
struct Queue {
    /// One at a time waits for the lock, in their order. The others wait for their turn.
    turn: tokio::sync::Mutex<()>,
    /// One at a time asks the registry. When the last attempt began that found the lock held.
    attempt: tokio::sync::Mutex<Option<Instant>>,
}

impl LockManager {
    /// The locks of `registry`, with the record in `folder`. `holder` is the name of the sessions, for operators. Acquisitions and losses are
    /// recorded in `events`.
    /// [`restore`](Self::restore) is to be called once, when no earlier process uses the record any more. Must be called within the
    /// runtime that is to keep the locks.
    ///
    /// # Errors
    /// Never in practice: when a metric has no valid name.
    pub fn new(
        registry: Arc<dyn Locks>,
        settings: LockSettings,
        holder: String,
        folder: Option<&Path>,
        clock: BootClock,
        events: Events,
    ) -> Result<Self, prometheus::Error> {
        let runtime = Handle::current();
        let sightings = Arc::new(Sightings::new(clock));
        Ok(Self(Arc::new(Shared {
            views: Views::new(registry.clone(), runtime.clone(), sightings.clone()),
            sightings,
            metrics: Metrics::new()?,
            runtime,
            openings: Arc::new(Semaphore::new(MAX_OPENINGS)),
            slots: Arc::new(Semaphore::new(settings.max_held)),
            waiters: Waiters::new(settings.max_waiters),
            tasks: TaskTracker::new(),
            registry,
            settings,
            holder,
            events,
            clock,
            record: Record::new(folder),
            holds: Mutex::default(),
            leases_begun: watch::Sender::default(),
            asked_for: Mutex::default(),
            queues: Mutex::default(),
            known: Mutex::default(),
            session_infos: Mutex::default(),
            is_used: AtomicBool::new(false),
            phase: Mutex::default(),
            begins: Arc::default(),
            restoring: watch::Sender::default(),
        })))
    }

    /// Shows the metrics in `registry`, from the first request for a lock on.
    ///
    /// # Errors
    /// When they are registered there already.
    pub fn register_metrics(&self, registry: &prometheus::Registry) -> Result<(), prometheus::Error> {
        let shared = Arc::downgrade(&self.0);
        self.0.metrics.register(registry, move || shared.upgrade()?.load())
    }

    /// Acquires a lock that is held until the returned value is dropped. Dropping the future gives up, and gives back what was acquired
    /// meanwhile.
    ///
    /// # Errors
    /// When it was not acquired within the wait.
    pub async fn hold(&self, request: Acquire) -> Result<Held, AcquireError> {
        self.acquire(request, None).await.map(|hold| Held { hold, clock: self.0.clock })
    }

    /// Removes the key of a lock or semaphore that no session holds, so that another kind or limit can take its place. `false`: one
    /// holds it, or something else stands there. The lock-delay of a lost place of a semaphore is not waited for.
    ///
    /// # Errors
    /// When the registry does not answer.
    pub async fn remove_unused(&self, name: &LockName) -> Result<bool, RegistryError> {
        // A place of a semaphore shows both kinds.
        let place = self.0.place(name, 2);
        bounded("the removal of a lock", self.0.registry.remove_unused_lock(&place)).await
    }

    #[cfg(test)]
    pub(crate) fn record(&self) -> Arc<Record> {
        self.0.record.clone()
    }

    /// In a task of its own, which a caller that gives up does not cut off in the middle of an attempt.
    async fn acquire(
        &self,
        request: Acquire,
        lease: Option<(Option<String>, Duration)>,
    ) -> Result<Arc<Hold>, AcquireError> {
        let given_up = CancellationToken::new();
        let _gives_up = given_up.clone().drop_guard();
        let (sender, acquired) = oneshot::channel();
        let shared = self.0.clone();
        let task = async move {
            let result = shared.acquire(request, lease, &given_up).await;
            // Where nothing takes it, it is given back.
            let _ = sender.send(result.map(|hold| Undelivered(Some(hold))));
        };
        // Contained: one request.
        self.0.tasks.spawn_on(task, &self.0.runtime);
        let acquired = acquired.await.map(|result| result.map(Undelivered::deliver));
        match acquired {
            Ok(Ok(Some(hold))) if hold.loss_at(self.0.clock.now()).is_some() => {
                hold.release();
                // The process did not run for some time after the registry had answered.
                Err(AcquireError::Registry(late("a lock, until it was told", ANSWER_MARGIN)))
            }
            Ok(Ok(Some(hold))) => Ok(hold),
            Ok(Err(error)) => Err(error),
            // The task has panicked, which was reported.
            Ok(Ok(None)) | Err(_) => Err(AcquireError::Draining),
        }
    }
}

/// A hold on its way to the request that asked for it. Dropped on the way, it is given back.
struct Undelivered(Option<Arc<Hold>>);

impl Undelivered {
    fn deliver(mut self) -> Option<Arc<Hold>> {
        self.0.take()
    }
}

impl Drop for Undelivered {
    fn drop(&mut self) {
        if let Some(hold) = &self.0 {
            hold.give_up();
        }
    }
}

impl Held {
    /// The fencing token.
    pub fn token(&self) -> u64 {
        self.hold.grant.token
    }

    /// Its state, now and later.
    pub fn state(&self) -> watch::Receiver<HoldState> {
        self.hold.state.subscribe()
    }

    /// Whether it is held for certain now. Where it is not, its state follows at once.
    pub fn is_certain(&self) -> bool {
        self.hold.loss_at(self.clock.now()).is_none()
    }

    /// Gives the lock back.
    pub async fn release(self) -> Released {
        self.hold.release().await.unwrap_or(Released::Later)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.hold.release();
    }
}

impl Shared {
    fn phase(&self) -> Phase {
        self.phase.lock().clone()
    }

    fn draining(&self) -> CancellationToken {
        self.phase.lock().draining.clone()
    }

    fn handed_over(&self) -> CancellationToken {
        self.phase.lock().handed_over.clone()
    }

    fn held_ones(&self) -> Vec<Arc<Hold>> {
        self.holds.lock().values().filter(|hold| hold.is_held()).cloned().collect()
    }

    fn place(&self, name: &LockName, limit: u32) -> LockPlace {
        LockPlace { path: format!("{}/{name}", self.settings.prefix), limit: limit.max(1) }
    }

    /// For how long this process has held a lock by `session`.
    fn held_for(&self, session: &SessionId) -> Option<Duration> {
        let holds = self.holds.lock();
        let hold = holds.values().find(|hold| hold.grant.session == *session && hold.is_held())?;
        Some(self.clock.now().saturating_sub(hold.grant.acquired_at))
    }

    /// Starts to keep a hold that was acquired. `slot` absent: a lease of an earlier process beyond the limit.
    fn keep(
        self: &Arc<Self>,
        hold: Hold,
        view: View,
        slot: Option<OwnedSemaphorePermit>,
        mut known: KnownLock,
    ) -> Arc<Hold> {
        let hold = Arc::new(hold);
        self.is_used.store(true, Ordering::Relaxed);
        self.holds.lock().insert(hold.id.clone(), hold.clone());
        self.asked_for.lock().remove(&hold.id);
        if hold.lease.is_some() {
            self.leases_begun.send_replace(());
        }
        let (shared, kept) = (self.clone(), hold.clone());
        let name = format!("the hold of the lock {}", hold.grant.name);
        let task = async move {
            let record_end = |end: &HoldState| {
                drop(slot);
                shared.record_end(end, &kept);
            };
            let (registry, clock) = (&*shared.registry, shared.clock);
            let end = kept.keep(registry, clock, view, &mut known, record_end, shared.save()).await;
            shared.remember(&kept.grant.place, known);
            let close = close_session(registry, &kept.grant.session);
            match end {
                EndOfHold::Left => {}
                EndOfHold::Released => close.await,
                EndOfHold::Lost => _ = tokio::join!(shared.save(), close),
            }
            kept.freed.cancel();
            let mut holds = shared.holds.lock();
            if holds.get(&kept.id).is_some_and(|same| Arc::ptr_eq(same, &kept)) {
                holds.remove(&kept.id);
            }
        };
        self.tasks.spawn_on(essential(name, task), &self.runtime);
        hold
    }

    fn record_end(&self, end: &HoldState, hold: &Hold) {
        match end {
            HoldState::Lost(reason) => {
                self.metrics.count_lost(reason);
                self.record_event(EventKind::LockLost, hold, &format!(": {reason}"));
                if hold.lease.is_some() {
                    self.record.note_loss(&hold.id, hold.grant.name.as_str(), reason, self.clock.now());
                }
            }
            HoldState::Released | HoldState::Held => self.metrics.count_released(),
        }
    }

    fn record_event(&self, kind: EventKind, hold: &Hold, what: &str) {
        if hold.grant.is_internal {
            return;
        }
        let reason = format!("{} with token {}{what}", hold.grant.name, hold.grant.token);
        self.events.record(Event::new(kind, reason));
    }

    /// What the last attempt or release saw, which its next one gives back by [`remember`](Self::remember).
    fn take_known(&self, place: &LockPlace) -> KnownLock {
        let known = self.known.lock().remove(place);
        known.unwrap_or_default()
    }

    fn remember(&self, place: &LockPlace, known: KnownLock) {
        let mut all = self.known.lock();
        if all.len() >= MAX_KNOWN {
            all.clear();
        }
        all.insert(place.clone(), known);
    }

    /// Writes the record, and returns when it is on the disk, or soon where the disk hangs.
    async fn save(self: &Arc<Self>) {
        let shared = self.clone();
        self.record.save_holds(move || shared.to_be_saved()).await;
    }

    fn to_be_saved(&self) -> Vec<RecordedHold> {
        let (held, ending): (Vec<_>, Vec<_>) = {
            let holds = self.holds.lock();
            let known = holds.values().filter(|hold| hold.is_held() || !hold.freed.is_cancelled());
            known.map(|hold| (hold.is_held(), RecordedHold::of(hold))).partition(|(is_held, _)| *is_held)
        };
        let mut all: Vec<_> = held.into_iter().map(|(_, hold)| hold).collect();
        all.extend(self.asked_for.lock().values().cloned());
        all.extend(self.restoring.borrow().iter().flatten().cloned());
        // Last: a lease that another process has given back to this one may have the same id.
        all.extend(ending.into_iter().map(|(_, hold)| hold));
        if self.handed_over().is_cancelled() {
            // What connections hold stays with this process, which lives, and what was asked for is given back by it.
            all.retain(|recorded| recorded.lease.is_some() && recorded.token.is_some());
        }
        let mut ids = HashSet::new();
        all.retain(|recorded| ids.insert(recorded.id.clone()));
        all
    }
}

/// The registry bounds its calls too; this bound holds for every registry.
async fn bounded<T>(
    what: &str,
    call: impl Future<Output = Result<T, RegistryError>>,
) -> Result<T, RegistryError> {
    timeout(CALL_TIMEOUT, call).await.map_err(|_| late(what, CALL_TIMEOUT))?
}

fn late(what: &str, after: Duration) -> RegistryError {
    // For people: tenths of seconds.
    let tenths = ((after.as_millis() + 50) / 100).max(1).try_into().unwrap_or(u64::MAX);
    RegistryError::Timeout {
        request: what.to_owned(),
        after: Duration::from_millis(tenths.saturating_mul(100)),
    }
}

/// 128 random bits, because the id of a lease is all that it takes to give it back.
fn random_id() -> String {
    let mut bytes = [0_u8; 16];
    if rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty()).is_err() {
        fastrand::fill(&mut bytes);
    }
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
