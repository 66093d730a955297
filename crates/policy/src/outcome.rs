//! What became of an attempt, in words that the retry, the breaker, the metrics and the log share.
//!
//! The proxy observes; here it is only named and judged. Nothing is guessed: what had been sent comes
//! from counted bytes, and an instance's answer is told from a sidecar's by its header.

/// What of a request had reached the socket when an attempt ended, from counted bytes.
#[derive(Copy, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Sent {
    /// Not one byte: no instance can have seen the request.
    Nothing,
    /// Some or all of the head.
    Head,
    /// The head, and some or all of the body.
    Body,
}

/// How one attempt ended.
#[derive(Copy, Clone, PartialEq, Eq, Hash, Debug)]
pub enum Outcome {
    /// The instance answered with this status.
    Status(u16),
    /// The answer carries `x-outrigger-error`: it is a sidecar's further down. Passed on, never
    /// retried, or each sidecar on the way would multiply the load.
    SidecarError(u16),
    /// Nobody listens at the instance's address. Nothing was sent.
    ConnectRefused,
    /// No connection within `connect_timeout`. Nothing was sent.
    ConnectTimeout,
    /// No connection for another reason (unreachable, TLS). Nothing of the request was sent.
    ConnectFailed,
    /// The connection ended before any byte of an answer.
    Closed,
    /// The connection ended within the answer's head.
    ClosedMidHead,
    /// What came back is no valid HTTP.
    BadResponse,
    /// No response head within `per_try_timeout`.
    PerTryTimeout,
    /// No response head within `timeout`.
    Timeout,
    /// No response head before the deadline, the app's own or a set one, which may have been too short for
    /// anybody.
    Deadline,
    /// The endpoint's own connection limit and queue are full. Nothing was sent, nobody is to blame.
    Overloaded,
    /// The sidecar itself lacks something: file descriptors, ports, buffers.
    Resource,
    /// The app's request body was malformed.
    BadRequest,
    /// The app hung up.
    ClientGone,
}

/// What an outcome says about the service, as the app sees it.
#[derive(Copy, Clone, PartialEq, Eq, Hash, Debug)]
pub enum Verdict {
    /// The service did its work, even if the answer is an error of its own.
    Success,
    /// The service could not be used.
    Failure,
    /// It says nothing about the service.
    Ignore,
}

impl Outcome {
    /// What it says about the service.
    ///
    /// Gateway-class statuses, transport failures and time-outs count as failures. A 500 and any 4xx
    /// are answers of a service that works: one endpoint's bug must not cut off all the others.
    pub fn verdict(self) -> Verdict {
        match self {
            Self::Status(502..=504) => Verdict::Failure,
            Self::Status(_) => Verdict::Success,
            Self::ConnectRefused
            | Self::ConnectTimeout
            | Self::ConnectFailed
            | Self::Closed
            | Self::ClosedMidHead
            | Self::BadResponse
            | Self::PerTryTimeout
            | Self::Timeout => Verdict::Failure,
            Self::SidecarError(_)
            | Self::Deadline
            | Self::Overloaded
            | Self::Resource
            | Self::BadRequest
            | Self::ClientGone => Verdict::Ignore,
        }
    }

    /// The word for it in metrics and log: a closed list, so it is a label with few values.
    pub fn label(self) -> &'static str {
        match self {
            Self::Status(100..=199) => "1xx",
            Self::Status(200..=299) => "2xx",
            Self::Status(300..=399) => "3xx",
            Self::Status(400..=499) => "4xx",
            Self::Status(500..=599) => "5xx",
            Self::Status(_) => "other_status",
            Self::SidecarError(_) => "sidecar_error",
            Self::ConnectRefused => "connect_refused",
            Self::ConnectTimeout => "connect_timeout",
            Self::ConnectFailed => "connect_failed",
            Self::Closed => "closed",
            Self::ClosedMidHead => "closed_mid_head",
            Self::BadResponse => "bad_response",
            Self::PerTryTimeout => "per_try_timeout",
            Self::Timeout => "timeout",
            Self::Deadline => "deadline",
            Self::Overloaded => "overloaded",
            Self::Resource => "resource",
            Self::BadRequest => "bad_request",
            Self::ClientGone => "client_gone",
        }
    }

    /// The status of the answer, when there was one.
    pub fn status(self) -> Option<u16> {
        match self {
            Self::Status(status) | Self::SidecarError(status) => Some(status),
            Self::ConnectRefused
            | Self::ConnectTimeout
            | Self::ConnectFailed
            | Self::Closed
            | Self::ClosedMidHead
            | Self::BadResponse
            | Self::PerTryTimeout
            | Self::Timeout
            | Self::Deadline
            | Self::Overloaded
            | Self::Resource
            | Self::BadRequest
            | Self::ClientGone => None,
        }
    }

    /// Every value that [`label`](Self::label) can have, for metrics that make their series at start.
    pub const LABELS: [&'static str; 20] = [
        "1xx",
        "2xx",
        "3xx",
        "4xx",
        "5xx",
        "other_status",
        "sidecar_error",
        "connect_refused",
        "connect_timeout",
        "connect_failed",
        "closed",
        "closed_mid_head",
        "bad_response",
        "per_try_timeout",
        "timeout",
        "deadline",
        "overloaded",
        "resource",
        "bad_request",
        "client_gone",
    ];
}
