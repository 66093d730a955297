//! One hold: its session is renewed, its lock is watched, and its loss is told before another can hold it.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use outrigger_config::error_chain;
use outrigger_policy::backoff::Backoff;
use outrigger_registry::{KnownLock, LockPlace, Locks, SessionId};
use parking_lot::Mutex;
use tokio::{
    sync::{Notify, oneshot, watch},
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{BootClock, LockName, validity::Validity, view::View};

/// How long the end of a session is tried: after twice its time to live, the registry has ended it.
const CLOSE_FOR: Duration = Duration::from_secs(60);
/// Longest wait for the reason of a loss: the loss is told then.
const REASON_TIMEOUT: Duration = Duration::from_secs(1);
/// Longest wait of the app for the release of its lock. The registry is asked on.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(2);
/// Longest time of one call.
const CALL_TIMEOUT: Duration = Duration::from_secs(5);
/// Pauses between two tries of what ends a hold.
const BACKOFF: Backoff = Backoff { base: Duration::from_millis(100), max: Duration::from_secs(2) };

/// Why a lock is lost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LossReason {
    /// The session was not renewed in time: the registry did not answer, or this machine was suspended.
    SessionExpired {
        /// The error of the last renewal.
        error: Option<Arc<str>>,
    },
    /// The registry has ended the session: an operator did, or the check of the node failed.
    SessionInvalidated,
    /// The session lives, but it no longer holds the key: an operator freed or deleted it.
    KeyFreed,
    /// The app has not renewed its lease in time.
    LeaseExpired,
    /// The sidecar stops, and its wait for the app is over.
    Drained,
}

impl LossReason {
    /// All names.
    pub(crate) const NAMES: [&str; 5] =
        ["session_expired", "session_invalidated", "key_freed", "lease_expired", "drained"];

    /// The name of the reason: a closed list.
    pub fn name(&self) -> &'static str {
        match self {
            Self::SessionExpired { .. } => "session_expired",
            Self::SessionInvalidated => "session_invalidated",
            Self::KeyFreed => "key_freed",
            Self::LeaseExpired => "lease_expired",
            Self::Drained => "drained",
        }
    }

    /// The reason of this name, of a record.
    pub(crate) fn recorded(name: &str, error: Option<&str>) -> Option<Self> {
        Some(match name {
            "session_expired" => Self::SessionExpired { error: error.map(Arc::from) },
            "session_invalidated" => Self::SessionInvalidated,
            "key_freed" => Self::KeyFreed,
            "lease_expired" => Self::LeaseExpired,
            "drained" => Self::Drained,
            _ => return None,
        })
    }
}

impl fmt::Display for LossReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SessionExpired { error: None } => f.write_str("its session was not renewed in time"),
            Self::SessionExpired { error: Some(error) } => {
                write!(f, "its session could not be renewed in time: {error}")
            }
            Self::SessionInvalidated => f.write_str("the registry has ended its session"),
            Self::KeyFreed => f.write_str("its key was freed or deleted by another client"),
            Self::LeaseExpired => f.write_str("the lease was not renewed in time"),
            Self::Drained => f.write_str("the sidecar stops"),
        }
    }
}

/// The state of a hold. It begins as held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HoldState {
    /// The lock is held.
    Held,
    /// It is held no longer, for this reason.
    Lost(LossReason),
    /// It was given back.
    Released,
}

/// How a lock was given back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Released {
    /// The registry has freed it.
    Now,
    /// The registry does not answer: it is freed when it answers again, or when the session expires.
    Later,
}

/// What is known of a hold.
#[derive(Debug)]
pub(crate) struct Hold {
    /// Unique in this process and, for a lease, hard to guess.
    pub(crate) id: String,
    pub(crate) grant: Grant,
    /// Absent: it is held by a connection.
    pub(crate) lease: Option<LeaseTerms>,
    pub(crate) state: watch::Sender<HoldState>,
    /// As the last renewal left it.
    validity: Mutex<Validity>,
    end: Mutex<End>,
    /// A second request of the same owner was told of the lease. Changed under `end` alone.
    is_adopted: AtomicBool,
    /// Cancelled when the registry has freed the lock, or cannot be asked to.
    pub(crate) freed: CancellationToken,
    wake: Notify,
}

