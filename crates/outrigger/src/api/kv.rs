//! `GET /v1/kv/…` as Consul answers it, for clients that speak to an agent. docs/app-configuration.md says what differs.

use std::{borrow::Cow, sync::Arc, time::Duration};

use axum::{
    Extension,
    body::Body,
    extract::{OriginalUri, State},
    http::{HeaderName, HeaderValue, Method, StatusCode, header},
    response::{IntoResponse, Response},
};
use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use outrigger_app_config::{KvRead, KvReadError, KvReader, KvReading, ReadScope};
use outrigger_config::{error_chain, parse_go_duration};
use outrigger_registry::{Consistency, Error, KvEntry};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use super::{
    intake::decode_path, json, problem::ApiProblem, query::GoQuery, reason::ApiReason, stale::mark_stale,
};
use crate::admin::ConnectionControl;

const ROOT: &str = "/v1/kv/";

/// The wait where the client names none, and the longest one, as Consul has them.
const DEFAULT_WAIT: Duration = Duration::from_secs(300);
const MAX_WAIT: Duration = Duration::from_secs(600);

/// What Go's `url.URL` escapes in a path.
const ESCAPED_IN_PATH: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~')
    .remove(b'$')
    .remove(b'&')
    .remove(b'+')
    .remove(b',')
    .remove(b'/')
    .remove(b':')
    .remove(b';')
    .remove(b'=')
    .remove(b'@');

/// The parameters of a read that Consul and its clients know. The sidecar has no use for those of the last line.
const PARAMETERS: [&str; 22] = [
    "raw",
    "recurse",
    "keys",
    "separator",
    "index",
    "wait",
    "stale",
    "consistent",
    "pretty",
    "dc",
    "token",
    "cached",
    "hash",
    "max_stale",
    "near",
    "filter",
    "node-meta",
    "ns",
    "partition",
    "peer",
    "region",
    "sg",
];

const INDEX: HeaderName = HeaderName::from_static("x-consul-index");
const KNOWN_LEADER: HeaderName = HeaderName::from_static("x-consul-knownleader");
const LAST_CONTACT: HeaderName = HeaderName::from_static("x-consul-lastcontact");

/// Answers every request below `/v1/kv`.
pub(super) async fn answer(
    State(reader): State<Option<Arc<KvReader>>>,
    method: Method,
    OriginalUri(uri): OriginalUri,
    control: Option<Extension<ConnectionControl>>,
) -> Response {
    let ends = control.map(|Extension(control)| control).unwrap_or_default();
    match answer_or_refuse(reader, &method, uri.path(), uri.query(), &ends).await {
        Ok(response) => response,
        Err(refusal) => refusal.into_response(),
    }
}

/// A read that is not answered with entries.
enum KvRefusal {
    /// As Consul says it: plain text.
    Consul(StatusCode, Cow<'static, str>),
    /// To another path.
    Moved(String),
    /// Of the sidecar's own.
    Own(Box<ApiProblem>),
}

impl KvRefusal {
    fn own(problem: ApiProblem) -> Self {
        Self::Own(Box::new(problem))
    }

