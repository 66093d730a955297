//! A registry of locks in memory, on tokio's clock. It ends a session as early as the promise of a registry allows: when its time to live has
//! passed since its last renewal.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use outrigger_registry::{
    AnswerFuture, Cursor, Error, KnownLock, LockAnswer, LockAttempt, LockHolder, LockKind, LockPlace, Locks,
    NewSession, SessionId, SessionInfo,
};
use parking_lot::Mutex;
use tokio::{
    sync::Notify,
    time::{Instant, sleep, sleep_until, timeout},
};

/// How the calls of one client fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// With an error, at once.
    Refuses,
    /// The token may not do it.
    Forbids,
    /// They are never answered.
    Hangs,
}

#[derive(Debug, Clone, Default)]
pub(super) struct FakeRegistry(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    index: u64,
    next_session: u64,
    sessions: BTreeMap<String, Session>,
    locks: HashMap<String, Lock>,
    /// The paths that are closed, and until when.
    delays: HashMap<String, Instant>,
    faults: HashMap<usize, Fault>,
    clients: usize,
    down: bool,
    latency: Duration,
    /// Questions about locks.
    watches: usize,
    attempts: usize,
    /// Every acquisition: its token and when it was made.
    acquired: Vec<(u64, Instant)>,
}

#[derive(Debug)]
struct Session {
    ttl: Duration,
    expires_at: Instant,
    lock_delay: Duration,
    name: String,
}

#[derive(Debug)]
struct Lock {
    limit: u32,
    /// By session: its value, and the index at which it acquired the lock.
    holders: BTreeMap<String, (Vec<u8>, u64)>,
    written_at: u64,
}

/// One client of the registry.
#[derive(Debug)]
struct Client {
    registry: FakeRegistry,
    number: usize,
}

impl FakeRegistry {
    pub(super) fn new() -> Self {
        Self::default()
    }

    /// A new client.
    pub(super) fn shared(&self) -> Arc<dyn Locks> {
        let mut state = self.0.state.lock();
        state.clients += 1;
        Arc::new(Client { registry: self.clone(), number: state.clients - 1 })
    }

    /// Lets the calls of client `number`, in the order of [`shared`](Self::shared), fail.
    pub(super) fn fail_client(&self, number: usize, fault: Option<Fault>) {
        let mut state = self.0.state.lock();
        match fault {
            Some(fault) => _ = state.faults.insert(number, fault),
            None => _ = state.faults.remove(&number),
        }
        drop(state);
        self.0.changed.notify_waiters();
    }

    /// Every client that exists hangs from now on.
    pub(super) fn cut_off(&self) {
        let clients = self.0.state.lock().clients;
        (0..clients).for_each(|number| self.fail_client(number, Some(Fault::Hangs)));
    }

    pub(super) fn set_down(&self, down: bool) {
        self.0.state.lock().down = down;
        self.0.changed.notify_waiters();
    }

    pub(super) fn set_latency(&self, latency: Duration) {
        self.0.state.lock().latency = latency;
    }

    /// Ends every session, as an operator or the check of a node does.
    pub(super) fn invalidate_all(&self) {
        self.change(|state| {
            let ids: Vec<_> = state.sessions.keys().cloned().collect();
            ids.iter().for_each(|id| state.end_session(id, Instant::now()));
        });
    }

    /// Frees a lock without its holder, and without a lock-delay.
    pub(super) fn free(&self, path: &str) {
        self.change(|state| {
            let index = state.next_index();
            if let Some(lock) = state.locks.get_mut(path) {
                lock.holders.clear();
                lock.written_at = index;
            }
        });
    }

    pub(super) fn delete(&self, path: &str) {
        self.change(|state| {
            state.next_index();
            state.locks.remove(path);
        });
    }

    /// The servers lost all data.
    pub(super) fn wipe(&self) {
        self.change(|state| {
            state.locks.clear();
            state.sessions.clear();
            state.delays.clear();
            state.index = 0;
        });
    }

    pub(super) fn holders(&self, path: &str) -> Vec<String> {
        let mut state = self.0.state.lock();
        state.expire();
        state.locks.get(path).map(|lock| lock.holders.keys().cloned().collect()).unwrap_or_default()
    }

    /// How many questions about locks were asked.
    pub(super) fn watches(&self) -> usize {
        self.0.state.lock().watches
    }

    /// How many attempts to acquire a lock were made.
    pub(super) fn attempts(&self) -> usize {
        self.0.state.lock().attempts
    }

