//! One attempt: a permit and a connection, then the exchange up to the head of the response.
//!
//! The keep-alive race is settled inside: a reused connection that closes before any byte of a response is no failure of the
//! instance, once per request.

use std::{
    pin::Pin,
    sync::{Arc, OnceLock},
    task::{Context, Poll, ready},
    time::Duration,
};

use outrigger_config as config;
use outrigger_http1::Framing;
use outrigger_http2::StreamFault;
use outrigger_policy::{
    Outcome, Sent,
    outlier_detection::{FailureAttribution, stall::StallWait},
};
use tokio::time::Instant;

use crate::{
    reason::Reason,
    request::{
        call::{AttemptResult, Bound, Bounds, Call, Failed, Response, outcome_of},
        explain,
    },
    transport::{
        channel::Channel,
        exchange::Exchange,
        exchange_end::{ExchangeError, ResponseHead},
        pool::CheckoutError,
        upload::{BrokenUpload, Upload},
    },
    upstream::{
        endpoint::{CheckoutRequest, ConnectRequest, Endpoint, InFlight},
        lease::{Lease, LeaseEnd},
    },
};

/// A connection that was given less time than this, and `connect_timeout`, says nothing about the instance: the request was in
/// a hurry. (A handshake within a datacenter takes a hundredth of it; a lost first packet, five times as long.) A request
/// that was given to the instance later than this has spent its time elsewhere.
const HURRY: Duration = Duration::from_millis(200);
/// How long a response may be waited for before the instance is checked, and the time between two checks.
const STALL_CHECK_AFTER: Duration = Duration::from_secs(1);
const STALL_CHECK_INTERVAL: Duration = Duration::from_millis(250);
/// The interim response that asks for a body.
pub(crate) const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// What the attempts of a request share and change.
#[derive(Debug, Default)]
pub(crate) struct AttemptState {
    /// The endpoints of earlier attempts.
    pub(crate) tried: Vec<Arc<Endpoint>>,
    /// A keep-alive race was settled.
    pub(crate) has_raced: bool,
    /// Whether a failure of the request was attributed to an endpoint.
    pub(crate) blame: FailureAttribution,
}

/// One attempt at one endpoint.
pub(crate) struct Attempt<'r> {
    // Has the connection. Dropped before the lease, which holds the endpoint's permit: a request that waits for the permit
    // finds the connection closed.
    stage: Stage,
    pub(crate) lease: Lease,
    pub(crate) bounds: Bounds<'r>,
    /// When the instance was given the request; `None`: it was not.
    given_at: Option<Instant>,
    /// The wait for the instance, from when it was given the request or from its last interim response.
    wait: StallWait,
    /// When to check next whether the instance is stalled.
    check_stall_at: Instant,
}

enum Stage {
    /// Reads all of the body, because the instance takes no chunks.
    Buffering,
    /// Waits for a permit or a connection. Boxed, because the usual attempt takes an idle connection at once.
    Opening(Box<Opening>),
    Exchanging(Box<Exchange>),
    Ended,
}

/// What is left of an attempt that has ended.
pub(crate) struct EndedAttempt {
    /// The connection, if the request was given to one. Dropped before the lease, which holds the endpoint's permit.
    pub(crate) exchange: Option<Box<Exchange>>,
    pub(crate) lease: Lease,
    /// The part of the request that the system accepted.
    pub(crate) sent: Sent,
}

/// A permit and a connection, to come.
type Opened = Pin<Box<dyn Future<Output = Result<(InFlight, Box<Exchange>), CheckoutError>> + Send>>;

struct Opening {
    opened: Opened,
    due: Instant,
    bound: Bound,
    /// Since when a connection is being made.
    connecting: Arc<OnceLock<Instant>>,
    connect_within: Duration,
}