/// The terms of a lease.
#[derive(Debug)]
pub(crate) struct LeaseTerms {
    pub(crate) owner: Option<String>,
    pub(crate) ttl: Duration,
    /// On the clock that counts while the machine is suspended.
    pub(crate) until: Mutex<Duration>,
}

/// The end that was asked for.
#[derive(Debug, Default)]
enum End {
    #[default]
    No,
    Release(Vec<oneshot::Sender<Released>>),
    Lose(LossReason),
    /// Another process goes on with it.
    Leave,
    /// It has ended: no answer comes any more.
    Over,
}

/// What the registry has granted.
#[derive(Debug)]
pub(crate) struct Grant {
    pub(crate) name: LockName,
    pub(crate) place: LockPlace,
    pub(crate) session: SessionId,
    pub(crate) token: u64,
    pub(crate) value: Vec<u8>,
    /// On the clock that counts while the machine is suspended.
    pub(crate) acquired_at: Duration,
    /// [`crate::Acquire::is_internal`].
    pub(crate) is_internal: bool,
}

impl Hold {
    /// `id`: see [`Hold::id`]. `validity`: of its session.
    pub(crate) fn new(id: String, grant: Grant, lease: Option<LeaseTerms>, validity: Validity) -> Self {
        let (state, end) = (watch::Sender::new(HoldState::Held), Mutex::default());
        Self {
            id,
            grant,
            lease,
            state,
            validity: Mutex::new(validity),
            end,
            is_adopted: AtomicBool::new(false),
            freed: CancellationToken::new(),
            wake: Notify::new(),
        }
    }

    pub(crate) fn is_held(&self) -> bool {
        *self.state.borrow() == HoldState::Held
    }

    /// Whether it is held, and is not to end.
    pub(crate) fn is_kept(&self) -> bool {
        matches!(*self.end.lock(), End::No) && self.is_held()
    }

    /// Asks for the lock to be given back. The answer comes when it was, or cannot be now; an error where it is lost.
    pub(crate) fn release(&self) -> oneshot::Receiver<Released> {
        let (sender, released) = oneshot::channel();
        let mut end = self.end.lock();
        match &mut *end {
            End::No => *end = End::Release(vec![sender]),
            End::Release(waiting) => waiting.push(sender),
            End::Lose(_) | End::Leave | End::Over => {}
        }
        self.wake.notify_one();
        released
    }

    /// Another request of the same owner gets the lease. `false`: it ends.
    pub(crate) fn adopt(&self) -> bool {
        let end = self.end.lock();
        let is_kept = matches!(*end, End::No);
        self.is_adopted.fetch_or(is_kept, Ordering::Relaxed);
        is_kept
    }

    /// Gives the lock back, because the request that acquired it is gone, unless another request was told of it.
    pub(crate) fn give_up(&self) {
        let mut end = self.end.lock();
        if matches!(*end, End::No) && !self.is_adopted.load(Ordering::Relaxed) {
            *end = End::Release(Vec::new());
            self.wake.notify_one();
        }
    }

    /// Ends the hold as lost.
    pub(crate) fn lose(&self, reason: LossReason) {
        self.end_by(End::Lose(reason));
    }

    /// Leaves the hold to another process: it ends here, and stays at the registry.
    pub(crate) fn leave(&self) {
        self.end_by(End::Leave);
    }

    /// Ends the hold by `how`, unless it ends already.
    fn end_by(&self, how: End) {
        let mut end = self.end.lock();
        if matches!(*end, End::No) {
            *end = how;
        }
        self.wake.notify_one();
    }

    /// Why it is lost at `now`. A process that did not run for some time answers a request about a hold before the task that keeps the
    /// hold has looked at the clock.
    pub(crate) fn loss_at(&self, now: Duration) -> Option<LossReason> {
        if let HoldState::Lost(reason) = &*self.state.borrow() {
            return Some(reason.clone());
        }
        if !self.validity.lock().holds(now) {
            return Some(LossReason::SessionExpired { error: None });
        }
        (self.lease_until() <= now).then_some(LossReason::LeaseExpired)
    }

    /// The certain time of its session, as the last renewal left it.
    pub(crate) fn validity(&self) -> Validity {
        *self.validity.lock()
    }

