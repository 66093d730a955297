//! How a lock is acquired: the requests of this process take turns, and each tries until its wait is over.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use outrigger_events::EventKind;
use outrigger_registry::{Error as RegistryError, KnownLock, LockAttempt, LockPlace, NewSession, SessionId};
use parking_lot::Mutex;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::{
    Acquire, BACKOFF, Queue, Shared, bounded, random_id,
    waiters::{Waiting, WaitingPlace},
};
use crate::{
    AcquireError,
    hold::{Grant, Hold, LeaseTerms, close_session},
    validity::Validity,
    view::View,
};

/// Shortest time to live of a session that Consul takes.
const MIN_SESSION_TTL: Duration = Duration::from_secs(10);
/// Longest one that is used. It is Consul's longest lock-delay: a session that is ended while this sidecar hears nothing still has to be told as
/// lost before another can hold the lock.
const MAX_SESSION_TTL: Duration = Duration::from_secs(60);
/// Shortest lock-delay, where the settings have none.
const MIN_LOCK_DELAY: Duration = Duration::from_secs(15);
/// Least time between two attempts of one request.
const ATTEMPT_INTERVAL: Duration = Duration::from_millis(50);
/// Longest time between two attempts: where the watch of the lock says nothing.
const RETRY_INTERVAL: Duration = Duration::from_secs(30);
/// Time between two attempts while the registry keeps the lock closed.
const DELAY_INTERVAL: Duration = Duration::from_millis(500);

/// How long an answer waits for a look at the holders.
const LOOK_TIMEOUT: Duration = Duration::from_secs(2);
/// How often in a row the registry may refuse the token before a request ends: a new token is not known to every server at once.
const MAX_REFUSALS: u32 = 5;

/// The time to live of the session for a request. A lease may live longer: its session is renewed meanwhile.
fn session_ttl(request: &Acquire) -> Duration {
    request.session_ttl.clamp(MIN_SESSION_TTL, MAX_SESSION_TTL)
}

/// A session that is not used by a hold yet.
struct OpenSession {
    id: SessionId,
    ttl: Duration,
    validity: Validity,
}

/// What a request has for its next attempt.
struct Progress {
    known: KnownLock,
    session: Option<OpenSession>,
}

impl Shared {
    /// Acquires a lock within the wait of the request, and starts to keep it.
    pub(super) async fn acquire(
        self: &Arc<Self>,
        request: Acquire,
        lease: Option<(Option<String>, Duration)>,
        given_up: &CancellationToken,
    ) -> Result<Arc<Hold>, AcquireError> {
        let name = request.name.clone();
        let result = self.acquire_or_fail(request, lease, given_up).await;
        let Err(mut error) = result else { return result };
        self.metrics.count_failure(&error, given_up.is_cancelled());
        if let AcquireError::Held { holders } = &mut error
            && holders.is_empty()
            && !given_up.is_cancelled()
        {
            // A refusal does not say by which sessions it is held.
            let read = timeout(LOOK_TIMEOUT, self.read_holders(&name)).await;
            *holders = read.ok().and_then(Result::ok).map(|(_, holders)| holders).unwrap_or_default();
        }
        Err(error)
    }

