//! One attempt to acquire a lock: with a session that is certain before and after it, and never beside another attempt of this
//! process for the same lock. So an owner that asks twice at once gets one lease, and requests of one process do not disturb each other.

use std::{sync::Arc, time::Duration};

use outrigger_events::EventKind;
use outrigger_registry::{Error as RegistryError, KnownLock, LockAttempt, LockPlace, NewSession, SessionId};
use parking_lot::Mutex;
use tokio::{
    sync::oneshot,
    time::{Instant, sleep, sleep_until, timeout_at},
};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::{ANSWER_MARGIN, Acquire, CALL_TIMEOUT, Phase, Queue, Shared, bounded, late, random_id};
use crate::{
    AcquireError,
    hold::{Grant, Hold, LeaseTerms, close_session},
    record::{RecordedHold, RecordedLease},
    validity::Validity,
};

/// Shortest time to live of a session that Consul takes.
const MIN_SESSION_TTL: Duration = Duration::from_secs(10);
/// Longest one that is used. It is Consul's longest lock-delay: a session that is ended while this sidecar hears nothing still has to be told as
/// lost before another can hold the lock.
const MAX_SESSION_TTL: Duration = Duration::from_secs(60);
/// Shortest lock-delay, where the settings have none.
const MIN_LOCK_DELAY: Duration = Duration::from_secs(15);

/// A session that is not used by a hold yet.
struct OpenSession {
    id: SessionId,
    validity: Validity,
    /// The id of the hold that it is for.
    hold_id: String,
}

/// A session on its way to its request. Dropped on the way, it is ended.
struct UnusedSession {
    shared: Arc<Shared>,
    id: Option<SessionId>,
}

impl Drop for UnusedSession {
    fn drop(&mut self) {
        if let Some(id) = self.id.take() {
            let shared = self.shared.clone();
            // Contained: a session that the registry ends otherwise.
            self.shared.runtime.spawn(async move { close_session(&*shared.registry, &id).await });
        }
    }
}

/// What is asked for, and what a request has for its next attempt.
pub(super) struct Attempts<'a> {
    pub(super) request: Acquire,
    pub(super) place: LockPlace,
    /// The owner and the time to live of a lease.
    pub(super) lease: Option<(Option<String>, Duration)>,
    pub(super) queue: Arc<Queue>,
    /// Of this process, since the request came.
    pub(super) phase: Phase,
    pub(super) given_up: &'a CancellationToken,
    /// On the clock of the locks.
    pub(super) since: Duration,
    /// The end of the wait, and the latest time of an answer.
    pub(super) until: Instant,
    pub(super) answer_by: Instant,
    session: Option<OpenSession>,
}

/// The end of one attempt.
pub(super) enum Attempted {
    Held(Arc<Hold>),
    Not(LockAttempt),
}

impl<'a> Attempts<'a> {
    pub(super) fn new(
        shared: &Shared,
        request: Acquire,
        lease: Option<(Option<String>, Duration)>,
        given_up: &'a CancellationToken,
    ) -> Self {
        let place = shared.place(&request.name, request.limit);
        let until = Instant::now() + request.wait;
        Self {
            queue: shared.queue(&place),
            place,
            lease,
            phase: shared.phase(),
            given_up,
            since: shared.clock.now(),
            until,
            answer_by: until + ANSWER_MARGIN,
            session: None,
            request,
        }
    }

    pub(super) fn owner(&self) -> Option<&str> {
        self.lease.as_ref().and_then(|(owner, _)| owner.as_deref())
    }

    /// The time to live of the session. A lease may live longer: its session is renewed meanwhile.
    pub(super) fn session_ttl(&self) -> Duration {
        self.request.session_ttl.clamp(MIN_SESSION_TTL, MAX_SESSION_TTL)
    }

    pub(super) fn forget_session(&mut self, shared: &Shared) {
        if let Some(open) = self.session.take() {
            shared.asked_for.lock().remove(&open.hold_id);
        }
    }

    /// Whether there is no time for another attempt.
    pub(super) fn is_over(&self) -> bool {
        Instant::now() >= self.until || self.given_up.is_cancelled() || self.phase.draining.is_cancelled()
    }
}

/// Resolves when an attempt under way has to be cut off, because its answer is due.
async fn cut_off(draining: CancellationToken, given_up: CancellationToken, answer_by: Instant) {
    let told = async {
        tokio::select! {
            () = draining.cancelled() => {}
            () = given_up.cancelled() => {}
        }
        sleep(ANSWER_MARGIN).await;
    };
    tokio::select! {
        () = sleep_until(answer_by) => {}
        () = told => {}
    }
}

