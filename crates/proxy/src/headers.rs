//! What of a head travels on, and what is made anew.
//!
//! Hop-by-hop fields end here (RFC 9110 §7.6.1), also those that `Connection` names; framing fields
//! are re-made by hyper from what the body really is. No routing, no decisions about services.

use std::net::IpAddr;

use http::{
    HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, Version,
    header::{
        CONNECTION, CONTENT_LENGTH, EXPECT, HOST, HeaderName as Name, ORIGIN, TE, TRAILER, TRANSFER_ENCODING,
        UPGRADE, USER_AGENT, VIA,
    },
};

use crate::{
    reason::{Reason, Refusal},
    request::deadline::ClientDeadline,
};

/// The word that marks an answer as a sidecar's own.
pub(crate) const ERROR: HeaderName = Name::from_static("x-outrigger-error");
/// `off` turns retries off for one request.
pub(crate) const RETRY: HeaderName = Name::from_static("x-outrigger-retry");
const IDEMPOTENCY_KEY: HeaderName = Name::from_static("idempotency-key");
const KEEP_ALIVE: HeaderName = Name::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = Name::from_static("proxy-connection");
const HTTP2_SETTINGS: HeaderName = Name::from_static("http2-settings");
const SEC_FETCH_SITE: HeaderName = Name::from_static("sec-fetch-site");
const X_FORWARDED_FOR: HeaderName = Name::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = Name::from_static("x-forwarded-proto");
const X_FORWARDED_HOST: HeaderName = Name::from_static("x-forwarded-host");

/// What the request asked of this hop, read before its fields are taken away.
#[derive(Debug, Default)]
pub(crate) struct Asked {
    /// The protocol it wants to upgrade to.
    pub(crate) upgrade: Option<HeaderValue>,
    /// Retries are allowed.
    pub(crate) retries: bool,
    /// The app says that repeating it is safe.
    pub(crate) idempotency_key: bool,
}

/// Refuses what could be read in two ways, and what is not offered; says how long the app waits.
///
/// One pass over the fields: most requests carry none of those that matter, and a look-up of each
/// would cost more than seeing them all go by.
pub(crate) fn judge(
    method: &Method,
    uri: &Uri,
    version: Version,
    headers: &HeaderMap,
) -> Result<ClientDeadline, Refusal> {
    if method == Method::CONNECT {
        return Err(Refusal::new(
            Reason::MethodNotAllowed,
            "CONNECT is not offered: send the request itself",
        ));
    }
    let authority_form = uri.scheme().is_none() && uri.authority().is_some();
    if authority_form || (uri.path() == "*" && method != Method::OPTIONS) {
        return Err(Refusal::new(
            Reason::BadRequest,
            format!("{uri} is no target of {method} (RFC 9112 §3.2)"),
        ));
    }
    let mut codings = 0;
    let mut hosts = 0;
    let mut own = ClientDeadline::default();
    for (name, value) in headers {
        if name == TRANSFER_ENCODING {
            codings += 1;
            if codings > 1 || !value.as_bytes().eq_ignore_ascii_case(b"chunked") {
                return Err(Refusal::new(
                    Reason::BadRequest,
                    "Transfer-Encoding must be exactly one `chunked` (RFC 9112 §6.1)",
                ));
            }
        } else if name == HOST {
            hosts += 1;
            if hosts > 1 {
                return Err(Refusal::new(Reason::BadRequest, "more than one Host field (RFC 9112 §3.2)"));
            }
        } else if name == EXPECT && !value.as_bytes().eq_ignore_ascii_case(b"100-continue") {
            return Err(Refusal::new(Reason::ExpectationFailed, "only `Expect: 100-continue` is understood"));
        } else {
            own.read_field(name, value)?;
        }
    }
    if hosts == 0 && version == Version::HTTP_11 {
        return Err(Refusal::new(Reason::BadRequest, "no Host field (RFC 9112 §3.2)"));
    }
    Ok(own)
}

