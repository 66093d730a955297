//! A request as the handlers read it.

use bytes::Bytes;

use super::query::QueryParams;

/// A request, taken apart.
#[derive(Debug)]
pub(super) struct ApiRequest {
    /// What follows the endpoint's path, decoded.
    pub(super) path_rest: String,
    pub(super) query: QueryParams,
    pub(super) body: Bytes,
    /// `Accept` is exactly `text/plain`.
    pub(super) accepts_plain_text: bool,
}