    async fn acquire_or_fail(
        self: &Arc<Self>,
        request: Acquire,
        lease: Option<(Option<String>, Duration)>,
        given_up: &CancellationToken,
    ) -> Result<Arc<Hold>, AcquireError> {
        let place = self.place(&request.name, request.limit);
        let until = Instant::now() + request.wait;
        let since = self.clock.now();
        let draining = self.draining();
        let owner = lease.as_ref().and_then(|(owner, _)| owner.clone());
        // Before all that can refuse it: its first answer may have been lost.
        if let Some(hold) = self.extended_lease_of(&place, owner.as_deref()) {
            return Ok(hold);
        }
        if draining.is_cancelled() {
            return Err(AcquireError::Draining);
        }
        if self.is_restoring_of(&place, owner.as_deref()) {
            return Err(AcquireError::Restoring);
        }
        let waiting = self.waiters.enter(Waiting {
            name: request.name.clone(),
            limit: place.limit,
            owner: owner.clone(),
            since,
            last_failure: None,
        })?;
        let queue = self.queue(&place);
        let turn = async {
            if request.wait.is_zero() {
                return queue.turn.try_lock().ok();
            }
            tokio::select! {
                turn = timeout_at(until, queue.turn.lock()) => turn.ok(),
                () = draining.cancelled() => None,
                () = given_up.cancelled() => None,
            }
        };
        let Some(_turn) = turn.await else {
            // Another request of this process holds or awaits it.
            return Err(self.waited_in_vain(&place));
        };
        // The request before it may have been one of the same owner.
        if let Some(hold) = self.extended_lease_of(&place, owner.as_deref()) {
            return Ok(hold);
        }
        let too_many = AcquireError::TooManyHeld { limit: self.settings.max_held };
        if self.slots.available_permits() == 0 {
            return Err(too_many);
        }
        let known = self.take_known(&place).with_lock_delay(self.lock_delay(session_ttl(&request)));
        let mut progress = Progress { known, session: None };
        let attempted = self.attempt_until(&request, &place, &mut progress, until, given_up, &waiting).await;
        let Progress { known, session } = progress;
        let acquired = match (attempted, session) {
            (Ok((token, view)), Some(open)) => match self.record.note_token(request.name.as_str(), token) {
                // Not before: a request that waits holds nothing.
                Ok(()) => match self.slots.clone().try_acquire_owned() {
                    Ok(slot) => Ok((token, view, open, slot)),
                    Err(_) => Err((too_many, Some(open))),
                },
                Err(seen) => Err((AcquireError::TokenRegressed { token, seen }, Some(open))),
            },
            (Ok(_), None) => Err((AcquireError::Draining, None)),
            (Err(error), open) => Err((error, open)),
        };
        let (token, view, open, slot) = match acquired {
            Ok(acquired) => acquired,
            Err((error, open)) => {
                self.remember(&place, known);
                if let Some(open) = open {
                    self.discard(open, place);
                }
                return Err(error);
            }
        };
        if place.limit > 1 {
            // For another hold of this semaphore by this process.
            self.remember(&place, known.clone());
        }
        drop(waiting);
        let lease =
            lease.map(|(owner, ttl)| LeaseTerms { owner, ttl, until: Mutex::new(self.clock.now() + ttl) });
        let grant = Grant {
            name: request.name,
            place,
            session: open.id,
            token,
            value: request.value,
            session_ttl: open.ttl,
            acquired_at: self.clock.now(),
        };
        let hold = Hold::new(random_id(), grant, lease, open.validity);
        let hold = self.keep(hold, view, slot, known);
        self.metrics.count_acquired(self.clock.now().saturating_sub(since));
        self.record_event(EventKind::LockAcquired, &hold, "");
        self.save().await;
        debug!(lock = %hold.grant.name, token, "acquired the lock");
        Ok(hold)
    }

    /// The token, and the watch of the lock.
    async fn attempt_until(
        &self,
        request: &Acquire,
        place: &LockPlace,
        progress: &mut Progress,
        until: Instant,
        given_up: &CancellationToken,
        waiting: &WaitingPlace,
    ) -> Result<(u64, View), AcquireError> {
        let draining = self.draining();
        let mut view: Option<View> = None;
        let (mut failures, mut refusals) = (0, 0);
        loop {
            let attempt = self.attempt(request, place, progress).await;
            let at_end = Instant::now() >= until || given_up.is_cancelled() || draining.is_cancelled();
            let (pause, error) = match attempt {
                Ok(LockAttempt::Acquired { token }) => {
                    return Ok((token, view.unwrap_or_else(|| self.views.open(place))));
                }
                Ok(LockAttempt::Held) => (RETRY_INTERVAL, self.waited_in_vain(place)),
                Ok(LockAttempt::Delayed) => (
                    DELAY_INTERVAL,
                    AcquireError::LockDelay { longest: self.lock_delay(session_ttl(request)) },
                ),
                Ok(LockAttempt::OtherLimit(limit)) => return Err(AcquireError::LimitMismatch { limit }),
                Ok(LockAttempt::OtherKind(kind)) => return Err(AcquireError::KindMismatch { kind }),
                Ok(LockAttempt::SessionLost) => {
                    progress.session = None;
                    failures += 1;
                    let ended = RegistryError::Malformed {
                        request: "a lock".into(),
                        reason: "the registry ended the session that it had just opened".into(),
                    };
                    // Once at once: a session that was kept for long while this request waited may have ended.
                    if failures == 1 {
                        continue;
                    }
                    (BACKOFF.pause(failures, fastrand::u64(..)), AcquireError::Registry(ended))
                }
                Err(error) => {
                    failures += 1;
                    refusals = if error.label() == "forbidden" { refusals + 1 } else { 0 };
                    if refusals == MAX_REFUSALS {
                        return Err(AcquireError::Registry(error));
                    }
                    (BACKOFF.pause(failures, fastrand::u64(..)), AcquireError::Registry(error))
                }
            };
            if at_end {
                return Err(if draining.is_cancelled() { AcquireError::Draining } else { error });
            }
            waiting.record_failure(&error);
            let is_held = matches!(error, AcquireError::Held { .. });
            let watch = async {
                if !is_held {
                    return std::future::pending().await;
                }
                let view = view.get_or_insert_with(|| self.views.open(place));
                sleep(ATTEMPT_INTERVAL).await;
                while !view.last().is_some_and(|seen| seen.is_open(place)) {
                    view.changed().await;
                }
            };
            tokio::select! {
                () = watch => {}
                () = sleep(pause) => {}
                // One more attempt at the end of the wait.
                () = tokio::time::sleep_until(until) => {}
                () = given_up.cancelled() => return Err(error),
                () = draining.cancelled() => return Err(AcquireError::Draining),
            }
        }
    }

