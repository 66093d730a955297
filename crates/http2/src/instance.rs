//! A request to an instance over HTTP/2, as a connection of HTTP/1.1.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use h2::{
    Reason, RecvStream, SendStream,
    client::{ResponseFuture, SendRequest},
};
use http::Request;
use outrigger_http1::{HeadKind, HeadParser, request_framing};
use outrigger_net::VirtualStream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::{
    app::NO_LIMITS,
    fault::{StreamFault, io_error},
    fields::{request_of, write_interim, write_response},
    reader::Reader,
    shared::Shared,
    writer::{End, Writer},
};

/// One request and its response.
///
/// It is written as a connection of HTTP/1.1. Dropped before the response has ended, its stream is cancelled. What its errors say
/// beyond an [`io::Error`] is a [`StreamFault`].
pub struct InstanceStream {
    connection: SendRequest<Bytes>,
    shared: Arc<Shared>,
    parser: HeadParser,
    writer: Writer,
    /// The head of the request, before it was sent.
    request: Option<Request<()>>,
    has_head: bool,
    is_head_request: bool,
    sent: Option<SendStream<Bytes>>,
    response: Option<ResponseFuture>,
    received: Option<RecvStream>,
    reader: Reader,
    fault: Option<StreamFault>,
}

impl std::fmt::Debug for InstanceStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let stream = self.sent.as_ref().map(SendStream::stream_id);
        f.debug_struct("InstanceStream").field("stream", &stream).finish_non_exhaustive()
    }
}

impl InstanceStream {
    /// `shared` counts the stream already.
    pub(crate) fn new(connection: SendRequest<Bytes>, shared: Arc<Shared>) -> Self {
        Self {
            connection,
            shared,
            parser: HeadParser::new(HeadKind::Request, NO_LIMITS, Vec::new()),
            writer: Writer::new(),
            request: None,
            has_head: false,
            is_head_request: false,
            sent: None,
            response: None,
            received: None,
            reader: Reader::new(),
            fault: None,
        }
    }

    fn fail(&mut self, fault: StreamFault) -> io::Error {
        self.fault = Some(fault.clone());
        fault.into()
    }

    /// An error of the stream or of its connection.
    fn error(&mut self, error: h2::Error) -> io::Error {
        if self.shared.is_http1() {
            return self.fail(StreamFault::Http1Instance);
        }
        // Above the last stream of a GOAWAY, or refused: not processed (RFC 9113 §6.8, §8.7).
        let is_left_out = error.is_go_away() && error.is_remote();
        let reason = error.reason().filter(|_| error.is_reset());
        let is_refused = matches!(reason, Some(Reason::REFUSED_STREAM | Reason::HTTP_1_1_REQUIRED));
        if self.received.is_none() && (is_left_out || is_refused) {
            return self.fail(StreamFault::Unprocessed(error.to_string()));
        }
        io_error(error)
    }

    /// Moves what was written. Ready: the stream has all of it.
    fn poll_move(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Some(fault) = &self.fault {
            return Poll::Ready(Err(fault.clone().into()));
        }
        if !self.has_head {
            let parsed = self.parser.parse(&mut self.writer.inbox, || vec![0; 4096]);
            let invalid = |detail| io::Error::new(io::ErrorKind::InvalidData, detail);
            let parsed = parsed.map_err(|refusal| invalid(refusal.detail))?;
            let Some(head) = parsed else { return Poll::Ready(Ok(())) };
            let framing = request_framing(&head).map_err(|refusal| invalid(refusal.detail))?;
            match request_of(&head, self.shared.is_tls) {
                Ok(request) => self.request = Some(request),
                Err(why) => return Poll::Ready(Err(self.fail(StreamFault::NotExpressible(why.to_string())))),
            }
            self.has_head = true;
            self.is_head_request = head.method() == b"HEAD";
            self.writer.begin(&head, framing);
        }
        if self.request.is_some() {
            if let Err(error) = ready!(self.connection.poll_ready(cx)) {
                // The connection takes no request any more: nothing of this one was sent.
                self.shared.close();
                let fault = match self.shared.is_http1() {
                    true => StreamFault::Http1Instance,
                    false => StreamFault::Unprocessed(error.to_string()),
                };
                return Poll::Ready(Err(self.fail(fault)));
            }
            let is_end = self.writer.ends_at_once()? == End::Here;
            if let Some(request) = self.request.take() {
                match self.connection.send_request(request, is_end) {
                    Ok((response, sent)) => {
                        self.response = Some(response);
                        self.sent = Some(sent);
                    }
                    Err(error) => {
                        let fault = StreamFault::Unprocessed(error.to_string());
                        return Poll::Ready(Err(self.fail(fault)));
                    }
                }
            }
        }
        match &mut self.sent {
            Some(sent) => self.writer.poll_move(sent, cx),
            None => Poll::Ready(Ok(())),
        }
    }

    /// Waits for bytes. Ready with `false`: there are no more.
    fn poll_more(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        if self.reader.has_bytes() {
            return Poll::Ready(Ok(true));
        }
        if let Some(fault) = &self.fault {
            return Poll::Ready(Err(fault.clone().into()));
        }
        if let Some(response) = &mut self.response {
            match response.poll_informational(cx) {
                Poll::Ready(Some(Ok(interim))) => {
                    self.reader.push_head(|out| write_interim(&interim, out));
                    return Poll::Ready(Ok(true));
                }
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(self.error(error))),
                Poll::Ready(None) | Poll::Pending => {}
            }
            let response = match ready!(Pin::new(response).poll(cx)) {
                Ok(response) => response,
                Err(error) => return Poll::Ready(Err(self.error(error))),
            };
            self.response = None;
            let (parts, received) = response.into_parts();
            let head = http::Response::from_parts(parts, ());
            let is_end = received.is_end_stream();
            let mut framed = Ok(outrigger_http1::Framing::None);
            self.reader.push_head(|out| {
                framed = write_response(&head, self.is_head_request, is_end, out);
            });
            let framing =
                framed.map_err(|why| io::Error::new(io::ErrorKind::InvalidData, why.to_string()))?;
            self.reader.begin(framing);
            self.received = Some(received);
            return Poll::Ready(Ok(true));
        }
        let Some(received) = &mut self.received else { return Poll::Pending };
        self.reader.poll_more(received, cx)
    }
}

impl AsyncRead for InstanceStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if ready!(this.poll_more(cx))? {
            this.reader.read(this.received.as_mut(), buffer);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for InstanceStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        let taken = match this.writer.take(data) {
            Some(n) => n,
            None => {
                ready!(this.poll_move(cx))?;
                this.writer.take(data).unwrap_or_default()
            }
        };
        match this.poll_move(cx) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            _ => Poll::Ready(Ok(taken)),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_move(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_flush(cx)
    }
}

impl VirtualStream for InstanceStream {
    fn is_readable(&mut self) -> bool {
        self.reader.has_bytes() || self.fault.is_some() || self.shared.is_closed()
    }

    fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.poll_more(cx).map(drop)
    }

    fn is_read_closed(&mut self) -> bool {
        self.fault.is_some() || self.reader.is_ended()
    }

    fn poll_read_closed(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.is_read_closed() { Poll::Ready(()) } else { self.poll_more(cx).map(drop) }
    }

    /// A stream ends in order with its response, and is cancelled otherwise.
    fn set_reset_on_close(&mut self, _resets: bool) {}
}

impl Drop for InstanceStream {
    fn drop(&mut self) {
        self.shared.end_stream();
    }
}
