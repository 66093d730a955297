//! Heads and trailers of HTTP/2 as those of HTTP/1.1, and the other way (RFC 9113 §8).

use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri,
    header::{CONNECTION, CONTENT_LENGTH, COOKIE, HOST, PROXY_AUTHENTICATE, TE, TRANSFER_ENCODING, UPGRADE},
    uri::{Authority, PathAndQuery, Scheme},
};
use outrigger_http1::{Framing, Head, Name};

/// Fields of one connection, which no message of HTTP/2 carries (RFC 9113 §8.2.2).
fn is_of_connection(name: &HeaderName) -> bool {
    matches!(*name, CONNECTION | TRANSFER_ENCODING | UPGRADE)
        || matches!(name.as_str(), "keep-alive" | "proxy-connection" | "http2-settings")
}

/// A request that is malformed (RFC 9113 §8.1.1): its stream ends with PROTOCOL_ERROR.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Malformed(pub String);

/// How a request of HTTP/2 goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequestForm {
    /// With a body of this framing.
    Body(Framing),
    /// As a tunnel, once a 2xx has come (CONNECT).
    Connect,
    /// As a tunnel, once the switch of protocols has come (Extended CONNECT, RFC 8441).
    ExtendedConnect,
}

/// Writes the head of a request as HTTP/1.1. `protocol`: that of an Extended CONNECT; `key`: the key for it.
/// `is_end`: the request has no body.
///
/// # Errors
/// It is malformed.
pub fn write_request(
    request: &Request<()>,
    protocol: Option<&str>,
    key: Option<&str>,
    is_end: bool,
    out: &mut Vec<u8>,
) -> Result<RequestForm, Malformed> {
    let (uri, headers) = (request.uri(), request.headers());
    let host = host_of(uri, headers)?;
    let form = match (request.method(), protocol) {
        (&Method::CONNECT, Some(protocol)) => {
            let target = target_of(uri)?;
            push(out, &[b"GET ", target.as_bytes(), b" HTTP/1.1\r\n"]);
            push(out, &[b"Connection: Upgrade\r\nUpgrade: ", protocol.as_bytes(), b"\r\n"]);
            if let Some(key) = key {
                push(out, &[b"Sec-WebSocket-Key: ", key.as_bytes(), b"\r\n"]);
            }
            RequestForm::ExtendedConnect
        }
        (&Method::CONNECT, None) => {
            let target = host.as_deref().ok_or_else(|| Malformed("CONNECT without :authority".into()))?;
            push(out, &[b"CONNECT ", target, b" HTTP/1.1\r\n"]);
            RequestForm::Connect
        }
        (method, _) => {
            let target = target_of(uri)?;
            push(out, &[method.as_str().as_bytes(), b" ", target.as_bytes(), b" HTTP/1.1\r\n"]);
            RequestForm::Body(Framing::None)
        }
    };
    if let Some(host) = &host {
        push(out, &[b"Host: ", host, b"\r\n"]);
    }
    let length = content_length(headers)?;
    write_lines(headers, |name| *name == HOST || *name == COOKIE || is_of_connection(name), out);
    write_cookies(headers, out);
    if headers.contains_key(TE) {
        // The next hop is told that TE is its own (RFC 9110 §10.1.4).
        out.extend_from_slice(b"Connection: TE\r\n");
    }
    let RequestForm::Body(_) = form else {
        out.extend_from_slice(b"\r\n");
        return Ok(form);
    };
    let framing = match (length, is_end) {
        (Some(0) | None, true) => {
            // A server that speaks HTTP/1.1 may ask for the length of a request that usually has a body (RFC 9110 §8.6).
            let has_usually = matches!(*request.method(), Method::POST | Method::PUT | Method::PATCH);
            if length.is_none() && has_usually {
                out.extend_from_slice(b"Content-Length: 0\r\n");
            }
            Framing::None
        }
        (Some(0), false) => Framing::None,
        (Some(length), _) => Framing::Length(length),
        (None, false) => {
            out.extend_from_slice(b"Transfer-Encoding: chunked\r\n");
            Framing::Chunked
        }
    };
    out.extend_from_slice(b"\r\n");
    Ok(RequestForm::Body(framing))
}

