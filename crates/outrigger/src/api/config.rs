//! `GET /v1/config`: the merged configuration of the app. docs/app-configuration.md describes it.

use std::{borrow::Cow, sync::Arc};

use axum::{
    Extension,
    extract::{OriginalUri, State},
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header},
    response::{IntoResponse, Response},
};
use outrigger_app_config::{
    ConfigState, ConfigWatch, KnownConfig, PrefixWatches, ViewProblem, content_version,
};
use outrigger_config::ConfigFormat;
use outrigger_locks::LockManager;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{problem::ApiProblem, reason::ApiReason, stale::mark_stale};
use crate::{admin::ConnectionControl, sse::accepts_stream};

mod origins;
mod request;
mod stream;

use origins::origins_json;
use request::{ConfigQuery, accepted_format};
use stream::follow_config;

/// How many keys and properties are not used as they are.
const PROBLEMS: HeaderName = HeaderName::from_static("x-outrigger-config-problems");

/// What the configuration is answered from.
#[derive(Debug, Clone)]
pub(crate) struct ConfigBackend {
    /// Absent: the registry has no keys.
    pub(crate) watch: Option<Arc<ConfigWatch>>,
    /// Of the parts: they know whether the registry answers.
    pub(crate) prefixes: Option<Arc<PrefixWatches>>,
    pub(crate) drain: DrainSignal,
}

/// Tells streams that the sidecar stops.
#[derive(Debug, Clone)]
pub(crate) enum DrainSignal {
    /// That of the locks. A drain that is called off gives later streams a token of their own.
    Locks(LockManager),
    /// One for all streams.
    Token(CancellationToken),
}

impl DrainSignal {
    /// Cancelled: the sidecar stops.
    fn token(&self) -> CancellationToken {
        match self {
            Self::Locks(locks) => locks.draining(),
            Self::Token(token) => token.clone(),
        }
    }
}

/// Answers `/v1/config` and `/v1/config/stream`.
pub(super) async fn answer(
    State(backend): State<ConfigBackend>,
    method: Method,
    OriginalUri(uri): OriginalUri,
    headers: HeaderMap,
    control: Option<Extension<ConnectionControl>>,
) -> Response {
    let control = control.map(|Extension(control)| control).unwrap_or_default();
    let is_stream = uri.path().ends_with("/stream") || accepts_stream(&headers);
    let query = uri.query().unwrap_or_default();
    match answer_or_refuse(&backend, &method, query, &headers, is_stream, control).await {
        Ok(response) => response,
        Err(problem) => problem.into_response(),
    }
}

async fn answer_or_refuse(
    backend: &ConfigBackend,
    method: &Method,
    query: &str,
    headers: &HeaderMap,
    is_stream: bool,
    control: ConnectionControl,
) -> Result<Response, ApiProblem> {
    if !matches!(*method, Method::GET | Method::HEAD) {
        let detail = "the configuration is read by GET and HEAD, and written in the registry's KV";
        let problem = ApiProblem::new(ApiReason::MethodNotAllowed, detail);
        return Err(problem.allow("GET, HEAD"));
    }
    let query = ConfigQuery::read(query)?;
    let Some(watch) = &backend.watch else {
        return Err(ApiProblem::no_kv());
    };
    let mut states = watch.state();
    if states.borrow().parts.is_empty() {
        let detail = "api.config.sources names no part of a configuration";
        return Err(ApiProblem::new(ApiReason::NoSources, detail));
    }
    if is_stream {
        query.check_stream()?;
        let (prefixes, draining) = (backend.prefixes.clone(), backend.drain.token());
        return Ok(follow_config(states, prefixes, headers, draining, control));
    }
    let is_away = match &backend.prefixes {
        Some(prefixes) => prefixes.is_registry_away().await,
        None => false,
    };
    let state = states.borrow_and_update().clone();
    let known = state.known.as_ref().ok_or_else(|| unknown(&state))?;
    let format = match query.format {
        Some(format) => format,
        None => accepted_format(headers)?,
    };
    let (content, problems) = query.render(known, format)?;
    let (text, kind) = if query.is_about_origins {
        (origins_json(&state, known, &problems).into(), "application/json")
    } else {
        (content, content_type(format))
    };
    // The text of a format is the same for the same properties; of JSON, the version is that of the streams, too.
    let version = match format {
        ConfigFormat::Json if !query.is_about_origins => known.version.to_string(),
        _ => content_version(&text),
    };
    let tag = format!("\"{version}\"");
    let mut response = if is_known_to_client(headers, &tag) {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        ([(header::CONTENT_TYPE, HeaderValue::from_static(kind))], text.into_owned()).into_response()
    };
    let fields = response.headers_mut();
    fields.extend(HeaderValue::try_from(tag).map(|tag| (header::ETAG, tag)).ok());
    fields.insert(header::CACHE_CONTROL, HeaderValue::from_static("private, no-cache"));
    fields.insert(header::VARY, HeaderValue::from_static("accept"));
    let problems = known.view.problems().len() + problems.len();
    if problems > 0 {
        fields.insert(PROBLEMS, problems.into());
    }
    if is_away || state.is_stale() {
        mark_stale(fields, state.age(Instant::now()));
    }
    Ok(response)
}

impl ConfigQuery {
    /// The text, and what this format does not have.
    fn render<'a>(
        &self,
        known: &'a KnownConfig,
        format: ConfigFormat,
    ) -> Result<(Cow<'a, str>, Vec<ViewProblem>), ApiProblem> {
        match known.view.render(format, self.quoting) {
            Some(rendered) => Ok((rendered.text.into(), rendered.problems)),
            None => Err(ApiProblem::bad_request("format=value is no format of a configuration")),
        }
    }
}

fn content_type(format: ConfigFormat) -> &'static str {
    match format {
        ConfigFormat::Json => "application/json",
        ConfigFormat::Yaml => "application/yaml",
        ConfigFormat::Properties => "text/x-java-properties; charset=us-ascii",
        ConfigFormat::Env | ConfigFormat::Value => "text/plain; charset=utf-8",
    }
}

fn unknown(state: &ConfigState) -> ApiProblem {
    let missing: Vec<_> = state
        .unknown()
        .map(|part| {
            let reason = part.prefix.failure.as_deref().unwrap_or("the registry has not answered yet");
            serde_json::json!({"prefix": part.context.prefix, "reason": reason})
        })
        .collect();
    let detail = "a part of the configuration is not known: neither the registry nor an earlier run has answered for it";
    let problem = ApiProblem::new(ApiReason::ConfigUnknown, detail);
    problem.with("missing", missing).retry_after(std::time::Duration::from_secs(1))
}

/// RFC 9110 §13.1.2.
fn is_known_to_client(headers: &HeaderMap, tag: &str) -> bool {
    let fields = headers.get_all(header::IF_NONE_MATCH).iter().filter_map(|field| field.to_str().ok());
    let mut known = fields.flat_map(|field| field.split(',')).map(str::trim);
    known.any(|known| known == "*" || known.strip_prefix("W/").unwrap_or(known) == tag)
}

#[cfg(test)]
mod tests;
