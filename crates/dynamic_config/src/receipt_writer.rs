//! Keeps the receipt of this sidecar in the KV, under a session of its own: it goes when the sidecar goes.
//!
//! | when | what |
//! |---|---|
//! | the content is another one | written after 0 to 2 s, so that the sidecars of a cluster do not all write at once |
//! | the registry does not answer | again after a random pause that grows to 30 s |
//! | an earlier process of this state folder holds the key | its session is ended, and the receipt is written at once |
//! | another process holds the key | again after the same pause |
//! | the token may not write | one warning, and one attempt every 5 minutes, because its rules may change |
//! | the session is gone | another session, and the receipt is written again |
//!
//! Nothing waits for a receipt.

use std::{convert::Infallible, sync::Arc, time::Duration};

use outrigger_config::error_chain;
use outrigger_policy::Backoff;
use outrigger_registry::{Consistency, Cursor, Error, HeldPut, Kv, KvScope, Locks, NewSession, SessionId};
use tokio::{
    sync::watch,
    time::{Instant, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::{Receipt, SessionFile};

/// Consul ends a session after twice this time without a renewal.
const SESSION_TTL: Duration = Duration::from_secs(30);
/// Pause between two renewals.
const RENEW_INTERVAL: Duration = Duration::from_secs(12);
/// Longest pause before a changed receipt is written.
const JITTER: Duration = Duration::from_secs(2);
/// How often the key is read, because an operator may have deleted it.
const CHECK_INTERVAL: Duration = Duration::from_secs(600);
/// Longest wait for the answer to that.
const CHECK_WAIT: Duration = Duration::from_secs(10);
const BACKOFF: Backoff = Backoff { base: Duration::from_secs(1), max: Duration::from_secs(30) };
/// Pause after the token was refused.
const DENIED_PAUSE: Duration = Duration::from_secs(300);
/// Longest wait for the end of the session when the sidecar stops. Else it ends by its TTL.
const CLOSE_WITHIN: Duration = Duration::from_secs(1);

/// The receipt that is to be in the KV.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlacedReceipt {
    /// Its key.
    pub key: String,
    /// Its content.
    pub receipt: Receipt,
}

/// The end of an attempt to write a receipt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReceiptWrite {
    /// It is in the KV.
    Written,
    /// Another process holds the key.
    Held,
    /// The token may not write it.
    Forbidden,
    /// The registry has not answered, or the session was gone.
    Failed,
}

impl ReceiptWrite {
    /// Every one.
    pub const ALL: [Self; 4] = [Self::Written, Self::Held, Self::Forbidden, Self::Failed];

    /// Its label in metrics.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Written => "written",
            Self::Held => "held",
            Self::Forbidden => "forbidden",
            Self::Failed => "failed",
        }
    }
}

/// Writes the receipt of this sidecar.
pub struct ReceiptWriter {
    kv: Arc<dyn Kv>,
    locks: Arc<dyn Locks>,
    wanted: watch::Receiver<Option<PlacedReceipt>>,
    observe: Box<dyn Fn(ReceiptWrite) + Send + Sync>,
    session: Option<ReceiptSession>,
    file: SessionFile,
    /// The sessions of earlier processes, which may not have ended.
    earlier: Vec<SessionId>,
    /// What the session holds.
    written: Option<PlacedReceipt>,
    /// When `wanted` is written. `None`: it is `written`.
    write_at: Option<Instant>,
    failures: u32,
    is_denied: bool,
}

#[derive(Debug)]
struct ReceiptSession {
    id: SessionId,
    renew_at: Instant,
    check_at: Instant,
    /// Failed renewals in a row.
    failures: u32,
}

impl std::fmt::Debug for ReceiptWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ReceiptWriter").field("written", &self.written).finish_non_exhaustive()
    }
}

