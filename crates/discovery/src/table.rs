//! Which services are watched, by how many followers, and the quotas.
//!
//! One lock, held for a map operation: by a first request to a service, by a first and a last
//! follower, by the admin pages and a scrape. Never by an update and never by a pick.

use std::{
    collections::{HashMap, HashSet},
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::Ordering::Relaxed},
    time::Instant,
};

use outrigger_registry::Query;
use tokio_util::sync::CancellationToken;

use crate::{Knowledge, ServiceStatus, entry::Entry};

/// Why a service is followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// The configuration names it: outside the quotas.
    Declared,
    /// A request named it.
    OnDemand,
}

impl Kind {
    /// The word for metrics and pages.
    pub fn label(self) -> &'static str {
        match self {
            Self::Declared => "declared",
            Self::OnDemand => "on_demand",
        }
    }
}

/// Why a service cannot be followed now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// As many services are watched as `discovery.max_services` allows.
    #[error("{limit} services are watched already, the most that discovery.max_services allows")]
    TooManyServices {
        /// The setting.
        limit: usize,
    },
    /// As many names without any instance are watched as `discovery.max_unknown` allows.
    #[error(
        "{limit} names without any instance are watched already, the most that discovery.max_unknown allows"
    )]
    TooManyUnknown {
        /// The setting.
        limit: usize,
    },
    /// [`Discovery::shutdown`](crate::Discovery::shutdown) was called.
    #[error("discovery is shutting down")]
    ShuttingDown,
}

impl Refused {
    /// The word for metrics: a closed list.
    pub fn label(self) -> &'static str {
        match self {
            Self::TooManyServices { .. } => "too_many_services",
            Self::TooManyUnknown { .. } => "too_many_unknown",
            Self::ShuttingDown => "shutting_down",
        }
    }
}

/// Every watched service.
#[derive(Debug)]
pub(crate) struct Table {
    settings: Mutex<outrigger_config::DiscoverySettings>,
    /// Parent of every watcher's token.
    stop: CancellationToken,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    slots: HashMap<Query, Slot>,
    /// Slots with [`Slot::unknown`] set: kept here, for a flood of made-up names must not make each
    /// of them walk the table.
    unknown: usize,
    closed: bool,
}

#[derive(Debug)]
struct Slot {
    entry: Arc<Entry>,
    followers: usize,
    /// Those of them that declared it.
    declared: usize,
    /// Counted in [`State::unknown`].
    unknown: bool,
    stop: CancellationToken,
}

impl Table {
    pub(crate) fn new(settings: outrigger_config::DiscoverySettings) -> Self {
        Self { settings: Mutex::new(settings), stop: CancellationToken::new(), state: Mutex::default() }
    }

