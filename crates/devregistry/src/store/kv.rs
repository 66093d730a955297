//! The operations on keys.

use std::time::Instant;

use bytes::Bytes;

use super::{
    kv_table::KvEntry,
    session_table::{self, MISSING_SESSION},
    state::Store,
};

/// What an operation does with its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum KvVerb {
    Set,
    Cas,
    Lock,
    Unlock,
    Delete,
    DeleteCas,
    DeleteTree,
    Get,
    GetTree,
    CheckSession,
    CheckIndex,
    CheckNotExists,
}

impl KvVerb {
    const ALL: [(Self, &str); 12] = [
        (Self::Set, "set"),
        (Self::Cas, "cas"),
        (Self::Lock, "lock"),
        (Self::Unlock, "unlock"),
        (Self::Delete, "delete"),
        (Self::DeleteCas, "delete-cas"),
        (Self::DeleteTree, "delete-tree"),
        (Self::Get, "get"),
        (Self::GetTree, "get-tree"),
        (Self::CheckSession, "check-session"),
        (Self::CheckIndex, "check-index"),
        (Self::CheckNotExists, "check-not-exists"),
    ];

    /// The verb with this name in a transaction.
    pub(crate) fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|(_, known)| *known == name).map(|(verb, _)| verb)
    }

    /// Whether the verb may change the store.
    pub(crate) fn is_write(self) -> bool {
        !matches!(
            self,
            Self::Get | Self::GetTree | Self::CheckSession | Self::CheckIndex | Self::CheckNotExists
        )
    }
}

/// An operation on a key.
#[derive(Debug, Clone)]
pub(crate) struct KvOp {
    pub(crate) verb: KvVerb,
    pub(crate) key: String,
    pub(crate) value: Bytes,
    pub(crate) flags: u64,
    /// The session that locks, unlocks, or must hold the lock.
    pub(crate) session: String,
    /// The index that the key must have.
    pub(crate) index: u64,
}

/// Why an operation changed nothing.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum KvFailure {
    /// Its condition does not hold. Alone, the operation is answered `false`; a transaction shows the text.
    Unmet(String),
    /// It cannot be carried out.
    Invalid(String),
}

/// A key with its entry.
pub(crate) type KvRecord = (String, KvEntry);

impl Store {
    /// The entry of a key.
    pub(crate) fn kv_entry(&self, key: &str) -> Option<&KvEntry> {
        self.kv.entries.get(key)
    }

    /// The entries of the keys that begin with `prefix`, by key.
    pub(crate) fn kv_list<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = (&'a String, &'a KvEntry)> {
        self.kv.list(prefix)
    }

    /// Carries out one write. `false`: its condition does not hold.
    ///
    /// # Errors
    /// The session that is to lock or unlock is missing or not known; the text for the client.
    pub(crate) fn kv_write(&mut self, op: KvOp, now: Instant) -> Result<bool, String> {
        if self.is_lock_delayed(&op, now) {
            return Ok(false);
        }
        let at = self.next_index();
        match self.kv_apply(op, at, now) {
            Ok(_) => Ok(true),
            Err(KvFailure::Unmet(_)) => Ok(false),
            Err(KvFailure::Invalid(text)) => Err(text),
        }
    }

    /// Whether the operation is a lock of a key that nothing can lock yet.
    pub(super) fn is_lock_delayed(&self, op: &KvOp, now: Instant) -> bool {
        op.verb == KvVerb::Lock && self.kv_timers.is_delayed(&op.key, now)
    }

