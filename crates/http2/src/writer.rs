//! The bytes of a body of HTTP/1.1 → DATA and trailers, within flow control.

use std::{
    io,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use h2::SendStream;
use outrigger_http1::{BodyDecoder, Framing, Head, Inbox, Piece};

use crate::{fault::io_error, fields::trailers_of};

/// Most bytes that wait for the window of the peer, in one stream.
const MAX_WAITING: usize = 32 * 1024;
/// The first buffer of a stream.
const FIRST: usize = 4 * 1024;

/// What is written to a stream.
#[derive(Debug)]
pub(crate) struct Writer {
    pub(crate) inbox: Inbox,
    body: Body,
    /// Data that waits for the window.
    held: Bytes,
    is_ended: bool,
}

#[derive(Debug)]
enum Body {
    Decoded(BodyDecoder),
    /// A tunnel: bytes as they come.
    Raw,
}

impl Writer {
    pub(crate) fn new() -> Self {
        let body = Body::Decoded(BodyDecoder::new(Framing::None));
        Self { inbox: Inbox::new(), body, held: Bytes::new(), is_ended: false }
    }

    /// Takes some of `data`; `None`: what was taken before waits.
    pub(crate) fn take(&mut self, data: &[u8]) -> Option<usize> {
        if self.is_ended {
            return Some(data.len());
        }
        let n = data.len().min(MAX_WAITING.saturating_sub(self.inbox.len()));
        if n == 0 && !data.is_empty() {
            return None;
        }
        if self.inbox.capacity() == 0 || self.inbox.space().len() < n {
            let len = (self.inbox.len() + n).next_power_of_two().max(FIRST);
            self.inbox.give_buffer(vec![0; len]);
        }
        self.inbox.space()[..n].copy_from_slice(&data[..n]);
        self.inbox.advance(n);
        Some(n)
    }

    /// The body behind this head.
    pub(crate) fn begin(&mut self, head: &Head, framing: Framing) {
        self.body = match framing {
            Framing::Tunnel => Body::Raw,
            Framing::Chunked => Body::Decoded(BodyDecoder::behind(head, framing).keeping_trailers()),
            framing => Body::Decoded(BodyDecoder::behind(head, framing)),
        };
    }

    /// What follows the head, as far as what was taken tells it. [`End::Here`]: the message counts as written to its end.
    pub(crate) fn ends_at_once(&mut self) -> io::Result<End> {
        let Body::Decoded(decoder) = &mut self.body else { return Ok(End::Body) };
        match decoder.decode(&mut self.inbox).map_err(broken)? {
            Piece::End if decoder.trailers().is_empty() => {
                self.is_ended = true;
                Ok(End::Here)
            }
            Piece::End | Piece::Data(_) => Ok(End::Body),
            Piece::NeedMore => Ok(End::Unknown),
        }
    }

    /// Whether the message was written to its end.
    pub(crate) fn is_ended(&self) -> bool {
        self.is_ended
    }

    /// Moves what was taken. Ready: the stream has all of it.
    pub(crate) fn poll_move(
        &mut self,
        stream: &mut SendStream<Bytes>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        while !self.is_ended {
            let mut ends = None;
            if self.held.is_empty() {
                match self.next_piece()? {
                    Piece::Data(n) => {
                        self.held = Bytes::copy_from_slice(&self.inbox.data()[..n]);
                        self.consume(n);
                    }
                    Piece::NeedMore => break,
                    Piece::End => ends = Some(self.trailers()),
                }
            }
            if let Some(trailers) = ends {
                self.is_ended = true;
                let sent = match trailers {
                    Some(lines) => stream.send_trailers(trailers_of(&lines)),
                    None => stream.send_data(Bytes::new(), true),
                };
                sent.map_err(io_error)?;
                break;
            }
            let capacity = ready!(poll_capacity(stream, self.held.len(), cx))?;
            let part = self.held.split_to(capacity.min(self.held.len()));
            let is_last = self.held.is_empty()
                && matches!(self.next_piece(), Ok(Piece::End))
                && self.trailers().is_none();
            self.is_ended = is_last;
            stream.send_data(part, is_last).map_err(io_error)?;
        }
        if self.inbox.is_empty() {
            self.inbox.take_buffer();
        }
        Poll::Ready(Ok(()))
    }

    /// What is written from here on goes nowhere.
    pub(crate) fn discard(&mut self) {
        self.is_ended = true;
        self.inbox.consume(usize::MAX);
    }

    /// Ends a tunnel.
    pub(crate) fn end(&mut self, stream: &mut SendStream<Bytes>) {
        if !std::mem::replace(&mut self.is_ended, true) {
            // A stream that is gone has ended already.
            let _ = stream.send_data(Bytes::new(), true);
        }
    }

    /// Whether it carries a tunnel.
    pub(crate) fn is_raw(&self) -> bool {
        matches!(self.body, Body::Raw)
    }

    fn next_piece(&mut self) -> io::Result<Piece> {
        match &mut self.body {
            Body::Decoded(decoder) => decoder.decode(&mut self.inbox).map_err(broken),
            Body::Raw if self.inbox.is_empty() => Ok(Piece::NeedMore),
            Body::Raw => Ok(Piece::Data(self.inbox.len())),
        }
    }

    fn consume(&mut self, n: usize) {
        match &mut self.body {
            Body::Decoded(decoder) => decoder.consume(&mut self.inbox, n),
            Body::Raw => self.inbox.consume(n),
        }
    }

    fn trailers(&self) -> Option<Vec<u8>> {
        let Body::Decoded(decoder) = &self.body else { return None };
        let lines = decoder.trailers();
        (!lines.is_empty()).then(|| lines.to_vec())
    }
}

/// What follows a head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// Nothing.
    Here,
    /// A body or trailers.
    Body,
    /// It is not known yet.
    Unknown,
}

/// Bytes that the stream takes now, at least 1, at most about `wanted`.
fn poll_capacity(
    stream: &mut SendStream<Bytes>,
    wanted: usize,
    cx: &mut Context<'_>,
) -> Poll<io::Result<usize>> {
    stream.reserve_capacity(wanted);
    while stream.capacity() == 0 {
        match ready!(stream.poll_capacity(cx)) {
            Some(Ok(_)) => {}
            Some(Err(error)) => return Poll::Ready(Err(io_error(error))),
            None => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
        }
    }
    Poll::Ready(Ok(stream.capacity()))
}

/// The walk writes valid framing.
fn broken(refusal: outrigger_http1::Refusal) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, refusal.detail)
}
