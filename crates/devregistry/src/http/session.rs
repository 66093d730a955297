//! `/v1/session/*`: the sessions that hold locks.

use http::StatusCode;
use serde_json::json;

use super::{
    context::HttpContext,
    read::{self, ReadHeaders},
    reply::Reply,
    request::ApiRequest,
};
use crate::{
    store::{Session, Store, Topic},
    wire::session,
};

/// `session/create`
pub(super) fn create(context: &HttpContext, call: &ApiRequest) -> Result<Reply, Reply> {
    let own_node = context.store.read(|store| store.own_node.clone());
    let parsed = session::parse_session(call.body_of_known_length(), &own_node);
    // Consul decodes here, and validates where the datacenter is.
    if !matches!(&parsed, Err(refusal) if refusal.0 == StatusCode::BAD_REQUEST) {
        read::reject_other_datacenter(context, call)?;
    }
    let (new, ttl) = parsed?;
    let id = context
        .store
        .write(|store, now| store.create_session(new, ttl, now))
        .map_err(Reply::internal_error)?;
    Ok(Reply::json(&json!({"ID": id}), call))
}

/// `session/renew/ID`
pub(super) fn renew(context: &HttpContext, call: &ApiRequest) -> Result<Reply, Reply> {
    read::parse_read_params(call)?;
    let id = read::require_name(call, "Missing session")?;
    read::reject_other_datacenter(context, call)?;
    context.store.write(|store, now| match store.renew_session(id, now) {
        Ok(Some(session)) => Ok(Reply::json(&[session], call)),
        Ok(None) => Err(Reply::text(StatusCode::NOT_FOUND, &format!("Session id '{id}' not found"))),
        Err(text) => Err(Reply::internal_error(text)),
    })
}

/// `session/destroy/ID`
pub(super) fn destroy(context: &HttpContext, call: &ApiRequest) -> Result<Reply, Reply> {
    let id = read::require_name(call, "Missing session")?;
    read::reject_other_datacenter(context, call)?;
    context.store.write(|store, now| store.destroy_session(id, now)).map_err(Reply::internal_error)?;
    Ok(Reply::json(&true, call))
}

/// `session/info/ID`
pub(super) async fn info(context: &HttpContext, call: &ApiRequest) -> Result<Reply, Reply> {
    read::parse_read_params(call)?;
    let id = read::require_name(call, "Missing session")?;
    read::reject_other_datacenter(context, call).map_err(Reply::of_failed_read)?;
    context.store.read(|store| store.session(id).map(drop)).map_err(Reply::failed_read)?;
    let show = |store: &Store| {
        let found: Vec<&Session> = store.session(id).ok().flatten().into_iter().collect();
        Reply::json(&found, call)
    };
    read::blocking_read_with(context, call, Topic::Session(id.to_owned()), ReadHeaders::Session, show).await
}

/// `session/node/NAME`
pub(super) async fn of_node(context: &HttpContext, call: &ApiRequest) -> Result<Reply, Reply> {
    read::parse_read_params(call)?;
    let node = read::require_name(call, "Missing node name")?;
    let show = |store: &Store| Reply::json(&store.sessions_of(node).collect::<Vec<_>>(), call);
    read::blocking_read_with(context, call, Topic::SessionsOf(node.to_owned()), ReadHeaders::Session, show)
        .await
}

/// `session/list`
pub(super) async fn list(context: &HttpContext, call: &ApiRequest) -> Result<Reply, Reply> {
    let show = |store: &Store| Reply::json(&store.sessions().collect::<Vec<_>>(), call);
    read::blocking_read_with(context, call, Topic::Sessions, ReadHeaders::Session, show).await
}
