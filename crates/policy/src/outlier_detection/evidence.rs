//! What the end of an attempt says about its endpoint alone.

use crate::outcome::{Outcome, Sent};

/// Whether a request has blamed an endpoint already. One per request, for all its attempts.
#[derive(Debug, Clone, Copy, Default)]
pub struct FailureAttribution {
    attributed: bool,
    /// An attempt of the request has ended before, or it waited: the time-out is not one instance's alone.
    not_first: bool,
}

impl FailureAttribution {
    /// True once.
    pub(super) fn attribute(&mut self) -> bool {
        !std::mem::replace(&mut self.attributed, true)
    }

    /// What has passed of the request's time so far was nobody's: it waited for its turn.
    pub fn mark_delayed(&mut self) {
        self.not_first = true;
    }

    /// An attempt ends; whether it is the request's first.
    pub(super) fn take_first(&mut self) -> bool {
        !std::mem::replace(&mut self.not_first, true)
    }
}

/// What an attempt's end says about its endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Evidence {
    /// It answered, and not badly.
    Success,
    /// It failed the request: a mark in its row, and in its rate.
    Failure,
    /// It may have failed the request: a mark in its rate, where its siblings are the measure.
    UncertainFailure,
    /// No connection can be made.
    Unreachable,
    /// A connection was not made in time.
    ConnectTimeout,
    /// Nothing.
    None,
}

impl Evidence {
    /// A 500 may be the request's, and the deadline of a request may have been too short for anybody:
    /// both only count where they happen much more often than at the siblings. A 501 or 505 is an
    /// answer to what was asked. Whoever had the whole time-out (the `first` attempt) and let it pass
    /// failed as if it had been the attempt's own.
    pub(super) fn classify(outcome: Outcome, sent: Sent, first: bool) -> Self {
        match outcome {
            Outcome::Status(502..=504) => Self::Failure,
            Outcome::Status(501 | 505) => Self::Success,
            Outcome::Status(500..=599) => Self::UncertainFailure,
            Outcome::Status(_) => Self::Success,
            // Before anything was sent it was our queue that took the time.
            Outcome::PerTryTimeout | Outcome::Timeout | Outcome::Deadline if sent == Sent::Nothing => {
                Self::None
            }
            Outcome::Closed | Outcome::ClosedMidHead | Outcome::BadResponse | Outcome::PerTryTimeout => {
                Self::Failure
            }
            Outcome::Timeout if first => Self::Failure,
            Outcome::Timeout | Outcome::Deadline => Self::UncertainFailure,
            Outcome::ConnectRefused | Outcome::ConnectFailed => Self::Unreachable,
            Outcome::ConnectTimeout => Self::ConnectTimeout,
            Outcome::SidecarError(_)
            | Outcome::Overloaded
            | Outcome::Resource
            | Outcome::BadRequest
            | Outcome::ClientGone => Self::None,
        }
    }
}
