//! A drain ends a connection without a request at once, on a clock that does not move.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use outrigger_config::Config;
use outrigger_net::Stream;
use outrigger_proxy::testing::StreamProxy;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    time::Instant,
};

/// Bytes with which the connection begins, and what the proxy answers before the drain.
async fn drain_after(first: &[u8], answered: impl Fn(&[u8]) -> bool) {
    let proxy = StreamProxy::new(&Config::default(), 0).unwrap();
    let (near, mut far) = Stream::in_memory(64 * 1024);
    // The connection finds bytes when it is polled for the first time, and does not wait for a first one.
    far.write_all(first).await.unwrap();
    let served = tokio::spawn(proxy.serve(near));
    tokio::task::yield_now().await;
    let mut answer = Vec::new();
    while !answered(&answer) {
        assert_ne!(far.read_buf(&mut answer).await.unwrap(), 0, "{}", answer.escape_ascii());
    }
    assert!(!served.is_finished());
    let begun = Instant::now();
    proxy.drain();
    served.await.unwrap();
    assert_eq!(begun.elapsed().as_nanos(), 0);
    assert_eq!(far.read_buf(&mut answer).await.unwrap(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_began_with_a_request_and_never_waited_ends_at_once() {
    // Its forwarding ends here (RFC 9110 §7.6.2), so that it needs no endpoint.
    let request = b"OPTIONS / HTTP/1.1\r\nHost: orders\r\nMax-Forwards: 0\r\n\r\n";
    drain_after(request, |answer| answer.ends_with(b"\r\n\r\n")).await;
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_began_with_an_empty_line_and_never_waited_ends_at_once() {
    drain_after(b"\r\n", <[u8]>::is_empty).await;
}
