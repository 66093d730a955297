//! The life of one app connection.
//!
//! An idle connection is a socket, not a codec: it waits parked until its next first byte, gets a
//! codec, and gives it back after a second without a request. So an idle connection costs little, and
//! no codec's timer closes it: the app is the one that closes an idle connection, for an hour at
//! least. The time-out of a head starts at its first byte.

use std::{
    future::poll_fn,
    io,
    pin::{Pin, pin},
    sync::{Arc, atomic::Ordering::Relaxed},
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use prometheus::IntGauge;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    task::coop::unconstrained,
    time::{Instant, Sleep, sleep_until},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use crate::{
    attempt::describe,
    forward,
    io::{Line, LineIo},
    reason::{Reason, Refusal},
    respond,
    session::Session,
    upstream::pool::DEFAULT_FIELDS,
};

/// A codec without a request for one to two of these is taken away.
const TICK: Duration = Duration::from_secs(1);
/// After our close, this much or this long of what the app still sends is read and thrown away, so
/// that a reset does not destroy the answer on its way (RFC 9112 §9.6).
const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES: u64 = 256 * 1024;

/// Serves `session` until either side ends it.
pub(crate) async fn serve(session: Arc<Session>, drain: CancellationToken) {
    let _untangled = Untangle(&session);
    let mut first = Bytes::new();
    loop {
        if first.is_empty() && !parked(&session, &drain).await {
            return;
        }
        match with_codec(&session, std::mem::take(&mut first), &drain).await {
            Next::Park(rest) => first = rest,
            Next::Close => return,
            Next::Linger => return linger(&session.line).await,
            Next::Tunnel(rest) => return tunnel(&session, rest).await,
        }
    }
}

/// A tunnel that nobody takes holds the session, which holds the tunnel.
struct Untangle<'a>(&'a Session);

impl Drop for Untangle<'_> {
    fn drop(&mut self) {
        drop(self.0.take_tunnel());
    }
}

/// What follows a codec.
enum Next {
    /// Nothing was asked for a while. The bytes, if any, are the beginning of a head.
    Park(Bytes),
    Close,
    Linger,
    Tunnel(Bytes),
}

/// Waits for a first byte. False: the app closed, the hour is over, or we are stopping.
async fn parked(session: &Session, drain: &CancellationToken) -> bool {
    let _parked = Held::new(&session.shared.metrics.parked);
    let idle = session.listener.settings.load().outbound.limits.idle;
    tokio::select! {
        ready = session.line.readable() => ready.is_ok(),
        () = tokio::time::sleep(idle) => false,
        () = drain.cancelled() => false,
    }
}

/// Drives a codec until the connection ends or has nothing to do.
async fn with_codec(session: &Arc<Session>, first: Bytes, drain: &CancellationToken) -> Next {
    let _active = Held::new(&session.shared.metrics.active);
    let handler = session.clone();
    let service = hyper::service::service_fn(move |request| forward::handle(handler.clone(), request));
    let heads = session.listener.settings.load().heads;
    let mut builder = http1::Builder::new();
    builder.max_header_size(heads.bytes).max_buf_size(heads.bytes);
    if heads.fields != DEFAULT_FIELDS {
        builder.max_headers(heads.fields);
    }
    let mut watch = Watch::new(session, !first.is_empty());
    let io = TokioIo::new(LineIo::with_first(session.line.clone(), first));
    let mut codec = Box::new(builder.serve_connection(io, service));
    let mut drained = pin!(drain.cancelled());
    // Polled once, to be woken; after that a look at the flag is enough.
    let mut listening = false;
    let mut draining = false;
    let mut last = LastCall::default();
    let ended = poll_fn(|cx| {
        if !listening {
            listening = true;
            let _ = drained.as_mut().poll(cx);
        }
        if !draining && (drain.is_cancelled() || last.is_now(session)) {
            draining = true;
            Pin::new(&mut *codec).graceful_shutdown();
        }
        if let Poll::Ready(result) = Pin::new(&mut *codec).poll(cx) {
            return Poll::Ready(Ended::Done(result));
        }
        watch.poll(session, cx)
    })
    .await;
    let mut rest = codec.into_parts().read_buf;
    if rest.iter().all(|byte| matches!(byte, b'\r' | b'\n')) {
        // An empty line between requests is none (RFC 9112 §2.2).
        rest.clear();
    }
    after(session, ended, rest).await
}

