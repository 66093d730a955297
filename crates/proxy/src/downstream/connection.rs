//! The life of one app connection.
//!
//! An idle connection is a parked socket: no buffer, no timer, no codec. Its first byte begins an active period
//! ([`http1`]), which ends after a second without a request. The app is the side that closes an
//! idle connection, unless it is idle for `outbound.limits.idle`, and the time-out of a head begins at the head's first byte.

use std::{
    future::poll_fn,
    task::{Context, Poll},
};

use outrigger_net::Stream;
use tokio::time::Instant;

use crate::{
    context::ConnectionInfo,
    downstream::{
        http1::{self, Next},
        linger::linger,
        table::Place,
    },
    reason::{Reason, Refusal},
    request::reject::{RejectionStyle, write_rejection},
    transport::channel::Channel,
};

/// Serves a connection until either side ends it. `guard` is dropped at the end.
#[expect(clippy::manual_async_fn, reason = "an async fn holds its arguments twice")]
pub(crate) fn serve(
    info: ConnectionInfo,
    mut channel: Channel,
    guard: impl Send,
) -> impl Future<Output = ()> + Send {
    async move {
        let _guard = &guard;
        let mut parked = Parked { info: &info, place: None };
        loop {
            let wakeup = parked.wait(&mut channel).await;
            if wakeup == Wakeup::End {
                return;
            }
            // Boxed: an idle connection does not carry the room of a request.
            match Box::pin(http1::run(&info, &mut channel, wakeup == Wakeup::Last)).await {
                Next::Park => {}
                Next::Close => return,
                Next::Linger => return Box::pin(linger(&mut channel)).await,
                Next::Reset => return channel.stream.reset_on_close(),
            }
        }
    }
}

/// Why a parked connection goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wakeup {
    /// Something is to be read.
    Readable,
    /// Something is to be read, and a drain ends the connection after the request that it belongs to.
    Last,
    /// The time for idle connections is over, or a drain ends the connection.
    End,
}

/// A connection's place in the worker's table.
struct Parked<'a> {
    info: &'a ConnectionInfo,
    place: Option<Place>,
}

impl Parked<'_> {
    /// Waits for a first byte, or for the end of the connection.
    async fn wait(&mut self, channel: &mut Channel) -> Wakeup {
        let cells = self.info.worker.cells();
        let _gauge = cells.gauge_guard(&cells.parked);
        let since = Instant::now();
        let wakeup = poll_fn(|cx| self.poll_wait(channel, since, cx)).await;
        if let Some(place) = self.place {
            self.info.worker.table.unpark(place);
        }
        wakeup
    }

    fn poll_wait(&mut self, channel: &mut Channel, since: Instant, cx: &mut Context<'_>) -> Poll<Wakeup> {
        if channel.stream.poll_read_ready(cx).is_ready() {
            // An error is found by the read.
            return Poll::Ready(Wakeup::Readable);
        }
        let listener = &self.info.listener;
        if listener.connections_shutdown.is_cancelled() {
            // What the kernel has and the reactor does not know yet is still served.
            let has_bytes = channel.stream.is_stale(true);
            return Poll::Ready(if has_bytes { Wakeup::Last } else { Wakeup::End });
        }
        let until = since + listener.settings.load().outbound.limits.idle;
        if Instant::now() >= until {
            return Poll::Ready(Wakeup::End);
        }
        self.place = Some(self.info.worker.table.park(self.place, cx.waker(), until));
        Poll::Pending
    }
}

impl Drop for Parked<'_> {
    fn drop(&mut self) {
        if let Some(place) = self.place {
            self.info.worker.table.remove(place);
        }
    }
}

/// Answers a connection above the limit, `most`, with 503, and closes it.
pub(crate) async fn reject_connection(stream: Stream, most: usize) {
    let mut channel = Channel::new(stream);
    let detail =
        format!("{most} app connections are open, the most that outbound.limits.max_connections allows");
    let refusal = Refusal::new(Reason::TooManyConnections, detail);
    channel.queue(|outbox| write_rejection(&refusal, RejectionStyle::CLOSING, outbox));
    linger(&mut channel).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size_of_serve<F: Future>(_: impl FnOnce(ConnectionInfo, Channel, [usize; 1]) -> F) -> usize {
        size_of::<F>()
    }

    /// Thousands of connections are idle: each is this future, and its socket.
    #[test]
    fn an_idle_connection_is_a_small_future() {
        let len = size_of_serve(serve);
        assert!(len <= 352, "{len} bytes");
    }
    fn size_of_run<'a, F: Future>(_: impl FnOnce(&'a ConnectionInfo, &'a mut Channel, bool) -> F) -> usize {
        size_of::<F>()
    }

    /// What an active connection allocates beside its buffers.
    #[test]
    fn an_active_connection_is_a_future_of_bounded_size() {
        let len = size_of_run(http1::run);
        assert!(len <= 3600, "{len} bytes");
    }
}
