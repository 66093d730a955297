//! The app's side of one request: its stream, its timer and its body; and the account of what the app got.
//!
//! The account runs from the head to the end of the request: the request is counted and logged once, however it ends.

use std::{
    future::poll_fn,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use outrigger_http1::{Framing, Head};
use outrigger_net::LazyTimer;
use outrigger_registry::InstanceId;
use tokio::time::Instant;
use tracing::info;

use crate::{
    context::{ConnectionInfo, DownstreamSettings},
    metrics::cells::{Block, ServiceCells, WorkerCells},
    reason::{Reason, Refusal},
    request::reject::{CLOSE_LINE, RejectionStyle, write_end_of_forwarding, write_rejection},
    transport::{
        channel::{Channel, SMALL},
        upload::Upload,
    },
    upstream::{bulkhead::Slot, subset::Subset},
};

/// What becomes of the app's connection after a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AfterRequest {
    /// The next head is read.
    KeepAlive,
    /// It is closed; everything for the app is written.
    Close,
    /// It is closed, and the app may still be sending (`downstream.rs` lingers).
    Linger,
    /// Only a reset shows the app that the response is not complete.
    Reset,
}

/// The longest body that is read only to keep a connection, and how long for.
const SHORT_BODY: u64 = 64 * 1024;
const SHORT_WAIT: Duration = Duration::from_millis(50);
/// How often an exchange looks for the end of a connection from which nothing more is read.
const WATCH_INTERVAL: Duration = Duration::from_secs(1);

/// The app's side of one request.
pub(crate) struct Downstream<'r> {
    pub(crate) info: &'r ConnectionInfo,
    pub(crate) settings: &'r DownstreamSettings,
    pub(crate) channel: &'r mut Channel,
    pub(crate) timer: &'r mut LazyTimer,
    pub(crate) upload: Upload,
    /// The time after the request's last wait, or that of its head: the one clock for what follows without a wait. A time from
    /// before a wait would take a connection for younger than it is, and count for a window that is over.
    pub(crate) now: Instant,
    /// The app wants the connection closed after the response.
    is_last: bool,
    /// The app speaks HTTP/1.0.
    is_http10: bool,
    /// The method is HEAD.
    is_head: bool,
    /// The app reads errors as those of gRPC.
    pub(crate) is_grpc: bool,
}

impl<'r> Downstream<'r> {
    /// The side of the request that `head` begins; `now`: when the head was accepted.
    pub(crate) fn new(
        info: &'r ConnectionInfo,
        settings: &'r DownstreamSettings,
        channel: &'r mut Channel,
        timer: &'r mut LazyTimer,
        head: &Head,
        upload: Upload,
        now: Instant,
    ) -> Self {
        Self {
            info,
            settings,
            channel,
            timer,
            upload,
            now,
            is_last: head.wants_close(),
            is_http10: head.minor() == 0,
            is_head: head.method() == b"HEAD",
            is_grpc: false,
        }
    }

    /// Waits for `future`, and for the end of the app's connection. `None`: the app is gone. Sets [`Downstream::now`].
    pub(crate) async fn unless_gone<F: Future>(&mut self, future: F) -> Option<F::Output> {
        // Boxed: few requests wait, and every request would carry the room.
        let mut future = Box::pin(future);
        let ended = poll_fn(|cx| {
            if let Poll::Ready(output) = future.as_mut().poll(cx) {
                return Poll::Ready(Some(Some(output)));
            }
            match self.poll_gone(cx) {
                Poll::Ready(()) => Poll::Ready(Some(None)),
                Poll::Pending if self.has_read_ahead() => Poll::Ready(None),
                Poll::Pending => Poll::Pending,
            }
        })
        .await;
        let output = match ended {
            Some(output) => output,
            None => {
                let mut closed = Box::pin(self.channel.stream.read_closed());
                poll_fn(|cx| match future.as_mut().poll(cx) {
                    Poll::Ready(output) => Poll::Ready(Some(output)),
                    Poll::Pending => closed.as_mut().poll(cx).map(|()| None),
                })
                .await
            }
        };
        self.now = Instant::now();
        output
    }

