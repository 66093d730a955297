//! One HTTP/1 exchange on a connection to an instance: the request out, the response in.
//!
//! It is driven by the task of the request; each poll moves what can be moved. It knows what the system has accepted and
//! whether anything came back, because that decides whether the request may be sent again. No retries, no time-outs.

use std::{
    io,
    task::{Context, Poll, ready},
};

use outrigger_http1::{
    BodyDecoder, Edits, Framing, Head, HeadKind, HeadLimits, HeadParser, Piece, response_framing,
    writer::{write_chunk_end, write_chunk_start, write_head, write_last_chunk},
};
use outrigger_http2::{InstanceStream, StreamFault};
use outrigger_net::{Stream, is_own_shortage, tls::TlsFault};
use outrigger_policy::Sent;
use tokio::time::Instant;

use crate::{
    limit::refused_head,
    transport::{
        channel::{Channel, LARGE, SMALL, Turn, take_fields, take_incoming},
        exchange_end::{DownloadError, ExchangeError, ResponseHead},
        foreign::foreign_protocol,
        pool::OpenConnection,
        upload::{BrokenUpload, Upload},
    },
};

/// Most interim responses of one request, and most bytes of their heads.
const MAX_INTERIM: u32 = 32;
const MAX_INTERIM_BYTES: u32 = 64 * 1024;

/// A connection to an instance, and one request at a time on it.
#[derive(Debug)]
pub(crate) struct Exchange {
    channel: Channel,
    /// Another request used the connection before.
    is_reused: bool,
    /// `None`: a stream, of a connection that is shared.
    open: Option<OpenConnection>,
    /// The state of one request. The next request on the connection begins with a new one.
    state: ExchangeState,
}

/// What there is of a head of the response. A parser and a head are large, and never needed at the same time.
#[derive(Debug)]
enum Incoming {
    /// Nothing was read, or the last head was taken.
    Nothing,
    /// A part.
    Part(HeadParser),
    /// All of it.
    Head(Head),
}

#[derive(Debug)]
struct ExchangeState {
    incoming: Incoming,
    /// Whether a response to the request has no body because the method is HEAD.
    is_head: bool,
    /// The response has no body because of the method or of its status (HEAD, 204, 304).
    is_bodiless: bool,
    /// What the channel had written before the request.
    written_before: u64,
    /// The encrypted bytes that the system had accepted before it. 0: the connection is not encrypted; one that is begins with a
    /// handshake.
    encrypted_before: u64,
    /// The bytes of the request that were written when `sent_at` was set last.
    noted: u64,
    /// When the system last accepted bytes of a request with a body.
    sent_at: Option<Instant>,
    /// The attempt's position in the kept part of the body.
    position: usize,
    /// Whether bytes of the body were taken.
    has_body_begun: bool,
    /// Frames the request body for the instance.
    to_instance: BodyFramer,
    /// The request was written to its last byte.
    is_sent: bool,
    /// The instance takes no more bytes; a response that it sent before may still be read.
    is_deaf: bool,
    /// The last write failed for want of memory or buffers in this process.
    is_short: bool,
    /// The instance has said that it processed nothing.
    is_unprocessed: bool,
    /// The last write found the socket full.
    is_blocked: bool,
    /// Bytes have come back.
    has_answered: bool,
    /// The connection is not used again: the response says so, or ends with it, or has framing that was only tolerated.
    is_single: bool,
    /// Interim responses that came, and the bytes of their heads.
    interim: u32,
    interim_bytes: u32,
    /// Decodes the response body.
    body: BodyDecoder,
    /// Frames it for the app.
    to_app: BodyFramer,
    /// Bytes of data at the front of the inbox that are framed for the app.
    direct: usize,
    /// When the response's last bytes came.
    last_received: Instant,
}

impl ExchangeState {
    fn new(is_head: bool, framing: Framing, written_before: u64, now: Instant) -> Self {
        Self {
            incoming: Incoming::Nothing,
            is_head,
            is_bodiless: false,
            written_before,
            encrypted_before: 0,
            noted: 0,
            sent_at: None,
            position: 0,
            has_body_begun: false,
            to_instance: BodyFramer::new(framing),
            is_sent: false,
            is_deaf: false,
            is_short: false,
            is_unprocessed: false,
            is_blocked: false,
            has_answered: false,
            is_single: false,
            interim: 0,
            interim_bytes: 0,
            body: BodyDecoder::new(Framing::None),
            to_app: BodyFramer::default(),
            direct: 0,
            last_received: now,
        }
    }
}