impl ReceiptWriter {
    /// `wanted` is the receipt that is to be in the KV; `None`: none. `file` keeps the session for the next process. `observe` is called with the end of each attempt.
    pub fn new(
        kv: Arc<dyn Kv>,
        locks: Arc<dyn Locks>,
        wanted: watch::Receiver<Option<PlacedReceipt>>,
        file: SessionFile,
        observe: impl Fn(ReceiptWrite) + Send + Sync + 'static,
    ) -> Self {
        Self {
            kv,
            locks,
            wanted,
            observe: Box::new(observe),
            session: None,
            file,
            earlier: Vec::new(),
            written: None,
            write_at: None,
            failures: 0,
            is_denied: false,
        }
    }

    /// Writes until `stop` is cancelled, and then ends the session, and the receipt with it, for a second at most.
    pub async fn run(mut self, stop: CancellationToken) {
        self.earlier = self.file.load().await;
        tokio::select! {
            never = self.write_changes() => match never {},
            () = stop.cancelled() => {}
        }
        self.close_session().await;
    }

    async fn write_changes(&mut self) -> Infallible {
        self.note_wanted();
        loop {
            let renew_at = self.session.as_ref().map(|session| session.renew_at);
            let due = self.write_at.into_iter().chain(renew_at).min();
            tokio::select! {
                () = sleep_until_due(due) => {}
                changed = self.wanted.changed() => {
                    match changed {
                        Ok(()) => self.note_wanted(),
                        // The owner is gone, and is about to end this task.
                        Err(_) => std::future::pending::<()>().await,
                    }
                    continue;
                }
            }
            let now = Instant::now();
            if self.write_at.is_some_and(|at| at <= now) {
                self.write().await;
            } else if renew_at.is_some_and(|at| at <= now) {
                self.renew().await;
            }
        }
    }

    /// Plans the next write. One that is planned stays where it is, because it may be late after a refusal.
    fn note_wanted(&mut self) {
        if *self.wanted.borrow_and_update() != self.written {
            self.write_at = self.write_at.or(Some(soon()));
        }
    }

    async fn write(&mut self) {
        self.write_at = None;
        let wanted = self.wanted.borrow_and_update().clone();
        if wanted == self.written {
            return;
        }
        let key = wanted.as_ref().map(|wanted| &wanted.key);
        if self.written.as_ref().is_some_and(|written| Some(&written.key) != key) {
            // The earlier key goes with its session.
            self.close_session().await;
        }
        let Some(wanted) = wanted else { return };
        let done = match self.try_write(&wanted).await {
            Ok(HeldPut::Written) => {
                if self.is_denied {
                    info!(key = wanted.key, "the receipt of the settings in the KV is written");
                }
                (self.failures, self.is_denied) = (0, false);
                self.written = Some(wanted);
                self.forget_earlier().await;
                return (self.observe)(ReceiptWrite::Written);
            }
            Ok(HeldPut::HeldByOther) if self.end_earlier().await => {
                self.write_at = Some(Instant::now());
                return;
            }
            Ok(HeldPut::HeldByOther) => {
                debug!(key = wanted.key, "another process holds the key of the receipt");
                ReceiptWrite::Held
            }
            Ok(HeldPut::SessionLost) => {
                self.session = None;
                ReceiptWrite::Failed
            }
            Err(error) => self.note_error(&error),
        };
        (self.observe)(done);
        let pause = match done {
            ReceiptWrite::Forbidden => {
                self.close_session().await;
                DENIED_PAUSE + JITTER.mul_f64(fastrand::f64())
            }
            _ => BACKOFF.pause(self.failures, fastrand::u64(..)),
        };
        self.failures = self.failures.saturating_add(1);
        self.write_at = Some(Instant::now() + pause);
    }

    async fn try_write(&mut self, wanted: &PlacedReceipt) -> Result<HeldPut, Error> {
        let id = match &self.session {
            Some(session) => session.id.clone(),
            None => self.open_session(&wanted.key).await?,
        };
        self.kv.put_held_kv(&wanted.key, &wanted.receipt.to_json(), &id).await
    }