impl<'r> Attempt<'r> {
    /// Begins an attempt: with an idle connection if there is one, else it waits for a permit and a new connection.
    pub(crate) fn new(lease: Lease, bounds: Bounds<'r>, call: &Call<'r>, upload: &mut Upload) -> Self {
        let mut attempt = Self {
            wait: lease.endpoint().stall.begin_wait(),
            lease,
            bounds,
            stage: Stage::Ended,
            given_at: None,
            check_stall_at: bounds.begun + STALL_CHECK_AFTER,
        };
        if upload.lacks_length() && attempt.lease.endpoint().is_http10() {
            attempt.stage = Stage::Buffering;
        } else {
            attempt.begin(call, upload, bounds.begun);
        }
        attempt
    }

    /// Takes an idle connection, or waits for a permit and a new one.
    fn begin(&mut self, call: &Call<'r>, upload: &mut Upload, now: Instant) {
        let endpoint = self.lease.endpoint();
        let checkout = call.checkout(&self.bounds, endpoint, now);
        let permit = endpoint.try_acquire();
        let idle = permit.as_ref().and_then(|_| endpoint.take_idle(&checkout));
        match (permit, idle) {
            (Some(permit), Some(exchange)) => {
                self.begin_exchange(permit, exchange, call, upload, now);
            }
            (permit, _) => self.stage = self.open(permit, call, upload),
        }
    }

    /// A permit, where `permit` is none, and a connection.
    fn open(&self, permit: Option<InFlight>, call: &Call<'r>, upload: &Upload) -> Stage {
        let (due, bound) = self.bounds.opening(upload);
        let within = due.saturating_duration_since(self.bounds.begun);
        let most = call.settings.policy.connect_timeout;
        // Where another attempt can follow, it is left as much time.
        let connect_within = if self.bounds.retry.is_last() { most } else { most.min(within / 2) };
        let connecting = Arc::new(OnceLock::new());
        let opened = Box::pin({
            let (endpoint, settings) = (self.lease.endpoint().clone(), call.settings.clone());
            let cluster = call.with_owner(&endpoint, |owner, _| owner.clone());
            let (connecting, worker) = (connecting.clone(), call.worker);
            let is_repeatable = self.bounds.retry.accepts_race();
            let (is_http2, upgrades) = (call.speaks_http2(&endpoint), call.changes.upgrades);
            let head = call.response_limits.bytes;
            async move {
                let cells = settings.cells(worker);
                let permit = match permit {
                    Some(permit) => permit,
                    None => {
                        let permit = endpoint.acquire(&settings.policy).await?;
                        // The request that gave the permit back has given its connection back before.
                        let checkout = CheckoutRequest {
                            worker,
                            policy: &settings.policy,
                            cells,
                            is_repeatable,
                            is_http2,
                            now: Instant::now(),
                        };
                        if let Some(exchange) = endpoint.take_idle(&checkout) {
                            return Ok((permit, exchange));
                        }
                        permit
                    }
                };
                let _ = connecting.set(Instant::now());
                let reaches_another = || cluster.serves_besides(&endpoint);
                let request =
                    ConnectRequest { worker, cells, timeout: connect_within, head, is_http2, upgrades };
                let exchange = endpoint.connect(request, reaches_another).await?;
                Ok((permit, exchange))
            }
        });
        Stage::Opening(Box::new(Opening { opened, due, bound, connecting, connect_within }))
    }

    fn begin_exchange(
        &mut self,
        permit: InFlight,
        mut exchange: Box<Exchange>,
        call: &Call<'r>,
        upload: &mut Upload,
        now: Instant,
    ) {
        self.lease.in_flight = Some(permit);
        self.given_at = Some(now);
        self.wait = self.lease.endpoint().stall.begin_wait();
        self.check_stall_at = now + STALL_CHECK_AFTER;
        upload.restart_hold(now);
        let is_http10 = self.lease.endpoint().is_http10();
        let retries = self.bounds.retry.retries();
        call.begin(&mut exchange, upload, is_http10, retries, now);
        self.stage = Stage::Exchanging(exchange);
    }

    /// What is left of the attempt. `sent`: the part of the request that the system accepted.
    pub(crate) fn into_ended(self, sent: Sent) -> EndedAttempt {
        let exchange = match self.stage {
            Stage::Exchanging(exchange) => Some(exchange),
            Stage::Buffering | Stage::Opening(_) | Stage::Ended => None,
        };
        EndedAttempt { exchange, lease: self.lease, sent }
    }

