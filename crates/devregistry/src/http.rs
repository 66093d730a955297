//! Requests in, answers out: finds the endpoint, checks the method, lets the endpoint's own file
//! answer.

use std::convert::Infallible;

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use percent_encoding::percent_decode_str;

use crate::server::ServerContext;

mod agent;
mod agent_health;
mod catalog;
mod health;
mod query;
mod read;
mod reply;
mod route;

use query::QueryParams;
use reply::{HttpResponse, Reply};
use route::{Endpoint, Route};

/// Largest body of a request.
const BODY_MAX: usize = 512 * 1024;

/// A request, taken apart.
#[derive(Debug)]
struct ApiRequest {
    /// What follows the endpoint's path, decoded.
    path_rest: String,
    query: QueryParams,
    body: Bytes,
    /// `Accept` is exactly `text/plain`.
    accepts_plain_text: bool,
}

/// Answers one request.
pub(crate) async fn respond(
    shared: &ServerContext,
    request: Request<Incoming>,
) -> Result<HttpResponse, Infallible> {
    let reply = handle_request(shared, request).await;
    Ok(reply.unwrap_or_else(|refusal| refusal).into_response())
}

async fn handle_request(shared: &ServerContext, request: Request<Incoming>) -> Result<Reply, Reply> {
    let (head, body) = request.into_parts();
    let Ok(path) = percent_decode_str(head.uri.path()).decode_utf8() else {
        return Err(Reply::text(StatusCode::BAD_REQUEST, "400 Bad Request").with_connection_close());
    };
    if let Some(clean) = route::clean_path(&path) {
        return Err(Reply::moved_to(&clean, &head.method));
    }
    if let Some(path) = route::add_missing_slash(&path) {
        return Err(Reply::moved_to(&path, &head.method));
    }
    let Some(Route { endpoint, methods, rest }) = route::find_route(&path) else {
        return Err(Reply::unknown_path());
    };
    if head.method == Method::OPTIONS {
        return Ok(Reply::empty().with_allow(methods));
    }
    if !methods.contains(&head.method.as_str()) {
        let text = format!("method {} not allowed", head.method);
        return Err(Reply::text(StatusCode::METHOD_NOT_ALLOWED, &text).with_allow(methods));
    }
    let query = QueryParams::parse(head.uri.query().unwrap_or_default())
        .ok_or_else(|| Reply::empty().with_status(StatusCode::INTERNAL_SERVER_ERROR))?;
    if query.has("ns") {
        let text =
            "Bad request: Invalid query parameter: \"ns\" - Namespaces are a Consul Enterprise feature";
        return Err(Reply::text(StatusCode::BAD_REQUEST, text));
    }
    let body = Limited::new(body, BODY_MAX).collect().await.map_err(|error| {
        if error.is::<http_body_util::LengthLimitError>() {
            let text = format!("The dev registry reads bodies of up to {BODY_MAX} bytes");
            Reply::text(StatusCode::PAYLOAD_TOO_LARGE, &text).with_connection_close()
        } else {
            Reply::text(StatusCode::BAD_REQUEST, "The body broke off").with_connection_close()
        }
    })?;
    let plain = head.headers.get(http::header::ACCEPT).is_some_and(|accept| accept == "text/plain");
    let call =
        ApiRequest { path_rest: rest.to_owned(), query, body: body.to_bytes(), accepts_plain_text: plain };
    // The endpoints' futures are large when they block; one allocation a request is nothing here.
    Box::pin(dispatch(shared, endpoint, &call)).await
}

async fn dispatch(shared: &ServerContext, endpoint: Endpoint, call: &ApiRequest) -> Result<Reply, Reply> {
    match endpoint {
        Endpoint::Root => Ok(Reply::root()),
        Endpoint::AgentSelf => agent::agent_self(shared, call),
        Endpoint::AgentMembers => agent::members(shared, call),
        Endpoint::AgentServices => agent::services(shared, call),
        Endpoint::AgentService => agent::service(shared, call).await,
        Endpoint::AgentChecks => agent::checks(shared, call),
        Endpoint::AgentRegister => agent::register(shared, call),
        Endpoint::AgentDeregister => agent::deregister(shared, call),
        Endpoint::AgentServiceMaintenance => agent::set_service_maintenance(shared, call),
        Endpoint::AgentMaintenance => agent::set_node_maintenance(shared, call),
        Endpoint::CheckRegister => agent::register_check(shared, call),
        Endpoint::CheckDeregister => agent::deregister_check(shared, call),
        Endpoint::CheckReport(status) => agent::report(shared, call, status),
        Endpoint::CheckUpdate => agent::update(shared, call),
        Endpoint::AgentHealthByName => agent_health::by_name(shared, call),
        Endpoint::AgentHealthById => agent_health::by_id(shared, call),
        Endpoint::Datacenters => catalog::datacenters(shared, call),
        Endpoint::Nodes => catalog::nodes(shared, call).await,
        Endpoint::Node => catalog::node(shared, call).await,
        Endpoint::NodeServices => catalog::node_services(shared, call).await,
        Endpoint::Services => catalog::services(shared, call).await,
        Endpoint::Instances => catalog::instances(shared, call).await,
        Endpoint::CatalogRegister => catalog::register(shared, call),
        Endpoint::CatalogDeregister => catalog::deregister(shared, call),
        Endpoint::HealthService => health::service(shared, call).await,
        Endpoint::HealthChecks => health::checks(shared, call).await,
        Endpoint::HealthState => health::state(shared, call).await,
        Endpoint::HealthNode => health::node(shared, call).await,
        Endpoint::Leader => catalog::leader(shared, call),
        Endpoint::Peers => catalog::peers(shared, call),
        Endpoint::Unsupported(what) => {
            Err(Reply::text(StatusCode::NOT_IMPLEMENTED, &format!("The dev registry has no {what}")))
        }
    }
}
