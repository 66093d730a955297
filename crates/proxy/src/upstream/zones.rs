//! The endpoints of a set by their zones, and the share of each zone in the requests of this sidecar.
//!
//! The shares are worked out on the control thread, when the endpoints, their ejections or the callers change, and are swapped in as a whole:
//! a pick takes the next zone in turn, and then the next endpoint of that zone.

use std::sync::Arc;

use arc_swap::ArcSwapOption;
use outrigger_config::{self as config, Balance, ZoneSource};
use outrigger_policy::{
    Cursor, LoadBalancer,
    zone::{WHOLE, zone_shares},
};
use outrigger_registry::Instance;
use parking_lot::Mutex;

use crate::upstream::endpoint::{Endpoint, is_healthy, pick_among};

/// How many usable instances of the calling service each zone has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct CallerZones(Vec<(Arc<str>, usize)>);

impl CallerZones {
    /// Of the instances of the calling service.
    pub(crate) fn of(instances: &[Instance], from: &[ZoneSource]) -> Self {
        let mut zones: Vec<(Arc<str>, usize)> = Vec::new();
        for instance in instances.iter().filter(|one| one.weight() > 0) {
            let zone = zone_of(instance, from);
            match zones.iter_mut().find(|(known, _)| *known == zone) {
                Some((_, count)) => *count += 1,
                None => zones.push((zone, 1)),
            }
        }
        zones.sort();
        Self(zones)
    }
}

/// The zone of an instance; empty: none is written.
pub(crate) fn zone_of(instance: &Instance, from: &[ZoneSource]) -> Arc<str> {
    let written = |source: &ZoneSource| match source {
        ZoneSource::ServiceMeta(key) => instance.meta.get(key),
        ZoneSource::NodeMeta(key) => instance.facts.node.meta.get(key),
    };
    let found = from.iter().find_map(|source| written(source).filter(|zone| !zone.is_empty()));
    found.map_or("", String::as_str).into()
}

/// The endpoints in service of a set, by zone.
#[derive(Debug)]
pub(crate) struct ZoneSets {
    zones: Box<[ZoneSet]>,
    /// The place of the sidecar's own zone, which may have no endpoint.
    own: usize,
    min_instances: usize,
    cursor: Cursor,
    /// `None`: zones do not count now.
    balancer: ArcSwapOption<LoadBalancer>,
    basis: Mutex<Basis>,
}

#[derive(Debug)]
struct ZoneSet {
    name: Arc<str>,
    endpoints: Box<[Arc<Endpoint>]>,
    balancer: LoadBalancer,
    cursor: Cursor,
}

/// A zone with its endpoints and their weights.
#[derive(Debug, Default)]
struct ListedZone {
    name: Arc<str>,
    endpoints: Vec<Arc<Endpoint>>,
    weights: Vec<u32>,
}

/// What the shares were worked out from, and what they are.
#[derive(Debug, Default, PartialEq, Eq)]
struct Basis {
    service: Vec<usize>,
    callers: Vec<usize>,
    /// Empty: zones do not count.
    shares: Vec<u32>,
}

impl ZoneSets {
    /// `listed`: each endpoint in service with its zone and its weight.
    pub(crate) fn new(
        rule: &config::ZoneRouting,
        balance: Balance,
        listed: impl Iterator<Item = (Arc<str>, (Arc<Endpoint>, u32))>,
    ) -> Self {
        let mut zones = vec![ListedZone { name: rule.own.clone(), ..ListedZone::default() }];
        for (name, (endpoint, weight)) in listed {
            let known = zones.iter().position(|zone| zone.name == name);
            let at = known.unwrap_or_else(|| {
                zones.push(ListedZone { name, ..ListedZone::default() });
                zones.len() - 1
            });
            if let Some(zone) = zones.get_mut(at) {
                zone.endpoints.push(endpoint);
                zone.weights.push(weight);
            }
        }
        let zones = zones.into_iter().map(|ListedZone { name, endpoints, weights }| ZoneSet {
            name,
            endpoints: endpoints.into(),
            balancer: LoadBalancer::new(balance, &weights),
            cursor: Cursor::new(fastrand::u64(..)),
        });
        Self {
            zones: zones.collect(),
            own: 0,
            min_instances: rule.min_instances,
            cursor: Cursor::new(fastrand::u64(..)),
            balancer: ArcSwapOption::empty(),
            basis: Mutex::default(),
        }
    }

    /// A usable endpoint of the zone that is next in turn. `None`: zones do not count, or the zone has none.
    pub(crate) fn pick(&self, is_usable: impl Fn(&Endpoint) -> bool) -> Option<Arc<Endpoint>> {
        let balancer = self.balancer.load();
        let at = balancer.as_ref()?.pick_first(&self.cursor, fastrand::u64(..), |_| true)?;
        let zone = self.zones.get(at)?;
        pick_among(&zone.endpoints, &zone.balancer, &zone.cursor, true, is_usable)
    }

    /// Works the shares out anew. `callers`: `None` where the calling service is not known, and each zone has as many.
    pub(crate) fn update(&self, callers: Option<&CallerZones>) {
        let healthy = |zone: &ZoneSet| zone.endpoints.iter().filter(|one| is_healthy(one, true)).count();
        let mut service: Vec<usize> = self.zones.iter().map(healthy).collect();
        let known = callers.filter(|callers| !callers.0.is_empty());
        let callers = match known {
            // Those of zones without the service come behind.
            Some(callers) => {
                let count =
                    |name: &Arc<str>| callers.0.iter().find(|(zone, _)| zone == name).map_or(0, |one| one.1);
                let elsewhere =
                    callers.0.iter().filter(|(zone, _)| !self.zones.iter().any(|known| known.name == *zone));
                self.zones.iter().map(|zone| count(&zone.name)).chain(elsewhere.map(|one| one.1)).collect()
            }
            None => vec![1; self.zones.len()],
        };
        service.resize(callers.len(), 0);
        let mut basis = self.basis.lock();
        if basis.service == service && basis.callers == callers {
            return;
        }
        let counts = service.iter().sum::<usize>() >= self.min_instances;
        let mut shares = if counts { zone_shares(&service, &callers, self.own) } else { Vec::new() };
        shares.truncate(self.zones.len());
        let balancer = counts.then(|| Arc::new(LoadBalancer::new(Balance::Weighted, &shares)));
        self.balancer.store(balancer);
        *basis = Basis { service, callers, shares };
    }

    /// Each zone with its share, while zones count.
    pub(crate) fn shares(&self) -> Vec<(Arc<str>, f64)> {
        let basis = self.basis.lock();
        let parts = self.zones.iter().zip(&basis.shares);
        parts.map(|(zone, share)| (zone.name.clone(), f64::from(*share) / f64::from(WHOLE))).collect()
    }
}

#[cfg(test)]
mod tests;
