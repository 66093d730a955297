//! The phases of a drain, and the end of the traffic. The order, so that callers see no failed request:
//!
//! 1. `/readyz` fails;
//! 2. the app is reported critical; once callers have seen it ([`crate::withdraw`]) the app is deregistered;
//! 3. requests are routed until callers have seen the deregistration, too;
//! 4. the app may be stopped. After `POST /drain` the process stays here and routes until a signal comes. An app
//!    that the sidecar started (`run -- app`) gets its signal now; with `drain.await_app` the sidecar waits for the
//!    end of an app that it did not start. Outbound stays open until the app has ended;
//! 5. listeners close;
//! 6. requests in flight end, or are aborted after `drain.timeout`.
//!
//! [`crate::withdraw`] runs steps 2 to 4, `Lifecycle::drain_and_stop` runs 5 and 6. Each step is bounded:
//! docs/decisions/order-of-leaving.md has the times, and why giving up is safe.

use outrigger_events::{Event, EventKind, Events};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::info;

/// How far the drain has come.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DrainPhase {
    /// No drain has begun.
    #[default]
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
    pub fn label(self) -> &'static str {
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
    pub fn is_safe_to_stop(self) -> bool {
        self >= Self::Safe
    }
}

/// The one drain of a process. It may be requested any number of times, and runs once.
#[derive(Debug, Default)]
pub struct DrainControl {
    /// Cancelled when the drain is requested.
    pub requested: CancellationToken,
    /// Cancelled to skip the waits for callers: the app has ended, or a second signal came.
    pub skip_waits: CancellationToken,
    phase: watch::Sender<DrainPhase>,
    /// Where its phases are recorded.
    events: Events,
}

impl DrainControl {
    pub(crate) fn new(events: Events) -> Self {
        Self { events, ..Self::default() }
    }

    /// For an app that is withdrawn while the process stays: its phases are recorded nowhere.
    pub(crate) fn of_app(skip_waits: CancellationToken) -> Self {
        Self { skip_waits, ..Self::default() }
    }

    /// How far the drain has come.
    pub fn phase(&self) -> DrainPhase {
        *self.phase.borrow()
    }

    /// Resolves once it is safe to stop.
    pub(crate) async fn wait_safe(&self) {
        // Never an error: `self` holds the sender.
        let _ = self.phase.subscribe().wait_for(|phase| phase.is_safe_to_stop()).await;
    }

    pub(crate) fn set_phase(&self, phase: DrainPhase) {
        let changed = self.phase.send_if_modified(|now| std::mem::replace(now, phase) != phase);
        if changed {
            info!(phase = phase.label(), "draining");
            self.events.record(Event::new(EventKind::DrainPhase, phase.label()));
        }
    }
}
