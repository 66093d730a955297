//! Errors of the API: `application/problem+json` (RFC 9457) with a reason of a closed list, as on the data path.

use std::time::Duration;

use axum::{
    http::{HeaderValue, header},
    response::{IntoResponse, Response},
};
use outrigger_config::error_chain;
use outrigger_locks::{AcquireError, KnownHolder, LeaseError};
use serde_json::{Value, json};

use super::reason::ApiReason;

/// The header that names the reason, as on the data path.
const ERROR_HEADER: &str = "x-outrigger-error";

/// An error that is answered.
#[derive(Debug)]
pub(super) struct ApiProblem {
    reason: ApiReason,
    detail: String,
    /// Further members of the body.
    members: Vec<(&'static str, Value)>,
    retry_after: Option<Duration>,
    /// The methods that the path takes: the field `Allow`.
    allow: Option<&'static str>,
}

impl ApiProblem {
    pub(super) fn new(reason: ApiReason, detail: impl Into<String>) -> Self {
        Self { reason, detail: detail.into(), members: Vec::new(), retry_after: None, allow: None }
    }

    pub(super) fn bad_request(detail: impl Into<String>) -> Self {
        Self::new(ApiReason::BadRequest, detail)
    }

    /// The registry is a file.
    pub(super) fn no_kv() -> Self {
        Self::new(ApiReason::NoKv, "the registry of this sidecar has no keys: registry.file is set")
    }

    pub(super) fn with(mut self, name: &'static str, value: impl Into<Value>) -> Self {
        self.members.push((name, value.into()));
        self
    }

    pub(super) fn allow(mut self, methods: &'static str) -> Self {
        self.allow = Some(methods);
        self
    }

    pub(super) fn retry_after(mut self, after: Duration) -> Self {
        self.retry_after = Some(after);
        self
    }
}

impl IntoResponse for ApiProblem {
    fn into_response(self) -> Response {
        let (reason, status) = (self.reason.label(), self.reason.status());
        let mut body = json!({
            "type": format!("urn:outrigger:{reason}"),
            "status": status.as_u16(),
            "reason": reason,
            "detail": self.detail,
        });
        for (name, value) in self.members {
            body[name] = value;
        }
        let mut response = (status, format!("{body}\n")).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        headers.insert(ERROR_HEADER, HeaderValue::from_static(reason));
        if let Some(methods) = self.allow {
            headers.insert(header::ALLOW, HeaderValue::from_static(methods));
        }
        if let Some(after) = self.retry_after {
            // Whole seconds, rounded up.
            let seconds = u64::try_from(after.as_millis().div_ceil(1000)).unwrap_or(u64::MAX);
            headers.insert(header::RETRY_AFTER, seconds.max(1).into());
        }
        response
    }
}

impl From<AcquireError> for ApiProblem {
    fn from(error: AcquireError) -> Self {
        use AcquireError as E;
        let problem = Self::new(ApiReason::from(&error), error_chain(&error));
        match error {
            E::Held { holders } => {
                let holders: Vec<_> = holders.iter().map(holder_json).collect();
                problem.with("holders", holders)
            }
            E::LockDelay { longest } => problem.retry_after(longest),
            E::LimitMismatch { limit } => problem.with("limit", limit),
            E::Registry(_) | E::Restoring | E::HandedOver => problem.retry_after(Duration::from_secs(1)),
            _ => problem,
        }
    }
}

impl From<LeaseError> for ApiProblem {
    fn from(error: LeaseError) -> Self {
        let lost = |loss: &str| Self::new(ApiReason::LockLost, error.to_string()).with("loss", loss);
        match &error {
            LeaseError::Unknown => lost("unknown_lease"),
            LeaseError::Lost(reason) => lost(reason.name()),
            LeaseError::Restoring | LeaseError::HandedOver => {
                Self::new(ApiReason::Restoring, error.to_string()).retry_after(Duration::from_secs(1))
            }
        }
    }
}

/// A holder of a lock: its session, what it wrote there, and since when it holds the lock, as far as that is known.
pub(super) fn holder_json(known: &KnownHolder) -> Value {
    let holder = &known.holder;
    let mut json = json!({
        "session": holder.session.as_str(),
        "value": String::from_utf8_lossy(&holder.value),
        "here": known.is_here(),
        "seen_ms": millis(known.seen_for),
    });
    if let Some(held_for) = known.held_for {
        json["held_ms"] = millis(held_for).into();
    }
    if let Some(info) = &known.session {
        json["session_name"] = info.name.clone().into();
        json["node"] = info.node.clone().into();
    }
    json
}

/// Whole milliseconds.
pub(super) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// The answer to an unknown path.
pub(super) async fn not_found() -> Response {
    ApiProblem::new(
        ApiReason::NotFound,
        "there is no such path; the API has /v1/config, /v1/kv/KEY, /v1/locks/NAME and /v1/leader/NAME",
    )
    .into_response()
}
