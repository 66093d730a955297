//! A received message of HTTP/2 → bytes of HTTP/1.1.

use std::{
    io,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes};
use h2::RecvStream;
use outrigger_http1::Framing;
use tokio::io::ReadBuf;

use crate::{fault::io_error, fields::write_trailers};

/// What a stream may have in flight before the other side of the sidecar takes it, and a connection with all of its streams.
pub(crate) const STREAM_WINDOW: u32 = 256 * 1024;
pub(crate) const CONNECTION_WINDOW: u32 = 8 * 1024 * 1024;

/// What is read of a stream: the head, then the body as it is framed in HTTP/1.1.
#[derive(Debug)]
pub(crate) struct Reader {
    /// A head, or what frames a body.
    text: Vec<u8>,
    at: usize,
    /// What is left of a DATA frame.
    data: Bytes,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// The body is not read: no head is there yet, or the tunnel is not open.
    Held,
    /// Bytes of a body or of a tunnel, as they come.
    Plain,
    /// Chunks: `true` while one is open.
    Chunks(bool),
    /// The message was read to its end.
    End,
}

impl Reader {
    pub(crate) fn new() -> Self {
        Self { text: Vec::new(), at: 0, data: Bytes::new(), state: State::Held }
    }

    /// Adds a head, or an interim one.
    pub(crate) fn push_head(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        if self.at == self.text.len() {
            self.text.clear();
            self.at = 0;
        }
        write(&mut self.text);
    }

    /// Begins to read a body of this framing behind the head.
    pub(crate) fn begin(&mut self, framing: Framing) {
        self.state = match framing {
            Framing::None => State::End,
            Framing::Chunked => State::Chunks(false),
            Framing::Length(_) | Framing::UntilClose | Framing::Tunnel => State::Plain,
        };
    }

    /// Whether bytes are there to be read.
    pub(crate) fn has_bytes(&self) -> bool {
        self.at < self.text.len() || !self.data.is_empty()
    }

    /// Whether the message was read to its end.
    pub(crate) fn is_ended(&self) -> bool {
        self.state == State::End && !self.has_bytes()
    }

    /// Waits for bytes. Ready with `false`: there are no more.
    pub(crate) fn poll_more(
        &mut self,
        stream: &mut RecvStream,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<bool>> {
        if self.has_bytes() {
            return Poll::Ready(Ok(true));
        }
        self.text.clear();
        self.at = 0;
        if self.state == State::Chunks(true) {
            self.text.extend_from_slice(b"\r\n");
            self.state = State::Chunks(false);
            return Poll::Ready(Ok(true));
        }
        match self.state {
            State::Held => return Poll::Pending,
            State::End => return Poll::Ready(Ok(false)),
            State::Plain | State::Chunks(_) => {}
        }
        loop {
            match ready!(stream.poll_data(cx)) {
                Some(Ok(data)) if data.is_empty() => {}
                Some(Ok(data)) => {
                    if self.state == State::Chunks(false) {
                        self.text.extend_from_slice(format!("{:x}\r\n", data.len()).as_bytes());
                        self.state = State::Chunks(true);
                    }
                    self.data = data;
                    return Poll::Ready(Ok(true));
                }
                // The peer needs nothing more of this side; what it sent is complete where its framing says so.
                Some(Err(error)) if error.reason() == Some(h2::Reason::NO_ERROR) && error.is_reset() => break,
                Some(Err(error)) => return Poll::Ready(Err(io_error(error))),
                None => break,
            }
        }
        if self.state == State::Plain {
            self.state = State::End;
            return Poll::Ready(Ok(false));
        }
        let trailers = match ready!(stream.poll_trailers(cx)) {
            Ok(trailers) => trailers.unwrap_or_default(),
            Err(error) if error.reason() == Some(h2::Reason::NO_ERROR) && error.is_reset() => {
                http::HeaderMap::new()
            }
            Err(error) => return Poll::Ready(Err(io_error(error))),
        };
        self.text.extend_from_slice(b"0\r\n");
        write_trailers(&trailers, &mut self.text);
        self.text.extend_from_slice(b"\r\n");
        self.state = State::End;
        Poll::Ready(Ok(true))
    }

    /// Reads what is there.
    pub(crate) fn read(&mut self, stream: Option<&mut RecvStream>, buffer: &mut ReadBuf<'_>) {
        let text = &self.text[self.at..];
        let n = text.len().min(buffer.remaining());
        buffer.put_slice(&text[..n]);
        self.at += n;
        let n = self.data.len().min(buffer.remaining());
        if n == 0 || self.at < self.text.len() {
            return;
        }
        buffer.put_slice(&self.data[..n]);
        self.data.advance(n);
        if let Some(stream) = stream {
            // The window opens as the other side takes the bytes. A stream that has ended has none.
            let _ = stream.flow_control().release_capacity(n);
        }
    }
}
