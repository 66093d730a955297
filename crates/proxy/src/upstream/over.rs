//! Picks for a cluster with a failover, and when its requests go to a target and return.
//!
//! The order of a pick: own endpoints that are healthy; the targets; own last resorts; panic mode. After a failover the targets come
//! first, until own endpoints have been healthy without a break for `return_after`; beside them, own endpoints on probation get the
//! one request at a time that decides.
//!
//! While a target has a healthy endpoint, the outlier detector is relieved: it may eject the last own endpoint, and has no panic
//! mode. A pick that finds nothing else ends the relief by itself, so that no request fails in between.

use std::sync::Arc;

use outrigger_events::EventKind;
use outrigger_policy::Cursor;
use tokio::time::Instant;
use tracing::{info, warn};

use crate::upstream::{
    cluster::Cluster,
    endpoint::Endpoint,
    failover::{ExactSet, Failover, FailoverTarget},
    failover_state::FailoverState,
    pick_set::{PickSet, Rank, Tried},
    subset::Subset,
};

/// A failover, with the clusters of its targets.
#[derive(Debug)]
pub(crate) struct LinkedFailover {
    pub(crate) failover: Arc<Failover>,
    /// In the order of the targets.
    pub(crate) clusters: Box<[Arc<Cluster>]>,
}

impl LinkedFailover {
    /// The target that an endpoint is of, with its cluster. `None`: it is of no target.
    pub(crate) fn target_of(&self, endpoint: &Endpoint) -> Option<(&FailoverTarget, &Arc<Cluster>)> {
        let mut all = self.failover.targets.iter().zip(&self.clusters);
        all.find(|(_, cluster)| Arc::ptr_eq(&cluster.label, &endpoint.service))
    }
}

/// What a pick of a request may take.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PickRequest<'a> {
    /// The part of the cluster's endpoints that the request goes to. `None`: all.
    pub(crate) subset: Option<&'a Subset>,
    /// The endpoints of earlier attempts.
    pub(crate) tried: &'a [Arc<Endpoint>],
    /// Endpoints on probation that other requests decide.
    pub(crate) passed: &'a [Arc<Endpoint>],
    /// The request can be tried again if this attempt fails.
    pub(crate) retryable: bool,
    pub(crate) now: Instant,
}

/// The endpoints among which a pick would be made.
#[derive(Debug)]
pub(crate) struct NextPick {
    /// The target of the failover that they are of. `None`: they are the cluster's own.
    pub(crate) target: Option<usize>,
    pub(crate) rank: Rank,
    pub(crate) endpoints: Vec<Arc<Endpoint>>,
}

impl Cluster {
    /// As [`Cluster::pick`], also of the targets of a failover.
    pub(crate) fn pick_over(&self, failover: &Failover, request: PickRequest<'_>) -> Option<Arc<Endpoint>> {
        let PickRequest { tried, passed, .. } = request;
        self.pick_untried_over(failover, request, &Tried(tried, passed)).or_else(|| {
            (!tried.is_empty())
                .then(|| self.pick_untried_over(failover, request, &Tried(&[], passed)))
                .flatten()
        })
    }

    /// An endpoint that is not in `tried`. As in [`PickSet::pick_other`], there is one for the next pick whenever there is one here.
    pub(crate) fn pick_untried_over(
        &self,
        failover: &Failover,
        PickRequest { subset, retryable, now, .. }: PickRequest<'_>,
        tried: &Tried<'_>,
    ) -> Option<Arc<Endpoint>> {
        let state = self.failover_state(subset);
        let own = |rank| self.with_set(subset, |set, cursor| set.pick_ranked(rank, cursor, tried, retryable));
        let target = |rank| {
            failover.targets.iter().find_map(|target| {
                let target = target.of(subset);
                target.set().pick_ranked(rank, target.cursor(), tried, retryable)
            })
        };
        if state.is_over() && state.is_healthy_for(failover.return_after, now) {
            self.end_failover(subset, "its instances are usable again");
        }
        let is_over = state.is_over();
        if let Some(one) = own(if is_over { Rank::Probation } else { Rank::Responsive }) {
            return Some(one);
        }
        if let Some(one) = target(Rank::Responsive) {
            if !is_over && !self.with_set(subset, |set, _| set.has_trusted()) {
                self.begin_failover(subset, failover);
            }
            return Some(one);
        }
        if is_over && !failover.has_healthy(subset) {
            self.end_failover(subset, "no target has a usable instance any more");
        }
        let better = own(Rank::Responsive).or_else(|| own(Rank::Healthy)).or_else(|| target(Rank::Healthy));
        better.or_else(|| own(Rank::LastResort)).or_else(|| own(Rank::Any)).or_else(|| {
            // The targets may have lost their last endpoint since they were looked at.
            let is_late = self.ejector.is_relieved() && !failover.has_healthy(subset);
            is_late.then(|| {
                self.ejector.set_relieved(false);
                own(Rank::Any)
            })?
        })
    }

