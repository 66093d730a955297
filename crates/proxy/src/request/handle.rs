//! A request's walk: read, route, admit, attempt, respond.
//!
//! [`handle`] is read downward. The service is found by [`route`](super::route), the attempts are made by
//! [`attempts`](super::attempts), and a refusal becomes a response in [`reject`](super::reject).
//!
//! The response's way to the app is its head, then its body, or a tunnel; the upload goes on beside it until the response ends.
//! The breaker's permit is recorded once: at the head when the head is a failure, when the request is the breaker's probe, or
//! when no body follows; else at the end of the body.

use std::{
    future::poll_fn,
    pin::pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use outrigger_http1::{Edits, Framing, Head, Name, writer::write_head};
use outrigger_net::LazyTimer;
use outrigger_policy::{Deadline, Outcome, Verdict, circuit_breaker::Permit, deadline::add_saturating};
use tokio::time::{Instant, timeout_at};

use crate::{
    context::{ConnectionInfo, DownstreamSettings},
    host::ServiceName,
    metrics::labels::Tolerated,
    reason::{Reason, Refusal},
    request::{
        admission::refuse_open,
        app::{AfterRequest, Downstream, RequestAccount},
        attempt::EndedAttempt,
        attempts::{AttemptsEnd, make_attempts},
        call::{Call, Response},
        explain::own_deadline,
        fields::{ClientDeadline, RequestFacts, has_passed, keep_upgrade},
        grpc,
        mirror::send_copy,
        route::{self, Destination},
        rules::RoutedService,
        upgrade::carry_upgraded,
    },
    transport::{
        channel::{Channel, give_head},
        exchange::Exchange,
        exchange_end::DownloadError,
        upload::{BrokenUpload, Upload},
    },
    upstream::{cluster::Cluster, lease::Lease},
};

/// Carries one request.
#[expect(clippy::manual_async_fn, reason = "an async fn holds its arguments twice")]
pub(crate) fn handle(
    info: &ConnectionInfo,
    settings: &DownstreamSettings,
    channel: &mut Channel,
    timer: &mut LazyTimer,
    mut head: Head,
) -> impl Future<Output = AfterRequest> + Send {
    async move {
        let accepted = Instant::now();
        // Dropped behind the account, which counts in the cells of the service.
        let mut service = None;
        let mut account = RequestAccount::new(info.worker.cells(), settings.access_log, accepted, &head);
        let mut facts = RequestFacts::new(settings.guards_browsers);
        // Boxed: each request would carry the room.
        let read = facts.read(&mut head).map_err(Box::new);
        let (framing, expects) = match &read {
            Ok(()) => (facts.framing, facts.changes.expects_continue),
            // Where the body ends is not known: nothing behind the head is read, and the connection ends.
            Err(_) => (Framing::None, false),
        };
        let upload = Upload::new(&head, framing, expects, accepted);
        let mut app = Downstream::new(info, settings, channel, timer, &head, upload, accepted);
        app.is_grpc = facts.is_grpc && info.is_http2;
        let after = match read {
            Err(refusal) if refusal.is_connect() => app.connect(&head, &mut account, &mut service).await,
            Err(refusal) => app.refuse(&refusal, &mut account).await,
            Ok(()) if facts.ends_here => app.end_forwarding(&mut account).await,
            Ok(()) => match app.carry(&mut head, &mut facts, &mut account, &mut service).await {
                Ok(after) => after,
                Err(refusal) => app.refuse(&refusal, &mut account).await,
            },
        };
        give_head(head);
        account.complete();
        after
    }
}

impl Downstream<'_> {
    /// Routes and admits the request, makes its attempts, and answers.
    #[expect(clippy::manual_async_fn, reason = "an async fn holds its arguments twice")]
    fn carry<'s>(
        &mut self,
        head: &mut Head,
        facts: &mut RequestFacts,
        account: &mut RequestAccount<'s>,
        service: &'s mut Option<RoutedService>,
    ) -> impl Future<Output = Result<AfterRequest, Refusal>> + Send {
        async move {
            let Some(cluster) = self.find_cluster(head, facts, &account.started).await? else {
                return Ok(AfterRequest::Close);
            };
            cluster.mark_used(self.now);
            let settings = cluster.view.load().settings.clone();
            let routed = service.insert(RoutedService { cluster, settings, applied: None });
            if routed.settings.traffic.is_some()
                && let Some(chosen) = routed.choose(head, facts, self.info.clusters())
            {
                if !chosen.is_elsewhere() {
                    routed.apply(None, chosen, head, facts, self.info.clusters())?;
                // Boxed: most requests go nowhere else, and each would carry the room.
                } else if !Box::pin(self.apply_elsewhere(routed, chosen, head, facts, account.started))
                    .await?
                {
                    return Ok(AfterRequest::Close);
                }
            }
            let routed = &*routed;
            let RoutedService { cluster, settings, .. } = routed;
            account.set_service(settings.cells(self.info.worker.index), &cluster.label);
            route::check_protocol(self.settings, &cluster.key)?;
            let subset = routed.subset();
            if let Some(subset) = subset.filter(|subset| !subset.name().is_empty()) {
                account.set_subset(subset);
            }
            if head.has_controls() {
                settings.cells(self.info.worker.index).record_tolerated(Tolerated::RequestControls);
            }
            let policy = &settings.policy;
            let permit = cluster
                .admit(subset, policy.circuit_breaker.as_ref(), self.now)
                .map_err(move |open| refuse_open(cluster, subset, policy, open.retry_after))?;
            let limit = policy.deadline.map(|limit| add_saturating(account.started.into_std(), limit));
            let cap = client_ends(&facts.deadline, account.started);
            let deadline =
                Deadline::new(account.started.into_std(), policy.timeout).capped(cap).capped(limit);
            if let Some(bulkhead) = &settings.bulkhead {
                match self.find_slot(bulkhead, cluster, deadline).await? {
                    Some(slot) => account.slot = Some(slot),
                    None => return Ok(AfterRequest::Close),
                }
            }
            cluster.budget.deposit(&policy.retry.budget, self.now.into_std());
            self.upload.keep_up_to(policy.retry.max_body);
            let outbound = &self.settings.outbound;
            if outbound.x_forwarded {
                facts.changes.add_forwarded(head, self.info.peer.ip());
            }
            if outbound.via {
                facts.changes.add_via(head, self.info.is_http2);
            }
            if outbound.loop_guard {
                facts.changes.add_loop_id(&self.info.worker.context.loop_id);
            }
            let mut call = Call {
                cluster,
                settings,
                rules: routed.rules(),
                worker: self.info.worker.index,
                traits: Call::traits_of(head, &facts.changes, facts.is_grpc, policy),
                head,
                changes: &facts.changes,
                client_deadline: &facts.deadline,
                deadline,
                is_grpc: facts.is_grpc,
                is_probe: permit.is_probe(),
                response_limits: &self.settings.response_heads,
            };
            let response = match make_attempts(&call, self, account).await {
                AttemptsEnd::Answered(attempt, response) => {
                    self.send_copy(routed, &call);
                    match self.begin_response(&mut call, attempt, response, permit, account) {
                        Some(response) => response,
                        None => return Ok(AfterRequest::Close),
                    }
                }
                AttemptsEnd::Gone { verdict } => {
                    call.cluster.end_permit(|| call.subset(), permit, verdict, Instant::now());
                    return Ok(AfterRequest::Close);
                }
                AttemptsEnd::Refused { refusal, verdict } => {
                    self.send_copy(routed, &call);
                    let now = *account.answered_at.get_or_insert_with(Instant::now);
                    call.cluster.record_verdict(|| call.subset(), permit, verdict, now);
                    return Err(refusal);
                }
            };
            Ok(respond(&call, self, response, account).await)
        }
    }

    /// The service, within the app's own deadline. Waits only for the registry's first answer for it. `None`: the app is gone.
    #[expect(clippy::manual_async_fn, reason = "an async fn holds its arguments twice")]
    fn find_cluster(
        &mut self,
        head: &Head,
        facts: &mut RequestFacts,
        accepted: &Instant,
    ) -> impl Future<Output = Result<Option<Arc<Cluster>>, Refusal>> + Send {
        async move {
            check_loop(self.info, self.settings, head)?;
            match route::find(self.info, self.settings, head, facts)? {
                Destination::Cluster(cluster) => Ok(Some(cluster)),
                Destination::Service(name) => self.open_cluster(&name, &facts.deadline, accepted).await,
            }
        }
    }

    /// The cluster of a name, within the app's own deadline. Waits only for the registry's first answer for it. `None`: the app is
    /// gone.
    #[expect(clippy::manual_async_fn, reason = "an async fn holds its arguments twice")]
    pub(crate) fn open_cluster(
        &mut self,
        name: &ServiceName<'_>,
        deadline: &ClientDeadline,
        accepted: &Instant,
    ) -> impl Future<Output = Result<Option<Arc<Cluster>>, Refusal>> + Send {
        async move {
            let mut found = pin!(self.info.clusters().find_or_open(name));
            // The usual service is known, and nothing is waited for.
            let first = poll_fn(|cx| Poll::Ready(found.as_mut().poll(cx))).await;
            let found = match (first, client_ends(deadline, *accepted)) {
                (Poll::Ready(found), _) => Some(found),
                (Poll::Pending, None) => Box::pin(self.unless_gone(found)).await,
                (Poll::Pending, Some(cap)) => {
                    let limit = own_deadline(deadline.timeout.unwrap_or_default());
                    let found = Box::pin(self.unless_gone(timeout_at(cap.into(), found))).await;
                    found.map(|found| {
                        found.unwrap_or_else(|_| {
                            let detail =
                                format!("the registry has not answered for the service yet; {limit}");
                            Err(Refusal::new(Reason::DeadlineExceeded, detail))
                        })
                    })
                }
            };
            found.transpose()
        }
    }

    /// Sends a copy of the request to the mirror that its rules choose.
    #[inline]
    fn send_copy(&self, routed: &RoutedService, call: &Call<'_>) {
        if let Some(mirror) = routed.mirror() {
            send_copy(mirror, call, &self.upload, self.info.clusters());
        }
    }
}

