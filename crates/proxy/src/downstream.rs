//! The life of one app connection: parked, active, lingering.
//!
//! An idle connection is a parked socket: no buffer, no timer, no codec. Its first byte begins an active period ([`run`]), in
//! which heads are read and handled one after the other, and which ends after a second without a request. The app is the side
//! that closes an idle connection, unless it is idle for `outbound.limits.idle`. The time-out of a head begins at the head's
//! first byte.
//!
//! A close with unread bytes resets the connection, and a reset destroys the response on its way. So where the app may still be
//! sending, the writing side is ended first, and what still comes is read and thrown away, for a bounded time (RFC 9112 §9.6).

use std::{
    future::poll_fn,
    task::{Context, Poll, ready},
    time::Duration,
};

use arc_swap::Cache;
use outrigger_config::format_duration;
use outrigger_http1::{Head, HeadKind, HeadParser, RefusalKind};
use outrigger_net::{LazyTimer, Stream};
use tokio::time::Instant;
use tracing::{debug, info};

use crate::{
    context::{ConnectionInfo, DownstreamSettings, Place},
    limit,
    reason::{Reason, Refusal},
    request::{
        app::AfterRequest,
        handle::handle,
        reject::{RejectionStyle, write_rejection},
    },
    transport::channel::{Channel, SMALL, take_fields, take_incoming},
};

/// A connection without a request for this long is parked.
const PARK_AFTER: Duration = Duration::from_secs(1);
/// Longest time, and most bytes, that are read and thrown away before a close.
const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES: usize = 256 * 1024;

/// Serves a connection until either side ends it. Whether it is one of HTTP/2, of which the preface was read.
#[expect(clippy::manual_async_fn, reason = "an async fn holds its arguments twice")]
pub(crate) fn serve(info: &ConnectionInfo, channel: &mut Channel) -> impl Future<Output = bool> + Send {
    async move {
        let mut parked = Parked { info, place: None };
        loop {
            let wakeup = parked.wait(channel).await;
            if wakeup == Wakeup::End {
                return false;
            }
            // Boxed: an idle connection does not carry the room of a request.
            match Box::pin(run(info, channel, wakeup == Wakeup::Last)).await {
                Next::Park => {}
                Next::Close => return false,
                Next::Http2 => break,
                Next::Linger => {
                    Box::pin(linger(channel)).await;
                    return false;
                }
                Next::Reset => {
                    channel.stream.reset_on_close();
                    return false;
                }
            }
        }
        true
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
        let wakeup = poll_fn(|cx| {
            let wakeup = self.poll_wait(channel, since, cx);
            // A connection with bytes at once gets a place too, so that a drain wakes it.
            if wakeup.is_ready() && self.place.is_none() {
                self.place = Some(self.info.worker.table.park(None, cx.waker(), since));
            }
            wakeup
        })
        .await;
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
        let until = since + listener.settings.load().outbound.limits.idle;
        // Before the look at the drain: one that begins after the look finds the connection in the table, and wakes it.
        self.place = Some(self.info.worker.table.park(self.place, cx.waker(), until));
        if listener.connections_shutdown.is_cancelled() {
            // What the kernel has and the reactor does not know yet is still served.
            let has_bytes = channel.stream.is_stale(true);
            return Poll::Ready(if has_bytes { Wakeup::Last } else { Wakeup::End });
        }
        if Instant::now() >= until { Poll::Ready(Wakeup::End) } else { Poll::Pending }
    }
}

impl Drop for Parked<'_> {
    fn drop(&mut self) {
        if let Some(place) = self.place {
            self.info.worker.table.remove(place);
        }
    }
}

/// What follows an active period.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Next {
    /// No request came for a while.
    Park,
    /// The connection ends in order.
    Close,
    /// The connection ends, and the app may still be sending.
    Linger,
    /// A reset tells the app that the response is not complete.
    Reset,
    /// The connection has begun as one of HTTP/2.
    Http2,
}

