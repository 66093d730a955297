//! The traffic rules of a cluster as requests use them: subsets with their endpoints, the split, the routes.
//!
//! Built from the settings on the control thread. A subset that stays keeps its endpoints and its turns, and so does the split.
//! A request holds the subset that was chosen for it, and picks from the endpoints that the subset has at that moment.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use outrigger_config::{self as config, Balance, OnEmpty, RouteTarget, SplitTarget, stable_hash};
use outrigger_http1::Name;
use outrigger_policy::{Cursor, LoadBalancer};
use tokio::sync::Semaphore;

use crate::upstream::subset::{LiveSubsets, Subset};

/// The traffic rules of a cluster.
#[derive(Debug)]
pub(crate) struct Traffic {
    pub(crate) rules: config::TrafficRules,
    /// In the order of the settings.
    pub(crate) subsets: Box<[Arc<Subset>]>,
    /// For requests that no route takes.
    pub(crate) split: Option<Split>,
    pub(crate) routes: Box<[Route]>,
    pub(crate) mirror: Option<Arc<Mirror>>,
}

impl Traffic {
    /// The rules as requests use them, with subsets of `live`. `before`: those that they replace. `None`: there are none.
    pub(crate) fn new(
        rules: &config::TrafficRules,
        balance: Balance,
        live: &LiveSubsets,
        before: Option<&Arc<Self>>,
    ) -> Option<Arc<Self>> {
        if *rules == config::TrafficRules::default() {
            return None;
        }
        if let Some(same) = before.filter(|before| before.rules == *rules) {
            return Some(same.clone());
        }
        let subsets: Box<[_]> = rules.subsets.iter().map(|rule| live.get(rule, balance)).collect();
        let turns = before.and_then(|before| before.split.as_ref()).map(|split| split.cursor.clone());
        Some(Arc::new(Self {
            split: rules.split.as_ref().map(|split| Split::new(split, &subsets, turns)),
            routes: rules.routes.iter().map(|route| Route::new(route, &subsets)).collect(),
            mirror: rules.mirror.as_ref().map(|rule| {
                let known = before.and_then(|before| before.mirror.as_ref());
                Arc::new(Mirror::new(rule, &subsets, known))
            }),
            subsets,
            rules: rules.clone(),
        }))
    }
}

/// Where a request goes.
#[derive(Debug, Clone)]
pub(crate) enum Target {
    /// To any instance of the cluster.
    Any,
    Subset(Arc<Subset>),
    /// To another service, by its name.
    Service(Arc<str>),
    /// To what a chain of the registry names.
    Exact(Arc<config::ExactTarget>),
}

impl Target {
    fn new(to: &SplitTarget, subsets: &[Arc<Subset>]) -> Self {
        match to {
            SplitTarget::Subset(name) => Self::Subset(find_subset(subsets, name)),
            SplitTarget::Service(name) => Self::Service(name.clone()),
            SplitTarget::Exact(target) => Self::Exact(target.clone()),
        }
    }
}

/// The subset of that name. The settings are checked, so it is there; else it would have no instance.
fn find_subset(subsets: &[Arc<Subset>], name: &Arc<str>) -> Arc<Subset> {
    let known = subsets.iter().find(|subset| subset.name() == name).cloned();
    known.unwrap_or_else(|| Arc::new(Subset::new(config::Subset::of_all(name.clone()), Balance::RoundRobin)))
}

/// Requests in shares.
#[derive(Debug)]
pub(crate) struct Split {
    entries: Box<[Target]>,
    weights: Box<[u32]>,
    /// Of each entry, by its name.
    seeds: Box<[u64]>,
    balancer: LoadBalancer,
    cursor: Arc<Cursor>,
    pub(crate) sticky: Option<config::Sticky>,
}

impl Split {
    fn new(split: &config::Split, subsets: &[Arc<Subset>], turns: Option<Arc<Cursor>>) -> Self {
        let weights: Box<[_]> = split.entries.iter().map(|entry| entry.weight).collect();
        Self {
            entries: split.entries.iter().map(|entry| Target::new(&entry.to, subsets)).collect(),
            balancer: LoadBalancer::new(Balance::Weighted, &weights),
            seeds: (0..split.entries.len()).map(|at| seed(&split.entries, at)).collect(),
            weights,
            cursor: turns.unwrap_or_else(|| Arc::new(Cursor::new(fastrand::u64(..)))),
            sticky: split.sticky.clone(),
        }
    }

