//! The watched services, their followers, and the quotas.
//!
//! One lock, held for a map operation: by the first request to a service, by a first and a last
//! follower, by the admin pages and by a scrape; never by an update or a pick.

use std::{
    collections::{HashMap, HashSet},
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use outrigger_registry::Query;
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use crate::{
    Knowledge, ServiceStatus, WatchReason,
    clock::now,
    new_names::NewNames,
    service::{Service, WatchResult},
};

/// Why a service cannot be followed now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FollowError {
    /// As many services are watched as `discovery.max_services` allows.
    #[error("no more services can be watched; max_services: {limit} (discovery.max_services)")]
    TooManyServices {
        /// The setting.
        limit: usize,
    },
    /// As many names without any instance are watched as `discovery.max_unknown` allows.
    #[error("no more names without an instance can be watched; max_unknown: {limit} (discovery.max_unknown)")]
    TooManyUnknown {
        /// The setting.
        limit: usize,
    },
    /// More new names are asked for than `discovery.max_new_per_second` allows.
    #[error(
        "more new names are asked for than may be, and the registry is not asked for each; max_new_per_second: {limit} \
         (discovery.max_new_per_second)"
    )]
    TooManyNew {
        /// The setting.
        limit: usize,
    },
    /// [`Discovery::shutdown`](crate::Discovery::shutdown) was called.
    #[error("discovery is shutting down")]
    ShuttingDown,
}

impl FollowError {
    /// The label in metrics: one of a closed list.
    pub fn label(self) -> &'static str {
        match self {
            Self::TooManyServices { .. } => "too_many_services",
            Self::TooManyUnknown { .. } => "too_many_unknown",
            Self::TooManyNew { .. } => "too_many_new",
            Self::ShuttingDown => "shutting_down",
        }
    }
}

/// Whether the registry answers for other services than the one of a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OtherWatches {
    /// No other service is watched.
    None,
    /// It has answered for one of them, and no query for it has failed since.
    Answered,
    /// It has answered for none, and the first query for one of them has neither failed nor been answered.
    Pending,
    /// Every query fails.
    Failing,
}

/// Every watched service.
#[derive(Debug)]
pub(crate) struct Services {
    settings: Mutex<outrigger_config::DiscoverySettings>,
    /// Parent of every watcher's token; [`Services::close`] cancels it.
    pub(crate) stop: CancellationToken,
    state: Mutex<ServicesState>,
    new_names: Mutex<NewNames>,
}

#[derive(Debug, Default)]
struct ServicesState {
    slots: HashMap<Query, Slot>,
    /// Slots with [`Slot::unknown`] set. Counted here, so that a flood of made-up names does not walk the
    /// map for each name.
    unknown: usize,
    /// Slots with [`Slot::lookup_only`] set.
    lookup_only: usize,
    closed: bool,
}

#[derive(Debug)]
struct Slot {
    service: Arc<Service>,
    followers: usize,
    /// Followers with [`WatchReason::Declared`].
    declared: usize,
    /// Followers with [`WatchReason::Lookup`].
    lookups: usize,
    /// Counted in [`ServicesState::unknown`].
    unknown: bool,
    /// Counted in [`ServicesState::lookup_only`].
    lookup_only: bool,
    stop: CancellationToken,
}

impl Services {
    pub(crate) fn new(settings: outrigger_config::DiscoverySettings) -> Self {
        Self {
            settings: Mutex::new(settings),
            stop: CancellationToken::new(),
            state: Mutex::default(),
            new_names: Mutex::new(NewNames::new(now())),
        }
    }

    pub(crate) fn settings(&self) -> outrigger_config::DiscoverySettings {
        *self.settings.lock()
    }

    /// Replaces the settings. Watched services stay: a lower quota refuses new ones.
    pub(crate) fn apply_settings(&self, settings: outrigger_config::DiscoverySettings) {
        *self.settings.lock() = settings;
    }

    /// Counts a new name that is not declared, and returns how long it is to wait for its turn.
    pub(crate) fn admit_new_name(
        &self,
        longest_wait: Duration,
        now: Instant,
    ) -> Result<Duration, FollowError> {
        let outrigger_config::DiscoverySettings { max_new_per_second, max_services, .. } = self.settings();
        let wait = self.new_names.lock().take(max_new_per_second, max_services, longest_wait, now);
        wait.ok_or(FollowError::TooManyNew { limit: max_new_per_second })
    }

