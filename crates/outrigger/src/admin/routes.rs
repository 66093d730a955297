//! Each page of the admin side.
//!
//! | page | what it says |
//! |---|---|
//! | `GET /metrics` | Prometheus' text format |
//! | `GET /healthz` | 200 while the process is alive |
//! | `GET /readyz` | 200 when ready, else 503, with what is missing; and from where what is known comes |
//! | `GET /services` | what is known of each service and how it is called; text with `?format=text` |
//! | `GET /config` | every setting and where it comes from, secrets hidden |
//! | `POST /maintenance?enable=true&reason=..` | take the app out of service; `enable=false` back; `GET` says how it stands |
//! | `POST /reload` | read the settings again: what changed, or every problem (422) |
//! | `POST /drain` | leave the registry, keep routing; `GET /drain` says how far that is |

use std::{fmt, future::Future, pin::Pin, sync::Arc};

use axum::{
    Json, Router,
    extract::{Query, RawQuery, State},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    middleware,
    response::{Html, IntoResponse, Response},
    routing::{get, post},
};
use outrigger_discovery::ServiceStatus;
use outrigger_proxy::ClusterStatus;
use prometheus::{TEXT_FORMAT, TextEncoder};
use serde::Deserialize;
use tower_http::{
    catch_panic::CatchPanicLayer,
    limit::RequestBodyLimitLayer,
    set_header::SetResponseHeaderLayer,
    trace::{DefaultOnFailure, TraceLayer},
};
use tracing::{Level, error, info};

use super::{
    guard::{AllowedHosts, check_request},
    pages::{DrainStatus, MaintenanceStatus, Readiness, ReloadStatus, ServicesPage},
};
use crate::{
    lifecycle::{self, LifecycleHandle, MaintenanceRequest},
    reload::{ReloadError, ReloadResult},
};

/// Largest request body, bytes. No page reads one.
const MAX_BODY: usize = 64 * 1024;

/// Longest reason of an order, bytes.
const MAX_REASON: usize = 512;

/// The parts that the pages ask.
pub(crate) trait AdminBackend: fmt::Debug + Send + Sync + 'static {
    /// How each service is called.
    fn clusters(&self) -> Vec<ClusterStatus>;
    /// What the registry says of each service.
    fn services(&self) -> Vec<ServiceStatus>;
    /// Requests under way.
    fn in_flight(&self) -> usize;
    /// The text of `/config`.
    fn config(&self) -> Arc<str>;
    /// Reads the settings again.
    fn reload(&self) -> Pin<Box<dyn Future<Output = ReloadResult> + Send>>;
}

/// Everything that the pages show.
#[derive(Debug, Clone)]
pub(crate) struct AdminState {
    pub(crate) lifecycle: LifecycleHandle,
    pub(crate) metrics: prometheus::Registry,
    pub(crate) backend: Arc<dyn AdminBackend>,
}

/// All pages, for the machine itself.
pub(crate) fn admin_router(pages: AdminState, own: AllowedHosts) -> Router {
    let router = common_routes()
        .route("/", get(index))
        .route("/services", get(services))
        .route("/config", get(config))
        .route("/maintenance", get(maintenance).post(set_maintenance))
        .route("/reload", post(reload))
        .route("/drain", get(drain).post(begin_drain))
        .layer(middleware::from_fn_with_state(own, check_request));
    with_layers(router).with_state(pages)
}

/// Metrics and health, for the network.
pub(crate) fn metrics_router(pages: AdminState) -> Router {
    with_layers(common_routes()).with_state(pages)
}

fn common_routes() -> Router<AdminState> {
    Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .fallback(not_found)
}

fn with_layers(router: Router<AdminState>) -> Router<AdminState> {
    let set = |name, value| SetResponseHeaderLayer::overriding(name, HeaderValue::from_static(value));
    router
        .layer(RequestBodyLimitLayer::new(MAX_BODY))
        .layer(CatchPanicLayer::new())
        // Its own word for a 5xx is an error; here 503 is the usual answer of `/readyz` while starting.
        .layer(TraceLayer::new_for_http().on_failure(DefaultOnFailure::new().level(Level::DEBUG)))
        .layer(set(header::CACHE_CONTROL, "no-store"))
        .layer(set(header::X_CONTENT_TYPE_OPTIONS, "nosniff"))
}

