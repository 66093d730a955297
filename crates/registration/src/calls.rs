//! Calls to the registry: each has a time-out, and a failure gives the pause before the next try.

use std::{future::Future, time::Duration};

use outrigger_config::error_chain;
use outrigger_policy::backoff::Backoff;
use outrigger_registry::Error;
use tokio::time::timeout;

/// Pauses after a failed call, so that a restarted registry is used within seconds.
const RETRY_BACKOFF: Backoff = Backoff { base: Duration::from_millis(250), max: Duration::from_secs(3) };

/// The same while the registry refuses connections. A refused connection costs little. Once a registry has restarted
/// empty and other instances of the service are listed again, callers keep a missing one for a second only.
const CONNECT_BACKOFF: Backoff =
    Backoff { base: Duration::from_millis(250), max: Duration::from_millis(500) };

/// A call that failed.
#[derive(Debug)]
pub(crate) struct CallError {
    /// The error with its causes.
    pub(crate) text: String,
    /// Absent: the time ran out.
    pub(crate) error: Option<Error>,
}

impl CallError {
    /// The pause before the next try, after `failures` earlier failures.
    pub(crate) fn retry_pause(&self, failures: u32) -> Duration {
        let refused = matches!(self.error, Some(Error::Connect { .. }));
        let backoff = if refused { CONNECT_BACKOFF } else { RETRY_BACKOFF };
        backoff.pause(failures, fastrand::u64(..))
    }
}

impl From<Error> for CallError {
    fn from(error: Error) -> Self {
        Self { text: error_chain(&error), error: Some(error) }
    }
}

impl From<String> for CallError {
    fn from(text: String) -> Self {
        Self { text, error: None }
    }
}

/// A call within a time-out.
pub(crate) async fn within<T, E: Into<CallError>>(
    limit: Duration,
    call: impl Future<Output = Result<T, E>>,
) -> Result<T, CallError> {
    match timeout(limit, call).await {
        Ok(done) => done.map_err(Into::into),
        Err(_) => Err(format!("no answer within {limit:?}").into()),
    }
}