    /// Counts one more follower of `query`. For the first follower, calls `start` under the lock to start
    /// the watcher: a shutdown then sees either no watcher or one that it awaits.
    pub(crate) fn add_follower(
        &self,
        query: Query,
        reason: WatchReason,
        start: impl FnOnce(Arc<Service>, CancellationToken),
    ) -> Result<Arc<Service>, FollowError> {
        let mut state = self.state.lock();
        if state.closed {
            return Err(FollowError::ShuttingDown);
        }
        let slot = state.slots.get(&query);
        if slot.is_none_or(|slot| slot.lookup_only) {
            self.check_quota(&state, reason)?;
        }
        if slot.is_none() {
            let slot = Slot::new(query.clone(), self.stop.child_token());
            start(slot.service.clone(), slot.stop.clone());
            state.slots.insert(query.clone(), slot);
        }
        state
            .update_slot(&query, |slot| {
                slot.followers += 1;
                slot.count(reason);
                slot.service.clone()
            })
            .ok_or(FollowError::ShuttingDown) // unreachable: inserted above
    }

    /// Whether one more service may be watched.
    fn check_quota(&self, state: &ServicesState, reason: WatchReason) -> Result<(), FollowError> {
        let outrigger_config::DiscoverySettings { max_services, max_unknown, .. } = self.settings();
        match reason {
            WatchReason::Declared | WatchReason::Lookup => return Ok(()),
            WatchReason::OnDemand => {}
        }
        if state.slots.len() - state.lookup_only >= max_services {
            return Err(FollowError::TooManyServices { limit: max_services });
        }
        // A name that the registry has not answered for may still have instances; `max_services` limits those
        // names. The walk happens only when the count of both kinds has reached the limit.
        let unknown = |slot: &&Slot| slot.unknown && slot.service.snapshot().knowledge != Knowledge::Unasked;
        if state.unknown >= max_unknown && state.slots.values().filter(unknown).count() >= max_unknown {
            return Err(FollowError::TooManyUnknown { limit: max_unknown });
        }
        Ok(())
    }

    /// One follower has another reason from now on.
    pub(crate) fn change_reason(&self, service: &Arc<Service>, from: WatchReason, to: WatchReason) {
        let mut state = self.state.lock();
        if !state.has_slot_of(service) {
            return;
        }
        state.update_slot(&service.query, |slot| {
            slot.discount(from);
            slot.count(to);
        });
    }

    /// Removes one follower; with the last one, removes the service and stops its watcher.
    pub(crate) fn remove_follower(&self, service: &Arc<Service>, reason: WatchReason) {
        let (mut state, query) = (self.state.lock(), &service.query);
        if !state.has_slot_of(service) {
            return;
        }
        let left = state.update_slot(query, |slot| {
            slot.followers -= 1;
            slot.discount(reason);
            slot.followers
        });
        let removed = if left == Some(0) { state.slots.remove(query) } else { None };
        if let Some(slot) = &removed {
            state.uncount(slot);
            slot.stop.cancel();
        }
        drop(state); // before `removed`, which may be large
    }

    /// Removes a service that is not declared, with its followers, and stops its watcher. The followers keep the last snapshot.
    /// Returns whether it was removed.
    pub(crate) fn forget(&self, query: &Query) -> bool {
        let mut state = self.state.lock();
        let removed = match state.slots.get(query) {
            Some(slot) if slot.declared == 0 => state.slots.remove(query),
            _ => None,
        };
        if let Some(slot) = &removed {
            state.uncount(slot);
            slot.stop.cancel();
        }
        drop(state); // before `removed`, which may be large
        removed.is_some()
    }

    /// A service has its first instance: it no longer counts as unknown.
    pub(crate) fn mark_known(&self, query: &Query) {
        self.state.lock().update_slot(query, |_| ());
    }

    /// Refuses new followers from now on and stops every watcher. Snapshots stay.
    pub(crate) fn close(&self) {
        self.state.lock().closed = true;
        self.stop.cancel();
    }

    /// Whether `service` is watched: it is not after [`Services::forget`] and [`Services::close`].
    pub(crate) fn is_watched(&self, service: &Arc<Service>) -> bool {
        let state = self.state.lock();
        !state.closed && state.has_slot_of(service)
    }

    /// Whether any service is watched.
    pub(crate) fn is_any_watched(&self) -> bool {
        !self.state.lock().slots.is_empty()
    }

    /// Whether the registry answers for other services than `service`.
    pub(crate) fn other_watches(&self, service: &Arc<Service>) -> OtherWatches {
        let state = self.state.lock();
        let others = state.slots.values().map(|slot| &slot.service).filter(|one| !Arc::ptr_eq(one, service));
        others.fold(OtherWatches::None, |known, other| match (known, other.watch_result()) {
            (OtherWatches::Answered, _) | (_, WatchResult::Answered) => OtherWatches::Answered,
            (OtherWatches::Pending, _) | (_, WatchResult::Pending) => OtherWatches::Pending,
            (OtherWatches::None | OtherWatches::Failing, WatchResult::Failing) => OtherWatches::Failing,
        })
    }

    /// Every watched service, unordered.
    pub(crate) fn rows(&self) -> Vec<ServiceRow> {
        self.state.lock().slots.values().map(Slot::row).collect()
    }

