//! The bounds in time fire never early, and at most 100 ms late. The clock is paused: it goes from one timer to the next.

use std::time::Duration;

use outrigger_config::{Config, Policy};
use tokio::time::{Instant, sleep};

use crate::path::{CAPACITY, End, Path, Peer};

const GET: &str = "GET / HTTP/1.1\r\nHost: orders\r\n\r\n";
const TUNNEL: &str = "GET / HTTP/1.1\r\nHost: orders\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n";
const SWITCHED: &str = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n";
const BOUND: Duration = Duration::from_millis(1700);
const LATE: Duration = Duration::from_millis(100);
/// Pauses between two bytes, each shorter than the bound, all together longer.
const PAUSES: [u64; 5] = [1, 777, 1699, 3, 1250];

/// A path where one bound is [`BOUND`], and the others are far.
async fn path(set: impl FnOnce(&mut Config)) -> Path {
    Path::new(1, CAPACITY, |config| {
        let far = Duration::from_secs(3600);
        config.outbound.limits.head_timeout = far;
        config.outbound.limits.tunnel_idle = far;
        let defaults = Policy { timeout: far, body_idle: far, ..Policy::default() };
        config.defaults = defaults.clone();
        config.upstreams[0].policy = defaults;
        set(config);
    })
    .await
}

fn policy(config: &mut Config) -> &mut Policy {
    &mut config.upstreams[0].policy
}

/// An app that has said `request`, and the instance's connection that got it.
async fn begin(path: &mut Path, request: &str) -> (Peer, usize) {
    let mut app = path.connect();
    app.say(request);
    path.settle().await;
    let at = path.used()[0];
    path.instances[at].read();
    (app, at)
}

/// Waits until the app gets `head`, or for none until its connection ends: [`BOUND`] after `since`.
async fn assert_fires(app: &mut Peer, since: Instant, head: &str) {
    app.got.clear();
    let is_done = |got: &[u8]| !head.is_empty() && got.starts_with(head.as_bytes());
    tokio::time::timeout(Duration::from_secs(1000), app.read_until(is_done)).await.expect("nothing fired");
    let took = since.elapsed();
    assert!(took >= BOUND, "{head:?} is early: {took:?}");
    assert!(took <= BOUND + LATE, "{head:?} is late: {took:?}");
    assert!(is_done(&app.got) || head.is_empty() && app.end.is_some(), "{:?}", app.got.escape_ascii());
}

/// Fills both streams of a response with bytes of its body.
async fn fill(path: &mut Path, at: usize) {
    while path.instances[at].write(&[b'x'; 1000]) > 0 {
        path.settle().await;
    }
}

async fn pause(millis: u64) {
    sleep(Duration::from_millis(millis)).await;
}

#[tokio::test(start_paused = true)]
async fn a_head_has_its_time_from_its_first_byte() {
    let mut path = path(|config| config.outbound.limits.head_timeout = BOUND).await;
    for wait in [0, 13, 999, 5000] {
        let mut app = path.connect();
        // No byte: the connection may wait for as long as it likes, parked or not.
        pause(wait).await;
        let since = Instant::now();
        app.say("G");
        for byte in ["E", "T", " "] {
            pause(411).await;
            app.say(byte);
        }
        assert_fires(&mut app, since, "HTTP/1.1 408").await;
    }
}

#[tokio::test(start_paused = true)]
async fn the_time_out_counts_from_the_last_byte_of_the_body() {
    let mut path = path(|config| policy(config).timeout = BOUND).await;
    let (mut app, at) =
        begin(&mut path, "POST / HTTP/1.1\r\nHost: orders\r\nContent-Length: 5\r\n\r\n").await;
    for millis in PAUSES {
        pause(millis).await;
        app.say("x");
    }
    let since = Instant::now();
    // An interim response does not stop it.
    pause(900).await;
    path.instances[at].say("HTTP/1.1 103 Early Hints\r\n\r\n");
    app.read_until(|got| got.ends_with(b"\r\n\r\n")).await;
    assert_fires(&mut app, since, "HTTP/1.1 504").await;
}

#[tokio::test(start_paused = true)]
async fn an_attempt_has_its_own_time() {
    let set = |config: &mut Config| policy(config).per_try_timeout = Some(BOUND);
    let mut path = path(set).await;
    let (mut app, _) = begin(&mut path, "POST / HTTP/1.1\r\nHost: orders\r\nContent-Length: 0\r\n\r\n").await;
    assert_fires(&mut app, Instant::now(), "HTTP/1.1 504").await;
}

