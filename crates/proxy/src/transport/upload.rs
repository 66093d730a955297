//! The request body: read from the app once, and sent by each attempt from its start. Each attempt has its own position in what
//! is kept.
//!
//! Up to a limit (`retry.max_body`, 64 KiB by default), what was read is kept, so that another attempt can send it again. Beyond
//! the limit, or beyond [`MAX_KEPT`] bytes in the whole process, the body streams on and cannot be sent again. A body of which no byte was read needs
//! nothing kept.

use std::{
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
    task::{Context, Poll, ready},
};

use outrigger_http1::{BodyDecoder, Framing, Head, Piece};
use tokio::time::Instant;

use crate::transport::channel::{Channel, LARGE, give_outgoing, take_outgoing};

/// Most bytes that are kept for another attempt, in the whole process.
const MAX_KEPT: usize = 16 * 1024 * 1024;

/// Longest body that takes no buffer of the pool.
const SHORT: usize = 4 * 1024;

static KEPT: AtomicUsize = AtomicUsize::new(0);

/// Why the app's body ended before its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum BrokenUpload {
    /// Its framing is invalid: the sentence of the codec.
    BadFraming(String),
    /// The app disconnected.
    Gone,
}

/// Whether the app waits for a `100 (Continue)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Expectation {
    /// No 100 was asked for.
    None,
    /// The body is not read yet, since that time.
    Held(Instant),
    /// The body is read; no 100 has gone to the app.
    Released,
    /// A 100 has gone to the app.
    Continued,
}

/// The body of one request.
#[derive(Debug)]
pub(crate) struct Upload {
    framing: Framing,
    decoder: BodyDecoder,
    kept: Vec<u8>,
    limit: usize,
    /// Not everything that was read is kept.
    is_lossy: bool,
    /// Bytes of data at the front of the app's inbox that are not kept.
    direct: usize,
    has_begun: bool,
    broken: Option<BrokenUpload>,
    expectation: Expectation,
    /// When its last byte was read.
    last_byte: Instant,
}

impl Upload {
    /// The body behind `head`, of this framing. `expects_continue`: it is not read before [`Upload::release`], or before its
    /// first byte.
    pub(crate) fn new(head: &Head, framing: Framing, expects_continue: bool, now: Instant) -> Self {
        let expectation = match (expects_continue, framing) {
            (false, _) => Expectation::None,
            // Nothing is held back, and the instance is asked all the same.
            (true, Framing::None) => Expectation::Released,
            (true, _) => Expectation::Held(now),
        };
        Self {
            framing,
            decoder: BodyDecoder::behind(head, framing),
            kept: Vec::new(),
            limit: 0,
            is_lossy: false,
            direct: 0,
            has_begun: false,
            broken: None,
            expectation,
            last_byte: now,
        }
    }

    /// Keeps up to `limit` bytes for another attempt from here on.
    pub(crate) fn keep_up_to(&mut self, limit: usize) {
        self.limit = limit;
    }

    /// Whether there is a body.
    pub(crate) fn exists(&self) -> bool {
        self.framing != Framing::None
    }

    /// How the body ends.
    pub(crate) fn framing(&self) -> Framing {
        self.framing
    }

    /// How the body ends for an instance that takes no chunks: with its length, once all of it is kept.
    pub(crate) fn framing_with_length(&self) -> Framing {
        match self.framing {
            Framing::Chunked if self.is_ended() && !self.is_lossy => Framing::Length(self.kept.len() as u64),
            framing => framing,
        }
    }

    /// Whether its length is not known yet.
    pub(crate) fn lacks_length(&self) -> bool {
        self.framing == Framing::Chunked && (self.is_lossy || !self.is_ended())
    }

    /// Reads and keeps all of it. Ready with false: it is longer than what may be kept.
    ///
    /// # Errors
    /// The framing is invalid, or the app disconnected.
    pub(crate) fn poll_keep_all(
        &mut self,
        app: &mut Channel,
        cx: &mut Context<'_>,
    ) -> Poll<Result<bool, BrokenUpload>> {
        while !self.is_lossy && !self.is_ended() {
            if !self.decode(app)? {
                ready!(self.poll_read(app, cx))?;
            }
        }
        Poll::Ready(Ok(!self.is_lossy))
    }

    /// Whether all of it was read from the app.
    pub(crate) fn is_ended(&self) -> bool {
        self.decoder.is_end()
    }

    /// Whether another attempt could send all of it.
    pub(crate) fn is_replayable(&self) -> bool {
        !self.is_lossy && self.broken.is_none()
    }

