//! The closed list of reasons for which the sidecar itself answers.
//!
//! The same words stand in `x-outrigger-error`, in the problem body, in metrics and in the log. This
//! file only names them: [`crate::respond`] turns one into an answer.

use http::StatusCode;

/// Why the sidecar answered instead of an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reason {
    /// The request's head or framing can be read in two ways, or not at all.
    BadRequest,
    /// The request's body broke its own framing.
    BadBody,
    /// The head did not arrive in time, counted from its first byte.
    SlowHead,
    /// The head has more bytes or more fields than allowed.
    HeadTooLarge,
    /// The request target is longer than allowed.
    UriTooLong,
    /// `CONNECT` is not offered.
    MethodNotAllowed,
    /// An `Expect` other than `100-continue`.
    ExpectationFailed,
    /// The Host is an IP or a name outside the registry: this is no open proxy.
    OutsideHost,
    /// A browser's request from elsewhere.
    ForbiddenOrigin,
    /// The Host is our own address and the path names no service.
    NoRoute,
    /// The registry answered, and knows no instance of this name.
    UnknownService,
    /// The registry has not answered for this name yet.
    RegistryUnknown,
    /// Instances are known, none of them is usable.
    NoUsableInstance,
    /// As many services are watched as may be.
    TooManyServices,
    /// The circuit breaker is open.
    CircuitOpen,
    /// As many requests wait for the instance as may.
    Overloaded,
    /// As many requests to the service are under way as may, and this one got none of their places.
    BulkheadFull,
    /// As many app connections are open as may be.
    TooManyConnections,
    /// This machine is out of something: files, ports, memory.
    LocalResource,
    /// No instance could be connected to.
    ConnectFailed,
    /// No instance accepted a connection in time.
    ConnectTimeout,
    /// The connection ended before an answer; trying again was safe, and did not help.
    UpstreamClosed,
    /// The connection ended before an answer, the request may have been carried out, and it is not
    /// one that may be repeated.
    SentUnknown,
    /// What the instance answered is no valid HTTP.
    BadResponse,
    /// No response head in time.
    Timeout,
    /// The deadline has passed: the app's own, or the service's `deadline`.
    DeadlineExceeded,
    /// The app fell silent in the middle of its request body.
    BodyTimeout,
    /// The app went away. Never sent; in metrics and logs.
    ClientGone,
    /// Stopping: the request was cut after the drain's time-out. Never sent.
    Drained,
    /// A fault of the sidecar.
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

    /// The word for the header, the body, metrics and the log.
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

    /// The status it is answered with. 499 is never sent; it stands in metrics and logs.
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

    /// One sentence for people, the problem body's `title`.
    pub fn title(self) -> &'static str {
        match self {
            Self::BadRequest => "The request cannot be read in one way only",
            Self::BadBody => "The request body breaks its own framing",
            Self::SlowHead => "The request head did not arrive in time",
            Self::HeadTooLarge => "The request head is too large",
            Self::UriTooLong => "The request target is too long",
            Self::MethodNotAllowed => "CONNECT is not offered here",
            Self::ExpectationFailed => "Only Expect: 100-continue is understood",
            Self::OutsideHost => "The Host is not a service of the registry",
            Self::ForbiddenOrigin => "Browser requests from elsewhere are refused",
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
            Self::ConnectFailed => "No instance could be connected to",
            Self::ConnectTimeout => "No instance accepted a connection in time",
            Self::UpstreamClosed => "The instance closed the connection before it answered",
            Self::SentUnknown => "The instance closed the connection; whether it acted is not known",
            Self::BadResponse => "The instance's answer is no valid HTTP",
            Self::Timeout => "The service did not answer in time",
            Self::DeadlineExceeded => "The request's deadline has passed",
            Self::BodyTimeout => "The request body stopped arriving",
            Self::ClientGone => "The app went away",
            Self::Drained => "The sidecar is stopping",
            Self::Internal => "The sidecar failed",
        }
    }

    /// Whether the app's connection is closed after the answer: what follows on it cannot be trusted
    /// or would have to be read first.
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

/// What logs and metrics say when the app went away (nginx's number).
const CLIENT_GONE: StatusCode = match StatusCode::from_u16(499) {
    Ok(status) => status,
    Err(_) => StatusCode::REQUEST_TIMEOUT,
};

/// A refusal: the reason, and what was known.
#[derive(Debug, Clone)]
pub(crate) struct Refusal {
    pub(crate) reason: Reason,
    /// What the sidecar knew, for the problem body's `detail`.
    pub(crate) detail: String,
    /// Seconds after which trying again makes sense.
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
    fn every_reason_has_a_word_of_its_own() {
        let words: BTreeSet<_> = Reason::ALL.iter().map(|reason| reason.label()).collect();
        assert_eq!(words.len(), Reason::ALL.len());
    }

    #[test]
    fn every_reason_is_answered_as_an_error() {
        for reason in Reason::ALL {
            assert!(reason.status().as_u16() >= 400, "{}", reason.label());
        }
    }
}