/// What a wait for a head brings.
pub(crate) enum HeadRead {
    Head(Head),
    /// No byte of a head came for a while.
    Idle,
    /// The app has closed, or broke the connection.
    Closed,
    /// The head is invalid or too large.
    Refused(outrigger_http1::Refusal),
    /// The head did not end within `head_timeout`.
    Slow,
}

/// Serves requests until the connection ends or is idle. `is_last`: a drain ends the connection, and bytes of a head have
/// arrived that the reactor does not know yet.
pub(crate) async fn run(info: &ConnectionInfo, channel: &mut Channel, is_last: bool) -> Next {
    let cells = info.worker.cells();
    let _gauge = cells.gauge_guard(&cells.active);
    let mut timer = LazyTimer::new();
    let mut settings = Cache::new(&*info.listener.settings);
    let mut is_woken = true;
    let mut is_ending = false;
    loop {
        let read = {
            let mut reader = HeadReader::new(info, settings.load(), is_last, is_woken);
            poll_fn(|cx| reader.poll(channel, &mut timer, cx)).await
        };
        is_woken = false;
        // Moved as a whole, so that the connection does not hold its room beside the request.
        let head = match unless_head(read, info, settings.load(), channel) {
            Ok(head) => head,
            // The app had its time for another request. Bytes that the kernel has are still served.
            Err(Next::Park) if is_ending && info.listener.waits_for_last_request() => {
                if channel.stream.is_stale(true) {
                    continue;
                }
                return Next::Close;
            }
            Err(next) => return next,
        };
        match handle(info, settings.load(), channel, &mut timer, head).await {
            // The listener was retired after the head of the response was written.
            AfterRequest::KeepAlive => is_ending = info.listener.is_retired(),
            // A close with unread bytes resets the connection, and destroys a response on its way.
            AfterRequest::Close if channel.has_more() => return Next::Linger,
            AfterRequest::Close => return Next::Close,
            AfterRequest::Linger => return Next::Linger,
            AfterRequest::Reset => return Next::Reset,
        }
    }
}

/// The head, or what follows a wait that brought none; a response is queued where one is due.
pub(crate) fn unless_head(
    read: HeadRead,
    info: &ConnectionInfo,
    settings: &DownstreamSettings,
    channel: &mut Channel,
) -> Result<Head, Next> {
    Err(match read {
        HeadRead::Head(head) => return Ok(head),
        HeadRead::Idle => Next::Park,
        HeadRead::Closed => Next::Close,
        // Only the first bytes of a connection are a preface (RFC 9113 §3.4).
        HeadRead::Refused(refusal)
            if refusal.kind == RefusalKind::Http2Preface && channel.written == 0 && !info.is_http2 =>
        {
            Next::Http2
        }
        HeadRead::Refused(refusal) => refuse(info, settings, channel, refusal),
        HeadRead::Slow => {
            let most = settings.outbound.limits.head_timeout;
            let limit = limit::limit("outbound.limits", "head_timeout", format_duration(most));
            let detail = format!("the head did not end in time, counted from its first byte; {limit}");
            info.worker.cells().record_refusal(Reason::SlowHead);
            let refusal = Refusal::new(Reason::SlowHead, detail);
            channel.queue(|outbox| write_rejection(&refusal, RejectionStyle::CLOSING, outbox));
            Next::Linger
        }
    })
}

/// Answers bytes that are no valid head.
fn refuse(
    info: &ConnectionInfo,
    settings: &DownstreamSettings,
    channel: &mut Channel,
    refusal: outrigger_http1::Refusal,
) -> Next {
    // A late preface of HTTP/2 is closed without an answer that its sender could not read.
    let is_preface = refusal.kind == RefusalKind::Http2Preface;
    let detail = limit::refused_head(&refusal, &settings.request_heads, false);
    let refusal = Refusal { detail, ..Refusal::from(refusal) };
    let reason = refusal.reason;
    info.worker.cells().record_refusal(reason);
    if info.listener.settings.load().access_log {
        let (peer, reason) = (info.peer, reason.label());
        info!(target: "outrigger::access", %peer, reason, "request head refused");
    }
    debug!(peer = %info.peer, reason = reason.label(), detail = refusal.detail, "request head refused");
    if !is_preface {
        channel.queue(|outbox| write_rejection(&refusal, RejectionStyle::CLOSING, outbox));
    }
    Next::Linger
}