    fn bad_request(text: &'static str) -> Self {
        Self::Consul(StatusCode::BAD_REQUEST, text.into())
    }
}

impl IntoResponse for KvRefusal {
    fn into_response(self) -> Response {
        match self {
            Self::Consul(status, text) => {
                let vary = (header::VARY, HeaderValue::from_static("Accept-Encoding"));
                (status, [vary], text).into_response()
            }
            Self::Moved(location) => {
                // As Go's net/http writes it.
                let page = format!("<a href=\"{}\">Moved Permanently</a>.\n\n", escape_html(&location));
                let kind = (header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
                let mut response = (StatusCode::MOVED_PERMANENTLY, [kind], page).into_response();
                if let Ok(location) = HeaderValue::try_from(escape_non_ascii(&location)) {
                    response.headers_mut().insert(header::LOCATION, location);
                }
                response
            }
            Self::Own(problem) => problem.into_response(),
        }
    }
}

async fn answer_or_refuse(
    reader: Option<Arc<KvReader>>,
    method: &Method,
    path: &str,
    query: Option<&str>,
    control: &ConnectionControl,
) -> Result<Response, KvRefusal> {
    // Consul refuses HEAD, too.
    if method != Method::GET {
        let detail = "the sidecar serves reads of keys alone: GET; write to Consul itself";
        let problem = ApiProblem::new(ApiReason::MethodNotAllowed, detail);
        return Err(KvRefusal::own(problem.allow("GET")));
    }
    let key = key_of(path, query)?;
    let query = GoQuery::read(query.unwrap_or_default());
    if let Some(unknown) = query.names().find(|name| !PARAMETERS.contains(name)) {
        let known = PARAMETERS.join(", ");
        let detail = format!("there is no parameter {unknown:?}; there are {known}");
        return Err(KvRefusal::own(ApiProblem::bad_request(detail)));
    }
    let form = AnswerForm::of(&query);
    let (index, wait) = wait_of(&query)?;
    let consistency = consistency_of(&query)?;
    if key.is_empty() && matches!(form, AnswerForm::Key | AnswerForm::Raw) {
        return Err(KvRefusal::bad_request("Missing key name"));
    }
    if let Some(datacenter) = query.get("dc").filter(|name| !name.is_empty()) {
        let detail =
            format!("dc={datacenter}: the sidecar reads the keys of its agent's datacenter; leave dc out");
        return Err(KvRefusal::own(ApiProblem::new(ApiReason::OtherDatacenter, detail)));
    }
    let Some(reader) = reader else {
        return Err(KvRefusal::own(ApiProblem::no_kv()));
    };
    let scope = match form {
        AnswerForm::Key | AnswerForm::Raw => ReadScope::Key(key.clone()),
        AnswerForm::Recurse | AnswerForm::Keys => ReadScope::Prefix(key.clone()),
    };
    let read = KvRead { scope, consistency, index, wait };
    let reading =
        reader.read(&read, control.stopped()).await.map_err(|error| refusal_of(error, &read.scope))?;
    Ok(form.response(&reading, &key, &query))
}

/// The key that a path names. A path that Go's `ServeMux` would clean is answered with the clean one, as Consul does; so `..` and `//` never
/// reach a key.
fn key_of(path: &str, query: Option<&str>) -> Result<String, KvRefusal> {
    let decoded = decode_path(path).map_err(KvRefusal::own)?;
    let is_without_slash = decoded == "/v1/kv";
    let clean = if is_without_slash { ROOT.to_owned() } else { clean_path(&decoded) };
    if clean != decoded {
        // Go of the time of Consul 1.8 keeps a `?` without a query, but not where a slash alone is missing.
        let query = match query {
            Some("") if is_without_slash => None,
            query => query,
        };
        let query = query.map(|query| format!("?{query}")).unwrap_or_default();
        return Err(KvRefusal::Moved(format!("{}{query}", utf8_percent_encode(&clean, ESCAPED_IN_PATH))));
    }
    Ok(decoded.strip_prefix(ROOT).unwrap_or_default().to_owned())
}

/// As Go's `http.Redirect` writes a location in a page.
fn escape_html(text: &str) -> String {
    let escapes = [("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ("\"", "&#34;"), ("'", "&#39;")];
    escapes.into_iter().fold(text.to_owned(), |text, (sign, escape)| text.replace(sign, escape))
}

/// As Go's `http.Redirect` writes a location in a field.
fn escape_non_ascii(text: &str) -> String {
    text.bytes().fold(String::new(), |mut out, byte| {
        match byte.is_ascii() {
            true => out.push(char::from(byte)),
            false => out.push_str(&format!("%{byte:x}")),
        }
        out
    })
}

/// As Go's `ServeMux` cleans it: without empty segments, `.` and `..`, and with the slash at its end.
fn clean_path(path: &str) -> String {
    let mut segments = Vec::new();
    for segment in path.split('/') {
        match segment {
            "" | "." => {}
            ".." => drop(segments.pop()),
            segment => segments.push(segment),
        }
    }
    let end = if path.ends_with('/') && !segments.is_empty() { "/" } else { "" };
    format!("/{}{end}", segments.join("/"))
}

/// `index` and `wait`, by Consul's rules. Both texts are checked, also where the read does not wait.
fn wait_of(query: &GoQuery) -> Result<(u64, Duration), KvRefusal> {
    let wait = match query.get("wait").filter(|text| !text.is_empty()) {
        Some(text) => {
            let wait = parse_go_duration(text).ok_or(KvRefusal::bad_request("Invalid wait time"))?;
            wait.filter(|wait| !wait.is_zero())
        }
        None => None,
    };
    let index = match query.get("index").filter(|text| !text.is_empty()) {
        Some(text) if text.bytes().all(|byte| byte.is_ascii_digit()) => {
            text.parse().map_err(|_| KvRefusal::bad_request("Invalid index"))?
        }
        Some(_) => return Err(KvRefusal::bad_request("Invalid index")),
        None => 0,
    };
    Ok((index, wait.unwrap_or(DEFAULT_WAIT).min(MAX_WAIT)))
}

fn consistency_of(query: &GoQuery) -> Result<Consistency, KvRefusal> {
    match (query.has("stale"), query.has("consistent")) {
        (true, true) => {
            Err(KvRefusal::bad_request("Cannot specify ?stale with ?consistent, conflicting semantics."))
        }
        (true, false) => Ok(Consistency::Stale),
        (false, true) => Ok(Consistency::Consistent),
        (false, false) => Ok(Consistency::Default),
    }
}

fn refusal_of(error: KvReadError, scope: &ReadScope) -> KvRefusal {
    match error {
        KvReadError::NotAllowed => {
            let what = match scope {
                ReadScope::Key(key) => format!("the key {key:?}"),
                ReadScope::Prefix(prefix) => format!("the keys that begin with {prefix:?}"),
            };
            let detail = format!(
                "api.config.allow does not name {what}; without it, what api.config.sources and files name is served"
            );
            KvRefusal::own(ApiProblem::new(ApiReason::KeyNotAllowed, detail))
        }
        // What Consul says to the sidecar's token or request.
        KvReadError::Registry(Error::Refused { status, text, .. }) if (400..500).contains(&status) => {
            let status = StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_GATEWAY);
            KvRefusal::Consul(status, text.into())
        }
        KvReadError::Registry(error) => {
            let problem = ApiProblem::new(ApiReason::RegistryUnavailable, error_chain(&error));
            KvRefusal::own(problem.retry_after(Duration::from_secs(1)))
        }
    }
}

/// What a read is answered with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum AnswerForm {
    /// The entry, as a list of one.
    Key,
    /// Its value.
    Raw,
    /// All entries.
    Recurse,
    /// All keys.
    Keys,
}