    async fn open_session(&mut self, key: &str) -> Result<SessionId, Error> {
        let session = NewSession {
            name: key,
            ttl: SESSION_TTL,
            lock_delay: Duration::ZERO,
            removes_keys: true,
            // The node of a sidecar may not be seen for a moment, and the sidecar still runs.
            ends_with_node: false,
        };
        let id = self.locks.open_session(session).await?;
        let now = Instant::now();
        let session = ReceiptSession {
            id: id.clone(),
            renew_at: now + RENEW_INTERVAL,
            check_at: now + CHECK_INTERVAL,
            failures: 0,
        };
        self.session = Some(session);
        self.earlier.push(id.clone());
        self.file.save(&self.earlier).await;
        self.earlier.pop();
        Ok(id)
    }

    /// Ends the sessions of earlier processes. Returns whether there was one that has ended.
    async fn end_earlier(&mut self) -> bool {
        let count = self.earlier.len();
        for id in std::mem::take(&mut self.earlier) {
            if let Err(error) = self.locks.close_session(&id).await {
                debug!(reason = error_chain(&error), "the session of an earlier receipt cannot be ended now");
                self.earlier.push(id);
            }
        }
        self.earlier.len() < count
    }

    /// The receipt is written: no earlier session holds its key.
    async fn forget_earlier(&mut self) {
        if let (Some(session), false) = (&self.session, self.earlier.is_empty()) {
            self.file.save(std::slice::from_ref(&session.id)).await;
            self.earlier.clear();
        }
    }

    fn note_error(&mut self, error: &Error) -> ReceiptWrite {
        let reason = error_chain(error);
        if !error.is_forbidden() {
            debug!(reason, "the receipt of the settings in the KV cannot be written now");
            return ReceiptWrite::Failed;
        }
        if !std::mem::replace(&mut self.is_denied, true) {
            warn!(
                reason,
                "the token may not write the receipt of the settings in the KV: the settings apply, and \
                 `outrigger config status` does not see this sidecar"
            );
        }
        ReceiptWrite::Forbidden
    }

    /// Renews the session; now and then also looks whether it still holds the key.
    async fn renew(&mut self) {
        let Some(session) = &mut self.session else { return };
        let renewed = self.locks.renew_session(&session.id).await;
        let now = Instant::now();
        let is_held = match renewed {
            Ok(false) => {
                self.session = None;
                false
            }
            // The next write tells it.
            Err(error) if error.is_forbidden() => {
                self.session = None;
                false
            }
            Ok(true) => {
                session.failures = 0;
                session.renew_at = now + RENEW_INTERVAL;
                if session.check_at > now {
                    return;
                }
                session.check_at = now + CHECK_INTERVAL.mul_f64(0.9 + 0.2 * fastrand::f64());
                let Some(written) = &self.written else { return };
                let scope = KvScope::Key(&written.key);
                let read = self.kv.watch_kv(scope, Cursor::START, Consistency::Stale, CHECK_WAIT).await;
                // An answer that failed says nothing about the key.
                read.map_or(true, |answer| {
                    let holders = answer.entries.iter().filter_map(|entry| entry.session.as_deref());
                    holders.into_iter().any(|holder| holder == session.id.as_str())
                })
            }
            Err(error) => {
                debug!(reason = error_chain(&error), "the session of the receipt cannot be renewed now");
                session.renew_at = now + BACKOFF.pause(session.failures, fastrand::u64(..));
                session.failures = session.failures.saturating_add(1);
                return;
            }
        };
        if !is_held {
            debug!("the receipt of the settings in the KV is gone, it is written again");
            self.written = None;
            self.note_wanted();
        }
    }

    async fn close_session(&mut self) {
        self.written = None;
        let Some(session) = self.session.take() else { return };
        let closed = timeout(CLOSE_WITHIN, self.locks.close_session(&session.id)).await;
        if !matches!(closed, Ok(Ok(()))) {
            debug!(
                "the session of the receipt could not be ended, it ends by itself after {:?}",
                SESSION_TTL * 2
            );
        }
    }
}

/// A moment at which a change is written.
fn soon() -> Instant {
    Instant::now() + JITTER.mul_f64(fastrand::f64())
}

async fn sleep_until_due(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