/// Refuses a request that this sidecar has carried before.
#[inline]
pub(crate) fn check_loop(
    info: &ConnectionInfo,
    settings: &DownstreamSettings,
    head: &Head,
) -> Result<(), Refusal> {
    if settings.outbound.loop_guard && has_passed(head, &info.worker.context.loop_id) {
        let detail = "this sidecar has carried the request before: an instance on its way is a sidecar that \
                      sends it back; look for registrations with the address of a sidecar";
        return Err(Refusal::new(Reason::LoopDetected, detail));
    }
    Ok(())
}

/// When the app's own deadline passes.
fn client_ends(deadline: &ClientDeadline, accepted: Instant) -> Option<std::time::Instant> {
    deadline.timeout.map(|timeout| add_saturating(accepted.into_std(), timeout))
}

/// How the body ended.
#[derive(Debug, Clone, PartialEq, Eq)]
enum BodyEnd {
    /// Written to its last byte.
    Complete,
    /// The instance cut it.
    Cut,
    /// The instance was silent for too long.
    Silent,
    /// The sidecar lacked a resource.
    OwnShortage,
    /// The app is gone.
    AppGone,
    /// The app sent no more of the request's body, which the instance may be waiting for.
    AppSilent,
    /// The app left it unread for too long.
    Unread,
    /// The deadline passed.
    Late,
}

