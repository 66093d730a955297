//! Calls to the agent: each within a bound of its own, and how long to wait after one that failed.

use std::{future::Future, time::Duration};

use outrigger_policy::backoff::Backoff;
use outrigger_registry::{AgentService, AnswerFuture, Error, Registrar};
use tokio::time::timeout;

use crate::telemetry::error_chain;

/// Longest wait of one look: how long a check that somebody added may count.
const MAX_QUERY_WAIT: Duration = Duration::from_secs(5);

/// Added to [`MAX_QUERY_WAIT`] before a look is given up: the registry's own time-out comes first.
const QUERY_TIMEOUT_MARGIN: Duration = Duration::from_secs(20);

/// Longest wait for one other call; the registry's own time-out comes first (Consul: 15 s).
const CALL_TIMEOUT: Duration = Duration::from_secs(20);

/// Pauses after a failed call: an agent that is back is used within seconds.
const RETRY_BACKOFF: Backoff = Backoff { base: Duration::from_millis(250), max: Duration::from_secs(3) };

/// The same while nobody accepts connections. Asking costs nobody anything; and when an agent is back with
/// nothing, callers hold who is missing for a second only once others of the service are listed again.
const CONNECT_BACKOFF: Backoff =
    Backoff { base: Duration::from_millis(250), max: Duration::from_millis(500) };

/// A call that failed.
#[derive(Debug)]
pub(super) struct CallError {
    /// Why.
    pub(super) text: String,
    /// Nobody accepts connections there.
    refused_connection: bool,
}

impl CallError {
    /// How long to wait before it is tried again, after so many failures before this one.
    pub(super) fn retry_pause(&self, failures: u32) -> Duration {
        let backoff = if self.refused_connection { CONNECT_BACKOFF } else { RETRY_BACKOFF };
        backoff.pause(failures, fastrand::u64(..))
    }
}

impl From<Error> for CallError {
    fn from(error: Error) -> Self {
        Self { text: error_chain(&error), refused_connection: matches!(error, Error::Connect { .. }) }
    }
}

impl From<String> for CallError {
    fn from(text: String) -> Self {
        Self { text, refused_connection: false }
    }
}

/// What the agent holds under `id`.
pub(super) async fn query_agent_service(
    registrar: &dyn Registrar,
    id: &str,
    hash: Option<&str>,
) -> Result<Option<AgentService>, CallError> {
    let answer = async {
        match registrar.agent_service(id, hash, MAX_QUERY_WAIT).await {
            // An agent with ACLs says so of an id that it does not know.
            Err(Error::Refused { status: 404, .. }) => Ok(None),
            other => other,
        }
    };
    with_timeout(MAX_QUERY_WAIT + QUERY_TIMEOUT_MARGIN, answer).await
}

/// Any other call, within [`CALL_TIMEOUT`].
pub(super) async fn call_agent<T>(answer: AnswerFuture<'_, T>) -> Result<T, CallError> {
    with_timeout(CALL_TIMEOUT, answer).await
}

/// A call within a bound of the caller's.
pub(super) async fn with_timeout<T>(
    bound: Duration,
    answer: impl Future<Output = Result<T, Error>>,
) -> Result<T, CallError> {
    match timeout(bound, answer).await {
        Ok(done) => Ok(done?),
        Err(_) => Err(format!("no answer within {bound:?}").into()),
    }
}