impl Shared {
    /// One attempt, after those of other requests of this process that are under way.
    pub(super) async fn attempt(
        self: &Arc<Self>,
        attempts: &mut Attempts<'_>,
    ) -> Result<Attempted, AcquireError> {
        let asked_at = Instant::now();
        let queue = attempts.queue.clone();
        let Ok(mut last_held) = timeout_at(attempts.answer_by, queue.attempt.lock()).await else {
            return Err(AcquireError::Registry(late(
                "a lock, for an earlier request of this sidecar",
                ANSWER_MARGIN,
            )));
        };
        // Another request of the same owner may have acquired it meanwhile.
        if let Some(hold) = self.extended_lease_of(&attempts.place, attempts.owner()) {
            return Ok(Attempted::Held(hold));
        }
        if let Some(ending) = self.ending_lease_of(&attempts.place, attempts.owner()) {
            let _ = timeout_at(attempts.answer_by, ending.freed.cancelled()).await;
        }
        if self.slots.available_permits() == 0 {
            return Err(AcquireError::TooManyHeld { limit: self.settings.max_held });
        }
        if last_held.is_some_and(|began| began >= asked_at) {
            // The registry has said it since this attempt was asked for.
            return Ok(Attempted::Not(LockAttempt::Held));
        }
        let began = Instant::now();
        let place = attempts.place.clone();
        let mut known = self.take_known(&place).with_lock_delay(self.lock_delay(attempts.session_ttl()));
        let cut_off = cut_off(attempts.phase.draining.clone(), attempts.given_up.clone(), attempts.answer_by);
        let attempted = tokio::select! {
            attempted = self.ask(attempts, &mut known) => Some(attempted),
            () = cut_off => None,
        };
        let result = match attempted {
            None => Err(AcquireError::Registry(late("a lock", began.elapsed()))),
            Some(Err(error)) => Err(AcquireError::Registry(error)),
            Some(Ok(LockAttempt::Acquired { token })) => {
                return self.begin(attempts, token, known).await.map(Attempted::Held);
            }
            Some(Ok(other)) => Ok(Attempted::Not(other)),
        };
        self.remember(&place, known);
        *last_held = matches!(result, Ok(Attempted::Not(LockAttempt::Held))).then_some(began);
        result
    }

    /// Asks the registry, with a session that is certain before and after the attempt.
    async fn ask(
        self: &Arc<Self>,
        attempts: &mut Attempts<'_>,
        known: &mut KnownLock,
    ) -> Result<LockAttempt, RegistryError> {
        if let Some(open) = &mut attempts.session
            && open.validity.next_renewal() <= self.clock.now()
            && !self.renew_session(open).await?
        {
            attempts.forget_session(self);
        }
        if attempts.session.is_none() {
            let open = self.open_session(attempts).await?;
            let recorded = self.to_be_recorded(attempts, &open);
            attempts.session = Some(open);
            if let Some(recorded) = recorded {
                self.asked_for.lock().insert(recorded.id.clone(), recorded);
                self.save().await;
            }
        }
        let Attempts { request, place, session: Some(open), .. } = attempts else {
            return Ok(LockAttempt::SessionLost);
        };
        let locked = self.registry.try_lock(place, &open.id, &request.value, known);
        let attempt = bounded("a lock", locked).await?;
        // The answer took long: the lock may have been lost again.
        if matches!(attempt, LockAttempt::Acquired { .. })
            && !open.validity.holds(self.clock.now())
            && !self.renew_session(open).await?
        {
            return Ok(LockAttempt::SessionLost);
        }
        Ok(attempt)
    }

    /// What a next process has to know of a lease that is asked for. Absent: nothing asks for it again.
    fn to_be_recorded(&self, attempts: &Attempts<'_>, open: &OpenSession) -> Option<RecordedHold> {
        let (owner, ttl) = attempts.lease.as_ref().filter(|(owner, _)| owner.is_some())?;
        if !self.record.is_on_disk() {
            return None;
        }
        let (name, value) = (&attempts.request.name, &attempts.request.value);
        let asked =
            RecordedHold::asked_for(&open.hold_id, name, &attempts.place, &open.id, &open.validity, value);
        Some(RecordedHold { lease: Some(RecordedLease::new(owner.clone(), *ttl)), ..asked })
    }

