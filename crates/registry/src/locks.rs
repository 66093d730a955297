//! Locks and semaphores that a registry keeps: one question or one write at a time. Renewing sessions, waiting for a lock
//! and telling its loss belong to the crate that holds locks.

use std::{collections::BTreeMap, fmt, time::Duration};

use tokio::time::Instant;

use crate::{AnswerFuture, Cursor};

/// What is locked: a path in the registry, and how many may hold it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct LockPlace {
    /// Without a slash at either end. In Consul the lock is the key `PATH/.lock`, as for `consul lock PATH`.
    pub path: String,
    /// Most holders at once: 1 is a mutex, more a semaphore. Never 0.
    pub limit: u32,
}

/// A session: holds locks until it is closed, or is not renewed in time.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(pub(crate) String);

impl SessionId {
    /// A session that an earlier process of this program opened and wrote down.
    pub fn recorded(id: impl Into<String>) -> Self {
        Self(id.into())
    }

    /// The registry's text, for a record and for messages.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A session that is to be opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewSession<'a> {
    /// Shown by the registry to operators.
    pub name: &'a str,
    /// The registry may end the session when it is not renewed for this time; Consul does after twice the time. Consul takes
    /// 10 s to 24 h.
    pub ttl: Duration,
    /// For how long a lock stays closed after the registry has ended its session. Consul takes 60 s at most.
    pub lock_delay: Duration,
    /// The end of the session removes the keys that it holds, in place of freeing them: for a semaphore.
    pub removes_keys: bool,
    /// The session ends when the node of the agent is no longer seen by the others. One missed round of gossip is enough.
    pub ends_with_node: bool,
}

/// A session as the registry holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionInfo {
    /// [`NewSession::name`].
    pub name: String,
    /// The node of the agent that opened it.
    pub node: String,
}

/// The end of one attempt to acquire a lock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LockAttempt {
    /// The session holds it.
    Acquired {
        /// A number that is larger for each later holder: the fencing token. In Consul the index of the write that acquired.
        token: u64,
    },
    /// All places are taken by other sessions.
    Held,
    /// The last holder's session was ended by the registry, and [`NewSession::lock_delay`] is not over.
    Delayed,
    /// The key is in use for something else.
    OtherKind(LockKind),
    /// It is a semaphore with another limit.
    OtherLimit(u32),
    /// The registry does not know the session (any more).
    SessionLost,
}

/// What stands at the place of a lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LockKind {
    /// Nothing yet.
    Unused,
    /// A lock with one holder.
    Mutex,
    /// A semaphore.
    Semaphore {
        /// Most holders.
        limit: u32,
    },
    /// A key with a value that is no lock.
    Foreign,
}

/// A session that holds a lock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LockHolder {
    /// The session.
    pub session: SessionId,
    /// What the holder wrote there.
    pub value: Vec<u8>,
    /// The index of the last write of what the session holds. While it stays the same, the holder has held the lock without a break.
    pub written_at: u64,
}

/// The state of a lock at one moment.
#[derive(Debug, Clone, PartialEq)]
pub struct LockAnswer {
    /// What stands there.
    pub kind: LockKind,
    /// The sessions that hold it now, in the order of the sessions' ids.
    pub holders: Vec<LockHolder>,
    /// The index of the last write of the lock: at least the token of the last holder. 0: never written.
    pub last_write: u64,
    /// The cursor of the next question.
    pub cursor: Cursor,
}

/// What is known of a place between two attempts, so that a second one needs one round trip. It may be out of date.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KnownLock {
    /// The index of the last write that was seen, with the kind that [`LockPlace::limit`] says. `Some(0)`: there is no key.
    pub(crate) written_at: Option<u64>,
    lock_delay: Duration,
    /// Holders that a semaphore lists and that have no session any more, and when they were seen so first.
    gone_since: BTreeMap<SessionId, Instant>,
}