    /// The part of the request that the system accepted.
    fn sent(&self) -> Sent {
        match &self.stage {
            Stage::Exchanging(exchange) => exchange.sent(),
            Stage::Buffering | Stage::Opening(_) | Stage::Ended => Sent::Nothing,
        }
    }

    /// What the lease records of this end.
    pub(crate) fn lease_end(&self, result: &AttemptResult) -> LeaseEnd {
        // The time-out of the request has run since then, also while it waited for a slot, a permit or the registry.
        let accepted = Instant::from_std(self.bounds.deadline.accepted());
        let has_body = |response: &Response| !matches!(response.framing, Framing::None | Framing::Tunnel);
        LeaseEnd {
            outcome: outcome_of(result),
            sent: match result {
                Ok(_) => self.sent().max(Sent::Head),
                Err(failed) => failed.sent,
            },
            given_at: self.given_at,
            has_body: result.as_ref().is_ok_and(has_body),
            is_late: result.is_err() && self.given_at.is_some_and(|at| at - accepted > HURRY),
        }
    }

    /// Moves the attempt. `interim`: interim responses are passed on to the app. `has_raced`: a keep-alive race of the request was
    /// settled before.
    pub(crate) fn poll(
        &mut self,
        call: &Call<'r>,
        app: &mut Channel,
        upload: &mut Upload,
        interim: bool,
        has_raced: &mut bool,
        cx: &mut Context<'_>,
    ) -> Poll<AttemptResult> {
        // An instance of HTTP/1.0 sends no 100: the app gets one from here.
        if upload.held_since().is_some()
            && self.lease.endpoint().is_http10()
            && upload.release(true, Instant::now())
        {
            app.queue(|outbox| outbox.push(CONTINUE));
        }
        loop {
            match &mut self.stage {
                Stage::Buffering => match ready!(upload.poll_keep_all(app, cx)) {
                    Ok(true) => self.begin(call, upload, Instant::now()),
                    Ok(false) => {
                        return Poll::Ready(Err(Failed::without_length(call)));
                    }
                    Err(broken) => {
                        let (outcome, detail) = upload_failure(&broken);
                        return Poll::Ready(Err(Failed::unsent(outcome, detail)));
                    }
                },
                Stage::Opening(opening) => match ready!(opening.opened.as_mut().poll(cx)) {
                    Ok((permit, exchange)) => {
                        let now = Instant::now();
                        if now >= opening.due {
                            // Nothing is sent at the last moment.
                            let failed = opening.expired(call, true);
                            return Poll::Ready(Err(failed));
                        }
                        self.begin_exchange(permit, exchange, call, upload, now);
                    }
                    Err(error) => {
                        let outcome = match error.outcome {
                            Outcome::ConnectTimeout => {
                                refused_within(opening.connect_within, &call.settings.policy)
                            }
                            outcome => outcome,
                        };
                        let detail = match error.outcome {
                            Outcome::ConnectTimeout => {
                                format!("{}; {}", error.detail, explain::connect_limit(call))
                            }
                            Outcome::Overloaded => {
                                format!("{}; {}", error.detail, explain::pool_limits(call))
                            }
                            _ => error.detail,
                        };
                        return Poll::Ready(Err(Failed::unsent(outcome, detail)));
                    }
                },
                Stage::Exchanging(exchange) => {
                    match ready!(exchange.poll_head(*call.response_limits, app, upload, cx)) {
                        Ok(ResponseHead::Interim) => {
                            note_version(&self.lease, exchange);
                            // The instance is at work: neither it nor the request is stalled.
                            let stall = &self.lease.endpoint().stall;
                            stall.record_response();
                            self.wait = stall.begin_wait();
                            self.check_stall_at = Instant::now() + STALL_CHECK_AFTER;
                            call.pass_interim(exchange, app, upload, interim);
                        }
                        Ok(ResponseHead::Final(framing)) => {
                            note_version(&self.lease, exchange);
                            let ended = call.judge_response(framing, exchange);
                            // A server that ends an idle connection says so with a 408 that no request asked for.
                            let is_close = exchange.response().is_some_and(|head| head.status() == 408);
                            if !(is_close && exchange.is_reused() && self.race(call, upload, has_raced)) {
                                return Poll::Ready(ended);
                            }
                        }
                        Err(error) => {
                            let failed = failure(&error, exchange, self.lease.endpoint());
                            let races = exchange.is_reused() && failed.outcome == Outcome::Closed;
                            if !(races && self.race(call, upload, has_raced)) {
                                return Poll::Ready(Err(failed));
                            }
                        }
                    }
                }
                Stage::Ended => return Poll::Ready(Err(Failed::unsent(Outcome::Closed, String::new()))),
            }
        }
    }