    /// Begins to keep what was acquired.
    async fn begin(
        self: &Arc<Self>,
        attempts: &mut Attempts<'_>,
        token: u64,
        known: KnownLock,
    ) -> Result<Arc<Hold>, AcquireError> {
        let name = attempts.request.name.clone();
        let _begins = self.begins.read().await;
        let began = if let Some(refusal) = attempts.phase.refusal() {
            Err(refusal)
        } else if let Err(seen) = self.record.note_token(name.as_str(), token) {
            Err(AcquireError::TokenRegressed { token, seen })
        } else {
            let limit = self.settings.max_held;
            // Not before: a request that waits holds nothing.
            self.slots.clone().try_acquire_owned().map_err(|_| AcquireError::TooManyHeld { limit })
        };
        let (slot, open) = match began.map(|slot| (slot, attempts.session.take())) {
            Ok((slot, Some(open))) => (slot, open),
            Ok((_, None)) => return Err(attempts.phase.why_draining()),
            Err(error) => {
                self.remember(&attempts.place, known);
                return Err(error);
            }
        };
        if attempts.place.limit > 1 {
            // For another hold of this semaphore by this process.
            self.remember(&attempts.place, known.clone());
        }
        let now = self.clock.now();
        let lease = attempts.lease.take();
        let lease = lease.map(|(owner, ttl)| LeaseTerms { owner, ttl, until: Mutex::new(now + ttl) });
        let grant = Grant {
            name,
            place: attempts.place.clone(),
            session: open.id,
            token,
            value: std::mem::take(&mut attempts.request.value),
            acquired_at: now,
            is_internal: attempts.request.is_internal,
        };
        let hold = Hold::new(open.hold_id, grant, lease, open.validity);
        let hold = self.keep(hold, self.views.open(&attempts.place), Some(slot), known);
        self.metrics.count_acquired(now.saturating_sub(attempts.since));
        self.record_event(EventKind::LockAcquired, &hold, "");
        self.save().await;
        debug!(lock = %hold.grant.name, token, "acquired the lock");
        Ok(hold)
    }

    /// For how long a lock stays closed after the end of a session that lives for `ttl`.
    pub(super) fn lock_delay(&self, ttl: Duration) -> Duration {
        self.settings.lock_delay.unwrap_or(ttl.max(MIN_LOCK_DELAY))
    }

    /// Opens a session. Where the answer comes after the end of the request, the session is ended: the registry may have opened it when it went on.
    async fn open_session(self: &Arc<Self>, attempts: &Attempts<'_>) -> Result<OpenSession, RegistryError> {
        let ttl = attempts.session_ttl();
        let name = format!("outrigger: lock {} of {}", attempts.request.name, self.holder);
        let (lock_delay, removes_keys) = (self.lock_delay(ttl), attempts.place.limit > 1);
        let Ok(turn) = self.openings.clone().acquire_owned().await else {
            return Err(late("a new session", CALL_TIMEOUT));
        };
        let sent_at = self.clock.now();
        let (sender, opened) = oneshot::channel();
        let shared = self.clone();
        let task = async move {
            let ends_with_node = shared.settings.ends_with_node;
            let new = NewSession { name: &name, ttl, lock_delay, removes_keys, ends_with_node };
            let opened = bounded("a new session", shared.registry.open_session(new)).await;
            drop(turn);
            let _ = sender.send(opened.map(|id| UnusedSession { shared: shared.clone(), id: Some(id) }));
        };
        // Contained: one request.
        self.runtime.spawn(task);
        let mut unused = opened.await.unwrap_or_else(|_| Err(late("a new session", CALL_TIMEOUT)))?;
        let Some(id) = unused.id.take() else { return Err(late("a new session", CALL_TIMEOUT)) };
        Ok(OpenSession { id, validity: Validity::new(ttl, sent_at), hold_id: random_id() })
    }

    /// `false`: the registry has ended it.
    async fn renew_session(&self, open: &mut OpenSession) -> Result<bool, RegistryError> {
        let sent_at = self.clock.now();
        let is_alive = bounded("the renewal of a session", self.registry.renew_session(&open.id)).await?;
        if is_alive {
            open.validity.record_success(sent_at);
        }
        Ok(is_alive)
    }

    /// Ends the session of a request that has no hold. It may hold the lock, which is not known after an error: the lock is given back
    /// first, so that it is not closed for the lock-delay.
    pub(super) fn discard(self: &Arc<Self>, attempts: &mut Attempts<'_>) {
        let Some(open) = attempts.session.take() else { return };
        let (shared, place) = (self.clone(), attempts.place.clone());
        let task = async move {
            let mut known = KnownLock::default();
            let _ = bounded("a release", shared.registry.unlock(&place, &open.id, &mut known)).await;
            close_session(&*shared.registry, &open.id).await;
            if shared.asked_for.lock().remove(&open.hold_id).is_some() {
                shared.save().await;
            }
        };
        // Contained: a session without a hold, which the registry ends otherwise.
        self.tasks.spawn_on(task, &self.runtime);
    }
}
