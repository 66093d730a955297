//! The leases and sessions that an earlier process left.

use std::{sync::Arc, time::Duration};

use outrigger_config::error_chain;
use outrigger_registry::{Cursor, Error as RegistryError, LockHolder, LockPlace, SessionId};
use parking_lot::Mutex;
use tokio::time::{Instant, sleep, timeout_at};
use tracing::info;

use super::{BACKOFF, CALL_TIMEOUT, LockManager, Shared, bounded};
use crate::{
    LockName, LossReason,
    hold::{Grant, Hold, LeaseTerms, close_session},
    record::{RecordedHold, RecordedLease},
    validity::Validity,
};

/// How long the leases of an earlier process are tried to be taken over.
const RESTORE_FOR: Duration = Duration::from_secs(60);

impl LockManager {
    /// Reads what an earlier process left: takes over its leases, and ends the sessions of its connections. Returns when that is done,
    /// or after a minute.
    pub async fn restore(&self) {
        let left = self.read_record().await;
        self.take_over_all(left).await;
    }

    pub(super) async fn read_record(&self) -> Vec<RecordedHold> {
        let shared = self.0.clone();
        let read = tokio::task::spawn_blocking(move || shared.record.read());
        // A panic of the reader was reported.
        let left = read.await.unwrap_or_default();
        for (id, name) in &left.ended_leases {
            self.0.record.note_loss(
                id,
                name,
                &LossReason::SessionExpired { error: None },
                self.0.clock.now(),
            );
        }
        self.0.restoring.send_replace(Some(left.holds.clone()));
        left.holds
    }

    pub(super) async fn take_over_all(&self, left: Vec<RecordedHold>) {
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
}

impl Shared {
    /// Takes a lease over, or ends its session. A process that takes the place of this one meanwhile does it.
    async fn restore(self: &Arc<Self>, recorded: RecordedHold) {
        let handed_over = self.handed_over();
        let restore = async {
            let session = SessionId::recorded(recorded.session.clone());
            let taken_over = match &recorded.lease {
                Some(lease) => self.take_over(&recorded, lease, &session).await.map_err(Some),
                None => Err(None),
            };
            if let Err(loss) = taken_over {
                if let Some(loss) = loss.filter(|_| recorded.token.is_some()) {
                    self.record.note_loss(&recorded.id, &recorded.name, &loss, self.clock.now());
                }
                close_session(&*self.registry, &session).await;
            }
        };
        tokio::select! {
            () = handed_over.cancelled() => return,
            () = restore => {}
        }
        self.restoring
            .send_modify(|left| left.iter_mut().for_each(|all| all.retain(|one| one.id != recorded.id)));
        self.save().await;
    }

    /// Lets the lease of an earlier process go on, and begin again: the app may have renewed it until that process ended.
    async fn take_over(
        self: &Arc<Self>,
        recorded: &RecordedHold,
        lease: &RecordedLease,
        session: &SessionId,
    ) -> Result<(), LossReason> {
        let expired = |error: Option<&RegistryError>| LossReason::SessionExpired {
            error: error.map(|error| error_chain(error).into()),
        };
        let Ok(name) = LockName::parse(&recorded.name) else { return Err(expired(None)) };
        let slot = self.slots.clone().try_acquire_owned().ok();
        let place = LockPlace { path: recorded.path.clone(), limit: recorded.limit.max(1) };
        let (until, mut failures) = (Instant::now() + RESTORE_FOR, 0);
        let (sent_at, holder) = loop {
            let sent_at = self.clock.now();
            let asked = timeout_at(until, self.renewed_holder(&place, session)).await;
            match asked {
                Ok(Ok(Some(Some(holder)))) => break (sent_at, holder),
                Ok(Ok(Some(None))) => return Err(LossReason::KeyFreed),
                Ok(Ok(None)) if !recorded.may_have_expired(self.clock.now()) => {
                    return Err(LossReason::SessionInvalidated);
                }
                Ok(Ok(None)) | Err(_) => return Err(expired(None)),
                Ok(Err(error)) if Instant::now() >= until => return Err(expired(Some(&error))),
                Ok(Err(_)) => failures += 1,
            }
            sleep(BACKOFF.pause(failures, fastrand::u64(..))).await;
        };
        let ttl = Duration::from_millis(lease.ttl_ms);
        let session_ttl = Duration::from_millis(recorded.session_ttl_ms);
        let terms = LeaseTerms { owner: lease.owner.clone(), ttl, until: Mutex::new(self.clock.now() + ttl) };
        let grant = Grant {
            name,
            place: place.clone(),
            session: session.clone(),
            token: recorded.token.unwrap_or(holder.written_at),
            value: recorded.decode_value(),
            acquired_at: sent_at,
            is_internal: false,
        };
        let hold = Hold::new(recorded.id.clone(), grant, Some(terms), Validity::new(session_ttl, sent_at));
        let _begins = self.begins.read().await;
        if self.handed_over().is_cancelled() {
            return std::future::pending().await;
        }
        info!(lock = %hold.grant.name, token = hold.grant.token, "took over the lease of an earlier process");
        let (view, known) = (self.views.open(&place), self.take_known(&place));
        self.keep(hold, view, slot, known);
        Ok(())
    }

    /// Renews the session, and says how it holds the lock. `None`: the session has ended.
    async fn renewed_holder(
        &self,
        place: &LockPlace,
        session: &SessionId,
    ) -> Result<Option<Option<LockHolder>>, RegistryError> {
        if !bounded("the renewal of a session", self.registry.renew_session(session)).await? {
            return Ok(None);
        }
        let asked = self.registry.watch_lock(place, Cursor::START, CALL_TIMEOUT);
        let answer = bounded("a lock", asked).await?;
        Ok(Some(answer.holders.into_iter().find(|holder| holder.session == *session)))
    }
}
