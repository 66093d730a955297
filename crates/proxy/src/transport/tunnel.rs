//! An upgraded connection: bytes both ways.
//!
//! The request's body is carried to its end first (RFC 9110 §7.8). Each direction ends by itself. A side that takes no more bytes
//! breaks one direction, not the other: what that side has sent before is still delivered. What the other side sends meanwhile is
//! read and discarded, because a peer that waits until its bytes are taken may read none, and because a connection that is
//! closed with unread bytes is reset, and the reset takes delivered bytes away.
//!
//! The tunnel ends when both directions have ended, when both have been silent for the tunnel's time-out, or when one direction has
//! ended, the other one is broken, and its sender has not ended within [`LINGER`]. Nothing that goes through is looked at.

use std::{
    future::poll_fn,
    io,
    task::{Context, Poll, ready},
    time::Duration,
};

use outrigger_net::LazyTimer;
use tokio::time::Instant;
use tracing::debug;

use crate::transport::{
    channel::{Channel, LARGE, Turn},
    exchange::Exchange,
    upload::Upload,
};

/// How long the sender of a broken direction has to end after everything was delivered to it.
const LINGER: Duration = Duration::from_secs(1);

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
    let mut delivered_at = None;
    let ended: io::Result<()> = poll_fn(|cx| {
        let sent = exchange.poll_upload(app, upload, cx);
        if let Poll::Ready(Err(_)) = sent {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        let instance = exchange.channel();
        if sent.is_ready() {
            up.poll(app, instance, cx);
        }
        down.is_broken |= up.is_reset;
        down.poll(instance, app, cx);
        if down.is_reset && !up.is_broken {
            if sent.is_pending() {
                return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
            }
            up.is_broken = true;
            up.poll(app, instance, cx);
        }
        if up.is_ended && down.is_ended {
            return Poll::Ready(Ok(()));
        }
        if up.is_broken && down.is_broken {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        // One has ended; the other one delivers nothing.
        let is_delivered = up.is_ended && down.is_broken || down.is_ended && up.is_broken;
        loop {
            let moved = app.written + instance.written;
            if moved != moved_before {
                (moved_before, moved_at) = (moved, Instant::now());
            }
            let mut until = moved_at + idle;
            if is_delivered {
                until = until.min(*delivered_at.get_or_insert_with(Instant::now) + LINGER);
            }
            ready!(timer.poll_until(until, cx));
            if Instant::now() >= until {
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
    /// The sender has sent its last byte, or has broken the connection.
    is_read: bool,
    /// The sender has broken the connection, so that it takes no bytes either.
    is_reset: bool,
    /// The receiver takes no more bytes: what the sender sends is discarded.
    is_broken: bool,
    /// Nothing more comes, and what came was delivered, or cannot be.
    is_ended: bool,
}

impl Direction {
    /// Moves what can be moved.
    fn poll(&mut self, from: &mut Channel, to: &mut Channel, cx: &mut Context<'_>) {
        if self.is_ended {
            return;
        }
        if !self.is_broken {
            match self.poll_carry(from, to, cx) {
                Poll::Pending => return,
                Poll::Ready(Ok(())) => return self.is_ended = true,
                Poll::Ready(Err(error)) => {
                    debug!(%error, "one direction of a tunnel cannot be delivered");
                    self.is_broken = true;
                }
            }
        }
        self.is_ended = self.poll_discard(from, cx).is_ready();
    }

    /// Carries bytes to the last one, and passes the end on.
    ///
    /// # Errors
    /// The receiver takes no more bytes.
    fn poll_carry(
        &mut self,
        from: &mut Channel,
        to: &mut Channel,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
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
            if self.is_read && to.outbox.is_empty() {
                // Every byte was delivered, so an error is none of this direction: of a connection that its peer has reset, it is
                // ENOTCONN (shutdown(2)).
                if let Err(error) = ready!(to.poll_shutdown(cx)) {
                    debug!(%error, "the end of one direction of a tunnel could not be passed on");
                }
                return Poll::Ready(Ok(()));
            }
            ready!(turn.poll_more(cx));
            turn.read();
            ready!(self.poll_read(from, cx));
        }
    }

    /// Reads to the end, for nothing.
    fn poll_discard(&mut self, from: &mut Channel, cx: &mut Context<'_>) -> Poll<()> {
        let mut turn = Turn::default();
        loop {
            from.inbox.consume(usize::MAX);
            from.release_inbox();
            if self.is_read {
                return Poll::Ready(());
            }
            ready!(turn.poll_more(cx));
            turn.read();
            ready!(self.poll_read(from, cx));
        }
    }

    fn poll_read(&mut self, from: &mut Channel, cx: &mut Context<'_>) -> Poll<()> {
        if self.is_read {
            return Poll::Ready(());
        }
        match ready!(from.poll_fill(LARGE, false, cx)) {
            Ok(1..) => {}
            Ok(0) => self.is_read = true,
            // What was read before is delivered.
            Err(error) => {
                debug!(%error, "one side of a tunnel has broken the connection");
                (self.is_read, self.is_reset) = (true, true);
            }
        }
        Poll::Ready(())
    }
}