    pub(super) fn sessions(&self) -> usize {
        let mut state = self.0.state.lock();
        state.expire();
        state.sessions.len()
    }

    /// How many locks are closed by a lock-delay.
    pub(super) fn delayed(&self) -> usize {
        self.0.state.lock().delays.values().filter(|until| **until > Instant::now()).count()
    }

    pub(super) fn acquired(&self) -> Vec<(u64, Instant)> {
        self.0.state.lock().acquired.clone()
    }

    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.0.state.lock();
        state.expire();
        let result = change(&mut state);
        drop(state);
        self.0.changed.notify_waiters();
        result
    }
}

impl State {
    fn next_index(&mut self) -> u64 {
        self.index += 1;
        self.index
    }

    /// Ends the sessions that are over, each at its time.
    fn expire(&mut self) {
        loop {
            let now = Instant::now();
            let over = self.sessions.iter().filter(|(_, session)| session.expires_at <= now);
            let Some((id, at)) =
                over.map(|(id, session)| (id.clone(), session.expires_at)).min_by_key(|(_, at)| *at)
            else {
                return;
            };
            self.end_session(&id, at);
        }
    }

    fn end_session(&mut self, id: &str, at: Instant) {
        let Some(session) = self.sessions.remove(id) else { return };
        let index = self.next_index();
        for (path, lock) in &mut self.locks {
            if lock.holders.remove(id).is_some() {
                lock.written_at = index;
                if !session.lock_delay.is_zero() {
                    self.delays.insert(path.clone(), at + session.lock_delay);
                }
            }
        }
    }

    fn answer(&self, place: &LockPlace) -> LockAnswer {
        match self.locks.get(&place.path) {
            None => LockAnswer {
                kind: LockKind::Unused,
                holders: Vec::new(),
                last_write: 0,
                cursor: Cursor::at(self.index.max(1)),
            },
            Some(lock) => LockAnswer {
                kind: if lock.limit == 1 {
                    LockKind::Mutex
                } else {
                    LockKind::Semaphore { limit: lock.limit }
                },
                holders: lock
                    .holders
                    .iter()
                    .map(|(id, (value, written_at))| LockHolder {
                        session: SessionId::recorded(id),
                        value: value.clone(),
                        written_at: *written_at,
                    })
                    .collect(),
                last_write: lock.written_at,
                cursor: Cursor::at(lock.written_at),
            },
        }
    }

    fn try_lock(&mut self, place: &LockPlace, id: &str, value: &[u8]) -> LockAttempt {
        self.attempts += 1;
        if self.delays.get(&place.path).is_some_and(|until| *until > Instant::now()) {
            return LockAttempt::Delayed;
        }
        if !self.sessions.contains_key(id) {
            return LockAttempt::SessionLost;
        }
        let index = self.index + 1;
        let lock = self.locks.entry(place.path.clone()).or_insert_with(|| Lock {
            limit: place.limit,
            holders: BTreeMap::new(),
            written_at: 0,
        });
        if (lock.limit == 1) != (place.limit == 1) {
            let kind =
                if lock.limit == 1 { LockKind::Mutex } else { LockKind::Semaphore { limit: lock.limit } };
            return LockAttempt::OtherKind(kind);
        }
        if lock.limit != place.limit {
            return LockAttempt::OtherLimit(lock.limit);
        }
        if !lock.holders.contains_key(id) {
            if lock.holders.len() >= lock.limit as usize {
                return LockAttempt::Held;
            }
            lock.holders.insert(id.to_owned(), (value.to_vec(), index));
            lock.written_at = index;
            self.index = index;
            self.acquired.push((index, Instant::now()));
        }
        LockAttempt::Acquired { token: lock.written_at }
    }
}

impl Client {
    /// Runs one call: half of the latency before it, half after.
    async fn call<T>(&self, call: impl FnOnce(&mut State) -> T) -> Result<T, Error> {
        let latency = self.registry.0.state.lock().latency;
        sleep(latency / 2).await;
        self.check().await?;
        let result = self.registry.change(call);
        sleep(latency / 2).await;
        self.check().await?;
        Ok(result)
    }

