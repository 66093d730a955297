//! The locks of one sidecar: what its callers ask for, and what is held.

mod acquire;
mod restore;

use std::{
    collections::HashMap,
    path::Path,
    sync::{Arc, Weak},
    time::Duration,
};

use outrigger_policy::backoff::Backoff;
use outrigger_registry::{Cursor, Error as RegistryError, KnownLock, LockAnswer, LockPlace, Locks};
use outrigger_task::essential;
use parking_lot::Mutex;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, oneshot, watch},
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{
    AcquireError, BootClock, HoldState, LeaseError, LockName, LockSettings, LossReason, Released,
    hold::Hold,
    record::{HoldTable, Record, RecordedHold},
    validity::Validity,
    view::{View, Views},
};

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
}

/// A lease: a lock that is held while it is renewed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// Its id, by which it is renewed and given back.
    pub id: String,
    /// The fencing token.
    pub token: u64,
    /// It ends when it is not renewed for this time.
    pub ttl: Duration,
}

/// A lock as an operator sees it.
#[derive(Debug, Clone)]
pub struct LockView {
    /// What the registry says.
    pub answer: LockAnswer,
    /// Requests of this sidecar that wait for it.
    pub waiters: usize,
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
    clock: BootClock,
    views: Views,
    record: Record,
    /// Held ones, and lost ones for [`REMEMBER_LOSS`].
    holds: Mutex<HoldTable>,
    queues: Mutex<HashMap<LockPlace, Weak<Queue>>>,
    /// What the last attempt or release of this process saw, so that the next attempt needs one round trip.
    known: Mutex<HashMap<LockPlace, KnownLock>>,
    slots: Arc<Semaphore>,
    waiters: Arc<Semaphore>,
    draining: CancellationToken,
    /// Leases of an earlier process that are not taken over yet.
    restoring: Mutex<Vec<RecordedHold>>,
}

/// The requests of this process for one lock: one at a time asks the registry, in their order.
#[derive(Debug, Default)]
struct Queue {
    turn: tokio::sync::Mutex<()>,
}

impl LockManager {
    /// The locks of `registry`, with the record in `folder`. `holder` is the name of the sessions, for operators. Reads the record:
    /// blocks. [`restore`](Self::restore) is to be called once.
    pub fn new(
        registry: Arc<dyn Locks>,
        settings: LockSettings,
        holder: String,
        folder: Option<&Path>,
        clock: BootClock,
    ) -> Self {
        let (record, left) = Record::open(folder);
        Self(Arc::new(Shared {
            views: Views::new(registry.clone()),
            slots: Arc::new(Semaphore::new(settings.max_held)),
            waiters: Arc::new(Semaphore::new(settings.max_waiters)),
            registry,
            settings,
            holder,
            clock,
            record,
            holds: Mutex::default(),
            queues: Mutex::default(),
            known: Mutex::default(),
            draining: CancellationToken::new(),
            restoring: Mutex::new(left),
        }))
    }

