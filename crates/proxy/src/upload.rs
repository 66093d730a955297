//! A request body that can be sent again.
//!
//! hyper owns the body of every attempt until that attempt is over, so the source is shared: an
//! [`Upload`] holds the app's body and a tape of what was read from it; each attempt gets an
//! [`AttemptBody`] with a place on the tape. A new attempt raises the generation, which makes the old
//! one's body fail and with it its connection, unless all of it is on the tape. The tape keeps up to the retry setting's limit, by copy
//! (a small chunk must not pin the 8 KiB buffer it came in), and at most [`TAPES`] bytes in the whole
//! process; past either, the body streams on and cannot be replayed.

use std::{
    fmt, io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use parking_lot::{Mutex, MutexGuard};
use tokio::time::Instant;

/// Most bytes on all tapes of the process.
const TAPES: usize = 16 * 1024 * 1024;

static ON_TAPES: AtomicUsize = AtomicUsize::new(0);

/// Why the app's body ended before its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Broken {
    /// Its framing is wrong: the app's fault.
    BadFraming,
    /// The app went away.
    Gone,
}

/// The app's body, shared between the attempts.
#[derive(Debug, Clone)]
pub(crate) struct Upload(Arc<Mutex<State>>);

struct State {
    source: Incoming,
    length: Option<u64>,
    tape: BytesMut,
    limit: usize,
    overflowed: bool,
    given: u64,
    ended: bool,
    trailers: Option<HeaderMap>,
    broken: Option<Broken>,
    generation: u32,
    /// How much of the tape the newest attempt has.
    sent: usize,
    stopped: bool,
    last_byte: Instant,
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Upload")
            .field("given", &self.given)
            .field("ended", &self.ended)
            .finish_non_exhaustive()
    }
}

impl Drop for State {
    fn drop(&mut self) {
        ON_TAPES.fetch_sub(self.tape.len(), Relaxed);
    }
}

impl Upload {
    /// Shares `source`, of which up to `limit` bytes can be replayed.
    pub(crate) fn new(source: Incoming, limit: usize, now: Instant) -> Self {
        let length = source.size_hint().exact();
        Self(Arc::new(Mutex::new(State {
            source,
            length,
            tape: BytesMut::new(),
            limit,
            overflowed: false,
            given: 0,
            ended: false,
            trailers: None,
            broken: None,
            generation: 0,
            sent: 0,
            stopped: false,
            last_byte: now,
        })))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock()
    }

    /// Keeps up to `limit` bytes for a replay from here on.
    pub(crate) fn keep(&self, limit: usize) {
        self.lock().limit = limit;
    }

    /// Its length, where the app stated one.
    pub(crate) fn length(&self) -> Option<u64> {
        self.lock().length
    }

    /// Whether another attempt could send all of it.
    pub(crate) fn replayable(&self) -> bool {
        let state = self.lock();
        !state.overflowed && state.broken.is_none()
    }

    /// Whether all of it was read from the app.
    pub(crate) fn ended(&self) -> bool {
        self.lock().ended
    }

    /// Whether any of it was given to an attempt.
    pub(crate) fn started(&self) -> bool {
        self.lock().given > 0
    }

    /// Why it broke, if it did.
    pub(crate) fn broken(&self) -> Option<Broken> {
        self.lock().broken
    }

    /// When its last byte was read, and whether it has ended.
    pub(crate) fn progress(&self) -> (Instant, bool) {
        let state = self.lock();
        (state.last_byte, state.ended)
    }

    /// Reads and forgets a short rest, so that the app's connection can go on. False: some is left.
    pub(crate) async fn discard(&self, most: u64, within: Duration) -> bool {
        if self.length().is_none_or(|length| length > most) {
            return self.ended();
        }
        let read = std::future::poll_fn(|cx| {
            let mut state = self.lock();
            while !state.ended {
                match std::task::ready!(state.read(cx)) {
                    Some(Ok(_)) => {}
                    Some(Err(_)) | None => break,
                }
            }
            Poll::Ready(())
        });
        // Late or broken, what is left is told by how far it got.
        let _ = tokio::time::timeout(within, read).await;
        self.ended()
    }

    /// No other attempt follows: what was kept for one is let go, unless the last has yet to send it. An
    /// answer that is read slowly would hold it for as long.
    pub(crate) fn keep_no_more(&self) {
        let mut state = self.lock();
        if state.sent == state.tape.len() {
            state.forget();
        }
    }

    /// The request is over: whatever still holds a body of it must let go.
    pub(crate) fn stop(&self) {
        self.lock().stopped = true;
    }

    /// A body for the next attempt, from the beginning.
    pub(crate) fn attempt(&self) -> AttemptBody {
        let mut state = self.lock();
        state.generation += 1;
        state.sent = 0;
        let generation = state.generation;
        let ended = state.ended && state.given == 0;
        drop(state);
        AttemptBody(Kind::Shared { upload: self.clone(), generation, at: 0, done: ended })
    }
}

