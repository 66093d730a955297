//! What an operator sees: what is held here, what waits here, and the holders elsewhere.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use outrigger_registry::{Cursor, Error as RegistryError, LockHolder, LockPlace};
use tokio::{
    sync::Semaphore,
    task::JoinSet,
    time::{Instant, timeout_at},
};

use super::{ANSWER_MARGIN, CALL_TIMEOUT, LockManager, Shared, bounded, late, waiters::Waiting};
use crate::{
    HoldState, LockName,
    hold::Hold,
    holder::KnownHolder,
    metrics::LocksLoad,
    view::{SeenLock, View, WatchedLock},
};

/// Most sessions of which the names are remembered.
const MAX_SESSION_INFOS: usize = 4096;
/// Most sessions that one look asks the registry about at once.
const SESSIONS_AT_ONCE: usize = 8;

/// A lock as an operator sees it.
#[derive(Debug, Clone)]
pub struct LockView {
    /// What stands there.
    pub watched: WatchedLock,
    /// Its holders, in the same order.
    pub holders: Vec<KnownHolder>,
    /// Requests of this sidecar that wait for it.
    pub waiters: usize,
}

/// The changes of a lock.
#[derive(Debug)]
pub struct LockWatch {
    manager: LockManager,
    name: LockName,
    view: View,
    /// What was seen before the first look, which is newer.
    before: Option<SeenLock>,
    told: WatchedLock,
}

impl LockWatch {
    /// Resolves when the lock differs from what was told last. Dropping the future loses nothing.
    pub async fn changed(&mut self) {
        loop {
            let seen = self.view.last().filter(|seen| self.before.as_ref() != Some(seen));
            if seen.is_some_and(|seen| WatchedLock::from(seen) != self.told) {
                return;
            }
            self.view.changed().await;
        }
    }

    /// Asks the registry now. `Some`: why it does not answer, so that what was told may be no longer true.
    pub async fn check(&self) -> Option<Arc<str>> {
        self.view.check(&*self.manager.0.registry, ANSWER_MARGIN).await
    }

    /// What was seen last. From now on it is told.
    pub async fn tell(&mut self) -> LockView {
        if let Some(seen) = self.view.last() {
            self.told = seen.into();
        }
        let until = Instant::now() + ANSWER_MARGIN;
        self.manager.0.describe(&self.name, self.told.clone(), until).await
    }
}

/// A lock that is held here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldHere {
    /// Which lock.
    pub name: LockName,
    /// Most holders: 1 is a mutex.
    pub limit: u32,
    /// The fencing token.
    pub token: u64,
    /// The session that holds it.
    pub session: String,
    /// For how long it is held.
    pub held_for: Duration,
    /// For how long it is certain without another renewal that the registry answers.
    pub certain_for: Duration,
    /// Of a lease. Absent: it is held by a connection.
    pub lease: Option<LeaseHere>,
}

/// What is known of a lease. Its id is not told: it is all that it takes to give the lease back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseHere {
    /// Which client holds it.
    pub owner: Option<String>,
    /// It ends when it is not renewed for this time.
    pub ttl: Duration,
    /// When it ends, unless it is renewed before.
    pub expires_in: Duration,
}

/// A request that waits here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WaitingHere {
    /// What it waits for, and why.
    pub waiting: Waiting,
    /// For how long.
    pub waited: Duration,
}

/// All locks that this sidecar holds or waits for.
#[derive(Debug, Clone, Default)]
pub struct LocksOverview {
    /// What is held, by name.
    pub held: Vec<HeldHere>,
    /// What waits, in the order in which it came.
    pub waiting: Vec<WaitingHere>,
    /// Most locks that may be held.
    pub max_held: usize,
    /// Most requests that may wait.
    pub max_waiters: usize,
    /// The sidecar drains: it acquires no lock any more.
    pub is_draining: bool,
}

impl LockManager {
    /// What the registry says of a lock now, within 2 s.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn view(&self, name: &LockName) -> Result<LockView, RegistryError> {
        let until = Instant::now() + ANSWER_MARGIN;
        let read = timeout_at(until, self.0.read(name)).await;
        let watched = read.map_err(|_| late("the state of a lock", ANSWER_MARGIN))??;
        Ok(self.0.describe(name, watched, until).await)
    }

    /// What the registry says of a lock now, and its changes from then on. A lock that was never used is read again every second.
    ///
    /// # Errors
    /// When the registry does not answer.
    pub async fn watch(&self, name: &LockName) -> Result<(LockView, LockWatch), RegistryError> {
        let view = self.0.views.open(&self.0.place(name, 2));
        let before = view.last();
        let first = self.view(name).await?;
        let told = first.watched.clone();
        let watch = LockWatch { manager: self.clone(), name: name.clone(), view, before, told };
        Ok((first, watch))
    }

    /// What is held and what waits here.
    pub fn overview(&self) -> LocksOverview {
        let now = self.0.clock.now();
        let mut held: Vec<_> = self.0.held_ones().iter().map(|hold| held_here(hold, now)).collect();
        held.sort_by(|a, b| (&a.name, a.token).cmp(&(&b.name, b.token)));
        let waiting = self.0.waiters.all().into_iter();
        let waiting =
            waiting.map(|waiting| WaitingHere { waited: now.saturating_sub(waiting.since), waiting });
        LocksOverview {
            held,
            waiting: waiting.collect(),
            max_held: self.0.settings.max_held,
            max_waiters: self.0.settings.max_waiters,
            is_draining: self.0.draining().is_cancelled(),
        }
    }
}

