//! Waits for a condition, instead of sleeping for a fixed time.
#![allow(
    clippy::panic,
    reason = "a harness fails its test by panicking, with a text that says what was awaited"
)]

use std::{future::Future, time::Duration};

use tokio::time::{Instant, sleep, timeout};

/// Only a broken test reaches this time, also on a busy machine.
pub const TIMEOUT: Duration = Duration::from_secs(20);
/// Pause between two checks of a condition.
const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// Waits until `condition` holds.
///
/// # Panics
/// It did not within `bound`: the panic names `what`.
#[track_caller]
pub fn until<F: AsyncFnMut() -> bool>(
    what: &str,
    bound: Duration,
    mut condition: F,
) -> impl Future<Output = ()> {
    let asked_at = std::panic::Location::caller();
    async move {
        let end = Instant::now() + bound;
        while !condition().await {
            assert!(Instant::now() < end, "not within {bound:?}: {what} (asked at {asked_at})");
            sleep(POLL_INTERVAL).await;
        }
    }
}

/// [`until`] for a plain condition, within [`TIMEOUT`].
///
/// # Panics
/// It did not hold in time: the panic names `what`.
#[track_caller]
pub fn until_true<F: FnMut() -> bool>(what: &str, mut condition: F) -> impl Future<Output = ()> {
    until(what, TIMEOUT, async move || condition())
}

/// `future`'s output.
///
/// # Panics
/// It was not ready within [`TIMEOUT`]: the panic names `what`.
#[track_caller]
pub fn within<F: Future>(what: &str, future: F) -> impl Future<Output = F::Output> {
    let asked_at = std::panic::Location::caller();
    async move {
        match timeout(TIMEOUT, future).await {
            Ok(output) => output,
            Err(_) => panic!("not within {TIMEOUT:?}: {what} (asked at {asked_at})"),
        }
    }
}
