//! Tells an observer about every exchange, so that metrics can be kept without this crate knowing how.

use std::{fmt, sync::Arc, time::Duration};

use tokio::time::Instant;

/// One exchange that ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Observation {
    /// What was asked, a closed list: `watch` (a blocking query), `read` (the same answered at once),
    /// `register`, `checks`, `remove_check`, `deregister`, `report`, `maintenance`, `held`, `listed`,
    /// `all_held`, `leader`, `self`.
    pub operation: &'static str,
    /// `ok`, a word of [`crate::Error::label`], or `cancelled` when the caller let go.
    pub outcome: &'static str,
    /// From the place among the connections to the end.
    pub latency: Duration,
}

/// Who is told. Called on the control plane's threads: it must not block.
#[derive(Clone)]
pub struct Observer(Arc<dyn Fn(Observation) + Send + Sync>);

impl Observer {
    /// Tells `told`.
    pub fn new(told: impl Fn(Observation) + Send + Sync + 'static) -> Self {
        Self(Arc::new(told))
    }

    /// Tells nobody.
    pub fn none() -> Self {
        Self::new(|_| ())
    }
}

impl fmt::Debug for Observer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Observer")
    }
}

/// An exchange under way. Drop tells, by whichever door it is left.
pub(super) struct ObservedExchange<'a> {
    observer: &'a Observer,
    operation: &'static str,
    outcome: &'static str,
    since: Instant,
    reported: bool,
}

impl<'a> ObservedExchange<'a> {
    pub(super) fn new(observer: &'a Observer, operation: &'static str) -> Self {
        Self { observer, operation, outcome: "cancelled", since: Instant::now(), reported: true }
    }

    /// The outcome to tell.
    pub(super) fn set_outcome<T>(&mut self, result: &Result<T, crate::Error>) {
        self.outcome = result.as_ref().map_or_else(crate::Error::label, |_| "ok");
    }

    /// Tells nothing.
    pub(super) fn discard(mut self) {
        self.reported = false;
    }
}

impl Drop for ObservedExchange<'_> {
    fn drop(&mut self) {
        let Self { observer, operation, outcome, since, reported: told } = self;
        if *told {
            (observer.0)(Observation { operation, outcome, latency: since.elapsed() });
        }
    }
}
