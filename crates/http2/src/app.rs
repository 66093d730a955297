//! A request of the app over HTTP/2, as a connection of HTTP/1.1.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, Waker, ready},
};

use bytes::Bytes;
use h2::{Reason, RecvStream, SendStream, ext::Protocol, server::SendResponse};
use http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode};
use outrigger_http1::{Framing, Head, HeadKind, HeadLimits, HeadParser, response_framing};
use outrigger_net::VirtualStream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tracing::debug;

use crate::{
    fault::io_error,
    fields::{Malformed, RequestForm, response_of, write_request},
    reader::Reader,
    websocket::{accept_of, new_key},
    writer::{End, Writer},
};

/// The walk has kept to the limits of its settings before.
pub(crate) const NO_LIMITS: HeadLimits =
    HeadLimits { bytes: 16 * 1024 * 1024, fields: 100_000, target: 16 * 1024 * 1024 };

/// The field that marks a response as one of a sidecar.
const ERROR: HeaderName = HeaderName::from_static("x-outrigger-error");
const SEC_WEBSOCKET_ACCEPT: HeaderName = http::header::SEC_WEBSOCKET_ACCEPT;

/// One request and its response.
///
/// It is read as a connection of HTTP/1.1 on which the app sends one request and then waits: the end of its side is no end of the
/// connection. A stream that the app resets, or of which the connection is gone, is read as a reset. Dropped before the response has
/// ended, it is reset with INTERNAL_ERROR.
pub struct AppStream {
    reader: Reader,
    received: RecvStream,
    respond: SendResponse<Bytes>,
    /// Once the head of the response was sent.
    sent: Option<SendStream<Bytes>>,
    parser: HeadParser,
    writer: Writer,
    /// The head of the response, which waits until it is known whether a body follows.
    head: Option<Response<()>>,
    has_head: bool,
    is_head_request: bool,
    form: RequestForm,
    /// The key of the handshake that an Extended CONNECT for WebSocket gets.
    key: Option<String>,
    is_gone: bool,
    /// That of the task that polled last.
    waker: Option<Waker>,
}

impl std::fmt::Debug for AppStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AppStream").field("stream", &self.received.stream_id()).finish_non_exhaustive()
    }
}

impl AppStream {
    /// # Errors
    /// The request is malformed: the caller resets its stream.
    pub(crate) fn new(
        request: Request<RecvStream>,
        respond: SendResponse<Bytes>,
    ) -> Result<Self, (Malformed, SendResponse<Bytes>)> {
        let (parts, received) = request.into_parts();
        let request = Request::from_parts(parts, ());
        let protocol = request.extensions().get::<Protocol>().map(|one| one.as_str().to_owned());
        let is_websocket = protocol.as_deref().is_some_and(|one| one.eq_ignore_ascii_case("websocket"));
        let key = is_websocket.then(new_key);
        let mut reader = Reader::new();
        let mut written = Ok(RequestForm::Connect);
        reader.push_head(|out| {
            out.reserve(256);
            written =
                write_request(&request, protocol.as_deref(), key.as_deref(), received.is_end_stream(), out);
        });
        let form = match written {
            Ok(form) => form,
            Err(malformed) => return Err((malformed, respond)),
        };
        if let RequestForm::Body(framing) = form {
            reader.begin(framing);
        }
        Ok(Self {
            reader,
            received,
            respond,
            sent: None,
            parser: HeadParser::new(HeadKind::Response, NO_LIMITS, Vec::new()),
            writer: Writer::new(),
            head: None,
            has_head: false,
            is_head_request: request.method() == Method::HEAD,
            form,
            key,
            is_gone: false,
            waker: None,
        })
    }

    fn note_waker(&mut self, cx: &Context<'_>) {
        match &mut self.waker {
            Some(waker) => waker.clone_from(cx.waker()),
            None => self.waker = Some(cx.waker().clone()),
        }
    }

