//! A connection to an instance, shared by requests.

use std::{
    future::poll_fn,
    io,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::Bytes;
use h2::{Ping, client::SendRequest};
use outrigger_net::Stream;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, sleep_until},
};
use tracing::debug;

use crate::{
    InstanceStream,
    fault::io_error,
    reader::{CONNECTION_WINDOW, STREAM_WINDOW},
    shared::Shared,
};

/// Streams before the instance has said how many it takes (RFC 9113 §6.5.2 recommends at least 100).
const FIRST_STREAMS: usize = 100;
/// How often a connection with streams is asked whether it is alive, and how long its answer may take.
const PING_INTERVAL: Duration = Duration::from_secs(20);
const PING_TIMEOUT: Duration = Duration::from_secs(10);

/// A connection to an instance.
#[derive(Debug)]
pub struct InstanceConnection {
    requests: SendRequest<Bytes>,
    shared: Arc<Shared>,
}

impl InstanceConnection {
    /// Begins HTTP/2 over `stream`. The future that comes with it moves the connection, and ends with it. `head`: most bytes of
    /// the fields of a response.
    ///
    /// # Errors
    /// The preface cannot be sent.
    pub async fn begin(
        stream: Stream,
        is_tls: bool,
        head: u32,
    ) -> io::Result<(Self, impl Future<Output = ()> + Send + 'static)> {
        let shared = Arc::new(Shared {
            active: AtomicUsize::new(0),
            is_closed: AtomicBool::new(false),
            is_http1: AtomicBool::new(false),
            had_stream: AtomicBool::new(false),
            is_tls,
        });
        let stream = FirstBytes { stream, shared: shared.clone(), seen: Vec::new(), is_known: false };
        let (requests, connection) = h2::client::Builder::new()
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_header_list_size(head)
            .initial_max_send_streams(FIRST_STREAMS)
            .enable_push(false)
            .handshake::<_, Bytes>(stream)
            .await
            .map_err(io_error)?;
        let moved = run(connection, shared.clone());
        Ok((Self { requests, shared }, moved))
    }

    /// A stream for another request. `None`: the connection takes no more, now or for ever ([`InstanceConnection::is_closed`]).
    pub fn open(&mut self) -> Option<InstanceStream> {
        let ready = self.requests.poll_ready(&mut Context::from_waker(Waker::noop()));
        if let Poll::Ready(Err(_)) = ready {
            self.shared.close();
        }
        if self.shared.is_closed() {
            return None;
        }
        let most = self.requests.current_max_send_streams();
        if self.shared.active.fetch_add(1, Relaxed) >= most {
            self.shared.end_stream();
            return None;
        }
        Some(InstanceStream::new(self.requests.clone(), self.shared.clone()))
    }

    /// Whether it has carried a stream before; from this call on it has.
    pub fn mark_used(&self) -> bool {
        self.shared.had_stream.swap(true, Relaxed)
    }

    /// Whether it takes no request any more: it has ended, or the instance has said GOAWAY.
    pub fn is_closed(&self) -> bool {
        self.shared.is_closed()
    }

    /// Streams under way.
    pub fn active(&self) -> usize {
        self.shared.active.load(Relaxed)
    }
}

/// Moves a connection to its end, and asks now and then whether it is alive.
async fn run(mut connection: h2::client::Connection<FirstBytes, Bytes>, shared: Arc<Shared>) {
    let mut pings = connection.ping_pong();
    let mut connection = pin!(connection);
    let mut timer = pin!(sleep_until(Instant::now() + PING_INTERVAL));
    let mut is_waiting = false;
    let ended = poll_fn(|cx| {
        loop {
            if let Poll::Ready(ended) = connection.as_mut().poll(cx) {
                return Poll::Ready(ended.map_err(|error| error.to_string()));
            }
            let Some(pings) = &mut pings else { return Poll::Pending };
            if is_waiting {
                match pings.poll_pong(cx) {
                    Poll::Ready(Ok(_)) => {
                        is_waiting = false;
                        timer.as_mut().reset(Instant::now() + PING_INTERVAL);
                    }
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(error.to_string())),
                    Poll::Pending => {}
                }
            }
            if timer.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            if is_waiting {
                return Poll::Ready(Err("the instance does not answer a ping".to_owned()));
            }
            is_waiting = shared.active.load(Relaxed) > 0 && pings.send_ping(Ping::opaque()).is_ok();
            let next = if is_waiting { PING_TIMEOUT } else { PING_INTERVAL };
            timer.as_mut().reset(Instant::now() + next);
        }
    })
    .await;
    shared.close();
    if let Err(error) = ended {
        debug!(error, "a connection of HTTP/2 to an instance has ended");
    }
}

/// A stream of which the first bytes tell whether the peer speaks HTTP/1.
#[derive(Debug)]
struct FirstBytes {
    stream: Stream,
    shared: Arc<Shared>,
    seen: Vec<u8>,
    is_known: bool,
}

impl FirstBytes {
    fn look(&mut self, read: &[u8]) {
        const HTTP1: &[u8] = b"HTTP/1";
        self.seen.extend_from_slice(&read[..read.len().min(HTTP1.len())]);
        let n = self.seen.len().min(HTTP1.len());
        self.is_known = n == HTTP1.len() || self.seen[..n] != HTTP1[..n];
        if self.seen.starts_with(HTTP1) {
            self.shared.is_http1.store(true, Relaxed);
        }
    }
}

impl AsyncRead for FirstBytes {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(cx, buffer);
        if !self.is_known && polled.is_ready() {
            self.look(&buffer.filled()[before..]);
        }
        polled
    }
}

impl AsyncWrite for FirstBytes {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, data)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, data)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
