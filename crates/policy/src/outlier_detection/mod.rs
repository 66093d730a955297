//! Stops choosing an instance that fails, earlier than the registry does, and finds out when it can be
//! chosen again.
//!
//! Each endpoint has [`EndpointStats`] of its attempts, and each cluster a [`Detector`] that ejects
//! endpoints and brings them back.
//!
//! **Evidence.** *Hard*: the endpoint accepts no connections (refused or unreachable: at once; connect
//! time-outs: two without a response between them; this machine has no way to it: at once). It does not depend on the request, so one proof is
//! enough, and no cap applies: choosing such an endpoint never helps. *Soft*: it responds badly,
//! `consecutive_failures` requests in a row, or a success rate below `success_rate` that is also 30
//! points below the median of its siblings; with one sibling, also by more than chance explains. The
//! requests may be the cause, so a cap applies: of the endpoints that accept connections at most
//! `max_ejection_percent` are ejected, rounded down; a single endpoint never is by default.
//!
//! **A request counts against one endpoint at most**, the first that failed it ([`FailureAttribution`]).
//! The request itself may cause its later failures: without this rule a request that no instance can
//! answer would count against each of them. A bad endpoint is the first one often enough, because load
//! balancing chooses it in turn. So five failures in a row are five requests. Hard evidence always
//! counts.
//!
//! **Panic mode.** When no endpoint is healthy, all ejected ones may be chosen: a wrong choice costs less
//! than no attempt. It ends with the first success of a request or a probe. The states are written in an
//! order that leaves an endpoint to choose at every moment, also between two Views. A last resort
//! ([`Eligibility`]) that accepts no connections is not chosen in panic mode either, but probed as often.
//!
//! Where requests have somewhere else to go (a failover target), the detector is *relieved*: no cap applies, and there is no panic
//! mode. It begins at once when the relief ends.
//!
//! **Return.** The ejection time doubles from the base to the maximum; a random part of up to a half is
//! subtracted, so that sidecars that saw the same failure do not return together. Then a TCP connection
//! is tried, which risks no request. It decides for an endpoint that accepted no connections. For one
//! that was ejected for its responses it only shows that the instance has not died meanwhile (a killed
//! instance fails its requests in flight before it refuses a connection); then one request at a time, on
//! which a retry is allowed, decides (*probation*). If no such request comes for another ejection time,
//! any request decides. A request without a verdict (a slow upload, a long poll) does not hold the slot for
//! ever: it passes on after a second, then after two, up to 16 s, and the first of their verdicts decides.
//!
//! In panic mode, or while the breaker is open, connections are tried every 250 ms, eight at a time, because
//! no request may come; with the breaker open only to endpoints that accepted no connections, because an open
//! port says nothing about the others. Each healthy `window` takes one doubling back, as Envoy does with its
//! multiplier.
//!
//! **Epochs.** As in the [`circuit_breaker`](crate::circuit_breaker): the end of an attempt from an earlier
//! epoch of its endpoint is dropped. A slot that passes on begins an epoch within its probation.
//!
//! **Cost.** A success on a healthy endpoint takes a few loads and one compare-and-swap, no lock. Only a
//! failure, or an end while not healthy, may report to the detector, which has one lock per cluster, so
//! that two workers cannot both eject the last two endpoints.
//!
//! **Numbers.** 5 failures in a row as in Envoy; the success rate, its window and the ejection times (1 s
//! to 60 s, jitter 0.5) as in linkerd2; 30 points below the median instead of Envoy's deviations, because
//! three instances have no meaningful deviation.
//!
//! Settings are `None` when outlier detection is off. After a reload an ejected endpoint keeps its
//! ejection time.

mod detector;
mod ejection;
mod evidence;
mod loss;
pub mod stall;
mod state;
mod stats;
mod success_rate;

pub use detector::{Detector, DueActions, EjectionCounts, EjectionEvent, ReturnedBy};
pub use ejection::{EjectionDetails, Eligibility};
pub use evidence::FailureAttribution;
pub use loss::LossEvent;
pub use state::EjectionState;
pub use stats::{AttemptEpoch, AttemptGuard, EndpointStats, Report};

/// Why an endpoint was ejected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EjectionReason {
    /// Connections are refused, or its host cannot be reached.
    Unreachable,
    /// This machine has no way to it, although it reaches others.
    UnreachableFromHere,
    /// Two connects timed out without a response between them.
    ConnectTimeouts,
    /// `consecutive_failures` requests in a row failed.
    ConsecutiveFailures,
    /// The success rate is low, and much lower than the siblings' rates.
    SuccessRate,
    /// The request of a probation failed.
    Probation,
}

impl EjectionReason {
    /// The label in metrics and log.
    pub fn label(self) -> &'static str {
        match self {
            Self::Unreachable => "unreachable",
            Self::UnreachableFromHere => "unreachable_from_here",
            Self::ConnectTimeouts => "connect_timeouts",
            Self::ConsecutiveFailures => "consecutive_failures",
            Self::SuccessRate => "success_rate",
            Self::Probation => "probation",
        }
    }

    /// The endpoint accepts no connections.
    pub fn is_hard(self) -> bool {
        match self {
            Self::Unreachable | Self::UnreachableFromHere | Self::ConnectTimeouts => true,
            Self::ConsecutiveFailures | Self::SuccessRate | Self::Probation => false,
        }
    }
}
