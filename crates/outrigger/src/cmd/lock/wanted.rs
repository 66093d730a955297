//! A lock that is asked for, and why it is not had.

use std::time::Duration;

use outrigger_locks::LockName;
use tokio::time::Instant;

use crate::cmd::report::print_to_stderr;

/// The exit code where others hold the lock, and the wait is over.
pub(super) const NOT_ACQUIRED: u8 = 3;
/// The exit code where the lock cannot be asked for.
const IMPOSSIBLE: u8 = 5;
/// How long a wait is silent.
pub(super) const SILENT_WAIT: Duration = Duration::from_secs(1);

/// A lock to be acquired.
pub(super) struct Wanted {
    pub(super) name: LockName,
    pub(super) limit: u32,
    pub(super) value: String,
    pub(super) ttl: Duration,
    /// When the wait is over. Absent: never.
    pub(super) until: Option<Instant>,
}

/// Why there is no lock.
pub(super) struct NotHeld {
    pub(super) code: u8,
    pub(super) why: String,
}

impl NotHeld {
    /// It cannot be asked for.
    pub(super) fn impossible(why: impl Into<String>) -> Self {
        Self { code: IMPOSSIBLE, why: why.into() }
    }
}

/// Writes a line to stderr, which the command may use too.
pub(super) fn say(what: impl std::fmt::Display) {
    print_to_stderr(format_args!("outrigger: {what}"));
}
