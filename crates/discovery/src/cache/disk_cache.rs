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

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use outrigger_config::error_chain;
use outrigger_registry::{Instance, Query};
use parking_lot::Mutex;
use tokio::{
    sync::Notify,
    task::spawn_blocking,
    time::{sleep, sleep_until},
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{
    record::{PresumedGoneRecord, ServiceRecord},
    state_file::{StateFile, state_path},
};
use crate::{
    clock::{now, unix_time},
    service::Service,
};

/// Pause between two writes.
const MIN_WRITE_INTERVAL: Duration = Duration::from_secs(1);
/// How often the file is written although no content changed: a service that never changes must not
/// look as if nobody had heard of it for a week.
const REFRESH_INTERVAL: Duration = Duration::from_secs(3600);
/// When a write that failed is tried again, should nothing change before.
const RETRY_INTERVAL: Duration = Duration::from_secs(60);
/// Older answers are not used.
const MAX_AGE: Duration = Duration::from_secs(7 * 24 * 3600);
/// Most services in the file: as many as can be watched at all. The longest unheard go first.
const MAX_SERVICES: usize = 10_000;

/// The last good answers, on disk.
#[derive(Debug)]
pub struct DiskCache {
    /// Absent: it cannot be written, and a warning said why. Only a writer holds the lock for long.
    file: Option<Arc<Mutex<StateFile>>>,
    entries: Mutex<BTreeMap<Query, CacheEntry>>,
    changed: Notify,
    served: AtomicBool,
}

/// What is known of a service.
#[derive(Debug)]
enum CacheEntry {
    /// From the file.
    Stored(ServiceRecord),
    /// What its watcher last wrote; also after the watch has ended.
    Live(Arc<Service>),
}

/// What was known of a service before.
#[derive(Debug, Clone)]
pub(crate) struct CachedAnswer {
    pub(crate) instances: Arc<[Instance]>,
    pub(crate) index: u64,
    /// When the registry last confirmed it.
    pub(crate) confirmed_at: Instant,
}

impl DiskCache {
    /// Opens, or creates, the file `name` in `folder`, and reads it. `registry` says where answers
    /// come from (its kind, address and datacenter): a file about another one is set aside. Reads at
    /// most 64 MiB, and blocks for as long as that takes.
    ///
    /// It never fails: where nothing can be read or written, a warning says so, and it remembers
    /// nothing; where only nothing can be written, what is there is used. One process at a time uses a
    /// file.
    pub fn open(folder: &Path, name: &str, registry: &str) -> Self {
        let mut cache = Self {
            file: None,
            entries: Mutex::default(),
            changed: Notify::new(),
            served: AtomicBool::new(false),
        };
        let age = (unix_time(), MAX_AGE);
        let (taken, records) = match StateFile::open(folder, name, registry) {
            Ok(mut file) => {
                let records = file.load(age.0, age.1);
                (Some(file), records)
            }
            Err(error) => {
                let reason = error_chain(&error);
                warn!(folder = %folder.display(), reason, "what is learned will not outlive a restart; state_dir: off says that this is fine");
                (None, StateFile::read_unlocked(folder, name, registry, &error, age))
            }
        };
        if !records.is_empty() {
            let file = state_path(folder, name);
            info!(file = %file.display(), services = records.len(), "read what was known before the restart");
        }
        let known = records.into_iter().map(|record| (record.query.clone(), CacheEntry::Stored(record)));
        cache.entries = Mutex::new(known.collect());
        cache.file = taken.map(|file| Arc::new(Mutex::new(file)));
        cache
    }

    /// What was known of a service before it was followed.
    pub(crate) fn load_cached(&self, query: &Query, now: Instant) -> Option<CachedAnswer> {
        let wall = unix_time();
        let record = self.entries.lock().get(query)?.to_record(wall, now)?;
        let ago = wall.saturating_sub(record.confirmed);
        // Without an instant that far back the age reads as nothing; the content is right all the same.
        let heard_at = now.checked_sub(ago).unwrap_or(now);
        let (instances, index) = record.instances_to_serve(wall);
        Some(CachedAnswer { instances, index, confirmed_at: heard_at })
    }

    /// Whether this is the first time that it serves in the registry's place.
    pub(crate) fn is_first_use(&self) -> bool {
        !self.served.swap(true, Relaxed)
    }

    /// New content was accepted.
    pub(crate) fn record_change(&self, service: &Arc<Service>) {
        let mut known = self.entries.lock();
        // A made-up name is not worth remembering; one that had instances is dropped when it is written.
        if known.contains_key(&service.query) || !service.snapshot().instances.is_empty() {
            known.insert(service.query.clone(), CacheEntry::Live(service.clone()));
            drop(known);
            self.changed.notify_one();
        }
    }

    /// Writes what changes until `stop`, and then once more. A write that has begun is waited for: when
    /// this returns, nobody has the file any more.
    pub(crate) async fn run(self: Arc<Self>, stop: CancellationToken) {
        let Some(file) = self.file.clone() else { return };
        let mut rest = REFRESH_INTERVAL;
        while let Some(refresh) = stop.run_until_cancelled(self.wait_for_change(rest)).await {
            let began = tokio::time::Instant::now();
            rest = if self.write(&file, refresh).await { REFRESH_INTERVAL } else { RETRY_INTERVAL };
            stop.run_until_cancelled(sleep_until(began + MIN_WRITE_INTERVAL)).await;
        }
        self.write(&file, true).await;
    }

    /// Waits for a change, or for `rest`: then true.
    async fn wait_for_change(&self, rest: Duration) -> bool {
        tokio::select! {
            () = self.changed.notified() => false,
            () = sleep(rest) => true,
        }
    }

    /// Whether the file says what is known now. `refresh`: also when only ages have moved.
    async fn write(&self, file: &Arc<Mutex<StateFile>>, refresh: bool) -> bool {
        let (records, file) = (self.records(), file.clone());
        let written = spawn_blocking(move || file.lock().save(records, refresh));
        // A stopping runtime takes no more work; there is nobody left to tell.
        written.await.unwrap_or(false)
    }

    /// What is to be written.
    fn records(&self) -> Vec<ServiceRecord> {
        let (wall, now) = (unix_time(), now());
        let mut known = self.entries.lock();
        let mut records = Vec::new();
        known.retain(|_, one| {
            let record = one.to_record(wall, now).filter(|record| record.lists_any(wall));
            let keep = record.is_some();
            records.extend(record);
            keep
        });
        if records.len() > MAX_SERVICES {
            records.sort_by_key(|record| std::cmp::Reverse(record.confirmed));
            for record in records.drain(MAX_SERVICES..) {
                known.remove(&record.query);
            }
        }
        records
    }
}

impl CacheEntry {
    /// `wall` and `now` are the same moment.
    fn to_record(&self, wall: Duration, now: Instant) -> Option<ServiceRecord> {
        match self {
            Self::Stored(record) => Some(record.clone()),
            Self::Live(entry) => {
                let instances = entry.snapshot().instances.clone();
                let heard = wall.saturating_sub(entry.confirmed_ago(now)?);
                let lost = entry.watch_health().presumed_gone.map(|lost| PresumedGoneRecord {
                    instances: lost.instances,
                    index: lost.index,
                    at: wall.saturating_sub(now.saturating_duration_since(lost.at)),
                });
                Some(ServiceRecord {
                    query: entry.query.clone(),
                    instances,
                    index: entry.index(),
                    confirmed: heard,
                    presumed_gone: lost,
                })
            }
        }
    }
}

#[cfg(test)]
mod tests;
