//! The locks of one sidecar: what its callers ask for, and what is held.

mod acquire;
mod overview;
mod restore;
mod waiters;

use std::{
    collections::HashMap,
    path::Path,
    sync::{Arc, Weak},
    time::Duration,
};

use outrigger_config::LockSettings;
use outrigger_events::{Event, EventKind, Events};
use outrigger_policy::backoff::Backoff;
use outrigger_registry::{Error as RegistryError, KnownLock, LockPlace, Locks, SessionId};
use outrigger_task::essential;
use parking_lot::Mutex;
use tokio::{
    runtime::Handle,
    sync::{OwnedSemaphorePermit, Semaphore, oneshot, watch},
    time::{sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    AcquireError, BootClock, HoldState, LeaseError, LockName, LossReason, Released,
    hold::Hold,
    metrics::Metrics,
    record::{Record, RecordedHold},
    sightings::Sightings,
    view::{View, Views, WatchedLock},
};

pub use overview::{HeldHere, LeaseHere, LockView, LocksOverview, WaitingHere};
use waiters::Waiters;
pub use waiters::Waiting;

/// Longest time of one call of the registry within an attempt.
const CALL_TIMEOUT: Duration = Duration::from_secs(15);
/// Pauses after an error of the registry.
const BACKOFF: Backoff = Backoff { base: Duration::from_millis(250), max: Duration::from_secs(2) };
/// How long a lost hold can still be asked for by its id.
const REMEMBER_LOSS: Duration = Duration::from_secs(600);
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

/// The changes of a lock.
#[derive(Debug)]
pub struct LockWatch {
    view: View,
    told: Option<WatchedLock>,
}

impl LockWatch {
    /// What is seen next: at first the present state, then each that differs. Dropping the future loses nothing.
    pub async fn next(&mut self) -> WatchedLock {
        loop {
            let seen = self.view.last().map(WatchedLock::from);
            if let Some(seen) = seen.filter(|seen| self.told.as_ref() != Some(seen)) {
                self.told = Some(seen.clone());
                return seen;
            }
            self.view.changed().await;
        }
    }
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
    record: Record,
    /// By their ids: held ones, and lost ones for [`REMEMBER_LOSS`].
    holds: Mutex<HashMap<String, Arc<Hold>>>,
    queues: Mutex<HashMap<LockPlace, Weak<Queue>>>,
    /// What the last attempt or release of this process saw, so that the next attempt needs one round trip.
    known: Mutex<HashMap<LockPlace, KnownLock>>,
    /// One for each hold, until its session is ended.
    slots: Arc<Semaphore>,
    waiters: Waiters,
    /// Requests, and sessions that no hold uses and that are being ended.
    tasks: TaskTracker,
    /// Replaced when a drain is taken back.
    draining: Mutex<CancellationToken>,
    /// Leases of an earlier process that are not taken over yet. Absent: its record was not read yet.
    restoring: Mutex<Option<Vec<RecordedHold>>>,
}

/// The requests of this process for one lock: one at a time asks the registry, in their order.
#[derive(Debug, Default)]
struct Queue {
    turn: tokio::sync::Mutex<()>,
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
            queues: Mutex::default(),
            known: Mutex::default(),
            draining: Mutex::default(),
            restoring: Mutex::default(),
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

    /// Reads what an earlier process left: takes over its leases, and ends the sessions of its connections. Returns when that is done,
    /// or after a minute.
    pub async fn restore(&self) {
        let shared = self.0.clone();
        let read = tokio::task::spawn_blocking(move || shared.record.read());
        // A panic of the reader was reported.
        let left = read.await.unwrap_or_default();
        *self.0.restoring.lock() = Some(left.clone());
        let each = left.into_iter().map(|recorded| {
            let manager = self.clone();
            // Contained: one hold of an earlier process.
            self.0.runtime.spawn(async move { manager.0.restore(recorded).await })
        });
        let tasks: Vec<_> = each.collect();
        for task in tasks {
            let _ = task.await;
        }
    }

    /// Acquires a lock that is held until the returned value is dropped. Dropping the future gives up, and gives back what was acquired
    /// meanwhile.
    ///
    /// # Errors
    /// When it was not acquired within the wait.
    pub async fn hold(&self, request: Acquire) -> Result<Held, AcquireError> {
        self.acquire(request, None).await.map(|hold| Held { hold, clock: self.0.clock })
    }

    /// Acquires a lock for a lease of `ttl`. The same owner gets the lease that it has.
    ///
    /// # Errors
    /// When it was not acquired within the wait.
    pub async fn lease(
        &self,
        request: Acquire,
        owner: Option<String>,
        ttl: Duration,
    ) -> Result<Lease, AcquireError> {
        let request = Acquire { session_ttl: request.session_ttl.max(ttl), ..request };
        let hold = self.acquire(request, Some((owner, ttl))).await?;
        Ok(self.0.lease_now(&hold))
    }

    /// Lets a lease begin again.
    ///
    /// # Errors
    /// When it is lost or unknown.
    pub fn renew(&self, id: &str) -> Result<Lease, LeaseError> {
        let hold = self.0.find_lease(id).ok_or(LeaseError::Unknown)?;
        if let Some(reason) = hold.loss_at(self.0.clock.now()) {
            // What was told stays true.
            hold.lose(reason.clone());
            return Err(LeaseError::Lost(reason));
        }
        if !hold.is_held() {
            return Err(LeaseError::Unknown);
        }
        hold.extend(self.0.clock.now());
        Ok(self.0.lease_now(&hold))
    }

    /// Gives a lease back.
    ///
    /// # Errors
    /// When it is lost or unknown.
    pub async fn release(&self, id: &str) -> Result<Released, LeaseError> {
        let hold = self.0.find_lease(id).ok_or(LeaseError::Unknown)?;
        if let HoldState::Lost(reason) = &*hold.state.borrow() {
            return Err(LeaseError::Lost(reason.clone()));
        }
        Ok(hold.release().await.unwrap_or(Released::Later))
    }

    /// Whether a lease of an earlier process is not taken over yet: a request about it should be repeated soon.
    pub fn is_restoring(&self, id: &str) -> bool {
        match &*self.0.restoring.lock() {
            Some(left) => left.iter().any(|recorded| recorded.id == id && recorded.lease.is_some()),
            None => self.0.record.is_on_disk(),
        }
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

    /// How many locks are held.
    pub fn held(&self) -> usize {
        self.0.held_ones().len()
    }

    /// Resolves when no lock is held by a connection or a lease. Dropping the future loses nothing.
    pub async fn wait_until_free(&self) {
        for hold in self.0.held_ones() {
            let _ = hold.state.subscribe().wait_for(|state| *state != HoldState::Held).await;
        }
    }

    /// Cancelled when the sidecar drains: holders should give their locks back.
    pub fn draining(&self) -> CancellationToken {
        self.0.draining()
    }

    /// Acquires no more locks from now on, and tells the holders.
    pub fn drain(&self) {
        self.0.draining().cancel();
    }

    /// Leaves the leases to another process of this sidecar, which reads them from the record: from now on this process writes nothing
    /// there. What connections hold stays until they end.
    pub async fn hand_over(&self) {
        self.drain();
        self.0.save().await;
        self.0.record.freeze(true).await;
        let leases: Vec<_> = self.0.held_ones().into_iter().filter(|hold| hold.lease.is_some()).collect();
        leases.iter().for_each(|hold| hold.leave());
    }

    /// The other process has ended: acquires locks again, and takes the leases back.
    pub async fn take_back(&self) {
        self.0.record.freeze(false).await;
        *self.0.draining.lock() = CancellationToken::new();
        self.restore().await;
    }

    /// Ends what is still held: each loss is told first, then its session is ended, so that the registry keeps the lock closed for its
    /// delay. Returns when it is done, or after `grace`.
    pub async fn shutdown(&self, grace: Duration) {
        self.drain();
        for hold in self.0.held_ones() {
            hold.lose(LossReason::Drained);
        }
        let all_told = async {
            self.wait_until_free().await;
            self.0.tasks.close();
            self.0.tasks.wait().await;
            // Each keeps its slot until its session is ended.
            let all = u32::try_from(self.0.settings.max_held).unwrap_or(u32::MAX);
            let _ = self.0.slots.acquire_many(all).await;
        };
        let _ = timeout(grace, all_told).await;
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
            if let Err(Ok(unwanted)) = sender.send(result) {
                unwanted.release();
            }
        };
        // Contained: one request.
        self.0.tasks.spawn_on(task, &self.0.runtime);
        match acquired.await {
            Ok(Ok(hold)) if hold.loss_at(self.0.clock.now()).is_some() => {
                hold.release();
                // The process did not run for some time after the registry had answered.
                Err(AcquireError::Registry(late("a lock, until it was told")))
            }
            Ok(result) => result,
            // The task has panicked, which was reported.
            Err(_) => Err(AcquireError::Draining),
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
    fn draining(&self) -> CancellationToken {
        self.draining.lock().clone()
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

    fn find_lease(&self, id: &str) -> Option<Arc<Hold>> {
        self.holds.lock().get(id).filter(|hold| hold.lease.is_some()).cloned()
    }

    fn lease_now(&self, hold: &Hold) -> Lease {
        let now = self.clock.now();
        Lease {
            id: hold.id.clone(),
            token: hold.grant.token,
            ttl: hold.promised(now),
            certain_for: hold.certain_until().saturating_sub(now),
        }
    }

    /// Whether `owner` may have a lease of an earlier process there, which is not taken over yet.
    fn is_restoring_of(&self, place: &LockPlace, owner: Option<&str>) -> bool {
        let Some(owner) = owner else { return false };
        match &*self.restoring.lock() {
            Some(left) => left.iter().any(|recorded| {
                recorded.path == place.path
                    && recorded.lease.as_ref().is_some_and(|lease| lease.owner.as_deref() == Some(owner))
            }),
            None => self.record.is_on_disk(),
        }
    }

    /// The lease that `owner` has there.
    fn lease_of(&self, place: &LockPlace, owner: Option<&str>) -> Option<Arc<Hold>> {
        let owner = owner?;
        let is_of_owner = |hold: &&Arc<Hold>| {
            hold.grant.place == *place
                && hold.is_held()
                && hold.loss_at(self.clock.now()).is_none()
                && hold.lease.as_ref().is_some_and(|lease| lease.owner.as_deref() == Some(owner))
        };
        self.holds.lock().values().find(is_of_owner).cloned()
    }

    /// Starts to keep a hold that was acquired.
    fn keep(
        self: &Arc<Self>,
        hold: Hold,
        view: View,
        slot: OwnedSemaphorePermit,
        mut known: KnownLock,
    ) -> Arc<Hold> {
        let hold = Arc::new(hold);
        self.holds.lock().insert(hold.id.clone(), hold.clone());
        let (shared, kept) = (self.clone(), hold.clone());
        let name = format!("the hold of the lock {}", hold.grant.name);
        self.runtime.spawn(essential(name, async move {
            let record_end = |end: &HoldState| match end {
                HoldState::Lost(reason) => {
                    shared.metrics.count_lost(reason);
                    shared.record_event(EventKind::LockLost, &kept, &format!(": {reason}"));
                }
                HoldState::Released | HoldState::Held => shared.metrics.count_released(),
            };
            kept.keep(&*shared.registry, shared.clock, view, &mut known, record_end).await;
            drop(slot);
            shared.remember(&kept.grant.place, known);
            shared.save().await;
            if matches!(*kept.state.borrow(), HoldState::Lost(_)) {
                sleep(REMEMBER_LOSS).await;
            }
            shared.holds.lock().remove(&kept.id);
        }));
        hold
    }

    fn record_event(&self, kind: EventKind, hold: &Hold, what: &str) {
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

    async fn save(&self) {
        let holds = || {
            let holds = self.holds.lock();
            let held = holds.values().filter(|hold| hold.is_held()).map(|hold| RecordedHold::of(hold));
            held.chain(self.restoring.lock().iter().flatten().cloned()).collect()
        };
        self.record.save_holds(holds).await;
    }
}

/// The registry bounds its calls too; this bound holds for every registry.
async fn bounded<T>(
    what: &str,
    call: impl Future<Output = Result<T, RegistryError>>,
) -> Result<T, RegistryError> {
    timeout(CALL_TIMEOUT, call).await.map_err(|_| late(what))?
}

fn late(what: &str) -> RegistryError {
    RegistryError::Timeout { request: what.to_owned(), after: CALL_TIMEOUT }
}

/// 128 random bits, because the id of a lease is all that it takes to give it back.
fn random_id() -> String {
    let mut bytes = [0_u8; 16];
    if rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty()).is_err() {
        fastrand::fill(&mut bytes);
    }
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
