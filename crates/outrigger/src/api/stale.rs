//! The fields of an answer that the registry has not confirmed.

use std::time::Duration;

use axum::http::{HeaderMap, HeaderName, HeaderValue, header};

/// The answer is what the registry said last, and it does not answer now.
const STALE: HeaderName = HeaderName::from_static("x-outrigger-stale");

/// Marks an answer that is `age` old (RFC 9111 §5.1); absent: its age is not known.
pub(super) fn mark_stale(fields: &mut HeaderMap, age: Option<Duration>) {
    fields.insert(STALE, HeaderValue::from_static("true"));
    fields.extend(age.map(|age| (header::AGE, age.as_secs().into())));
}
