//! The API for the local app, on a listener of its own: locks, semaphores and leader election. docs/locks.md describes it.
//!
//! | module | its job |
//! |---|---|
//! | `guard` | refuses browsers, foreign hosts and requests without the token |
//! | `locks` | the requests about locks |
//! | `request` | reads their paths, queries and bodies |
//! | `stream` | a lock that is held by a connection; the changes of a lock |
//! | `problem` | errors as `application/problem+json` |

mod guard;
mod locks;
mod problem;
mod request;
mod stream;

use std::sync::Arc;

use axum::{Router, middleware, routing::any};
use outrigger_locks::LockManager;
use tower_http::{catch_panic::CatchPanicLayer, limit::RequestBodyLimitLayer};

pub(crate) use guard::{ApiGuard, read_token};

/// Largest request body, bytes.
const MAX_BODY: usize = 64 * 1024;

/// All requests of the API. `locks`: absent where the registry keeps none.
pub(crate) fn api_router(locks: Option<LockManager>, guard: ApiGuard) -> Router {
    Router::new()
        .route("/v1/locks/{*path}", any(locks::answer))
        .route("/v1/leader/{*path}", any(locks::answer))
        .fallback(problem::not_found)
        .layer(middleware::from_fn_with_state(Arc::new(guard), guard::check_request))
        .layer(RequestBodyLimitLayer::new(MAX_BODY))
        .layer(CatchPanicLayer::new())
        .with_state(locks)
}