    /// Ready: the app has closed its side or broken the connection. Reads ahead up to the bound of the inbox; then the end of the
    /// connection is seen by each call, and wakes no task: [`Downstream::watch_until`].
    pub(crate) fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let before = self.channel.inbox.len();
        while !self.has_read_ahead() {
            match self.channel.poll_fill(SMALL, false, cx) {
                Poll::Ready(Ok(1..)) => {}
                Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(()),
                Poll::Pending => break,
            }
        }
        if self.channel.inbox.len() != before && !self.upload.is_ended() {
            // A part of a body that an exchange may be waiting for.
            self.upload.note_arrival(Instant::now());
            cx.waker().wake_by_ref();
        }
        let is_gone = self.has_read_ahead() && self.channel.stream.is_read_closed();
        if is_gone { Poll::Ready(()) } else { Poll::Pending }
    }

    /// Whether the inbox holds as much as may be read ahead: nothing more is read before some of it is used.
    fn has_read_ahead(&self) -> bool {
        self.channel.inbox.len() >= SMALL
    }

    /// When to call [`Downstream::poll_gone`] again, at `due` at the latest.
    pub(crate) fn watch_until(&self, due: Instant) -> Instant {
        if self.has_read_ahead() { due.min(Instant::now() + WATCH_INTERVAL) } else { due }
    }

    /// Answers with a refusal. A short body is read first, so that the app's connection can go on.
    pub(crate) async fn refuse(
        &mut self,
        refusal: &Refusal,
        account: &mut RequestAccount<'_>,
    ) -> AfterRequest {
        account.record_answer(refusal.reason.status(), Some(refusal.reason), Instant::now());
        let closes = refusal.reason.closes_connection() || !self.discard_short_body().await;
        let is_unread = !self.upload.is_ended();
        let closes = self.closes(closes);
        let style = RejectionStyle {
            attempts: account.attempts,
            is_head: self.is_head,
            is_grpc: self.is_grpc,
            connection_line: self.connection_line(closes),
        };
        self.channel.queue(|outbox| write_rejection(refusal, style, outbox));
        self.finish(closes, is_unread || refusal.reason.closes_connection()).await
    }

    /// Answers a TRACE or OPTIONS that may be forwarded no further.
    pub(crate) async fn end_forwarding(&mut self, account: &mut RequestAccount<'_>) -> AfterRequest {
        account.record_answer(200, None, Instant::now());
        let closes = !self.discard_short_body().await;
        let closes = self.closes(closes);
        let line = self.connection_line(closes);
        self.channel.queue(|outbox| write_end_of_forwarding(line, outbox));
        self.finish(closes, !self.upload.is_ended()).await
    }

    /// Whether the connection ends after the response. `must`: because of the response itself. Asked when the head is written, so
    /// that it says what a drain, a hand-over or a reload of that moment wants.
    pub(crate) fn closes(&self, must: bool) -> bool {
        must || self.is_last || self.info.listener.ends_connections()
    }

    /// The `Connection` field line that tells the app what becomes of its connection; empty where HTTP/1.1 keeps it without one.
    pub(crate) fn connection_line(&self, closes: bool) -> &'static str {
        match (closes, self.is_http10) {
            (true, _) => CLOSE_LINE,
            (false, true) => "Connection: keep-alive\r\n",
            (false, false) => "",
        }
    }

    /// Whether the app speaks HTTP/1.0: it knows neither chunks nor interim responses.
    pub(crate) fn is_http10(&self) -> bool {
        self.is_http10
    }

    /// Reads and forgets a short body. False: a part of it is not read.
    async fn discard_short_body(&mut self) -> bool {
        let is_short = match self.upload.framing() {
            Framing::None => return true,
            Framing::Length(length) => length <= SHORT_BODY,
            _ => false,
        };
        // A body that waits for a 100 is not asked for only to be thrown away.
        if is_short && self.upload.held_since().is_none() {
            let read = poll_fn(|cx| self.upload.poll_discard(self.channel, cx));
            // Late or broken, what is left is told by how far it got.
            let _ = tokio::time::timeout(SHORT_WAIT, read).await;
        }
        self.upload.is_ended()
    }

    /// Writes what is queued, and says what becomes of the connection.
    pub(crate) async fn finish(&mut self, closes: bool, lingers: bool) -> AfterRequest {
        if closes && lingers {
            // Written while lingering.
            return AfterRequest::Linger;
        }
        let due = Instant::now() + self.settings.unread;
        let flushed = poll_fn(|cx| {
            if let Poll::Ready(flushed) = self.channel.poll_flush(cx) {
                return Poll::Ready(flushed.is_ok());
            }
            self.timer.poll_until(due, cx).map(|()| false)
        });
        match flushed.await {
            false => AfterRequest::Reset,
            true if closes => AfterRequest::Close,
            true => AfterRequest::KeepAlive,
        }
    }
}