/// How a body is framed for its receiver, and how far that is.
#[derive(Debug, Default)]
struct BodyFramer {
    is_chunked: bool,
    /// Bytes of data that are missing in the chunk that was begun.
    chunk_left: usize,
    is_end_queued: bool,
}

impl BodyFramer {
    fn new(framing: Framing) -> Self {
        Self { is_chunked: framing == Framing::Chunked, ..Self::default() }
    }

    /// Begins a chunk where one is due; the part of `data` that belongs to the chunk.
    fn begin<'a>(&mut self, data: &'a [u8], to: &mut Channel) -> &'a [u8] {
        if !self.is_chunked {
            return data;
        }
        if self.chunk_left == 0 {
            self.chunk_left = data.len();
            to.queue(|outbox| write_chunk_start(data.len(), outbox));
        }
        &data[..data.len().min(self.chunk_left)]
    }

    /// Counts `n` bytes of data as passed on, and ends the chunk when that was all of it.
    fn took(&mut self, n: usize, to: &mut Channel) {
        if self.is_chunked {
            self.chunk_left -= n;
            if self.chunk_left == 0 {
                to.queue(write_chunk_end);
            }
        }
    }

    /// Ends the body, once.
    fn end(&mut self, trailers: &[u8], to: &mut Channel) {
        if self.is_chunked && !self.is_end_queued {
            to.queue(|outbox| write_last_chunk(trailers, outbox));
        }
        self.is_end_queued = true;
    }
}

impl Exchange {
    /// A connection on which no request was sent yet.
    pub(crate) fn new(stream: Stream, open: OpenConnection, now: Instant) -> Box<Self> {
        Box::new(Self {
            channel: Channel::new(stream),
            is_reused: false,
            open: Some(open),
            state: ExchangeState::new(false, Framing::None, 0, now),
        })
    }

    /// A stream of a connection of HTTP/2. `is_reused`: the connection has carried another one before.
    pub(crate) fn on_stream(stream: InstanceStream, is_reused: bool, now: Instant) -> Box<Self> {
        Box::new(Self {
            channel: Channel::new(Stream::of_virtual(Box::new(stream))),
            is_reused,
            open: None,
            state: ExchangeState::new(false, Framing::None, 0, now),
        })
    }

    /// Queues the head of a request. `edits`: how the head differs from the app's; `framing`: how the body is sent.
    pub(crate) fn begin(&mut self, head: &Head, edits: &Edits<'_>, framing: Framing, now: Instant) {
        let channel = &mut self.channel;
        self.state = ExchangeState::new(head.method() == b"HEAD", framing, channel.written, now);
        self.state.encrypted_before = channel.stream.encrypted_written().unwrap_or(0);
        channel.queue(|outbox| write_head(head, edits, framing, outbox));
    }

    /// The last head that came.
    pub(crate) fn response(&self) -> Option<&Head> {
        match &self.state.incoming {
            Incoming::Head(head) => Some(head),
            Incoming::Nothing | Incoming::Part(_) => None,
        }
    }

    /// The last head that came, once.
    pub(crate) fn take_response(&mut self) -> Option<Head> {
        match std::mem::replace(&mut self.state.incoming, Incoming::Nothing) {
            Incoming::Head(head) => Some(head),
            Incoming::Nothing | Incoming::Part(_) => None,
        }
    }

    /// Whether the connection cannot carry another request: bytes that were not asked for have come, or it has ended.
    /// `ask_kernel`: a system call makes sure; otherwise an end of the last moment may be missed. It is always made after a
    /// response that has no body whatever its head says: a wrong instance sends one all the same, perhaps a moment later, and its
    /// bytes would be taken for the next response.
    pub(crate) fn is_stale(&mut self, ask_kernel: bool) -> bool {
        let asks = ask_kernel || self.state.is_bodiless;
        !self.channel.inbox.is_empty() || self.channel.is_ended || self.channel.stream.is_stale(asks)
    }

    /// Whether another request used the connection before.
    pub(crate) fn is_reused(&self) -> bool {
        self.is_reused
    }

    /// Bytes of the request that the system accepted.
    fn written(&self) -> u64 {
        self.channel.written - self.state.written_before
    }

