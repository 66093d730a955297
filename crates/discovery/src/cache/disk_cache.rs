//! The last good answers, kept across a restart in one file.
//!
//! Without the cache, a sidecar that restarts while the registry is gone knows no address, and the
//! app's requests fail. The cache is written after a change, at most once a second; once an hour, to
//! update the ages; and at shutdown. It is used only while the registry does not answer
//! (`watch/cached.rs`), and an answer that contradicts it is reviewed like any other.
//!
//! Answers that were not confirmed for a week are not used: a week is the longest outage that the
//! design covers, and an older address may belong to another service. An answer with a time in the
//! future is of unknown age: its week begins when it is first read, and the file keeps that time. A
//! file that is damaged, of another version or about another registry is renamed with a warning. No
//! error of the cache stops a sidecar or keeps it from starting.

use std::{
    collections::{BTreeMap, HashMap},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use outrigger_config::{AddressKind, error_chain};
use outrigger_registry::{Instance, Query, chain::Chain};
use parking_lot::Mutex;
use tokio::{
    sync::Notify,
    task::spawn_blocking,
    time::{sleep, sleep_until},
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{
    record::{ChainRecord, PresumedGoneRecord, ServiceRecord},
    state_file::{StateFile, StateFileError, state_path},
};
use crate::{
    clock::{now, unix_time},
    service::Service,
};

/// Shortest time between two writes.
const MIN_WRITE_INTERVAL: Duration = Duration::from_secs(1);
/// How often the file is written without a change, so that a service that never changes does not look
/// unconfirmed for a week.
const REFRESH_INTERVAL: Duration = Duration::from_secs(3600);
/// When a failed write is tried again, if nothing changes before.
const RETRY_INTERVAL: Duration = Duration::from_secs(60);
/// How often a file that the earlier process writes is tried.
const AWAITED_INTERVAL: Duration = Duration::from_secs(1);
/// Older answers are not used.
const MAX_AGE: Duration = Duration::from_secs(7 * 24 * 3600);
/// Most services in the file: as many as can be watched. The longest unconfirmed ones are dropped first.
const MAX_SERVICES: usize = 10_000;

/// The last good answers, on disk.
#[derive(Debug)]
pub struct DiskCache {
    file: CacheFile,
    entries: Mutex<BTreeMap<Query, CacheEntry>>,
    /// What the registry said of the requests of services.
    chains: Mutex<BTreeMap<Arc<str>, ChainRecord>>,
    changed: Notify,
    served: AtomicBool,
}

/// The file, and whether it can be written.
#[derive(Debug)]
enum CacheFile {
    /// It is this process's. Only a writer holds the lock for long.
    Own(Arc<Mutex<StateFile>>),
    /// It is to be opened once the earlier process has ended.
    Awaited(FilePlace),
    /// It cannot be written; a warning was logged.
    Unusable,
}

/// Which file.
#[derive(Debug, Clone)]
struct FilePlace {
    folder: PathBuf,
    name: String,
    registry: String,
}

impl FilePlace {
    fn open(&self) -> Result<StateFile, StateFileError> {
        StateFile::open(&self.folder, &self.name, &self.registry)
    }
}

/// What is known of a service.
#[derive(Debug)]
enum CacheEntry {
    /// Read from the file.
    Stored(ServiceRecord),
    /// Watched since the start; stays after the watch has ended.
    Live(Arc<Service>),
}

/// The cached answer for one service.
#[derive(Debug, Clone)]
pub(crate) struct CachedAnswer {
    pub(crate) instances: Arc<[Instance]>,
    pub(crate) index: u64,
    /// When the registry last confirmed it; `None`: not known.
    pub(crate) confirmed_at: Option<Instant>,
}

impl DiskCache {
    /// Opens or creates the file `name` in `folder`, and reads it. `registry` identifies the source of the
    /// answers (kind, address and datacenter): a file about another registry is renamed. Reads at most
    /// 64 MiB, and blocks meanwhile. One process at a time uses a file.
    ///
    /// Never fails. When the file cannot be read or written, logs a warning and keeps nothing; when it can
    /// only be read, uses its content.
    pub fn open(folder: &Path, name: &str, registry: &str) -> Self {
        Self::open_as(folder, name, registry, false)
    }

    /// As [`DiskCache::open`], for a process that takes the place of another one, which writes the file until it ends: reads the
    /// file, and writes it from then on.
    pub fn open_after_another(folder: &Path, name: &str, registry: &str) -> Self {
        Self::open_as(folder, name, registry, true)
    }

    fn open_as(folder: &Path, name: &str, registry: &str, after_another: bool) -> Self {
        let place =
            FilePlace { folder: folder.to_owned(), name: name.to_owned(), registry: registry.to_owned() };
        let age = (unix_time(), MAX_AGE);
        let (file, mut records) = match place.open() {
            Ok(mut file) => {
                let records = file.load(age.0, age.1);
                (CacheFile::Own(Arc::new(Mutex::new(file))), records)
            }
            Err(StateFileError::InUse { .. }) if after_another => {
                (CacheFile::Awaited(place), StateFile::read_of_another(folder, name, registry, age))
            }
            Err(error) => {
                let reason = error_chain(&error);
                warn!(folder = %folder.display(), reason, "the last answers will not survive a restart; state_dir: off accepts that and ends this warning");
                (CacheFile::Unusable, StateFile::read_unlocked(folder, name, registry, &error, age))
            }
        };
        if !records.is_empty() {
            let file = state_path(folder, name);
            info!(file = %file.display(), services = records.len(), "read what was known before the restart");
        }
        let mut is_settled = false;
        for record in &mut records {
            is_settled |= record.estimate_age(age.0);
        }
        let changed = Notify::new();
        if is_settled {
            // Before the next restart, which would estimate a later time.
            changed.notify_one();
        }
        let (mut entries, mut chains) = (BTreeMap::new(), BTreeMap::new());
        for mut record in records {
            if let Some(mut chain) = record.chain.take() {
                // Of a time in the future the age is not known: it counts as confirmed now.
                chain.confirmed = chain.confirmed.min(age.0);
                chains.insert(record.query.service.clone(), chain);
            }
            if record.lists_any(age.0) {
                entries.insert(record.query.clone(), CacheEntry::Stored(record));
            }
        }
        let (entries, chains) = (Mutex::new(entries), Mutex::new(chains));
        Self { file, entries, chains, changed, served: AtomicBool::new(false) }
    }

    /// The answer for `query` that was last confirmed before this watch; where there is none, one at other addresses of the same
    /// instances.
    pub(crate) fn load_cached(&self, query: &Query, now: Instant) -> Option<CachedAnswer> {
        let others = AddressKind::ALL.map(|address| Query { address, ..query.clone() });
        [query].into_iter().chain(&others).find_map(|query| self.load_exact(query, now))
    }

    fn load_exact(&self, query: &Query, now: Instant) -> Option<CachedAnswer> {
        let unix_now = unix_time();
        let record = self.entries.lock().get_mut(query)?.current_record(unix_now, now)?;
        // The process may have run for a week since it read the file.
        if record.is_expired(unix_now, MAX_AGE) {
            return None;
        }
        // Where `Instant` cannot go back that far the age is unknown too.
        let confirmed_at = record.age(unix_now).and_then(|ago| now.checked_sub(ago));
        let (instances, index) = record.instances_to_serve(unix_now);
        Some(CachedAnswer { instances, index, confirmed_at })
    }

    /// What the registry last said of the requests of a service before this process asked.
    pub(crate) fn load_chain(&self, service: &Arc<str>) -> Option<Arc<Chain>> {
        let chains = self.chains.lock();
        let known = chains.get(service).filter(|known| !known.is_expired(unix_time(), MAX_AGE));
        known.map(|known| known.chain.clone())
    }

    /// The registry has said this of the requests of a service. `is_default`: nothing.
    pub(crate) fn record_chain(&self, service: &Arc<str>, chain: &Arc<Chain>, is_default: bool) {
        let record = ChainRecord { chain: chain.clone(), is_default, confirmed: unix_time() };
        let before = self.chains.lock().insert(service.clone(), record);
        if before.is_none_or(|before| before.chain != *chain) {
            self.changed.notify_one();
        }
    }

    /// Whether this is the first call: the first service that is served from the cache is a warning.
    pub(crate) fn is_first_use(&self) -> bool {
        !self.served.swap(true, Relaxed)
    }

    /// A new snapshot of `service` was published.
    pub(crate) fn record_change(&self, service: &Arc<Service>) {
        let mut entries = self.entries.lock();
        // Made-up names are not kept. A name that had instances before is dropped at the next write.
        if entries.contains_key(&service.query) || !service.snapshot().instances.is_empty() {
            entries.insert(service.query.clone(), CacheEntry::Live(service.clone()));
            drop(entries);
            self.changed.notify_one();
        }
    }

    /// Writes changes until `stop`, and then once more. Waits for a write in progress: when this returns,
    /// the file is closed.
    pub(crate) async fn run(self: Arc<Self>, stop: CancellationToken) {
        let Some(file) = self.file_to_write(&stop).await else { return };
        // A fixed time: changes that end where they began are written as no change, and must not put it off.
        let mut refresh_at = tokio::time::Instant::now() + REFRESH_INTERVAL;
        while stop.run_until_cancelled(self.wait_for_change(refresh_at)).await.is_some() {
            let began = tokio::time::Instant::now();
            let refresh = began >= refresh_at;
            if !self.write(&file, refresh).await {
                let retry_at = began + RETRY_INTERVAL;
                // A refresh that failed is due already: the time of the next one is not before its retry.
                refresh_at = if refresh { retry_at } else { refresh_at.min(retry_at) };
            } else if refresh {
                refresh_at = began + REFRESH_INTERVAL;
            }
            stop.run_until_cancelled(sleep_until(began + MIN_WRITE_INTERVAL)).await;
        }
        self.write(&file, true).await;
    }

    /// The file, once the earlier process has ended. `None`: it cannot be written, or `stop` came first.
    async fn file_to_write(&self, stop: &CancellationToken) -> Option<Arc<Mutex<StateFile>>> {
        let place = match &self.file {
            CacheFile::Own(file) => return Some(file.clone()),
            CacheFile::Unusable => return None,
            CacheFile::Awaited(place) => place,
        };
        loop {
            stop.run_until_cancelled(sleep(AWAITED_INTERVAL)).await?;
            let place = place.clone();
            match spawn_blocking(move || place.open()).await.ok()? {
                Ok(file) => return Some(Arc::new(Mutex::new(file))),
                Err(StateFileError::InUse { .. }) => {}
                Err(error) => {
                    let reason = error_chain(&error);
                    warn!(
                        reason,
                        "the state file cannot be taken over, a restart would lose the last answers"
                    );
                    return None;
                }
            }
        }
    }

    /// Waits for a change, or until `refresh_at`.
    async fn wait_for_change(&self, refresh_at: tokio::time::Instant) {
        tokio::select! {
            () = self.changed.notified() => {}
            () = sleep_until(refresh_at) => {}
        }
    }

    /// Writes the file; `refresh`: also when only ages have changed. Returns whether the file is current.
    async fn write(&self, file: &Arc<Mutex<StateFile>>, refresh: bool) -> bool {
        let (records, file) = (self.records(), file.clone());
        let written = spawn_blocking(move || file.lock().save(records, refresh));
        // Fails only when the runtime stops.
        written.await.unwrap_or(false)
    }

    /// The records to write.
    fn records(&self) -> Vec<ServiceRecord> {
        let (unix_now, now) = (unix_time(), now());
        let mut entries = self.entries.lock();
        let mut records = Vec::new();
        entries.retain(|_, one| {
            let record = one.current_record(unix_now, now).filter(|record| record.lists_any(unix_now));
            let keep = record.is_some();
            records.extend(record);
            keep
        });
        drop(entries);
        self.add_chains(&mut records, unix_now);
        let mut entries = self.entries.lock();
        if records.len() > MAX_SERVICES {
            records.sort_by_key(|record| std::cmp::Reverse(record.confirmed));
            for record in records.drain(MAX_SERVICES..) {
                entries.remove(&record.query);
            }
        }
        records
    }

    /// Adds the chains. One that says nothing is kept only where instances of its service are: names may be made up.
    fn add_chains(&self, records: &mut Vec<ServiceRecord>, unix_now: Duration) {
        let is_whole = |query: &Query| query.datacenter.is_none() && query.filter.is_none();
        let places = records.iter().enumerate().filter(|(_, record)| is_whole(&record.query));
        let places: HashMap<_, _> = places.map(|(at, record)| (record.query.service.clone(), at)).collect();
        self.chains.lock().retain(|service, chain| {
            if chain.is_expired(unix_now, MAX_AGE) {
                return false;
            }
            match places.get(service).and_then(|at| records.get_mut(*at)) {
                Some(record) => record.chain = Some(chain.clone()),
                None if chain.is_default => return false,
                None => records.push(ServiceRecord::of_chain(service.clone(), chain.clone())),
            }
            true
        });
    }
}

impl CacheEntry {
    /// `unix_now` and `now` are the same moment.
    fn current_record(&mut self, unix_now: Duration, now: Instant) -> Option<ServiceRecord> {
        match self {
            Self::Stored(record) => {
                record.estimate_age(unix_now);
                Some(record.clone())
            }
            Self::Live(service) => {
                let instances = service.snapshot().instances.clone();
                let confirmed = unix_now.saturating_sub(service.confirmed_ago(now)?);
                let lost = service.watch_health().presumed_gone.map(|lost| PresumedGoneRecord {
                    instances: lost.instances,
                    index: lost.index,
                    at: unix_now.saturating_sub(now.saturating_duration_since(lost.at)),
                });
                Some(ServiceRecord {
                    query: service.query.clone(),
                    instances,
                    index: service.index(),
                    confirmed,
                    is_estimate: false,
                    presumed_gone: lost,
                    chain: None,
                })
            }
        }
    }
}

#[cfg(test)]
mod tests;