impl BodyEnd {
    /// For the message of a call of gRPC.
    fn describe(&self) -> &'static str {
        match self {
            Self::Complete => "the response is complete",
            Self::Cut => {
                "the instance ended the call before its status: its connection closed, or its stream was reset"
            }
            Self::Silent => "the instance sent nothing for the time of body_idle",
            Self::OwnShortage => "the sidecar lacks memory or buffers",
            Self::AppGone | Self::Unread => "the app has left the call",
            Self::AppSilent => "the app sent nothing for the time of body_idle",
            Self::Late => "the deadline passed within the response",
        }
    }
}

/// A response of which the head is queued for the app.
struct OpenResponse<'r> {
    // Dropped before the lease, which holds the endpoint's permit: the next request with a permit finds the connection closed.
    exchange: Box<Exchange>,
    lease: Lease,
    /// The breaker's; `None`: the verdict is recorded.
    permit: Option<Permit<'r>>,
    verdict: Verdict,
    /// How the app sees the end of the body.
    framing: Framing,
    /// The app's connection ends after the response.
    closes: bool,
    relay: Relay,
}

impl Downstream<'_> {
    /// Queues the head of a response. `permit`: the breaker's, of this request. `None`: there is no response.
    fn begin_response<'r>(
        &mut self,
        call: &mut Call<'_>,
        attempt: EndedAttempt,
        response: Response,
        permit: Permit<'r>,
        account: &mut RequestAccount<'_>,
    ) -> Option<OpenResponse<'r>> {
        let now = account.answered_at.unwrap_or_else(Instant::now);
        let Response { framing, outcome } = response;
        let mut exchange = attempt.exchange?;
        let mut head = exchange.take_response()?;
        account.record_answer(head.status(), None, now);
        let verdict =
            call.with_owner(attempt.lease.endpoint(), |owner, _| attempt.lease.verdict(owner, outcome, now));
        let has_body = !matches!(framing, Framing::None | Framing::Tunnel);
        // The head of a probe, or of a failure, is its verdict; any other request may still be cut.
        let mut permit = Some(permit);
        if (outcome.verdict() == Verdict::Failure || call.is_probe || !has_body)
            && let Some(permit) = permit.take()
        {
            call.cluster.record_verdict(|| call.subset(), permit, verdict, now);
        }
        // No other attempt follows, so the request's head is not needed again: an event stream or a tunnel would hold its buffer.
        give_head(std::mem::take(call.head));
        if let Some(form) = &call.changes.path_form {
            form.restore_prefix(&mut head, attempt.lease.endpoint().addr);
        }
        self.upload.keep_no_more(exchange.position());
        let is_early = !self.upload.is_ended();
        let framing = match framing {
            Framing::Chunked | Framing::UntilClose if self.is_http10() => Framing::UntilClose,
            Framing::UntilClose => Framing::Chunked,
            framing => framing,
        };
        let closes = framing != Framing::Tunnel && self.closes(is_early || framing == Framing::UntilClose);
        write_response(&mut head, self, framing, closes);
        give_head(head);
        if framing == Framing::UntilClose {
            // An end in order would complete the body. Whatever ends the task or the process before the body is over cuts it.
            self.channel.stream.reset_on_close();
        }
        exchange.begin_download(framing, now);
        let ends = call.deadline.cap().map(Instant::from_std);
        let relay = Relay::new(call.body_idle(), ends, self.channel.written, now);
        Some(OpenResponse { lease: attempt.lease, exchange, permit, verdict, framing, closes, relay })
    }
}

