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

use super::{
    sight::{Seen, Sight},
    step::End,
};

/// Longest wait for the watch to show the app at all.
const SIGHT: Duration = Duration::from_secs(1);

/// What callers hear, and how long that may take.
#[derive(Debug)]
pub(crate) struct Callers {
    settings: Drain,
    /// Absent: nothing can be measured.
    discovery: Option<Arc<Discovery>>,
    watch: Option<Watch>,
    /// When the registry was first told.
    told: Instant,
}

impl Callers {
    /// Callers that are measured with `discovery`, unless the settings say how long they take.
    pub(crate) fn new(settings: Drain, discovery: Arc<Discovery>) -> Self {
        Self { settings, discovery: Some(discovery), watch: None, told: Instant::now() }
    }

    /// Goes on by other settings: for a leave that has not begun.
    pub(crate) fn adopt(&mut self, settings: Drain) {
        self.settings = settings;
    }

    /// Callers that have heard after `wait`.
    #[cfg(test)]
    pub(crate) fn fixed(wait: Duration) -> Self {
        let settings = Drain { propagation: Propagation::Fixed(wait), ..Drain::default() };
        Self { settings, discovery: None, watch: None, told: Instant::now() }
    }

    /// Callers that nothing is known of for `wait`.
    #[cfg(test)]
    pub(crate) fn blind_for(wait: Duration) -> Self {
        let settings = Drain { unobserved_wait: wait, ..Drain::default() };
        Self { settings, discovery: None, watch: None, told: Instant::now() }
    }

    /// Begins to watch; never waits.
    pub(crate) fn begin(&mut self, us: &Registration) {
        let Some(discovery) = self.discovery.as_ref().filter(|_| self.are_measured()) else { return };
        let query = Query { service: us.name.to_ascii_lowercase().into(), datacenter: None };
        match discovery.follow(query, WatchReason::Declared) {
            Ok(follower) => {
                self.watch = Some(Watch { follower, sight: Sight::of(us) });
            }
            Err(refused) => warn!(%refused, "cannot watch when callers hear that the app leaves"),
        }
    }

    /// Whether the settings leave it to the watch how long callers take.
    pub(crate) fn are_measured(&self) -> bool {
        self.settings.propagation == Propagation::Measured
    }

    /// The registry is being told from now on.
    pub(crate) fn told(&mut self) {
        self.told = Instant::now();
    }

    /// Until callers see the app critical: half of `drain.cap` at most, for there is more to hear.
    pub(crate) async fn hear_critical(&mut self) -> End {
        let until = self.told + self.settings.max_propagation / 2;
        match &mut self.watch {
            Some(watch) => watch.until(until, |seen| matches!(seen, Seen::Out | Seen::Gone)).await,
            None => End::Failed,
        }
    }

    /// Until they see it no more: up to `drain.cap`.
    pub(crate) async fn hear_gone(&mut self) -> End {
        let until = self.told + self.settings.max_propagation;
        let Some(watch) = &mut self.watch else { return End::Failed };
        let end = watch.until(until, |seen| seen == Seen::Gone).await;
        let after = self.told.elapsed();
        match end {
            End::Done => info!(?after, "callers have heard that the app left"),
            End::OutOfTime => warn!(?after, "callers may not all have heard yet that the app left"),
            End::Failed | End::Hurried => warn!("the registry does not show when callers hear of it"),
        }
        end
    }

    /// What is left of `drain.margin` within `drain.cap`.
    pub(crate) fn margin(&self) -> Duration {
        let left = (self.told + self.settings.max_propagation).saturating_duration_since(Instant::now());
        self.settings.margin.min(left)
    }

    /// The wait where nothing was measured: what is left of `drain.blind`, for trying to tell a registry
    /// that does not answer took time, too.
    pub(crate) fn blind(&self) -> Duration {
        match self.settings.propagation {
            Propagation::Fixed(wait) => wait,
            Propagation::Measured => self.settings.unobserved_wait.saturating_sub(self.told.elapsed()),
        }
    }
}

/// The watch on our own service.
#[derive(Debug)]
struct Watch {
    follower: Follower,
    sight: Sight,
}

impl Watch {
    /// Waits until `is` holds of what is seen. `Failed`: the app was never seen at all.
    async fn until(&mut self, until: Instant, is: impl Fn(Seen) -> bool) -> End {
        let sight = Instant::now() + SIGHT;
        loop {
            let snapshot = self.follower.snapshot();
            let seen = self.sight.look(&snapshot.instances);
            if is(seen) {
                return End::Done;
            }
            let (never, limit) =
                (seen == Seen::Never, if seen == Seen::Never { sight.min(until) } else { until });
            // The version of what was just looked at, or newer: nothing is missed in between.
            let changed = async { while self.follower.changed().await.version <= snapshot.version {} };
            if timeout_at(limit, changed).await.is_err() {
                return if never { End::Failed } else { End::OutOfTime };
            }
        }
    }
}

#[cfg(test)]
#[path = "callers_tests.rs"]
mod tests;
