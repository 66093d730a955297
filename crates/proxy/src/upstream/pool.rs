//! Connections to one instance: newest first, per worker, never in between a request and its answer.
//!
//! A connection is driven by the request that has it, in that request's own task: nobody else needs
//! to be woken for it, and dropping the request closes it. Idle, it lies in the shard of the worker
//! whose reactor knows its socket. After [`PARK_AFTER`] it is a socket without a codec. A stale one is
//! found at checkout by one look at the socket; an old one by [`Pool::sweep`]. No picking, no retrying.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use hyper::{
    body::Incoming,
    client::conn::http1::{Connection, SendRequest},
};
use hyper_util::rt::TokioIo;
use parking_lot::{Mutex, MutexGuard};
use tokio::time::Instant;

use crate::{
    io::{Line, LineIo},
    upload::AttemptBody,
};

/// An idle connection gives its codec's buffers back after this long.
pub(crate) const PARK_AFTER: Duration = Duration::from_secs(1);

/// One connection, with its codec.
pub(crate) struct Conn {
    sender: SendRequest<AttemptBody>,
    codec: Connection<TokioIo<LineIo>, AttemptBody>,
    line: Arc<Line>,
    reused: bool,
    over: bool,
    single: bool,
    open: Open,
}

impl fmt::Debug for Conn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Conn").field("reused", &self.reused).finish_non_exhaustive()
    }
}

/// Counts as an open connection for as long as it lives.
#[derive(Debug)]
pub(crate) struct Open(Arc<AtomicUsize>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

/// What a codec may hold.
#[derive(Debug, Clone, Copy)]
pub(crate) struct HeadLimits {
    pub(crate) bytes: usize,
    pub(crate) fields: usize,
}

/// hyper's own default; saying it aloud would move header arrays to the heap.
pub(crate) const DEFAULT_FIELDS: usize = 100;

impl Conn {
    /// Puts a codec on a socket.
    pub(crate) async fn new(
        line: Arc<Line>,
        reused: bool,
        open: Open,
        limits: HeadLimits,
    ) -> Result<Box<Self>, hyper::Error> {
        let mut builder = hyper::client::conn::http1::Builder::new();
        // As large as the largest head, and no larger: an app that reads slowly holds one such buffer full
        // of its answer on this side, and one on the other.
        builder.max_header_size(limits.bytes).max_buf_size(limits.bytes);
        if limits.fields != DEFAULT_FIELDS {
            builder.max_headers(limits.fields);
        }
        let io = TokioIo::new(LineIo::patient(line.clone()));
        let (sender, codec) = builder.handshake(io).await?;
        let mut conn = Box::new(Self { sender, codec, line, reused, over: false, single: false, open });
        // The codec announces itself ready in its first turn.
        let _ = conn.drive(&mut Context::from_waker(Waker::noop()));
        Ok(conn)
    }

    pub(crate) fn line(&self) -> &Arc<Line> {
        &self.line
    }

    /// Whether another request used it before.
    pub(crate) fn reused(&self) -> bool {
        self.reused
    }

    /// Carries no other request. An answer of HTTP/1.0 is a reason: the codec would speak 1.0 from then
    /// on, and drop the body of a chunked request without a word.
    pub(crate) fn retire(&mut self) {
        self.single = true;
    }

    /// Hands a request to the codec; [`Conn::drive`] does the rest.
    pub(crate) fn send(
        &mut self,
        request: Request<AttemptBody>,
    ) -> impl Future<
        Output = Result<Response<Incoming>, hyper::client::conn::TrySendError<Request<AttemptBody>>>,
    > + Send
    + use<> {
        self.sender.try_send_request(request)
    }

    /// One turn of the codec. Ready: the connection is over.
    pub(crate) fn drive(&mut self, cx: &mut Context<'_>) -> Poll<hyper::Result<()>> {
        if self.over {
            return Poll::Ready(Ok(()));
        }
        let turn = self.codec.poll_without_shutdown(cx);
        self.over = turn.is_ready();
        turn
    }

    /// The socket and what was read beyond the answer's head, after an upgrade.
    pub(crate) fn into_tunnel(self) -> (Arc<Line>, Bytes, Open) {
        let parts = self.codec.into_parts();
        (self.line, parts.read_buf, self.open)
    }

    /// Whether it can carry another request: its last answer ended cleanly and it was not closed.
    fn settle(&mut self) -> bool {
        if self.over || self.single || self.line.deaf() {
            return false;
        }
        // The codec learns in this turn that the answer has ended. Nobody has to be woken: at the next
        // checkout the socket is looked at.
        let _ = self.drive(&mut Context::from_waker(Waker::noop()));
        !self.over && self.sender.is_ready()
    }
}

enum State {
    Codec(Box<Conn>),
    Parked { line: Arc<Line>, open: Open },
}

impl State {
    fn line(&self) -> &Line {
        match self {
            Self::Codec(conn) => conn.line(),
            Self::Parked { line, .. } => line,
        }
    }
}

struct Idle {
    state: State,
    since: Instant,
}

/// What a checkout found.
pub(crate) enum Found {
    /// A connection with its codec.
    Ready(Box<Conn>),
    /// A socket that needs a codec.
    Socket(Arc<Line>, Open),
    /// Nothing: make one.
    Nothing,
}

/// Idle connections of one instance.
pub(crate) struct Pool {
    shards: Box<[Mutex<Vec<Idle>>]>,
    open: Arc<AtomicUsize>,
    closed: AtomicBool,
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").field("open", &self.open()).field("idle", &self.idle()).finish_non_exhaustive()
    }
}