/// On a connection whose listener is gone, the next request's answer says that it is the last. Not the
/// answer under way: its head is out, and a close that was not announced would meet the app's next
/// request.
#[derive(Default)]
struct LastCall {
    /// Requests begun when it was noticed.
    begun: Option<u64>,
}

impl LastCall {
    fn is_now(&mut self, session: &Session) -> bool {
        session.listener.is_retired()
            && session.served() > *self.begun.get_or_insert_with(|| session.served())
    }
}

/// How a codec's time ended.
enum Ended {
    /// By itself: the connection is over, or was upgraded.
    Done(hyper::Result<()>),
    /// Nothing was asked for a while.
    Idle,
    /// A head began and did not end.
    SlowHead,
    /// The app has left an answer unread for too long, or beyond its deadline.
    Unread,
}

async fn after(session: &Session, ended: Ended, rest: Bytes) -> Next {
    match ended {
        Ended::Idle => Next::Park(rest),
        Ended::SlowHead if rest.is_empty() => Next::Park(rest),
        Ended::Unread => {
            session.line.reset_on_close();
            Next::Close
        }
        Ended::SlowHead => {
            let limit = session.listener.settings.load().outbound.limits.head_timeout;
            session.shared.metrics.record_refusal(Reason::SlowHead);
            let refusal = Refusal::new(Reason::SlowHead, format!("the head did not end within {limit:?}"));
            say(&session.line, &refusal).await;
            Next::Linger
        }
        Ended::Done(result) => {
            if session.reset.load(Relaxed) {
                session.line.reset_on_close();
                return Next::Close;
            }
            let refused = result.as_ref().err().and_then(refused);
            if let Some(reason) = refused {
                session.shared.metrics.record_refusal(reason);
                if session.listener.settings.load().access_log {
                    let (peer, reason) = (session.peer, reason.label());
                    info!(target: "outrigger::access", %peer, reason, "request refused before it was one");
                }
            }
            if let Err(error) = &result {
                let reason = refused.map_or("connection", Reason::label);
                debug!(peer = %session.peer, reason, error = describe(error), "app connection ended");
            }
            if session.has_tunnel() {
                return Next::Tunnel(rest);
            }
            // Only where the app may still be sending does closing destroy what it has not read.
            let sending = session.unread_body.load(Relaxed) || refused.is_some();
            if sending && !session.line.ended() { Next::Linger } else { Next::Close }
        }
    }
}

/// The word for what hyper refused by itself, with a bare status.
fn refused(error: &hyper::Error) -> Option<Reason> {
    // Both are "too large" to the library; only its text tells a target from a head.
    if error.is_parse_too_large() && error.to_string().contains("URI") {
        Some(Reason::UriTooLong)
    } else if error.is_parse_too_large() {
        Some(Reason::HeadTooLarge)
    } else if error.is_parse() {
        Some(Reason::BadRequest)
    } else {
        None
    }
}

/// Watches over a codec's time with one coarse timer.
struct Watch {
    timer: Pin<Box<Sleep>>,
    polled: bool,
    tick: Duration,
    head_timeout: Duration,
    /// When the head that has begun was first seen.
    head_since: Option<Instant>,
    /// A head was half there when the codec began.
    resumed: bool,
    /// Bytes read, and requests begun, when the codec or the last request began.
    read: u64,
    served: u64,
    /// Requests begun at the last tick.
    ticked: u64,
    /// Since when a write waits, and bytes written by then.
    blocked: Option<(Instant, u64)>,
}

impl Watch {
    fn new(session: &Session, resumed: bool) -> Self {
        let head_timeout = session.listener.settings.load().outbound.limits.head_timeout;
        let tick = TICK.min(head_timeout);
        Self {
            timer: Box::pin(sleep_until(Instant::now() + tick)),
            polled: false,
            tick,
            head_timeout,
            head_since: None,
            resumed,
            read: session.line.read(),
            served: session.served(),
            ticked: session.served(),
            blocked: None,
        }
    }

