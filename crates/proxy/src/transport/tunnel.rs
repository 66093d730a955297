//! An upgraded connection: bytes both ways.
//!
//! The request's body is carried to its end first (RFC 9110 §7.8). Each direction ends by itself; the tunnel ends when both have
//! ended, when either side breaks, or when both have been silent for the tunnel's time-out. Nothing that goes through is
//! looked at.

use std::{
    future::poll_fn,
    io,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::time::Instant;
use tracing::debug;

use crate::transport::{
    channel::{Channel, LARGE, Turn},
    exchange::Exchange,
    timer::LazyTimer,
    upload::Upload,
};

/// Carries bytes until an end.
pub(crate) async fn run(
    app: &mut Channel,
    exchange: &mut Exchange,
    upload: &mut Upload,
    timer: &mut LazyTimer,
    idle: Duration,
) {
    let (mut up, mut down) = (Direction::default(), Direction::default());
    let mut moved_before = 0;
    let mut moved_at = Instant::now();
    let ended: io::Result<()> = poll_fn(|cx| {
        let sent = exchange.poll_upload(app, upload, cx);
        if let Poll::Ready(Err(_)) = sent {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        let instance = exchange.channel();
        let upwards = match sent {
            Poll::Ready(_) => up.poll(app, instance, cx)?,
            Poll::Pending => Poll::Pending,
        };
        let downwards = down.poll(instance, app, cx)?;
        if upwards.is_ready() && downwards.is_ready() {
            return Poll::Ready(Ok(()));
        }
        loop {
            let moved = app.written + instance.written;
            if moved != moved_before {
                (moved_before, moved_at) = (moved, Instant::now());
            }
            ready!(timer.poll_until(moved_at + idle, cx));
            if moved_at.elapsed() >= idle {
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
        }
    })
    .await;
    if let Err(error) = ended {
        debug!(%error, "tunnel ended");
    }
}

/// One direction of a tunnel.
#[derive(Debug, Default)]
struct Direction {
    is_shut: bool,
}

impl Direction {
    /// Ready: the direction has ended.
    fn poll(&mut self, from: &mut Channel, to: &mut Channel, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut turn = Turn::default();
        loop {
            ready!(to.poll_flush(cx))?;
            while !from.inbox.is_empty() {
                ready!(turn.poll_more(cx));
                let taken = ready!(to.poll_take(turn.part(from.inbox.data()), cx))?;
                from.inbox.consume(taken);
                turn.moved(taken);
            }
            from.release_inbox();
            if self.is_shut {
                return Poll::Ready(Ok(()));
            }
            ready!(turn.poll_more(cx));
            turn.read();
            if ready!(from.poll_fill(LARGE, false, cx))? == 0 {
                ready!(to.poll_shutdown(cx))?;
                self.is_shut = true;
            }
        }
    }
}
