//! The wall clock. An age that outlives the process can be told by no other; this is the one place in
//! the crate that reads it.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Time since 1970. A clock set before that reads 0: every age is then 0, and nothing is too old.
#[allow(clippy::disallowed_methods, reason = "the clocks that tests can pause start over with the process")]
pub(super) fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}
