//! The endpoints among which a request picks, and the pick: all endpoints of a cluster, or those of a subset.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
};

use outrigger_config::{self as config, Balance};
use outrigger_policy::{Cursor, LoadBalancer, outlier_detection::EjectionState};
use outrigger_registry::LastResort;

use crate::upstream::{
    endpoint::{Endpoint, is_healthy, pick_among},
    zones::{CallerZones, ZoneSets},
};

/// Endpoints among which a request picks. It never changes.
#[derive(Debug)]
pub(crate) struct PickSet {
    /// Those in service, in the balancer's order.
    pub(crate) endpoints: Box<[Arc<Endpoint>]>,
    balancer: LoadBalancer,
    /// Endpoints out of service that may be picked where none in service is healthy; in the order of use, none is empty.
    pub(crate) last_resorts: Box<[LastResorts]>,
    /// Those in service by zone. `None`: zones do not count.
    zones: Option<Box<ZoneSets>>,
}

/// Endpoints that may be picked where no endpoint is healthy, for one reason.
#[derive(Debug)]
pub(crate) struct LastResorts {
    pub(crate) kind: LastResort,
    /// In the balancer's order.
    pub(crate) endpoints: Box<[Arc<Endpoint>]>,
    balancer: LoadBalancer,
}

/// What of a set a pick may take, where more than one set is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rank {
    /// What is healthy, and lets no requests wait; on probation, what this request may decide.
    Responsive,
    /// What is on probation, if this request may decide it.
    Probation,
    /// What is healthy, or on probation.
    Healthy,
    LastResort,
    /// What panic mode lets be picked, too.
    Any,
}

impl Rank {
    /// Whether an endpoint is of it; of last resorts, one that is a last resort.
    fn takes(self, one: &Endpoint, retryable: bool) -> bool {
        match self {
            Self::Responsive => is_healthy(one, retryable) && !one.is_stalled(),
            Self::Probation => {
                one.is_usable(retryable) && one.stats.ejection_state() == EjectionState::Probation
            }
            Self::Healthy => is_healthy(one, retryable),
            Self::LastResort => one.is_usable_as_last_resort(retryable),
            Self::Any => one.is_usable(retryable),
        }
    }
}

/// The endpoints that a request has tried: those of earlier attempts, and others that this pick may not take.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tried<'a>(pub(crate) &'a [Arc<Endpoint>], pub(crate) &'a [Arc<Endpoint>]);

impl Tried<'_> {
    fn contains(&self, endpoint: &Endpoint) -> bool {
        self.0.iter().chain(self.1).any(|one| std::ptr::eq(&**one, endpoint))
    }
}

impl PickSet {
    /// A set without endpoints.
    pub(crate) fn empty(balance: Balance) -> Self {
        PickSetBuilder::default().build(balance)
    }

    /// An endpoint that this request has not tried, or any usable one when it has tried all; none of `passed`, which another
    /// request decides. `retryable`: the request can be tried again if this attempt fails.
    #[inline]
    pub(crate) fn pick(
        &self,
        cursor: &Cursor,
        tried: &[Arc<Endpoint>],
        passed: &[Arc<Endpoint>],
        retryable: bool,
    ) -> Option<Arc<Endpoint>> {
        let untried = self.pick_untried(cursor, &Tried(tried, passed), retryable);
        if untried.is_some() || tried.is_empty() {
            return untried;
        }
        self.pick_tried(cursor, &Tried(passed, &[]), retryable)
    }

    /// Any usable endpoint, but none of `passed`.
    #[cold]
    fn pick_tried(&self, cursor: &Cursor, passed: &Tried<'_>, retryable: bool) -> Option<Arc<Endpoint>> {
        let usable = |one: &Endpoint| one.is_usable(retryable) && !passed.contains(one);
        pick_among(&self.endpoints, &self.balancer, cursor, false, usable).or_else(|| {
            let usable = |one: &Endpoint| one.is_usable_as_last_resort(retryable) && !passed.contains(one);
            self.pick_last_resort(cursor, false, usable)
        })
    }

    /// An endpoint that is neither in `tried` nor `now`. [`PickSet::pick`] with the same `retryable`, after `now` was tried, gives
    /// such an endpoint whenever this does.
    pub(crate) fn pick_other(
        &self,
        cursor: &Cursor,
        tried: &[Arc<Endpoint>],
        now: &Arc<Endpoint>,
        retryable: bool,
    ) -> Option<Arc<Endpoint>> {
        self.pick_untried(cursor, &Tried(tried, std::slice::from_ref(now)), retryable)
    }