async fn index() -> Html<&'static str> {
    Html(concat!(
        "<!doctype html><title>outrigger</title><h1>outrigger ",
        env!("CARGO_PKG_VERSION"),
        "</h1><ul>",
        "<li><a href=\"/services?format=text\">/services</a> what is known and how it is called",
        "<li><a href=\"/metrics\">/metrics</a> for Prometheus",
        "<li><a href=\"/healthz\">/healthz</a> the process is alive",
        "<li><a href=\"/readyz\">/readyz</a> ready, or what is missing",
        "<li><a href=\"/config\">/config</a> every setting and where it comes from",
        "<li><a href=\"/maintenance\">/maintenance</a> whether the app is taken out of service by hand; ",
        "<code>outrigger maintenance on</code> does",
        "<li>/reload <code>outrigger reload</code> has the settings read again",
        "<li><a href=\"/drain\">/drain</a> how far leaving is; ",
        "<code>curl -X POST -H 'x-outrigger-admin: 1' localhost:7079/drain</code> begins it",
        "</ul>\n",
    ))
}

async fn metrics(State(pages): State<AdminState>) -> Response {
    match TextEncoder::new().encode_to_string(&pages.metrics.gather()) {
        Ok(text) => ([(header::CONTENT_TYPE, TEXT_FORMAT)], text).into_response(),
        Err(error) => {
            error!(%error, "the metrics could not be written");
            (StatusCode::INTERNAL_SERVER_ERROR, "the metrics could not be written\n").into_response()
        }
    }
}

async fn healthz() -> &'static str {
    "ok\n"
}

async fn readyz(State(pages): State<AdminState>) -> Response {
    let readiness = Readiness::of(&pages.lifecycle, &pages.backend.services());
    let status = if readiness.is_ready() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(readiness)).into_response()
}

async fn services(
    State(pages): State<AdminState>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Response {
    let services = ServicesPage::merge(pages.backend.clusters(), pages.backend.services());
    let asks_text = query.is_some_and(|query| query.split('&').any(|pair| pair == "format=text"));
    let accepts_text = headers
        .get(header::ACCEPT)
        .and_then(|accept| accept.to_str().ok())
        .is_some_and(|accept| accept.trim_start().starts_with("text/plain"));
    if asks_text || accepts_text {
        services.to_text().into_response()
    } else {
        Json(services).into_response()
    }
}

async fn config(State(pages): State<AdminState>) -> String {
    pages.backend.config().to_string()
}

async fn drain(State(pages): State<AdminState>) -> Json<DrainStatus> {
    Json(DrainStatus::of(&pages.lifecycle, pages.backend.in_flight()))
}

async fn begin_drain(State(pages): State<AdminState>) -> Response {
    info!("asked to drain");
    pages.lifecycle.begin_drain();
    let status = DrainStatus::of(&pages.lifecycle, pages.backend.in_flight());
    (StatusCode::ACCEPTED, Json(status)).into_response()
}

async fn maintenance(State(pages): State<AdminState>) -> Json<MaintenanceStatus> {
    let error = pages.lifecycle.refresh_maintenance().await.err();
    Json(MaintenanceStatus::of(&pages.lifecycle, error))
}

/// The query of `POST /maintenance`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct MaintenanceQuery {
    enable: bool,
    reason: Option<String>,
}

async fn set_maintenance(State(pages): State<AdminState>, Query(asked): Query<MaintenanceQuery>) -> Response {
    let reason = asked.reason.filter(|reason| !reason.is_empty());
    if reason.as_ref().is_some_and(|reason| reason.len() > MAX_REASON) {
        return (StatusCode::BAD_REQUEST, format!("a reason has at most {MAX_REASON} bytes\n"))
            .into_response();
    }
    let order = match (asked.enable, reason) {
        (true, reason) => MaintenanceRequest::On(reason.unwrap_or_else(|| "outrigger maintenance".into())),
        (false, _) => MaintenanceRequest::Off,
    };
    let refused = pages.lifecycle.request_maintenance(order).await.err();
    let status = match &refused {
        None => StatusCode::OK,
        Some(lifecycle::MaintenanceError::NothingToRegister | lifecycle::MaintenanceError::Leaving) => {
            StatusCode::CONFLICT
        }
        Some(lifecycle::MaintenanceError::Unconfirmed(_)) => StatusCode::BAD_GATEWAY,
    };
    (status, Json(MaintenanceStatus::of(&pages.lifecycle, refused.map(|refused| refused.to_string()))))
        .into_response()
}

async fn reload(State(pages): State<AdminState>) -> Response {
    info!("asked to reload");
    let outcome = pages.backend.reload().await;
    let status = match &outcome {
        Ok(_) => StatusCode::OK,
        Err(ReloadError::Problems(_)) => StatusCode::UNPROCESSABLE_ENTITY,
        Err(ReloadError::NoFile | ReloadError::Address(_) | ReloadError::Leaving) => StatusCode::CONFLICT,
        Err(ReloadError::Busy) => StatusCode::SERVICE_UNAVAILABLE,
    };
    (status, Json(ReloadStatus::of(&outcome))).into_response()
}

async fn not_found() -> (StatusCode, &'static str) {
    (StatusCode::NOT_FOUND, "no such page\n")
}

#[cfg(test)]
mod tests;
