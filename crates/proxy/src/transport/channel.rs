//! A stream with its inbox and its outbox: one side of an exchange; and the buffers of a worker's streams.
//!
//! Nothing else holds the stream. All reads go into the inbox and all writes come from the outbox, or from bytes that are passed
//! with the call, so that it is always known what the system has accepted.
//!
//! A stream holds a buffer only while the buffer holds bytes. The pool of buffers belongs to the thread, and a worker is a
//! thread, so that no lock is needed. A buffer that is given back on another thread joins the pool of that thread.

use std::{
    cell::RefCell,
    io,
    pin::{Pin, pin},
    task::{Context, Poll, ready},
};

use outrigger_http1::{Field, Head, Inbox, Outbox};
use outrigger_net::Stream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes of a usual buffer.
pub(crate) const SMALL: usize = 16 * 1024;
/// Bytes of the buffer of a stream that fills the usual one at each read.
pub(crate) const LARGE: usize = 64 * 1024;
/// Most bytes in the pool of one worker.
const MAX_POOLED: usize = 1024 * 1024;
/// Most lists of fields in the pool of one worker, and most fields of one.
const MAX_LISTS: usize = 64;
const MAX_LIST: usize = 128;

/// Bytes up to which data is copied behind what waits in the outbox, for one plain write. More data is written from where it
/// is, by a vectored write, which takes a longer way through the kernel.
const COPY_BELOW: usize = 8 * 1024;
/// From this fullness on a stream gets the larger buffer. A read that fills its buffer counts 2, a read that the usual buffer
/// would have held takes 1 away: a stream of messages that are just too large for the usual buffer keeps the larger one.
const LARGE_FROM: u8 = 3;
const MAX_FULLNESS: u8 = 6;

/// Most bytes that one direction moves in one poll, and most reads, which bound the work for a body of tiny chunks.
const MAX_MOVED: usize = 256 * 1024;
const MAX_READS: u32 = 16;

/// One side of an exchange.
#[derive(Debug)]
pub(crate) struct Channel {
    pub(crate) stream: Stream,
    pub(crate) inbox: Inbox,
    pub(crate) outbox: Outbox,
    /// Bytes that the system has accepted for the peer.
    pub(crate) written: u64,
    fullness: u8,
    /// The peer has ended its side.
    pub(crate) is_ended: bool,
    kernel_check: KernelCheck,
}

/// How far [`Channel::ask_kernel`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum KernelCheck {
    /// Not asked since bytes were accepted last.
    None,
    /// The next write tries the system's buffer itself.
    Due,
    /// It was tried, and no byte was accepted since.
    Done,
}

impl Channel {
    pub(crate) fn new(stream: Stream) -> Self {
        Self {
            stream,
            inbox: Inbox::new(),
            outbox: Outbox::new(),
            written: 0,
            fullness: 0,
            is_ended: false,
            kernel_check: KernelCheck::None,
        }
    }