    /// The part of the request that the system accepted.
    pub(crate) fn sent(&self) -> Sent {
        let is_unsent = match self.state.encrypted_before {
            0 => self.written() == 0,
            before => self.channel.stream.encrypted_written() == Some(before),
        };
        if is_unsent || self.state.is_unprocessed {
            Sent::Nothing
        } else if self.state.has_body_begun {
            Sent::Body
        } else {
            Sent::Head
        }
    }

    /// Whether bytes of a response came.
    pub(crate) fn has_answered(&self) -> bool {
        self.state.has_answered
    }

    /// Whether the request was written to its last byte, or cannot be.
    pub(crate) fn is_upload_done(&self) -> bool {
        self.state.is_sent || self.state.is_deaf
    }

    /// When the last byte of the request body came from the app, or was accepted for the instance; the later of the two.
    pub(crate) fn last_upload(&self, upload: &Upload) -> Instant {
        self.state.sent_at.map_or(upload.last_byte(), |at| at.max(upload.last_byte()))
    }

    /// When the response's last bytes came.
    pub(crate) fn last_received(&self) -> Instant {
        self.state.last_received
    }

    /// Whether the instance, not the app, keeps the upload waiting.
    pub(crate) fn is_write_blocked(&self) -> bool {
        self.state.is_blocked
    }

    /// [`Channel::ask_kernel`] of the instance's side, where the instance keeps the upload waiting.
    pub(crate) fn ask_kernel(&mut self) -> bool {
        self.state.is_blocked && self.channel.ask_kernel()
    }

    /// Moves the request, and reads the next head of the response, within `limits`.
    pub(crate) fn poll_head(
        &mut self,
        limits: HeadLimits,
        app: &mut Channel,
        upload: &mut Upload,
        cx: &mut Context<'_>,
    ) -> Poll<Result<ResponseHead, ExchangeError>> {
        // No response is there at the moment when the request was written.
        let was_sent = self.is_upload_done();
        if let Poll::Ready(Err(broken)) = self.poll_upload(app, upload, cx) {
            return Poll::Ready(Err(ExchangeError::Upload(broken)));
        }
        if self.state.is_short {
            let detail = "out of memory or buffers while the request was sent".to_owned();
            return Poll::Ready(Err(ExchangeError::OwnShortage(detail)));
        }
        let channel = &mut self.channel;
        let incoming = &mut self.state.incoming;
        loop {
            if !channel.inbox.is_empty() {
                let spare = if channel.inbox.len() > SMALL { LARGE } else { SMALL };
                if !matches!(incoming, Incoming::Part(_)) {
                    *incoming = Incoming::Part(HeadParser::new(HeadKind::Response, limits, take_fields()));
                }
                let Incoming::Part(parser) = incoming else { continue };
                match parser.parse(&mut channel.inbox, || take_incoming(spare)) {
                    Ok(Some(head)) => return Poll::Ready(self.accept_head(head)),
                    Ok(None) => {}
                    Err(refusal) => {
                        let detail = foreign_protocol(channel.inbox.data())
                            .unwrap_or_else(|| refused_head(&refusal, &limits, true));
                        return Poll::Ready(Err(ExchangeError::Invalid(detail)));
                    }
                }
            }
            // The parser refuses a head before the inbox has grown to twice its limit.
            match ready!(channel.poll_fill(usize::MAX, was_sent, cx)) {
                Ok(1..) => self.state.has_answered = true,
                Ok(0) => return Poll::Ready(Err(self.closed("the connection ended".to_owned()))),
                Err(error) if is_own_shortage(&error) => {
                    return Poll::Ready(Err(ExchangeError::OwnShortage(error.to_string())));
                }
                Err(error) => return Poll::Ready(Err(self.broken(&error))),
            }
        }
    }

    /// The connection broke within a head, or before it.
    #[cold]
    fn broken(&mut self, error: &io::Error) -> ExchangeError {
        if let Some(fault) = StreamFault::of(error) {
            self.state.is_unprocessed = true;
            return ExchangeError::Stream(fault.clone());
        }
        let is_first = !self.is_reused && !self.state.has_answered;
        if is_first && TlsFault::of(error) == Some(TlsFault::ClientCertificate) {
            return ExchangeError::TlsRefused(error.to_string());
        }
        self.closed(error.to_string())
    }

