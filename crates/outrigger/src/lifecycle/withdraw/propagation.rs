//! Whether callers have heard that the app is leaving: measured with a watch of our own on our own
//! service. It is a blocking query like theirs, through the same loop as theirs, so what it has seen
//! they have seen, give or take `drain.margin`.
//!
//! The watch begins when leaving begins: before, nobody needs its table. Where it shows nothing (the token
//! may not read the service, another datacenter is asked by default, two nodes have the same id), nothing
//! is measured and `drain.blind` holds. It tells the registry nothing: [`super::keeper`] does.

use std::{sync::Arc, time::Duration};

use outrigger_config::{Drain, Propagation};
use outrigger_discovery::{Discovery, Follower, WatchReason};
use outrigger_registry::{Query, Registration};
use tokio::time::{Instant, timeout_at};
use tracing::{info, warn};

use super::super::self_lookup::{CatalogPresence, SelfLookup};
use super::plan::StepResult;

/// Longest wait for the watch to show the app at all.
const FIRST_LISTING_TIMEOUT: Duration = Duration::from_secs(1);

/// What callers hear, and how long that may take.
#[derive(Debug)]
pub(crate) struct PropagationMonitor {
    settings: Drain,
    /// Absent: nothing can be measured.
    discovery: Option<Arc<Discovery>>,
    own_watch: Option<OwnServiceWatch>,
    /// When the registry was first told.
    first_report: Instant,
}

impl PropagationMonitor {
    /// Callers that are measured with `discovery`, unless the settings say how long they take.
    pub(crate) fn new(settings: Drain, discovery: Arc<Discovery>) -> Self {
        Self { settings, discovery: Some(discovery), own_watch: None, first_report: Instant::now() }
    }

    /// Goes on by other settings: for a leave that has not begun.
    pub(crate) fn apply_settings(&mut self, settings: Drain) {
        self.settings = settings;
    }

    /// Callers that have heard after `wait`.
    #[cfg(test)]
    pub(crate) fn fixed(wait: Duration) -> Self {
        let settings = Drain { propagation: Propagation::Fixed(wait), ..Drain::default() };
        Self { settings, discovery: None, own_watch: None, first_report: Instant::now() }
    }

    /// Callers that nothing is known of for `wait`.
    #[cfg(test)]
    pub(crate) fn unobserved_for(wait: Duration) -> Self {
        let settings = Drain { unobserved_wait: wait, ..Drain::default() };
        Self { settings, discovery: None, own_watch: None, first_report: Instant::now() }
    }

    /// Begins to watch; never waits.
    pub(crate) fn start_watch(&mut self, registration: &Registration) {
        let Some(discovery) = self.discovery.as_ref().filter(|_| self.is_measured()) else { return };
        let query = Query { service: registration.name.to_ascii_lowercase().into(), datacenter: None };
        match discovery.follow(query, WatchReason::Declared) {
            Ok(follower) => {
                self.own_watch = Some(OwnServiceWatch { follower, sight: SelfLookup::new(registration) });
            }
            Err(refused) => warn!(%refused, "cannot watch when callers hear that the app leaves"),
        }
    }

    /// Whether the settings leave it to the watch how long callers take.
    pub(crate) fn is_measured(&self) -> bool {
        self.settings.propagation == Propagation::Measured
    }

    /// The registry is being told from now on.
    pub(crate) fn start_clock(&mut self) {
        self.first_report = Instant::now();
    }

    /// Until callers see the app critical: half of `drain.cap` at most, for there is more to hear.
    pub(crate) async fn wait_until_critical(&mut self) -> StepResult {
        let until = self.first_report + self.settings.max_propagation / 2;
        match &mut self.own_watch {
            Some(watch) => {
                watch
                    .wait_until(until, |presence| {
                        matches!(presence, CatalogPresence::NotServing | CatalogPresence::Removed)
                    })
                    .await
            }
            None => StepResult::Failed,
        }
    }

    /// Until they see it no more: up to `drain.cap`.
    pub(crate) async fn wait_until_removed(&mut self) -> StepResult {
        let until = self.first_report + self.settings.max_propagation;
        let Some(watch) = &mut self.own_watch else { return StepResult::Failed };
        let result = watch.wait_until(until, |presence| presence == CatalogPresence::Removed).await;
        let after = self.first_report.elapsed();
        match result {
            StepResult::Done => info!(?after, "callers have heard that the app left"),
            StepResult::TimedOut => warn!(?after, "callers may not all have heard yet that the app left"),
            StepResult::Failed | StepResult::Skipped => {
                warn!("the registry does not show when callers hear of it")
            }
        }
        result
    }

    /// What is left of `drain.margin` within `drain.cap`.
    pub(crate) fn remaining_margin(&self) -> Duration {
        let left =
            (self.first_report + self.settings.max_propagation).saturating_duration_since(Instant::now());
        self.settings.margin.min(left)
    }

    /// The wait where nothing was measured: what is left of `drain.blind`, for trying to tell a registry
    /// that does not answer took time, too.
    pub(crate) fn unobserved_wait(&self) -> Duration {
        match self.settings.propagation {
            Propagation::Fixed(wait) => wait,
            Propagation::Measured => {
                self.settings.unobserved_wait.saturating_sub(self.first_report.elapsed())
            }
        }
    }
}

/// The watch on our own service.
#[derive(Debug)]
struct OwnServiceWatch {
    follower: Follower,
    sight: SelfLookup,
}

impl OwnServiceWatch {
    /// Waits until `is` holds of what is seen. `Failed`: the app was never seen at all.
    async fn wait_until(&mut self, until: Instant, is: impl Fn(CatalogPresence) -> bool) -> StepResult {
        let sight = Instant::now() + FIRST_LISTING_TIMEOUT;
        loop {
            let snapshot = self.follower.snapshot();
            let presence = self.sight.find(&snapshot.instances);
            if is(presence) {
                return StepResult::Done;
            }
            let (never, limit) = (
                presence == CatalogPresence::NeverListed,
                if presence == CatalogPresence::NeverListed { sight.min(until) } else { until },
            );
            // The version of what was just looked at, or newer: nothing is missed in between.
            let changed = async { while self.follower.changed().await.version <= snapshot.version {} };
            if timeout_at(limit, changed).await.is_err() {
                return if never { StepResult::Failed } else { StepResult::TimedOut };
            }
        }
    }
}

#[cfg(test)]
mod tests;
