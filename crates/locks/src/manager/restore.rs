//! The leases and sessions that an earlier process left.

use std::{sync::Arc, time::Duration};

use outrigger_registry::{LockPlace, SessionId};
use parking_lot::Mutex;
use tokio::time::{sleep, timeout};
use tracing::info;

use super::{BACKOFF, Shared, bounded};
use crate::{
    LockName,
    hold::{Grant, Hold, LeaseTerms, close_session},
    record::RecordedHold,
    validity::Validity,
};

/// How long the leases of an earlier process are tried to be taken over.
const RESTORE_FOR: Duration = Duration::from_secs(60);

impl Shared {
    /// Takes a lease over, or ends its session.
    pub(super) async fn restore(self: &Arc<Self>, recorded: RecordedHold) {
        let session = SessionId::recorded(recorded.session.clone());
        let taken_over = match &recorded.lease {
            Some(_) => timeout(RESTORE_FOR, self.take_over(&recorded, &session)).await.unwrap_or(false),
            None => false,
        };
        if !taken_over {
            close_session(&*self.registry, &session).await;
        }
        if let Some(left) = &mut *self.restoring.lock() {
            left.retain(|other| other.id != recorded.id);
        }
        self.save().await;
    }

    /// Whether the lease of an earlier process goes on.
    async fn take_over(self: &Arc<Self>, recorded: &RecordedHold, session: &SessionId) -> bool {
        let (Some(lease), Ok(name)) = (&recorded.lease, LockName::parse(&recorded.name)) else {
            return false;
        };
        let Ok(slot) = self.slots.clone().try_acquire_owned() else { return false };
        let until = Duration::from_millis(lease.until_ms);
        let place = LockPlace { path: recorded.path.clone(), limit: recorded.limit.max(1) };
        let ttl = Duration::from_millis(recorded.session_ttl_ms);
        for failures in 0.. {
            let sent_at = self.clock.now();
            if until <= sent_at {
                return false;
            }
            match bounded("the renewal of a session", self.registry.renew_session(session)).await {
                Ok(true) => {
                    let terms = LeaseTerms {
                        owner: lease.owner.clone(),
                        ttl: Duration::from_millis(lease.ttl_ms),
                        until: Mutex::new(until),
                    };
                    let grant = Grant {
                        name,
                        place: place.clone(),
                        session: session.clone(),
                        token: recorded.token,
                        value: recorded.decode_value(),
                        session_ttl: ttl,
                        acquired_at: sent_at,
                    };
                    let validity = Validity::new(ttl, sent_at);
                    let hold = Hold::new(recorded.id.clone(), grant, Some(terms), validity);
                    let view = self.views.open(&place);
                    info!(lock = %hold.grant.name, token = hold.grant.token, "took over the lease of an earlier process");
                    let known = self.take_known(&place);
                    self.keep(hold, view, slot, known);
                    return true;
                }
                Ok(false) => return false,
                Err(_) => sleep(BACKOFF.pause(failures, fastrand::u64(..))).await,
            }
        }
        false
    }
}