    /// The body, or an empty one where there is none. `None`: it was not kept as a whole, or is not read to its end.
    pub(crate) fn whole_body(&self) -> Option<&[u8]> {
        (self.is_ended() && self.is_replayable() && self.direct == 0).then_some(self.kept.as_slice())
    }

    /// Whether all of it can be kept, whatever is still to come.
    pub(crate) fn fits(&self, limit: usize) -> bool {
        match self.framing {
            Framing::None => true,
            Framing::Length(length) => self.is_replayable() && length <= limit as u64,
            _ => self.is_replayable() && self.decoder.is_end(),
        }
    }

    /// Why it broke, if it did.
    pub(crate) fn broken(&self) -> Option<&BrokenUpload> {
        self.broken.as_ref()
    }

    /// When its last byte was read from the app; the time of the head when there was none.
    pub(crate) fn last_byte(&self) -> Instant {
        self.last_byte
    }

    /// Notes that bytes of the body were read from the app into its inbox, by another reader than [`Upload::poll_read`].
    pub(crate) fn note_arrival(&mut self, now: Instant) {
        self.last_byte = now;
    }

    /// Since when the body is not read because the app waits for a 100.
    pub(crate) fn held_since(&self) -> Option<Instant> {
        match self.expectation {
            Expectation::Held(since) => Some(since),
            _ => None,
        }
    }

    /// Whether the next attempt asks the instance for a 100.
    pub(crate) fn expects_continue(&self) -> bool {
        self.expectation != Expectation::None && !self.has_begun
    }

    /// The time from which the app's wait for a 100 is counted.
    pub(crate) fn restart_hold(&mut self, now: Instant) {
        if let Expectation::Held(since) = &mut self.expectation {
            *since = now;
        }
    }

    /// Reads the body from here on. `continues`: a 100 is sent to the app now. True: the caller must send it.
    pub(crate) fn release(&mut self, continues: bool, now: Instant) -> bool {
        if self.held_since().is_some() {
            self.last_byte = now;
        }
        let sends = continues && !matches!(self.expectation, Expectation::None | Expectation::Continued);
        self.expectation = match self.expectation {
            Expectation::None => Expectation::None,
            _ if sends => Expectation::Continued,
            Expectation::Continued => Expectation::Continued,
            _ => Expectation::Released,
        };
        sends
    }

    /// The bytes that an attempt at `position` can send now.
    pub(crate) fn available<'a>(&'a self, position: usize, app: &'a Channel) -> &'a [u8] {
        match self.kept.get(position..) {
            Some(kept) if !kept.is_empty() => kept,
            _ => &app.inbox.data()[..self.direct],
        }
    }

    /// The attempt at `position` has taken `n` of these bytes.
    pub(crate) fn take(&mut self, position: &mut usize, n: usize, app: &mut Channel) {
        if *position < self.kept.len() {
            *position += n;
            if self.is_lossy && *position >= self.kept.len() {
                self.forget();
            }
        } else {
            self.decoder.consume(&mut app.inbox, n);
            self.direct -= n.min(self.direct);
            app.release_inbox();
        }
    }

    /// Decodes what the app's inbox holds. True: something is available, or the body has ended.
    ///
    /// # Errors
    /// The framing is invalid.
    pub(crate) fn decode(&mut self, app: &mut Channel) -> Result<bool, BrokenUpload> {
        if self.direct > 0 || self.decoder.is_end() {
            return Ok(true);
        }
        let piece = self.decoder.decode(&mut app.inbox).map_err(|refusal| {
            let broken = BrokenUpload::BadFraming(refusal.detail);
            self.broken = Some(broken.clone());
            broken
        })?;
        if let Piece::Data(n) = piece {
            self.has_begun = true;
            if self.keep(&app.inbox.data()[..n]) {
                self.decoder.consume(&mut app.inbox, n);
            } else {
                self.direct = n;
            }
        }
        app.release_inbox();
        Ok(piece != Piece::NeedMore)
    }

    /// Reads more from the app. Ready: [`Upload::decode`] may give something.
    ///
    /// # Errors
    /// The app disconnected.
    pub(crate) fn poll_read(
        &mut self,
        app: &mut Channel,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), BrokenUpload>> {
        match ready!(app.poll_fill(LARGE, true, cx)) {
            Ok(1..) => {
                self.last_byte = Instant::now();
                Poll::Ready(Ok(()))
            }
            Ok(0) | Err(_) => {
                self.broken = Some(BrokenUpload::Gone);
                Poll::Ready(Err(BrokenUpload::Gone))
            }
        }
    }