impl Pool {
    pub(crate) fn new(workers: usize) -> Self {
        Self {
            shards: (0..workers.max(1)).map(|_| Mutex::default()).collect(),
            open: Arc::default(),
            closed: AtomicBool::new(false),
        }
    }

    fn shard(&self, worker: usize) -> MutexGuard<'_, Vec<Idle>> {
        self.shards[worker % self.shards.len()].lock()
    }

    /// Connections open, idle ones included.
    pub(crate) fn open(&self) -> usize {
        self.open.load(Relaxed)
    }

    /// Idle connections.
    pub(crate) fn idle(&self) -> usize {
        (0..self.shards.len()).map(|worker| self.shard(worker).len()).sum()
    }

    /// The newest idle connection younger than `limit` that is still what it was; `stale` is called
    /// for each that is not. One younger than `trust` is not looked at.
    pub(crate) fn checkout(
        &self,
        worker: usize,
        limit: Duration,
        trust: Duration,
        now: Instant,
        stale: impl Fn(),
    ) -> Found {
        loop {
            let Some(idle) = self.pop(worker, limit, now) else { return Found::Nothing };
            if now.saturating_duration_since(idle.since) >= trust && idle.state.line().is_stale() {
                stale();
                continue;
            }
            match idle.state {
                State::Parked { line, open } => return Found::Socket(line, open),
                State::Codec(mut conn) if conn.sender.is_ready() => {
                    conn.reused = true;
                    return Found::Ready(conn);
                }
                State::Codec(_) => stale(),
            }
        }
    }

    fn pop(&self, worker: usize, limit: Duration, now: Instant) -> Option<Idle> {
        let mut shard = self.shard(worker);
        // The last is the youngest: when it is too old, all are, and the sweep takes them.
        let young = shard.last().is_some_and(|idle| now.saturating_duration_since(idle.since) < limit);
        if young { shard.pop() } else { None }
    }

    /// Room for one more open connection, made by closing somebody's idle one where need be.
    pub(crate) fn reserve(&self, most: usize) -> Option<Open> {
        loop {
            let open = self.open.fetch_add(1, Relaxed);
            let reserved = Open(self.open.clone());
            if open < most {
                return Some(reserved);
            }
            drop(reserved);
            let oldest = (0..self.shards.len()).find_map(|worker| {
                let mut shard = self.shard(worker);
                (!shard.is_empty()).then(|| shard.remove(0))
            });
            oldest?;
        }
    }

    /// Takes a connection back. It is closed instead when it cannot carry another request, when its
    /// instance is gone, or when enough are idle.
    pub(crate) fn check_in(&self, worker: usize, mut conn: Box<Conn>, most_idle: usize, now: Instant) {
        if self.closed.load(Relaxed) || !conn.settle() {
            return;
        }
        let mut shard = self.shard(worker);
        if shard.len() < most_idle {
            // Newest last, so the sockets at the bottom age out and the pool shrinks by itself.
            shard.push(Idle { state: State::Codec(conn), since: now });
        }
        drop(shard);
        if self.closed.load(Relaxed) {
            self.close();
        }
    }

    /// Closes what has been idle for `limit`, and takes the codec of what has been for
    /// [`PARK_AFTER`].
    pub(crate) fn sweep(&self, limit: Duration, now: Instant) {
        for worker in 0..self.shards.len() {
            let mut shard = self.shard(worker);
            let expired =
                shard.iter().take_while(|idle| now.saturating_duration_since(idle.since) >= limit).count();
            let gone: Vec<Idle> = shard.drain(..expired).collect();
            let mut at = 0;
            while at < shard.len() && now.saturating_duration_since(shard[at].since) >= PARK_AFTER {
                let Idle { state, since } = shard.remove(at);
                if let Some(state) = park(state) {
                    shard.insert(at, Idle { state, since });
                    at += 1;
                }
            }
            drop(shard);
            drop(gone);
        }
    }

    /// The instance is gone: closes every idle connection, and each other when it comes home.
    pub(crate) fn close(&self) {
        self.closed.store(true, Relaxed);
        for worker in 0..self.shards.len() {
            let idle = std::mem::take(&mut *self.shard(worker));
            drop(idle);
        }
    }
}

/// Takes an idle connection's codec away. `None`: bytes nobody asked for have arrived.
fn park(state: State) -> Option<State> {
    match state {
        State::Parked { .. } => Some(state),
        State::Codec(conn) => {
            let (line, rest, open) = conn.into_tunnel();
            rest.is_empty().then_some(State::Parked { line, open })
        }
    }
}