/// Counted and logged when dropped. Dropped before [`RequestAccount::complete`], it is of a request that a panic ended, or the stop
/// of the sidecar; completed without a status, of one that the app left.
#[derive(Debug)]
pub(crate) struct RequestAccount<'r> {
    worker_cells: &'r Block<WorkerCells>,
    /// When the head was accepted.
    pub(crate) started: Instant,
    /// When the response head was ready.
    pub(crate) answered_at: Option<Instant>,
    /// When the last byte of the response was passed on; `None`: when the account is dropped.
    pub(crate) ended_at: Option<Instant>,
    /// The status that the app got.
    pub(crate) status: Option<u16>,
    /// Why the sidecar answered itself, or why the response ended early.
    pub(crate) reason: Option<Reason>,
    /// Attempts that were begun.
    pub(crate) attempts: u32,
    /// The place in the service's bulkhead, held to the end.
    pub(crate) slot: Option<Slot>,
    /// The worker's cells of the service.
    service_cells: Option<&'r Block<ServiceCells>>,
    /// `None`: the request goes to no subset alone.
    subset: Option<&'r Subset>,
    log_entry: Option<Box<AccessLogEntry>>,
    is_complete: bool,
}

/// Fields that only the access log needs.
#[derive(Debug)]
struct AccessLogEntry {
    method: String,
    path: String,
    service: Option<Arc<str>>,
    subset: Option<Arc<str>>,
    instance: Option<InstanceId>,
    failover: Option<Arc<str>>,
}

impl AccessLogEntry {
    /// Not part of its callers, which most often have no entry.
    #[inline(never)]
    fn set_instance(&mut self, id: &InstanceId, failover: Option<Arc<str>>) {
        self.instance = Some(id.clone());
        self.failover = failover;
    }
}

impl<'r> RequestAccount<'r> {
    /// Begins an account. `is_logged`: the access log gets an entry of the request.
    pub(crate) fn new(
        worker_cells: &'r Block<WorkerCells>,
        is_logged: bool,
        started: Instant,
        head: &Head,
    ) -> Self {
        worker_cells.inc(&worker_cells.in_flight);
        let entry = is_logged.then(|| {
            let target = head.target();
            let end = target.iter().position(|byte| matches!(byte, b'?' | b'#')).unwrap_or(target.len());
            Box::new(AccessLogEntry {
                // Control characters are escaped, because logs are shown in terminals.
                method: head.method().escape_ascii().to_string(),
                path: target[..end].escape_ascii().to_string(),
                service: None,
                subset: None,
                instance: None,
                failover: None,
            })
        });
        Self {
            worker_cells,
            started,
            answered_at: None,
            ended_at: None,
            status: None,
            reason: None,
            attempts: 0,
            slot: None,
            service_cells: None,
            subset: None,
            log_entry: entry,
            is_complete: false,
        }
    }

    /// The request has ended by itself: its task was not ended before.
    pub(crate) fn complete(&mut self) {
        self.is_complete = true;
    }

    /// Begins to count the request for its service.
    pub(crate) fn set_service(&mut self, cells: &'r Block<ServiceCells>, label: &Arc<str>) {
        cells.inc(&cells.in_flight);
        self.service_cells = Some(cells);
        if let Some(entry) = &mut self.log_entry {
            entry.service = Some(label.clone());
        }
    }

    /// Begins to count the request for a subset of its service.
    pub(crate) fn set_subset(&mut self, subset: &'r Subset) {
        self.subset = Some(subset);
        if let Some(entry) = &mut self.log_entry {
            entry.subset = Some(subset.name().clone());
        }
    }