impl AnswerForm {
    /// Consul looks at the names alone: `recurse=false` is `recurse`.
    fn of(query: &GoQuery) -> Self {
        if query.has("keys") {
            Self::Keys
        } else if query.has("recurse") {
            Self::Recurse
        } else if query.has("raw") {
            Self::Raw
        } else {
            Self::Key
        }
    }

    fn response(self, reading: &KvReading, key: &str, query: &GoQuery) -> Response {
        let is_pretty = query.has("pretty");
        let mut response = match (self, reading.entries.first()) {
            (_, None) => StatusCode::NOT_FOUND.into_response(),
            (Self::Raw, Some(entry)) => raw_response(entry),
            (Self::Keys, Some(_)) => {
                let separator = query.get("separator").unwrap_or_default();
                let keys = list_keys(&reading.entries, key, separator);
                json_response(json::write_keys(&keys, is_pretty))
            }
            (Self::Key | Self::Recurse, Some(_)) => {
                json_response(json::write_entries(&reading.entries, is_pretty, |value| BASE64.encode(value)))
            }
        };
        let headers = response.headers_mut();
        headers.insert(header::VARY, HeaderValue::from_static("Accept-Encoding"));
        headers.insert(INDEX, reading.index.into());
        let known_leader = if reading.known_leader { "true" } else { "false" };
        headers.insert(KNOWN_LEADER, HeaderValue::from_static(known_leader));
        headers
            .insert(LAST_CONTACT, u64::try_from(reading.last_contact.as_millis()).unwrap_or(u64::MAX).into());
        if let Some(age) = reading.stale_for {
            mark_stale(headers, Some(age));
        }
        response
    }
}

fn json_response(text: String) -> Response {
    let kind = (header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    ([kind], text).into_response()
}

fn raw_response(entry: &KvEntry) -> Response {
    let mut response = Body::from(entry.value.clone()).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static("sandbox"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// The keys, each up to and with the first separator after the prefix, once.
fn list_keys<'a>(entries: &'a [Arc<KvEntry>], prefix: &str, separator: &str) -> Vec<&'a str> {
    let mut out: Vec<&str> = Vec::new();
    for entry in entries {
        let key = entry.key.as_str();
        let rest = key.get(prefix.len()..).unwrap_or_default();
        let cut = if separator.is_empty() { None } else { rest.find(separator) };
        let shown = cut.map_or(key, |at| &key[..prefix.len() + at + separator.len()]);
        if out.last() != Some(&shown) {
            out.push(shown);
        }
    }
    out
}

#[cfg(test)]
mod tests;
