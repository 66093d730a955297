//! Reports every exchange to an observer, so that this crate needs no metrics library.

use std::{fmt, sync::Arc, time::Duration};

use tokio::time::Instant;

/// An exchange that ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Observation {
    /// The operation, a closed list: `watch` (a blocking query), `read` (a query that is answered at once),
    /// `register`, `checks`, `remove_check`, `deregister`, `report`, `maintenance`, `held`, `listed`,
    /// `all_held`; `kv_put`, `kv_delete`; `session_create`, `session_renew`, `session_destroy`, `session_info`, `lock_read`, `lock`,
    /// `unlock`.
    pub operation: &'static str,
    /// `ok`, a label of [`crate::Error::label`], or `cancelled` when the caller dropped the future.
    pub outcome: &'static str,
    /// From the connection slot to the end.
    pub latency: Duration,
}

/// A function that is called with every exchange, on the threads of the control plane: it must not block.
#[derive(Clone)]
pub struct Observer(Arc<dyn Fn(Observation) + Send + Sync>);

impl Observer {
    /// Calls `observe`.
    pub fn new(observe: impl Fn(Observation) + Send + Sync + 'static) -> Self {
        Self(Arc::new(observe))
    }

    /// Does nothing.
    pub fn none() -> Self {
        Self::new(|_| ())
    }
}

impl fmt::Debug for Observer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Observer")
    }
}

/// An exchange in progress. Dropping it reports it, however the exchange ended.
pub(super) struct ObservedExchange<'a> {
    observer: &'a Observer,
    operation: &'static str,
    /// `None`: nothing is reported.
    outcome: Option<&'static str>,
    since: Instant,
}

impl<'a> ObservedExchange<'a> {
    pub(super) fn new(observer: &'a Observer, operation: &'static str) -> Self {
        Self { observer, operation, outcome: Some("cancelled"), since: Instant::now() }
    }

    /// Sets the outcome from `result`.
    pub(super) fn set_outcome<T>(&mut self, result: &Result<T, crate::Error>) {
        self.outcome = Some(result.as_ref().map_or_else(crate::Error::label, |_| "ok"));
    }

    /// Reports nothing.
    pub(super) fn discard(mut self) {
        self.outcome = None;
    }
}

impl Drop for ObservedExchange<'_> {
    fn drop(&mut self) {
        if let Some(outcome) = self.outcome {
            let latency = self.since.elapsed();
            (self.observer.0)(Observation { operation: self.operation, outcome, latency });
        }
    }
}