    /// Carries out one operation, and returns the entries that it shows.
    pub(super) fn kv_apply(&mut self, op: KvOp, at: u64, now: Instant) -> Result<Vec<KvRecord>, KvFailure> {
        let unmet = |text: String| Err(KvFailure::Unmet(text));
        let KvOp { verb, key, value, flags, session, index } = op;
        let found = self.kv.entries.get(&key);
        let held_by = found.map_or("", |entry| entry.session.as_str());
        let new = KvEntry {
            lock_index: 0,
            flags,
            value,
            session: held_by.to_owned(),
            create_index: found.map_or(at, |entry| entry.create_index),
            modify_index: at,
        };
        match verb {
            KvVerb::Set => Ok(vec![self.put_entry(key, new)]),
            KvVerb::Cas if found.map_or(0, |entry| entry.modify_index) != index => {
                unmet(format!("failed to set key {key:?}, index is stale"))
            }
            KvVerb::Cas => Ok(vec![self.put_entry(key, new)]),
            KvVerb::Lock => {
                self.require_session(&session).map_err(KvFailure::Invalid)?;
                let locked = found.map_or(0, |entry| entry.lock_index);
                let lock_index = match held_by {
                    "" => locked + 1,
                    holder if holder == session => locked,
                    _ => return unmet(format!("failed to lock key {key:?}, lock is already held")),
                };
                Ok(vec![self.put_entry(key, KvEntry { lock_index, session, ..new })])
            }
            KvVerb::Unlock if session.is_empty() => Err(KvFailure::Invalid(MISSING_SESSION.to_owned())),
            KvVerb::Unlock if held_by != session => {
                unmet(format!("failed to unlock key {key:?}, lock isn't held, or is held by another session"))
            }
            KvVerb::Unlock => {
                let lock_index = found.map_or(0, |entry| entry.lock_index);
                Ok(vec![self.put_entry(key, KvEntry { lock_index, session: String::new(), ..new })])
            }
            KvVerb::DeleteCas if found.is_some_and(|entry| entry.modify_index != index) => {
                unmet(format!("failed to delete key {key:?}, index is stale"))
            }
            KvVerb::Delete | KvVerb::DeleteCas => {
                self.delete_entry(&key, at, now);
                Ok(Vec::new())
            }
            KvVerb::DeleteTree => {
                self.delete_tree(key, at, now);
                Ok(Vec::new())
            }
            KvVerb::Get => match found {
                Some(entry) => Ok(vec![(key, entry.clone())]),
                None => unmet(format!("key {key:?} doesn't exist")),
            },
            KvVerb::GetTree => {
                Ok(self.kv.list(&key).map(|(key, entry)| (key.clone(), entry.clone())).collect())
            }
            KvVerb::CheckSession => match found {
                None => unmet(format!("failed to check session, key {key:?} doesn't exist")),
                Some(_) if held_by != session => unmet(format!(
                    "failed session check for key {key:?}, current session {held_by:?} != {session:?}"
                )),
                Some(entry) => Ok(vec![(key, entry.clone())]),
            },
            KvVerb::CheckIndex => match found {
                None => unmet(format!("failed to check index, key {key:?} doesn't exist")),
                Some(entry) if entry.modify_index != index => unmet(format!(
                    "failed index check for key {key:?}, current modify index {} != {index}",
                    entry.modify_index
                )),
                Some(entry) => Ok(vec![(key, entry.clone())]),
            },
            KvVerb::CheckNotExists if found.is_some() => unmet(format!("key {key:?} exists")),
            KvVerb::CheckNotExists => Ok(Vec::new()),
        }
    }

    /// Stores an entry, unless nothing but its index would change; returns what is stored then.
    fn put_entry(&mut self, key: String, new: KvEntry) -> KvRecord {
        if let Some(old) = self.kv.entries.get(&key)
            && *old == (KvEntry { modify_index: old.modify_index, ..new.clone() })
        {
            return (key, old.clone());
        }
        self.kv.changed = new.modify_index;
        self.kv.entries.insert(key.clone(), new.clone());
        (key, new)
    }

    fn delete_entry(&mut self, key: &str, at: u64, now: Instant) {
        if self.kv.entries.remove(key).is_some() {
            self.bury(key.to_owned(), at, now);
        }
    }

    /// Deletes every key with this prefix. One tombstone stands for them all; the whole store leaves none, because its
    /// index is that of the table.
    fn delete_tree(&mut self, prefix: String, at: u64, now: Instant) {
        let keys: Vec<String> = self.kv.list(&prefix).map(|(key, _)| key.clone()).collect();
        if keys.is_empty() {
            return;
        }
        for key in &keys {
            self.kv.entries.remove(key);
        }
        if prefix.is_empty() {
            self.kv.changed = at;
        } else {
            self.bury(prefix, at, now);
        }
    }

    fn bury(&mut self, key: String, at: u64, now: Instant) {
        self.kv.tombstones.insert(key, at);
        self.kv.changed = at;
        self.kv_timers.schedule(at, now);
    }

    /// Removes the tombstones that have been kept for long enough.
    pub(super) fn reap_tombstones(&mut self, now: Instant) {
        while let Some((due, index)) =
            self.kv_timers.reaps.first_key_value().map(|(due, index)| (*due, *index))
        {
            if due > now {
                return;
            }
            self.kv_timers.reaps.remove(&due);
            // As every write of a Consul server, this one uses an index.
            self.next_index();
            self.kv.tombstones.retain(|_, buried| *buried > index);
        }
    }

    /// The keys that a session holds, in order. `id`: as [`session_table::parse_id`] returns it.
    pub(super) fn keys_held_by(&self, id: &str) -> Vec<String> {
        let held = self.kv.entries.iter().filter(|(_, entry)| {
            !entry.session.is_empty()
                && session_table::parse_id(&entry.session).is_ok_and(|holder| holder == id)
        });
        held.map(|(key, _)| key.clone()).collect()
    }

    /// Ends the lock of a key, or removes the key.
    pub(super) fn free_key(&mut self, key: &str, remove: bool, at: u64, now: Instant) {
        if remove {
            self.delete_entry(key, at, now);
        } else if let Some(entry) = self.kv.entries.get(key) {
            let free = KvEntry { session: String::new(), modify_index: at, ..entry.clone() };
            self.put_entry(key.to_owned(), free);
        }
    }
}