    /// Called after each turn of the codec that left the connection open.
    fn poll(&mut self, session: &Session, cx: &mut Context<'_>) -> Poll<Ended> {
        let busy = session.busy();
        let served = session.served();
        if busy || served != self.served {
            self.served = served;
            self.head_since = None;
            self.resumed = false;
            self.read = session.line.read();
        } else if session.line.write_blocked() {
            // What is read while an answer waits to be read is not a head that we wait for.
            self.read = session.line.read();
        } else if self.head_since.is_none() && (self.resumed || session.line.read() > self.read) {
            // Bytes came, and no request yet: a head has begun.
            let now = Instant::now();
            self.head_since = Some(now);
            self.timer.as_mut().reset(now + self.head_timeout);
            self.polled = false;
        }
        loop {
            if self.polled && !self.timer.is_elapsed() {
                return Poll::Pending;
            }
            self.polled = true;
            // Without a budget: see `timer.rs`.
            std::task::ready!(pin!(unconstrained(self.timer.as_mut())).poll(cx));
            let now = Instant::now();
            if let Some(ended) = self.judge(session, busy, served, now) {
                return Poll::Ready(ended);
            }
            self.timer.as_mut().reset(now + self.tick);
            self.polled = false;
        }
    }

    fn judge(&mut self, session: &Session, busy: bool, served: u64, now: Instant) -> Option<Ended> {
        if session.line.write_blocked() {
            // A body that is not asked for cannot say so itself.
            if session.is_late(now) {
                return Some(Ended::Unread);
            }
            let written = session.line.written();
            let (since, before) = *self.blocked.get_or_insert((now, written));
            if before != written {
                self.blocked = Some((now, written));
            } else if now >= since + session.listener.settings.load().unread {
                return Some(Ended::Unread);
            }
            return None;
        }
        self.blocked = None;
        if let Some(since) = self.head_since {
            return (now >= since + self.head_timeout).then_some(Ended::SlowHead);
        }
        let quiet = !busy && served == self.ticked;
        self.ticked = served;
        // A body left unread is hyper's to drain or to close; nothing may be taken from it.
        (quiet && !session.unread_body.load(Relaxed)).then_some(Ended::Idle)
    }
}

/// Says why, on a connection without a codec.
async fn say(line: &Arc<Line>, refusal: &Refusal) {
    let raw = respond::refuse_raw(refusal);
    // An app that does not read it does not get it.
    let _ = tokio::time::timeout(LINGER, LineIo::new(line.clone()).write_all(&raw)).await;
}

/// Refuses a connection that is one too many.
pub(crate) async fn turn_away(line: Arc<Line>, most: usize) {
    let detail =
        format!("{most} app connections are open, the most that outbound.limits.max_connections allows");
    say(&line, &Refusal::new(Reason::TooManyConnections, detail)).await;
    linger(&line).await;
}

/// Ends our side, then reads and throws away what still comes.
async fn linger(line: &Arc<Line>) {
    let mut io = LineIo::new(line.clone());
    let drained = async {
        io.shutdown().await?;
        tokio::io::copy(&mut io.take(LINGER_BYTES), &mut tokio::io::sink()).await.map(|_| ())
    };
    let _: Result<io::Result<()>, _> = tokio::time::timeout(LINGER, drained).await;
}

/// The connection's last part as a tunnel.
async fn tunnel(session: &Session, rest: Bytes) {
    let Some(tunnel) = session.take_tunnel() else { return };
    let idle = session.listener.settings.load().outbound.limits.tunnel_idle;
    if let Err(error) = tunnel.run(session.line.clone(), rest, idle).await {
        debug!(peer = %session.peer, %error, "tunnel ended");
    }
}

/// Counts in a gauge for as long as it lives.
struct Held<'a>(&'a IntGauge);

impl<'a> Held<'a> {
    fn new(gauge: &'a IntGauge) -> Self {
        gauge.inc();
        Self(gauge)
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.dec();
    }
}