    /// Reads once into the inbox: the number of bytes, 0 at the end of the stream. Takes a buffer when there is something to
    /// read; a full inbox gets a larger one, up to `most` bytes. Ready with an error of the kind `OutOfMemory` when the inbox
    /// is full with `most` bytes: the caller bounds what it leaves there. `expected`: bytes are likely to be there, so that a
    /// buffer is taken before the stream is asked.
    pub(crate) fn poll_fill(
        &mut self,
        most: usize,
        expected: bool,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        if self.is_ended {
            return Poll::Ready(Ok(0));
        }
        if self.inbox.capacity() == 0 {
            if !expected {
                ready!(self.stream.poll_read_ready(cx))?;
            }
            let len = if self.fullness >= LARGE_FROM { LARGE } else { SMALL };
            self.inbox.give_buffer(take_incoming(len));
        } else if self.inbox.space().is_empty() {
            let len = self.inbox.capacity();
            if len >= most {
                return Poll::Ready(Err(io::ErrorKind::OutOfMemory.into()));
            }
            let larger = if len < LARGE { LARGE } else { most.min(len * 2) };
            give_incoming(self.inbox.give_buffer(take_incoming(larger)));
        }
        let space = self.inbox.space();
        let room = space.len();
        let mut buffer = ReadBuf::new(space);
        match Pin::new(&mut self.stream).poll_read(cx, &mut buffer) {
            Poll::Ready(Ok(())) => {
                let n = buffer.filled().len();
                self.inbox.advance(n);
                self.is_ended = n == 0;
                if n == room {
                    self.fullness = (self.fullness + 2).min(MAX_FULLNESS);
                } else if n <= SMALL {
                    self.fullness = self.fullness.saturating_sub(1);
                }
                Poll::Ready(Ok(n))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => {
                self.release_inbox();
                Poll::Pending
            }
        }
    }

    /// Appends bytes for the peer, of which `write` makes the text.
    pub(crate) fn queue(&mut self, write: impl FnOnce(&mut Outbox)) {
        if self.outbox.capacity() == 0 {
            self.outbox.give_buffer(take_outgoing());
        }
        write(&mut self.outbox);
    }

    /// Takes some of `data` behind what is queued: by a copy when it is little, else by a write. The number of bytes that were
    /// taken, at least 1.
    pub(crate) fn poll_take(&mut self, data: &[u8], cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let queued = self.outbox.pending().len();
        if queued > 0 && queued + data.len() <= COPY_BELOW {
            self.outbox.push(data);
            return Poll::Ready(Ok(data.len()));
        }
        let n = match self.poll_write(data, cx) {
            Poll::Ready(written) => written?,
            Poll::Pending => {
                self.read_less();
                return Poll::Pending;
            }
        };
        self.release_outbox();
        match n.saturating_sub(queued) {
            // The outbox alone was written, or a part of it.
            0 => self.poll_take(data, cx),
            taken => Poll::Ready(Ok(taken)),
        }
    }

    /// Writes some of what is queued and of `data`, and counts it: the number of bytes of both, at least 1.
    fn poll_write(&mut self, data: &[u8], cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let n = ready!(self.poll_write_stream(data, cx))?;
        if n == 0 {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        self.kernel_check = KernelCheck::None;
        self.written += n as u64;
        self.outbox.advance(n.min(self.outbox.pending().len()));
        Poll::Ready(Ok(n))
    }

    fn poll_write_stream(&mut self, data: &[u8], cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let queued = self.outbox.pending();
        if self.kernel_check == KernelCheck::Due {
            self.kernel_check = KernelCheck::Done;
            match self.stream.write_past_reactor(if queued.is_empty() { data } else { queued }) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                written => return Poll::Ready(written),
            }
        }
        let stream = Pin::new(&mut self.stream);
        if queued.is_empty() {
            stream.poll_write(cx, data)
        } else if data.is_empty() {
            stream.poll_write(cx, queued)
        } else {
            stream.poll_write_vectored(cx, &[io::IoSlice::new(queued), io::IoSlice::new(data)])
        }
    }

    /// Before a peer that takes no bytes is judged: the next write tries the system's buffer itself, past the reactor. False: that
    /// was tried already, and no byte was accepted since.
    pub(crate) fn ask_kernel(&mut self) -> bool {
        let asks = self.kernel_check == KernelCheck::None;
        if asks {
            self.kernel_check = KernelCheck::Due;
        }
        asks
    }

    /// Writes everything that is queued.
    pub(crate) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.outbox.is_empty() {
            ready!(self.poll_write(&[], cx))?;
        }
        self.release_outbox();
        // A plain socket has nothing to flush; a TLS session may hold records.
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    /// Ends this side of the stream.
    pub(crate) fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    /// Whether the peer has sent more than was used, as far as it is known without a system call.
    pub(crate) fn has_more(&mut self) -> bool {
        !self.is_ended && (!self.inbox.is_empty() || self.stream.is_stale(false))
    }

    /// The next buffer is a small one, because what was read waits for its receiver.
    pub(crate) fn read_less(&mut self) {
        self.fullness = 0;
    }

    /// Gives the buffer of an empty inbox back.
    pub(crate) fn release_inbox(&mut self) {
        if let Some(buffer) = self.inbox.take_buffer() {
            give_incoming(buffer);
        }
    }

    fn release_outbox(&mut self) {
        if let Some(buffer) = self.outbox.take_buffer() {
            give_outgoing(buffer);
        }
    }
}

/// What one direction has moved in this poll. It is bounded, so that the other connections of the worker get their turn.
#[derive(Debug, Default)]
pub(crate) struct Turn {
    moved: usize,
    reads: u32,
}

impl Turn {
    /// Pending: the turn is over. The task is woken when the runtime has run what is ready and has asked the system for events,
    /// because a task that wakes itself keeps a current-thread runtime from that for up to 61 polls.
    pub(crate) fn poll_more(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.moved < MAX_MOVED && self.reads < MAX_READS {
            return Poll::Ready(());
        }
        pin!(tokio::task::yield_now()).poll(cx)
    }

