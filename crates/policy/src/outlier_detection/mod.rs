//! Stops choosing an instance that fails, ahead of the registry, and finds out when it can be chosen
//! again.
//!
//! **What it is for.** A registry's health check sees a dead instance after seconds; its callers see it
//! with the next request. So each endpoint has a [`EndpointStats`] of what its attempts came to, and each
//! cluster a [`Detector`] that takes endpoints out of the pick and lets them in again.
//!
//! **Two kinds of evidence.** *Hard*: nobody accepts connections there (refused or unreachable: at
//! once; connect time-outs: two with no answer between). It does not depend on what was asked, so one
//! proof is enough, and there is no cap: choosing such an instance helps nobody. *Soft*: it answers
//! badly. `consecutive_failures` requests in a row, or a success rate below `success_rate` that is also
//! 30 points below the median of two or more siblings. That can be the fault of the requests, hence the
//! cap: of the endpoints that accept connections, `max_ejected` may be out so, rounded down; the only
//! one never is.
//!
//! **A request blames one endpoint at most**, the first that failed it (see [`FailureAttribution`]). What fails it
//! after that may be due to the request itself: a request that no instance can answer would otherwise
//! put a mark against each of them, and the last of a row against all of them in turn. An endpoint that
//! is bad loses nothing by it: it is the first one often enough, for balancing sees to that. So a row
//! of five is five requests. Hard evidence is counted always.
//!
//! **Never nobody.** When the last trusted endpoint would go, all that are out may be chosen again
//! (*panic*): a wrong guess about where to send a request costs less than not sending it. It ends with
//! the first success, by a request or a probe. The words are written so that there is no moment between
//! in which nothing can be chosen, not even between two Views.
//!
//! **Coming back.** Out for `base`, doubling up to `max`, each less up to a half by chance, so that
//! sidecars that saw the same failure do not return at the same time. Then a TCP connection is tried, at
//! nobody's risk. For an endpoint that could not be connected to, it decides; for one that was out for its
//! answers, it only shows that it has not died meanwhile (a killed one that had many requests under way is
//! out for these before anybody is refused), and one request at a time, one on which a retry is allowed,
//! decides; if none such comes for as long again, any request does. While in panic or with the service's breaker open, no request may come to
//! find out, so connections are tried every 250 ms, eight at a time. With the breaker open that is done
//! for those that were out for not accepting, since of others an open port is no news. Each `window` in
//! trust takes one doubling back, as Envoy does with its multiplier.
//!
//! **Nobody is judged by old evidence.** Each change of an endpoint's standing begins a new generation
//! of its record, and a [`AttemptGuard`] remembers the one it was begun in; what ends in another is dropped.
//!
//! **What it costs.** A success on a trusted endpoint: a few loads and one compare-and-swap, no lock
//! (15 ns measured, pick and end together; 31 with two workers on the same endpoint).
//! Only a failure, or an end while not trusted, may say that the judge is to be asked; the judge lives
//! behind one lock per cluster, so that two workers cannot both take the last two out.
//!
//! **Numbers.** Rows of 5 as Envoy's; the success rate, its window and the times out (1 s to 60 s,
//! jitter 0.5) as linkerd2's; 30 points below the median instead of Envoy's deviations, because three
//! instances have no meaningful deviation.
//!
//! It declines to read clocks, to connect, to log, and to know what the registry says: the proxy lists
//! to [`Detector::set_members`] who may be chosen at all.

mod detector;
mod ejection;
mod evidence;
mod state;
mod stats;
mod success_rate;

pub use detector::{Detector, DueActions, EjectionCounts, EjectionEvent, ReturnedBy};
pub use ejection::EjectionDetails;
pub use evidence::FailureAttribution;
pub use state::EjectionState;
pub use stats::{AttemptEpoch, AttemptGuard, EndpointStats, Report};

/// Why an endpoint was taken out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EjectionReason {
    /// Connections to it are refused, or it cannot be reached.
    Unreachable,
    /// Two connections to it timed out, with no answer between.
    ConnectTimeouts,
    /// It failed as many requests in a row as are allowed.
    ConsecutiveFailures,
    /// Its success rate is low, and much lower than its siblings'.
    SuccessRate,
    /// It failed the request that was to show that it is well again.
    Probation,
}

impl EjectionReason {
    /// Every reason, for metrics that make their series at start.
    pub const ALL: [Self; 5] = [
        Self::Unreachable,
        Self::ConnectTimeouts,
        Self::ConsecutiveFailures,
        Self::SuccessRate,
        Self::Probation,
    ];

    /// The word for it in metrics and log.
    pub fn label(self) -> &'static str {
        match self {
            Self::Unreachable => "unreachable",
            Self::ConnectTimeouts => "connect_timeouts",
            Self::ConsecutiveFailures => "consecutive_failures",
            Self::SuccessRate => "success_rate",
            Self::Probation => "probation",
        }
    }

    /// Nobody accepts connections there.
    pub fn is_hard(self) -> bool {
        match self {
            Self::Unreachable | Self::ConnectTimeouts => true,
            Self::ConsecutiveFailures | Self::SuccessRate | Self::Probation => false,
        }
    }
}
