//! The closed list of reasons for which the sidecar itself responds.
//!
//! The same labels stand in `x-outrigger-error`, in the problem body, in metrics and in the log. This file
//! only names the reasons: `respond` makes a response of one.

use http::StatusCode;

/// Why the sidecar responded instead of an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reason {
    /// The head or the framing of the request is invalid or ambiguous.
    BadRequest,
    /// The body of the request breaks its framing.
    BadBody,
    /// The head did not arrive in time, counted from its first byte.
    SlowHead,
    /// The head has more bytes or more fields than allowed.
    HeadTooLarge,
    /// The request target is longer than allowed.
    UriTooLong,
    /// The method is `CONNECT`, which is not offered.
    MethodNotAllowed,
    /// `Expect` is not `100-continue`.
    ExpectationFailed,
    /// The Host is an IP address or a name outside the registry: this is no open proxy.
    OutsideHost,
    /// A browser sent the request from another origin.
    ForbiddenOrigin,
    /// The Host is the sidecar's own address, and the path names no service.
    NoRoute,
    /// The registry answered that no instance has this name.
    UnknownService,
    /// The registry has not answered for this name yet.
    RegistryUnknown,
    /// The service has instances, but none is usable.
    NoUsableInstance,
    /// The limit of watched services is reached.
    TooManyServices,
    /// The circuit breaker is open.
    CircuitOpen,
    /// The limit of requests that wait for the instance is reached.
    Overloaded,
    /// The bulkhead rejected the request: `max_in_flight` requests to the service were in flight.
    BulkheadFull,
    /// The limit of open app connections is reached.
    TooManyConnections,
    /// This machine has no file descriptor, port or memory left.
    LocalResource,
    /// No connect to an instance succeeded.
    ConnectFailed,
    /// No instance accepted a connection in time.
    ConnectTimeout,
    /// The connection ended before a response; a retry was safe, and did not help.
    UpstreamClosed,
    /// The connection ended before a response; the request may have been carried out, and must not be
    /// repeated.
    SentUnknown,
    /// The response of the instance is no valid HTTP.
    BadResponse,
    /// No response head arrived in time.
    Timeout,
    /// The app's own deadline, or the service's `deadline`, has passed.
    DeadlineExceeded,
    /// The app stopped sending in the middle of its request body.
    BodyTimeout,
    /// The app disconnected. Never sent; in metrics and logs.
    ClientGone,
    /// The sidecar is stopping, and watches no new service.
    Drained,
    /// The sidecar failed.
    Internal,
}

impl Reason {
    /// Every reason, in the order of the documentation.
    pub const ALL: [Self; 30] = [
        Self::BadRequest,
        Self::BadBody,
        Self::SlowHead,
        Self::HeadTooLarge,
        Self::UriTooLong,
        Self::MethodNotAllowed,
        Self::ExpectationFailed,
        Self::OutsideHost,
        Self::ForbiddenOrigin,
        Self::NoRoute,
        Self::UnknownService,
        Self::RegistryUnknown,
        Self::NoUsableInstance,
        Self::TooManyServices,
        Self::CircuitOpen,
        Self::Overloaded,
        Self::BulkheadFull,
        Self::TooManyConnections,
        Self::LocalResource,
        Self::ConnectFailed,
        Self::ConnectTimeout,
        Self::UpstreamClosed,
        Self::SentUnknown,
        Self::BadResponse,
        Self::Timeout,
        Self::DeadlineExceeded,
        Self::BodyTimeout,
        Self::ClientGone,
        Self::Drained,
        Self::Internal,
    ];

