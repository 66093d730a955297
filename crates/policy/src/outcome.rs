//! How an attempt ended, for retries, breaker, outlier detection, metrics and log.
//!
//! The proxy observes the end; this module names and classifies it. Counted bytes say what was sent, and
//! a header distinguishes a sidecar's error from an instance's response.

/// The part of a request that had reached the socket when an attempt ended, from counted bytes.
#[derive(Copy, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Sent {
    /// No byte: no instance has seen the request.
    Nothing,
    /// Some or all of the head.
    Head,
    /// The head, and some or all of the body.
    Body,
}

/// How one attempt ended.
#[derive(Copy, Clone, PartialEq, Eq, Hash, Debug)]
pub enum Outcome {
    /// The instance responded with this status.
    Status(u16),
    /// The call of gRPC ended with a status that says something of the instance, and with nothing else: UNKNOWN (2),
    /// DEADLINE_EXCEEDED (4), INTERNAL (13), UNAVAILABLE (14) or DATA_LOSS (15).
    Grpc(u8),
    /// The response carries `x-outrigger-error`: it comes from a sidecar further down. It is passed on and
    /// never retried, because each sidecar on the way would multiply the load. Outlier detection compares the
    /// instance with its siblings by it.
    SidecarError(u16),
    /// The connection was made, and carries bytes that the sidecar does not look at.
    Connected,
    /// The connection was refused. Nothing was sent.
    ConnectRefused,
    /// No connection within `connect_timeout`. Nothing was sent.
    ConnectTimeout,
    /// No connection for another reason (unreachable, closed within the handshake). Nothing of the request was sent.
    ConnectFailed,
    /// No TLS session: a certificate, the settings or the protocol do not fit. Nothing of the request was carried out.
    TlsFailed,
    /// The connection ended before the first byte of a response.
    Closed,
    /// The connection ended within the response head.
    ClosedMidHead,
    /// The response is not valid HTTP.
    BadResponse,
    /// No response head within `per_try_timeout`.
    PerTryTimeout,
    /// No response head within `timeout`.
    Timeout,
    /// No response head before the deadline of the app or of the settings, which may be too short for any
    /// instance.
    Deadline,
    /// The endpoint's connection limit and queue are full. Nothing was sent; the instance did not fail.
    Overloaded,
    /// The sidecar or its machine lacks a resource that every connection needs: file descriptors, ports, buffers.
    Resource,
    /// This machine has no way to the instance, although it reaches others: no route, no local address, a local firewall
    /// rule. Nothing was sent. The instance is of no use from here, and may serve others well.
    UnreachableFromHere,
    /// The instance said that it did not process the request (HTTP/2: the stream was refused, or is above the last one of a
    /// GOAWAY). It did not fail: it ends a connection in order.
    Unprocessed,
    /// The instance speaks HTTP/1, and the settings or the registry say HTTP/2. Nothing was processed; the instance did not fail.
    Http1Instance,
    /// The app's request body was malformed.
    BadRequest,
    /// The app closed its connection.
    ClientGone,
}

/// What an outcome says about the service, as the app sees it.
#[derive(Copy, Clone, PartialEq, Eq, Hash, Debug)]
pub enum Verdict {
    /// The service works, even if the response is an error.
    Success,
    /// The service could not be used.
    Failure,
    /// No evidence about the service.
    Ignore,
}

impl Outcome {
    /// The outcome of a call of gRPC that ended with this status and nothing else; `None`: it says nothing of the instance.
    pub fn of_grpc(code: u8) -> Option<Self> {
        matches!(code, 2 | 4 | 13..=15).then_some(Self::Grpc(code))
    }

    /// The verdict on the service.
    ///
    /// Gateway statuses, transport failures and time-outs are failures. A 500 and any 4xx come from a
    /// service that works: a bug of one endpoint must not stop the requests to all others.
    pub fn verdict(self) -> Verdict {
        match self {
            Self::Status(502..=504) | Self::Grpc(_) => Verdict::Failure,
            Self::Status(_) | Self::Connected => Verdict::Success,
            Self::ConnectRefused
            | Self::ConnectTimeout
            | Self::ConnectFailed
            | Self::TlsFailed
            | Self::Closed
            | Self::ClosedMidHead
            | Self::BadResponse
            | Self::PerTryTimeout
            | Self::Timeout => Verdict::Failure,
            Self::SidecarError(_)
            | Self::Deadline
            | Self::Overloaded
            | Self::Resource
            | Self::UnreachableFromHere
            | Self::Unprocessed
            | Self::Http1Instance
            | Self::BadRequest
            | Self::ClientGone => Verdict::Ignore,
        }
    }

    /// The label in metrics and log, of a closed list.
    pub fn label(self) -> &'static str {
        Self::LABELS[self.label_index()]
    }

    /// The index of [`label`](Self::label) in [`LABELS`](Self::LABELS).
    pub fn label_index(self) -> usize {
        match self {
            Self::Status(status @ 100..=599) => usize::from(status / 100) - 1,
            Self::Status(_) => 5,
            Self::SidecarError(_) => 6,
            Self::ConnectRefused => 7,
            Self::ConnectTimeout => 8,
            Self::ConnectFailed => 9,
            Self::Closed => 10,
            Self::ClosedMidHead => 11,
            Self::BadResponse => 12,
            Self::PerTryTimeout => 13,
            Self::Timeout => 14,
            Self::Deadline => 15,
            Self::Overloaded => 16,
            Self::Resource => 17,
            Self::BadRequest => 18,
            Self::ClientGone => 19,
            Self::UnreachableFromHere => 20,
            Self::TlsFailed => 21,
            Self::Connected => 22,
            Self::Unprocessed => 23,
            Self::Http1Instance => 24,
            Self::Grpc(_) => 25,
        }
    }

    /// The status of the response, if there is one.
    pub fn status(self) -> Option<u16> {
        match self {
            Self::Status(status) | Self::SidecarError(status) => Some(status),
            Self::Grpc(_) => Some(200),
            _ => None,
        }
    }

    /// Every value of [`label`](Self::label).
    pub const LABELS: [&'static str; 26] = [
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
        "unreachable_from_here",
        "tls_failed",
        "connected",
        "unprocessed",
        "http1_instance",
        "grpc_failure",
    ];
}
