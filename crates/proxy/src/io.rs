//! Sockets that count.
//!
//! Every byte under a connection is counted, so that "was anything sent" is known and not guessed;
//! that is what makes a retry safe. A [`Line`] shares its socket with the pool, which peeks at it
//! while hyper holds the other half. No timers, no HTTP.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::{Context, Poll},
};

use outrigger_net::{ByteCounts, Stream};
use parking_lot::Mutex;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

/// Longest vectored write that is made a plain one.
const SMALL: usize = 2048;

/// One TCP connection, with what went over it.
#[derive(Debug)]
pub(crate) struct Line {
    stream: Mutex<Stream>,
    counts: Arc<ByteCounts>,
    /// The last write found the socket full: bytes are still in somebody's buffer.
    blocked: AtomicBool,
    /// The peer has ended its side.
    ended: AtomicBool,
    /// The peer takes no more bytes; what it said before it stopped may still be there to read.
    deaf: AtomicBool,
}

impl Line {
    pub(crate) fn new(stream: TcpStream) -> Arc<Self> {
        let stream = Stream::from(stream);
        Arc::new(Self {
            counts: stream.counts().clone(),
            stream: Mutex::new(stream),
            blocked: AtomicBool::new(false),
            ended: AtomicBool::new(false),
            deaf: AtomicBool::new(false),
        })
    }

    /// Bytes read so far.
    pub(crate) fn read(&self) -> u64 {
        self.counts.read()
    }

    /// Bytes handed to the socket so far.
    pub(crate) fn written(&self) -> u64 {
        self.counts.written()
    }

    /// Whether the last write had to wait.
    pub(crate) fn write_blocked(&self) -> bool {
        self.blocked.load(Relaxed)
    }

    /// Whether the peer's end was read.
    pub(crate) fn ended(&self) -> bool {
        self.ended.load(Relaxed)
    }

    /// Whether the peer stopped taking bytes.
    pub(crate) fn deaf(&self) -> bool {
        self.deaf.load(Relaxed)
    }

    /// Whether an idle connection is no longer what it was: closed, reset, or with bytes that nobody
    /// asked for. One system call; tokio's own readiness is a cache and would not know.
    pub(crate) fn is_stale(&self) -> bool {
        self.stream.lock().is_stale()
    }

    /// Makes the close a reset: the only sign of an abort to a reader for whom the close is the end.
    pub(crate) fn reset_on_close(&self) {
        self.stream.lock().reset_on_close();
    }

    /// Waits until there is something to read, or the peer's end. Cancel safe.
    pub(crate) async fn readable(&self) -> io::Result<()> {
        std::future::poll_fn(|cx| self.stream.lock().poll_read_ready(cx)).await
    }

    fn with<T>(&self, act: impl FnOnce(Pin<&mut Stream>) -> T) -> T {
        let mut stream = self.stream.lock();
        act(Pin::new(&mut *stream))
    }

    fn wrote(&self, result: Poll<io::Result<usize>>, patient: bool, len: usize) -> Poll<io::Result<usize>> {
        match &result {
            Poll::Ready(Ok(_)) => self.blocked.store(false, Relaxed),
            Poll::Ready(Err(error)) if patient && is_gone(error) => {
                self.deaf.store(true, Relaxed);
                self.blocked.store(false, Relaxed);
                return Poll::Ready(Ok(len));
            }
            Poll::Ready(Err(_)) => {}
            Poll::Pending => self.blocked.store(true, Relaxed),
        }
        result
    }
}

fn is_gone(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset)
}

/// One user's handle on a [`Line`]: what hyper or a tunnel reads and writes.
#[derive(Debug, Clone)]
pub(crate) struct LineIo {
    line: Arc<Line>,
    /// Bytes read before by somebody else, given out first.
    first: bytes::Bytes,
    /// A peer that takes no more bytes is still listened to: see [`LineIo::patient`].
    patient: bool,
}

impl LineIo {
    pub(crate) fn new(line: Arc<Line>) -> Self {
        Self { line, first: bytes::Bytes::new(), patient: false }
    }

    /// For an instance: one that answers early and closes makes our next write fail, with its answer
    /// in our receive queue. A codec would stop at the failed write. So the write seems to succeed, is
    /// not counted, and the reader finds the answer, or the error that counts.
    pub(crate) fn patient(line: Arc<Line>) -> Self {
        Self { patient: true, ..Self::new(line) }
    }

    /// With bytes that were read already, and come first.
    pub(crate) fn with_first(line: Arc<Line>, first: bytes::Bytes) -> Self {
        Self { line, first, patient: false }
    }
}

impl AsyncRead for LineIo {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.first.is_empty() {
            let n = self.first.len().min(buf.remaining());
            buf.put_slice(&self.first.split_to(n));
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        let room = buf.remaining();
        let result = self.line.with(|stream| stream.poll_read(cx, buf));
        if let Poll::Ready(Ok(())) = result {
            let n = buf.filled().len() - before;
            if n == 0 && room > 0 {
                self.line.ended.store(true, Relaxed);
            }
        }
        result
    }
}

impl AsyncWrite for LineIo {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if self.line.deaf() {
            return Poll::Ready(Ok(buf.len()));
        }
        let result = self.line.with(|stream| stream.poll_write(cx, buf));
        self.line.wrote(result, self.patient, buf.len())
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let len = bufs.iter().map(|buf| buf.len()).sum();
        // A head and a short body: one copy and a plain send cost less than a vectored write, which
        // goes the kernel's longer way.
        if len <= SMALL {
            let mut small = [0; SMALL];
            let mut at = 0;
            for buf in bufs {
                small[at..at + buf.len()].copy_from_slice(buf);
                at += buf.len();
            }
            return self.poll_write(cx, &small[..len]);
        }
        if self.line.deaf() {
            return Poll::Ready(Ok(len));
        }
        let result = self.line.with(|stream| stream.poll_write_vectored(cx, bufs));
        self.line.wrote(result, self.patient, len)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.line.with(|stream| stream.poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.line.with(|stream| stream.poll_shutdown(cx))
    }
}
