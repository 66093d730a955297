//! Whether callers have seen that the app is withdrawn, measured with a watch on the app's own service. The watch is
//! the same blocking query, through the same loop, as that of the callers, so callers have seen what it has seen,
//! give or take `drain.margin`.
//!
//! The watch begins with the drain, because nothing needs it before. Nothing is measured where the watch does not
//! show the app: the token may not read the service, another datacenter is queried by default, or two nodes have
//! the same id. Then `drain.unobserved_wait` holds. This module sends nothing to the registry: the registrant does.

use std::{sync::Arc, time::Duration};

use outrigger_config::{Drain, Propagation};
use outrigger_discovery::{Discovery, Follower, WatchReason};
use outrigger_registry::{CatalogPresence, Query, Registration, SelfLookup};
use tokio::time::{Instant, timeout_at};
use tracing::{info, warn};

use super::plan::StepResult;

/// Longest wait for the watch to show the app at all.
const FIRST_LISTING_TIMEOUT: Duration = Duration::from_secs(1);

/// Waits until callers have seen a step.
#[derive(Debug)]
pub struct PropagationMonitor {
    settings: Drain,
    /// Absent: nothing can be measured.
    discovery: Option<Arc<Discovery>>,
    own_watch: Option<OwnServiceWatch>,
    /// When the first call of the withdrawal began.
    first_report: Instant,
}

impl PropagationMonitor {
    /// Measures with `discovery`, unless the settings give a fixed time. `None`: nothing can be measured.
    pub fn new(settings: Drain, discovery: Option<Arc<Discovery>>) -> Self {
        Self { settings, discovery, own_watch: None, first_report: Instant::now() }
    }

    /// The same for another service, which has its own watch.
    pub(super) fn for_another(&self) -> Self {
        Self::new(self.settings, self.discovery.clone())
    }

    /// Replaces the settings before a drain has begun.
    pub(crate) fn apply_settings(&mut self, settings: Drain) {
        self.settings = settings;
    }

    /// Starts the watch; returns at once.
    pub(super) fn start_watch(&mut self, registration: &Registration) {
        let Some(discovery) = self.discovery.as_ref().filter(|_| self.is_measured()) else { return };
        let query = Query::new(registration.name.to_ascii_lowercase(), None);
        match discovery.follow(query, WatchReason::Declared) {
            Ok(follower) => {
                self.own_watch = Some(OwnServiceWatch { follower, lookup: SelfLookup::new(registration) });
            }
            Err(refused) => warn!(%refused, "cannot watch when callers see that the app leaves"),
        }
    }

    /// Whether the settings ask for a measured wait.
    pub(super) fn is_measured(&self) -> bool {
        self.settings.propagation == Propagation::Measured
    }

    /// The first call of the withdrawal begins now.
    pub(super) fn start_clock(&mut self) {
        self.first_report = Instant::now();
    }

    /// Waits until callers see the app critical: half of `drain.max_propagation` at most, because the wait for the
    /// deregistration follows.
    pub(super) async fn wait_until_critical(&mut self) -> StepResult {
        let until = self.first_report + self.settings.max_propagation / 2;
        let Some(watch) = &mut self.own_watch else { return StepResult::Failed };
        let is = |presence| matches!(presence, CatalogPresence::NotServing | CatalogPresence::Removed);
        watch.wait_until(until, is).await
    }

    /// Waits until callers see the app no more: up to `drain.max_propagation`.
    pub(super) async fn wait_until_removed(&mut self) -> StepResult {
        let until = self.first_report + self.settings.max_propagation;
        let Some(watch) = &mut self.own_watch else { return StepResult::Failed };
        let result = watch.wait_until(until, |presence| presence == CatalogPresence::Removed).await;
        let after = self.first_report.elapsed();
        match result {
            StepResult::Done => info!(?after, "callers have seen that the app left"),
            StepResult::TimedOut => warn!(?after, "some callers may not have seen yet that the app left"),
            StepResult::Failed | StepResult::Skipped => {
                warn!("the registry does not show the app, so the wait is not measured")
            }
        }
        result
    }

    /// `drain.margin`, as far as `drain.max_propagation` leaves time for it.
    pub(super) fn remaining_margin(&self) -> Duration {
        let left =
            (self.first_report + self.settings.max_propagation).saturating_duration_since(Instant::now());
        self.settings.margin.min(left)
    }

    /// The wait where nothing was measured: the rest of `drain.unobserved_wait`, because the calls to a registry
    /// that does not answer have taken time, too.
    pub(super) fn unobserved_wait(&self) -> Duration {
        match self.settings.propagation {
            Propagation::Fixed(wait) => wait,
            Propagation::Measured => {
                self.settings.unobserved_wait.saturating_sub(self.first_report.elapsed())
            }
        }
    }
}

/// The watch on the app's own service.
#[derive(Debug)]
struct OwnServiceWatch {
    follower: Follower,
    lookup: SelfLookup,
}

impl OwnServiceWatch {
    /// Waits until `is` holds. `Failed`: the app was never listed.
    async fn wait_until(&mut self, until: Instant, is: impl Fn(CatalogPresence) -> bool) -> StepResult {
        let first_listing = Instant::now() + FIRST_LISTING_TIMEOUT;
        loop {
            let snapshot = self.follower.snapshot();
            let presence = self.lookup.find(&snapshot.instances);
            if is(presence) {
                return StepResult::Done;
            }
            let never = presence == CatalogPresence::NeverListed;
            let limit = if never { first_listing.min(until) } else { until };
            // A change after `snapshot` is not missed: the versions are compared.
            let changed = async { while self.follower.changed().await.version <= snapshot.version {} };
            if timeout_at(limit, changed).await.is_err() {
                return if never { StepResult::Failed } else { StepResult::TimedOut };
            }
        }
    }
}

#[cfg(test)]
mod tests;
