//! The end of a connection when the app may still be sending.
//!
//! A close with unread bytes resets the connection, and a reset destroys the response on its way. So the writing side is ended
//! first, and what still comes is read and thrown away, for a bounded time (RFC 9112 §9.6).

use std::{
    future::poll_fn,
    task::{Poll, ready},
    time::Duration,
};

use crate::transport::channel::Channel;

/// Longest time, and most bytes, that are read and thrown away.
const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES: usize = 256 * 1024;

/// Writes what is queued, ends the writing side, and reads until the app ends its side.
pub(crate) async fn linger(channel: &mut Channel) {
    let mut read = 0;
    let mut is_shut = false;
    let drained = poll_fn(|cx| {
        if !is_shut {
            let is_flushed = ready!(channel.poll_flush(cx)).is_ok();
            if !is_flushed || ready!(channel.poll_shutdown(cx)).is_err() {
                return Poll::Ready(());
            }
            is_shut = true;
        }
        loop {
            read += channel.inbox.len();
            channel.inbox.consume(usize::MAX);
            channel.release_inbox();
            if read > LINGER_BYTES {
                return Poll::Ready(());
            }
            match ready!(channel.poll_fill(usize::MAX, true, cx)) {
                Ok(1..) => {}
                Ok(0) | Err(_) => return Poll::Ready(()),
            }
        }
    });
    // An app that reads or sends for longer is left.
    let _ = tokio::time::timeout(LINGER, drained).await;
}
