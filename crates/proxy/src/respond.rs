//! The only place where a reason becomes an answer.

use bytes::Bytes;
use http::{
    HeaderValue, Method, Response, StatusCode,
    header::{ALLOW, CACHE_CONTROL, CONNECTION, CONTENT_TYPE, RETRY_AFTER},
};
use serde_json::json;

use crate::{
    body::ResponseBody,
    headers,
    reason::{Reason, Refusal},
    request::account::RequestAccount,
};

/// The problem body of RFC 9457. `type` names the reason; `detail` says what was known.
fn problem(refusal: &Refusal, attempts: u32) -> Bytes {
    let mut body = json!({
        "type": format!("urn:outrigger:{}", refusal.reason.label()),
        "title": refusal.reason.title(),
        "status": refusal.reason.status().as_u16(),
        "reason": refusal.reason.label(),
        "detail": refusal.detail,
    });
    if attempts > 0 {
        body["attempts"] = attempts.into();
    }
    let mut text = body.to_string();
    text.push('\n');
    text.into()
}

/// Answers the app with a refusal.
pub(crate) fn refuse(refusal: &Refusal, mut exchange: RequestAccount) -> Response<ResponseBody> {
    exchange.record_answer(refusal.reason.status(), Some(refusal.reason));
    // hyper closes after an answer to a body that was not read; the app must hear of it, or its next
    // request goes out on a connection that is about to end.
    let unread = exchange.has_unread_body();
    let data = problem(refusal, exchange.attempts);
    let mut response = Response::new(ResponseBody::made(data, exchange));
    *response.status_mut() = refusal.reason.status();
    let map = response.headers_mut();
    map.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    map.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    map.insert(headers::ERROR, HeaderValue::from_static(refusal.reason.label()));
    if let Some(after) = refusal.retry_after {
        // Whole seconds, rounded up: a client that comes back too early is refused again.
        let seconds = after.as_millis().div_ceil(1000).max(1) as u64;
        map.insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    if refusal.reason == Reason::MethodNotAllowed {
        map.insert(ALLOW, HeaderValue::from_static("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"));
    }
    if refusal.reason.closes_connection() || unread {
        map.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// The same as bytes, for a connection that has no codec: a head that never ended, or one connection
/// too many.
pub(crate) fn refuse_raw(refusal: &Refusal) -> Vec<u8> {
    let status: StatusCode = refusal.reason.status();
    let body = problem(refusal, 0);
    let mut raw = format!(
        "HTTP/1.1 {} {}\r\ncontent-type: application/problem+json\r\ncache-control: no-store\r\n{}: {}\r\n\
         content-length: {}\r\nconnection: close\r\n\r\n",
        status.as_u16(),
        status.canonical_reason().unwrap_or("Error"),
        headers::ERROR,
        refusal.reason.label(),
        body.len(),
    )
    .into_bytes();
    raw.extend_from_slice(&body);
    raw
}

/// Whether an answer to this request carries no body whatever its fields say (RFC 9110 §6.4.1).
pub(crate) fn bodiless(method: &Method, status: StatusCode) -> bool {
    method == Method::HEAD || status == StatusCode::NO_CONTENT || status == StatusCode::NOT_MODIFIED
}