/// Whether a browser sent it from another page than one that is allowed.
///
/// `own` tells whether an authority is this listener's own. Local is not trusted: any page can make a
/// browser send requests to localhost.
pub(crate) fn judge_origin(
    headers: &HeaderMap,
    allowed: &[String],
    own: impl Fn(&str) -> bool,
) -> Result<(), Refusal> {
    let refused = |what: String| {
        Err(Refusal::new(
            Reason::ForbiddenOrigin,
            format!("{what}; name the origin in outbound.allow_origins to allow it"),
        ))
    };
    let origin = headers.get(ORIGIN);
    if let Some(origin) = origin {
        let text = String::from_utf8_lossy(origin.as_bytes());
        let listed = allowed.iter().any(|one| one.eq_ignore_ascii_case(&text));
        let local = text.split_once("://").is_some_and(|(_, authority)| own(authority));
        if listed || local {
            return Ok(());
        }
        return refused(format!("Origin {text:?} is not allowed"));
    }
    match headers.get(SEC_FETCH_SITE).map(HeaderValue::as_bytes) {
        None | Some(b"none" | b"same-origin") => Ok(()),
        Some(site) => {
            refused(format!("Sec-Fetch-Site {:?} comes from another site", String::from_utf8_lossy(site)))
        }
    }
}

/// Whether the request carries a mark that only browsers set.
pub(crate) fn from_browser(headers: &HeaderMap) -> bool {
    // Plain http is no trustworthy origin: a same-origin GET then has neither of the first two.
    headers.contains_key(SEC_FETCH_SITE)
        || headers.contains_key(ORIGIN)
        || headers.get(USER_AGENT).is_some_and(|agent| agent.as_bytes().starts_with(b"Mozilla/"))
}

/// Takes away what ends at this hop, and says what it asked for.
///
/// `upgrades`: whether the request may ask for another protocol at all.
pub(crate) fn strip_request(headers: &mut HeaderMap, upgrades: bool) -> Asked {
    let mut asked = Asked { upgrade: None, retries: true, idempotency_key: false };
    let mut hop = false;
    for (name, value) in &*headers {
        hop |= ends_here(name) || name == EXPECT || name == RETRY || name == HTTP2_SETTINGS;
        if name == RETRY {
            asked.retries &= !value.as_bytes().eq_ignore_ascii_case(b"off");
        } else if name == IDEMPOTENCY_KEY {
            asked.idempotency_key = true;
        }
    }
    if !hop {
        return asked;
    }
    let te_trailers = headers.get_all(TE).iter().any(|value| has_token(value, "trailers"));
    if upgrades && headers.get_all(CONNECTION).iter().any(|value| has_token(value, "upgrade")) {
        // We speak no HTTP/2 on this side; offering it further would promise what we cannot carry.
        asked.upgrade = headers.get(UPGRADE).filter(|value| !has_token(value, "h2c")).cloned();
    }
    strip_hop_by_hop(headers);
    headers.remove(EXPECT);
    headers.remove(HTTP2_SETTINGS);
    headers.remove(RETRY);
    if te_trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
        // TE is this hop's own, and says so (RFC 9110 §10.1.4).
        headers.append(CONNECTION, HeaderValue::from_static("te"));
    }
    if let Some(protocol) = &asked.upgrade {
        headers.insert(UPGRADE, protocol.clone());
        headers.append(CONNECTION, HeaderValue::from_static("upgrade"));
    }
    asked
}

/// Takes away what ends at this hop from an instance's answer.
pub(crate) fn strip_response(headers: &mut HeaderMap, status: StatusCode) {
    if !headers.keys().any(ends_here) {
        return;
    }
    // "Use this protocol instead" is worth nothing without saying which (RFC 9110 §15.5.22).
    let wanted = (status == StatusCode::UPGRADE_REQUIRED).then(|| headers.get(UPGRADE).cloned()).flatten();
    strip_hop_by_hop(headers);
    if let Some(wanted) = wanted {
        headers.insert(UPGRADE, wanted);
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    }
}