impl State {
    fn read(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match std::task::ready!(Pin::new(&mut self.source).poll_frame(cx)) {
            Some(Ok(frame)) => {
                self.last_byte = Instant::now();
                if let Some(data) = frame.data_ref() {
                    self.keep(data);
                    self.given += data.len() as u64;
                    self.ended = self.source.is_end_stream();
                } else if let Some(trailers) = frame.trailers_ref() {
                    self.trailers = Some(trailers.clone());
                    self.ended = true;
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Some(Err(error)) => {
                let broken = judge(&error);
                self.broken = Some(broken);
                Poll::Ready(Some(Err(BodyError::Source(broken))))
            }
            None => {
                self.ended = true;
                self.last_byte = Instant::now();
                Poll::Ready(None)
            }
        }
    }

    fn keep(&mut self, data: &[u8]) {
        if self.overflowed {
            return;
        }
        let fits = self.tape.len() + data.len() <= self.limit
            && ON_TAPES.fetch_add(data.len(), Relaxed) + data.len() <= TAPES;
        if fits {
            self.tape.extend_from_slice(data);
            // It was read for the newest attempt.
            self.sent = self.tape.len();
            return;
        }
        if self.tape.len() + data.len() <= self.limit {
            ON_TAPES.fetch_sub(data.len(), Relaxed);
        }
        // The attempt under way has read all of it already, for only the newest attempt reads on.
        self.forget();
    }

    /// Nothing will be replayed any more: what is kept is of no use.
    fn forget(&mut self) {
        ON_TAPES.fetch_sub(self.tape.len(), Relaxed);
        self.tape = BytesMut::new();
        self.sent = 0;
        self.overflowed = true;
    }
}

/// Whose fault a broken request body is: hyper gives bad chunks as `InvalidInput` or `InvalidData`,
/// and a client that went away as `UnexpectedEof` or a reset.
fn judge(error: &hyper::Error) -> Broken {
    let mut source: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(one) = source {
        if let Some(io) = one.downcast_ref::<io::Error>()
            && matches!(io.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData)
        {
            return Broken::BadFraming;
        }
        source = one.source();
    }
    Broken::Gone
}

/// Why an attempt's body ended early.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BodyError {
    /// The app's body broke.
    #[error("the app's request body broke: {0:?}")]
    Source(Broken),
    /// Another attempt took over, or the request is over.
    #[error("the attempt is over")]
    Superseded,
}

/// The body of one attempt.
#[derive(Debug)]
pub(crate) struct AttemptBody(Kind);

#[derive(Debug)]
enum Kind {
    Empty,
    Shared { upload: Upload, generation: u32, at: usize, done: bool },
}

impl AttemptBody {
    /// No body at all.
    pub(crate) fn empty() -> Self {
        Self(Kind::Empty)
    }
}

impl Body for AttemptBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let Kind::Shared { upload, generation, at, done } = &mut self.0 else { return Poll::Ready(None) };
        if *done {
            return Poll::Ready(None);
        }
        let mut state = upload.0.lock();
        // What is on the tape to its end can be sent by two attempts at once, beside each other.
        let whole = state.ended && !state.overflowed;
        if state.stopped || (state.generation != *generation && !whole) {
            return Poll::Ready(Some(Err(BodyError::Superseded)));
        }
        if *at < state.tape.len() && !state.overflowed {
            let data = Bytes::copy_from_slice(&state.tape[*at..]);
            *at = state.tape.len();
            if state.generation == *generation {
                state.sent = *at;
            }
            *done = state.ended && state.trailers.is_none();
            return Poll::Ready(Some(Ok(Frame::data(data))));
        }
        if state.ended {
            *done = true;
            return Poll::Ready(state.trailers.clone().map(|trailers| Ok(Frame::trailers(trailers))));
        }
        if let Some(broken) = state.broken {
            return Poll::Ready(Some(Err(BodyError::Source(broken))));
        }
        let read = std::task::ready!(state.read(cx));
        match &read {
            Some(Ok(frame)) => {
                *at += frame.data_ref().map_or(0, Bytes::len);
                *done = state.ended;
            }
            Some(Err(_)) => {}
            None => *done = true,
        }
        Poll::Ready(read)
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Kind::Empty => true,
            Kind::Shared { done, .. } => *done,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Kind::Empty => SizeHint::with_exact(0),
            Kind::Shared { upload, at, .. } => {
                let state = upload.lock();
                match state.length {
                    Some(length) => SizeHint::with_exact(length.saturating_sub(*at as u64)),
                    None => SizeHint::default(),
                }
            }
        }
    }
}
