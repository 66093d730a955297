//! Since when this process has seen each holder. A registry does not say since when a lock is held. A holder has held the lock at least since it was
//! first seen, when its entry has not been written since.

use std::{collections::HashMap, time::Duration};

use outrigger_registry::{LockHolder, LockKind, LockPlace, SessionId};
use parking_lot::Mutex;

use crate::BootClock;

/// Most locks of which the holders are remembered.
const MAX_PATHS: usize = 1024;

/// One holder.
#[derive(Debug)]
struct Sighting {
    session: SessionId,
    /// [`LockHolder::written_at`].
    written_at: u64,
    first_seen: Duration,
}

/// The holders of every lock that was looked at.
#[derive(Debug)]
pub(crate) struct Sightings {
    clock: BootClock,
    by_path: Mutex<HashMap<String, Vec<Sighting>>>,
}

impl Sightings {
    pub(crate) fn new(clock: BootClock) -> Self {
        Self { clock, by_path: Mutex::default() }
    }

    /// Notes an answer of now.
    pub(crate) fn record(&self, place: &LockPlace, kind: LockKind, holders: &[LockHolder]) {
        // A look at a mutex alone does not show the holders of a semaphore at the same place.
        if place.limit == 1 && kind != LockKind::Mutex {
            return;
        }
        let mut by_path = self.by_path.lock();
        if holders.is_empty() {
            by_path.remove(&place.path);
            return;
        }
        if by_path.len() >= MAX_PATHS && !by_path.contains_key(&place.path) {
            by_path.clear();
        }
        let seen = by_path.entry(place.path.clone()).or_default();
        let is_same = |seen: &Sighting, holder: &LockHolder| {
            seen.session == holder.session && seen.written_at == holder.written_at
        };
        seen.retain(|seen| holders.iter().any(|holder| is_same(seen, holder)));
        for holder in holders {
            if !seen.iter().any(|seen| is_same(seen, holder)) {
                let (session, written_at) = (holder.session.clone(), holder.written_at);
                seen.push(Sighting { session, written_at, first_seen: self.clock.now() });
            }
        }
    }

    /// For how long the holder has been seen there, without a break.
    pub(crate) fn seen_for(&self, path: &str, holder: &LockHolder) -> Duration {
        let by_path = self.by_path.lock();
        let seen = by_path.get(path).into_iter().flatten();
        let first = seen
            .filter(|seen| seen.session == holder.session && seen.written_at == holder.written_at)
            .map(|seen| seen.first_seen)
            .next();
        first.map_or(Duration::ZERO, |first| self.clock.now().saturating_sub(first))
    }
}