    /// The part of `data` that may still be moved; some of it after [`Turn::poll_more`] was ready.
    pub(crate) fn part<'a>(&self, data: &'a [u8]) -> &'a [u8] {
        &data[..data.len().min(MAX_MOVED - self.moved)]
    }

    /// Counts `n` bytes of a [`Turn::part`] as moved.
    pub(crate) fn moved(&mut self, n: usize) {
        self.moved += n;
    }

    /// Counts a read.
    pub(crate) fn read(&mut self) {
        self.reads += 1;
    }
}

impl Drop for Channel {
    fn drop(&mut self) {
        self.inbox.consume(usize::MAX);
        self.release_inbox();
        self.outbox.advance(usize::MAX);
        self.release_outbox();
    }
}

thread_local! {
    static POOL: RefCell<BufferPool> = const { RefCell::new(BufferPool::new()) };
}

struct BufferPool {
    /// Initialised over their whole length, for reads.
    small: Vec<Vec<u8>>,
    large: Vec<Vec<u8>>,
    /// Empty, with a capacity of at least [`SMALL`], for writes.
    outgoing: Vec<Vec<u8>>,
    fields: Vec<Vec<Field>>,
    pooled: usize,
}

impl BufferPool {
    const fn new() -> Self {
        Self { small: Vec::new(), large: Vec::new(), outgoing: Vec::new(), fields: Vec::new(), pooled: 0 }
    }
}

/// A buffer for reads: `len` bytes, all of them initialised.
pub(crate) fn take_incoming(len: usize) -> Vec<u8> {
    let pooled = POOL.with_borrow_mut(|pool| {
        let buffer = match len {
            SMALL => pool.small.pop(),
            LARGE => pool.large.pop(),
            _ => None,
        };
        pool.pooled -= buffer.as_ref().map_or(0, Vec::len);
        buffer
    });
    pooled.unwrap_or_else(|| vec![0; len])
}

/// Gives a buffer for reads back.
pub(crate) fn give_incoming(buffer: Vec<u8>) {
    let len = buffer.len();
    give(|pool| {
        if pool.pooled + len > MAX_POOLED {
            return;
        }
        match len {
            SMALL => pool.small.push(buffer),
            LARGE => pool.large.push(buffer),
            _ => return,
        }
        pool.pooled += len;
    });
}

/// An empty buffer for writes.
pub(crate) fn take_outgoing() -> Vec<u8> {
    let pooled = POOL.with_borrow_mut(|pool| {
        let buffer = pool.outgoing.pop();
        pool.pooled -= buffer.as_ref().map_or(0, Vec::capacity);
        buffer
    });
    pooled.unwrap_or_else(|| Vec::with_capacity(SMALL))
}

/// Gives an empty buffer for writes back. One that has grown far is freed.
pub(crate) fn give_outgoing(buffer: Vec<u8>) {
    let capacity = buffer.capacity();
    give(|pool| {
        if (SMALL..=LARGE).contains(&capacity) && pool.pooled + capacity <= MAX_POOLED {
            pool.pooled += capacity;
            pool.outgoing.push(buffer);
        }
    });
}

/// An empty list of fields, for a parser.
pub(crate) fn take_fields() -> Vec<Field> {
    POOL.with_borrow_mut(|pool| pool.fields.pop()).unwrap_or_default()
}

/// Gives the buffer and the list of a head back.
pub(crate) fn give_head(head: Head) {
    let (bytes, fields) = head.into_parts();
    give_incoming(bytes);
    give(|pool| {
        if pool.fields.len() < MAX_LISTS && (1..=MAX_LIST).contains(&fields.capacity()) {
            pool.fields.push(fields);
        }
    });
}

/// Puts something into the pool of this thread. While the thread ends, its pool may be gone: the buffer is then freed.
fn give(keep: impl FnOnce(&mut BufferPool)) {
    let _ = POOL.try_with(|pool| keep(&mut pool.borrow_mut()));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_that_was_given_back_is_used_again_up_to_the_bound() {
        std::thread::spawn(|| {
            let buffer = take_incoming(SMALL);
            let at = buffer.as_ptr();
            give_incoming(buffer);
            let again = take_incoming(SMALL);
            assert_eq!(again.as_ptr(), at);
            for _ in 0..100 {
                give_incoming(vec![0; LARGE]);
                give_outgoing(Vec::with_capacity(SMALL));
            }
            POOL.with_borrow(|pool| {
                let held = pool.large.iter().map(Vec::len).sum::<usize>()
                    + pool.outgoing.iter().map(Vec::capacity).sum::<usize>();
                assert_eq!(held, pool.pooled);
                assert!(held <= MAX_POOLED && held > MAX_POOLED / 2, "{held}");
            });
        })
        .join()
        .unwrap();
    }
}