    /// The entry for a request: the one of its value, or the next in turn without one. The share of an entry that is not usable
    /// goes to the others in proportion. Where none is usable, the entry that the request would get with all of them usable.
    pub(crate) fn choose(
        &self,
        value: Option<&[u8]>,
        is_usable: impl Fn(&Target) -> bool,
    ) -> Option<&Target> {
        let usable = |at: usize| self.entries.get(at).is_some_and(&is_usable);
        let at = match value {
            Some(value) => self.entry_of(value, usable),
            None => {
                let random = fastrand::u64(..);
                // Asked beforehand: a search without a result takes a turn.
                let is_any = (0..self.entries.len()).any(|at| self.weights.get(at) > Some(&0) && usable(at));
                self.balancer.pick_first(&self.cursor, random, |at| !is_any || usable(at))
            }
        }?;
        self.entries.get(at)
    }

    /// The entry of a value, by its place; where no entry is usable, the one of all entries.
    ///
    /// Weighted rendezvous hashing: each entry draws a number from the value and its own name, and the smallest one in proportion to
    /// the weight wins. When one weight changes, values move only to its entry or only from it; the order of the entries says nothing.
    pub(crate) fn entry_of(&self, value: &[u8], usable: impl Fn(usize) -> bool) -> Option<usize> {
        let hash = stable_hash(value);
        let drawn = |(at, (weight, seed)): (usize, (&u32, &u64))| {
            // In (0, 1], of the 53 bits that a float holds.
            let number =
                ((stable_hash(&(hash ^ seed).to_le_bytes()) >> 11) + 1) as f64 / (1_u64 << 53) as f64;
            (*weight > 0).then(|| (at, -number.ln() / f64::from(*weight)))
        };
        let drawn = || self.weights.iter().zip(&self.seeds).enumerate().filter_map(drawn);
        let first = drawn().filter(|(at, _)| usable(*at)).min_by(|a, b| a.1.total_cmp(&b.1));
        first.or_else(|| drawn().min_by(|a, b| a.1.total_cmp(&b.1))).map(|(at, _)| at)
    }

    /// Each entry with its weight, in hundredths.
    pub(crate) fn entries(&self) -> impl Iterator<Item = (&Target, u32)> {
        self.entries.iter().zip(self.weights.iter().copied())
    }
}

/// What tells an entry of a sticky split from the others, whatever their order.
fn seed(entries: &[config::SplitEntry], at: usize) -> u64 {
    let to = &entries[at].to;
    let earlier = entries[..at].iter().filter(|one| one.to == *to).count();
    let text = match to {
        SplitTarget::Subset(name) => format!("subset {name} {earlier}"),
        SplitTarget::Service(name) => format!("service {name} {earlier}"),
        // A chain's splits are not sticky.
        SplitTarget::Exact(_) => format!("chain {at}"),
    };
    stable_hash(text.as_bytes())
}

/// Where the requests of a route go.
#[derive(Debug)]
pub(crate) enum RouteDestination {
    /// By the split of the upstream.
    Own,
    To(Target),
    Split(Split),
}

/// The bit of a name's length: 1 to 62, and 63 for all that are longer.
#[inline]
pub(crate) fn length_bit(len: usize) -> u64 {
    1 << len.clamp(1, 63)
}

/// A route.
#[derive(Debug)]
pub(crate) struct Route {
    pub(crate) rule: config::Route,
    pub(crate) to: RouteDestination,
    /// Where a request goes while the subset of `to` has no usable instance. `None`: nowhere.
    pub(crate) on_empty: Option<Target>,
    /// What the codec calls the names of the headers that are matched, in their order.
    pub(crate) header_names: Box<[Name]>,
    /// A bit for the length of each name that has to be there and that the codec does not know ([`length_bit`]).
    pub(crate) needed_lengths: u64,
    /// Lines that the instance gets beside those of the app.
    pub(crate) add: Box<[u8]>,
    /// Names of fields that the instance does not get from the app, in lower case.
    pub(crate) remove: Arc<[Box<[u8]>]>,
}