/// The authority of a request; `:authority` and `Host` agree where both are there (RFC 9113 §8.3.1).
fn host_of(uri: &Uri, headers: &HeaderMap) -> Result<Option<Vec<u8>>, Malformed> {
    let mut hosts = headers.get_all(HOST).iter();
    let host = hosts.next();
    if hosts.next().is_some() {
        return Err(Malformed("more than one Host field".into()));
    }
    let authority = uri.authority().map(Authority::as_str);
    if authority.is_some_and(|text| text.contains('@'))
        || host.is_some_and(|value| value.as_bytes().contains(&b'@'))
    {
        return Err(Malformed(":authority has userinfo".into()));
    }
    match (authority, host) {
        (Some(authority), Some(host)) if !authority.as_bytes().eq_ignore_ascii_case(host.as_bytes()) => {
            Err(Malformed(":authority and Host differ".into()))
        }
        (Some(authority), _) => Ok(Some(authority.as_bytes().to_vec())),
        (None, host) => Ok(host.map(|value| value.as_bytes().to_vec())),
    }
}

/// The target of a request: an origin-form, or `*`.
fn target_of(uri: &Uri) -> Result<&str, Malformed> {
    let target = uri.path_and_query().map_or("", PathAndQuery::as_str);
    if target.starts_with('/') || target == "*" {
        Ok(target)
    } else {
        Err(Malformed(format!("the :path {target:?} is no origin-form")))
    }
}

/// The length that a message announces, as one number.
fn content_length(headers: &HeaderMap) -> Result<Option<u64>, Malformed> {
    let mut length = None;
    for value in headers.get_all(CONTENT_LENGTH) {
        let text = value.to_str().ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
        let number = text.and_then(|text| text.parse().ok());
        let number = number.ok_or_else(|| Malformed("content-length is no number".into()))?;
        if length.is_some_and(|before| before != number) {
            return Err(Malformed("two lengths that differ".into()));
        }
        length = Some(number);
    }
    Ok(length)
}

fn push(out: &mut Vec<u8>, parts: &[&[u8]]) {
    for part in parts {
        out.extend_from_slice(part);
    }
}