    /// Reads and forgets the body. Ready: it has ended, or breaks.
    pub(crate) fn poll_discard(&mut self, app: &mut Channel, cx: &mut Context<'_>) -> Poll<()> {
        self.is_lossy = true;
        while !self.is_ended() {
            match self.decode(app) {
                Ok(true) => self.decoder.consume(&mut app.inbox, std::mem::take(&mut self.direct)),
                Ok(false) if ready!(self.poll_read(app, cx)).is_ok() => {}
                Ok(false) | Err(_) => break,
            }
        }
        app.release_inbox();
        Poll::Ready(())
    }

    /// The trailer fields that may be passed on, as lines; complete at the body's end.
    pub(crate) fn trailers(&self) -> &[u8] {
        self.decoder.trailers()
    }

    /// No other attempt follows, and the current one has sent everything before `position`: what was kept is freed when
    /// nothing of it is still to be sent.
    pub(crate) fn keep_no_more(&mut self, position: usize) {
        self.is_lossy |= !self.kept.is_empty();
        self.limit = 0;
        if position >= self.kept.len() {
            self.forget();
        }
    }

    fn keep(&mut self, data: &[u8]) -> bool {
        if self.is_lossy {
            return false;
        }
        let fits = self.kept.len() + data.len() <= self.limit;
        if fits && KEPT.fetch_add(data.len(), Relaxed) + data.len() <= MAX_KEPT {
            if self.kept.capacity() == 0 {
                // A short body waits for its response in a buffer of its own size.
                let length = match self.framing {
                    Framing::Length(length) => usize::try_from(length).unwrap_or(usize::MAX).min(self.limit),
                    _ => data.len(),
                };
                self.kept = if length > SHORT { take_outgoing() } else { Vec::new() };
                self.kept.reserve_exact(length);
            }
            self.kept.extend_from_slice(data);
            return true;
        }
        if fits {
            KEPT.fetch_sub(data.len(), Relaxed);
        }
        self.is_lossy = true;
        false
    }

    fn forget(&mut self) {
        if self.kept.capacity() > 0 {
            KEPT.fetch_sub(self.kept.len(), Relaxed);
            self.kept.clear();
            give_outgoing(std::mem::take(&mut self.kept));
        }
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        self.forget();
    }
}

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, time::Duration};

    use tokio::{
        io::AsyncWriteExt,
        net::{TcpListener, TcpStream},
    };

    use outrigger_http1::{HeadKind, HeadLimits, HeadParser, Inbox};

    use super::*;

    #[expect(clippy::disallowed_methods, reason = "the test writes as the app, not as the proxy")]
    async fn channel_with(bytes: &[u8]) -> (Channel, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (app, accepted) =
            tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
        let mut app = app.unwrap();
        app.write_all(bytes).await.unwrap();
        let mut channel = Channel::new(accepted.unwrap().0.into());
        assert_eq!(poll_fn(|cx| channel.poll_fill(LARGE, true, cx)).await.unwrap(), bytes.len());
        (channel, app)
    }

    fn head() -> Head {
        let limits = HeadLimits { bytes: 1000, fields: 10, target: 100 };
        let mut inbox = Inbox::from(&b"POST / HTTP/1.1\r\nHost: o\r\n\r\n"[..]);
        HeadParser::new(HeadKind::Request, limits, Vec::new()).parse(&mut inbox, Vec::new).unwrap().unwrap()
    }

    /// An attempt that failed between the offer and the write leaves such bytes. On a thread of its own, because a poll that does
    /// not return is beyond a time-out of the same thread.
    #[test]
    fn bytes_that_an_attempt_was_offered_and_did_not_take_are_discarded_too() {
        let (done, is_done) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                for (framing, body) in [
                    (Framing::Length(10), &b"0123456789"[..]),
                    (Framing::Chunked, b"4\r\n0123\r\n2\r\n45\r\n0\r\n\r\n"),
                ] {
                    let (mut channel, _app) = channel_with(body).await;
                    let mut upload = Upload::new(&head(), framing, false, Instant::now());
                    assert_eq!(upload.decode(&mut channel), Ok(true));
                    assert!(!upload.available(0, &channel).is_empty() && !upload.is_ended());
                    poll_fn(|cx| upload.poll_discard(&mut channel, cx)).await;
                    assert!(upload.is_ended() && channel.inbox.is_empty(), "{framing:?}");
                    done.send(()).unwrap();
                }
            });
        });
        for _ in 0..2 {
            is_done.recv_timeout(Duration::from_secs(20)).expect("the body is discarded");
        }
    }
}
