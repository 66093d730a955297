//! One connection to the agent, with one exchange at a time.
//!
//! The future that waits for an answer also drives the connection; there is no task for it. Dropping the
//! future closes the socket, and an idle connection costs only its file descriptor.

use std::{
    future::{Future, poll_fn},
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::{
    body::{Body, Incoming},
    client::conn::http1::{self, Connection, SendRequest},
};
use hyper_util::rt::TokioIo;
use outrigger_net::{ByteCounts, Stream};
use tokio::time::{Instant, timeout};

/// An idle connection older than this is not used again: a firewall or NAT in between may have dropped it.
const MAX_IDLE: Duration = Duration::from_secs(60);
/// An agent that takes no more connections of an address closes a new one within less than this time.
const ACCEPTED_AFTER: Duration = Duration::from_millis(50);
/// Memory that is reserved for a body before its bytes arrive.
const MAX_PREALLOCATED: u64 = 1 << 20;

/// A complete answer.
#[derive(Debug)]
pub(super) struct ApiResponse {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Vec<u8>,
}

/// Why there is no answer.
#[derive(Debug)]
pub(super) enum ExchangeFailure {
    /// The connection ended before a byte of the answer.
    Unanswered(hyper::Error),
    /// The connection broke within the answer, or the answer was not HTTP.
    Midway(hyper::Error),
    /// The body is longer than the limit.
    TooLarge,
}

type ConnectionDriver = Pin<Box<Connection<TokioIo<Stream>, Full<Bytes>>>>;

/// Counts a connection as open until it is dropped.
pub(super) struct OpenGuard(Arc<AtomicUsize>);

impl OpenGuard {
    /// Counts one more.
    pub(super) fn new(open: Arc<AtomicUsize>) -> Self {
        open.fetch_add(1, Ordering::Relaxed);
        Self(open)
    }
}

impl Drop for OpenGuard {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A connection that carries exchanges one after the other.
pub(super) struct AgentConnection {
    sender: SendRequest<Full<Bytes>>,
    // `None` once the connection has ended.
    driver: Option<ConnectionDriver>,
    counts: Arc<ByteCounts>,
    opened_at: Instant,
    idle_since: Instant,
    _open: OpenGuard,
}

impl AgentConnection {
    /// Speaks HTTP over `stream`.
    pub(super) async fn new(mut stream: Stream, open: OpenGuard) -> hyper::Result<Self> {
        let counts = stream.counts();
        let (sender, driver) = http1::handshake(TokioIo::new(stream)).await?;
        let now = Instant::now();
        let driver = Some(Box::pin(driver));
        Ok(Self { sender, driver, counts, opened_at: now, idle_since: now, _open: open })
    }

    /// Whether an idle connection can carry another exchange. Reads the socket.
    pub(super) async fn is_reusable(&mut self) -> bool {
        !self.is_too_old() && drive_until(&mut self.driver, self.sender.ready()).await.is_ok()
    }

    /// Whether it was idle for too long.
    pub(super) fn is_too_old(&self) -> bool {
        self.idle_since.elapsed() >= MAX_IDLE
    }

    /// Time since it was opened, or since [`AgentConnection::restart_age`].
    pub(super) fn age(&self) -> Duration {
        self.opened_at.elapsed()
    }

    /// Counts its age from now on.
    pub(super) fn restart_age(&mut self) {
        self.opened_at = Instant::now();
    }

    /// Whether the agent keeps this connection, which is new: one beyond its limit it closes at once, without a byte or after
    /// a response with status 429 that nothing asked for.
    pub(super) async fn is_accepted(&mut self) -> bool {
        let Some(driver) = &mut self.driver else { return false };
        // Either ends the driver.
        let is_over = timeout(ACCEPTED_AFTER, driver.as_mut()).await.is_ok();
        if is_over {
            self.driver = None;
        }
        !is_over
    }

    /// Sends `request` and reads the complete answer, of at most `limit` bytes.
    pub(super) async fn exchange(
        &mut self,
        request: Request<Full<Bytes>>,
        limit: usize,
    ) -> Result<ApiResponse, ExchangeFailure> {
        let read_before = self.counts.read();
        let answer = self.sender.send_request(request);
        let response = drive_until(&mut self.driver, answer).await.map_err(|error| {
            if self.counts.read() > read_before {
                ExchangeFailure::Midway(error)
            } else {
                ExchangeFailure::Unanswered(error)
            }
        })?;
        let (head, body) = response.into_parts();
        let body = drive_until(&mut self.driver, read_body(body, limit)).await?;
        self.idle_since = Instant::now();
        Ok(ApiResponse { status: head.status, headers: head.headers, body })
    }
}

/// Polls the connection while `answer` is pending.
async fn drive_until<F: Future>(driver: &mut Option<ConnectionDriver>, answer: F) -> F::Output {
    let mut answer = pin!(answer);
    poll_fn(|cx| {
        let ended = driver.as_mut().is_some_and(|driver| driver.as_mut().poll(cx).is_ready());
        if ended {
            // `answer` reports how the connection ended.
            *driver = None;
        }
        answer.as_mut().poll(cx)
    })
    .await
}

async fn read_body(mut body: Incoming, limit: usize) -> Result<Vec<u8>, ExchangeFailure> {
    let announced = body.size_hint().lower();
    if usize::try_from(announced).map_or(true, |announced| announced > limit) {
        return Err(ExchangeFailure::TooLarge);
    }
    let mut bytes = Vec::with_capacity(usize::try_from(announced.min(MAX_PREALLOCATED)).unwrap_or_default());
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(ExchangeFailure::Midway)?.into_data() else { continue };
        if bytes.len() + data.len() > limit {
            return Err(ExchangeFailure::TooLarge);
        }
        bytes.extend_from_slice(&data);
    }
    Ok(bytes)
}
