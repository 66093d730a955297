//! A side of a tunnel that takes no more bytes, and what of the other direction is still delivered.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::path::{CAPACITY, End, Path, Peer};

const REQUEST: &str = "GET / HTTP/1.1\r\nHost: orders\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n";
const SWITCHED: &str = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n";
const IDLE: Duration = Duration::from_secs(20);
/// How long a side may take to end after everything was delivered.
const LINGER: Duration = Duration::from_secs(1);
const LATE: Duration = Duration::from_millis(100);
/// Bytes that have room on a connection that is read slowly.
const NARROW: usize = 100;

/// More bytes than a narrow connection holds.
fn payload() -> Vec<u8> {
    (0..5000_u32).map(|n| b'a' + (n % 26) as u8).collect()
}

/// A tunnel: the app's end of it, and the index of the instance's.
async fn tunnel(app_room: usize, instance_room: usize) -> (Path, Peer, usize) {
    let mut path = Path::new(1, instance_room, |config| config.outbound.limits.tunnel_idle = IDLE).await;
    let mut app = path.connect_with(app_room);
    app.say(REQUEST);
    path.settle().await;
    let at = path.used()[0];
    while !path.instances[at].got.ends_with(b"\r\n\r\n") {
        path.settle().await;
        path.instances[at].read();
    }
    path.instances[at].say(SWITCHED);
    while !app.got.ends_with(b"\r\n\r\n") {
        path.settle().await;
        app.read();
    }
    app.got.clear();
    path.instances[at].got.clear();
    (path, app, at)
}

/// Reads slowly, to the end of the connection.
async fn read_to_end(path: &Path, peer: &mut Peer) {
    while peer.end.is_none() {
        path.settle().await;
        assert!(peer.read() || peer.end.is_some(), "{} bytes, then nothing more", peer.got.len());
    }
}

fn leave(peer: &mut Peer, by_reset: bool) {
    if by_reset { peer.reset() } else { peer.close() }
}

#[tokio::test(start_paused = true)]
async fn what_an_instance_sent_before_it_left_reaches_the_app() {
    for by_reset in [false, true] {
        let (mut path, mut app, at) = tunnel(NARROW, CAPACITY).await;
        path.instances[at].say(payload());
        path.settle().await;
        leave(&mut path.instances[at], by_reset);
        // The write of these bytes fails; more of them do no harm.
        for _ in 0..3 {
            app.write(b"to nothing");
            path.settle().await;
        }
        read_to_end(&path, &mut app).await;
        assert!(app.got == payload(), "{by_reset}: {} bytes", app.got.len());
        assert_eq!(app.end, Some(End::Closed));
    }
}

#[tokio::test(start_paused = true)]
async fn what_an_app_sent_before_it_left_reaches_the_instance() {
    for by_reset in [false, true] {
        let (mut path, mut app, at) = tunnel(CAPACITY, NARROW).await;
        app.say(payload());
        path.settle().await;
        leave(&mut app, by_reset);
        for _ in 0..3 {
            path.instances[at].write(b"to nothing");
            path.settle().await;
        }
        let mut instance = path.instances.remove(at);
        read_to_end(&path, &mut instance).await;
        assert!(instance.got == payload(), "{by_reset}: {} bytes", instance.got.len());
        assert_eq!(instance.end, Some(End::Closed));
    }
}

#[tokio::test(start_paused = true)]
async fn an_end_that_cannot_be_passed_on_ends_one_direction_alone() {
    let (mut path, mut app, at) = tunnel(CAPACITY, NARROW).await;
    app.say(payload());
    path.settle().await;
    // The end of the instance's direction cannot be passed on: ENOTCONN.
    app.reset();
    path.instances[at].half_close();
    path.settle().await;
    let mut instance = path.instances.remove(at);
    read_to_end(&path, &mut instance).await;
    assert!(instance.got == payload(), "{} bytes", instance.got.len());
    assert_eq!(instance.end, Some(End::Closed));
}

/// An instance that does not read until all that it has to say was taken.
#[tokio::test(start_paused = true)]
async fn a_sender_whose_receiver_has_left_is_not_kept_from_reading() {
    let (mut path, mut app, at) = tunnel(CAPACITY, NARROW).await;
    app.say(payload());
    path.settle().await;
    app.reset();
    let mut instance = path.instances.remove(at);
    let mut left = 50_000;
    while left > 0 {
        left -= instance.write(&[b'y'; NARROW]).min(left);
        path.settle().await;
    }
    read_to_end(&path, &mut instance).await;
    assert!(instance.got == payload(), "{} bytes", instance.got.len());
}

#[tokio::test(start_paused = true)]
async fn a_side_that_never_reads_is_waited_for_within_tunnel_idle() {
    let (mut path, mut app, at) = tunnel(NARROW, CAPACITY).await;
    path.instances[at].say(payload());
    path.settle().await;
    let since = Instant::now();
    path.instances[at].close();
    app.write(b"to nothing");
    while !app.is_reset() {
        assert!(since.elapsed() <= IDLE + LINGER + LATE, "late");
        sleep(Duration::from_millis(10)).await;
    }
    assert!(since.elapsed() >= IDLE, "early: {:?}", since.elapsed());
}

/// The instance gets everything, and goes on to send for ever.
#[tokio::test(start_paused = true)]
async fn a_tunnel_with_nothing_left_to_deliver_ends_soon() {
    let (mut path, mut app, at) = tunnel(CAPACITY, CAPACITY).await;
    app.say(payload());
    path.settle().await;
    app.reset();
    let since = Instant::now();
    while !path.instances[at].is_reset() {
        assert!(since.elapsed() <= LINGER + LATE, "late");
        sleep(Duration::from_millis(10)).await;
    }
    assert!(since.elapsed() >= LINGER - LATE, "early: {:?}", since.elapsed());
    assert_eq!(path.reasons().len(), 0);
}
