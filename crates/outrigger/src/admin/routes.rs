//! The routes of the admin side. docs/operations.md describes the pages.

use std::{fmt, future::Future, pin::Pin, sync::Arc};

use axum::{
    Extension, Json, Router,
    body::Bytes,
    extract::{Query, RawQuery, State},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    middleware,
    response::{Html, IntoResponse, Response},
    routing::{get, post},
};
use outrigger_config::{ListenHost, error_chain};
use outrigger_discovery::{RegistryContact, ServiceStatus};
use outrigger_events::{Event, EventKind, Events};
use outrigger_locks::LocksOverview;
use outrigger_proxy::{ClusterStatus, ExplainError, ExplainRequest, Explanation};
use outrigger_registration::{LifecycleHandle, MaintenanceError, MaintenanceRequest};
use prometheus::TEXT_FORMAT;
use serde::Deserialize;
use tower_http::{
    catch_panic::CatchPanicLayer,
    limit::RequestBodyLimitLayer,
    set_header::SetResponseHeaderLayer,
    trace::{DefaultOnFailure, TraceLayer},
};
use tracing::{Level, error, info};

use super::{
    activity::ConnectionControl,
    guard::{OwnNames, check_request},
    pages::{
        self, DrainStatus, EventsQuery, ExplainQuery, FilesPart, MaintenanceStatus, Readiness, ReloadStatus,
        ServicesPage,
    },
    scrape::{ScrapeError, SharedScrape, gather},
};
use crate::{
    config_files::{FileSummary, RestartSummary},
    reload::{ReloadError, ReloadResult},
};

/// Largest request body, bytes. No page reads one.
const MAX_BODY: usize = 64 * 1024;

/// Longest reason of a maintenance request, bytes.
const MAX_REASON: usize = 512;

/// What the pages need from the parts of the sidecar.
pub(crate) trait AdminBackend: fmt::Debug + Send + Sync + 'static {
    /// The state of each cluster.
    fn clusters(&self) -> Vec<ClusterStatus>;
    /// The state of each watched service.
    fn services(&self) -> Vec<ServiceStatus>;
    /// Whether the registry answers.
    fn registry_contact(&self) -> RegistryContact;
    /// What of the network is lost. Absent while it is there.
    fn lost_network(&self) -> Option<String>;
    /// What people should know, while everything goes on.
    fn warnings(&self) -> Vec<String>;
    /// Requests under way.
    fn in_flight(&self) -> usize;
    /// The setting `outbound.names`.
    fn own_names(&self) -> Vec<String>;
    /// The files that the sidecar writes for the app.
    fn files(&self) -> Vec<FileSummary>;
    /// The restart of the app for a changed file. Absent: none.
    fn restart(&self) -> Option<RestartSummary>;
    /// The locks that are held and waited for here. Absent: the registry keeps none.
    fn locks(&self) -> Option<LocksOverview>;
    /// What a request would meet.
    fn explain(&self, request: &ExplainRequest) -> Result<Explanation, ExplainError>;
    /// The text of `/config`.
    fn config(&self) -> Arc<str>;
    /// Reads the settings again.
    fn reload(&self) -> Pin<Box<dyn Future<Output = ReloadResult> + Send>>;
}

/// What the pages show.
#[derive(Debug, Clone)]
pub(crate) struct AdminState {
    pub(crate) lifecycle: LifecycleHandle,
    pub(crate) metrics: prometheus::Registry,
    pub(crate) events: Events,
    pub(crate) backend: Arc<dyn AdminBackend>,
}

/// All pages, for this machine, on a listener at `listen`.
pub(crate) fn admin_router(state: AdminState, listen: ListenHost) -> Router {
    let backend = state.backend.clone();
    let own_names: OwnNames = Arc::new(move || backend.own_names());
    let router = common_routes()
        .route("/metrics", get(metrics))
        .route("/readyz", get(readyz))
        .route("/", get(index))
        .route("/services", get(services))
        .route("/explain", get(explain))
        .route("/config", get(config))
        .route("/events", get(events))
        .route("/locks", get(locks))
        .route("/maintenance", get(maintenance).post(set_maintenance))
        .route("/reload", post(reload))
        .route("/drain", get(drain).post(begin_drain))
        .layer(middleware::from_fn_with_state((listen, own_names), check_request));
    with_layers(router).with_state(state)
}