/// The fields that are each hop's own (RFC 9110 §7.6.1).
fn ends_here(name: &HeaderName) -> bool {
    name == CONNECTION
        || name == TRANSFER_ENCODING
        || name == TE
        || name == UPGRADE
        || name == KEEP_ALIVE
        || name == PROXY_CONNECTION
}

fn strip_hop_by_hop(headers: &mut HeaderMap) {
    let named = if names_fields(headers) { named_by_connection(headers) } else { Vec::new() };
    for name in named {
        headers.remove(name);
    }
    for name in [CONNECTION, KEEP_ALIVE, PROXY_CONNECTION, TE, TRANSFER_ENCODING, UPGRADE] {
        headers.remove(name);
    }
}

/// Whether `Connection` says more than the two words that most messages say.
fn names_fields(headers: &HeaderMap) -> bool {
    headers.get_all(CONNECTION).iter().any(|value| {
        let value = value.as_bytes();
        !value.eq_ignore_ascii_case(b"keep-alive") && !value.eq_ignore_ascii_case(b"close")
    })
}

fn named_by_connection(headers: &HeaderMap) -> Vec<HeaderName> {
    headers
        .get_all(CONNECTION)
        .iter()
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
        .filter_map(|token| HeaderName::from_bytes(token.trim_ascii()).ok())
        // What a message cannot do without is no hop's own, whatever it says.
        .filter(|name| ![HOST, CONTENT_LENGTH, TRANSFER_ENCODING, TRAILER].contains(name))
        .collect()
}

/// Re-makes the framing of a request: hyper sends no body at all for a GET of unknown length without
/// it.
pub(crate) fn frame_request(headers: &mut HeaderMap, length: Option<u64>, has_body: bool) {
    if !has_body {
        // `Content-Length: 0` was the app's word, and stays; anything else would be a lie.
        if headers.get(CONTENT_LENGTH).is_some_and(|value| value.as_bytes() != b"0") {
            headers.remove(CONTENT_LENGTH);
        }
        return;
    }
    match length {
        Some(length) => {
            headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
        }
        None => {
            headers.remove(CONTENT_LENGTH);
            headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
        }
    }
}

/// Adds `X-Forwarded-*`, appending to what is there.
pub(crate) fn add_forwarded(headers: &mut HeaderMap, peer: IpAddr, host: Option<&HeaderValue>) {
    let mut list = String::new();
    for value in headers.get_all(X_FORWARDED_FOR).iter().filter_map(|value| value.to_str().ok()) {
        list.push_str(value);
        list.push_str(", ");
    }
    list.push_str(&peer.to_string());
    if let Ok(value) = HeaderValue::from_str(&list) {
        headers.insert(X_FORWARDED_FOR, value);
    }
    headers.entry(X_FORWARDED_PROTO).or_insert(HeaderValue::from_static("http"));
    if let Some(host) = host {
        headers.entry(X_FORWARDED_HOST).or_insert_with(|| host.clone());
    }
}

/// Adds this hop to `Via` (RFC 9110 §7.6.3).
pub(crate) fn add_via(headers: &mut HeaderMap, received: Version) {
    let version = if received == Version::HTTP_10 { "1.0" } else { "1.1" };
    if let Ok(value) = HeaderValue::from_str(&format!("{version} outrigger")) {
        headers.append(VIA, value);
    }
}

/// Whether an instance's answer has a framing that two readers could read differently.
pub(crate) fn ambiguous_response(headers: &HeaderMap) -> bool {
    let Some(te) = headers.get(TRANSFER_ENCODING) else {
        // To HEAD, and with 304, a length is said without a body that would prove it.
        return headers
            .get_all(CONTENT_LENGTH)
            .iter()
            .any(|length| length.is_empty() || !length.as_bytes().iter().all(u8::is_ascii_digit))
            || headers.get_all(CONTENT_LENGTH).iter().count() > 1;
    };
    headers.contains_key(CONTENT_LENGTH)
        || headers.get_all(TRANSFER_ENCODING).iter().count() > 1
        || !te.as_bytes().eq_ignore_ascii_case(b"chunked")
}