    /// Until when it is certain without another renewal: of its session, and of its lease.
    pub(crate) fn certain_until(&self) -> Duration {
        self.lease_until().min(self.validity.lock().ends_at())
    }

    /// For how long the app can rely on the lease at `now`: for its time to live, or less while the registry does not confirm the session.
    pub(crate) fn promised(&self, now: Duration) -> Duration {
        let validity = self.validity.lock();
        let lease = self.lease.as_ref().map_or(Duration::ZERO, |lease| lease.ttl);
        match validity.is_overdue(now) {
            true => lease.min(validity.ends_at().saturating_sub(now)),
            false => lease,
        }
    }

    /// Lets the lease begin again.
    pub(crate) fn extend(&self, now: Duration) {
        if let Some(lease) = &self.lease {
            *lease.until.lock() = now + lease.ttl;
            self.wake.notify_one();
        }
    }

    /// Whether it is a lease of this owner.
    pub(crate) fn is_of_owner(&self, owner: &str) -> bool {
        self.lease.as_ref().is_some_and(|lease| lease.owner.as_deref() == Some(owner))
    }

    fn lease_until(&self) -> Duration {
        self.lease.as_ref().map_or(Duration::MAX, |lease| *lease.until.lock())
    }

    /// Keeps the hold until it ends, tells the end, and gives the lock back where that was asked for. Its session is not ended. `record_end`
    /// is called with the end before it is told; not where another process goes on with the hold. `save` resolves when the record has the
    /// end, or soon: what is given back is not a lease of the next process.
    pub(crate) async fn keep(
        &self,
        registry: &dyn Locks,
        clock: BootClock,
        view: View,
        known: &mut KnownLock,
        record_end: impl FnOnce(&HoldState),
        save: impl Future<Output = ()>,
    ) -> EndOfHold {
        let (ending, validity) = self.keep_alive(registry, clock, view).await;
        let Grant { name, token, .. } = &self.grant;
        let (end, released) = match ending {
            Ending::Left => {
                self.freed.cancel();
                self.state.send_replace(HoldState::Released);
                (EndOfHold::Left, None)
            }
            Ending::Lost(reason) => {
                warn!(lock = %name, token, %reason, "the lock is lost");
                let lost = HoldState::Lost(reason);
                record_end(&lost);
                self.state.send_replace(lost);
                (EndOfHold::Lost, None)
            }
            Ending::Released => {
                record_end(&HoldState::Released);
                self.state.send_replace(HoldState::Released);
                // Before the registry frees it: a process that is killed in between leaves no lease that another client seems to have freed.
                let give_back = async {
                    save.await;
                    self.give_back(registry, clock, validity, known).await
                };
                let mut give_back = std::pin::pin!(give_back);
                let released = match timeout(RELEASE_TIMEOUT, &mut give_back).await {
                    Ok(released) => released,
                    Err(_) => {
                        self.answer_release_later();
                        give_back.await
                    }
                };
                info!(lock = %name, token, now = released == Released::Now, "gave the lock back");
                (EndOfHold::Released, Some(released))
            }
        };
        if end != EndOfHold::Lost {
            self.freed.cancel();
        }
        let asked = std::mem::replace(&mut *self.end.lock(), End::Over);
        if let (End::Release(waiting), Some(released)) = (asked, released) {
            for sender in waiting {
                let _ = sender.send(released);
            }
        }
        end
    }