impl Route {
    fn new(rule: &config::Route, subsets: &[Arc<Subset>]) -> Self {
        let edits = &rule.headers;
        let line = |(name, value): &(String, config::Secret)| format!("{name}: {}\r\n", value.reveal());
        let names = edits.remove.iter().chain(edits.set.iter().map(|(name, _)| name));
        let headers = rule.matcher.headers.iter();
        let known = |name: &str| Name::recognize(name.as_bytes());
        let needed = headers.clone().filter(|(name, wanted)| !wanted.negated && known(name) == Name::Other);
        Self {
            header_names: headers.map(|(name, _)| known(name)).collect(),
            needed_lengths: needed.fold(0, |all, (name, _)| all | length_bit(name.len())),
            to: match &rule.to {
                RouteTarget::Own => RouteDestination::Own,
                RouteTarget::Subset(name) => RouteDestination::To(Target::Subset(find_subset(subsets, name))),
                RouteTarget::Service(name) => RouteDestination::To(Target::Service(name.clone())),
                RouteTarget::Exact(target) => RouteDestination::To(Target::Exact(target.clone())),
                RouteTarget::Split(split) => RouteDestination::Split(Split::new(split, subsets, None)),
            },
            on_empty: match &rule.on_empty {
                OnEmpty::Fail => None,
                OnEmpty::Any => Some(Target::Any),
                OnEmpty::Subset(name) => Some(Target::Subset(find_subset(subsets, name))),
            },
            add: edits.set.iter().chain(&edits.add).map(line).collect::<String>().into_bytes().into(),
            remove: names.map(|name| name.as_bytes().into()).collect(),
            rule: rule.clone(),
        }
    }
}

/// How a copy of a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MirrorResult {
    Success,
    Redirect,
    ClientError,
    ServerError,
    OtherStatus,
    /// No connection, or no response.
    Failed,
    /// Its time is over.
    Late,
    NoInstance,
    /// Not sent: too many were under way.
    Limit,
    /// Not sent: the body was not kept.
    Body,
}

impl MirrorResult {
    /// Labels, in the order of the variants.
    const LABELS: [&str; 10] =
        ["2xx", "3xx", "4xx", "5xx", "other", "failed", "timeout", "no_instance", "limit", "body"];

    pub(crate) fn of_status(status: u16) -> Self {
        match status / 100 {
            2 => Self::Success,
            3 => Self::Redirect,
            4 => Self::ClientError,
            5 => Self::ServerError,
            _ => Self::OtherStatus,
        }
    }
}

/// Where copies of requests go.
#[derive(Debug)]
pub(crate) struct Mirror {
    pub(crate) rule: config::Mirror,
    pub(crate) to: Target,
    /// One for each copy that may be under way.
    pub(crate) in_flight: Arc<Semaphore>,
    results: Arc<[AtomicU64; MirrorResult::LABELS.len()]>,
}

impl Mirror {
    /// `before`: the one that it replaces, of which the counts go on.
    fn new(rule: &config::Mirror, subsets: &[Arc<Subset>], before: Option<&Arc<Self>>) -> Self {
        Self {
            to: Target::new(&rule.to, subsets),
            in_flight: Arc::new(Semaphore::new(rule.max_in_flight)),
            results: before.map(|before| before.results.clone()).unwrap_or_default(),
            rule: rule.clone(),
        }
    }

    /// Whether a request with this method is one of those that are copied.
    pub(crate) fn takes(&self, method: &[u8]) -> bool {
        self.takes_method(method) && fastrand::f64() < self.rule.share
    }

    /// Whether requests with this method are copied, as far as `share` lets them.
    pub(crate) fn takes_method(&self, method: &[u8]) -> bool {
        self.rule.methods.iter().any(|one| one.as_bytes() == method)
    }

    /// Counts a copy.
    pub(crate) fn count(&self, result: MirrorResult) {
        if let Some(count) = self.results.get(result as usize) {
            count.fetch_add(1, Relaxed);
        }
    }

    /// The copies, by how they ended.
    pub(crate) fn results(&self) -> impl Iterator<Item = (&'static str, u64)> {
        MirrorResult::LABELS.into_iter().zip(self.results.iter().map(|count| count.load(Relaxed)))
    }
}

#[cfg(test)]
mod tests;
