//! What the rules of a service say of one request: what its attempts need of them.

use std::sync::Arc;

use outrigger_http1::Head;

use crate::{
    request::matching::sticky_value,
    upstream::{
        over::LinkedFailover,
        subset::Subset,
        traffic::{Mirror, RouteDestination, Split, Target, Traffic},
    },
};

/// What the rules of a service say of a request.
#[derive(Debug, Default)]
pub(crate) struct AppliedRules {
    /// The part of the service's instances to which it goes. `None`: all.
    pub(crate) subset: Option<Arc<Subset>>,
    /// Where it goes while these instances cannot take it. `None`: nowhere.
    pub(crate) failover: Option<Arc<LinkedFailover>>,
    /// Where a copy of it goes. `None`: there is none.
    pub(crate) mirror: Option<Arc<Mirror>>,
    /// What else the rules say, while no instance of `subset` is usable any more.
    pub(crate) otherwise: Option<Otherwise>,
}

/// The entry of a split for a request, by its value where the split is sticky; see [`Split::choose`].
pub(crate) fn choose_entry<'s>(
    split: &'s Split,
    head: &Head,
    is_usable: impl Fn(&Target) -> bool,
) -> Option<&'s Target> {
    let value = split.sticky.as_ref().and_then(|sticky| sticky_value(sticky, head));
    split.choose(value, is_usable)
}

/// The rules by which a subset was chosen.
#[derive(Debug)]
pub(crate) struct Otherwise {
    pub(crate) traffic: Arc<Traffic>,
    /// The route that took the request, by its place. `None`: the split did.
    pub(crate) route: Option<usize>,
}

impl Otherwise {
    /// Where the rules let a request go, the subset that it was chosen for being empty: to another entry of the split, or where
    /// `on_empty` says. Only within the service: another one would have settings of its own.
    pub(crate) fn choose(&self, head: &Head) -> Option<Target> {
        let route = self.route.and_then(|at| self.traffic.routes.get(at));
        let is_usable = |to: &Target| match to {
            Target::Any => true,
            Target::Subset(subset) => subset.set().has_usable(),
            Target::Service(_) | Target::Exact(_) => false,
        };
        let among = |split| choose_entry(split, head, is_usable).cloned();
        let other = match route.map(|route| &route.to) {
            None | Some(RouteDestination::Own) => among(self.traffic.split.as_ref()?),
            Some(RouteDestination::Split(split)) => among(split),
            Some(RouteDestination::To(_)) => route?.on_empty.clone(),
        };
        other.filter(is_usable)
    }
}