/// Passes a response on.
#[expect(clippy::manual_async_fn, reason = "an async fn holds its arguments twice")]
fn respond(
    call: &Call<'_>,
    app: &mut Downstream<'_>,
    mut response: OpenResponse<'_>,
    account: &mut RequestAccount<'_>,
) -> impl Future<Output = AfterRequest> + Send {
    async move {
        if response.framing == Framing::Tunnel {
            let OpenResponse { exchange, lease, relay, .. } = &mut response;
            // Boxed: few requests are upgraded, and each would carry the room.
            Box::pin(carry_upgraded(call, app, exchange, lease.endpoint(), relay.written_at)).await;
            return AfterRequest::Close;
        }
        let end = poll_fn(|cx| response.relay.poll(app, &mut response.exchange, cx)).await;
        response.end(&end, call, app, account)
    }
}

impl OpenResponse<'_> {
    /// Records how the body ended, and says what becomes of the app's connection.
    fn end(
        self,
        end: &BodyEnd,
        call: &Call<'_>,
        app: &mut Downstream<'_>,
        account: &mut RequestAccount<'_>,
    ) -> AfterRequest {
        let Self { mut lease, mut exchange, permit, verdict, framing, closes, relay } = self;
        let now = relay.ended_at(&exchange);
        account.ended_at = Some(now);
        let is_clean = *end == BodyEnd::Complete;
        account.reason = reason_of(end, &app.upload);
        let failed_call = is_clean
            .then(|| call.is_grpc.then(|| grpc::status_in(exchange.trailers())).flatten())
            .flatten()
            .and_then(Outcome::of_grpc);
        // An app that leaves in the middle of a body is no failure of the instance.
        if is_clean && !matches!(failed_call, Some(Outcome::Grpc(4 | 14)))
            || (matches!(end, BodyEnd::AppGone | BodyEnd::Unread)
                && app.channel.written > relay.written_first)
        {
            lease.record_body_end(now);
        }
        // UNAVAILABLE and DEADLINE_EXCEEDED behind a begun response count as its cut.
        let is_cut = account.reason == Some(Reason::UpstreamClosed)
            || matches!(failed_call, Some(Outcome::Grpc(4 | 14)));
        let verdict = failed_call.map_or(verdict, Outcome::verdict);
        let cut = is_cut.then(|| {
            let head_at = account.answered_at.unwrap_or(now);
            // Of a silent body, the silence is the news.
            let until = if *end == BodyEnd::Silent { exchange.last_received() } else { now };
            let flowed = until.saturating_duration_since(head_at);
            call.with_lease(&mut lease, |lease, owner, settings| {
                lease.record_body_cut(owner, settings, flowed, now)
            })
        });
        if let Some(permit) = permit {
            call.cluster.record_verdict(|| call.subset(), permit, cut.unwrap_or(verdict), now);
        }
        let is_unread = !app.upload.is_ended();
        if let (true, Some(reason)) = (app.is_grpc, account.reason)
            && !matches!(end, BodyEnd::AppGone | BodyEnd::Unread)
        {
            // A call of gRPC ends with a status, not with a reset.
            let mut trailers = Vec::new();
            grpc::write_status(reason, end.describe(), &mut trailers);
            if exchange.end_cut_body(&trailers, app.channel) {
                drop(exchange);
                drop(lease);
                return AfterRequest::Close;
            }
        }
        if is_clean && framing == Framing::UntilClose {
            app.channel.stream.end_on_close();
        }
        if is_clean && exchange.settle() {
            let max_idle = call.settings.policy.pool.max_idle;
            lease.endpoint().pool.check_in(call.worker, exchange, max_idle, now);
        } else {
            drop(exchange);
        }
        // The lease holds the endpoint's permit: dropped last, so that the next request with a permit finds the connection idle,
        // or closed.
        drop(lease);
        match end {
            BodyEnd::Complete if closes && is_unread => AfterRequest::Linger,
            BodyEnd::Complete if closes => AfterRequest::Close,
            BodyEnd::Complete => AfterRequest::KeepAlive,
            BodyEnd::Unread => AfterRequest::Reset,
            BodyEnd::AppGone => AfterRequest::Close,
            // Where the close ends the body, only a reset tells the app that the body is not complete.
            _ if framing == Framing::UntilClose => AfterRequest::Reset,
            _ if is_unread => AfterRequest::Linger,
            BodyEnd::Late => AfterRequest::Close,
            // What is queued shows the app that the response had begun.
            _ if !app.channel.outbox.is_empty() => AfterRequest::Linger,
            _ => AfterRequest::Close,
        }
    }
}