    /// Ready: the app has reset the stream, or its connection is gone.
    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.is_gone {
            return Poll::Ready(());
        }
        let polled = match &mut self.sent {
            Some(sent) => sent.poll_reset(cx).map(drop),
            None => self.respond.poll_reset(cx).map(drop),
        };
        self.is_gone = polled.is_ready();
        polled
    }

    /// Moves what was written. Ready: the stream has all of it, but for a head of which it is not known whether a body follows.
    fn poll_move(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.has_head {
            let parsed = self.parser.parse(&mut self.writer.inbox, || vec![0; 4096]);
            let parsed =
                parsed.map_err(|refusal| io::Error::new(io::ErrorKind::InvalidData, refusal.detail))?;
            let Some(head) = parsed else { return Poll::Ready(Ok(())) };
            self.accept_head(&head)?;
        }
        if self.head.is_some() {
            match self.writer.ends_at_once()? {
                End::Here => self.send_head(true)?,
                End::Body => self.send_head(false)?,
                End::Unknown => return Poll::Ready(Ok(())),
            }
        }
        match &mut self.sent {
            Some(sent) => self.writer.poll_move(sent, cx),
            None => Poll::Ready(Ok(())),
        }
    }

    fn accept_head(&mut self, head: &Head) -> io::Result<()> {
        let status = head.status();
        let response = response_of(head);
        if matches!(status, 100 | 102..=199) {
            if let Ok(response) = response {
                self.respond.send_informational(response).map_err(io_error)?;
            }
            return Ok(());
        }
        self.has_head = true;
        let opens = match self.form {
            RequestForm::Body(_) => status == 101,
            RequestForm::Connect => (200..300).contains(&status),
            RequestForm::ExtendedConnect => status == 101,
        };
        let mut response = match response {
            Ok(response) => response,
            Err(why) => return self.refuse_response(&why.to_string()),
        };
        let framing = if opens {
            if let Some(key) = self.key.take() {
                let accept = response.headers_mut().remove(SEC_WEBSOCKET_ACCEPT);
                if accept.is_none_or(|value| value.as_bytes() != accept_of(&key).as_bytes()) {
                    let detail = "the instance's Sec-WebSocket-Accept does not fit the key (RFC 6455 §4.2.2)";
                    return self.refuse_response(detail);
                }
            }
            *response.status_mut() = StatusCode::OK;
            self.reader.begin(Framing::Tunnel);
            Framing::Tunnel
        } else {
            response_framing(head, self.is_head_request)
                .map_err(|refusal| io::Error::new(io::ErrorKind::InvalidData, refusal.detail))?
                .framing
        };
        self.writer.begin(head, framing);
        self.head = Some(response);
        Ok(())
    }

    /// The app gets an error in place of a response that it cannot get; what is written of that goes nowhere.
    fn refuse_response(&mut self, detail: &str) -> io::Result<()> {
        debug!(detail, "a response of HTTP/1.1 has no form in HTTP/2");
        let mut response = Response::new(());
        *response.status_mut() = StatusCode::BAD_GATEWAY;
        response.headers_mut().insert(ERROR, HeaderValue::from_static("bad_response"));
        self.head = Some(response);
        self.send_head(true)?;
        self.writer.discard();
        Ok(())
    }

    fn send_head(&mut self, is_end: bool) -> io::Result<()> {
        if let Some(response) = self.head.take() {
            self.sent = Some(self.respond.send_response(response, is_end).map_err(io_error)?);
        }
        Ok(())
    }

    fn is_tunnel(&self) -> bool {
        self.writer.is_raw()
    }

    fn gone<T>() -> Poll<io::Result<T>> {
        Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()))
    }
}

impl AsyncRead for AppStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        this.note_waker(cx);
        match this.reader.poll_more(&mut this.received, cx) {
            Poll::Ready(Ok(true)) => {
                this.reader.read(Some(&mut this.received), buffer);
                Poll::Ready(Ok(()))
            }
            Poll::Ready(Ok(false)) if this.is_tunnel() => Poll::Ready(Ok(())),
            Poll::Ready(Ok(false)) | Poll::Pending => {
                ready!(this.poll_gone(cx));
                Self::gone()
            }
            Poll::Ready(Err(error)) => {
                this.is_gone = true;
                Poll::Ready(Err(error))
            }
        }
    }
}

impl AsyncWrite for AppStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        this.note_waker(cx);
        let taken = match this.writer.take(data) {
            Some(n) => n,
            None => {
                ready!(this.poll_move(cx))?;
                // All of it was moved, so that there is room.
                this.writer.take(data).unwrap_or_default()
            }
        };
        if let Poll::Ready(Err(error)) = this.poll_move(cx) {
            this.is_gone = true;
            return Poll::Ready(Err(error));
        }
        Poll::Ready(Ok(taken))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        this.note_waker(cx);
        ready!(this.poll_move(cx))?;
        this.send_head(false)?;
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.as_mut().poll_flush(cx))?;
        let this = &mut *self;
        if let (true, Some(sent)) = (this.writer.is_raw(), &mut this.sent) {
            this.writer.end(sent);
        }
        Poll::Ready(Ok(()))
    }
}

impl VirtualStream for AppStream {
    fn is_readable(&mut self) -> bool {
        self.reader.has_bytes() || self.is_gone || self.is_tunnel() && self.reader.is_ended()
    }

    fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.note_waker(cx);
        match self.reader.poll_more(&mut self.received, cx) {
            Poll::Ready(Ok(false)) if !self.is_tunnel() => self.poll_gone(cx),
            Poll::Ready(_) => Poll::Ready(()),
            Poll::Pending => self.poll_gone(cx),
        }
    }

    fn is_read_closed(&mut self) -> bool {
        match self.waker.clone() {
            Some(waker) => self.poll_gone(&mut Context::from_waker(&waker)).is_ready(),
            None => self.is_gone,
        }
    }

    fn poll_read_closed(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.note_waker(cx);
        self.poll_gone(cx)
    }

    /// A stream ends in order with its response, and is reset otherwise.
    fn set_reset_on_close(&mut self, _resets: bool) {}
}

impl Drop for AppStream {
    fn drop(&mut self) {
        if self.writer.is_ended() || self.is_gone {
            return;
        }
        match &mut self.sent {
            Some(sent) => sent.send_reset(Reason::INTERNAL_ERROR),
            None => self.respond.send_reset(Reason::INTERNAL_ERROR),
        }
    }
}
