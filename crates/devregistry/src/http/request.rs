//! A request as the handlers read it.

use bytes::Bytes;
use http::Method;

use super::query::QueryParams;

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
    /// `Accept` is exactly `text/plain`.
    pub(super) accepts_plain_text: bool,
}
