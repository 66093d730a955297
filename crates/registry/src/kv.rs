//! Keys and values that a registry stores beside its services: one question or one write at a time.

use std::time::Duration;

use tokio::sync::watch;

use crate::{AnswerFuture, Consistency, Cursor, SessionId};

/// A key with its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KvEntry {
    /// The whole key, without a leading slash.
    pub key: String,
    /// The value, any bytes.
    pub value: Vec<u8>,
    /// A number of the writer's own, with no meaning to the registry.
    pub flags: u64,
    /// The session that holds the key as a lock.
    pub session: Option<String>,
    /// How often a session has acquired the key; 0 after a plain write in Consul, so it is no fencing token.
    pub lock_index: u64,
    /// The index of the write that made the key.
    pub create_index: u64,
    /// The index of the last change. An equal write changes nothing.
    pub modify_index: u64,
}

/// The keys that a question is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KvScope<'a> {
    /// One key.
    Key(&'a str),
    /// Every key that begins with this text.
    Prefix(&'a str),
}

/// One answer of a watch.
#[derive(Debug, Clone, PartialEq)]
pub struct KvAnswer {
    /// The entries, in the order of their keys. Empty: there is none.
    pub entries: Vec<KvEntry>,
    /// The cursor of the next question; [`Cursor::START`] when the index went back or cannot be used. In Consul the index of a
    /// prefix goes back some minutes after deletions, also where nothing is wrong.
    pub cursor: Cursor,
    /// The index of the registry went back.
    pub index_went_back: bool,
    /// The age of the answer, where the registry states it.
    pub age: Option<Duration>,
    /// Whether the server that answered knows a leader.
    pub known_leader: bool,
}

/// One of several writes that are made together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KvChange<'a> {
    /// As [`Kv::put_kv`].
    Put {
        /// The key.
        key: &'a str,
        /// Its value.
        value: &'a [u8],
        /// See [`KvEntry::flags`].
        flags: u64,
        /// The condition.
        at: Option<u64>,
    },
    /// As [`Kv::delete_kv`].
    Delete {
        /// The key.
        key: &'a str,
        /// The condition. Not 0.
        at: Option<u64>,
    },
}

/// The end of [`Kv::put_held_kv`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeldPut {
    /// The session holds the key, with the new value.
    Written,
    /// Another session holds the key, or did until a moment ago. Nothing is written.
    HeldByOther,
    /// The registry does not know the session (any more). Nothing is written.
    SessionLost,
}

/// A store of keys and values.
pub trait Kv: std::fmt::Debug + Send + Sync + 'static {
    /// One question. It is answered when the entries may have changed since `cursor`, or after about `wait`; at once for
    /// [`Cursor::START`]. Bounded as [`Registry::watch`](crate::Registry::watch) is.
    ///
    /// In Consul a question about a key that does not exist, or a prefix without keys, is answered at every write of any key.
    fn watch_kv<'a>(
        &'a self,
        scope: KvScope<'a>,
        cursor: Cursor,
        consistency: Consistency,
        wait: Duration,
    ) -> AnswerFuture<'a, KvAnswer>;

    /// Writes a value. With `at`, only where the key's [`KvEntry::modify_index`] is this number; 0: only where there is no
    /// such key. `false`: the condition does not hold. Where the connection broke, the write may have
    /// been made twice, and the first one counts: read the key before another writer is blamed. `flags`: see [`KvEntry::flags`].
    fn put_kv<'a>(
        &'a self,
        key: &'a str,
        value: &'a [u8],
        flags: u64,
        at: Option<u64>,
    ) -> AnswerFuture<'a, bool>;

    /// Removes a key, with `at` under the condition of [`put_kv`](Self::put_kv). A key that does not exist is not an error.
    fn delete_kv<'a>(&'a self, key: &'a str, at: Option<u64>) -> AnswerFuture<'a, bool>;

    /// Makes every change, or none: `None` where a condition does not hold. Returns the index of the writes, 0 without a `Put`. Consul
    /// takes 64 changes at most. As for [`put_kv`](Self::put_kv), the changes may have been made although a condition is
    /// said not to hold.
    fn change_kv<'a>(&'a self, changes: &'a [KvChange<'a>]) -> AnswerFuture<'a, Option<u64>>;

    /// Writes a value that lives as long as a session: with [`NewSession::removes_keys`](crate::NewSession::removes_keys)
    /// the key goes when the session ends. A key that the session holds already gets the new value.
    fn put_held_kv<'a>(
        &'a self,
        key: &'a str,
        value: &'a [u8],
        session: &'a SessionId,
    ) -> AnswerFuture<'a, HeldPut>;

    /// Changes when the registry answers again, to any question of this process, after some seconds in which it answered none. `None`: it
    /// does not tell.
    fn returned(&self) -> Option<watch::Receiver<()>> {
        None
    }
}
