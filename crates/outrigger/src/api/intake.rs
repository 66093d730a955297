//! What every request must be: its path is text, and its body is small and comes soon.

use std::{borrow::Cow, time::Duration};

use axum::{
    body::{Body, to_bytes},
    extract::Request,
    http::{HeaderMap, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use http_body_util::LengthLimitError;
use hyper::body::Body as _;
use percent_encoding::percent_decode_str;
use tokio::time::timeout;

use super::{problem::ApiProblem, reason::ApiReason};

/// Largest body, bytes.
const MAX_BODY: usize = 64 * 1024;
/// Longest time for the body.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// The middleware: what follows has the whole body.
pub(super) async fn check_request(request: Request, next: Next) -> Response {
    if let Err(problem) = decode_path(request.uri().path()) {
        return problem.into_response();
    }
    if request.body().is_end_stream() {
        return next.run(request).await;
    }
    let (head, body) = request.into_parts();
    match read_body(&head.headers, body).await {
        Ok(body) => next.run(Request::from_parts(head, body)).await,
        Err(problem) => problem.into_response(),
    }
}

/// A path without its escapes.
///
/// # Errors
/// When an escape is none, or the path is not UTF-8.
pub(super) fn decode_path(path: &str) -> Result<Cow<'_, str>, ApiProblem> {
    let is_escape = |at: usize| {
        path.as_bytes().get(at + 1..at + 3).is_some_and(|two| two.iter().all(u8::is_ascii_hexdigit))
    };
    if path.bytes().enumerate().any(|(at, byte)| byte == b'%' && !is_escape(at)) {
        return Err(ApiProblem::bad_request("a % of the path is not followed by two hexadecimal digits"));
    }
    percent_decode_str(path).decode_utf8().map_err(|_| ApiProblem::bad_request("the path is not UTF-8"))
}

async fn read_body(headers: &HeaderMap, body: Body) -> Result<Body, ApiProblem> {
    let length = headers.get(header::CONTENT_LENGTH).and_then(|text| text.to_str().ok()?.parse().ok());
    if length.is_some_and(|length: usize| length > MAX_BODY) {
        return Err(too_large());
    }
    match timeout(BODY_TIMEOUT, to_bytes(body, MAX_BODY)).await {
        Ok(Ok(bytes)) => Ok(bytes.into()),
        Ok(Err(error)) => {
            let source = std::error::Error::source(&error);
            Err(match source.is_some_and(|source| source.is::<LengthLimitError>()) {
                true => too_large(),
                false => ApiProblem::bad_request(format!("the body cannot be read: {error}")),
            })
        }
        Err(_) => {
            let detail = format!("the body did not come within {} s", BODY_TIMEOUT.as_secs());
            Err(ApiProblem::new(ApiReason::BodyTimeout, detail))
        }
    }
}

fn too_large() -> ApiProblem {
    ApiProblem::new(ApiReason::BodyTooLarge, format!("a body has at most {MAX_BODY} bytes"))
}
