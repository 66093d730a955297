//! A request that has waited goes by the time after the wait: no decision uses the clock from before it.

use std::time::Duration;

use outrigger_config::{Config, Policy, RetryBudget};
use tokio::time::{Instant, sleep};

use crate::path::{CAPACITY, Path};

const GET: &str = "GET / HTTP/1.1\r\nHost: orders\r\n\r\n";
const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
const BUSY: &str = "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n";

/// A path where one request at a time is under way, and the others wait.
async fn path(set: impl FnOnce(&mut Policy)) -> Path {
    Path::new(1, CAPACITY, |config: &mut Config| {
        let policy = &mut config.upstreams[0].policy;
        let far = Duration::from_secs(3600);
        (policy.max_in_flight, policy.pending_timeout, policy.timeout) = (Some(1), far, far);
        set(policy);
    })
    .await
}

/// The instance's connection that got a request, which it has read.
async fn take_request(path: &mut Path) -> usize {
    path.settle().await;
    (0..path.instances.len()).find(|at| path.instances[*at].read()).expect("a request")
}

async fn pause(millis: u64) {
    sleep(Duration::from_millis(millis)).await;
}

fn is_answered(got: &[u8]) -> bool {
    got.windows(4).any(|end| end == b"\r\n\r\n")
}

#[tokio::test(start_paused = true)]
async fn a_post_after_a_wait_in_the_bulkhead_takes_no_connection_that_idled_for_too_long() {
    for (wait, is_taken) in [(500, true), (2_000, false)] {
        let mut path = path(|policy| policy.retry.max_retries = 0).await;
        let (mut first, mut second) = (path.connect(), path.connect());
        first.say(GET);
        let at = take_request(&mut path).await;
        second.say("POST / HTTP/1.1\r\nHost: orders\r\nContent-Length: 0\r\n\r\n");
        path.settle().await;
        // The connection to the other instance idles meanwhile; a POST takes one that was idle for less than a second.
        pause(wait).await;
        path.instances[at].say(OK);
        path.settle().await;
        let other = &mut path.instances[1 - at];
        other.read();
        assert_eq!(other.got.starts_with(b"POST "), is_taken, "after {wait} ms");
        other.say(OK);
        second.read_until(is_answered).await;
        // No other connection can be made.
        let expected: &[u8] = if is_taken { b"HTTP/1.1 200" } else { b"HTTP/1.1 502" };
        assert!(second.got.starts_with(expected), "{}", second.got.escape_ascii());
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_that_waited_counts_for_the_retry_budget_of_the_time_after_the_wait() {
    let mut path = path(|policy| {
        policy.pool.idle_timeout = Duration::from_secs(3600);
        policy.retry.budget = RetryBudget { ratio: 1.0, min_per_second: 0, window: Duration::from_secs(1) };
    })
    .await;
    let (mut first, mut second) = (path.connect(), path.connect());
    first.say(GET);
    let at = take_request(&mut path).await;
    second.say(GET);
    path.settle().await;
    pause(5_000).await;
    path.instances[at].say(OK);
    let at = take_request(&mut path).await;
    // The request itself allows its one retry: nothing else happened within the last second.
    path.instances[at].say(BUSY);
    pause(100).await;
    let other = take_request(&mut path).await;
    assert_ne!(at, other);
    path.instances[other].say(OK);
    second.read_until(is_answered).await;
    assert!(second.got.starts_with(b"HTTP/1.1 200"), "{}", second.got.escape_ascii());
}

#[tokio::test(start_paused = true)]
async fn a_body_that_came_during_a_wait_has_its_time_from_its_last_byte() {
    let timeout = Duration::from_millis(1_700);
    let mut path = path(|policy| policy.timeout = timeout).await;
    let (mut first, mut second) = (path.connect(), path.connect());
    first.say(GET);
    let at = take_request(&mut path).await;
    second.say("PUT / HTTP/1.1\r\nHost: orders\r\nContent-Length: 3\r\n\r\nab");
    path.settle().await;
    pause(1_600).await;
    second.say("c");
    let since = Instant::now();
    path.settle().await;
    path.instances[at].say(OK);
    take_request(&mut path).await;
    second.read_until(is_answered).await;
    assert!(second.got.starts_with(b"HTTP/1.1 504"), "{}", second.got.escape_ascii());
    let took = since.elapsed();
    assert!(took >= timeout && took < timeout + Duration::from_millis(100), "{took:?}");
}
