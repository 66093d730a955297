//! A retry counts, and costs the retry budget, when it is made and not before.

use std::time::Duration;

use outrigger_config::{Config, RetryBudget};
use tokio::time::sleep;

use crate::path::{CAPACITY, End, Path, Peer};

const GET: &str = "GET / HTTP/1.1\r\nHost: orders\r\n\r\n";
const PAUSE: Duration = Duration::from_secs(20);
/// An answer that asks for [`PAUSE`] before the retry, at any instance.
const LATER: &str =
    "HTTP/1.1 503 Service Unavailable\r\nGrpc-Retry-Pushback-Ms: 20000\r\nContent-Length: 0\r\n\r\n";

fn set(config: &mut Config) {
    config.discovery.mass_loss = None;
    let far = Duration::from_secs(3600);
    let policy = &mut config.upstreams[0].policy;
    (policy.timeout, policy.pool.idle_timeout) = (far, far);
    (policy.retry.max_retry_after, policy.retry.backoff_max) = (far, far);
    policy.retry.budget = RetryBudget { ratio: 0.0, min_per_second: 1, window: Duration::from_secs(100) };
}

/// A request that waits for its retry.
async fn wait_for_retry() -> (Path, Peer) {
    let mut path = Path::new(2, CAPACITY, set).await;
    assert_eq!((path.service().retries, path.service().retry_budget), (0, 100));
    let mut app = path.connect();
    app.say(GET);
    path.settle().await;
    let at = path.used()[0];
    path.instances[at].read();
    path.instances[at].say(LATER);
    path.settle().await;
    assert!(!app.read(), "the retry is to come: {}", app.got.escape_ascii());
    (path, app)
}

#[tokio::test(start_paused = true)]
async fn a_retry_that_is_made_is_counted_and_paid_for() {
    let (path, _app) = wait_for_retry().await;
    sleep(PAUSE).await;
    path.settle().await;
    assert_eq!((path.service().retries, path.service().retry_budget), (1, 99));
}

#[tokio::test(start_paused = true)]
async fn a_retry_for_which_no_instance_is_left_is_neither_counted_nor_paid_for() {
    let (path, mut app) = wait_for_retry().await;
    path.list_none();
    sleep(PAUSE).await;
    path.settle().await;
    assert!(path.endpoints().is_empty());
    app.read();
    assert!(app.got.starts_with(b"HTTP/1.1 503 "), "the answer that there was: {}", app.got.escape_ascii());
    assert_eq!((path.service().retries, path.service().retry_budget), (0, 100));
}

#[tokio::test(start_paused = true)]
async fn a_retry_that_the_app_does_not_wait_for_is_neither_counted_nor_paid_for() {
    let (path, mut app) = wait_for_retry().await;
    app.half_close();
    path.settle().await;
    app.read();
    assert_eq!(app.end, Some(End::Closed));
    assert_eq!((path.service().retries, path.service().retry_budget), (0, 100));
    assert_eq!(path.reasons().into_keys().collect::<Vec<_>>(), ["client_gone"]);
}