#[tokio::test(start_paused = true)]
async fn a_deadline_ends_a_response_that_goes_on() {
    let mut path = path(|config| policy(config).deadline = Some(BOUND)).await;
    let since = Instant::now();
    let (mut app, at) = begin(&mut path, GET).await;
    path.instances[at].say("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n");
    for _ in 0..3 {
        pause(500).await;
        path.instances[at].say("x");
    }
    assert_fires(&mut app, since, "").await;
}

#[tokio::test(start_paused = true)]
async fn each_byte_of_an_upload_restarts_body_idle() {
    let mut path = path(|config| policy(config).body_idle = BOUND).await;
    let (mut app, _) = begin(&mut path, "POST / HTTP/1.1\r\nHost: orders\r\nContent-Length: 9\r\n\r\n").await;
    for millis in PAUSES {
        pause(millis).await;
        app.say("x");
    }
    assert_fires(&mut app, Instant::now(), "HTTP/1.1 408").await;
}

#[tokio::test(start_paused = true)]
async fn an_instance_that_takes_no_more_of_a_body_has_body_idle() {
    let mut path = Path::new(1, 100, |config| policy(config).body_idle = BOUND).await;
    let mut app = path.connect();
    app.say(format!("POST / HTTP/1.1\r\nHost: orders\r\nContent-Length: 1000\r\n\r\n{}", "x".repeat(1000)));
    for millis in PAUSES {
        path.settle().await;
        let at = path.used()[0];
        path.instances[at].read();
        pause(millis).await;
    }
    let at = path.used()[0];
    path.instances[at].read();
    assert_fires(&mut app, Instant::now(), "HTTP/1.1 504").await;
}

#[tokio::test(start_paused = true)]
async fn each_byte_of_a_response_restarts_body_idle_and_so_does_the_upload_beside_it() {
    let mut path = path(|config| policy(config).body_idle = BOUND).await;
    let (mut app, at) =
        begin(&mut path, "POST / HTTP/1.1\r\nHost: orders\r\nContent-Length: 99\r\n\r\n").await;
    path.instances[at].say("HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n");
    for millis in PAUSES {
        pause(millis).await;
        path.instances[at].say("x");
    }
    for millis in PAUSES {
        pause(millis).await;
        app.say("x");
    }
    assert_fires(&mut app, Instant::now(), "").await;
    path.instances[at].read();
    assert!(path.instances[at].got.ends_with(b"xxxxx") && path.instances[at].end.is_some());
}

#[tokio::test(start_paused = true)]
async fn an_app_that_takes_nothing_of_a_response_has_the_largest_body_idle() {
    let mut path = path(|config| {
        policy(config).body_idle = Duration::from_millis(500);
        config.defaults.body_idle = BOUND;
    })
    .await;
    let (mut app, at) = begin(&mut path, GET).await;
    path.instances[at].say("HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n");
    for millis in PAUSES {
        fill(&mut path, at).await;
        pause(millis).await;
        app.read();
    }
    fill(&mut path, at).await;
    let since = Instant::now();
    while app.end.is_none() {
        // The end is looked for without taking a byte: a reset discards what was not read.
        pause(10).await;
        if path.endpoints()[0].in_flight + path.endpoints()[1].in_flight == 0 {
            app.read();
        }
        assert!(since.elapsed() <= BOUND + LATE, "late");
    }
    assert!(since.elapsed() >= BOUND, "early: {:?}", since.elapsed());
    assert_eq!(app.end, Some(End::Reset));
    assert_eq!(path.reasons().into_keys().collect::<Vec<_>>(), ["client_gone"]);
}

#[tokio::test(start_paused = true)]
async fn a_tunnel_lasts_for_as_long_as_one_of_its_directions_carries_bytes() {
    for last_is_up in [true, false] {
        let mut path = path(|config| config.outbound.limits.tunnel_idle = BOUND).await;
        let (mut app, at) = begin(&mut path, TUNNEL).await;
        path.instances[at].say(SWITCHED);
        for is_up in [!last_is_up, last_is_up] {
            for millis in PAUSES {
                pause(millis).await;
                if is_up { app.say("x") } else { path.instances[at].say("x") }
            }
        }
        let since = Instant::now();
        app.read();
        assert_eq!(app.end, None);
        assert_fires(&mut app, since, "").await;
        path.instances[at].read();
        assert_eq!(path.instances[at].end, Some(End::Closed));
        assert!(path.instances[at].got.ends_with(b"xxxxx"));
    }
}