    /// Among which endpoints the first attempt of a request would pick: of the cluster itself (`None`), or of the target with this
    /// number. `None`: there is none. It picks none, and begins and ends no failover.
    pub(crate) fn next_pick(
        &self,
        failover: Option<&Failover>,
        subset: Option<&Subset>,
        retryable: bool,
        now: Instant,
    ) -> Option<NextPick> {
        let state = self.failover_state(subset);
        let own = |rank| {
            let endpoints = self.with_set(subset, |set, _| set.ranked(rank, retryable));
            (!endpoints.is_empty()).then_some(NextPick { target: None, rank, endpoints })
        };
        let Some(failover) = failover else {
            return [Rank::Responsive, Rank::Healthy, Rank::LastResort, Rank::Any].into_iter().find_map(own);
        };
        let target = |rank| {
            failover.targets.iter().enumerate().find_map(|(at, target)| {
                let endpoints = target.of(subset).set().ranked(rank, retryable);
                (!endpoints.is_empty()).then_some(NextPick { target: Some(at), rank, endpoints })
            })
        };
        let is_over = state.is_over() && !state.is_healthy_for(failover.return_after, now);
        // The order of `pick_untried_over`.
        own(if is_over { Rank::Probation } else { Rank::Responsive })
            .or_else(|| target(Rank::Responsive))
            .or_else(|| own(Rank::Responsive))
            .or_else(|| own(Rank::Healthy))
            .or_else(|| target(Rank::Healthy))
            .or_else(|| own(Rank::LastResort))
            .or_else(|| own(Rank::Any))
            .or_else(|| {
                // The pick itself begins panic mode.
                let is_late = self.ejector.is_relieved() && !failover.has_healthy(subset);
                let mut endpoints = self.with_set(subset, |set, _| set.endpoints.to_vec());
                endpoints.retain(|one| !one.is_retired());
                (is_late && !endpoints.is_empty()).then_some(NextPick {
                    target: None,
                    rank: Rank::Any,
                    endpoints,
                })
            })
    }

    /// Whether a request for a subset, or for all endpoints, has somewhere to go.
    pub(crate) fn has_usable(&self, subset: Option<&Subset>) -> bool {
        self.with_set(subset, |set, _| set.has_usable())
            || self.failover.load().as_ref().is_some_and(|failover| failover.has_healthy(subset))
    }

    /// Tells the detector whether the targets can take requests, and whether own endpoints can take them back. Called after each
    /// change of own endpoints, and now and then for the targets.
    pub(crate) fn check_failover(&self, now: Instant) {
        let (failover, exact) = (self.failover.load(), self.exact_targets.load());
        let is_relieved = failover.as_ref().is_some_and(|failover| failover.has_healthy(None))
            || exact.as_ref().is_some_and(|exact| exact.have_healthy());
        self.ejector.set_relieved(is_relieved);
        for ExactSet { set, failover } in exact.iter().flat_map(|exact| &exact.0) {
            if let Some(failover) = failover {
                self.check_return(Some(&**set), failover, now);
            }
        }
        let Some(failover) = &*failover else {
            if self.over.is_over() {
                self.end_failover(None, "the settings have none any more");
            }
            return;
        };
        let settings = self.view.load().settings.clone();
        for subset in [None].into_iter().chain(settings.subsets().iter().map(|one| Some(&**one))) {
            self.check_return(subset, failover, now);
        }
    }

    fn check_return(&self, subset: Option<&Subset>, failover: &Failover, now: Instant) {
        let state = self.failover_state(subset);
        if state.is_over() {
            state.note_healthy(self.with_set(subset, |set, _| set.has_trusted()), now);
            if state.is_healthy_for(failover.return_after, now) {
                self.end_failover(subset, "its instances are usable again");
            }
        }
    }

    /// Whether requests for a subset, or for all endpoints, go to a target.
    pub(crate) fn failover_state<'a>(&'a self, subset: Option<&'a Subset>) -> &'a FailoverState {
        subset.map_or(&self.over, |subset| &subset.over)
    }

    fn with_set<R>(&self, subset: Option<&Subset>, act: impl FnOnce(&PickSet, &Cursor) -> R) -> R {
        match subset {
            Some(subset) => act(&subset.set(), subset.cursor()),
            None => act(&self.view.load().set, &self.cursor),
        }
    }

    #[cold]
    fn begin_failover(&self, subset: Option<&Subset>, failover: &Failover) {
        if !self.failover_state(subset).begin() {
            return;
        }
        let usable = |target: &&FailoverTarget| target.of(subset).set().has_healthy();
        let to = failover.targets.iter().find(usable).map_or("", |target| &*target.label);
        let (service, of) = (&self.label, name_of(subset));
        warn!(%service, subset = of, to, "failover: no instance is usable");
        let reason = match subset.filter(|subset| !subset.name().is_empty()) {
            Some(_) => format!("no instance of the subset {of} is usable; its requests go to {to}"),
            None => format!("no instance is usable; requests go to {to}"),
        };
        self.record_event(EventKind::FailoverBegan, reason);
    }

    #[cold]
    fn end_failover(&self, subset: Option<&Subset>, why: &str) {
        if !self.failover_state(subset).end() {
            return;
        }
        let (service, of) = (&self.label, name_of(subset));
        info!(%service, subset = of, why, "the failover ends");
        let reason = match subset.filter(|subset| !subset.name().is_empty()) {
            Some(_) => format!("of the subset {of}: {why}"),
            None => why.to_owned(),
        };
        self.record_event(EventKind::FailoverEnded, reason);
    }
}

fn name_of(subset: Option<&Subset>) -> &str {
    subset.map(|subset| &**subset.name()).filter(|name| !name.is_empty()).unwrap_or("-")
}

#[cfg(test)]
mod tests;
