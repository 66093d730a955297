//! What goes back, with Consul's headers in its order.

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, Response, StatusCode, header};
use http_body_util::Full;
use serde::Serialize;

use super::request::ApiRequest;
use crate::wire::{self, request::Refusal};

/// What hyper sends.
pub(crate) type HttpResponse = Response<Full<Bytes>>;

/// An answer in the making.
#[derive(Debug)]
pub(super) struct Reply {
    status: StatusCode,
    headers: Vec<(HeaderName, HeaderValue)>,
    /// It is a sentence; those name their type last.
    is_plain_text: bool,
    body: Bytes,
}

const VARY: (HeaderName, HeaderValue) = (header::VARY, HeaderValue::from_static("Accept-Encoding"));

impl Reply {
    /// JSON, pretty when the call wants it so.
    pub(super) fn json<T: Serialize>(value: &T, call: &ApiRequest) -> Self {
        match wire::to_json(value, call.query.has("pretty")) {
            Ok(json) => Self {
                status: StatusCode::OK,
                headers: vec![(header::CONTENT_TYPE, HeaderValue::from_static("application/json")), VARY],
                is_plain_text: false,
                body: json.into(),
            },
            Err(error) => Self::text(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
        }
    }

    /// A sentence. No line end, as Consul.
    pub(super) fn text(status: StatusCode, text: &str) -> Self {
        Self {
            status,
            headers: vec![VARY],
            is_plain_text: true,
            body: Bytes::copy_from_slice(text.as_bytes()),
        }
    }

    /// A bare word of `agent/health`.
    pub(super) fn word(word: &str) -> Self {
        Self {
            status: StatusCode::OK,
            headers: vec![(header::CONTENT_TYPE, HeaderValue::from_static("text/plain")), VARY],
            is_plain_text: false,
            body: Bytes::copy_from_slice(word.as_bytes()),
        }
    }

    /// Done, nothing to say.
    pub(super) fn empty() -> Self {
        Self { headers: vec![VARY], ..Self::bare(StatusCode::OK) }
    }

    /// A status and nothing else.
    pub(super) fn bare(status: StatusCode) -> Self {
        Self { status, headers: Vec::new(), is_plain_text: false, body: Bytes::new() }
    }

    /// What stands at the root.
    pub(super) fn root() -> Self {
        Self { headers: Vec::new(), ..Self::text(StatusCode::OK, "Consul Agent") }
    }

    /// No such path.
    pub(super) fn unknown_path() -> Self {
        Self::bare(StatusCode::NOT_FOUND)
    }

    /// The path is another one.
    pub(super) fn moved_to(to: &str, method: &Method) -> Self {
        let mut reply = Self::bare(StatusCode::MOVED_PERMANENTLY);
        let to = percent_encoding::utf8_percent_encode(to, PATH).to_string();
        if *method == Method::GET {
            reply = reply.with_header(header::CONTENT_TYPE, "text/html; charset=utf-8");
            reply.body = format!("<a href=\"{to}\">Moved Permanently</a>.\n\n").into();
        }
        reply.with_header(header::LOCATION, &to)
    }

    /// With another status.
    pub(super) fn with_status(mut self, status: StatusCode) -> Self {
        self.status = status;
        self
    }

    /// With one more header; one whose value cannot be written is left out.
    pub(super) fn with_header(mut self, name: HeaderName, value: &str) -> Self {
        if let Ok(value) = HeaderValue::from_str(value) {
            self.headers.push((name, value));
        }
        self
    }

    /// With the methods that the path has.
    pub(super) fn with_allow(mut self, methods: &[&str]) -> Self {
        let allowed = format!("OPTIONS,{}", methods.join(","));
        if let Ok(value) = HeaderValue::from_str(&allowed) {
            self.headers.insert(0, (header::ALLOW, value));
        }
        self
    }

    /// The connection is closed after it.
    pub(super) fn with_connection_close(self) -> Self {
        self.with_header(header::CONNECTION, "close")
    }

    pub(super) fn into_response(self) -> HttpResponse {
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

/// What a path in a header cannot hold as it is.
const PATH: &percent_encoding::AsciiSet =
    &percent_encoding::CONTROLS.add(b' ').add(b'"').add(b'<').add(b'>').add(b'?').add(b'#').add(b'%');