fn write_lines(headers: &HeaderMap, skips: impl Fn(&HeaderName) -> bool, out: &mut Vec<u8>) {
    for (name, value) in headers {
        if !skips(name) {
            push(out, &[name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"]);
        }
    }
}

/// The crumbs of a cookie become one line again (RFC 9113 §8.2.3).
fn write_cookies(headers: &HeaderMap, out: &mut Vec<u8>) {
    for (n, crumb) in headers.get_all(COOKIE).iter().enumerate() {
        push(out, &[if n == 0 { b"cookie: " } else { b"; " }, crumb.as_bytes()]);
    }
    if headers.contains_key(COOKIE) {
        out.extend_from_slice(b"\r\n");
    }
}

/// Writes the head of an interim response as HTTP/1.1.
pub fn write_interim(response: &Response<()>, out: &mut Vec<u8>) {
    write_status_line(response.status(), out);
    write_lines(response.headers(), is_of_connection, out);
    out.extend_from_slice(b"\r\n");
}

/// Writes the head of a response as HTTP/1.1, with all of a body that is empty: how what follows is framed there. `is_head`: it
/// answers a HEAD request; `is_end`: nothing follows the head.
///
/// # Errors
/// Its `content-length` is no number.
pub fn write_response(
    response: &Response<()>,
    is_head: bool,
    is_end: bool,
    out: &mut Vec<u8>,
) -> Result<Framing, Malformed> {
    let (status, headers) = (response.status(), response.headers());
    write_status_line(status, out);
    let has_no_body = is_head || matches!(status.as_u16(), 100..=199 | 204 | 304);
    let length = content_length(headers)?;
    // Only chunks carry trailers, and gRPC says everything in them.
    let is_grpc = is_grpc(headers.get(http::header::CONTENT_TYPE).map(HeaderValue::as_bytes));
    let length = length.filter(|_| !is_grpc || has_no_body);
    write_lines(headers, |name| is_of_connection(name) || *name == CONTENT_LENGTH, out);
    if let Some(length) = length {
        push(out, &[b"content-length: ", length.to_string().as_bytes(), b"\r\n"]);
    }
    let framing = match length {
        _ if has_no_body => Framing::None,
        Some(0) => Framing::None,
        Some(length) => Framing::Length(length),
        None => {
            out.extend_from_slice(b"Transfer-Encoding: chunked\r\n");
            Framing::Chunked
        }
    };
    if is_end && matches!(framing, Framing::Length(_)) {
        return Err(Malformed("the response ends before its content-length".into()));
    }
    out.extend_from_slice(b"\r\n");
    if is_end && framing == Framing::Chunked {
        // With the head, so that the other side can end with its head, too.
        out.extend_from_slice(b"0\r\n\r\n");
        return Ok(Framing::None);
    }
    Ok(framing)
}

fn write_status_line(status: StatusCode, out: &mut Vec<u8>) {
    let reason = status.canonical_reason().unwrap_or_default();
    push(out, &[b"HTTP/1.1 ", status.as_str().as_bytes(), b" ", reason.as_bytes(), b"\r\n"]);
}

/// Whether a content type is one of gRPC (`application/grpc`, also with a subtype behind `+`); gRPC-Web is none.
pub fn is_grpc(content_type: Option<&[u8]>) -> bool {
    const GRPC: &[u8] = b"application/grpc";
    content_type.is_some_and(|value| {
        value.get(..GRPC.len()).is_some_and(|start| start.eq_ignore_ascii_case(GRPC))
            && matches!(value.get(GRPC.len()), None | Some(b'+' | b';' | b' ' | b'\t'))
    })
}

/// Trailers as field lines, each with its CRLF.
pub fn write_trailers(trailers: &HeaderMap, out: &mut Vec<u8>) {
    write_lines(trailers, is_of_connection, out);
}

/// What of a head of HTTP/1.1 has no form in HTTP/2.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct NotExpressible(pub String);

/// The head of a request of HTTP/1.1 as one of HTTP/2.
///
/// # Errors
/// HTTP/2 has no form for it.
pub fn request_of(head: &Head, is_tls: bool) -> Result<Request<()>, NotExpressible> {
    let wrong = |what: &str, text: &[u8]| {
        NotExpressible(format!("HTTP/2 cannot carry the {what} \"{}\"", text.escape_ascii()))
    };
    let method = Method::from_bytes(head.method()).map_err(|_| wrong("method", head.method()))?;
    let host = head.first(Name::Host).unwrap_or_default();
    let authority = Authority::try_from(host).map_err(|_| wrong("Host", host))?;
    let target = head.target();
    let path = PathAndQuery::try_from(target)
        .ok()
        .filter(|path| path.as_str().as_bytes() == target)
        .ok_or_else(|| wrong("target", target))?;
    let mut parts = http::uri::Parts::default();
    parts.scheme = Some(if is_tls { Scheme::HTTPS } else { Scheme::HTTP });
    parts.authority = Some(authority);
    parts.path_and_query = Some(path);
    let uri = Uri::from_parts(parts).map_err(|_| wrong("target", target))?;
    let mut request = Request::new(());
    *request.method_mut() = method;
    *request.uri_mut() = uri;
    *request.headers_mut() = fields_of(head, |name| *name == HOST)?;
    Ok(request)
}

/// The head of a response of HTTP/1.1 as one of HTTP/2.
///
/// # Errors
/// HTTP/2 has no form for it.
pub fn response_of(head: &Head) -> Result<Response<()>, NotExpressible> {
    let status = StatusCode::from_u16(head.status())
        .map_err(|_| NotExpressible(format!("HTTP/2 cannot carry the status {}", head.status())))?;
    let mut response = Response::new(());
    *response.status_mut() = status;
    // A 401 or 407 may name schemes of a connection; the fields themselves are of the message.
    *response.headers_mut() = fields_of(head, |name| *name == TE && *name != PROXY_AUTHENTICATE)?;
    Ok(response)
}

fn fields_of(head: &Head, skips: impl Fn(&HeaderName) -> bool) -> Result<HeaderMap, NotExpressible> {
    let mut fields = HeaderMap::with_capacity(head.fields().len());
    for field in head.fields() {
        let (name, value) = (head.name(field), head.value(field));
        append(&mut fields, name, value, &skips)?;
    }
    Ok(fields)
}

fn append(
    fields: &mut HeaderMap,
    name: &[u8],
    value: &[u8],
    skips: impl Fn(&HeaderName) -> bool,
) -> Result<(), NotExpressible> {
    let wrong = || {
        let name = String::from_utf8_lossy(name);
        NotExpressible(format!("HTTP/2 cannot carry the field {name}: \"{}\"", value.escape_ascii()))
    };
    let known = HeaderName::from_bytes(name).map_err(|_| wrong())?;
    if is_of_connection(&known) || skips(&known) {
        return Ok(());
    }
    let value = HeaderValue::from_bytes(value).map_err(|_| wrong())?;
    fields.try_append(known, value).map_err(|_| wrong())?;
    Ok(())
}

/// Trailers, given as field lines with their CRLF, as those of HTTP/2. Lines that HTTP/2 has no form for are left out.
pub fn trailers_of(lines: &[u8]) -> HeaderMap {
    let mut fields = HeaderMap::new();
    for line in lines.split(|byte| *byte == b'\n') {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if let Some(colon) = line.iter().position(|byte| *byte == b':') {
            let value = line[colon + 1..].trim_ascii();
            let _ = append(&mut fields, &line[..colon], value, |_| false);
        }
    }
    fields
}
