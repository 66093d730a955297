//! The closed list of reasons for which the sidecar itself responds.
//!
//! The same labels stand in `x-outrigger-error`, in the problem body, in metrics and in the log. This file
//! only names the reasons: `request/reject.rs` makes a response of one.

use outrigger_http1::RefusalKind;

/// Makes [`Reason`] of the list of all reasons: name, status, label, and title of the problem body.
macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident: $status:literal, $label:literal, $title:literal;)*) => {
        /// Why the sidecar responded instead of an instance.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Reason {
            $($(#[$doc])* $name,)*
        }

        impl Reason {
            /// Every reason, in the order of the documentation.
            pub const ALL: [Self; [$($label),*].len()] = [$(Self::$name),*];

            /// The label for the header, the body, metrics and the log.
            pub fn label(self) -> &'static str {
                match self { $(Self::$name => $label),* }
            }

            /// The status of the response. 499 (nginx's number) is never sent; it stands in metrics and logs.
            pub fn status(self) -> u16 {
                match self { $(Self::$name => $status),* }
            }

            /// The `title` of the problem body.
            pub fn title(self) -> &'static str {
                match self { $(Self::$name => $title),* }
            }
        }
    };
}

reasons! {
    /// The head or the framing of the request is invalid or ambiguous.
    BadRequest: 400, "bad_request", "The request is invalid or ambiguous";
    /// The body of the request breaks its framing.
    BadBody: 400, "bad_body", "The request body breaks its own framing";
    /// The head did not arrive in time, counted from its first byte.
    SlowHead: 408, "slow_head", "The request head did not arrive in time";
    /// The head has more bytes or more fields than allowed.
    HeadTooLarge: 431, "head_too_large", "The request head is too large";
    /// The request target is longer than allowed.
    UriTooLong: 414, "uri_too_long", "The request target is too long";
    /// The method is `CONNECT`, where that is not offered.
    MethodNotAllowed: 405, "method_not_allowed", "CONNECT is not offered here";
    /// The transfer coding is not exactly one `chunked`.
    UnsupportedCoding: 501, "unsupported_coding", "Only the transfer coding chunked is supported";
    /// The version is not HTTP/1.
    UnsupportedVersion: 505, "unsupported_version", "Only HTTP/1 is spoken here";
    /// The Host is an IP address or a name outside the registry: this is no open proxy.
    OutsideHost: 421, "outside_host", "The Host is not a service of the registry";
    /// The settings say that the service does not speak HTTP.
    NotHttp: 421, "not_http", "The service does not speak HTTP";
    /// A browser sent the request from another origin.
    ForbiddenOrigin: 403, "forbidden_origin", "Browser requests from other origins are refused";
    /// A browser sent the request to the name of a service, which DNS resolves to this sidecar.
    BrowserRefused: 403, "browser_refused", "Browser requests to the names of services are refused";
    /// The Host is the sidecar's own address, and the path names no service.
    NoRoute: 404, "no_route", "The path names no service";
    /// The request has passed through this sidecar before.
    LoopDetected: 508, "loop_detected", "The request came back to this sidecar";
    /// The registry answered that no instance has this name.
    UnknownService: 404, "unknown_service", "The registry knows no instance of this service";
    /// The registry has not answered for this name yet.
    RegistryUnknown: 503, "registry_unknown", "The registry has not answered for this service yet";
    /// The service has instances, but none is usable.
    NoUsableInstance: 503, "no_usable_instance", "No instance of the service is usable";
    /// The traffic rules send the request to a subset of the service, and none of its instances is usable.
    SubsetEmpty: 503, "subset_empty", "No instance of the subset is usable";
    /// The limit of watched services is reached.
    TooManyServices: 503, "too_many_services", "Too many services are in use";
    /// The circuit breaker is open.
    CircuitOpen: 503, "circuit_open", "The service's circuit breaker is open";
    /// The limit of requests that wait for the instance is reached.
    Overloaded: 503, "overloaded", "Too many requests wait for the instance";
    /// The bulkhead rejected the request: `max_in_flight` requests to the service were in flight.
    BulkheadFull: 503, "bulkhead_full", "Too many requests to the service are under way";
    /// The limit of open app connections is reached.
    TooManyConnections: 503, "too_many_connections", "Too many connections are open";
    /// This machine has no file descriptor, port or memory left.
    LocalResource: 503, "local_resource", "This machine lacks a resource, or a way to the instances";
    /// No connect to an instance succeeded.
    ConnectFailed: 502, "connect_failed", "No connection to an instance could be made";
    /// No TLS session with an instance could be made.
    TlsFailed: 502, "tls_failed", "No TLS connection to an instance could be made";
    /// No instance accepted a connection in time.
    ConnectTimeout: 504, "connect_timeout", "No instance accepted a connection in time";
    /// The connection ended before a response; a retry was safe, and did not help.
    UpstreamClosed: 502, "upstream_closed", "The instance closed the connection before it answered";
    /// The connection ended before a response; the request may have been carried out, and must not be
    /// repeated.
    SentUnknown: 502, "sent_unknown", "The instance closed the connection; whether it acted is not known";
    /// The response of the instance is no valid HTTP.
    BadResponse: 502, "bad_response", "The response of the instance is no valid HTTP";
    /// The settings or the registry say HTTP/2, and the instance answered its preface with HTTP/1.
    Http1Instance: 502, "http1_instance", "The instance speaks HTTP/1, not HTTP/2";
    /// The body has no length, is too long to be kept, and the instance speaks HTTP/1.0, which has no chunks.
    LengthUnknown: 502, "length_unknown", "The instance takes no body of an unknown length";
    /// No response head arrived in time.
    Timeout: 504, "timeout", "The service did not answer in time";
    /// The app's own deadline, or the service's `deadline`, has passed.
    DeadlineExceeded: 504, "deadline_exceeded", "The request's deadline has passed";
    /// The app stopped sending in the middle of its request body.
    BodyTimeout: 408, "body_timeout", "The request body stopped arriving";
    /// The app took more of a connection of HTTP/2 than is allowed: streams that it reset at once, frames without data, a head without
    /// an end. Never sent: the connection ends with ENHANCE_YOUR_CALM. In metrics.
    Http2Abuse: 429, "http2_abuse", "The connection of HTTP/2 took more than is allowed";
    /// The app disconnected. Never sent; in metrics and logs.
    ClientGone: 499, "client_gone", "The app disconnected";
    /// The sidecar is stopping: it watches no new service, or it has ended the request, which is then not sent.
    Drained: 503, "drained", "The sidecar is stopping";
    /// The sidecar failed.
    Internal: 500, "internal", "The sidecar failed";
}

