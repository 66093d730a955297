//! An answer with Consul's headers, in Consul's order.

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, Response, StatusCode, header};
use http_body_util::Full;
use serde::Serialize;

use super::request::ApiRequest;
use crate::wire::{self, request::Refusal};

/// The response that hyper sends.
pub(crate) type HttpResponse = Response<Full<Bytes>>;

/// An answer before it becomes an [`HttpResponse`].
#[derive(Debug)]
pub(super) struct Reply {
    status: StatusCode,
    headers: Vec<(HeaderName, HeaderValue)>,
    /// A text: its `Content-Type` is the last header.
    is_plain_text: bool,
    body: Bytes,
}

const VARY: (HeaderName, HeaderValue) = (header::VARY, HeaderValue::from_static("Accept-Encoding"));

impl Reply {
    /// JSON, indented with `?pretty`.
    pub(super) fn json<T: Serialize>(value: &T, call: &ApiRequest) -> Self {
        match wire::to_json(value, call.query.has("pretty")) {
            Ok(json) => Self {
                status: StatusCode::OK,
                headers: vec![(header::CONTENT_TYPE, HeaderValue::from_static("application/json")), VARY],
                is_plain_text: false,
                body: json.into(),
            },
            Err(error) => Self::internal_error(error.to_string()),
        }
    }

    /// A text without a line end, as in Consul.
    pub(super) fn text(status: StatusCode, text: &str) -> Self {
        let body = Bytes::copy_from_slice(text.as_bytes());
        Self { status, headers: vec![VARY], is_plain_text: true, body }
    }

    /// 500 with a text.
    pub(super) fn internal_error(text: impl AsRef<str>) -> Self {
        Self::text(StatusCode::INTERNAL_SERVER_ERROR, text.as_ref())
    }

    /// One of the plain values of `agent/health`, or the raw value of a key.
    pub(super) fn plain_value(body: impl Into<Bytes>) -> Self {
        let kind = (header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
        Self { status: StatusCode::OK, headers: vec![kind, VARY], is_plain_text: false, body: body.into() }
    }

    /// 200 without a body.
    pub(super) fn empty() -> Self {
        Self { headers: vec![VARY], ..Self::bare(StatusCode::OK) }
    }

    /// A status without headers and body.
    pub(super) fn bare(status: StatusCode) -> Self {
        Self { status, headers: Vec::new(), is_plain_text: false, body: Bytes::new() }
    }

    /// The answer to a path with a bad escape, which Go's server refuses before Consul sees it.
    pub(super) fn bad_escape() -> Self {
        let refusal = Self::text(StatusCode::BAD_REQUEST, "400 Bad Request");
        Self { headers: Vec::new(), ..refusal }.with_connection_close()
    }

    /// The answer to `/`.
    pub(super) fn root() -> Self {
        Self { headers: Vec::new(), ..Self::text(StatusCode::OK, "Consul Agent") }
    }

    /// A redirect to `path` with this query, as Go's `ServeMux` answers.
    pub(super) fn moved_to(path: &str, query: Option<&str>, method: &Method) -> Self {
        let mut reply = Self::bare(StatusCode::MOVED_PERMANENTLY);
        let mut to = percent_encoding::utf8_percent_encode(path, PATH).to_string();
        if let Some(query) = query {
            to.push('?');
            to.extend(percent_encoding::utf8_percent_encode(query, percent_encoding::CONTROLS));
        }
        if *method == Method::GET {
            reply = reply.with_header(header::CONTENT_TYPE, "text/html; charset=utf-8");
            let href = html_escape(&to);
            reply.body = format!("<a href=\"{href}\">Moved Permanently</a>.\n\n").into();
        }
        reply.with_header(header::LOCATION, &to)
    }

    pub(super) fn status(&self) -> StatusCode {
        self.status
    }

    /// With another status.
    pub(super) fn with_status(mut self, status: StatusCode) -> Self {
        self.status = status;
        self
    }

    /// With one more header; a header with an invalid value is left out.
    pub(super) fn with_header(mut self, name: HeaderName, value: &str) -> Self {
        if let Ok(value) = HeaderValue::from_str(value) {
            self.headers.push((name, value));
        }
        self
    }

    /// With the allowed methods.
    pub(super) fn with_allow(mut self, methods: &[&str]) -> Self {
        let allowed = format!("OPTIONS,{}", methods.join(","));
        if let Ok(value) = HeaderValue::from_str(&allowed) {
            self.headers.insert(0, (header::ALLOW, value));
        }
        self
    }

    /// Closes the connection after the answer.
    pub(super) fn with_connection_close(self) -> Self {
        self.with_header(header::CONNECTION, "close")
    }

    pub(super) fn into_response(mut self) -> HttpResponse {
        // Go writes them in this order.
        self.headers.sort_by(|(a, _), (b, _)| a.as_str().cmp(b.as_str()));
        let mut answer = Response::new(Full::new(self.body));
        *answer.status_mut() = self.status;
        for (name, value) in self.headers {
            answer.headers_mut().append(name, value);
        }
        if self.is_plain_text {
            let kind = HeaderValue::from_static("text/plain; charset=utf-8");
            answer.headers_mut().append(header::CONTENT_TYPE, kind);
        }
        answer
    }
}

impl From<Refusal> for Reply {
    fn from(Refusal(status, text): Refusal) -> Self {
        Self::text(status, &text)
    }
}

/// As Go's net/http escapes the address in the page of a redirect.
fn html_escape(text: &str) -> String {
    let escapes = [("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ("\"", "&#34;"), ("'", "&#39;")];
    escapes.iter().fold(text.to_owned(), |text, (sign, escape)| text.replace(sign, escape))
}

/// The characters that are escaped in a path.
const PATH: &percent_encoding::AsciiSet =
    &percent_encoding::CONTROLS.add(b' ').add(b'"').add(b'<').add(b'>').add(b'?').add(b'#').add(b'%');
