//! What the end of an attempt says about its endpoint.

use crate::outcome::{Outcome, Sent};

/// Whether a failure of the request was attributed to an endpoint. One per request, for all its attempts.
#[derive(Debug, Clone, Copy, Default)]
pub struct FailureAttribution {
    attributed: bool,
    /// An attempt has ended before, or the request waited: one instance did not have the whole time-out.
    not_first: bool,
}

impl FailureAttribution {
    /// Attributes a failure; true for the first one.
    pub(super) fn attribute(&mut self) -> bool {
        !std::mem::replace(&mut self.attributed, true)
    }

    /// The request waited for a slot: its next instance does not have the whole time-out.
    pub fn mark_delayed(&mut self) {
        self.not_first = true;
    }

    /// Ends an attempt; true when the instance had the request's whole time-out.
    pub(super) fn take_first(&mut self) -> bool {
        !std::mem::replace(&mut self.not_first, true)
    }
}

/// What the end of an attempt says about its endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Evidence {
    /// A response that is no failure of the endpoint.
    Success,
    /// A failure: counts in the row and in the success rate.
    Failure,
    /// A failure that the request may have caused: counts in the success rate only, which is compared
    /// with the siblings.
    UncertainFailure,
    /// No connection can be made.
    Unreachable,
    /// This machine has no way to it.
    UnreachableFromHere,
    /// A connect timed out.
    ConnectTimeout,
    /// Nothing.
    None,
}

impl Evidence {
    /// The request may cause a 500 or the error of a sidecar further down, and its deadline may be too short
    /// for any instance: they count only in the success rate. All instances have the same services behind them,
    /// so an instance with many more such errors than its siblings is at fault, or its sidecar is. A 501 or 505
    /// is a proper response. A time-out counts as a failure for the
    /// `first` attempt, because its instance had the whole time.
    pub(super) fn classify(outcome: Outcome, sent: Sent, first: bool) -> Self {
        match outcome {
            Outcome::Status(502..=504) => Self::Failure,
            Outcome::Status(501 | 505) => Self::Success,
            Outcome::Status(500..=599) => Self::UncertainFailure,
            Outcome::Grpc(14) => Self::Failure,
            // DEADLINE_EXCEEDED: as a time-out.
            Outcome::Grpc(4) if first => Self::Failure,
            Outcome::Grpc(_) => Self::UncertainFailure,
            Outcome::SidecarError(400..) => Self::UncertainFailure,
            Outcome::Status(_) | Outcome::SidecarError(_) | Outcome::Connected => Self::Success,
            // Nothing was sent: the time was spent in the sidecar's queue.
            Outcome::PerTryTimeout | Outcome::Timeout | Outcome::Deadline if sent == Sent::Nothing => {
                Self::None
            }
            Outcome::Closed | Outcome::ClosedMidHead | Outcome::BadResponse | Outcome::PerTryTimeout => {
                Self::Failure
            }
            Outcome::Timeout if first => Self::Failure,
            Outcome::Timeout | Outcome::Deadline => Self::UncertainFailure,
            Outcome::ConnectRefused | Outcome::ConnectFailed | Outcome::TlsFailed => Self::Unreachable,
            Outcome::UnreachableFromHere => Self::UnreachableFromHere,
            Outcome::ConnectTimeout => Self::ConnectTimeout,
            Outcome::Overloaded
            | Outcome::Resource
            | Outcome::Unprocessed
            | Outcome::Http1Instance
            | Outcome::BadRequest
            | Outcome::ClientGone => Self::None,
        }
    }
}