/// Metrics and health, for the network: under any Host, and without the texts of errors, which may hold addresses.
pub(crate) fn metrics_router(state: AdminState) -> Router {
    let shared = Arc::new(SharedScrape::new(state.metrics.clone()));
    let shared_metrics = move || {
        let shared = shared.clone();
        async move { metrics_response(shared.text().await) }
    };
    let router =
        common_routes().route("/metrics", get(shared_metrics)).route("/readyz", get(readyz_for_network));
    with_layers(router).with_state(state)
}

fn common_routes() -> Router<AdminState> {
    Router::new().route("/healthz", get(healthz)).fallback(not_found)
}

fn with_layers(router: Router<AdminState>) -> Router<AdminState> {
    let set = |name, value| SetResponseHeaderLayer::overriding(name, HeaderValue::from_static(value));
    router
        .layer(RequestBodyLimitLayer::new(MAX_BODY))
        .layer(CatchPanicLayer::new())
        // The layer logs a 5xx as an error by default; here `/readyz` answers 503 during every start.
        .layer(TraceLayer::new_for_http().on_failure(DefaultOnFailure::new().level(Level::DEBUG)))
        .layer(set(header::CACHE_CONTROL, "no-store"))
        .layer(set(header::X_CONTENT_TYPE_OPTIONS, "nosniff"))
}

async fn index() -> Html<&'static str> {
    Html(concat!(
        "<!doctype html><title>outrigger</title><h1>outrigger ",
        env!("CARGO_PKG_VERSION"),
        "</h1><ul>",
        "<li><a href=\"/services?format=text\">/services</a> the services, their calls and their instances",
        "<li><a href=\"/explain?url=http://orders/\">/explain</a> what a request would meet, without sending it; ",
        "<code>outrigger explain http://orders/</code>",
        "<li><a href=\"/events\">/events</a> the last decisions with their reasons; ",
        "<code>outrigger events -f</code> follows them",
        "<li><a href=\"/locks\">/locks</a> the locks that are held and waited for here",
        "<li><a href=\"/metrics\">/metrics</a> for Prometheus",
        "<li><a href=\"/healthz\">/healthz</a> 200 while the process is alive",
        "<li><a href=\"/readyz\">/readyz</a> ready, or what is missing",
        "<li><a href=\"/config\">/config</a> every setting and its origin",
        "<li><a href=\"/maintenance\">/maintenance</a> whether the app is in maintenance; ",
        "<code>outrigger maintenance on</code> takes it out of service",
        "<li>/reload <code>outrigger reload</code> reads the settings again",
        "<li><a href=\"/drain\">/drain</a> the progress of the drain; ",
        "<code>curl -X POST -H 'x-outrigger-admin: 1' localhost:7079/drain</code> begins it",
        "</ul>\n",
    ))
}

async fn metrics(State(state): State<AdminState>) -> Response {
    metrics_response(gather(&state.metrics).await)
}

fn metrics_response(text: Result<Bytes, ScrapeError>) -> Response {
    match text {
        Ok(text) => ([(header::CONTENT_TYPE, TEXT_FORMAT)], text).into_response(),
        Err(error) => {
            error!(error = error_chain(&error), "the metrics could not be gathered");
            (StatusCode::INTERNAL_SERVER_ERROR, "the metrics could not be gathered\n").into_response()
        }
    }
}

async fn healthz() -> &'static str {
    "ok\n"
}

async fn readyz(State(state): State<AdminState>) -> Response {
    let (services, contact) = (state.backend.services(), state.backend.registry_contact());
    let files = FilesPart { files: state.backend.files(), restart: state.backend.restart() };
    let lost_network = state.backend.lost_network();
    let readiness = Readiness::of(&state.lifecycle, &services, &contact, lost_network, files);
    readiness_response(readiness.with_warnings(state.backend.warnings()))
}

async fn readyz_for_network(State(state): State<AdminState>) -> Response {
    let (services, contact) = (state.backend.services(), state.backend.registry_contact());
    let files = FilesPart { files: state.backend.files(), restart: state.backend.restart() };
    let lost_network = state.backend.lost_network();
    readiness_response(Readiness::for_network(&state.lifecycle, services, contact, lost_network, files))
}

fn readiness_response(readiness: Readiness) -> Response {
    let status = if readiness.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(readiness)).into_response()
}