    #[inline]
    fn pick_untried(&self, cursor: &Cursor, tried: &Tried<'_>, retryable: bool) -> Option<Arc<Endpoint>> {
        let is_first = tried.0.is_empty() && tried.1.is_empty();
        if let (Some(zones), true) = (&self.zones, is_first) {
            let near = zones.pick(|one| is_healthy(one, retryable));
            if near.is_some() {
                return near;
            }
        }
        let usable = |one: &Endpoint| one.is_usable(retryable) && !tried.contains(one);
        if self.last_resorts.is_empty() {
            return pick_among(&self.endpoints, &self.balancer, cursor, is_first, usable);
        }
        // Last resorts come after the endpoints that are healthy, and before those that panic mode picks: those are known to fail.
        let healthy = |one: &Endpoint| is_healthy(one, retryable) && !tried.contains(one);
        let last = |one: &Endpoint| one.is_usable_as_last_resort(retryable) && !tried.contains(one);
        pick_among(&self.endpoints, &self.balancer, cursor, is_first, healthy)
            .or_else(|| self.pick_last_resort(cursor, is_first, last))
            .or_else(|| pick_among(&self.endpoints, &self.balancer, cursor, is_first, usable))
    }

    /// An endpoint of this rank that is not in `tried`.
    pub(crate) fn pick_ranked(
        &self,
        rank: Rank,
        cursor: &Cursor,
        tried: &Tried<'_>,
        retryable: bool,
    ) -> Option<Arc<Endpoint>> {
        let is_first = tried.0.is_empty() && tried.1.is_empty();
        let pick = |wanted: &dyn Fn(&Endpoint) -> bool| {
            let usable = |one: &Endpoint| wanted(one) && !tried.contains(one);
            pick_among(&self.endpoints, &self.balancer, cursor, is_first, usable)
        };
        match rank {
            Rank::Responsive => {
                let responsive = |one: &Endpoint| rank.takes(one, retryable);
                let near = self.zones.as_ref().filter(|_| is_first).and_then(|zones| zones.pick(responsive));
                near.or_else(|| pick(&responsive))
            }
            Rank::Probation | Rank::Healthy | Rank::Any => pick(&|one| rank.takes(one, retryable)),
            Rank::LastResort => {
                let last = |one: &Endpoint| rank.takes(one, retryable) && !tried.contains(one);
                self.pick_last_resort(cursor, is_first, last)
            }
        }
    }

    /// The endpoints among which [`PickSet::pick_ranked`] picks for a first attempt.
    pub(crate) fn ranked(&self, rank: Rank, retryable: bool) -> Vec<Arc<Endpoint>> {
        let ranked = |all: &[Arc<Endpoint>]| -> Vec<_> {
            all.iter().filter(|one| rank.takes(one, retryable)).cloned().collect()
        };
        match rank {
            Rank::LastResort => {
                let mut kinds = self.last_resorts.iter().map(|one| ranked(&one.endpoints));
                kinds.find(|usable| !usable.is_empty()).unwrap_or_default()
            }
            Rank::Responsive | Rank::Probation | Rank::Healthy | Rank::Any => ranked(&self.endpoints),
        }
    }

    fn pick_last_resort(
        &self,
        cursor: &Cursor,
        is_first: bool,
        is_usable: impl Fn(&Endpoint) -> bool,
    ) -> Option<Arc<Endpoint>> {
        let pick =
            |one: &LastResorts| pick_among(&one.endpoints, &one.balancer, cursor, is_first, &is_usable);
        self.last_resorts.iter().find_map(pick)
    }

    /// Works the shares of the zones out anew, by the endpoints that are healthy now.
    pub(crate) fn update_zones(&self, callers: Option<&CallerZones>) {
        if let Some(zones) = &self.zones {
            zones.update(callers);
        }
    }

    /// Each zone with its endpoints that are healthy and its share of the requests, while zones count.
    pub(crate) fn zone_shares(&self) -> Vec<(Arc<str>, f64)> {
        self.zones.as_ref().map(|zones| zones.shares()).unwrap_or_default()
    }

    /// Whether an endpoint is healthy, and not on probation.
    pub(crate) fn has_trusted(&self) -> bool {
        self.endpoints.iter().any(|one| one.is_healthy())
    }

    /// Whether an endpoint is healthy.
    pub(crate) fn has_healthy(&self) -> bool {
        self.endpoints.iter().any(|one| is_healthy(one, true))
    }

    /// How many endpoints are healthy.
    pub(crate) fn healthy(&self) -> usize {
        self.endpoints.iter().filter(|one| is_healthy(one, true)).count()
    }

