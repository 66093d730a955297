//! Parts of a cluster's endpoints, and those of them that are in use.

use std::{
    collections::HashSet,
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use arc_swap::ArcSwap;
use outrigger_config::{self as config, Balance};
use outrigger_policy::{Cursor, circuit_breaker::Breaker};
use outrigger_registry::{Instance, InstanceId, subset};
use parking_lot::Mutex;
use tokio::{
    sync::{Notify, watch},
    time::Instant,
};

use crate::upstream::{endpoint::Endpoint, failover_state::FailoverState, pick_set::PickSet};

/// Classes of statuses by their first digit, and all others.
const RESPONSE_CLASSES: [(u16, &str); 5] = [(2, "2xx"), (3, "3xx"), (4, "4xx"), (5, "5xx"), (0, "other")];

/// A part of a cluster's endpoints.
#[derive(Debug)]
pub(crate) struct Subset {
    pub(crate) rule: config::Subset,
    /// Of requests for this subset of their service.
    pub(crate) breaker: Breaker,
    cursor: Cursor,
    set: ArcSwap<PickSet>,
    /// `None`: the sidecar evaluates the filter of the rule, or there is none.
    listed: Option<Listed>,
    /// Of requests for this subset of their service.
    pub(crate) over: FailoverState,
    /// Responses to the app, by the class of their status.
    responses: [AtomicU64; RESPONSE_CLASSES.len()],
}

/// What the registry lists for the filter of a rule.
#[derive(Debug, Default)]
struct Listed {
    /// Before the first answer: of the subset that this one replaces.
    instances: ArcSwap<HashSet<InstanceId>>,
    has_answer: watch::Sender<bool>,
}

impl Subset {
    pub(crate) fn new(rule: config::Subset, balance: Balance) -> Self {
        Self {
            breaker: Breaker::new(Instant::now().into_std()),
            cursor: Cursor::new(fastrand::u64(..)),
            set: ArcSwap::from_pointee(PickSet::empty(balance)),
            listed: asked_filter(&rule).map(|_| Listed::default()),
            over: FailoverState::new(),
            responses: Default::default(),
            rule,
        }
    }

    /// Its name.
    pub(crate) fn name(&self) -> &Arc<str> {
        &self.rule.name
    }

    /// Whether the instance is one of it.
    pub(crate) fn matches(&self, instance: &Instance) -> bool {
        subset::matches(&self.rule, instance)
            && self.listed.as_ref().is_none_or(|listed| listed.instances.load().contains(&instance.id))
    }

    /// The filter that the registry is asked with. `None`: there is none.
    pub(crate) fn asked_filter(&self) -> Option<&str> {
        asked_filter(&self.rule)
    }

    /// Replaces what the registry lists for its filter.
    pub(crate) fn set_listed(&self, instances: &[Instance]) {
        if let Some(listed) = &self.listed {
            listed.instances.store(Arc::new(instances.iter().map(|one| one.id.clone()).collect()));
            listed.has_answer.send_replace(true);
        }
    }

    /// Gives it those of `instances` that are in `before`, until the registry lists anything for its filter.
    pub(crate) fn assume_same(&self, before: &Self, instances: &[Instance]) {
        if let Some(listed) = self.listed.as_ref().filter(|_| self.awaits_list()) {
            let known = instances.iter().filter(|one| before.matches(one)).map(|one| one.id.clone());
            listed.instances.store(Arc::new(known.collect()));
        }
    }

    /// Whether the registry evaluates its filter, and has not listed anything for it yet.
    pub(crate) fn awaits_list(&self) -> bool {
        self.listed.as_ref().is_some_and(|listed| !*listed.has_answer.borrow())
    }

    /// Resolves when the registry has listed something for its filter; at once where it need not. Call it with a time-out.
    pub(crate) async fn wait_until_listed(&self) {
        if let Some(listed) = &self.listed {
            // The sender lives as long as self.
            let _ = listed.has_answer.subscribe().wait_for(|has_answer| *has_answer).await;
        }
    }

    /// Its endpoints now.
    pub(crate) fn set(&self) -> arc_swap::Guard<Arc<PickSet>> {
        self.set.load()
    }

    /// Replaces its endpoints. Returns those of before, which a request must not drop.
    pub(crate) fn replace_set(&self, set: PickSet) -> Arc<PickSet> {
        self.set.swap(Arc::new(set))
    }

    /// The turns of its requests.
    pub(crate) fn cursor(&self) -> &Cursor {
        &self.cursor
    }

    /// See [`PickSet::pick`].
    pub(crate) fn pick(
        &self,
        tried: &[Arc<Endpoint>],
        passed: &[Arc<Endpoint>],
        retryable: bool,
    ) -> Option<Arc<Endpoint>> {
        let set = self.set.load();
        set.pick(&self.cursor, tried, passed, retryable).or_else(|| {
            // All endpoints may have retired since the load; then there is a newer set.
            let newer = self.set.load();
            let is_newer = !Arc::ptr_eq(&set, &newer);
            is_newer.then(|| newer.pick(&self.cursor, tried, passed, retryable)).flatten()
        })
    }

    /// See [`PickSet::pick_other`].
    pub(crate) fn pick_other(
        &self,
        tried: &[Arc<Endpoint>],
        now: &Arc<Endpoint>,
        retryable: bool,
    ) -> Option<Arc<Endpoint>> {
        self.set.load().pick_other(&self.cursor, tried, now, retryable)
    }

    /// Counts a response to the app, of a request that went to this subset.
    pub(crate) fn count_response(&self, status: u16) {
        let class = RESPONSE_CLASSES.iter().position(|(first, _)| *first == status / 100);
        if let Some(count) = self.responses.get(class.unwrap_or(RESPONSE_CLASSES.len() - 1)) {
            count.fetch_add(1, Relaxed);
        }
    }

    /// The responses, by their class.
    pub(crate) fn responses(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let labels = RESPONSE_CLASSES.iter().map(|(_, label)| *label);
        labels.zip(self.responses.iter().map(|count| count.load(Relaxed)))
    }
}

fn asked_filter(rule: &config::Subset) -> Option<&str> {
    rule.filter.as_ref().filter(|filter| !filter.is_evaluated_here()).map(|filter| filter.text())
}

/// The subsets of a cluster that are in use, each rule once: those of its own rules, and those of clusters that fail over to it.
/// The cluster's one writer keeps their endpoints.
#[derive(Debug, Default)]
pub(crate) struct LiveSubsets {
    known: Mutex<Vec<Weak<Subset>>>,
    /// Notified when a subset was added for another cluster, and has no endpoints yet; and when the registry lists others for the
    /// filter of one.
    pub(crate) added: Notify,
}

impl LiveSubsets {
    /// The subset of a rule, for the cluster's own rules: the caller lets the writer give it its endpoints.
    pub(crate) fn get(&self, rule: &config::Subset, balance: Balance) -> Arc<Subset> {
        self.find_or_add(rule, balance).0
    }

    /// The subset of a rule, for another cluster.
    pub(crate) fn join(&self, rule: &config::Subset, balance: Balance) -> Arc<Subset> {
        let (subset, is_new) = self.find_or_add(rule, balance);
        if is_new {
            self.added.notify_one();
        }
        subset
    }

    fn find_or_add(&self, rule: &config::Subset, balance: Balance) -> (Arc<Subset>, bool) {
        let mut known = self.known.lock();
        let same = known.iter().filter_map(Weak::upgrade).find(|subset| subset.rule == *rule);
        if let Some(same) = same {
            return (same, false);
        }
        let new = Arc::new(Subset::new(rule.clone(), balance));
        known.push(Arc::downgrade(&new));
        (new, true)
    }

    /// All of them.
    pub(crate) fn all(&self) -> Vec<Arc<Subset>> {
        let mut known = self.known.lock();
        known.retain(|one| one.strong_count() > 0);
        known.iter().filter_map(Weak::upgrade).collect()
    }
}
