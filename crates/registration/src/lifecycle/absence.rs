//! Times in which this process does not register the app.

use tokio_util::sync::CancellationToken;

use crate::plan::HandOver;

/// Why this process does not register the app.
#[derive(Debug, Clone)]
pub(super) enum Absence {
    /// Another process is to register it.
    HandedOver(HandOver),
    /// It is restarted: callers must have left it before it is stopped.
    TakenOut {
        /// Cancelled to skip the waits for callers.
        skip_waits: CancellationToken,
    },
}
