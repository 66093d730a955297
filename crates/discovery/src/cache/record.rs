//! What the cache keeps of one service.

use std::{sync::Arc, time::Duration};

use outrigger_registry::{Instance, Query, chain::Chain};

use crate::{instances::union, suspects::PRESUMED_GONE_TTL};

/// The last good answer for one service.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct ServiceRecord {
    pub(super) query: Query,
    pub(super) instances: Arc<[Instance]>,
    pub(super) index: u64,
    /// When the registry last confirmed it: time since 1970.
    pub(super) confirmed: Duration,
    /// The age is not known, and `confirmed` is an estimate for the expiry alone ([`ServiceRecord::estimate_age`]).
    pub(super) is_estimate: bool,
    /// Instances that were presumed gone.
    pub(super) presumed_gone: Option<PresumedGoneRecord>,
    /// What the registry said of its requests. `None`: it was not asked.
    pub(super) chain: Option<ChainRecord>,
}

/// The last good chain of one service.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct ChainRecord {
    pub(super) chain: Arc<Chain>,
    /// It says nothing of the requests, as that of a name without entries.
    pub(super) is_default: bool,
    /// When the registry last confirmed it: time since 1970.
    pub(super) confirmed: Duration,
}

impl ChainRecord {
    /// As [`ServiceRecord::is_expired`].
    pub(super) fn is_expired(&self, unix_now: Duration, max_age: Duration) -> bool {
        unix_now.saturating_sub(self.confirmed) > max_age
    }
}

/// See [`PresumedGone`](crate::suspects::PresumedGone).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PresumedGoneRecord {
    pub(super) instances: Arc<[Instance]>,
    /// The index of the last answer that listed them.
    pub(super) index: u64,
    /// When the last of them was presumed gone: time since 1970.
    pub(super) at: Duration,
}

impl ServiceRecord {
    /// A record of a service of which no instance is known.
    pub(super) fn of_chain(service: Arc<str>, chain: ChainRecord) -> Self {
        Self {
            query: Query::new(service, None),
            instances: Arc::default(),
            index: 0,
            confirmed: chain.confirmed,
            is_estimate: false,
            presumed_gone: None,
            chain: Some(chain),
        }
    }

    /// Whether any instance is left to serve at `unix_now`.
    pub(super) fn lists_any(&self, unix_now: Duration) -> bool {
        !self.instances.is_empty() || self.fresh_presumed_gone(unix_now).is_some()
    }

    /// Settles times that lie in the future, because a clock was set. The age of the answer is then not known: for the expiry it
    /// counts as confirmed at `unix_now`, or it would be used for ever while the registry is silent. Instances that were
    /// presumed gone are given up, or they would return when that time comes. Returns whether anything was settled.
    pub(super) fn estimate_age(&mut self, unix_now: Duration) -> bool {
        let is_lost_later = self.presumed_gone.as_ref().is_some_and(|lost| lost.at > unix_now);
        if is_lost_later {
            self.presumed_gone = None;
        }
        let is_later = self.confirmed > unix_now;
        if is_later {
            (self.confirmed, self.is_estimate) = (unix_now, true);
        }
        is_later || is_lost_later
    }

    /// Whether the answer was not confirmed for longer than `max_age`.
    pub(super) fn is_expired(&self, unix_now: Duration, max_age: Duration) -> bool {
        unix_now.saturating_sub(self.confirmed) > max_age
    }

    /// How long ago the registry last confirmed it. `None`: not known.
    pub(super) fn age(&self, unix_now: Duration) -> Option<Duration> {
        unix_now.checked_sub(self.confirmed).filter(|_| !self.is_estimate)
    }

    /// The instances, together with those presumed gone in the last
    /// [`PRESUMED_GONE_TTL`], and an index at which the registry listed all of them.
    pub(super) fn instances_to_serve(&self, unix_now: Duration) -> (Arc<[Instance]>, u64) {
        match self.fresh_presumed_gone(unix_now) {
            Some(lost) => (union(&self.instances, &lost.instances), self.index.min(lost.index)),
            None => (self.instances.clone(), self.index),
        }
    }

    fn fresh_presumed_gone(&self, unix_now: Duration) -> Option<&PresumedGoneRecord> {
        let is_fresh = |lost: &&PresumedGoneRecord| {
            unix_now.checked_sub(lost.at).is_some_and(|age| age <= PRESUMED_GONE_TTL)
        };
        self.presumed_gone.as_ref().filter(is_fresh)
    }
}
