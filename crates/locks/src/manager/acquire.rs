//! How a lock is acquired: the requests of this process take turns, and each tries until its wait is over.

use std::{
    sync::{Arc, Weak, atomic::Ordering},
    time::Duration,
};

use outrigger_registry::{Error as RegistryError, LockAttempt, LockPlace};
use tokio::time::{sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use super::{
    Acquire, BACKOFF, Queue, Shared,
    attempt::{Attempted, Attempts},
    waiters::{Waiting, WaitingPlace},
};
use crate::{AcquireError, hold::Hold, view::View};

/// Least time between two attempts of one request.
const ATTEMPT_INTERVAL: Duration = Duration::from_millis(50);
/// Longest time between two attempts: where the watch of the lock says nothing.
const RETRY_INTERVAL: Duration = Duration::from_secs(30);
/// Time between two attempts while the registry keeps the lock closed.
const DELAY_INTERVAL: Duration = Duration::from_millis(500);
/// How often in a row the registry may refuse the token before a request ends: a new token is not known to every server at once.
const MAX_REFUSALS: u32 = 5;

impl Shared {
    /// Acquires a lock within the wait of the request, and starts to keep it.
    pub(super) async fn acquire(
        self: &Arc<Self>,
        request: Acquire,
        lease: Option<(Option<String>, Duration)>,
        given_up: &CancellationToken,
    ) -> Result<Arc<Hold>, AcquireError> {
        self.is_used.store(true, Ordering::Relaxed);
        let mut attempts = Attempts::new(self, request, lease, given_up);
        let result = self.acquire_or_fail(&mut attempts).await;
        // It is left where there is no lock, or the lease of another request of the same owner.
        self.discard(&mut attempts);
        let Err(mut error) = result else { return result };
        self.metrics.count_failure(&error, given_up.is_cancelled());
        if let AcquireError::Held { holders } = &mut error
            && !given_up.is_cancelled()
        {
            // A refusal does not say by which sessions it is held.
            *holders =
                self.look_at_holders(&attempts.request.name, &attempts.place, attempts.answer_by).await;
        }
        Err(error)
    }

    async fn acquire_or_fail(
        self: &Arc<Self>,
        attempts: &mut Attempts<'_>,
    ) -> Result<Arc<Hold>, AcquireError> {
        if !self.wait_until_read(attempts.answer_by).await {
            return Err(AcquireError::Restoring);
        }
        // Before all that can refuse it: its first answer may have been lost.
        if let Some(hold) = self.extended_lease_of(&attempts.place, attempts.owner()) {
            return Ok(hold);
        }
        if let Some(refusal) = attempts.phase.refusal() {
            return Err(refusal);
        }
        if self.is_restoring_of(&attempts.place, attempts.owner()) {
            return Err(AcquireError::Restoring);
        }
        if attempts.request.wait.is_zero() {
            return self.attempt_until(attempts, None).await;
        }
        let waiting = self.waiters.enter(Waiting {
            name: attempts.request.name.clone(),
            limit: attempts.place.limit,
            owner: attempts.owner().map(str::to_owned),
            since: attempts.since,
            last_failure: None,
        })?;
        let queue = attempts.queue.clone();
        let turn = queue.turn.lock();
        tokio::pin!(turn);
        let mut begun = self.leases_begun.subscribe();
        let _turn = loop {
            tokio::select! {
                turn = &mut turn => break Some(turn),
                // Its turn has not come: one attempt, as without a wait.
                () = sleep_until(attempts.until) => break None,
                () = attempts.phase.draining.cancelled() => return Err(attempts.phase.why_draining()),
                () = attempts.given_up.cancelled() => return Err(AcquireError::Held { holders: Vec::new() }),
                // Of another request of the same owner, perhaps.
                _ = begun.changed() => {
                    if let Some(hold) = self.extended_lease_of(&attempts.place, attempts.owner()) {
                        return Ok(hold);
                    }
                }
            }
        };
        self.attempt_until(attempts, Some(&waiting)).await
    }

    /// Tries until the wait is over.
    async fn attempt_until(
        self: &Arc<Self>,
        attempts: &mut Attempts<'_>,
        waiting: Option<&WaitingPlace>,
    ) -> Result<Arc<Hold>, AcquireError> {
        let mut view: Option<View> = None;
        let (mut failures, mut refusals) = (0, 0);
        loop {
            let is_last = attempts.is_over();
            // A look from before the attempt says less than the attempt.
            view.iter_mut().for_each(View::mark_seen);
            let attempted = self.attempt(attempts).await;
            let (pause, error) = match attempted {
                Ok(Attempted::Held(hold)) => return Ok(hold),
                Ok(Attempted::Not(LockAttempt::Held | LockAttempt::Acquired { .. })) => {
                    (RETRY_INTERVAL, AcquireError::Held { holders: Vec::new() })
                }
                Ok(Attempted::Not(LockAttempt::Delayed)) => (
                    DELAY_INTERVAL,
                    AcquireError::LockDelay { longest: self.lock_delay(attempts.session_ttl()) },
                ),
                Ok(Attempted::Not(LockAttempt::OtherLimit(limit))) => {
                    return Err(AcquireError::LimitMismatch { limit });
                }
                Ok(Attempted::Not(LockAttempt::OtherKind(kind))) => {
                    return Err(AcquireError::KindMismatch { kind });
                }
                Ok(Attempted::Not(LockAttempt::SessionLost)) => {
                    attempts.forget_session(self);
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
                Err(AcquireError::Registry(error)) => {
                    failures += 1;
                    refusals = if error.label() == "forbidden" { refusals + 1 } else { 0 };
                    if refusals == MAX_REFUSALS {
                        return Err(AcquireError::Registry(error));
                    }
                    (BACKOFF.pause(failures, fastrand::u64(..)), AcquireError::Registry(error))
                }
                Err(error) => return Err(error),
            };
            if let Some(refusal) = attempts.phase.refusal() {
                return Err(refusal);
            }
            if is_last || attempts.is_over() {
                return Err(error);
            }
            if let Some(waiting) = waiting {
                waiting.record_failure(&error);
            }
            let is_held = matches!(error, AcquireError::Held { .. });
            let watch = async {
                if !is_held {
                    return std::future::pending().await;
                }
                let view = view.get_or_insert_with(|| self.views.open(&attempts.place));
                sleep(ATTEMPT_INTERVAL).await;
                while !view.changed().await.is_some_and(|seen| seen.is_open(&attempts.place)) {}
            };
            tokio::select! {
                () = watch => {}
                () = sleep(pause) => {}
                // One more attempt at the end of the wait.
                () = sleep_until(attempts.until) => {}
                () = attempts.given_up.cancelled() => return Err(error),
                () = attempts.phase.draining.cancelled() => return Err(attempts.phase.why_draining()),
            }
        }
    }

    pub(super) fn queue(&self, place: &LockPlace) -> Arc<Queue> {
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