    /// Takes another connection, if the request may be sent once more after a keep-alive race.
    fn race(&mut self, call: &Call<'r>, upload: &mut Upload, has_raced: &mut bool) -> bool {
        let is_safe = self.sent() == Sent::Nothing || self.bounds.retry.is_repeatable_after_race();
        if *has_raced || !is_safe || !upload.is_replayable() {
            return false;
        }
        *has_raced = true;
        let cells = call.cells();
        cells.inc(&cells.raced);
        let permit = self.lease.in_flight.take();
        self.stage = self.open(permit, call, upload);
        true
    }

    /// The bound of a body that is read before it is sent.
    fn buffering(&self, upload: &Upload) -> (Instant, Bound) {
        self.bounds.moving(upload.last_byte().max(self.bounds.begun))
    }

    /// When [`Attempt::expire`] is to be called.
    pub(crate) fn due(&self, upload: &Upload) -> Instant {
        match &self.stage {
            Stage::Buffering => self.buffering(upload).0,
            Stage::Opening(opening) => opening.due,
            Stage::Exchanging(exchange) => self.bounds.next(upload, exchange).0.min(self.check_stall_at),
            Stage::Ended => self.check_stall_at,
        }
    }

    /// Ends the attempt when its time is over; checks whether the instance answers at all.
    pub(crate) fn expire(&mut self, call: &Call<'r>, upload: &Upload, now: Instant) -> Option<Failed> {
        let exchange = match &mut self.stage {
            Stage::Buffering => {
                let (at, bound) = self.buffering(upload);
                return (at <= now).then(|| expired(call, bound, false, Sent::Nothing));
            }
            Stage::Opening(opening) => return (opening.due <= now).then(|| opening.expired(call, false)),
            Stage::Exchanging(exchange) => exchange,
            Stage::Ended => return None,
        };
        let (at, bound) = self.bounds.next(upload, exchange);
        if at <= now {
            if bound == Bound::BodyIdle && exchange.ask_kernel() {
                return None;
            }
            return Some(expired(call, bound, exchange.is_write_blocked(), exchange.sent()));
        }
        if self.check_stall_at > now {
            return None;
        }
        if bound == Bound::BodyIdle {
            // While the app still sends, it is not the instance's turn.
            self.check_stall_at = now + STALL_CHECK_AFTER;
            return None;
        }
        self.check_stall_at = now + STALL_CHECK_INTERVAL;
        let endpoint = self.lease.endpoint();
        let given_at = self.given_at.unwrap_or(self.bounds.begun);
        let owner = call.with_owner(endpoint, |owner, _| owner);
        if owner.peak_latency.is_unusual(now - given_at) {
            endpoint.stall.record_tick(&mut self.wait, now.into_std());
        }
        // Only a request that can go elsewhere gives up; a POST waits for as long as it may.
        let is_lost = owner.ejector.check_stalled(endpoint, now)
            && self.bounds.retry.is_repeatable()
            && !self.bounds.retry.is_last();
        is_lost.then(|| {
            let detail = "no answer, and the instance accepts no connections any more".to_owned();
            Failed { outcome: closed(exchange), sent: exchange.sent(), detail, reason: None }
        })
    }
}