fn has_token(value: &HeaderValue, token: &str) -> bool {
    value.to_str().is_ok_and(|text| text.split(',').any(|part| part.trim().eq_ignore_ascii_case(token)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(list: &[(&str, &str)]) -> HeaderMap {
        list.iter()
            .map(|(name, value)| (name.parse::<HeaderName>().unwrap(), value.parse::<HeaderValue>().unwrap()))
            .collect()
    }

    #[test]
    fn fields_named_by_connection_end_here() {
        let mut map =
            headers(&[("connection", "x-a, close, host"), ("x-a", "1"), ("x-b", "2"), ("host", "o")]);
        strip_request(&mut map, true);
        assert!(!map.contains_key("x-a") && !map.contains_key("connection"));
        assert!(map.contains_key("x-b"));
        assert!(map.contains_key("host"), "a message cannot do without Host");
    }

    #[test]
    fn te_keeps_trailers_and_nothing_else() {
        let mut map = headers(&[("te", "gzip, trailers;q=0.5, trailers")]);
        strip_request(&mut map, true);
        assert_eq!(map.get(TE).unwrap(), "trailers");
        let mut map = headers(&[("te", "gzip")]);
        strip_request(&mut map, true);
        assert!(!map.contains_key(TE));
    }

    #[test]
    fn an_upgrade_is_passed_on_and_h2c_is_not() {
        let mut map = headers(&[("connection", "Upgrade"), ("upgrade", "websocket")]);
        assert_eq!(strip_request(&mut map, true).upgrade.unwrap(), "websocket");
        assert_eq!(map.get(CONNECTION).unwrap(), "upgrade");
        let mut map = headers(&[("connection", "Upgrade, HTTP2-Settings"), ("upgrade", "h2c")]);
        assert!(strip_request(&mut map, true).upgrade.is_none());
        assert!(!map.contains_key(UPGRADE));
    }

    #[test]
    fn ambiguous_framing_is_refused() {
        let cases: [(&[(&str, &str)], bool); 8] = [
            (&[("host", "o")], true),
            (&[("host", "o"), ("transfer-encoding", "chunked")], true),
            (&[("host", "o"), ("transfer-encoding", "gzip, chunked")], false),
            (&[("host", "o"), ("transfer-encoding", "chunked"), ("transfer-encoding", "chunked")], false),
            (&[], false),
            (&[("host", "a"), ("host", "a")], false),
            (&[("host", "o"), ("expect", "100-Continue")], true),
            (&[("host", "o"), ("expect", "tea")], false),
        ];
        for (list, fine) in cases {
            assert_eq!(
                judge(&Method::GET, &Uri::from_static("/"), Version::HTTP_11, &headers(list)).is_ok(),
                fine,
                "{list:?}"
            );
        }
    }

    #[test]
    fn a_page_from_elsewhere_is_refused_unless_allowed() {
        let own = |authority: &str| authority == "localhost:7070";
        let allowed = ["https://app.example".to_owned()];
        let cases: [(&[(&str, &str)], bool); 8] = [
            (&[], true),
            (&[("origin", "http://localhost:7070")], true),
            (&[("origin", "https://app.example"), ("sec-fetch-site", "cross-site")], true),
            (&[("origin", "https://evil.example")], false),
            (&[("origin", "null")], false),
            (&[("sec-fetch-site", "cross-site")], false),
            (&[("sec-fetch-site", "same-site")], false),
            (&[("sec-fetch-site", "none")], true),
        ];
        for (list, fine) in cases {
            assert_eq!(judge_origin(&headers(list), &allowed, own).is_ok(), fine, "{list:?}");
        }
    }
}