    /// The `addrs` at which, according to the registry, an instance of another service takes traffic.
    pub(crate) fn addrs_of_other_services(
        &self,
        service: &str,
        addrs: &HashSet<SocketAddr>,
    ) -> HashSet<SocketAddr> {
        let mut taken = HashSet::new();
        for row in self.rows().iter().filter(|row| *row.service.query.service != *service) {
            let snapshot = row.service.snapshot();
            if snapshot.knowledge != Knowledge::Answered {
                continue;
            }
            let suspects = row.service.watch_health().suspects;
            let listed = snapshot
                .instances
                .iter()
                .filter(|one| one.weight() > 0 && suspects.binary_search(&one.id).is_err());
            taken.extend(listed.filter_map(|one| one.addr.clone().ok()).filter(|addr| addrs.contains(addr)));
        }
        taken
    }

    pub(crate) fn status(&self, service: &Arc<Service>, now: Instant) -> ServiceStatus {
        let row = self.state.lock().slots.get(&service.query).map(Slot::row);
        let row = row.unwrap_or_else(|| ServiceRow {
            service: service.clone(),
            followers: 0,
            reason: WatchReason::OnDemand,
        });
        row.status(now)
    }
}

impl ServicesState {
    /// Whether `service` is watched: another one may be watched for the same query by now.
    fn has_slot_of(&self, service: &Arc<Service>) -> bool {
        self.slots.get(&service.query).is_some_and(|slot| Arc::ptr_eq(&slot.service, service))
    }

    /// Applies `change` to a slot and updates the count of unknown names.
    fn update_slot<T>(&mut self, query: &Query, change: impl FnOnce(&mut Slot) -> T) -> Option<T> {
        let slot = self.slots.get_mut(query)?;
        let result = change(slot);
        let lookup_only = slot.lookups == slot.followers;
        let unknown = slot.declared == 0 && !lookup_only && !slot.service.ever_had_instances();
        self.unknown = self.unknown + usize::from(unknown) - usize::from(slot.unknown);
        self.lookup_only = self.lookup_only + usize::from(lookup_only) - usize::from(slot.lookup_only);
        (slot.unknown, slot.lookup_only) = (unknown, lookup_only);
        Some(result)
    }

    /// A slot that was removed.
    fn uncount(&mut self, slot: &Slot) {
        self.unknown -= usize::from(slot.unknown);
        self.lookup_only -= usize::from(slot.lookup_only);
    }
}

impl Slot {
    fn new(query: Query, stop: CancellationToken) -> Self {
        let service = Arc::new(Service::new(query));
        Self { service, followers: 0, declared: 0, lookups: 0, unknown: false, lookup_only: false, stop }
    }

    /// One more follower has this reason.
    fn count(&mut self, reason: WatchReason) {
        self.declared += usize::from(reason == WatchReason::Declared);
        self.lookups += usize::from(reason == WatchReason::Lookup);
    }

    /// One follower less has this reason.
    fn discount(&mut self, reason: WatchReason) {
        self.declared -= usize::from(reason == WatchReason::Declared);
        self.lookups -= usize::from(reason == WatchReason::Lookup);
    }

    fn row(&self) -> ServiceRow {
        let reason = match self {
            Self { declared: 1.., .. } => WatchReason::Declared,
            Self { lookup_only: true, .. } => WatchReason::Lookup,
            Self { .. } => WatchReason::OnDemand,
        };
        ServiceRow { service: self.service.clone(), followers: self.followers, reason }
    }
}

/// A copy of a [`Slot`], for use without the lock.
#[derive(Debug)]
pub(crate) struct ServiceRow {
    pub(crate) service: Arc<Service>,
    pub(crate) followers: usize,
    pub(crate) reason: WatchReason,
}

impl ServiceRow {
    /// Whether the name may be a metric label: a made-up name may not.
    pub(crate) fn may_be_metric_label(&self) -> bool {
        self.reason == WatchReason::Declared || self.service.ever_had_instances()
    }

    pub(crate) fn status(&self, now: Instant) -> ServiceStatus {
        let snapshot = self.service.snapshot();
        let watch_health = self.service.watch_health();
        let ago = |at: Instant| now.saturating_duration_since(at);
        ServiceStatus {
            query: self.service.query.clone(),
            reason: self.reason,
            followers: self.followers,
            knowledge: snapshot.knowledge,
            version: snapshot.version,
            instances: snapshot.counts(),
            learned_ago: snapshot.learned_at.map(ago),
            confirmed_ago: watch_health.confirmed_at.map(ago),
            index: watch_health.index,
            error: watch_health.error,
            failures: watch_health.failures,
            known_leader: watch_health.known_leader,
            empty_hint: watch_health.empty_hint,
            suspects: watch_health.suspects,
            presumed_gone: watch_health
                .presumed_gone
                .filter(|gone| gone.is_fresh(now))
                .map(|gone| (gone.instances.len(), ago(gone.at))),
        }
    }
}