    /// The label for the header, the body, metrics and the log.
    pub fn label(self) -> &'static str {
        match self {
            Self::BadRequest => "bad_request",
            Self::BadBody => "bad_body",
            Self::SlowHead => "slow_head",
            Self::HeadTooLarge => "head_too_large",
            Self::UriTooLong => "uri_too_long",
            Self::MethodNotAllowed => "method_not_allowed",
            Self::ExpectationFailed => "expectation_failed",
            Self::OutsideHost => "outside_host",
            Self::ForbiddenOrigin => "forbidden_origin",
            Self::NoRoute => "no_route",
            Self::UnknownService => "unknown_service",
            Self::RegistryUnknown => "registry_unknown",
            Self::NoUsableInstance => "no_usable_instance",
            Self::TooManyServices => "too_many_services",
            Self::CircuitOpen => "circuit_open",
            Self::Overloaded => "overloaded",
            Self::BulkheadFull => "bulkhead_full",
            Self::TooManyConnections => "too_many_connections",
            Self::LocalResource => "local_resource",
            Self::ConnectFailed => "connect_failed",
            Self::ConnectTimeout => "connect_timeout",
            Self::UpstreamClosed => "upstream_closed",
            Self::SentUnknown => "sent_unknown",
            Self::BadResponse => "bad_response",
            Self::Timeout => "timeout",
            Self::DeadlineExceeded => "deadline_exceeded",
            Self::BodyTimeout => "body_timeout",
            Self::ClientGone => "client_gone",
            Self::Drained => "drained",
            Self::Internal => "internal",
        }
    }

    /// The status of the response. 499 is never sent; it stands in metrics and logs.
    pub fn status(self) -> StatusCode {
        match self {
            Self::BadRequest | Self::BadBody => StatusCode::BAD_REQUEST,
            Self::SlowHead | Self::BodyTimeout => StatusCode::REQUEST_TIMEOUT,
            Self::HeadTooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::UriTooLong => StatusCode::URI_TOO_LONG,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::ExpectationFailed => StatusCode::EXPECTATION_FAILED,
            Self::OutsideHost => StatusCode::MISDIRECTED_REQUEST,
            Self::ForbiddenOrigin => StatusCode::FORBIDDEN,
            Self::NoRoute | Self::UnknownService => StatusCode::NOT_FOUND,
            Self::RegistryUnknown
            | Self::NoUsableInstance
            | Self::TooManyServices
            | Self::CircuitOpen
            | Self::Overloaded
            | Self::BulkheadFull
            | Self::TooManyConnections
            | Self::LocalResource
            | Self::Drained => StatusCode::SERVICE_UNAVAILABLE,
            Self::ConnectFailed | Self::UpstreamClosed | Self::SentUnknown | Self::BadResponse => {
                StatusCode::BAD_GATEWAY
            }
            Self::ConnectTimeout | Self::Timeout | Self::DeadlineExceeded => StatusCode::GATEWAY_TIMEOUT,
            Self::ClientGone => CLIENT_GONE,
            Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// The `title` of the problem body.
    pub fn title(self) -> &'static str {
        match self {
            Self::BadRequest => "The request is invalid or ambiguous",
            Self::BadBody => "The request body breaks its own framing",
            Self::SlowHead => "The request head did not arrive in time",
            Self::HeadTooLarge => "The request head is too large",
            Self::UriTooLong => "The request target is too long",
            Self::MethodNotAllowed => "CONNECT is not offered here",
            Self::ExpectationFailed => "Only Expect: 100-continue is understood",
            Self::OutsideHost => "The Host is not a service of the registry",
            Self::ForbiddenOrigin => "Browser requests from other origins are refused",
            Self::NoRoute => "The path names no service",
            Self::UnknownService => "The registry knows no instance of this service",
            Self::RegistryUnknown => "The registry has not answered for this service yet",
            Self::NoUsableInstance => "No instance of the service is usable",
            Self::TooManyServices => "Too many services are in use",
            Self::CircuitOpen => "The service's circuit breaker is open",
            Self::Overloaded => "Too many requests wait for the instance",
            Self::BulkheadFull => "Too many requests to the service are under way",
            Self::TooManyConnections => "Too many connections are open",
            Self::LocalResource => "This machine has run out of a resource",
            Self::ConnectFailed => "No connection to an instance could be made",
            Self::ConnectTimeout => "No instance accepted a connection in time",
            Self::UpstreamClosed => "The instance closed the connection before it answered",
            Self::SentUnknown => "The instance closed the connection; whether it acted is not known",
            Self::BadResponse => "The response of the instance is no valid HTTP",
            Self::Timeout => "The service did not answer in time",
            Self::DeadlineExceeded => "The request's deadline has passed",
            Self::BodyTimeout => "The request body stopped arriving",
            Self::ClientGone => "The app disconnected",
            Self::Drained => "The sidecar is stopping",
            Self::Internal => "The sidecar failed",
        }
    }

    /// Whether the app's connection is closed after the response, because the bytes that follow cannot be
    /// parsed reliably or would have to be read first.
    pub(crate) fn closes_connection(self) -> bool {
        matches!(
            self,
            Self::BadRequest
                | Self::BadBody
                | Self::SlowHead
                | Self::HeadTooLarge
                | Self::UriTooLong
                | Self::MethodNotAllowed
                | Self::ExpectationFailed
                | Self::TooManyConnections
                | Self::BodyTimeout
        )
    }
}

/// The status in logs and metrics when the app disconnected (nginx's number).
const CLIENT_GONE: StatusCode = match StatusCode::from_u16(499) {
    Ok(status) => status,
    Err(_) => StatusCode::REQUEST_TIMEOUT,
};

/// A reason, with the details for the response.
#[derive(Debug, Clone)]
pub(crate) struct Refusal {
    pub(crate) reason: Reason,
    /// The `detail` of the problem body.
    pub(crate) detail: String,
    /// Time after which a retry makes sense.
    pub(crate) retry_after: Option<std::time::Duration>,
}

impl Refusal {
    pub(crate) fn new(reason: Reason, detail: impl Into<String>) -> Self {
        Self { reason, detail: detail.into(), retry_after: None }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn labels_are_unique() {
        let labels: BTreeSet<_> = Reason::ALL.iter().map(|reason| reason.label()).collect();
        assert_eq!(labels.len(), Reason::ALL.len());
    }

    #[test]
    fn every_reason_has_an_error_status() {
        for reason in Reason::ALL {
            assert!(reason.status().as_u16() >= 400, "{}", reason.label());
        }
    }
}
