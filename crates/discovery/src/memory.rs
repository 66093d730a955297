//! The last good answers, kept across a restart in one file.
//!
//! A sidecar that is restarted while the registry is gone knows nothing, and the app's requests fail
//! for want of an address that the sidecar knew a second before. So what is learned is written down:
//! after a change, at most once a second, once an hour for the ages' sake, and at the end. What the
//! file holds is used only while the registry does not answer (`watcher/recall.rs`), and an answer
//! that contradicts it goes through the same guard as any other.
//!
//! Instances that were believed gone by the registry's word alone are kept for a while too
//! ([`crate::lost`]): a sidecar that is restarted while the registry is wrong doubts it once more.
//!
//! Answers not confirmed for a week are not used: that is the longest outage that the design means to
//! survive, and after it an address is likelier to be somebody else's. A file that is damaged, of
//! another version or about another registry is set aside with a warning; nothing here can keep a
//! sidecar from starting or stop it.
//!
//! The format is in `memory/shape.rs`, the care for the file in `memory/file.rs`.

mod file;
mod shape;
mod wall;

#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use outrigger_registry::{Instance, Query};
use tokio::{
    sync::Notify,
    task::spawn_blocking,
    time::{sleep, sleep_until},
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{
    entry::Entry,
    lost::{KEEP, union},
    status::in_full,
    table::now,
};
use file::StateFile;
use shape::Record;

/// Pause between two writes.
const PACE: Duration = Duration::from_secs(1);
/// How often the file is written although no content changed: a service that never changes must not
/// look as if nobody had heard of it for a week.
const REFRESH: Duration = Duration::from_secs(3600);
/// When a write that failed is tried again, should nothing change before.
const RETRY: Duration = Duration::from_secs(60);
/// Older answers are not used.
const MAX_AGE: Duration = Duration::from_secs(7 * 24 * 3600);
/// Most services in the file: as many as can be watched at all. The longest unheard go first.
const MAX_SERVICES: usize = 10_000;

/// The last good answers, on disk.
#[derive(Debug)]
pub struct Memory {
    /// Absent: it cannot be written, and a warning said why. Only a writer holds the lock for long.
    file: Option<Arc<Mutex<StateFile>>>,
    known: Mutex<BTreeMap<Query, Known>>,
    changed: Notify,
    served: AtomicBool,
}

/// What is known of a service.
#[derive(Debug)]
enum Known {
    /// From the file.
    Before(Record),
    /// What its watcher last wrote; also after the watch has ended.
    Now(Arc<Entry>),
}

/// What was known of a service before.
#[derive(Debug, Clone)]
pub(crate) struct Recalled {
    pub(crate) instances: Arc<[Instance]>,
    pub(crate) index: u64,
    /// When the registry last confirmed it.
    pub(crate) heard_at: Instant,
}

impl Memory {
    /// Opens, or creates, the file `name` in `folder`, and reads it. `registry` says where answers
    /// come from (its kind, address and datacenter): a file about another one is set aside. Reads at
    /// most 64 MiB, and blocks for as long as that takes.
    ///
    /// It never fails: where nothing can be read or written, a warning says so, and it remembers
    /// nothing; where only nothing can be written, what is there is used. One process at a time uses a
    /// file.
    pub fn open(folder: &Path, name: &str, registry: &str) -> Self {
        let mut memory = Self {
            file: None,
            known: Mutex::default(),
            changed: Notify::new(),
            served: AtomicBool::new(false),
        };
        let age = (wall::now(), MAX_AGE);
        let (taken, records) = match StateFile::open(folder, name, registry) {
            Ok(mut file) => {
                let records = file.load(age.0, age.1);
                (Some(file), records)
            }
            Err(error) => {
                let reason = in_full(&error);
                warn!(folder = %folder.display(), reason, "what is learned will not outlive a restart; state_dir: off says that this is fine");
                (None, StateFile::glance(folder, name, registry, &error, age))
            }
        };
        if !records.is_empty() {
            let file = file::path_of(folder, name);
            info!(file = %file.display(), services = records.len(), "read what was known before the restart");
        }
        let known = records.into_iter().map(|record| (record.query.clone(), Known::Before(record)));
        memory.known = Mutex::new(known.collect());
        memory.file = taken.map(|file| Arc::new(Mutex::new(file)));
        memory
    }

    /// What was known of a service before it was followed.
    pub(crate) fn recall(&self, query: &Query, now: Instant) -> Option<Recalled> {
        let wall = wall::now();
        let record = self.lock().get(query)?.record(wall, now)?;
        let ago = wall.saturating_sub(record.heard);
        // Without an instant that far back the age reads as nothing; the content is right all the same.
        let heard_at = now.checked_sub(ago).unwrap_or(now);
        let (instances, index) = record.known(wall);
        Some(Recalled { instances, index, heard_at })
    }

    /// Whether this is the first time that it serves in the registry's place.
    pub(crate) fn serves_first(&self) -> bool {
        !self.served.swap(true, Relaxed)
    }

    /// New content was accepted.
    pub(crate) fn changed(&self, entry: &Arc<Entry>) {
        let mut known = self.lock();
        // A made-up name is not worth remembering; one that had instances is dropped when it is written.
        if known.contains_key(&entry.query) || !entry.snapshot().instances.is_empty() {
            known.insert(entry.query.clone(), Known::Now(entry.clone()));
            drop(known);
            self.changed.notify_one();
        }
    }

    /// Writes what changes until `stop`, and then once more. A write that has begun is waited for: when
    /// this returns, nobody has the file any more.
    pub(crate) async fn run(self: Arc<Self>, stop: CancellationToken) {
        let Some(file) = self.file.clone() else { return };
        let mut rest = REFRESH;
        while let Some(refresh) = stop.run_until_cancelled(self.news(rest)).await {
            let began = tokio::time::Instant::now();
            rest = if self.write(&file, refresh).await { REFRESH } else { RETRY };
            stop.run_until_cancelled(sleep_until(began + PACE)).await;
        }
        self.write(&file, true).await;
    }

    /// Waits for a change, or for `rest`: then true.
    async fn news(&self, rest: Duration) -> bool {
        tokio::select! {
            () = self.changed.notified() => false,
            () = sleep(rest) => true,
        }
    }

    /// Whether the file says what is known now. `refresh`: also when only ages have moved.
    async fn write(&self, file: &Arc<Mutex<StateFile>>, refresh: bool) -> bool {
        let (records, file) = (self.records(), file.clone());
        let written = spawn_blocking(move || {
            file.lock().unwrap_or_else(PoisonError::into_inner).save(records, refresh)
        });
        // A stopping runtime takes no more work; there is nobody left to tell.
        written.await.unwrap_or(false)
    }

    /// What is to be written.
    fn records(&self) -> Vec<Record> {
        let (wall, now) = (wall::now(), now());
        let mut known = self.lock();
        let mut records = Vec::new();
        known.retain(|_, one| {
            let record = one.record(wall, now).filter(|record| record.lists_any(wall));
            let keep = record.is_some();
            records.extend(record);
            keep
        });
        if records.len() > MAX_SERVICES {
            records.sort_by_key(|record| std::cmp::Reverse(record.heard));
            for record in records.drain(MAX_SERVICES..) {
                known.remove(&record.query);
            }
        }
        records
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Query, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    /// `wall` and `now` are the same moment.
    fn record(&self, wall: Duration, now: Instant) -> Option<Record> {
        match self {
            Self::Before(record) => Some(record.clone()),
            Self::Now(entry) => {
                let instances = entry.snapshot().instances.clone();
                let heard = wall.saturating_sub(entry.heard_ago(now)?);
                let lost = entry.contact().lost.map(|lost| shape::Lost {
                    instances: lost.instances,
                    index: lost.index,
                    at: wall.saturating_sub(now.saturating_duration_since(lost.at)),
                });
                Some(Record { query: entry.query.clone(), instances, index: entry.index(), heard, lost })
            }
        }
    }
}

impl Record {
    /// Whether it is of use to anybody at `wall`.
    fn lists_any(&self, wall: Duration) -> bool {
        !self.instances.is_empty() || self.lost(wall).is_some()
    }

    /// Who is known, also of those who were believed gone not long ago, and at which index all of them
    /// were listed.
    fn known(&self, wall: Duration) -> (Arc<[Instance]>, u64) {
        match self.lost(wall) {
            Some(lost) => (union(&self.instances, &lost.instances), self.index.min(lost.index)),
            None => (self.instances.clone(), self.index),
        }
    }

    fn lost(&self, wall: Duration) -> Option<&shape::Lost> {
        self.lost.as_ref().filter(|lost| wall.saturating_sub(lost.at) <= KEEP)
    }
}
