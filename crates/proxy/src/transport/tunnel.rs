//! Bytes both ways: an upgraded connection, and one of a TCP listener.
//!
//! Of an upgraded one, the request's body is carried to its end first (RFC 9110 §7.8). Each direction ends by itself. A side that takes no more bytes
//! breaks one direction, not the other: what that side has sent before is still delivered. What the other side sends meanwhile is
//! read and discarded, because a peer that waits until its bytes are taken may read none, and because a connection that is
//! closed with unread bytes is reset, and the reset takes delivered bytes away.
//!
//! The tunnel ends when both directions have ended, when both have been silent for the tunnel's time-out, or when one direction has
//! ended, the other one is broken, and its sender has not ended within [`LINGER`]; and, with a grace, that long after its instance
//! was deregistered or ejected. Nothing that goes through is looked at.

use std::{
    future::poll_fn,
    io,
    ops::RangeInclusive,
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
/// How often a tunnel looks whether its instance has left, at most and at least.
const LOOK_INTERVAL: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(5);

/// What ends a tunnel that goes on by itself.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TunnelBounds {
    /// Longest silence of both directions.
    pub(crate) idle: Duration,
    /// Longest time that it goes on after its instance has left. `None`: that does not matter.
    pub(crate) grace: Option<Duration>,
}

/// How a tunnel ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TunnelEnd {
    /// Both directions have ended, and were delivered.
    Closed,
    /// A side broke the connection, or took no more bytes.
    Broken,
    /// Both directions were silent for too long.
    Idle,
    /// The instance had left for longer than the grace.
    InstanceGone,
}

/// Carries bytes of an upgraded connection until an end. `has_left`: the instance was deregistered or ejected. `note_moved`: as for
/// [`carry`].
pub(crate) async fn run(
    app: &mut Channel,
    exchange: &mut Exchange,
    upload: &mut Upload,
    timer: &mut LazyTimer,
    bounds: TunnelBounds,
    has_left: impl Fn() -> bool,
    mut note_moved: impl FnMut(&Channel, &Channel),
) {
    let mut tunnel = Tunnel::new();
    let ended = poll_fn(|cx| {
        let sent = exchange.poll_upload(app, upload, cx);
        if let Poll::Ready(Err(_)) = sent {
            return Poll::Ready(TunnelEnd::Broken);
        }
        let ended = tunnel.poll(app, exchange.channel(), sent.is_ready(), (timer, bounds), &has_left, cx);
        note_moved(app, exchange.channel());
        ended
    })
    .await;
    debug!(?ended, "tunnel ended");
}

/// Carries bytes both ways between two connections until an end. `note_moved` is told after each turn what the two have taken.
pub(crate) async fn carry(
    app: &mut Channel,
    instance: &mut Channel,
    timer: &mut LazyTimer,
    bounds: TunnelBounds,
    has_left: impl Fn() -> bool,
    mut note_moved: impl FnMut(&Channel, &Channel),
) -> TunnelEnd {
    let mut tunnel = Tunnel::new();
    poll_fn(|cx| {
        let ended = tunnel.poll(app, instance, true, (timer, bounds), &has_left, cx);
        note_moved(app, instance);
        ended
    })
    .await
}

/// Both directions.
#[derive(Debug)]
struct Tunnel {
    up: Direction,
    down: Direction,
    moved_before: u64,
    moved_at: Instant,
    /// When everything was delivered that can be.
    delivered_at: Option<Instant>,
    /// Since when the instance is known to have left.
    left_at: Option<Instant>,
}

impl Tunnel {
    fn new() -> Self {
        Self {
            up: Direction::default(),
            down: Direction::default(),
            moved_before: 0,
            moved_at: Instant::now(),
            delivered_at: None,
            left_at: None,
        }
    }

    /// Moves what can be moved. `is_up_open`: what the app sends belongs to the tunnel.
    fn poll(
        &mut self,
        app: &mut Channel,
        instance: &mut Channel,
        is_up_open: bool,
        (timer, bounds): (&mut LazyTimer, TunnelBounds),
        has_left: &impl Fn() -> bool,
        cx: &mut Context<'_>,
    ) -> Poll<TunnelEnd> {
        let Self { up, down, .. } = self;
        if is_up_open {
            up.poll(app, instance, cx);
        }
        down.is_broken |= up.is_reset;
        down.poll(instance, app, cx);
        if down.is_reset && !up.is_broken {
            if !is_up_open {
                return Poll::Ready(TunnelEnd::Broken);
            }
            up.is_broken = true;
            up.poll(app, instance, cx);
        }
        if up.is_ended && down.is_ended {
            let is_whole = !(up.is_reset || down.is_reset || up.is_broken || down.is_broken);
            return Poll::Ready(if is_whole { TunnelEnd::Closed } else { TunnelEnd::Broken });
        }
        if up.is_broken && down.is_broken {
            return Poll::Ready(TunnelEnd::Broken);
        }
        // One has ended; the other one delivers nothing.
        let is_delivered = up.is_ended && down.is_broken || down.is_ended && up.is_broken;
        loop {
            let moved = app.written + instance.written;
            if moved != self.moved_before {
                (self.moved_before, self.moved_at) = (moved, Instant::now());
            }
            let mut until = self.moved_at + bounds.idle;
            let mut end = TunnelEnd::Idle;
            if is_delivered {
                let delivered_at = *self.delivered_at.get_or_insert_with(Instant::now);
                (until, end) = (until.min(delivered_at + LINGER), TunnelEnd::Broken);
            }
            let look_at = bounds.grace.map(|grace| {
                let now = Instant::now();
                self.left_at = has_left().then(|| self.left_at.unwrap_or(now));
                if let Some(gone_until) = self.left_at.map(|at| at + grace).filter(|at| *at < until) {
                    (until, end) = (gone_until, TunnelEnd::InstanceGone);
                }
                now + (grace / 6).clamp(*LOOK_INTERVAL.start(), *LOOK_INTERVAL.end())
            });
            ready!(timer.poll_until(look_at.map_or(until, |at| at.min(until)), cx));
            if Instant::now() >= until {
                return Poll::Ready(end);
            }
        }
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
