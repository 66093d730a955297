//! Features that are off in this registry, or on and never used: Consul answers for them on a server without ACLs, proxies
//! and gateways.

use http::StatusCode;

use super::{context::HttpContext, health, read, reply::Reply, request::ApiRequest};
use outrigger_filter::consul as fields;

use crate::store::Topic;

/// `acl/*`, `agent/token/*`
pub(super) fn acl(_: &HttpContext, _: &ApiRequest) -> Result<Reply, Reply> {
    Err(Reply::text(StatusCode::UNAUTHORIZED, "ACL support disabled"))
}

/// `catalog/connect/NAME`: there are no proxies.
pub(super) async fn proxies(context: &HttpContext, call: &ApiRequest) -> Result<Reply, Reply> {
    read::require_name(call, "Missing service name")?;
    let show = |_: &_, _: &_| Reply::json(&[(); 0], call);
    read::filtered_read(context, call, Topic::Services, &fields::CATALOG_SERVICE, show).await
}

/// `health/connect/NAME`: there are no proxies.
pub(super) async fn proxy_health(context: &HttpContext, call: &ApiRequest) -> Result<Reply, Reply> {
    no_health(context, call, Topic::Services).await
}

/// `health/ingress/NAME`: there are no gateways.
pub(super) async fn gateway_health(context: &HttpContext, call: &ApiRequest) -> Result<Reply, Reply> {
    no_health(context, call, Topic::Never).await
}

async fn no_health(context: &HttpContext, call: &ApiRequest, topic: Topic) -> Result<Reply, Reply> {
    read::require_name(call, "Missing service name")?;
    health::parse_passing(call)?;
    let show = |_: &_, _: &_| Reply::json(&[(); 0], call);
    read::filtered_read(context, call, topic, &fields::HEALTH, show).await
}

/// `agent/monitor`: there is no log to follow, at any level.
pub(super) fn monitor(_: &HttpContext, call: &ApiRequest) -> Result<Reply, Reply> {
    let level = call.query.first("loglevel").unwrap_or_default();
    let known = ["", "TRACE", "DEBUG", "INFO", "WARN", "ERR", "ERROR"];
    let (status, text) = match known.contains(&level.to_uppercase().as_str()) {
        true => (StatusCode::NOT_IMPLEMENTED, "The dev registry has no log to follow".to_owned()),
        false => (StatusCode::BAD_REQUEST, format!("Bad request: Unknown log level: {level}")),
    };
    Err(Reply::text(status, &text))
}