async fn services(
    State(state): State<AdminState>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Response {
    let services = ServicesPage::merge(state.backend.clusters(), state.backend.services());
    let asks_text = query.is_some_and(|query| query.split('&').any(|pair| pair == "format=text"));
    if asks_text || accepts_text(&headers) {
        services.to_text().into_response()
    } else {
        Json(services).into_response()
    }
}

fn accepts_text(headers: &HeaderMap) -> bool {
    let accept = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok());
    accept.is_some_and(|accept| accept.trim_start().starts_with("text/plain"))
}

async fn explain(State(state): State<AdminState>, RawQuery(query): RawQuery, headers: HeaderMap) -> Response {
    let explained = ExplainQuery::parse(query.as_deref().unwrap_or_default()).and_then(|query| {
        let explanation = state.backend.explain(&query.request).map_err(|error| error.to_string())?;
        Ok((explanation, query.asks_text))
    });
    match explained {
        Err(wrong) => (StatusCode::BAD_REQUEST, format!("{wrong}\n")).into_response(),
        Ok((explanation, asks_text)) if asks_text || accepts_text(&headers) => {
            pages::explanation_text(&explanation).into_response()
        }
        Ok((explanation, _)) => Json(explanation).into_response(),
    }
}

async fn events(
    State(state): State<AdminState>,
    Query(query): Query<EventsQuery>,
    connection: Option<Extension<ConnectionControl>>,
    headers: HeaderMap,
) -> Response {
    pages::events_response(&state.events, &query, connection.map(|Extension(found)| found), &headers)
}

async fn locks(State(state): State<AdminState>) -> Response {
    match state.backend.locks() {
        Some(overview) => Json(pages::LocksPage::of(&overview)).into_response(),
        None => {
            let text = "the registry of this sidecar keeps no locks: registry.file is set\n";
            (StatusCode::NOT_FOUND, text).into_response()
        }
    }
}

async fn config(State(state): State<AdminState>) -> String {
    state.backend.config().to_string()
}

async fn drain(State(state): State<AdminState>) -> Json<DrainStatus> {
    Json(DrainStatus::of(&state.lifecycle, state.backend.in_flight()))
}

async fn begin_drain(State(state): State<AdminState>) -> Response {
    info!("drain requested");
    state.events.record(Event::new(EventKind::DrainRequested, "POST /drain"));
    state.lifecycle.drain().requested.cancel();
    let status = DrainStatus::of(&state.lifecycle, state.backend.in_flight());
    (StatusCode::ACCEPTED, Json(status)).into_response()
}

async fn maintenance(State(state): State<AdminState>) -> Json<MaintenanceStatus> {
    let error = state.lifecycle.refresh_maintenance().await.err();
    Json(MaintenanceStatus::of(&state.lifecycle, error))
}

/// The query of `POST /maintenance`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct MaintenanceQuery {
    enable: bool,
    reason: Option<String>,
    /// Name or id. Absent: every service.
    service: Option<String>,
}

async fn set_maintenance(State(state): State<AdminState>, Query(query): Query<MaintenanceQuery>) -> Response {
    let reason = query.reason.filter(|reason| !reason.is_empty());
    if reason.as_ref().is_some_and(|reason| reason.len() > MAX_REASON) {
        return (StatusCode::BAD_REQUEST, format!("a reason has at most {MAX_REASON} bytes\n"))
            .into_response();
    }
    let request = match (query.enable, reason) {
        (true, reason) => MaintenanceRequest::On(reason.unwrap_or_else(|| "outrigger maintenance".into())),
        (false, _) => MaintenanceRequest::Off,
    };
    let refused = state.lifecycle.request_maintenance(query.service.as_deref(), request).await.err();
    let status = match &refused {
        None => StatusCode::OK,
        Some(MaintenanceError::NothingToRegister | MaintenanceError::Leaving) => StatusCode::CONFLICT,
        Some(MaintenanceError::UnknownService { .. }) => StatusCode::NOT_FOUND,
        Some(MaintenanceError::Unconfirmed(_)) => StatusCode::BAD_GATEWAY,
    };
    (status, Json(MaintenanceStatus::of(&state.lifecycle, refused.map(|refused| refused.to_string()))))
        .into_response()
}

async fn reload(State(state): State<AdminState>) -> Response {
    info!("reload requested");
    let outcome = state.backend.reload().await;
    let status = match &outcome {
        Ok(_) => StatusCode::OK,
        Err(ReloadError::Problems { .. }) => StatusCode::UNPROCESSABLE_ENTITY,
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
