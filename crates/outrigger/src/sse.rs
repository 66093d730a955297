//! Server-sent events (WHATWG HTML, section 9.2): what the streams of the admin side and of the API have in common.

use std::{convert::Infallible, fmt::Display, time::Duration};

use axum::{
    body::{Body, Bytes},
    http::{HeaderMap, HeaderValue, header},
    response::{IntoResponse, Response},
};
use futures_util::Stream;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};

/// Pause after which a stream without events gets a comment, so that either side learns of a dead connection.
pub(crate) const COMMENT_INTERVAL: Duration = Duration::from_secs(5);

const EVENT_STREAM: &str = "text/event-stream";

/// What a stream begins with: the pause of a client before it connects again, milliseconds.
pub(crate) const RETRY_FRAME: &str = "retry: 1000\n\n";

/// Whether a request asks for server-sent events.
pub(crate) fn accepts_stream(headers: &HeaderMap) -> bool {
    let accepted = headers.get_all(header::ACCEPT).iter().filter_map(|accept| accept.to_str().ok());
    let mut types = accepted.flat_map(|accept| accept.split(','));
    types.any(|one| one.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case(EVENT_STREAM))
}

/// One event. `name` absent: `message`. `id` absent: the client keeps the last one. Neither has a line break, and neither has `data`.
pub(crate) fn frame(name: Option<&str>, id: Option<&dyn Display>, data: &dyn Display) -> String {
    let id = id.map(|id| format!("id: {id}\n")).unwrap_or_default();
    let name = name.map(|name| format!("event: {name}\n")).unwrap_or_default();
    format!("{id}{name}data: {data}\n\n")
}

/// Ticks when a comment is due, for the first time after one interval.
pub(crate) fn comments() -> Interval {
    let mut comments = interval_at(Instant::now() + COMMENT_INTERVAL, COMMENT_INTERVAL);
    comments.set_missed_tick_behavior(MissedTickBehavior::Delay);
    comments
}

/// The response with these frames and comments.
pub(crate) fn stream_response<S>(frames: S) -> Response
where
    S: Stream<Item = Result<Bytes, Infallible>> + Send + 'static,
{
    let mut response = Body::from_stream(frames).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(EVENT_STREAM));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_asks_for_a_stream_by_accept() {
        for (accept, expected) in [
            ("text/event-stream", true),
            ("application/json, TEXT/event-stream;q=0.5", true),
            ("*/*", false),
            ("text/*", false),
            ("application/json", false),
        ] {
            let headers = HeaderMap::from_iter([(header::ACCEPT, HeaderValue::from_static(accept))]);
            assert_eq!(accepts_stream(&headers), expected, "{accept}");
        }
    }

    #[test]
    fn a_frame_ends_with_an_empty_line() {
        assert_eq!(frame(None, Some(&7), &"{}"), "id: 7\ndata: {}\n\n");
        assert_eq!(frame(Some("lost"), None, &"{}"), "event: lost\ndata: {}\n\n");
    }
}
