//! Finds the endpoint of a request, checks the method, and calls the endpoint's handler.

use std::convert::Infallible;

use bytes::Bytes;
use http::{Method, Request, StatusCode, header, request::Parts};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::{Body as _, Incoming};
use percent_encoding::percent_decode_str;
use tokio::time::Instant;

mod agent;
mod agent_health;
mod agent_process;
mod catalog;
mod context;
mod coordinate;
mod event;
mod health;
mod kv;
mod query;
mod read;
mod reply;
mod request;
mod route;
mod session;
mod txn;
mod unused;

pub(crate) use context::HttpContext;

use query::QueryParams;
use reply::{HttpResponse, Reply};
use request::{ApiRequest, BODY_MAX};
use route::{Handler, Route};

/// Answers one request.
pub(crate) async fn respond(
    context: &HttpContext,
    request: Request<Incoming>,
) -> Result<HttpResponse, Infallible> {
    let reply = handle_request(context, request).await;
    Ok(reply.unwrap_or_else(|refusal| refusal).into_response())
}

async fn handle_request(context: &HttpContext, request: Request<Incoming>) -> Result<Reply, Reply> {
    let (head, body) = request.into_parts();
    if !query::has_good_escapes(head.uri.path()) {
        return Err(Reply::bad_escape());
    }
    let path = percent_decode_str(head.uri.path()).decode_utf8_lossy().into_owned();
    if let Some(clean) = route::clean_path(&path) {
        return Err(Reply::moved_to(&clean, head.uri.query(), &head.method));
    }
    if let Some(path) = route::add_missing_slash(&path) {
        // Unlike the other redirect, this one has no question mark where nothing follows it.
        let query = head.uri.query().filter(|query| !query.is_empty());
        return Err(Reply::moved_to(&path, query, &head.method));
    }
    if !path.chars().all(route::is_printable) {
        return Err(Reply::bare(StatusCode::BAD_REQUEST));
    }
    let Some(route) = route::find_route(&path) else { return Err(Reply::bare(StatusCode::NOT_FOUND)) };
    let (begun, name) = (Instant::now(), route.metric_name(&head.method));
    if !route.path.starts_with("/v1/agent/") {
        context.metrics.count("consul.client.rpc".to_owned());
    }
    let reply = handle_call(context, route, head, body).await;
    context.metrics.record(name, begun.elapsed());
    reply
}

async fn handle_call(
    context: &HttpContext,
    Route { handler, methods, rest, judges_size, takes_namespace, .. }: Route<'_>,
    head: Parts,
    body: Incoming,
) -> Result<Reply, Reply> {
    if head.method == Method::OPTIONS {
        return Ok(Reply::empty().with_allow(methods));
    }
    if !methods.contains(&head.method.as_str()) {
        let text = format!("method {} not allowed", head.method);
        return Err(Reply::text(StatusCode::METHOD_NOT_ALLOWED, &text).with_allow(methods));
    }
    let query = QueryParams::parse(head.uri.query().unwrap_or_default())
        .ok_or_else(|| Reply::empty().with_status(StatusCode::INTERNAL_SERVER_ERROR))?;
    if query.has("ns") && !takes_namespace {
        let text =
            "Bad request: Invalid query parameter: \"ns\" - Namespaces are a Consul Enterprise feature";
        return Err(Reply::text(StatusCode::BAD_REQUEST, text));
    }
    let declared_length = body.size_hint().exact();
    let is_too_large = declared_length.is_some_and(|length| length > BODY_MAX as u64);
    let body = if is_too_large && judges_size { Bytes::new() } else { read_body(body).await? };
    let accept = head.headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok());
    let accept = accept.unwrap_or_default().to_owned();
    let call =
        ApiRequest { method: head.method, path_rest: rest.to_owned(), query, body, declared_length, accept };
    let reply = match handler {
        Handler::Plain(answer) => answer(context, &call),
        // The futures of blocking queries are large; one allocation per request is cheap here.
        Handler::Blocking(answer) => answer(context, &call).await,
        Handler::Unsupported(what) => {
            Err(Reply::text(StatusCode::NOT_IMPLEMENTED, &format!("The dev registry has no {what}")))
        }
    };
    // The body was not read.
    if is_too_large { Ok(reply.unwrap_or_else(|refusal| refusal).with_connection_close()) } else { reply }
}

async fn read_body(body: Incoming) -> Result<Bytes, Reply> {
    let read = Limited::new(body, BODY_MAX).collect().await.map_err(|error| {
        if error.is::<http_body_util::LengthLimitError>() {
            let text = format!("The dev registry reads bodies of up to {BODY_MAX} bytes");
            Reply::text(StatusCode::PAYLOAD_TOO_LARGE, &text).with_connection_close()
        } else {
            Reply::text(StatusCode::BAD_REQUEST, "The body ended early").with_connection_close()
        }
    })?;
    Ok(read.to_bytes())
}
