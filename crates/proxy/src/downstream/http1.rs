//! An active period of an HTTP/1 connection: heads are read and handled one after the other.

use std::{
    future::poll_fn,
    task::{Context, Poll},
    time::Duration,
};

use arc_swap::Cache;
use outrigger_http1::{Head, HeadKind, HeadLimits, HeadParser, RefusalKind};
use tokio::time::Instant;
use tracing::{debug, info};

use crate::{
    context::ConnectionInfo,
    context::DownstreamSettings,
    reason::{Reason, Refusal},
    request::{
        downstream::AfterRequest,
        handle::handle,
        reject::{RejectionStyle, write_rejection},
    },
    transport::{
        buffers::{self, SMALL},
        channel::Channel,
        timer::LazyTimer,
    },
};

/// A connection without a request for one to two of these is parked.
const PARK_AFTER: Duration = Duration::from_secs(1);

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
}

/// What a wait for a head brings.
enum HeadRead {
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
    let heads = HeadLimits { bytes: 0, fields: 0, target: 0 };
    let mut parser = HeadParser::new(HeadKind::Request, heads, Vec::new());
    loop {
        let mut reader = HeadReader::new(info, settings.load(), &mut parser, is_last, is_woken);
        is_woken = false;
        let read = poll_fn(|cx| reader.poll(channel, &mut timer, cx)).await;
        match read {
            HeadRead::Head(head) => {
                match handle(info, settings.load(), channel, &mut timer, head).await {
                    AfterRequest::KeepAlive => {}
                    // A close with unread bytes resets the connection, and destroys a response on its way.
                    AfterRequest::Close if channel.has_more() => return Next::Linger,
                    AfterRequest::Close => return Next::Close,
                    AfterRequest::Linger => return Next::Linger,
                    AfterRequest::Reset => return Next::Reset,
                }
            }
            HeadRead::Idle => return Next::Park,
            HeadRead::Closed => return Next::Close,
            HeadRead::Refused(refusal) => return refuse(info, channel, refusal),
            HeadRead::Slow => {
                let limit = settings.load().outbound.limits.head_timeout;
                let detail = format!("the head did not end within {limit:?}");
                cells.record_refusal(Reason::SlowHead);
                let refusal = Refusal::new(Reason::SlowHead, detail);
                channel.queue(|outbox| write_rejection(&refusal, RejectionStyle::CLOSING, outbox));
                return Next::Linger;
            }
        }
    }
}

/// Answers bytes that are no valid head.
fn refuse(info: &ConnectionInfo, channel: &mut Channel, refusal: outrigger_http1::Refusal) -> Next {
    // The preface of HTTP/2 is closed without an answer that its sender could not read.
    let is_preface = refusal.kind == RefusalKind::Http2Preface;
    let refusal = Refusal::from(refusal);
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
struct HeadReader<'a> {
    info: &'a ConnectionInfo,
    parser: &'a mut HeadParser,
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
    fn new(
        info: &'a ConnectionInfo,
        settings: &'a DownstreamSettings,
        parser: &'a mut HeadParser,
        is_last: bool,
        is_woken: bool,
    ) -> Self {
        parser.begin(settings.request_heads, buffers::take_fields());
        Self { info, parser, is_last, is_woken, settings, idle_since: None, begun: None }
    }

    fn poll(&mut self, channel: &mut Channel, timer: &mut LazyTimer, cx: &mut Context<'_>) -> Poll<HeadRead> {
        loop {
            if !channel.inbox.is_empty() {
                match self.parser.parse(&mut channel.inbox, || buffers::take_incoming(SMALL)) {
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
        std::task::ready!(timer.poll_until(due, cx));
        Poll::Ready(if self.begun.is_some() { HeadRead::Slow } else { HeadRead::Idle })
    }
}