    /// The end of the connection within a head, or before it.
    fn closed(&self, detail: String) -> ExchangeError {
        match foreign_protocol(self.channel.inbox.data()) {
            Some(foreign) => ExchangeError::Invalid(foreign),
            None => ExchangeError::Closed(detail),
        }
    }

    fn accept_head(&mut self, head: Head) -> Result<ResponseHead, ExchangeError> {
        let invalid = |detail: String| Err(ExchangeError::Invalid(detail));
        if matches!(head.status(), 100 | 102..=199) {
            self.state.interim += 1;
            self.state.interim_bytes += u32::try_from(head.len()).unwrap_or(MAX_INTERIM_BYTES + 1);
            if self.state.interim > MAX_INTERIM || self.state.interim_bytes > MAX_INTERIM_BYTES {
                return invalid(format!(
                    "more than {MAX_INTERIM} interim responses, or more than {MAX_INTERIM_BYTES} bytes of them"
                ));
            }
            self.state.incoming = Incoming::Head(head);
            return Ok(ResponseHead::Interim);
        }
        let framed = match response_framing(&head, self.state.is_head) {
            Ok(framed) => framed,
            Err(refusal) => return invalid(refusal.detail),
        };
        self.state.is_single |= framed.is_odd || head.wants_close() || head.minor() == 0;
        self.state.is_bodiless = self.state.is_head || matches!(head.status(), 204 | 304);
        self.state.body = BodyDecoder::behind(&head, framed.framing);
        // A framing error that has come with the head is found while the response can still be replaced.
        let inbox = &mut self.channel.inbox;
        if framed.framing == Framing::Chunked && !inbox.is_empty() {
            let checked = self.state.body.decode(inbox).and_then(|piece| {
                let Piece::Data(n) = piece else { return Ok(()) };
                self.state.direct = n;
                if inbox.len() > n { self.state.body.check(inbox) } else { Ok(()) }
            });
            if let Err(refusal) = checked {
                return invalid(refusal.detail);
            }
        }
        self.state.incoming = Incoming::Head(head);
        Ok(ResponseHead::Final(framed.framing))
    }

    /// Moves the request. Ready: it was written to its last byte, or the instance takes no more.
    ///
    /// # Errors
    /// The app's body broke.
    pub(crate) fn poll_upload(
        &mut self,
        app: &mut Channel,
        upload: &mut Upload,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), BrokenUpload>> {
        if self.is_upload_done() {
            return Poll::Ready(Ok(()));
        }
        let polled = self.move_upload(app, upload, cx);
        // A body that the first call sends whole has no time of its own: it counts as sent when its last byte came from the app.
        let (written, noted) = (self.written(), self.state.noted);
        if written != noted && (noted > 0 || polled.is_pending()) && upload.exists() {
            self.state.noted = written;
            self.state.sent_at = Some(Instant::now());
        }
        polled
    }

    fn move_upload(
        &mut self,
        app: &mut Channel,
        upload: &mut Upload,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), BrokenUpload>> {
        let channel = &mut self.channel;
        let mut turn = Turn::default();
        self.state.is_blocked = true;
        let failed = loop {
            if turn.poll_more(cx).is_pending() {
                self.state.is_blocked = false;
                return Poll::Pending;
            }
            let data = turn.part(upload.available(self.state.position, app));
            if !data.is_empty() {
                let data = self.state.to_instance.begin(data, channel);
                let polled = channel.poll_take(data, cx);
                if polled.is_pending() {
                    app.read_less();
                }
                let taken = match ready!(polled) {
                    Ok(taken) => taken,
                    Err(error) => break error,
                };
                self.state.to_instance.took(taken, channel);
                self.state.has_body_begun = true;
                upload.take(&mut self.state.position, taken, app);
                turn.moved(taken);
                continue;
            }
            let is_held = upload.held_since().is_some();
            if !is_held && upload.is_ended() {
                self.state.to_instance.end(upload.trailers(), channel);
                match ready!(channel.poll_flush(cx)) {
                    Ok(()) => {
                        (self.state.is_sent, self.state.is_blocked) = (true, false);
                        return Poll::Ready(Ok(()));
                    }
                    Err(error) => break error,
                }
            }
            if !is_held && upload.decode(app)? {
                continue;
            }
            if let Err(error) = ready!(channel.poll_flush(cx)) {
                break error;
            }
            self.state.is_blocked = false;
            if is_held {
                return Poll::Pending;
            }
            ready!(upload.poll_read(app, cx))?;
            turn.read();
            self.state.is_blocked = true;
        };
        tracing::trace!(error = %failed, "the instance takes no more of the request");
        self.state.is_short = is_own_shortage(&failed);
        // An instance that answers early and closes makes the next write fail, and its response is in the receive queue.
        self.state.is_deaf = true;
        channel.outbox.advance(usize::MAX);
        Poll::Ready(Ok(()))
    }

