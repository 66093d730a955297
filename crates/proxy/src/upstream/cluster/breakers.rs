//! What changes the circuit breakers of a cluster beside requests, and how a change is told.

use std::sync::Arc;

use outrigger_events::EventKind;
use outrigger_policy::circuit_breaker::{Breaker, BreakerChange, BreakerState};
use tokio::time::Instant;

use super::Cluster;
use crate::upstream::{endpoint::Endpoint, pick_set::PickSet, subset::Subset};

impl Cluster {
    /// Lets requests pass an open breaker where an endpoint of `set` was not in `before`: that of the requests for all endpoints, or
    /// for `subset`.
    pub(crate) fn admit_to_joined(&self, subset: Option<&Subset>, set: &PickSet, before: &PickSet) {
        let (breaker, view) = (self.breaker(subset), self.view.load());
        let settings = view.settings.policy.circuit_breaker.as_ref();
        // Compared only when it matters. A breaker that opens at this moment knows the old endpoints only,
        // and stays open for its time.
        if breaker.state(settings, Instant::now().into_std()) != BreakerState::Closed
            && set.has_new_endpoint(before)
            && breaker.half_open_for_new_endpoint()
        {
            self.record_breaker_event(subset, EventKind::BreakerHalfOpen, "an instance has joined");
        }
    }

    /// Whether all breakers are closed, by the settings of the current View.
    pub(crate) fn are_breakers_closed(&self, now: Instant) -> bool {
        let (view, now) = (self.view.load(), now.into_std());
        let settings = view.settings.policy.circuit_breaker.as_ref();
        let is_closed = |breaker: &Breaker| breaker.state(settings, now) == BreakerState::Closed;
        is_closed(&self.breaker) && self.live_subsets.all().iter().all(|subset| is_closed(&subset.breaker))
    }

    #[cold]
    pub(super) fn record_breaker_change(&self, subset: Option<&Subset>, change: BreakerChange) {
        match change {
            BreakerChange::Opened { failed, ended } => {
                let reason = format!("{failed} of the last {ended} requests failed");
                self.record_breaker_event(subset, EventKind::BreakerOpened, &reason);
            }
            BreakerChange::Reopened => {
                let reason = "a request that was let through failed";
                self.record_breaker_event(subset, EventKind::BreakerOpened, reason);
            }
            BreakerChange::Closed => {
                let reason = "the requests that were let through succeeded";
                self.record_breaker_event(subset, EventKind::BreakerClosed, reason);
            }
        }
    }

    /// Ends the open time of the breakers of the requests that may go to an instance, because a probe has connected to it.
    pub(crate) fn half_open_breakers(&self, endpoint: &Arc<Endpoint>) {
        let half_open = |subset: Option<&Subset>| {
            if self.breaker(subset).half_open() {
                let reason = "a probe has connected to an instance";
                self.record_breaker_event(subset, EventKind::BreakerHalfOpen, reason);
            }
        };
        half_open(None);
        for subset in self.live_subsets.all() {
            if subset.set().standing().iter().any(|one| Arc::ptr_eq(one, endpoint)) {
                half_open(Some(&subset));
            }
        }
    }

    /// Turns all breakers off, because the settings have none any more.
    pub(crate) fn turn_breakers_off(&self) {
        let turn_off = |subset: Option<&Subset>| {
            if self.breaker(subset).turn_off() {
                self.record_breaker_event(subset, EventKind::BreakerClosed, "the settings turn it off");
            }
        };
        turn_off(None);
        self.live_subsets.all().iter().for_each(|subset| turn_off(Some(subset)));
    }

    #[cold]
    pub(super) fn record_breaker_event(&self, subset: Option<&Subset>, kind: EventKind, reason: &str) {
        match subset {
            None => self.record_event(kind, reason),
            Some(subset) => self.record_event(kind, format!("subset {}: {reason}", subset.name())),
        }
    }
}