    /// How many endpoints a pick may take now: those that are healthy; where there is none, those that are picked then.
    pub(crate) fn usable(&self) -> usize {
        let healthy = self.healthy();
        if healthy > 0 {
            return healthy;
        }
        let in_use = self.last_resorts.iter().find(|one| Some(one.kind) == self.usable_last_resort());
        let is_usable = |one: &&Arc<Endpoint>| one.is_usable_as_last_resort(true);
        in_use.map_or(0, |in_use| in_use.endpoints.iter().filter(is_usable).count())
    }

    /// Whether an endpoint is healthy, or a last resort is usable.
    pub(crate) fn has_usable(&self) -> bool {
        self.has_healthy() || self.usable_last_resort().is_some()
    }

    /// The last resorts that are picked now: of several kinds, the first with a usable endpoint.
    pub(crate) fn last_resort_in_use(&self) -> Option<LastResort> {
        if self.has_healthy() { None } else { self.usable_last_resort() }
    }

    fn usable_last_resort(&self) -> Option<LastResort> {
        let is_usable =
            |one: &&LastResorts| one.endpoints.iter().any(|one| one.is_usable_as_last_resort(true));
        self.last_resorts.iter().find(is_usable).map(|one| one.kind)
    }

    /// Whether an endpoint stands for the service here that does not in `other`.
    pub(crate) fn has_new_endpoint(&self, other: &Self) -> bool {
        let before: HashSet<_> = other.standing().iter().map(Arc::as_ptr).collect();
        self.standing().iter().any(|one| !before.contains(&Arc::as_ptr(one)))
    }

    /// The endpoints that stand for the service: those in service, or, where there is none, those of lost nodes.
    pub(crate) fn standing(&self) -> &[Arc<Endpoint>] {
        if !self.endpoints.is_empty() {
            return &self.endpoints;
        }
        let lost = self.last_resorts.iter().find(|one| one.kind == LastResort::NodeLost);
        lost.map_or(&[], |one| &one.endpoints)
    }
}

/// Endpoints with their weights.
#[derive(Debug, Default)]
struct WeightedEndpoints {
    endpoints: Vec<Arc<Endpoint>>,
    weights: Vec<u32>,
}

impl WeightedEndpoints {
    fn push(&mut self, endpoint: &Arc<Endpoint>, weight: u32) {
        self.endpoints.push(endpoint.clone());
        self.weights.push(weight);
    }

    fn build(self, balance: Balance) -> (Box<[Arc<Endpoint>]>, LoadBalancer) {
        (self.endpoints.into(), LoadBalancer::new(balance, &self.weights))
    }
}

/// Gathers the endpoints of a [`PickSet`].
#[derive(Debug, Default)]
pub(crate) struct PickSetBuilder {
    in_service: WeightedEndpoints,
    last_resorts: BTreeMap<LastResort, WeightedEndpoints>,
    /// The zone of each in service, where zones count.
    zones: Vec<Arc<str>>,
}

impl PickSetBuilder {
    /// Adds an endpoint in service, or with `weight` 0 one that is at most a last resort, with its weight then.
    pub(crate) fn add(
        &mut self,
        endpoint: &Arc<Endpoint>,
        weight: u32,
        last_resort: Option<(LastResort, u32)>,
    ) {
        if weight > 0 {
            self.in_service.push(endpoint, weight);
        } else if let Some((kind, weight)) = last_resort {
            self.last_resorts.entry(kind).or_default().push(endpoint, weight);
        }
    }

    /// As [`PickSetBuilder::add`], of an endpoint in this zone.
    pub(crate) fn add_in(
        &mut self,
        zone: Arc<str>,
        endpoint: &Arc<Endpoint>,
        weight: u32,
        last_resort: Option<(LastResort, u32)>,
    ) {
        if weight > 0 {
            self.zones.push(zone);
        }
        self.add(endpoint, weight, last_resort);
    }

    /// The set of what was added, of which requests stay in a zone as `rule` says.
    pub(crate) fn build_with_zones(self, balance: Balance, rule: Option<&config::ZoneRouting>) -> PickSet {
        let listed = self.in_service.endpoints.iter().cloned().zip(self.in_service.weights.iter().copied());
        let zones =
            rule.map(|rule| Box::new(ZoneSets::new(rule, balance, self.zones.iter().cloned().zip(listed))));
        PickSet { zones, ..self.build(balance) }
    }

    /// The set of what was added.
    pub(crate) fn build(self, balance: Balance) -> PickSet {
        let (endpoints, balancer) = self.in_service.build(balance);
        let last_resorts = self.last_resorts.into_iter().map(|(kind, one)| {
            let (endpoints, balancer) = one.build(balance);
            LastResorts { kind, endpoints, balancer }
        });
        PickSet { endpoints, balancer, last_resorts: last_resorts.collect(), zones: None }
    }
}