    /// Notes the instance of the attempt, for the access log.
    ///
    /// `failover`: the label of the cluster that it is of, where that is a failover target.
    #[inline]
    pub(crate) fn set_instance(&mut self, id: &InstanceId, failover: impl FnOnce() -> Option<Arc<str>>) {
        if let Some(entry) = &mut self.log_entry {
            entry.set_instance(id, failover());
        }
    }

    /// Records the response to the app, and when its head was ready.
    pub(crate) fn record_answer(&mut self, status: u16, reason: Option<Reason>, now: Instant) {
        self.answered_at.get_or_insert(now);
        self.status = Some(status);
        self.reason = reason;
    }

    fn log(&self, entry: &AccessLogEntry, status: u16, reason: Option<Reason>, now: Instant) {
        info!(
            target: "outrigger::access",
            method = %entry.method,
            path = %entry.path,
            service = entry.service.as_deref().unwrap_or("-"),
            subset = entry.subset.as_deref().unwrap_or("-"),
            instance = entry.instance.as_ref().map_or("-", |id| &id.id),
            failover = entry.failover.as_deref().unwrap_or("-"),
            node = entry.instance.as_ref().map_or("-", |id| &id.node),
            status,
            reason = reason.map_or("-", Reason::label),
            attempts = self.attempts,
            head_ms = self.answered_at.map_or(0.0, |at| to_millis(at - self.started)),
            total_ms = to_millis(now - self.started),
            "request"
        );
    }
}

/// For a line of the access log.
pub(crate) fn to_millis(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}

impl Drop for RequestAccount<'_> {
    fn drop(&mut self) {
        let now = self.ended_at.unwrap_or_else(Instant::now);
        if self.reason.is_none() {
            if std::thread::panicking() {
                self.reason = Some(Reason::Internal);
            } else if !self.is_complete {
                self.reason = Some(Reason::Drained);
            } else if self.status.is_none() {
                self.reason = Some(Reason::ClientGone);
            }
        }
        let status = self.status.or(self.reason.map(Reason::status)).unwrap_or_default();
        if let Some(cells) = self.service_cells {
            cells.record_answer(status);
            if let Some(reason) = self.reason {
                cells.record_error(reason);
            }
            cells.record_duration(now.saturating_duration_since(self.started));
            cells.dec(&cells.in_flight);
            if let Some(subset) = self.subset {
                subset.count_response(status);
            }
        } else if let Some(reason) = self.reason {
            self.worker_cells.record_refusal(reason);
        }
        if let Some(entry) = &self.log_entry {
            self.log(entry, status, self.reason, now);
        }
        self.worker_cells.dec(&self.worker_cells.in_flight);
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::*;
    use crate::metrics::Metrics;

    #[test]
    fn the_reason_of_a_request_without_one_tells_whether_the_app_the_stop_or_a_panic_ended_it() {
        let metrics = Metrics::new(0).unwrap();
        let series = metrics.service_series(Some("orders"));
        let account = || {
            let head = Head::default();
            let mut account = RequestAccount::new(metrics.workers.at(0), false, Instant::now(), &head);
            account.set_service(series.cells.at(0), &"orders".into());
            account
        };
        let reasons = [Reason::ClientGone, Reason::Drained, Reason::Internal];
        let counts = || reasons.map(|reason| series.errors(reason));
        account().complete();
        assert_eq!(counts(), [1, 0, 0]);
        let answered = || {
            let mut account = account();
            account.record_answer(200, None, Instant::now());
            account
        };
        answered().complete();
        assert_eq!(counts(), [1, 0, 0]);
        drop(account());
        drop(answered());
        assert_eq!(counts(), [1, 2, 0]);
        for has_begun in [false, true] {
            let unwound = catch_unwind(AssertUnwindSafe(|| {
                let mut account = account();
                if has_begun {
                    account.record_answer(200, None, Instant::now());
                }
                panic!("a fault of the sidecar");
            }));
            assert!(unwound.is_err());
            assert_eq!(counts(), [1, 2, 1 + u64::from(has_begun)]);
        }
        assert_eq!(metrics.workers.sum(|cells| &cells.in_flight), 0);
    }
}
