//! The only place where a reason becomes a response.

use outrigger_http1::Outbox;
use serde_json::json;

use crate::{
    reason::{Reason, Refusal},
    request::{fields, grpc},
};

/// What a response of the sidecar itself depends on, beside its reason.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RejectionStyle {
    /// Attempts that were made.
    pub(crate) attempts: u32,
    /// The request's method is HEAD.
    pub(crate) is_head: bool,
    /// The app reads errors as those of gRPC.
    pub(crate) is_grpc: bool,
    /// The `Connection` field line, with its CRLF; may be empty.
    pub(crate) connection_line: &'static str,
}

/// The field line that announces the end of the connection (RFC 9112 §9.6).
pub(crate) const CLOSE_LINE: &str = "Connection: close\r\n";

impl RejectionStyle {
    /// For a connection that is closed because no request could be read from it.
    pub(crate) const CLOSING: Self =
        Self { attempts: 0, is_head: false, is_grpc: false, connection_line: CLOSE_LINE };
}

/// The problem body of RFC 9457. `type` names the reason; `detail` says what was known.
fn problem(refusal: &Refusal, attempts: u32) -> String {
    let mut body = json!({
        "type": format!("urn:outrigger:{}", refusal.reason.label()),
        "title": refusal.reason.title(),
        "status": refusal.reason.status(),
        "reason": refusal.reason.label(),
        "detail": refusal.detail,
    });
    if attempts > 0 {
        body["attempts"] = attempts.into();
    }
    let mut text = body.to_string();
    text.push('\n');
    text
}

/// Writes the response of a refusal.
pub(crate) fn write_rejection(refusal: &Refusal, style: RejectionStyle, outbox: &mut Outbox) {
    let reason = refusal.reason;
    if style.is_grpc {
        return write_grpc_rejection(refusal, outbox);
    }
    let body = problem(refusal, style.attempts);
    let mut head = format!(
        "HTTP/1.1 {} {}\r\ncontent-type: application/problem+json\r\ncache-control: no-store\r\n{}: {}\r\n\
         content-length: {}\r\ndate: {}\r\n",
        reason.status(),
        reason.phrase(),
        fields::ERROR,
        reason.label(),
        body.len(),
        http_date(),
    );
    if let Some(after) = refusal.retry_after {
        // Whole seconds, rounded up: a client that comes back too early is refused again.
        let seconds = after.as_millis().div_ceil(1000).max(1);
        head.push_str(&format!("retry-after: {seconds}\r\n"));
    }
    if reason == Reason::MethodNotAllowed {
        head.push_str("allow: GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS\r\n");
    }
    head.push_str(style.connection_line);
    head.push_str("\r\n");
    outbox.push(head.as_bytes());
    if !style.is_head {
        outbox.push(body.as_bytes());
    }
}

/// Writes the response of a refusal as gRPC reads it: HTTP 200, and nothing but fields ("Trailers-Only" of "gRPC over HTTP2").
fn write_grpc_rejection(refusal: &Refusal, outbox: &mut Outbox) {
    let mut head = b"HTTP/1.1 200 OK\r\ncontent-type: application/grpc\r\n".to_vec();
    grpc::write_status(refusal.reason, &refusal.detail, &mut head);
    if let Some(after) = refusal.retry_after {
        head.extend_from_slice(
            format!("retry-after: {}\r\n", after.as_millis().div_ceil(1000).max(1)).as_bytes(),
        );
    }
    head.extend_from_slice(b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n");
    outbox.push(&head);
}

/// Writes the response to a TRACE or OPTIONS with `Max-Forwards: 0` (RFC 9110 §7.6.2). A TRACE is not echoed, because its
/// head may hold credentials (§9.3.8). `connection_line` is as in [`RejectionStyle`].
pub(crate) fn write_end_of_forwarding(connection_line: &str, outbox: &mut Outbox) {
    let head = format!(
        "HTTP/1.1 200 OK\r\nallow: GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS\r\ncontent-length: 0\r\n\
         date: {}\r\n{connection_line}\r\n",
        http_date(),
    );
    outbox.push(head.as_bytes());
}

#[expect(clippy::disallowed_methods, reason = "the Date field is wall time for the app (RFC 9110 §6.6.1)")]
fn http_date() -> String {
    httpdate::fmt_http_date(std::time::SystemTime::now())
}
