//! The two clocks of the crate.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// tokio's clock, so that a test can pause it.
pub(crate) fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// Time since 1970, for ages that outlive the process, and for metrics and pages that show a time. Nothing else in this crate, in
/// `registration` and in `outrigger` reads the wall clock. A clock that is set before 1970 reads 0: every age is then 0, and no answer
/// is too old.
#[allow(clippy::disallowed_methods, reason = "the clocks that tests can pause start over with the process")]
pub fn unix_time() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}