fn write_response(head: &mut Head, app: &mut Downstream<'_>, framing: Framing, closes: bool) {
    let upgrade = keep_upgrade(head);
    let line = app.connection_line(closes);
    let both;
    let add = if upgrade.is_empty() {
        line.as_bytes()
    } else if line.is_empty() {
        upgrade
    } else {
        both = [upgrade, line.as_bytes()].concat();
        &both
    };
    let edits = Edits { add, minor: Some(1), ..Edits::default() };
    // A response to HEAD announces no coding that its receiver does not know (RFC 9112 §6.1).
    let is_unknown = framing == Framing::None && app.is_http10() && head.has(Name::TransferEncoding);
    let framing = if is_unknown { Framing::UntilClose } else { framing };
    app.channel.queue(|outbox| write_head(head, &edits, framing, outbox));
}

/// What the account says of the end.
fn reason_of(end: &BodyEnd, upload: &Upload) -> Option<Reason> {
    match (end, upload.broken()) {
        (BodyEnd::Complete, _) => None,
        (BodyEnd::Cut | BodyEnd::Silent, Some(BrokenUpload::BadFraming(_))) => Some(Reason::BadBody),
        (BodyEnd::Cut | BodyEnd::Silent, Some(BrokenUpload::Gone))
        | (BodyEnd::AppGone | BodyEnd::Unread, _) => Some(Reason::ClientGone),
        (BodyEnd::Cut | BodyEnd::Silent, None) => Some(Reason::UpstreamClosed),
        (BodyEnd::OwnShortage, _) => Some(Reason::LocalResource),
        (BodyEnd::AppSilent, _) => Some(Reason::BodyTimeout),
        (BodyEnd::Late, _) => Some(Reason::DeadlineExceeded),
    }
}