    /// Returns when the hold ends.
    async fn keep_alive(&self, registry: &dyn Locks, clock: BootClock, mut view: View) -> (Ending, Validity) {
        let mut validity = *self.validity.lock();
        let mut renewal = None;
        let mut last_error: Option<Arc<str>> = None;
        let has_lost = |seen: &crate::view::SeenLock| seen.has_lost(&self.grant.session, self.grant.token);
        // The view may be older than the hold.
        let mut is_freed = view.last().as_ref().is_some_and(has_lost);
        loop {
            let now = clock.now();
            match &*self.end.lock() {
                End::No | End::Over => {}
                End::Release(_) => return (Ending::Released, validity),
                End::Leave => return (Ending::Left, validity),
                End::Lose(reason) => return (Ending::Lost(reason.clone()), validity),
            }
            if !validity.holds(now) {
                return (Ending::Lost(LossReason::SessionExpired { error: last_error }), validity);
            }
            if is_freed {
                return (Ending::Lost(self.why_freed(registry, clock, validity).await), validity);
            }
            let lease_until = self.lease_until();
            if lease_until <= now {
                return (Ending::Lost(LossReason::LeaseExpired), validity);
            }
            let mut wake_at = validity.ends_at().min(lease_until);
            if renewal.is_none() {
                if validity.next_renewal() <= now {
                    let call = timeout(CALL_TIMEOUT, registry.renew_session(&self.grant.session));
                    renewal = Some((now, Box::pin(call)));
                } else {
                    wake_at = wake_at.min(validity.next_renewal());
                }
            }
            tokio::select! {
                () = clock.sleep_until(wake_at) => {}
                () = self.wake.notified() => {}
                seen = view.changed() => is_freed = seen.as_ref().is_some_and(has_lost),
                (sent_at, answer) = answer_to(&mut renewal) => {
                    renewal = None;
                    match answer {
                        Ok(Ok(true)) => {
                            validity.record_success(sent_at);
                            *self.validity.lock() = validity;
                            last_error = None;
                        }
                        Ok(Ok(false)) => return (Ending::Lost(LossReason::SessionInvalidated), validity),
                        Ok(Err(error)) => {
                            validity.record_failure(clock.now());
                            last_error = Some(error_chain(&error).into());
                        }
                        Err(_) => {
                            validity.record_failure(clock.now());
                            last_error = Some(format!("no answer within {CALL_TIMEOUT:?}").into());
                        }
                    }
                }
            }
        }
    }

    /// The app waits no longer for the registry.
    fn answer_release_later(&self) {
        self.freed.cancel();
        if let End::Release(waiting) = &mut *self.end.lock() {
            for sender in waiting.drain(..) {
                let _ = sender.send(Released::Later);
            }
        }
    }

    /// Why the session no longer holds the key: the end of a session frees its keys.
    async fn why_freed(&self, registry: &dyn Locks, clock: BootClock, validity: Validity) -> LossReason {
        let within = REASON_TIMEOUT.min(validity.ends_at().saturating_sub(clock.now()));
        match timeout(within, registry.renew_session(&self.grant.session)).await {
            Ok(Ok(false)) => LossReason::SessionInvalidated,
            Ok(Ok(true) | Err(_)) | Err(_) => LossReason::KeyFreed,
        }
    }

    /// Frees the lock at the registry, without a lock-delay.
    async fn give_back(
        &self,
        registry: &dyn Locks,
        clock: BootClock,
        validity: Validity,
        known: &mut KnownLock,
    ) -> Released {
        let mut failures = 0;
        while validity.holds(clock.now()) {
            match timeout(CALL_TIMEOUT, registry.unlock(&self.grant.place, &self.grant.session, known)).await
            {
                Ok(Ok(_)) => return Released::Now,
                Ok(Err(_)) | Err(_) => failures += 1,
            }
            sleep(BACKOFF.pause(failures, fastrand::u64(..))).await;
        }
        Released::Later
    }
}

/// How a hold has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum EndOfHold {
    Lost,
    Released,
    /// Another process goes on with it.
    Left,
}

/// How a hold ends.
enum Ending {
    Lost(LossReason),
    /// It is to be given back.
    Released,
    /// Another process goes on with it.
    Left,
}

type Renewal<F> = Option<(Duration, std::pin::Pin<Box<F>>)>;

/// The answer to a renewal that was sent; never where none was sent.
async fn answer_to<F: Future>(renewal: &mut Renewal<F>) -> (Duration, F::Output) {
    match renewal {
        Some((sent_at, call)) => (*sent_at, call.await),
        None => std::future::pending().await,
    }
}

/// Ends a session at the registry, which ends it by itself otherwise.
pub(crate) async fn close_session(registry: &dyn Locks, session: &SessionId) {
    let close = async {
        for failures in 0.. {
            match timeout(CALL_TIMEOUT, registry.close_session(session)).await {
                Ok(Ok(())) => return,
                Ok(Err(_)) | Err(_) => sleep(BACKOFF.pause(failures, fastrand::u64(..))).await,
            }
        }
    };
    if timeout(CLOSE_FOR, close).await.is_err() {
        warn!(%session, "cannot end the session of a lock, the registry ends it when its time is over");
    }
}
