//! Leaving, in an order that no caller notices:
//!
//! 1. readiness fails;
//! 2. the registry is told that the app is critical, and when callers have heard that ([`super::callers`])
//!    the app is deregistered;
//! 3. requests are routed on until callers have heard that too;
//! 4. now it is safe to stop: a drain that was asked for by `POST /drain` rests here, and goes on
//!    routing, until a signal comes;
//!    an app of our own (`run -- app`) gets its signal here, and somebody else's is awaited
//!    (`drain.await_app`), while outbound stays open until it has ended;
//! 5. listeners close;
//! 6. requests in flight end, or run out of `drain.timeout`.
//!
//! Steps 2–4 are [`super::leave`], 5–6 are [`finish`]. Each is bounded:
//!
//! | step | usually | without a leader | at most |
//! |---|---|---|---|
//! | a registration under way is waited for, one of an earlier run looked for | ms | 7 s | 11 s |
//! | critical is reported (with a new token, or to an agent that has lost the app: registered before) | ms | 3 s, given up | 9 s |
//! | callers hear it | ms, and 0.5 s | not waited for, or half of `drain.cap` where the report was taken | half of `drain.cap`, and 0.5 s |
//! | the app is deregistered | ms | 3 s, given up | 8 s per try, 3 tries |
//! | all of step 2 | ms | 6 s, 14 s while registering | 20 s |
//! | step 3 | ms and `drain.margin` | nothing is left of `drain.blind` | `drain.cap` or `drain.blind` since the first call |
//! | step 6 | as long as requests take | the same | `drain.timeout` |
//!
//! Giving up is sound: without a leader an agent stalls a call for 7 s and more, but has acted on it
//! when the call began, and tells the catalog once there is a leader (seen on Consul 1.8.7: a killed
//! quorum that came back listed the app no more). Where even that fails, the check is no longer
//! renewed, turns critical and is removed after `deregister_after`.

use std::{future::Future, time::Duration};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::info;

/// How far leaving has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum DrainPhase {
    /// It has not begun.
    Serving,
    /// The registry is being told.
    Leaving,
    /// Callers are hearing of it.
    Propagating,
    /// The app may be stopped.
    Safe,
    /// Listeners are closed; requests in flight are ending.
    Closing,
    /// All is over.
    Gone,
}

impl DrainPhase {
    /// The word for pages and logs.
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

    /// Whether the app may be stopped: nobody calls it any more.
    pub(crate) fn is_safe_to_stop(self) -> bool {
        self >= Self::Safe
    }
}

/// What is carried for the app while it leaves.
pub(crate) trait ServedTraffic {
    /// Accepts nothing more.
    fn close_listeners(&self);

    /// Waits for what is in flight, `grace` at most, and ends the rest: how many those were.
    fn drain_requests(&self, grace: Duration) -> impl Future<Output = usize> + Send;
}

/// One drain: asked for by anybody, any number of times, and done once.
#[derive(Debug)]
pub(crate) struct DrainControl {
    asked: CancellationToken,
    hurry: CancellationToken,
    phase: watch::Sender<DrainPhase>,
}

impl DrainControl {
    pub(crate) fn new() -> Self {
        Self {
            asked: CancellationToken::new(),
            hurry: CancellationToken::new(),
            phase: watch::Sender::new(DrainPhase::Serving),
        }
    }

    /// Asks for it.
    pub(crate) fn request(&self) {
        self.asked.cancel();
    }

    /// Whether somebody asked.
    pub(crate) fn is_requested(&self) -> bool {
        self.asked.is_cancelled()
    }

    /// Resolves when somebody asked.
    pub(crate) async fn wait_requested(&self) {
        self.asked.cancelled().await;
    }

    pub(crate) fn phase(&self) -> DrainPhase {
        *self.phase.borrow()
    }

    /// Says that callers need not be waited for: the app has ended, or somebody insists.
    pub(crate) fn skip_waits(&self) {
        self.hurry.cancel();
    }

    /// Cancelled by [`Drain::hurry`].
    pub(crate) fn skip_waits_token(&self) -> &CancellationToken {
        &self.hurry
    }

    /// Resolves once it is safe to stop.
    pub(crate) async fn wait_safe(&self) {
        // An error means that the sender is gone, and we hold it.
        let _ = self.phase.subscribe().wait_for(|phase| phase.is_safe_to_stop()).await;
    }

    pub(crate) fn set_phase(&self, phase: DrainPhase) {
        let news = self.phase.send_if_modified(|now| std::mem::replace(now, phase) != phase);
        if news {
            info!(phase = phase.label(), "draining");
        }
    }
}

/// Steps 5 and 6: how many requests were cut off.
pub(crate) async fn stop_traffic(
    drain: &DrainControl,
    traffic: &impl ServedTraffic,
    grace: Duration,
) -> usize {
    drain.set_phase(DrainPhase::Closing);
    traffic.close_listeners();
    traffic.drain_requests(grace).await
}
