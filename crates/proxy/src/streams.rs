//! A connection of the app over HTTP/2: its streams, each with one request.
//!
//! A stream is a connection of HTTP/1.1 to the walk of a request (crate `http2`), and a task of its own: a panic ends one request. The
//! task of the connection moves the frames of all of them. A drain says GOAWAY: the streams under way finish, and the app opens another
//! connection for the next request.

use std::{
    future::poll_fn,
    io,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use outrigger_http2::{
    AppStream,
    server::{AppConnection, Ended, Limits},
};
use outrigger_net::{LazyTimer, Stream};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    task::JoinSet,
    time::{Instant, timeout},
};
use tracing::debug;

use crate::{
    context::{ConnectionInfo, Place},
    downstream::{HeadReader, unless_head},
    reason::Reason,
    request::{app::AfterRequest, handle::handle},
    transport::channel::Channel,
};

/// Most streams of one connection at once; the app waits with further requests (RFC 9113 §5.1.2).
const MAX_STREAMS: u32 = 256;
/// How long the streams of a connection that is gone have to notice it.
const END_WITHIN: Duration = Duration::from_secs(1);
/// How long an app that was told to end an idle connection has for it.
const CLOSE_WITHIN: Duration = Duration::from_secs(5);

/// Serves a connection of which the first bytes are the preface of HTTP/2, until either side ends it.
pub(crate) async fn serve_streams(info: ConnectionInfo, channel: Channel) {
    let info = ConnectionInfo { is_http2: true, ..info };
    let cells = info.worker.cells();
    let _gauge = cells.gauge_guard(&cells.active);
    let (within, head) = {
        let settings = info.listener.settings.load();
        (settings.outbound.limits.head_timeout, settings.request_heads.bytes)
    };
    let limits = Limits { streams: MAX_STREAMS, head: u32::try_from(head).unwrap_or(u32::MAX) };
    let connection = match timeout(within, AppConnection::begin(ChannelIo(channel), limits)).await {
        Ok(Ok(connection)) => connection,
        Ok(Err(error)) => return debug!(peer = %info.peer, %error, "the preface of HTTP/2 is not complete"),
        Err(_) => return debug!(peer = %info.peer, "the preface of HTTP/2 did not end in time"),
    };
    let mut place = TablePlace { info: &info, place: None };
    let mut streams = JoinSet::new();
    let mut connection = connection;
    let mut idle_since = Instant::now();
    let mut timer = LazyTimer::new();
    let mut is_ending = None;
    loop {
        let event = poll_fn(|cx| {
            while let Poll::Ready(Some(_)) = streams.poll_join_next(cx) {
                idle_since = Instant::now();
            }
            if let Poll::Ready(accepted) = connection.poll_accept(cx) {
                return Poll::Ready(Event::Accepted(accepted));
            }
            let idle = info.listener.settings.load().outbound.limits.idle;
            place.wait(streams.is_empty().then_some(idle_since + idle), cx);
            match is_ending {
                None if info.listener.ends_connections() => Poll::Ready(Event::End),
                None if streams.is_empty() && idle_since + idle <= Instant::now() => Poll::Ready(Event::End),
                // An app that does not answer the GOAWAY is left, once it had time for the last response.
                Some(since) if streams.is_empty() => {
                    let due = idle_since.max(since) + CLOSE_WITHIN;
                    timer.poll_until(due, cx).map(|()| Event::Accepted(None))
                }
                _ => Poll::Pending,
            }
        })
        .await;
        match event {
            Event::Accepted(Some(Ok(stream))) => {
                // Contained: a panic ends one request.
                streams.spawn(serve_stream(info.clone(), stream));
            }
            Event::End => {
                is_ending = Some(Instant::now());
                connection.begin_shutdown();
            }
            Event::Accepted(Some(Err(Ended { detail, is_abuse }))) => {
                if is_abuse {
                    cells.record_refusal(Reason::Http2Abuse);
                }
                debug!(peer = %info.peer, detail, "a connection of HTTP/2 has ended with an error");
                break;
            }
            Event::Accepted(None) => break,
        }
    }
    // Its streams find it gone, and end by themselves, so that each is counted for what it was.
    drop(connection);
    let _ = timeout(END_WITHIN, async { while streams.join_next().await.is_some() {} }).await;
}

/// What happens on a connection.
enum Event {
    /// A request, or the end.
    Accepted(Option<Result<Box<AppStream>, Ended>>),
    /// A drain, or the time for idle connections is over.
    End,
}

/// Serves the request of one stream.
async fn serve_stream(info: ConnectionInfo, stream: Box<AppStream>) {
    let mut channel = Channel::new(Stream::of_virtual(stream));
    let mut timer = LazyTimer::new();
    let settings = info.listener.settings.load_full();
    let read = {
        let mut reader = HeadReader::new(&info, &settings, true, true);
        poll_fn(|cx| reader.poll(&mut channel, &mut timer, cx)).await
    };
    if let Ok(head) = unless_head(read, &info, &settings, &mut channel)
        && handle(&info, &settings, &mut channel, &mut timer, head).await == AfterRequest::Reset
    {
        return;
    }
    // What is queued still goes out, and a stream that was answered before its body came is ended without an error.
    let flushed = poll_fn(|cx| channel.poll_flush(cx));
    let _ = timeout(settings.unread, flushed).await;
}

/// A connection's place in the worker's table, by which a drain and the sweep of idle connections wake it.
struct TablePlace<'a> {
    info: &'a ConnectionInfo,
    place: Option<Place>,
}

impl TablePlace<'_> {
    /// `idle_until`: when its idle time is over; `None`: it is active.
    fn wait(&mut self, idle_until: Option<Instant>, cx: &Context<'_>) {
        let table = &self.info.worker.table;
        let place = table.park(self.place, cx.waker(), idle_until.unwrap_or_else(Instant::now));
        if idle_until.is_none() {
            table.unpark(place);
        }
        self.place = Some(place);
    }
}

impl Drop for TablePlace<'_> {
    fn drop(&mut self) {
        if let Some(place) = self.place {
            self.info.worker.table.remove(place);
        }
    }
}

/// The stream of a channel, of which the inbox is read first.
#[derive(Debug)]
struct ChannelIo(Channel);

impl AsyncRead for ChannelIo {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let channel = &mut self.0;
        if channel.inbox.is_empty() {
            return Pin::new(&mut channel.stream).poll_read(cx, buffer);
        }
        let n = channel.inbox.len().min(buffer.remaining());
        buffer.put_slice(&channel.inbox.data()[..n]);
        channel.inbox.consume(n);
        channel.release_inbox();
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for ChannelIo {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0.stream).poll_write(cx, data)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0.stream).poll_write_vectored(cx, data)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0.stream).poll_shutdown(cx)
    }
}