    /// Takes over the leases of an earlier process, and ends the sessions of its connections. Returns when that is done, or after a
    /// minute.
    pub async fn restore(&self) {
        let left = self.0.restoring.lock().clone();
        let each = left.into_iter().map(|recorded| {
            let manager = self.clone();
            // Contained: one hold of an earlier process.
            tokio::spawn(async move { manager.0.restore(recorded).await })
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
        self.acquire(request, None).await.map(|hold| Held { hold })
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
        Ok(Lease { id: hold.id.clone(), token: hold.token, ttl })
    }

    /// Lets a lease begin again.
    ///
    /// # Errors
    /// When it is lost or unknown.
    pub fn renew(&self, id: &str) -> Result<Lease, LeaseError> {
        let hold = self.0.find_lease(id).ok_or(LeaseError::Unknown)?;
        match &*hold.state.borrow() {
            HoldState::Lost(reason) => return Err(LeaseError::Lost(reason.clone())),
            HoldState::Released => return Err(LeaseError::Unknown),
            HoldState::Held => {}
        }
        hold.extend(self.0.clock.now());
        let ttl = hold.lease.as_ref().map_or(Duration::ZERO, |lease| lease.ttl);
        Ok(Lease { id: hold.id.clone(), token: hold.token, ttl })
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
        self.0.restoring.lock().iter().any(|recorded| recorded.id == id && recorded.lease.is_some())
    }

    /// What the registry says of a lock now.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn view(&self, name: &LockName) -> Result<LockView, RegistryError> {
        // A place of a semaphore shows both kinds.
        let place = self.0.place(name, 2);
        let answer = self.0.registry.watch_lock(&place, Cursor::START, CALL_TIMEOUT).await?;
        let queues = self.0.queues.lock();
        let of_name = queues.iter().filter(|(place, _)| place.path == self.0.place(name, 1).path);
        let waiters = of_name.map(|(_, queue)| queue.strong_count()).sum();
        Ok(LockView { answer, waiters })
    }

    /// How many locks are held.
    pub fn held(&self) -> usize {
        self.0.holds.lock().values().filter(|(hold, _)| hold.is_held()).count()
    }

    /// Cancelled when the sidecar drains: holders should give their locks back.
    pub fn draining(&self) -> CancellationToken {
        self.0.draining.clone()
    }

    /// Acquires no more locks from now on, and tells the holders.
    pub fn drain(&self) {
        self.0.draining.cancel();
    }

    /// Ends what is still held: each loss is told first, then its session is ended, so that the registry keeps the lock closed for its
    /// delay. With `keep_leases` the leases stay for the next process. Returns when it is done, or after `grace`.
    pub async fn shutdown(&self, grace: Duration, keep_leases: bool) {
        self.drain();
        if keep_leases {
            self.0.save().await;
        }
        let is_ended = |hold: &Arc<Hold>| hold.is_held() && !(keep_leases && hold.lease.is_some());
        let held: Vec<_> =
            self.0.holds.lock().values().map(|(hold, _)| hold.clone()).filter(is_ended).collect();
        for hold in &held {
            hold.lose(LossReason::Drained);
        }
        let all_told = async {
            for hold in held {
                let _ = hold.state.subscribe().wait_for(|state| *state != HoldState::Held).await;
            }
            // Each keeps its slot until its session is ended.
            let kept = if keep_leases { self.held() } else { 0 };
            let most = self.0.settings.max_held.saturating_sub(kept);
            let _ = self.0.slots.acquire_many(u32::try_from(most).unwrap_or(u32::MAX)).await;
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
        // Contained: one request.
        tokio::spawn(async move {
            let result = shared.acquire(request, lease, &given_up).await;
            if let Err(Ok(unwanted)) = sender.send(result) {
                unwanted.release();
            }
        });
        match acquired.await {
            Ok(result) => result,
            // The task has panicked, which was reported.
            Err(_) => Err(AcquireError::Draining),
        }
    }
}

impl Held {
    /// The fencing token.
    pub fn token(&self) -> u64 {
        self.hold.token
    }

    /// Its state, now and later.
    pub fn state(&self) -> watch::Receiver<HoldState> {
        self.hold.state.subscribe()
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
    fn place(&self, name: &LockName, limit: u32) -> LockPlace {
        LockPlace { path: format!("{}/{name}", self.settings.prefix), limit: limit.max(1) }
    }

    fn find_lease(&self, id: &str) -> Option<Arc<Hold>> {
        let holds = self.holds.lock();
        holds.get(id).map(|(hold, _)| hold.clone()).filter(|hold| hold.lease.is_some())
    }

    /// The lease that `owner` has there.
    fn lease_of(&self, place: &LockPlace, owner: Option<&str>) -> Option<Arc<Hold>> {
        let owner = owner?;
        let is_of_owner = |hold: &&Arc<Hold>| {
            hold.place == *place
                && hold.is_held()
                && hold.lease.as_ref().is_some_and(|lease| lease.owner.as_deref() == Some(owner))
        };
        self.holds.lock().values().map(|(hold, _)| hold).find(is_of_owner).cloned()
    }

    /// Starts to keep a hold that was acquired.
    fn keep(
        self: &Arc<Self>,
        hold: Hold,
        session_ttl: Duration,
        validity: Validity,
        view: View,
        slot: OwnedSemaphorePermit,
        mut known: KnownLock,
    ) -> Arc<Hold> {
        let hold = Arc::new(hold);
        self.holds.lock().insert(hold.id.clone(), (hold.clone(), session_ttl));
        let (shared, kept) = (self.clone(), hold.clone());
        let name = format!("the hold of the lock {}", hold.name);
        tokio::spawn(essential(name, async move {
            kept.keep(&*shared.registry, shared.clock, validity, view, &mut known).await;
            drop(slot);
            shared.remember(&kept.place, known);
            shared.save().await;
            if matches!(*kept.state.borrow(), HoldState::Lost(_)) {
                sleep(REMEMBER_LOSS).await;
            }
            shared.holds.lock().remove(&kept.id);
        }));
        hold
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
            let held = holds.values().filter(|(hold, _)| hold.is_held());
            let held = held.map(|(hold, ttl)| RecordedHold::of(hold, *ttl));
            held.chain(self.restoring.lock().iter().cloned()).collect()
        };
        self.record.save_holds(holds).await;
    }
}

/// The registry bounds its calls too; this bound holds for every registry.
async fn bounded<T>(
    what: &str,
    call: impl Future<Output = Result<T, RegistryError>>,
) -> Result<T, RegistryError> {
    let late = |_| RegistryError::Timeout { request: what.to_owned(), after: CALL_TIMEOUT };
    timeout(CALL_TIMEOUT, call).await.map_err(late)?
}

/// 128 random bits, because the id of a lease is all that it takes to give it back.
fn random_id() -> String {
    let mut bytes = [0_u8; 16];
    if rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty()).is_err() {
        fastrand::fill(&mut bytes);
    }
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
