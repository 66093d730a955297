//! The requests about locks. A request that only reads never acquires.

use axum::{
    Json,
    body::Bytes,
    extract::{Path, RawQuery, State},
    http::{HeaderMap, Method, StatusCode},
    response::{IntoResponse, Response},
};
use outrigger_locks::{AcquireError, Lease, LockManager, Released};
use serde_json::{Value, json};

use super::{
    problem::{ApiProblem, millis},
    reason::ApiReason,
    request::{AcquireRequest, Target, refuse_body, refuse_parameters, shown},
    stream::{hold_response, state_json, watch_response},
};
use crate::sse::accepts_stream;

/// Answers every request below `/v1/locks/` and `/v1/leader/`.
pub(super) async fn answer(
    State(locks): State<Option<LockManager>>,
    method: Method,
    Path(path): Path<String>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    match answer_or_refuse(locks, &method, &path, query.as_deref(), &headers, &body).await {
        Ok(response) => response,
        Err(problem) => problem.into_response(),
    }
}

async fn answer_or_refuse(
    locks: Option<LockManager>,
    method: &Method,
    path: &str,
    query: Option<&str>,
    headers: &HeaderMap,
    body: &[u8],
) -> Result<Response, ApiProblem> {
    let target = Target::read(method, path)?;
    let Some(locks) = locks else {
        let detail = "the registry of this sidecar keeps no locks: registry.file is set";
        return Err(ApiProblem::new(ApiReason::NoLocks, detail));
    };
    if !matches!(target, Target::Hold(_) | Target::Lease(_)) {
        refuse_parameters(query)?;
    }
    if matches!(target, Target::Renew(..) | Target::Release(..)) {
        refuse_body(body)?;
    }
    match target {
        Target::State(name) if accepts_stream(headers) => {
            let (first, watch) = locks.watch(&name).await.map_err(AcquireError::Registry)?;
            Ok(watch_response(name, &first, watch, &locks))
        }
        Target::State(name) => {
            let view = locks.view(&name).await.map_err(AcquireError::Registry)?;
            Ok(Json(state_json(&name, &view)).into_response())
        }
        Target::Hold(name) => {
            let request = AcquireRequest::read(name, query, body, false)?;
            if let Some(owner) = request.owner {
                let detail =
                    format!("owner {:?} is for leases; a connection is its own owner", shown(&owner));
                return Err(ApiProblem::bad_request(detail));
            }
            Ok(hold_response(locks.hold(request.acquire).await?, &locks))
        }
        Target::Lease(name) => {
            let AcquireRequest { acquire, owner, ttl } = AcquireRequest::read(name, query, body, true)?;
            let lease = locks.lease(acquire, owner, ttl).await?;
            Ok((StatusCode::CREATED, lease_json(&lease, &locks)).into_response())
        }
        Target::Renew(name, id) => {
            let lease = locks.renew(&name, &id).await?;
            Ok(lease_json(&lease, &locks).into_response())
        }
        Target::Release(name, id) => match locks.release(&name, &id).await? {
            Released::Now => Ok(StatusCode::NO_CONTENT.into_response()),
            // The app holds it no longer, but others see it held for some time.
            Released::Later => Ok(StatusCode::ACCEPTED.into_response()),
        },
    }
}

/// A lease, and for how long it is certain without another answer. `draining`: it is to be given back soon.
fn lease_json(lease: &Lease, locks: &LockManager) -> Json<Value> {
    Json(json!({
        "lease": lease.id,
        "token": lease.token,
        "ttl_ms": millis(lease.ttl),
        "certain_ms": millis(lease.certain_for),
        "draining": locks.draining().is_cancelled(),
    }))
}
