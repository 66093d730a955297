//! The runtime of a command: the single thread of the control plane.

use std::time::Duration;

use super::report::CommandError;
use crate::signal::TerminationSignals;

/// Longest wait at the end for threads with a blocking call under way, such as a name lookup.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_millis(500);

/// Runs a command to its end.
pub(super) fn run_on_runtime<T>(
    command: impl Future<Output = Result<T, CommandError>>,
) -> Result<T, CommandError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| CommandError::running(format!("start the runtime: {error}")))?;
    let done = runtime.block_on(command);
    runtime.shutdown_timeout(SHUTDOWN_TIMEOUT);
    done
}

/// Catches SIGTERM and SIGINT from now on.
pub(super) fn listen_for_termination() -> Result<TerminationSignals, CommandError> {
    TerminationSignals::listen().map_err(signal_error)
}

pub(super) fn signal_error(error: std::io::Error) -> CommandError {
    CommandError::running(format!("listen to signals: {error}"))
}
