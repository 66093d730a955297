//! Calls to the agent: each has a time-out, and a failure gives the pause before the next try.

use std::{future::Future, time::Duration};

use outrigger_policy::backoff::Backoff;
use outrigger_registry::{AgentService, AnswerFuture, Error, Registrar};
use tokio::time::timeout;

use crate::telemetry::error_chain;

/// Longest wait of one query, and so the longest time that a foreign check stays.
const MAX_QUERY_WAIT: Duration = Duration::from_secs(5);

/// Added to [`MAX_QUERY_WAIT`] before a query is given up. The time-out of the registry client is shorter.
const QUERY_TIMEOUT_MARGIN: Duration = Duration::from_secs(20);

/// Longest wait for another call. The time-out of the registry client is shorter (Consul: 15 s).
const CALL_TIMEOUT: Duration = Duration::from_secs(20);

/// Pauses after a failed call, so that a restarted agent is used within seconds.
const RETRY_BACKOFF: Backoff = Backoff { base: Duration::from_millis(250), max: Duration::from_secs(3) };

/// The same while the agent refuses connections. A refused connection costs little. Once an agent has restarted
/// empty and other instances of the service are listed again, callers keep a missing one for a second only.
const CONNECT_BACKOFF: Backoff =
    Backoff { base: Duration::from_millis(250), max: Duration::from_millis(500) };

/// A call that failed.
#[derive(Debug)]
pub(super) struct CallError {
    /// The error with its causes.
    pub(super) text: String,
    /// Absent: the time ran out.
    pub(super) error: Option<Error>,
}

impl CallError {
    /// The pause before the next try, after `failures` earlier failures.
    pub(super) fn retry_pause(&self, failures: u32) -> Duration {
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

/// The service that the agent holds under `id`. With a `hash`, waits until the content has another hash.
pub(super) async fn query_agent_service(
    registrar: &dyn Registrar,
    id: &str,
    hash: Option<&str>,
) -> Result<Option<AgentService>, CallError> {
    let answer = async {
        match registrar.agent_service(id, hash, MAX_QUERY_WAIT).await {
            // An agent with ACLs answers 404 for an unknown id.
            Err(Error::Refused { status: 404, .. }) => Ok(None),
            other => other,
        }
    };
    with_timeout(MAX_QUERY_WAIT + QUERY_TIMEOUT_MARGIN, answer).await
}

/// Another call, within [`CALL_TIMEOUT`].
pub(super) async fn call_agent<T>(answer: AnswerFuture<'_, T>) -> Result<T, CallError> {
    with_timeout(CALL_TIMEOUT, answer).await
}

/// A call within the caller's time-out.
pub(super) async fn with_timeout<T>(
    bound: Duration,
    answer: impl Future<Output = Result<T, Error>>,
) -> Result<T, CallError> {
    match timeout(bound, answer).await {
        Ok(done) => Ok(done?),
        Err(_) => Err(format!("no answer within {bound:?}").into()),
    }
}