impl Opening {
    /// `connected`: a connection came at the last moment.
    fn expired(&self, call: &Call<'_>, connected: bool) -> Failed {
        let outcome = match self.bound {
            Bound::PerTry => match self.connecting.get() {
                Some(at) if !connected => {
                    refused_within(self.due.saturating_duration_since(*at), &call.settings.policy)
                }
                _ => Outcome::PerTryTimeout,
            },
            Bound::Deadline => Outcome::Deadline,
            Bound::Timeout | Bound::BodyIdle => Outcome::Timeout,
        };
        let limit = match outcome {
            Outcome::ConnectTimeout => explain::connect_limit(call),
            _ => explain::time_limit(call, self.bound),
        };
        let detail = match self.connecting.get() {
            Some(_) => "the instance accepted no connection in time",
            None => "no connection to the instance became free in time",
        };
        Failed::unsent(outcome, format!("{detail}; {limit}"))
    }
}

/// The instance accepted no connection within `given`. Only for as long as it usually takes does that say something of it.
pub(crate) fn refused_within(given: Duration, policy: &config::Policy) -> Outcome {
    match given < policy.connect_timeout.min(HURRY) {
        true => Outcome::PerTryTimeout,
        false => Outcome::ConnectTimeout,
    }
}

/// Remembers which version the instance speaks.
fn note_version(lease: &Lease, exchange: &Exchange) {
    if let Some(head) = exchange.response() {
        lease.endpoint().note_version(head.minor());
    }
}

fn closed(exchange: &Exchange) -> Outcome {
    if exchange.has_answered() { Outcome::ClosedMidHead } else { Outcome::Closed }
}

fn failure(error: &ExchangeError, exchange: &Exchange, endpoint: &Endpoint) -> Failed {
    let (outcome, detail) = match error {
        ExchangeError::Stream(fault @ StreamFault::NotExpressible(_)) => {
            let reason = Some(Reason::BadRequest);
            return Failed { reason, ..Failed::unsent(Outcome::BadRequest, fault.to_string()) };
        }
        ExchangeError::Stream(fault @ StreamFault::Http1Instance) => (
            Outcome::Http1Instance,
            format!("{fault}; set protocol: http, or register a port that speaks HTTP/2"),
        ),
        ExchangeError::Stream(fault @ StreamFault::Unprocessed(_)) => {
            (Outcome::Unprocessed, format!("the instance did not process the request: {fault}"))
        }
        ExchangeError::Closed(detail) => (closed(exchange), detail.clone()),
        ExchangeError::OwnShortage(detail) => (Outcome::Resource, detail.clone()),
        ExchangeError::Invalid(detail) => (Outcome::BadResponse, detail.clone()),
        ExchangeError::TlsRefused(cause) => {
            let detail = endpoint.tls.as_ref().map(|tls| tls.note_refused(endpoint.addr, cause));
            return Failed::unsent(Outcome::TlsFailed, detail.unwrap_or_else(|| cause.clone()));
        }
        ExchangeError::Upload(broken) => upload_failure(broken),
    };
    Failed { outcome, sent: exchange.sent(), detail, reason: None }
}

fn upload_failure(broken: &BrokenUpload) -> (Outcome, String) {
    match broken {
        BrokenUpload::BadFraming(detail) => (Outcome::BadRequest, detail.clone()),
        BrokenUpload::Gone => (Outcome::ClientGone, "the app disconnected within its body".to_owned()),
    }
}

fn expired(call: &Call<'_>, bound: Bound, is_write_blocked: bool, sent: Sent) -> Failed {
    let (outcome, detail, reason) = match bound {
        Bound::Timeout => (Outcome::Timeout, "no answer in time", None),
        Bound::Deadline => (Outcome::Deadline, "no answer before the deadline", None),
        Bound::PerTry => (Outcome::PerTryTimeout, "no answer within the time of an attempt", None),
        // Full buffers towards the instance: the instance does not read.
        Bound::BodyIdle if is_write_blocked => {
            (Outcome::Timeout, "the instance stopped reading the body", None)
        }
        Bound::BodyIdle => {
            (Outcome::ClientGone, "the request body stopped arriving", Some(Reason::BodyTimeout))
        }
    };
    let detail = format!("{detail}; {}", explain::time_limit(call, bound));
    Failed { outcome, sent, detail, reason }
}
