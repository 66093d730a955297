//! Streams in memory, for the tests of other crates (feature `testing`): two ends that hold each other's bytes.
//!
//! They behave as a TCP connection of one machine does: bytes arrive at once, a full buffer keeps the writer waiting, an end
//! is read after the last byte, and a reset discards what was not read. There is no socket and no clock, so the same calls
//! always take the same steps. Once the buffers have their size, nothing is allocated.

use std::{
    io,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::virtual_stream::VirtualStream;

/// One end of a connection in memory.
#[derive(Debug)]
pub(crate) struct MemoryStream {
    incoming: Arc<Pipe>,
    outgoing: Arc<Pipe>,
}

/// One direction of a connection.
#[derive(Debug)]
struct Pipe(Mutex<PipeState>);

#[derive(Debug)]
struct PipeState {
    bytes: Vec<u8>,
    /// Bytes at the front of `bytes` that were read.
    read: usize,
    capacity: usize,
    /// The writer has ended the direction.
    is_ended: bool,
    /// The writer has reset the connection, or the reader has closed it.
    is_broken: bool,
    /// The reader's end resets the connection when it is dropped.
    resets: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

impl Pipe {
    fn new(capacity: usize) -> Self {
        Self(Mutex::new(PipeState {
            bytes: Vec::new(),
            read: 0,
            capacity: capacity.max(1),
            is_ended: false,
            is_broken: false,
            resets: false,
            reader: None,
            writer: None,
        }))
    }

    fn lock(&self) -> MutexGuard<'_, PipeState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl PipeState {
    fn unread(&self) -> &[u8] {
        &self.bytes[self.read..]
    }

    fn is_readable(&self) -> bool {
        !self.unread().is_empty() || self.is_ended || self.is_broken
    }

    /// Pending: the reader is woken when there is something to read.
    fn poll_readable(&mut self, cx: &Context<'_>) -> Poll<()> {
        if self.is_readable() {
            return Poll::Ready(());
        }
        remember(&mut self.reader, cx);
        Poll::Pending
    }

    fn take(&mut self, to: &mut ReadBuf<'_>) {
        let n = self.unread().len().min(to.remaining());
        to.put_slice(&self.bytes[self.read..self.read + n]);
        self.read += n;
        if self.read == self.bytes.len() {
            self.bytes.clear();
            self.read = 0;
        }
        wake(&mut self.writer);
    }

    /// Appends as much of `from` as has room: the number of bytes.
    fn put(&mut self, from: &[u8]) -> usize {
        let n = from.len().min(self.capacity.saturating_sub(self.unread().len()));
        if self.read > 0 && self.bytes.len() + n > self.bytes.capacity() {
            self.bytes.drain(..self.read);
            self.read = 0;
        }
        self.bytes.extend_from_slice(&from[..n]);
        n
    }

    fn poll_put(&mut self, cx: &Context<'_>, parts: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        if self.is_broken || self.is_ended {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let n = parts.iter().map(|part| self.put(part)).sum();
        if n == 0 && parts.iter().any(|part| !part.is_empty()) {
            remember(&mut self.writer, cx);
            return Poll::Pending;
        }
        wake(&mut self.reader);
        Poll::Ready(Ok(n))
    }

    fn end(&mut self) {
        self.is_ended = true;
        wake(&mut self.reader);
    }

    fn break_off(&mut self) {
        self.is_broken = true;
        wake(&mut self.reader);
        wake(&mut self.writer);
    }
}

fn remember(waker: &mut Option<Waker>, cx: &Context<'_>) {
    match waker {
        Some(waker) => waker.clone_from(cx.waker()),
        None => *waker = Some(cx.waker().clone()),
    }
}

fn wake(waker: &mut Option<Waker>) {
    if let Some(waker) = waker.take() {
        waker.wake();
    }
}

impl MemoryStream {
    /// The two ends of a connection.
    pub(crate) fn pair(capacity: usize) -> (Self, Self) {
        let (one, other) = (Arc::new(Pipe::new(capacity)), Arc::new(Pipe::new(capacity)));
        (Self { incoming: one.clone(), outgoing: other.clone() }, Self { incoming: other, outgoing: one })
    }
}

impl VirtualStream for MemoryStream {
    fn is_readable(&mut self) -> bool {
        self.incoming.lock().is_readable()
    }

    fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.incoming.lock().poll_readable(cx)
    }

    fn is_read_closed(&mut self) -> bool {
        let incoming = self.incoming.lock();
        incoming.is_ended || incoming.is_broken
    }

    fn poll_read_closed(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut incoming = self.incoming.lock();
        if incoming.is_ended || incoming.is_broken {
            return Poll::Ready(());
        }
        remember(&mut incoming.reader, cx);
        Poll::Pending
    }

    fn set_reset_on_close(&mut self, resets: bool) {
        self.incoming.lock().resets = resets;
    }
}

impl AsyncRead for MemoryStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut pipe = self.incoming.lock();
        std::task::ready!(pipe.poll_readable(cx));
        if pipe.is_broken {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        pipe.take(buf);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for MemoryStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.outgoing.lock().poll_put(cx, &[io::IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.outgoing.lock().poll_put(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // As shutdown(2) of a connection that its peer has reset.
        if self.incoming.lock().is_broken {
            return Poll::Ready(Err(io::ErrorKind::NotConnected.into()));
        }
        self.outgoing.lock().end();
        Poll::Ready(Ok(()))
    }
}

impl Drop for MemoryStream {
    fn drop(&mut self) {
        let (is_unread, resets) = {
            let mut incoming = self.incoming.lock();
            // A write after this is answered by a reset.
            incoming.break_off();
            (!incoming.unread().is_empty(), incoming.resets)
        };
        let mut outgoing = self.outgoing.lock();
        // TCP resets a connection that is closed with bytes unread.
        if is_unread || resets { outgoing.break_off() } else { outgoing.end() }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[tokio::test]
    async fn bytes_and_the_end_arrive_in_order() {
        let (mut near, mut far) = MemoryStream::pair(64);
        near.write_all(b"one ").await.unwrap();
        let two = [io::IoSlice::new(b"two "), io::IoSlice::new(b"three")];
        assert_eq!(near.write_vectored(&two).await.unwrap(), 9);
        near.shutdown().await.unwrap();
        let mut all = String::new();
        far.read_to_string(&mut all).await.unwrap();
        assert_eq!(all, "one two three");
        // The other direction is still open.
        far.write_all(b"four").await.unwrap();
        drop(far);
        all.clear();
        near.read_to_string(&mut all).await.unwrap();
        assert_eq!(all, "four");
    }

    #[tokio::test]
    async fn a_reader_waits_for_bytes_and_a_writer_for_room() {
        let (mut near, mut far) = MemoryStream::pair(4);
        let written = tokio::spawn(async move { near.write_all(b"more than four bytes").await });
        poll_fn(|cx| far.poll_readable(cx)).await;
        let mut all = String::new();
        far.read_to_string(&mut all).await.unwrap();
        assert_eq!(all, "more than four bytes");
        written.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn the_end_of_the_other_side_is_seen_before_its_bytes_are_read() {
        let (mut near, mut far) = MemoryStream::pair(64);
        far.write_all(b"still unread").await.unwrap();
        assert!(!near.is_read_closed());
        let ended = tokio::spawn(async move {
            poll_fn(|cx| near.poll_read_closed(cx)).await;
            near
        });
        far.shutdown().await.unwrap();
        let mut near = ended.await.unwrap();
        let mut all = String::new();
        near.read_to_string(&mut all).await.unwrap();
        assert_eq!(all, "still unread");
    }

    #[tokio::test]
    async fn an_idle_stream_is_readable_once_something_came() {
        for ends in [false, true] {
            let (mut near, mut far) = MemoryStream::pair(64);
            assert!(!near.is_readable());
            if ends {
                drop(far)
            } else {
                far.write_all(b"x").await.unwrap()
            }
            assert!(near.is_readable());
        }
    }

    #[tokio::test]
    async fn a_reset_is_read_as_an_error_and_a_write_to_a_closed_end_fails() {
        let (mut near, mut far) = MemoryStream::pair(64);
        far.write_all(b"lost").await.unwrap();
        far.set_reset_on_close(true);
        drop(far);
        let mut byte = [0];
        assert_eq!(near.read(&mut byte).await.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
        assert_eq!(near.write(b"x").await.unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }
}
