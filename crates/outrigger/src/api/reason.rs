//! The closed list of reasons of the API. docs/errors.md lists them, too.

use axum::http::StatusCode;
use outrigger_locks::AcquireError;

/// Makes [`ApiReason`] of the list of all reasons: name, status, label.
macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident: $status:ident, $label:literal;)*) => {
        /// Why a request to the API is refused.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum ApiReason {
            $($(#[$doc])* $name,)*
        }

        impl ApiReason {
            /// Every reason, in the order of the documentation.
            pub const ALL: [Self; [$($label),*].len()] = [$(Self::$name),*];

            /// The label for the header `x-outrigger-error` and the body.
            pub fn label(self) -> &'static str {
                match self { $(Self::$name => $label),* }
            }

            /// The status of the response.
            pub fn status(self) -> StatusCode {
                match self { $(Self::$name => StatusCode::$status),* }
            }
        }
    };
}

reasons! {
    /// The query, the body or the name is wrong.
    BadRequest: BAD_REQUEST, "bad_request";
    /// The API has no such path.
    NotFound: NOT_FOUND, "not_found";
    /// The path does not take this method.
    MethodNotAllowed: METHOD_NOT_ALLOWED, "method_not_allowed";
    /// The body is larger than the API takes.
    BodyTooLarge: PAYLOAD_TOO_LARGE, "body_too_large";
    /// The body does not come.
    BodyTimeout: REQUEST_TIMEOUT, "body_timeout";
    /// `Host` is not this listener's.
    ForeignHost: FORBIDDEN, "foreign_host";
    /// A browser sent the request.
    ForeignOrigin: FORBIDDEN, "foreign_origin";
    /// The header `x-outrigger-token` is missing or wrong.
    TokenRequired: UNAUTHORIZED, "token_required";
    /// `api.token_file` cannot be read.
    TokenUnreadable: SERVICE_UNAVAILABLE, "token_unreadable";
    /// The registry does not answer, or refuses.
    RegistryUnavailable: SERVICE_UNAVAILABLE, "registry_unavailable";
    /// `api.config.allow` does not name the key.
    KeyNotAllowed: FORBIDDEN, "key_not_allowed";
    /// `dc` names a datacenter.
    OtherDatacenter: FORBIDDEN, "other_datacenter";
    /// The registry has no keys.
    NoKv: NOT_IMPLEMENTED, "no_kv";
    /// `api.config.sources` names nothing.
    NoSources: NOT_FOUND, "no_sources";
    /// A part of the merged configuration is not known.
    ConfigUnknown: SERVICE_UNAVAILABLE, "config_unknown";
    /// The client takes none of the formats.
    NotAcceptable: NOT_ACCEPTABLE, "not_acceptable";
    /// The registry keeps no locks.
    NoLocks: NOT_IMPLEMENTED, "no_locks";
    /// Others hold the lock.
    LockHeld: CONFLICT, "lock_held";
    /// The registry keeps the lock closed after the end of a session.
    LockDelay: CONFLICT, "lock_delay";
    /// The semaphore has another limit.
    LimitMismatch: CONFLICT, "limit_mismatch";
    /// The key holds something else.
    LockKindMismatch: CONFLICT, "lock_kind_mismatch";
    /// The lease is lost or unknown.
    LockLost: GONE, "lock_lost";
    /// The registry gave a lower fencing token than before.
    TokenRegressed: SERVICE_UNAVAILABLE, "token_regressed";
    /// The leases of the last run are being taken over, or another process takes the place of this one.
    Restoring: SERVICE_UNAVAILABLE, "restoring";
    /// The sidecar stops.
    Draining: SERVICE_UNAVAILABLE, "draining";
    /// This sidecar holds as many locks as it may.
    TooManyHeld: TOO_MANY_REQUESTS, "too_many_held";
    /// As many requests wait for locks as may wait.
    TooManyWaiters: TOO_MANY_REQUESTS, "too_many_waiters";
}

impl From<&AcquireError> for ApiReason {
    fn from(error: &AcquireError) -> Self {
        match error {
            AcquireError::Held { .. } => Self::LockHeld,
            AcquireError::LockDelay { .. } => Self::LockDelay,
            AcquireError::LimitMismatch { .. } => Self::LimitMismatch,
            AcquireError::KindMismatch { .. } => Self::LockKindMismatch,
            AcquireError::Registry(_) => Self::RegistryUnavailable,
            AcquireError::TokenRegressed { .. } => Self::TokenRegressed,
            AcquireError::Restoring | AcquireError::HandedOver => Self::Restoring,
            AcquireError::Draining => Self::Draining,
            AcquireError::TooManyHeld { .. } => Self::TooManyHeld,
            AcquireError::TooManyWaiters { .. } => Self::TooManyWaiters,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use outrigger_registry::{Error, LockKind};

    use super::*;

    #[test]
    fn a_lock_has_the_same_reason_in_the_api_and_in_its_metrics() {
        let after = Duration::from_secs(1);
        for error in [
            AcquireError::Held { holders: Vec::new() },
            AcquireError::LockDelay { longest: after },
            AcquireError::LimitMismatch { limit: 1 },
            AcquireError::KindMismatch { kind: LockKind::Foreign },
            AcquireError::Registry(Error::Timeout { request: String::new(), after }),
            AcquireError::TokenRegressed { token: 1, seen: 2 },
            AcquireError::Restoring,
            AcquireError::HandedOver,
            AcquireError::Draining,
            AcquireError::TooManyHeld { limit: 1 },
            AcquireError::TooManyWaiters { limit: 1 },
        ] {
            assert_eq!(ApiReason::from(&error).label(), error.reason(), "{error:?}");
        }
    }
}