/// Reads one head.
pub(crate) struct HeadReader<'a> {
    info: &'a ConnectionInfo,
    parser: HeadParser,
    is_last: bool,
    /// Bytes are likely to be there: the reader was woken, or the connection was parked before.
    is_woken: bool,
    settings: &'a DownstreamSettings,
    /// Since when the connection waits; `None`: the time is not read yet.
    idle_since: Option<Instant>,
    /// When the first byte of the head was seen.
    begun: Option<Instant>,
}

impl<'a> HeadReader<'a> {
    pub(crate) fn new(
        info: &'a ConnectionInfo,
        settings: &'a DownstreamSettings,
        is_last: bool,
        is_woken: bool,
    ) -> Self {
        let parser = HeadParser::new(HeadKind::Request, settings.request_heads, take_fields());
        Self { info, parser, is_last, is_woken, settings, idle_since: None, begun: None }
    }

    pub(crate) fn poll(
        &mut self,
        channel: &mut Channel,
        timer: &mut LazyTimer,
        cx: &mut Context<'_>,
    ) -> Poll<HeadRead> {
        loop {
            if !channel.inbox.is_empty() {
                match self.parser.parse(&mut channel.inbox, || take_incoming(SMALL)) {
                    Ok(Some(head)) => return Poll::Ready(HeadRead::Head(head)),
                    Ok(None) => {}
                    Err(refusal) => return Poll::Ready(HeadRead::Refused(refusal)),
                }
            }
            match channel.poll_fill(usize::MAX, self.is_woken, cx) {
                Poll::Ready(Ok(1..)) => {}
                Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(HeadRead::Closed),
                Poll::Pending => {
                    self.is_woken = true;
                    break;
                }
            }
        }
        if self.begun.is_none() && self.parser.has_begun(&channel.inbox) {
            self.begun = Some(Instant::now());
        }
        let since = *self.idle_since.get_or_insert_with(Instant::now);
        let listener = &self.info.listener;
        let due = match self.begun {
            Some(begun) => begun + self.settings.outbound.limits.head_timeout,
            // Between requests a drain ends the connection; bytes that the kernel has are still served.
            None if !self.is_last && listener.connections_shutdown.is_cancelled() => {
                return Poll::Ready(HeadRead::Idle);
            }
            None => since + PARK_AFTER,
        };
        ready!(timer.poll_until(due, cx));
        Poll::Ready(if self.begun.is_some() { HeadRead::Slow } else { HeadRead::Idle })
    }
}

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

/// Answers a connection above the limit, `most`, with 503, and closes it.
pub(crate) async fn reject_connection(stream: Stream, most: usize) {
    let mut channel = Channel::new(stream);
    let limit = limit::limit("outbound.limits", "max_connections", most);
    let detail = format!("as many app connections are open as may be; {limit}");
    let refusal = Refusal::new(Reason::TooManyConnections, detail);
    channel.queue(|outbox| write_rejection(&refusal, RejectionStyle::CLOSING, outbox));
    linger(&mut channel).await;
}

#[cfg(test)]
mod tests {
    use tokio::time::Sleep;

    use super::*;
    use crate::transport::exchange::Exchange;

    fn size_of_run<'a, F: Future>(_: impl FnOnce(&'a ConnectionInfo, &'a mut Channel, bool) -> F) -> usize {
        size_of::<F>()
    }

    /// What an active connection holds beside its buffers, also while an event stream or a tunnel is silent: the future, the
    /// connection to the instance, and the timer. The kernel's part and that of tokio's reactor are not counted.
    #[test]
    fn an_active_connection_holds_a_bounded_size() {
        let future = size_of_run(run);
        assert!(future <= 1536, "{future} bytes");
        let held = future + size_of::<Exchange>() + size_of::<Sleep>();
        assert!(held <= 2112, "{held} bytes");
    }
}
