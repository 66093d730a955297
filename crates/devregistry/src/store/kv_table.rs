//! The rows of the key-value store, what remains of deleted keys, and the delays of locks.
//!
//! A deleted key leaves a tombstone with the index of its deletion, so that the index of a prefix does not go back when
//! its newest key goes. Tombstones are kept for a while only: when they are reaped, the index of a prefix does go back.

use std::{
    collections::BTreeMap,
    ops::Bound,
    time::{Duration, Instant},
};

use bytes::Bytes;

use super::index::TopicIndex;

/// Tombstones are reaped together, at multiples of this time.
const REAP_GRANULARITY: Duration = Duration::from_secs(30);

/// The value of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct KvEntry {
    /// How often the key was locked. A write without a lock sets it to 0.
    pub(crate) lock_index: u64,
    pub(crate) flags: u64,
    pub(crate) value: Bytes,
    /// The id of the session that holds the lock, as its client wrote it; empty without a lock.
    pub(crate) session: String,
    pub(crate) create_index: u64,
    pub(crate) modify_index: u64,
}

/// The rows of the key-value store.
#[derive(Debug, Clone, Default)]
pub(super) struct KvTable {
    pub(super) entries: BTreeMap<String, KvEntry>,
    /// By key (for a deleted tree: by its prefix), the index of the deletion.
    pub(super) tombstones: BTreeMap<String, u64>,
    /// The index of the last change of anything.
    pub(super) changed: u64,
}

/// What belongs to the leading server only, so that no transaction undoes it.
#[derive(Debug)]
pub(super) struct KvTimers {
    /// By the time at which they are reaped: the highest index of the tombstones.
    pub(super) reaps: BTreeMap<Instant, u64>,
    /// How long a tombstone is kept, at least.
    tombstone_ttl: Duration,
    /// The multiples of the granularity count from here.
    epoch: Instant,
    /// By key: until when nothing can lock it.
    lock_delays: BTreeMap<String, Instant>,
}

impl KvTimers {
    pub(super) fn new(tombstone_ttl: Duration, epoch: Instant) -> Self {
        Self { reaps: BTreeMap::new(), tombstone_ttl, epoch, lock_delays: BTreeMap::new() }
    }

    /// When tombstones are reaped next.
    pub(super) fn next_reap(&self) -> Option<Instant> {
        self.reaps.keys().next().copied()
    }

    /// Schedules the end of a tombstone.
    pub(super) fn schedule(&mut self, index: u64, now: Instant) {
        // With a short time to live, a test would wait for the granularity.
        let granularity = REAP_GRANULARITY.min(self.tombstone_ttl).max(Duration::from_millis(1));
        let expires = now.saturating_duration_since(self.epoch) + self.tombstone_ttl;
        let steps = u32::try_from(expires.as_nanos() / granularity.as_nanos()).unwrap_or(u32::MAX - 1);
        if let Some(at) = granularity.checked_mul(steps + 1).and_then(|due| self.epoch.checked_add(due)) {
            self.reaps.insert(at, index);
        }
    }

    /// Begins the lock-delay of a key.
    pub(super) fn delay_lock(&mut self, key: String, delay: Duration, now: Instant) {
        self.lock_delays.retain(|_, end| *end > now);
        if let Some(end) = now.checked_add(delay) {
            self.lock_delays.insert(key, end);
        }
    }

    pub(super) fn is_delayed(&self, key: &str, now: Instant) -> bool {
        self.lock_delays.get(key).is_some_and(|end| *end > now)
    }
}

impl KvTable {
    /// The entries of the keys that begin with `prefix`, by key.
    pub(super) fn list<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = (&'a String, &'a KvEntry)> {
        starting_with(&self.entries, prefix)
    }

    /// When something under `prefix` last changed, as far as tombstones tell.
    fn last_change(&self, prefix: &str) -> u64 {
        if prefix.is_empty() {
            return self.changed;
        }
        let entries = self.list(prefix).map(|(_, entry)| entry.modify_index);
        entries.chain(starting_with(&self.tombstones, prefix).map(|(_, index)| *index)).max().unwrap_or(0)
    }

    /// The index of one key, and its wake: the key's own, or without the key that of what is near it.
    pub(super) fn key_index(&self, key: &str) -> TopicIndex {
        match self.entries.get(key) {
            Some(entry) => TopicIndex::new(entry.modify_index, entry.modify_index),
            None => self.missing_index(self.changed, key),
        }
    }

    /// The index of a prefix: of what is or was under it, else of the whole table.
    pub(super) fn prefix_index(&self, prefix: &str) -> TopicIndex {
        let under = self.last_change(prefix);
        let index = if under == 0 { self.changed } else { under };
        match self.list(prefix).next() {
            Some(_) => TopicIndex::new(index, under),
            None => self.missing_index(index, prefix),
        }
    }

    fn missing_index(&self, index: u64, wanted: &str) -> TopicIndex {
        let watched = self.watched(wanted);
        TopicIndex::of_missing(index, self.last_change(watched), watched.len())
    }

    /// The prefix of the keys that wake a query of a key or prefix that does not exist.
    ///
    /// Consul keeps the keys in a radix tree. Its inner nodes are the places where keys branch. A query that finds
    /// nothing waits for a change of the node at or below which its way ended: of anything under the branch that leads
    /// to this node, and of the way to it.
    fn watched<'a>(&self, wanted: &'a str) -> &'a str {
        type Row<'a> = (&'a String, &'a KvEntry);
        let shared = |row: Option<Row<'_>>| row.map_or(0, |(key, _)| common_prefix(key, wanted));
        let last_before =
            |key: &str| self.entries.range::<str, _>((Bound::Unbounded, Bound::Excluded(key))).next_back();
        let first_from =
            |key: &str| self.entries.range::<str, _>((Bound::Included(key), Bound::Unbounded)).next();
        let reached = &wanted[..shared(last_before(wanted)).max(shared(first_from(wanted)))];
        if reached.is_empty() {
            return reached;
        }
        // The first name after every key that begins so.
        let end = format!("{reached}{}", char::MAX);
        // Where other keys leave the way last, before its end.
        let branch = shared(last_before(reached)).max(shared(first_from(&end)));
        let next = wanted[branch..].chars().next().map_or(0, char::len_utf8);
        &wanted[..branch + next]
    }
}

/// The rows of the keys that begin with `prefix`, by key.
fn starting_with<'a, T>(
    rows: &'a BTreeMap<String, T>,
    prefix: &'a str,
) -> impl Iterator<Item = (&'a String, &'a T)> {
    rows.range::<str, _>((Bound::Included(prefix), Bound::Unbounded))
        .take_while(move |(key, _)| key.starts_with(prefix))
}

/// Bytes that both begin with, whole characters only.
fn common_prefix(a: &str, b: &str) -> usize {
    a.chars().zip(b.chars()).take_while(|(a, b)| a == b).map(|(char, _)| char.len_utf8()).sum()
}