fn held_here(hold: &Hold, now: Duration) -> HeldHere {
    HeldHere {
        name: hold.grant.name.clone(),
        limit: hold.grant.place.limit,
        token: hold.grant.token,
        session: hold.grant.session.to_string(),
        held_for: now.saturating_sub(hold.grant.acquired_at),
        certain_for: hold.certain_until().saturating_sub(now),
        lease: hold.lease.as_ref().map(|lease| LeaseHere {
            owner: lease.owner.clone(),
            ttl: lease.ttl,
            expires_in: lease.until.lock().saturating_sub(now),
        }),
    }
}

impl Shared {
    /// What stands at a place now. A place of a semaphore shows both kinds.
    async fn read(&self, name: &LockName) -> Result<WatchedLock, RegistryError> {
        let place = self.place(name, 2);
        let asked = self.registry.watch_lock(&place, Cursor::START, CALL_TIMEOUT);
        let answer = bounded("a lock", asked).await?;
        self.sightings.record(&place, answer.kind, &answer.holders);
        Ok(WatchedLock { kind: answer.kind, holders: answer.holders })
    }

    /// Adds what is known here, and what the registry says of the sessions before `until`.
    async fn describe(&self, name: &LockName, watched: WatchedLock, until: Instant) -> LockView {
        let mut holders = self.know(&self.place(name, 2).path, &watched.holders);
        self.name_sessions(&mut holders, until).await;
        let waiters = self.waiters.all().iter().filter(|waiting| waiting.name == *name).count();
        LockView { watched, holders, waiters }
    }

    /// The holders of a lock, as [`LockManager::view`] says them, until `until` at most.
    pub(super) async fn look_at_holders(
        &self,
        name: &LockName,
        place: &LockPlace,
        until: Instant,
    ) -> Vec<KnownHolder> {
        let seen = self.views.peek(place).map(|seen| seen.holders).unwrap_or_default();
        let mut holders = self.know(&place.path, &seen);
        if holders.is_empty() {
            let read = timeout_at(until, self.read(name)).await.ok().and_then(Result::ok);
            holders = read.map(|watched| self.know(&place.path, &watched.holders)).unwrap_or_default();
        }
        self.name_sessions(&mut holders, until).await;
        holders
    }

    /// Adds what the registry says of the sessions of holders, as far as it says it before `until`. Not worth a failure of the whole: the token
    /// may not read sessions.
    async fn name_sessions(&self, holders: &mut [KnownHolder], until: Instant) {
        let unknown: Vec<_> = {
            let infos = self.session_infos.lock();
            let sessions = holders.iter().map(|known| &known.holder.session);
            sessions.filter(|session| !infos.contains_key(session)).cloned().collect()
        };
        // Few at once, so that no renewal waits for a connection.
        let turns = Arc::new(Semaphore::new(SESSIONS_AT_ONCE));
        let mut asked = JoinSet::new();
        for session in unknown {
            let (registry, turns) = (self.registry.clone(), turns.clone());
            // Contained: a name that is shown.
            asked.spawn(async move {
                let _turn = turns.acquire().await;
                let info = registry.session_info(&session).await;
                (session, info)
            });
        }
        while let Ok(Some(answer)) = timeout_at(until, asked.join_next()).await {
            if let Ok((session, Ok(Some(info)))) = answer {
                let mut infos = self.session_infos.lock();
                if infos.len() >= MAX_SESSION_INFOS {
                    infos.clear();
                }
                infos.insert(session, info);
            }
        }
        let infos = self.session_infos.lock();
        for known in holders {
            known.session = infos.get(&known.holder.session).cloned();
        }
    }

    fn know(&self, path: &str, holders: &[LockHolder]) -> Vec<KnownHolder> {
        let known = |holder: &LockHolder| KnownHolder {
            held_for: self.held_for(&holder.session),
            seen_for: self.sightings.seen_for(path, holder),
            holder: holder.clone(),
            session: None,
        };
        holders.iter().map(known).collect()
    }

    /// What is held and what waits, for a scrape. Absent: no lock was asked for since the start.
    pub(super) fn load(&self) -> Option<LocksLoad> {
        let holds = self.holds.lock();
        if !self.is_used.load(Ordering::Relaxed) {
            return None;
        }
        let held = holds.values().filter(|hold| *hold.state.borrow() == HoldState::Held);
        let (leases, connections): (Vec<_>, Vec<_>) = held.partition(|hold| hold.lease.is_some());
        let (by_connection, by_lease) = (connections.len(), leases.len());
        Some(LocksLoad { by_connection, by_lease, waiting: self.waiters.count() })
    }
}