impl Reason {
    /// The reason phrase of its status (RFC 9110 §15).
    pub(crate) fn phrase(self) -> &'static str {
        match self.status() {
            400 => "Bad Request",
            403 => "Forbidden",
            404 => "Not Found",
            405 => "Method Not Allowed",
            408 => "Request Timeout",
            414 => "URI Too Long",
            429 => "Too Many Requests",
            421 => "Misdirected Request",
            431 => "Request Header Fields Too Large",
            500 => "Internal Server Error",
            501 => "Not Implemented",
            502 => "Bad Gateway",
            503 => "Service Unavailable",
            504 => "Gateway Timeout",
            505 => "HTTP Version Not Supported",
            508 => "Loop Detected",
            _ => "Error",
        }
    }

    /// Whether the app's connection is closed after the response, because the bytes that follow cannot be
    /// parsed reliably or would have to be read first.
    pub(crate) fn closes_connection(self) -> bool {
        matches!(
            self,
            Self::BadRequest
                | Self::BadBody
                | Self::LengthUnknown
                | Self::SlowHead
                | Self::HeadTooLarge
                | Self::UriTooLong
                | Self::MethodNotAllowed
                | Self::UnsupportedCoding
                | Self::UnsupportedVersion
                | Self::TooManyConnections
                | Self::BodyTimeout
        )
    }
}

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

    /// Whether it is that of `CONNECT`, which is no request to an instance.
    pub(crate) fn is_connect(&self) -> bool {
        self.reason == Reason::MethodNotAllowed
    }

    /// A refusal that may be over in a second.
    pub(crate) fn for_now(reason: Reason, detail: String) -> Self {
        Self { reason, detail, retry_after: Some(std::time::Duration::from_secs(1)) }
    }
}

impl From<outrigger_http1::Refusal> for Refusal {
    fn from(refusal: outrigger_http1::Refusal) -> Self {
        let reason = match refusal.kind {
            RefusalKind::Malformed | RefusalKind::Http2Preface => Reason::BadRequest,
            RefusalKind::HeadTooLarge | RefusalKind::TooManyFields => Reason::HeadTooLarge,
            RefusalKind::TargetTooLong => Reason::UriTooLong,
            RefusalKind::Version => Reason::UnsupportedVersion,
            RefusalKind::TransferCoding => Reason::UnsupportedCoding,
            RefusalKind::Body => Reason::BadBody,
        };
        Self::new(reason, refusal.detail)
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
            assert!(reason.status() >= 400, "{}", reason.label());
        }
    }
}
