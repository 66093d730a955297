//! The promises of the policy crate, a module for each, through its public interface alone.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

mod backoff;
mod budget;
mod circuit_breaker;
mod deadline;
mod hedge;
mod load_balancer;
mod outcome;
mod outlier_detection;
mod peak_ewma;
mod retry;

use std::time::{Duration, Instant};

/// Some moment to count from.
fn origin() -> Instant {
    #[expect(
        clippy::disallowed_methods,
        reason = "an `Instant` has no other source; it is read as an origin only"
    )]
    Instant::now()
}

fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}
