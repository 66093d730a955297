//! The phases of a drain, and the end of the traffic. The order, so that callers see no failed request:
//!
//! 1. `/readyz` fails;
//! 2. the app is reported critical; once callers have seen it ([`super::withdraw`]) the app is deregistered;
//! 3. requests are routed until callers have seen the deregistration, too;
//! 4. the app may be stopped. After `POST /drain` the process stays here and routes until a signal comes. An app
//!    that the sidecar started (`run -- app`) gets its signal now; with `drain.await_app` the sidecar waits for the
//!    end of an app that it did not start. Outbound stays open until the app has ended;
//! 5. listeners close;
//! 6. requests in flight end, or are aborted after `drain.timeout`.
//!
//! [`super::withdraw`] runs steps 2 to 4, [`stop_traffic`] 5 and 6. Each step is bounded:
//!
//! | step | usually | without a leader | at most |
//! |---|---|---|---|
//! | wait for a registration in flight, look for one of an earlier run | ms | 7 s | 11 s |
//! | report critical (with a new token, or at an agent that has lost the app: register before) | ms | 3 s, given up | 9 s |
//! | wait until callers see it | ms, and 0.5 s | none, or half of `drain.max_propagation` where the report was taken | half of `drain.max_propagation`, and 0.5 s |
//! | deregister the app | ms | 3 s, given up | 8 s per try, 3 tries |
//! | all of step 2 | ms | 6 s, 14 s while registering | 20 s |
//! | step 3 | ms and `drain.margin` | the rest of `drain.unobserved_wait`: 0 | `drain.max_propagation` or `drain.unobserved_wait` since the first call |
//! | step 6 | as long as requests take | the same | `drain.timeout` |
//!
//! Giving up is safe: without a leader an agent stalls a call for 7 s and more, but it acts on the call when the
//! call begins, and updates the catalog once there is a leader (seen on Consul 1.8.7: a killed quorum that came
//! back did not list the app any more). Where even that fails, the check expires, turns critical, and the app is
//! removed after `deregister_after`.

use std::{future::Future, time::Duration};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::info;

/// How far the drain has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum DrainPhase {
    /// No drain has begun.
    Serving,
    /// The app is being deregistered.
    Leaving,
    /// The wait until callers have seen the deregistration.
    Propagating,
    /// The app may be stopped.
    Safe,
    /// Listeners are closed; requests in flight are ending.
    Closing,
    /// The drain is complete.
    Gone,
}

impl DrainPhase {
    /// The name on pages and in logs.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Serving => "serving",
            Self::Leaving => "leaving",
            Self::Propagating => "propagating",
            Self::Safe => "safe",
            Self::Closing => "closing",
            Self::Gone => "gone",
        }
    }

    /// Whether the app may be stopped: callers send it no more requests.
    pub(crate) fn is_safe_to_stop(self) -> bool {
        self >= Self::Safe
    }
}

/// The traffic that is served during a drain.
pub(crate) trait ServedTraffic {
    /// Accepts no more connections.
    fn close_listeners(&self);

    /// Waits `grace` at most for the requests in flight, then aborts the rest. Returns how many were aborted.
    fn drain_requests(&self, grace: Duration) -> impl Future<Output = usize> + Send;
}

/// The one drain of a process. It may be requested any number of times, and runs once.
#[derive(Debug)]
pub(super) struct DrainControl {
    requested: CancellationToken,
    skip_waits: CancellationToken,
    phase: watch::Sender<DrainPhase>,
}

impl DrainControl {
    pub(super) fn new() -> Self {
        Self {
            requested: CancellationToken::new(),
            skip_waits: CancellationToken::new(),
            phase: watch::Sender::new(DrainPhase::Serving),
        }
    }

    /// Requests the drain.
    pub(super) fn request(&self) {
        self.requested.cancel();
    }

    /// Whether the drain was requested.
    pub(super) fn is_requested(&self) -> bool {
        self.requested.is_cancelled()
    }

    /// Resolves when the drain is requested.
    pub(super) async fn wait_requested(&self) {
        self.requested.cancelled().await;
    }

    pub(super) fn phase(&self) -> DrainPhase {
        *self.phase.borrow()
    }

    /// Skips the waits for callers: the app has ended, or a second signal came.
    pub(super) fn skip_waits(&self) {
        self.skip_waits.cancel();
    }

    /// Cancelled by [`DrainControl::skip_waits`].
    pub(super) fn skip_waits_token(&self) -> &CancellationToken {
        &self.skip_waits
    }

    /// Resolves once it is safe to stop.
    pub(super) async fn wait_safe(&self) {
        // Never an error: `self` holds the sender.
        let _ = self.phase.subscribe().wait_for(|phase| phase.is_safe_to_stop()).await;
    }

    pub(super) fn set_phase(&self, phase: DrainPhase) {
        let changed = self.phase.send_if_modified(|now| std::mem::replace(now, phase) != phase);
        if changed {
            info!(phase = phase.label(), "draining");
        }
    }
}

/// Steps 5 and 6. Returns how many requests were aborted.
pub(super) async fn stop_traffic(
    drain: &DrainControl,
    traffic: &impl ServedTraffic,
    grace: Duration,
) -> usize {
    drain.set_phase(DrainPhase::Closing);
    traffic.close_listeners();
    traffic.drain_requests(grace).await
}