    /// One attempt, with a session that is certain before and after it.
    async fn attempt(
        &self,
        request: &Acquire,
        place: &LockPlace,
        progress: &mut Progress,
    ) -> Result<LockAttempt, RegistryError> {
        let Progress { known, session } = progress;
        if let Some(open) = session
            && open.validity.next_renewal() <= self.clock.now()
            && !self.renew_session(open).await?
        {
            *session = None;
        }
        let open = match session {
            Some(open) => open,
            None => session.insert(self.open_session(request, place).await?),
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

    /// For how long a lock stays closed after the end of a session that lives for `ttl`.
    fn lock_delay(&self, ttl: Duration) -> Duration {
        self.settings.lock_delay.unwrap_or(ttl.max(MIN_LOCK_DELAY))
    }

    async fn open_session(&self, request: &Acquire, place: &LockPlace) -> Result<OpenSession, RegistryError> {
        let ttl = session_ttl(request);
        let name = format!("outrigger: lock {} of {}", request.name, self.holder);
        let sent_at = self.clock.now();
        let new = NewSession {
            name: &name,
            ttl,
            lock_delay: self.lock_delay(ttl),
            removes_keys: place.limit > 1,
            ends_with_node: self.settings.ends_with_node,
        };
        let id = bounded("a new session", self.registry.open_session(new)).await?;
        Ok(OpenSession { id, ttl, validity: Validity::new(ttl, sent_at) })
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

    /// Ends a session that no hold uses. It may hold the lock, which is not known after an error: the lock is given back first, so that
    /// it is not closed for the lock-delay.
    fn discard(self: &Arc<Self>, open: OpenSession, place: LockPlace) {
        let shared = self.clone();
        let task = async move {
            let mut known = KnownLock::default();
            let _ = bounded("a release", shared.registry.unlock(&place, &open.id, &mut known)).await;
            close_session(&*shared.registry, &open.id).await;
        };
        // Contained: a session without a hold, which the registry ends otherwise.
        self.tasks.spawn_on(task, &self.runtime);
    }

    fn waited_in_vain(&self, place: &LockPlace) -> AcquireError {
        if self.draining().is_cancelled() {
            return AcquireError::Draining;
        }
        let holders = self.views.peek(place).map(|seen| seen.holders).unwrap_or_default();
        AcquireError::Held { holders: self.know(&place.path, &holders) }
    }

    /// The lease that `owner` has there, which begins again.
    fn extended_lease_of(&self, place: &LockPlace, owner: Option<&str>) -> Option<Arc<Hold>> {
        let hold = self.lease_of(place, owner)?;
        hold.extend(self.clock.now());
        Some(hold)
    }

    fn queue(&self, place: &LockPlace) -> Arc<Queue> {
        let mut queues = self.queues.lock();
        if let Some(queue) = queues.get(place).and_then(Weak::upgrade) {
            return queue;
        }
        queues.retain(|_, queue| queue.strong_count() > 0);
        let queue = Arc::new(Queue::default());
        queues.insert(place.clone(), Arc::downgrade(&queue));
        queue
    }
}