impl KnownLock {
    /// `lock_delay`: for how long the place of a semaphore's holder stays taken after its session was ended.
    /// The registry keeps the lock-delay of a mutex; of a semaphore it knows nothing, so each contender counts from
    /// the moment at which it sees the loss. The default is no time.
    #[must_use]
    pub fn with_lock_delay(self, lock_delay: Duration) -> Self {
        Self { lock_delay, ..self }
    }

    /// Those of `gone` that still take a place at `now`. `gone`: the holders that are listed now and have no session.
    pub(crate) fn still_closed(&mut self, gone: &[SessionId], now: Instant) -> Vec<SessionId> {
        self.gone_since.retain(|session, _| gone.contains(session));
        let delay = self.lock_delay;
        let mut is_closed =
            |session: &&SessionId| *self.gone_since.entry((*session).clone()).or_insert(now) + delay > now;
        gone.iter().filter(|session| is_closed(session)).cloned().collect()
    }
}

/// A registry with locks.
pub trait Locks: fmt::Debug + Send + Sync + 'static {
    /// Opens a session. After an error one may be open that is never used; the registry ends it.
    fn open_session<'a>(&'a self, session: NewSession<'a>) -> AnswerFuture<'a, SessionId>;

    /// Renews a session. `false`: the registry does not know it (any more).
    fn renew_session<'a>(&'a self, session: &'a SessionId) -> AnswerFuture<'a, bool>;

    /// Closes a session. What it still holds is closed for its lock-delay. An unknown session is not an error.
    fn close_session<'a>(&'a self, session: &'a SessionId) -> AnswerFuture<'a, ()>;

    /// What the registry knows of a session. `None`: nothing.
    fn session_info<'a>(&'a self, session: &'a SessionId) -> AnswerFuture<'a, Option<SessionInfo>>;

    /// Removes the key of a lock or semaphore that no session holds, so that another kind or limit can take its place. `false`: one
    /// holds it, or something else stands there. The lock-delay of a lost place of a semaphore is not waited for.
    fn remove_unused_lock<'a>(&'a self, place: &'a LockPlace) -> AnswerFuture<'a, bool>;

    /// Tries once to acquire a lock, and answers at once. A session that holds it acquires it again, with a token that is not
    /// lower. After an error the lock may be held: try again with the same session, or close it.
    fn try_lock<'a>(
        &'a self,
        place: &'a LockPlace,
        session: &'a SessionId,
        value: &'a [u8],
        known: &'a mut KnownLock,
    ) -> AnswerFuture<'a, LockAttempt>;

    /// Gives a lock back, without a lock-delay. `false`: the session did not hold it (any more).
    fn unlock<'a>(
        &'a self,
        place: &'a LockPlace,
        session: &'a SessionId,
        known: &'a mut KnownLock,
    ) -> AnswerFuture<'a, bool>;

    /// The state of a lock: at once for [`Cursor::START`], else when it may have changed, or after about `wait`. The answer is the leader's,
    /// which has confirmed that it is one. In Consul a place that was never used answers at every write of any key.
    fn watch_lock<'a>(
        &'a self,
        place: &'a LockPlace,
        cursor: Cursor,
        wait: Duration,
    ) -> AnswerFuture<'a, LockAnswer>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_place_of_a_lost_holder_stays_taken_for_the_lock_delay_from_its_first_sight() {
        let start = Instant::now();
        let sessions = |ids: &[&str]| ids.iter().map(|id| SessionId::recorded(*id)).collect::<Vec<_>>();
        let mut known = KnownLock::default().with_lock_delay(Duration::from_secs(15));
        for (seconds, gone, closed) in [
            (0, &[][..], &[][..]),
            (1, &["a"], &["a"]),
            (10, &["a", "b"], &["a", "b"]),
            (16, &["a", "b"], &["b"]),
            // Another contender has taken the place of a meanwhile.
            (25, &["b"], &[]),
            // It counts anew.
            (26, &["a"], &["a"]),
        ] {
            let seen = known.still_closed(&sessions(gone), start + Duration::from_secs(seconds));
            assert_eq!(seen, sessions(closed), "{seconds} s");
        }
        assert_eq!(KnownLock::default().still_closed(&sessions(&["a"]), start), [], "no lock-delay");
    }
}