    async fn check(&self) -> Result<(), Error> {
        let fault = {
            let state = self.registry.0.state.lock();
            state.faults.get(&self.number).copied().or(state.down.then_some(Fault::Refuses))
        };
        match fault {
            None => Ok(()),
            Some(Fault::Refuses) => Err(Error::Refused {
                request: "a test".into(),
                status: 500,
                text: "No cluster leader".into(),
                hint: None,
            }),
            Some(Fault::Forbids) => Err(Error::Refused {
                request: "a test".into(),
                status: 403,
                text: "Permission denied".into(),
                hint: None,
            }),
            Some(Fault::Hangs) => std::future::pending().await,
        }
    }
}

impl Locks for Client {
    fn open_session<'a>(&'a self, new: NewSession<'a>) -> AnswerFuture<'a, SessionId> {
        Box::pin(self.call(move |state| {
            state.next_session += 1;
            let id = format!("session-{}", state.next_session);
            let session = Session {
                ttl: new.ttl,
                expires_at: Instant::now() + new.ttl,
                lock_delay: new.lock_delay,
                name: new.name.to_owned(),
            };
            state.sessions.insert(id.clone(), session);
            SessionId::recorded(id)
        }))
    }

    fn renew_session<'a>(&'a self, session: &'a SessionId) -> AnswerFuture<'a, bool> {
        Box::pin(self.call(|state| match state.sessions.get_mut(session.as_str()) {
            Some(session) => {
                session.expires_at = Instant::now() + session.ttl;
                true
            }
            None => false,
        }))
    }

    fn close_session<'a>(&'a self, session: &'a SessionId) -> AnswerFuture<'a, ()> {
        Box::pin(self.call(|state| state.end_session(session.as_str(), Instant::now())))
    }

    fn session_info<'a>(&'a self, session: &'a SessionId) -> AnswerFuture<'a, Option<SessionInfo>> {
        Box::pin(self.call(|state| {
            let session = state.sessions.get(session.as_str())?;
            Some(SessionInfo { name: session.name.clone(), node: "a".into() })
        }))
    }

    fn remove_unused_lock<'a>(&'a self, place: &'a LockPlace) -> AnswerFuture<'a, bool> {
        Box::pin(self.call(|state| {
            let is_held = state.locks.get(&place.path).is_some_and(|lock| !lock.holders.is_empty());
            if !is_held {
                state.locks.remove(&place.path);
            }
            !is_held
        }))
    }

    fn try_lock<'a>(
        &'a self,
        place: &'a LockPlace,
        session: &'a SessionId,
        value: &'a [u8],
        _: &'a mut KnownLock,
    ) -> AnswerFuture<'a, LockAttempt> {
        Box::pin(self.call(|state| state.try_lock(place, session.as_str(), value)))
    }

    fn unlock<'a>(
        &'a self,
        place: &'a LockPlace,
        session: &'a SessionId,
        _: &'a mut KnownLock,
    ) -> AnswerFuture<'a, bool> {
        Box::pin(self.call(|state| {
            let index = state.next_index();
            let Some(lock) = state.locks.get_mut(&place.path) else { return false };
            let held = lock.holders.remove(session.as_str()).is_some();
            if held {
                lock.written_at = index;
            }
            held
        }))
    }

    fn watch_lock<'a>(
        &'a self,
        place: &'a LockPlace,
        cursor: Cursor,
        wait: Duration,
    ) -> AnswerFuture<'a, LockAnswer> {
        Box::pin(async move {
            let until = Instant::now() + wait;
            let mut is_new = true;
            loop {
                let changed = self.registry.0.changed.notified();
                self.check().await?;
                if std::mem::take(&mut is_new) {
                    self.registry.0.state.lock().watches += 1;
                }
                let (answer, next_expiry) = {
                    let mut state = self.registry.0.state.lock();
                    state.expire();
                    let next = state.sessions.values().map(|session| session.expires_at).min();
                    (state.answer(place), next.unwrap_or(until))
                };
                if cursor == Cursor::START || answer.cursor != cursor || Instant::now() >= until {
                    return self.call(|_| answer).await;
                }
                tokio::select! {
                    () = changed => {}
                    () = sleep_until(until.min(next_expiry)) => {}
                }
            }
        })
    }
}

#[tokio::test(start_paused = true)]
async fn a_watch_of_the_fake_ends_with_its_wait() {
    let registry = FakeRegistry::new();
    let client = registry.shared();
    let place = LockPlace { path: "a".into(), limit: 1 };
    let first = client.watch_lock(&place, Cursor::START, Duration::from_secs(5)).await.unwrap();
    let watch = client.watch_lock(&place, first.cursor, Duration::from_secs(5));
    assert!(timeout(Duration::from_secs(6), watch).await.is_ok());
}
