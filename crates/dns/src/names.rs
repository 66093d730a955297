//! The services that were asked about. Each is followed while it is asked for, so that an answer needs no look-up.
//!
//! A name that no instance was ever listed for counts in a quota of its own, because any program can make names up. A new one takes
//! the place of the oldest such name, which is kept for a second at least; until then it waits, and then is not answered.
//! No follower of another part of the sidecar ends for it. Services that exist are kept as long as those that requests go
//! to, and while the registry is away, for as long as that lasts.

use std::{collections::HashMap, sync::Arc, time::Duration};

use outrigger_config::DiscoverySettings;
use outrigger_discovery::{Discovery, Follower, Knowledge, Snapshot, WatchReason};
use outrigger_registry::Query;
use parking_lot::Mutex;
use tokio::time::{Instant, sleep, timeout_at};

/// Most names without any instance at once.
pub(crate) const MAX_UNKNOWN: usize = 16;
/// How long such a name is kept at least: so many new names ask the registry in a second.
const MIN_UNKNOWN_AGE: Duration = Duration::from_secs(1);
/// How long a name waits between two looks for a place.
const PLACE_POLL: Duration = Duration::from_millis(50);
/// How often names that are not asked for are dropped.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

/// The names.
#[derive(Debug)]
pub(crate) struct Names {
    discovery: Arc<Discovery>,
    table: Mutex<HashMap<Query, Entry>>,
}

#[derive(Debug)]
struct Entry {
    follower: Arc<Follower>,
    /// Takes its place at the first answer: another service has taken the place of its watch.
    next: Option<Arc<Follower>>,
    opened_at: Instant,
    asked_at: Instant,
}

impl Entry {
    fn new(follower: Follower, now: Instant) -> Self {
        Self { follower: Arc::new(follower), next: None, opened_at: now, asked_at: now }
    }

    fn is_known(&self) -> bool {
        self.follower.ever_had_instances()
    }
}

/// What is known about a name now.
#[derive(Debug)]
pub(crate) enum Found {
    /// The registry lists this, or did when it last answered.
    Known(Arc<Snapshot>),
    /// It has not answered yet.
    Pending(Arc<Follower>),
    /// There is no place for another name.
    Full,
}

impl Names {
    pub(crate) fn new(discovery: Arc<Discovery>) -> Self {
        Self { discovery, table: Mutex::default() }
    }

    /// What is known about `query`, which is followed from now on.
    pub(crate) fn find(&self, query: &Query, settings: &DiscoverySettings) -> Found {
        let now = Instant::now();
        let mut table = self.table.lock();
        if let Some(entry) = table.get_mut(query) {
            entry.asked_at = now;
            return found(&entry.follower);
        }
        if !make_room(&mut table, settings, now) {
            return Found::Full;
        }
        // It is refused only at the end of the process.
        let Ok(follower) = self.discovery.follow(query.clone(), WatchReason::Lookup) else {
            return Found::Full;
        };
        let entry = Entry::new(follower, now);
        let found = found(&entry.follower);
        table.insert(query.clone(), entry);
        found
    }

    /// As [`Names::find`]; waits for the registry's first answer, at most `discovery.first_answer`. `None`: it has not
    /// answered, or there is no place.
    pub(crate) async fn wait(&self, query: &Query, settings: &DiscoverySettings) -> Option<Arc<Snapshot>> {
        let due = Instant::now() + settings.first_answer;
        loop {
            match self.find(query, settings) {
                Found::Known(snapshot) => return Some(snapshot),
                Found::Pending(follower) => {
                    let answered = async {
                        tokio::select! {
                            () = follower.first_answer() => true,
                            () = follower.refused() => false,
                        }
                    };
                    if !timeout_at(due, answered).await.unwrap_or(false) {
                        return None;
                    }
                    let snapshot = follower.snapshot();
                    return (snapshot.knowledge != Knowledge::Unasked).then_some(snapshot);
                }
                Found::Full if Instant::now() >= due => return None,
                Found::Full => sleep(PLACE_POLL).await,
            }
        }
    }

    /// How many names are known, and how many never had an instance.
    pub(crate) fn counts(&self) -> (usize, usize) {
        let table = self.table.lock();
        let known = table.values().filter(|entry| entry.is_known()).count();
        (known, table.len() - known)
    }

    /// Drops what is not asked for, until the task ends.
    pub(crate) async fn sweep(&self, settings: impl Fn() -> DiscoverySettings) {
        loop {
            sleep(SWEEP_INTERVAL).await;
            self.sweep_once(&settings());
        }
    }

    fn sweep_once(&self, settings: &DiscoverySettings) {
        let now = Instant::now();
        let is_away = self.discovery.contact().error.is_some();
        let mut dropped = Vec::new();
        let mut table = self.table.lock();
        for (query, entry) in &mut *table {
            self.renew(query, entry);
            let idle = now.saturating_duration_since(entry.asked_at);
            let is_over = match entry.is_known() {
                true => idle >= settings.idle && !is_away,
                false => idle >= settings.unknown_ttl,
            };
            if is_over {
                dropped.push(query.clone());
            }
        }
        let dropped: Vec<_> = dropped.iter().filter_map(|query| table.remove(query)).collect();
        drop(table);
        drop(dropped); // outside of the lock
    }

    /// Follows the service anew where its watch has ended; what is known stays until the new watch has an answer.
    fn renew(&self, query: &Query, entry: &mut Entry) {
        if let Some(next) = entry.next.take_if(|next| next.snapshot().knowledge != Knowledge::Unasked) {
            entry.follower = next;
        }
        let newest = entry.next.as_ref().unwrap_or(&entry.follower);
        if !newest.is_watched()
            && let Ok(follower) = self.discovery.follow(query.clone(), WatchReason::Lookup)
        {
            entry.next = Some(Arc::new(follower));
        }
    }
}

fn found(follower: &Arc<Follower>) -> Found {
    let snapshot = follower.snapshot();
    match snapshot.knowledge {
        Knowledge::Unasked => Found::Pending(follower.clone()),
        Knowledge::Remembered | Knowledge::Answered => Found::Known(snapshot),
    }
}

/// Makes room for one more name. `false`: there is none now.
fn make_room(table: &mut HashMap<Query, Entry>, settings: &DiscoverySettings, now: Instant) -> bool {
    let unknown = table.iter().filter(|(_, entry)| !entry.is_known());
    if unknown.clone().count() >= MAX_UNKNOWN {
        let oldest = unknown.min_by_key(|(_, entry)| entry.opened_at);
        let oldest =
            oldest.filter(|(_, entry)| now.saturating_duration_since(entry.opened_at) >= MIN_UNKNOWN_AGE);
        let Some(query) = oldest.map(|(query, _)| query.clone()) else { return false };
        table.remove(&query);
    }
    let known = table.iter().filter(|(_, entry)| entry.is_known());
    if known.clone().count() >= settings.max_services {
        let oldest = known.min_by_key(|(_, entry)| entry.asked_at).map(|(query, _)| query.clone());
        oldest.and_then(|query| table.remove(&query));
    }
    true
}

#[cfg(test)]
mod tests;
