//! A request as the handlers read it.

use bytes::Bytes;
use http::Method;

use super::query::QueryParams;

/// Largest body of a request, bytes. Also Consul's limit of a key's value and of a transaction: their handlers refuse more
/// themselves.
pub(super) const BODY_MAX: usize = 512 * 1024;

/// A request, taken apart.
#[derive(Debug)]
pub(super) struct ApiRequest {
    pub(super) method: Method,
    /// What follows the endpoint's path, decoded.
    pub(super) path_rest: String,
    pub(super) query: QueryParams,
    /// Empty where the `Content-Length` is too large and the handler refuses it.
    pub(super) body: Bytes,
    /// The `Content-Length`. `None`: there is none, for the length is not known.
    pub(super) declared_length: Option<u64>,
    /// The header `Accept`; empty without one.
    pub(super) accept: String,
}

impl ApiRequest {
    /// The body, for endpoints that read none of unknown length in Consul.
    pub(super) fn body_of_known_length(&self) -> &[u8] {
        if self.declared_length.is_some() { &self.body } else { &[] }
    }
}

/// Whether an `Accept` header asks for metrics in the format of Prometheus, as Consul reads it.
pub(super) fn accepts_open_metrics(accept: &str) -> bool {
    accept.split(',').any(|kind| {
        let (name, parameter) = kind.split_once(';').unwrap_or((kind, ""));
        match name.trim().to_lowercase().as_str() {
            "application/openmetrics-text" => true,
            "text/plain" => parameter.split(';').next().is_some_and(|first| first.trim() == "version=0.4.0"),
            _ => false,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prometheus_is_known_by_what_it_accepts() {
        for accept in [
            "application/openmetrics-text; version=0.0.1",
            "text/html, Application/OpenMetrics-Text",
            "text/plain;version=0.4.0",
        ] {
            assert!(accepts_open_metrics(accept), "{accept}");
        }
        for accept in ["", "text/plain", "*/*", "text/plain;version=0.0.4", "text/plain;q=1;version=0.4.0"] {
            assert!(!accepts_open_metrics(accept), "{accept}");
        }
    }
}
