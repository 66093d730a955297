//! The API for the local app, on a listener of its own: its configuration (docs/app-configuration.md), and locks, semaphores and leader
//! election (docs/locks.md).
//!
//! | module | its job |
//! |---|---|
//! | `guard` | refuses browsers, foreign hosts and requests without the token |
//! | `intake` | what every request must be: path and body |
//! | `locks` | the requests about locks |
//! | `request` | reads their paths, queries and bodies |
//! | `config` | the merged configuration, and its stream |
//! | `kv` | reads of keys, as Consul answers them |
//! | `query`, `json` | what Consul reads and writes with the libraries of Go |
//! | `stale` | the fields of an answer that the registry has not confirmed |
//! | `stream` | a lock that is held by a connection; the changes of a lock |
//! | `problem` | errors as `application/problem+json` |
//! | `reason` | the closed list of their reasons |

mod config;
mod guard;
mod intake;
mod json;
mod kv;
mod locks;
mod problem;
mod query;
mod reason;
mod request;
mod stale;
mod stream;

use std::sync::Arc;

use axum::{Router, extract::FromRef, middleware, routing::any};
use outrigger_app_config::KvReader;
use outrigger_locks::LockManager;
use tower_http::catch_panic::CatchPanicLayer;

pub(crate) use config::{ConfigBackend, DrainSignal};
pub(crate) use guard::{ApiGuard, read_token};
pub use reason::ApiReason;

/// What the API answers from. Settings change what is in it, and leave the listener and its connections.
#[derive(Debug, Clone)]
pub(crate) struct ApiBackends {
    /// Absent: the registry keeps no locks.
    pub(crate) locks: Option<LockManager>,
    /// Absent: the registry has no keys.
    pub(crate) kv: Option<Arc<KvReader>>,
    pub(crate) config: ConfigBackend,
}

impl FromRef<ApiBackends> for ConfigBackend {
    fn from_ref(backends: &ApiBackends) -> Self {
        backends.config.clone()
    }
}

impl FromRef<ApiBackends> for Option<LockManager> {
    fn from_ref(backends: &ApiBackends) -> Self {
        backends.locks.clone()
    }
}

impl FromRef<ApiBackends> for Option<Arc<KvReader>> {
    fn from_ref(backends: &ApiBackends) -> Self {
        backends.kv.clone()
    }
}

/// All requests of the API.
pub(crate) fn api_router(backends: ApiBackends, guard: ApiGuard) -> Router {
    Router::new()
        .route("/v1/kv", any(kv::answer))
        .route("/v1/kv/", any(kv::answer))
        .route("/v1/kv/{*path}", any(kv::answer))
        .route("/v1/config", any(config::answer))
        .route("/v1/config/stream", any(config::answer))
        .route("/v1/locks/{*path}", any(locks::answer))
        .route("/v1/leader/{*path}", any(locks::answer))
        .fallback(problem::not_found)
        .layer(middleware::from_fn(intake::check_request))
        .layer(middleware::from_fn_with_state(Arc::new(guard), guard::check_request))
        .layer(CatchPanicLayer::new())
        .with_state(backends)
}