    /// What holds now.
    pub(crate) fn settings(&self) -> outrigger_config::DiscoverySettings {
        *self.settings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Other settings hold from now on. Who is watched stays: a lower quota refuses whoever comes.
    pub(crate) fn adopt(&self, settings: outrigger_config::DiscoverySettings) {
        *self.settings.lock().unwrap_or_else(PoisonError::into_inner) = settings;
    }

    /// Counts one more follower of `query`. For its first one, `start` is called to start the
    /// watcher, under the lock: a shutdown then sees either no watcher or one that it awaits.
    pub(crate) fn join(
        &self,
        query: Query,
        kind: Kind,
        start: impl FnOnce(Arc<Entry>, CancellationToken),
    ) -> Result<Arc<Entry>, Refused> {
        let mut state = self.lock();
        if state.closed {
            return Err(Refused::ShuttingDown);
        }
        if !state.slots.contains_key(&query) {
            self.admit(&state, kind)?;
            let slot = Slot::new(query.clone(), self.stop.child_token());
            start(slot.entry.clone(), slot.stop.clone());
            state.slots.insert(query.clone(), slot);
        }
        state
            .count(&query, |slot| {
                slot.followers += 1;
                slot.declared += usize::from(kind == Kind::Declared);
                slot.entry.clone()
            })
            .ok_or(Refused::ShuttingDown) // out of reach: it was put in above
    }

    /// Whether one more service may be watched.
    fn admit(&self, state: &State, kind: Kind) -> Result<(), Refused> {
        let outrigger_config::DiscoverySettings { max_services, max_unknown, .. } = self.settings();
        if kind == Kind::Declared {
            return Ok(());
        }
        if state.slots.len() >= max_services {
            return Err(Refused::TooManyServices { limit: max_services });
        }
        // One that the registry has not answered for yet is not known to be unknown; `max_services` is the
        // limit for those. Looked at only where the count of both says so.
        let unknown = |slot: &&Slot| slot.unknown && slot.entry.snapshot().knowledge != Knowledge::Unasked;
        if state.unknown >= max_unknown && state.slots.values().filter(unknown).count() >= max_unknown {
            return Err(Refused::TooManyUnknown { limit: max_unknown });
        }
        Ok(())
    }

    /// One of the followers is of another kind from now on.
    pub(crate) fn change_kind(&self, query: &Query, from: Kind, to: Kind) {
        self.lock().count(query, |slot| {
            slot.declared -= usize::from(from == Kind::Declared);
            slot.declared += usize::from(to == Kind::Declared);
        });
    }

    /// Takes one follower off; with the last one the entry goes and its watcher is told to stop.
    pub(crate) fn leave(&self, query: &Query, kind: Kind) {
        let mut state = self.lock();
        let left = state.count(query, |slot| {
            slot.followers -= 1;
            slot.declared -= usize::from(kind == Kind::Declared);
            slot.followers
        });
        let gone = if left == Some(0) { state.slots.remove(query) } else { None };
        if let Some(slot) = &gone {
            state.unknown -= usize::from(slot.unknown);
            slot.stop.cancel();
        }
        drop(state); // before `gone`, which may be large
    }

    /// Called when a service shows its first instance: it no longer counts as unknown.
    pub(crate) fn became_known(&self, query: &Query) {
        self.lock().count(query, |_| ());
    }

    /// Refuses new followers from now on and tells every watcher to stop. What was learned stays.
    pub(crate) fn close(&self) {
        self.lock().closed = true;
        self.stop.cancel();
    }

    /// Cancelled by [`Table::close`].
    pub(crate) fn stopping(&self) -> CancellationToken {
        self.stop.clone()
    }

    /// Every watched service, in no order.
    pub(crate) fn rows(&self) -> Vec<Row> {
        self.lock().slots.values().map(Slot::row).collect()
    }

    /// Those of `addrs` at which another service than `service` takes traffic by the registry's word.
    pub(crate) fn taken_by_others(&self, service: &str, addrs: &HashSet<SocketAddr>) -> HashSet<SocketAddr> {
        let mut taken = HashSet::new();
        for row in self.rows().iter().filter(|row| *row.entry.query.service != *service) {
            let snapshot = row.entry.snapshot();
            if snapshot.knowledge != Knowledge::Answered {
                continue;
            }
            let suspects = row.entry.contact().suspects;
            let listed = snapshot
                .instances
                .iter()
                .filter(|one| one.weight() > 0 && suspects.binary_search(&one.id).is_err());
            taken.extend(listed.filter_map(|one| one.addr.clone().ok()).filter(|addr| addrs.contains(addr)));
        }
        taken
    }

    pub(crate) fn status(&self, entry: &Arc<Entry>, now: Instant) -> ServiceStatus {
        let row = self.lock().slots.get(&entry.query).map(Slot::row);
        let row = row.unwrap_or_else(|| Row { entry: entry.clone(), followers: 0, kind: Kind::OnDemand });
        row.status(now)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Applies `change` to a slot and counts it again for the quota of unknown names.
    fn count<T>(&mut self, query: &Query, change: impl FnOnce(&mut Slot) -> T) -> Option<T> {
        let slot = self.slots.get_mut(query)?;
        let result = change(slot);
        let unknown = slot.declared == 0 && !slot.entry.ever_had_instances();
        self.unknown = self.unknown + usize::from(unknown) - usize::from(slot.unknown);
        slot.unknown = unknown;
        Some(result)
    }
}

impl Slot {
    fn new(query: Query, stop: CancellationToken) -> Self {
        Self { entry: Arc::new(Entry::new(query)), followers: 0, declared: 0, unknown: false, stop }
    }

    fn row(&self) -> Row {
        let kind = if self.declared > 0 { Kind::Declared } else { Kind::OnDemand };
        Row { entry: self.entry.clone(), followers: self.followers, kind }
    }
}

/// A slot as others see it, once the lock is gone.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) entry: Arc<Entry>,
    pub(crate) followers: usize,
    pub(crate) kind: Kind,
}

impl Row {
    /// Whether its name may be a metric's label: a made-up name may not.
    pub(crate) fn named(&self) -> bool {
        self.kind == Kind::Declared || self.entry.ever_had_instances()
    }

    pub(crate) fn updates(&self) -> [(&'static str, u64); 2] {
        [("accepted", self.entry.accepted.load(Relaxed)), ("unchanged", self.entry.unchanged.load(Relaxed))]
    }

    pub(crate) fn status(&self, now: Instant) -> ServiceStatus {
        let snapshot = self.entry.snapshot();
        let contact = self.entry.contact();
        let ago = |at: Instant| now.saturating_duration_since(at);
        ServiceStatus {
            query: self.entry.query.clone(),
            kind: self.kind,
            followers: self.followers,
            knowledge: snapshot.knowledge,
            version: snapshot.version,
            instances: snapshot.counts(),
            learned_ago: snapshot.learned_at.map(ago),
            heard_ago: contact.heard_at.map(ago),
            index: contact.index,
            error: contact.error,
            failures: contact.failures,
            known_leader: contact.known_leader,
            empty_hint: contact.empty_hint,
            suspects: contact.suspects,
            believed_gone: contact
                .lost
                .filter(|lost| lost.is_fresh(now))
                .map(|lost| (lost.instances.len(), ago(lost.at))),
        }
    }
}

/// tokio's clock, so that a paused test moves it.
pub(crate) fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}
