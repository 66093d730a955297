//! Calls to the agent: each within a bound of its own, and how long to wait after one that failed.

use std::{future::Future, time::Duration};

use outrigger_policy::backoff::Backoff;
use outrigger_registry::{AgentService, AnswerFuture, Error, Registrar};
use tokio::time::timeout;

use crate::telemetry::error_chain;

/// Longest wait of one look: how long a check that somebody added may count.
const LOOK: Duration = Duration::from_secs(5);

/// Added to [`LOOK`] before a look is given up: the registry's own time-out comes first.
const LOOK_MARGIN: Duration = Duration::from_secs(20);

/// Longest wait for one other call; the registry's own time-out comes first (Consul: 15 s).
const CALL: Duration = Duration::from_secs(20);

/// Pauses after a failed call: an agent that is back is used within seconds.
const AGAIN: Backoff = Backoff { base: Duration::from_millis(250), max: Duration::from_secs(3) };

/// The same while nobody accepts connections. Asking costs nobody anything; and when an agent is back with
/// nothing, callers hold who is missing for a second only once others of the service are listed again.
const ABSENT: Backoff = Backoff { base: Duration::from_millis(250), max: Duration::from_millis(500) };

/// A call that failed.
#[derive(Debug)]
pub(super) struct Trouble {
    /// Why.
    pub(super) text: String,
    /// Nobody accepts connections there.
    absent: bool,
}

impl Trouble {
    /// How long to wait before it is tried again, after so many failures before this one.
    pub(super) fn pause(&self, failures: u32) -> Duration {
        let backoff = if self.absent { ABSENT } else { AGAIN };
        backoff.pause(failures, fastrand::u64(..))
    }
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Self {
        Self { text: error_chain(&error), absent: matches!(error, Error::Connect { .. }) }
    }
}

impl From<String> for Trouble {
    fn from(text: String) -> Self {
        Self { text, absent: false }
    }
}

/// What the agent holds under `id`.
pub(super) async fn held(
    registrar: &dyn Registrar,
    id: &str,
    hash: Option<&str>,
) -> Result<Option<AgentService>, Trouble> {
    let answer = async {
        match registrar.agent_service(id, hash, LOOK).await {
            // An agent with ACLs says so of an id that it does not know.
            Err(Error::Refused { status: 404, .. }) => Ok(None),
            other => other,
        }
    };
    within(LOOK + LOOK_MARGIN, answer).await
}

/// Any other call, within [`CALL`].
pub(super) async fn call<T>(answer: AnswerFuture<'_, T>) -> Result<T, Trouble> {
    within(CALL, answer).await
}

/// A call within a bound of the caller's.
pub(super) async fn within<T>(
    bound: Duration,
    answer: impl Future<Output = Result<T, Error>>,
) -> Result<T, Trouble> {
    match timeout(bound, answer).await {
        Ok(done) => Ok(done?),
        Err(_) => Err(format!("no answer within {bound:?}").into()),
    }
}