    /// Frames the response body for the app.
    pub(crate) fn begin_download(&mut self, framing: Framing, now: Instant) {
        self.state.to_app = BodyFramer::new(framing);
        self.state.last_received = now;
    }

    /// Whether the app keeps the response body waiting: some of it is here and not taken.
    pub(crate) fn is_download_blocked(&self) -> bool {
        self.state.direct > 0
    }

    /// Moves the response body to the app. Ready: all of it was written.
    ///
    /// # Errors
    /// The instance cut it, or the app is gone.
    pub(crate) fn poll_download(
        &mut self,
        app: &mut Channel,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), DownloadError>> {
        let gone = |_: io::Error| DownloadError::AppGone;
        let cut = |detail: String| Poll::Ready(Err(DownloadError::Cut(detail)));
        let channel = &mut self.channel;
        let mut turn = Turn::default();
        loop {
            while self.state.direct > 0 {
                ready!(turn.poll_more(cx));
                let data = turn.part(&channel.inbox.data()[..self.state.direct]);
                let data = self.state.to_app.begin(data, app);
                let polled = app.poll_take(data, cx);
                if polled.is_pending() {
                    channel.read_less();
                }
                let taken = ready!(polled).map_err(gone)?;
                self.state.to_app.took(taken, app);
                self.state.body.consume(&mut channel.inbox, taken);
                self.state.direct -= taken;
                turn.moved(taken);
            }
            match self.state.body.decode(&mut channel.inbox) {
                Ok(Piece::Data(n)) => {
                    self.state.direct = n;
                    continue;
                }
                Ok(Piece::End) => {
                    self.state.to_app.end(self.state.body.trailers(), app);
                    return app.poll_flush(cx).map_err(gone);
                }
                Ok(Piece::NeedMore) => {}
                Err(refusal) => return cut(refusal.detail),
            }
            channel.release_inbox();
            ready!(app.poll_flush(cx)).map_err(gone)?;
            ready!(turn.poll_more(cx));
            turn.read();
            match ready!(channel.poll_fill(LARGE, true, cx)) {
                Ok(1..) => self.state.last_received = Instant::now(),
                // A close without an error is the end of a body that lasts until the close.
                Ok(0) => match self.state.body.close() {
                    Ok(()) => self.state.is_single = true,
                    Err(refusal) => return cut(refusal.detail),
                },
                Err(error) if is_own_shortage(&error) => {
                    return Poll::Ready(Err(DownloadError::OwnShortage(error.to_string())));
                }
                Err(error) => return cut(error.to_string()),
            }
        }
    }

    /// Ends a body that was cut with trailers that say so. False: it is in the middle of a chunk, or has no place for trailers.
    pub(crate) fn end_cut_body(&mut self, trailers: &[u8], app: &mut Channel) -> bool {
        let framer = &mut self.state.to_app;
        let can_end = framer.is_chunked && framer.chunk_left == 0 && !framer.is_end_queued;
        if can_end {
            framer.end(trailers, app);
        }
        can_end
    }

    /// The trailers of the response, as field lines.
    pub(crate) fn trailers(&self) -> &[u8] {
        self.state.body.trailers()
    }

    /// The position of the attempt in the kept part of the request body.
    pub(crate) fn position(&self) -> usize {
        self.state.position
    }

    /// Whether the connection can carry another request.
    pub(crate) fn settle(&mut self) -> bool {
        self.is_reused = true;
        self.channel.release_inbox();
        self.open.is_some()
            && self.state.is_sent
            && !self.state.is_deaf
            && !self.state.is_single
            && self.state.body.is_end()
            && self.channel.inbox.is_empty()
            && !self.channel.is_ended
    }

    /// The connection's channel, for a tunnel.
    pub(crate) fn channel(&mut self) -> &mut Channel {
        &mut self.channel
    }
}

#[cfg(test)]
mod tests;