/// Moves a body, within its bounds.
struct Relay {
    /// Longest silence of the instance.
    body_idle: Duration,
    /// The deadline: a response is of no use to the app after it.
    ends: Option<Instant>,
    /// Bytes that the app's side had accepted before the response, and when the bound was set.
    written_first: u64,
    written_before: u64,
    /// Since when no byte was accepted, as far as it was noticed.
    written_at: Instant,
    has_waited: bool,
}

impl Relay {
    fn new(body_idle: Duration, ends: Option<Instant>, written: u64, now: Instant) -> Self {
        let (written_first, written_before) = (written, written);
        Self { body_idle, ends, written_first, written_before, written_at: now, has_waited: false }
    }

    /// When the body ended: the time of the head, where all of it had come with the head.
    fn ended_at(&self, exchange: &Exchange) -> Instant {
        // Without a wait, `written_at` is the time of the head.
        if self.has_waited { Instant::now() } else { exchange.last_received().max(self.written_at) }
    }

    fn poll(
        &mut self,
        app: &mut Downstream<'_>,
        exchange: &mut Exchange,
        cx: &mut Context<'_>,
    ) -> Poll<BodyEnd> {
        if let Poll::Ready(Err(_)) = exchange.poll_upload(app.channel, &mut app.upload, cx) {
            return Poll::Ready(BodyEnd::Cut);
        }
        match exchange.poll_download(app.channel, cx) {
            Poll::Ready(Ok(())) => return Poll::Ready(BodyEnd::Complete),
            Poll::Ready(Err(DownloadError::AppGone)) => return Poll::Ready(BodyEnd::AppGone),
            Poll::Ready(Err(DownloadError::Cut(detail))) => {
                tracing::debug!(detail, "the instance cut its response");
                return Poll::Ready(BodyEnd::Cut);
            }
            Poll::Ready(Err(DownloadError::OwnShortage(detail))) => {
                tracing::warn!(detail, "a response was cut: this process lacks memory or buffers");
                return Poll::Ready(BodyEnd::OwnShortage);
            }
            Poll::Pending => self.has_waited = true,
        }
        loop {
            if app.poll_gone(cx).is_ready() {
                return Poll::Ready(BodyEnd::AppGone);
            }
            let is_blocked = !app.channel.outbox.is_empty() || exchange.is_download_blocked();
            if app.channel.written != self.written_before {
                (self.written_before, self.written_at) = (app.channel.written, Instant::now());
            }
            // While the request body is still being sent, the instance may be silent.
            let heard = exchange.last_received().max(exchange.last_upload(&app.upload));
            let bound =
                if is_blocked { self.written_at + app.settings.unread } else { heard + self.body_idle };
            let due = self.ends.map_or(bound, |ends| ends.min(bound));
            ready!(app.timer.poll_until(app.watch_until(due), cx));
            let now = Instant::now();
            if self.ends.is_some_and(|ends| ends <= now) {
                return Poll::Ready(BodyEnd::Late);
            }
            if bound <= now {
                // A body that moves slowly is not one that stands still.
                let asks = if is_blocked { app.channel.ask_kernel() } else { exchange.ask_kernel() };
                if asks {
                    return self.poll(app, exchange, cx);
                }
                let waits_for_app =
                    !app.upload.is_ended() && !exchange.is_upload_done() && !exchange.is_write_blocked();
                return Poll::Ready(match is_blocked {
                    true => BodyEnd::Unread,
                    false if waits_for_app => BodyEnd::AppSilent,
                    false => BodyEnd::Silent,
                });
            }
        }
    }
}
