//! The attempts of one request: pick, try, perhaps try again.
//!
//! One loop read downward. What it decides by lives in `outrigger-policy`; a second attempt beside a slow
//! one is [`crate::hedge`]'s.

use std::{
    future::{Future, poll_fn},
    pin::pin,
    sync::{Arc, OnceLock, atomic::Ordering::Relaxed},
    task::Poll,
    time::Duration,
};

use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, Version, header::UPGRADE};
use http_body::Body;
use hyper::body::Incoming;
use outrigger_policy::{
    Deadline, Outcome, Sent, Verdict,
    outlier_detection::{AttemptEpoch, AttemptGuard, FailureAttribution},
    retry::{self, GiveUp, Pushback, RetryDecision, RetryEligibility},
};
use tokio::time::{Instant, sleep, timeout_at};

use crate::{
    attempt::{self, Bounds, Due, Failed},
    headers::{self, Asked},
    reason::{Reason, Refusal},
    request::account::RequestAccount,
    request::deadline::ClientDeadline,
    request::pushback,
    request::route::Route,
    session::Session,
    upload::{AttemptBody, Upload},
    upstream::{
        cluster::{Cluster, ClusterSettings},
        endpoint::{CheckoutError, CheckoutRequest, Endpoint, InFlight},
        pool::{Conn, Found},
    },
};

/// Picks in a row that may fall on an endpoint which another request is trying out.
const PASSED: u32 = 16;

/// A connection that was given less time than this, and `connect_timeout`, says nothing about the instance:
/// it is the request that was in a hurry. (A handshake within a datacenter takes a hundredth of it; a lost
/// first packet, five times as long.) And a request that was given to the instance later than this has
/// spent its time elsewhere.
const HURRY: Duration = Duration::from_millis(200);

/// What every attempt of one request shares.
#[derive(Debug)]
pub(crate) struct Call<'a> {
    pub(crate) session: &'a Arc<Session>,
    pub(crate) terms: &'a Arc<ClusterSettings>,
    pub(crate) method: Method,
    uri: Uri,
    headers: HeaderMap,
    pub(crate) version: Version,
    asked: Asked,
    request: retry::RequestTraits,
    own: ClientDeadline,
    pub(crate) deadline: Deadline,
    /// It finds out for the breaker whether the service is there again.
    pub(crate) probe: bool,
}

/// An answer, with what it still hangs on.
pub(crate) struct Answer {
    pub(crate) response: Response<Incoming>,
    pub(crate) conn: Box<Conn>,
    pub(crate) ticket: InFlight,
    pub(crate) outcome: Outcome,
    sent: Sent,
    /// When the instance was given the request.
    got: Instant,
    /// What its body is to be counted with; `None`: all is counted.
    pub(crate) rest: Option<Rest>,
}

/// What the end of an answer's body says about its instance, and whether the request may still blame one.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rest {
    pub(crate) began: AttemptEpoch,
    pub(crate) blame: FailureAttribution,
}

impl Answer {
    fn has_body(&self) -> bool {
        self.response.status() != StatusCode::SWITCHING_PROTOCOLS && !self.response.body().is_end_stream()
    }
}

/// One attempt at one endpoint: the attempt's mark on it, and when it began.
pub(crate) struct Try<'e> {
    pub(crate) endpoint: &'e Arc<Endpoint>,
    pub(crate) mark: AttemptGuard<'e>,
    pub(crate) bounds: Bounds<'e>,
}

/// How an attempt ended.
pub(crate) type Attempted = Result<Box<Answer>, Failed>;

/// How it ended, when, and who else was tried meanwhile ([`crate::hedge`]).
pub(crate) type Made = (Attempted, Instant, Option<Arc<Endpoint>>);

/// How the attempts ended.
pub(crate) enum Ended {
    Answer(Box<Answer>),
    Refused { refusal: Refusal, verdict: Verdict },
}

impl<'a> Call<'a> {
    pub(crate) fn new(
        session: &'a Arc<Session>,
        terms: &'a Arc<ClusterSettings>,
        head: http::request::Parts,
        route: Route,
        own: ClientDeadline,
        deadline: Deadline,
        upload: Option<&Upload>,
    ) -> Self {
        let mut map = head.headers;
        let rules = session.listener.settings.load();
        let options = &rules.outbound;
        // HTTP/1.0 cannot upgrade (RFC 9110 §7.8), and a body would be in the tunnel's way.
        let upgrades = head.version == Version::HTTP_11 && upload.is_none();
        let asked = headers::strip_request(&mut map, upgrades);
        if options.x_forwarded {
            let host = map.get(http::header::HOST).cloned();
            headers::add_forwarded(&mut map, session.peer.ip(), host.as_ref());
        }
        if options.via {
            headers::add_via(&mut map, head.version);
        }
        if let Some(host) = route.host {
            map.insert(http::header::HOST, host);
        } else if !map.contains_key(http::header::HOST) {
            // HTTP/1.0 may leave it out; HTTP/1.1, which we speak to the instance, may not.
            if let Ok(host) = HeaderValue::from_str(&route.cluster.key.service) {
                map.insert(http::header::HOST, host);
            }
        }
        headers::frame_request(&mut map, upload.and_then(Upload::length), upload.is_some());
        let request = retry::RequestTraits {
            idempotent: asked.idempotency_key || retry::is_idempotent(head.method.as_str()),
            allowed: asked.retries,
        };
        Self {
            session,
            terms,
            method: head.method,
            uri: route.uri.unwrap_or(head.uri),
            headers: map,
            version: head.version,
            asked,
            request,
            own,
            deadline,
            probe: false,
        }
    }

    /// Tries until there is an answer for the app.
    pub(crate) async fn attempts(&self, cluster: &Arc<Cluster>, exchange: &mut RequestAccount) -> Ended {
        let policy = &self.terms.policy;
        let upload = exchange.upload.clone();
        let upload = upload.as_ref();
        let mut tried: Vec<Arc<Endpoint>> = Vec::new();
        let mut retries = 0;
        // A try's time does not begin before its turn to be tried, whatever was waited for.
        let mut begun = if policy.per_try_timeout.is_some() { Instant::now() } else { exchange.started };
        let mut raced = false;
        let mut pushed_before = false;
        let mut blame = FailureAttribution::default();
        // Endpoints that somebody else is trying out just now: passed over, not tried.
        let mut passed = 0;
        let mut before: Option<Attempted> = None;
        if self.deadline.cap().is_some_and(|ends| Instant::now() >= ends.into()) {
            return self.too_late(cluster);
        }
        loop {
            let retry = RetryEligibility::new(&policy.retry, self.request, retries, self.fits(upload));
            let retryable = retry.allows_retry();
            let Some(endpoint) = cluster.pick(&tried, retryable).filter(|_| passed <= PASSED) else {
                return match before {
                    // The last ones have left meanwhile: what was seen of them is the answer.
                    Some(ended) => {
                        self.decided(ended, RetryDecision::GiveUp(GiveUp::Attempts), cluster, None)
                    }
                    None => Ended::Refused { refusal: cluster.refuse_pick(), verdict: Verdict::Ignore },
                };
            };
            let Some(mark) = endpoint.stats.begin_attempt(policy.outlier.as_ref(), retryable) else {
                passed += 1;
                continue;
            };
            // Its turn is given back before another is asked for: there may be one only.
            drop(before.take());
            let bounds = Bounds {
                deadline: self.deadline,
                begun,
                per_try: policy.per_try_timeout,
                retry,
                body_idle: policy.body_idle,
            };
            begin(&endpoint, exchange);
            let one = Try { endpoint: &endpoint, mark, bounds };
            let (ended, now, second) = match self.hedge_after(cluster, retry) {
                Some(after) => {
                    Box::pin(self.hedged(cluster, one, upload, after, &tried, &mut blame, exchange)).await
                }
                None => {
                    let mut first = pin!(self.attempt(cluster, &endpoint, upload, bounds, &mut raced));
                    let ended = poll_fn(|cx| match first.as_mut().poll(cx) {
                        Poll::Ready(ended) => Poll::Ready(Ok(ended)),
                        Poll::Pending => match self.rescue(cluster, &endpoint, retry, upload, &tried) {
                            Some(other) => Poll::Ready(Err(other)),
                            None => Poll::Pending,
                        },
                    });
                    match ended.await {
                        Ok(ended) => self.alone(cluster, one, ended, &mut blame),
                        Err(other) => {
                            let both = self
                                .beside(cluster, one, first, &other, upload, &tried, &mut blame, exchange);
                            Box::pin(both).await
                        }
                    }
                }
            };
            let (outcome, sent) = told(&ended);
            let pushback = match &ended {
                Ok(answer) if retry.is_retried(outcome) => pushback::read_pushback(answer.response.headers()),
                _ => None,
            };
            // The breaker waits for its probe's word, and everybody for the breaker.
            let pushback = match pushback {
                Some(Pushback::Instance(wait) | Pushback::Call(wait))
                    if self.probe && wait > policy.retry.backoff_max =>
                {
                    Some(Pushback::Never)
                }
                said => said,
            };
            tried.extend(second);
            let made = retry::LastAttempt {
                sent,
                outcome,
                replayable: upload.is_none_or(Upload::replayable),
                pushback,
                has_other_instance: (pushback.is_some() || sent == Sent::Nothing)
                    && cluster.pick_other(&tried, &endpoint).is_some(),
                earlier_pushback: pushed_before,
            };
            let ends = bounds.ends(upload).into_std();
            let random = fastrand::u64(..);
            match retry::decide_retry(&retry, &cluster.budget, &made, now.into_std(), ends, random) {
                RetryDecision::Retry { after, uncounted } => {
                    // Whom an instance told to wait holds none of its connections meanwhile: others have use for
                    // them.
                    before = (after <= policy.retry.backoff_max).then_some(ended);
                    self.terms.series.retried.inc();
                    retries += u32::from(!uncounted);
                    pushed_before |= matches!(pushback, Some(Pushback::Instance(_)));
                    tried.push(endpoint);
                    if !after.is_zero() {
                        Box::pin(sleep(after)).await;
                    }
                    begun = Instant::now();
                }
                decision => {
                    exchange.answered_at = Some(now);
                    return self.decided(ended, decision, cluster, Some(&endpoint));
                }
            }
        }
    }

    /// The end of an attempt that was made alone, noted.
    pub(crate) fn alone(
        &self,
        cluster: &Arc<Cluster>,
        one: Try<'_>,
        mut ended: Attempted,
        blame: &mut FailureAttribution,
    ) -> Made {
        let now = Instant::now();
        self.account(cluster, one, &mut ended, blame, now);
        (ended, now, None)
    }

    /// Notes an attempt's end wherever it counts.
    pub(crate) fn account(
        &self,
        cluster: &Arc<Cluster>,
        one: Try<'_>,
        ended: &mut Attempted,
        blame: &mut FailureAttribution,
        now: Instant,
    ) {
        let (outcome, sent) = told(ended);
        let Try { endpoint, mark, bounds } = one;
        if ended.as_ref().is_err_and(|failed| failed.late) {
            blame.mark_delayed();
        }
        self.terms.series.record_attempt(outcome);
        if let Ok(answer) = ended {
            endpoint.stall.record_response();
            cluster.peak_latency.record(now - answer.got);
        }
        match outcome.verdict() {
            Verdict::Failure => endpoint.count_failure(),
            Verdict::Success => {
                endpoint.stall.record_success(now.into_std());
                if self.terms.policy.hedge.is_some() {
                    cluster.latency.record(now - bounds.begun, now.into_std());
                }
            }
            Verdict::Ignore => {}
        }
        let report = match ended {
            Ok(answer) if answer.has_body() => {
                let (report, began) = mark.record_head(blame, outcome, sent, now.into_std());
                answer.rest = began.map(|began| Rest { began, blame: *blame });
                report
            }
            _ => mark.record_end(blame, outcome, sent, now.into_std()),
        };
        if let Some(report) = report {
            cluster.report(endpoint, report, now);
        }
    }

    /// The deadline was over before anything could be sent.
    fn too_late(&self, cluster: &Cluster) -> Ended {
        let detail = format!("{}: the deadline had passed, nothing was sent", cluster.label);
        let refusal = Refusal::new(Reason::DeadlineExceeded, detail);
        Ended::Refused { refusal, verdict: Verdict::Ignore }
    }

    /// The answer, or what to say when there is none. `on`: who was tried last.
    fn decided(
        &self,
        ended: Attempted,
        decision: RetryDecision,
        cluster: &Cluster,
        on: Option<&Arc<Endpoint>>,
    ) -> Ended {
        let gave_up = match decision {
            RetryDecision::GiveUp(why) => {
                self.terms.series.record_give_up(why);
                Some(why)
            }
            RetryDecision::Done | RetryDecision::Retry { .. } => None,
        };
        match ended {
            Ok(answer) => Ended::Answer(answer),
            Err(failed) => {
                let why = gave_up.map_or("", GiveUp::label);
                let detail = format!("{}: {}; not tried again: {why}", cluster.label, failed.detail);
                let refusal = Refusal::new(reason(&failed, gave_up), detail);
                // An instance that is out by now, while others are in: that is no news of the service.
                let is_out =
                    |one: &&Arc<Endpoint>| !one.stats.admits(true) && cluster.pick_other(&[], one).is_some();
                let verdict = match on.filter(is_out) {
                    Some(_) => Verdict::Ignore,
                    None => failed.outcome.verdict(),
                };
                Ended::Refused { refusal, verdict }
            }
        }
    }

    /// One attempt at one endpoint, with the keep-alive race settled inside: a reused connection that
    /// closed before any byte of an answer is nobody's failure, once.
    pub(crate) async fn attempt(
        &self,
        cluster: &Cluster,
        endpoint: &Arc<Endpoint>,
        upload: Option<&Upload>,
        bounds: Bounds<'_>,
        raced: &mut bool,
    ) -> Attempted {
        let ended = self.once(cluster, endpoint, upload, bounds, false).await;
        let (race, sent) = match &ended {
            Err(failed) => (failed.raced, failed.sent),
            // Servers that give up on an idle connection say so with a 408 nobody asked for.
            Ok(answer) => {
                let gave_up = answer.response.status() == StatusCode::REQUEST_TIMEOUT;
                (gave_up && answer.conn.reused(), answer.sent)
            }
        };
        let safe = sent == Sent::Nothing || bounds.retry.is_repeatable_after_race();
        if *raced || !race || !safe || !upload.is_none_or(Upload::replayable) {
            return ended;
        }
        *raced = true;
        drop(ended);
        self.terms.series.raced.inc();
        self.once(cluster, endpoint, upload, bounds, true).await
    }

    async fn once(
        &self,
        cluster: &Cluster,
        endpoint: &Arc<Endpoint>,
        upload: Option<&Upload>,
        bounds: Bounds<'_>,
        fresh: bool,
    ) -> Attempted {
        let (ticket, conn) = self.connection(endpoint, upload, bounds, fresh).await?;
        let body = upload.map_or_else(AttemptBody::empty, Upload::attempt);
        let mut timer = self.session.borrow_timer();
        let got = Instant::now();
        let head = self.head(body, upload, bounds);
        let ended = attempt::run(conn, head, upload, bounds, timer.get(), got, |now| {
            if cluster.peak_latency.is_unusual(now - got) {
                endpoint.stall.record_tick(now.into_std());
            }
            // Only a request that can go elsewhere gives up for it; a POST waits for as long as it may.
            cluster.ejector.check_stalled(endpoint, now)
                && bounds.retry.is_repeatable()
                && !bounds.retry.is_last()
        });
        let late = got - bounds.begun > HURRY;
        let (response, conn, sent) = ended.await.map_err(|failed| Failed { late, ..failed })?;
        let status = response.status();
        if status == StatusCode::SWITCHING_PROTOCOLS && !self.switches(&response) {
            let detail = "the instance switched to a protocol that was not asked for".to_owned();
            return Err(Failed { sent: Sent::Head, ..Failed::unsent(Outcome::BadResponse, detail) });
        }
        let outcome = if response.headers().contains_key(headers::ERROR) {
            Outcome::SidecarError(status.as_u16())
        } else {
            Outcome::Status(status.as_u16())
        };
        Ok(Box::new(Answer { response, conn, ticket, outcome, sent, got, rest: None }))
    }

    /// A turn at the endpoint and a connection to it, within the request's time.
    async fn connection(
        &self,
        endpoint: &Arc<Endpoint>,
        upload: Option<&Upload>,
        bounds: Bounds<'_>,
        fresh: bool,
    ) -> Result<(InFlight, Box<Conn>), Failed> {
        let ask = CheckoutRequest {
            worker: self.session.worker,
            policy: &self.terms.policy,
            limits: self.session.listener.settings.load().heads,
            series: &self.terms.series,
            repeatable: bounds.retry.accepts_race(),
            connect_timeout: self.terms.policy.connect_timeout,
            new_only: fresh,
            now: bounds.begun,
        };
        let begun = endpoint.try_acquire().map(|ticket| (ticket, endpoint.take_idle(&ask)));
        // The usual case waits for nothing, and needs no timer.
        if let Some((ticket, Found::Ready(conn))) = begun {
            self.terms.series.reused.inc();
            return Ok((ticket, conn));
        }
        let connecting = OnceLock::new();
        let (due, what) = bounds.turn(upload);
        let within = due.saturating_duration_since(bounds.begun);
        let most = ask.connect_timeout;
        // Where another attempt can follow, it is left as much time.
        let connect_within = if bounds.retry.is_last() { most } else { most.min(within / 2) };
        // Nobody accepted for as long as there was: that is the instance, not the queue.
        let refused = |given: Duration| match given < most.min(HURRY) {
            true => Outcome::PerTryTimeout,
            false => Outcome::ConnectTimeout,
        };
        let both = async {
            let (ticket, found) = match begun {
                Some(begun) => begun,
                None => {
                    let ticket = endpoint.acquire(ask.policy).await?;
                    // Whoever gave the turn back has brought a connection home before.
                    let now = Instant::now();
                    (ticket, endpoint.take_idle(&CheckoutRequest { now, ..ask }))
                }
            };
            let _ = connecting.set(Instant::now());
            let conn =
                endpoint.connect(found, &CheckoutRequest { connect_timeout: connect_within, ..ask }).await?;
            Ok::<_, CheckoutError>((ticket, conn))
        };
        // Boxed, for the usual request has left above and need not carry the room for this.
        let both = Box::pin(timeout_at(due, both)).await;
        let accepted = matches!(both, Ok(Ok(_)));
        match both {
            // A connection that comes with the last moment is of no use: nothing is sent for nobody.
            Ok(Ok(_)) | Err(_) if Instant::now() >= due => {
                let outcome = match what {
                    Due::Try => match connecting.get() {
                        Some(at) if !accepted => refused(due.saturating_duration_since(*at)),
                        _ => Outcome::PerTryTimeout,
                    },
                    Due::Deadline => Outcome::Deadline,
                    Due::Whole | Due::Body => Outcome::Timeout,
                };
                Err(Failed::unsent(outcome, "no turn at the instance in time".to_owned()))
            }
            Ok(Err(CheckoutError { outcome: Outcome::ConnectTimeout, detail })) => {
                Err(Failed::unsent(refused(connect_within), detail))
            }
            Ok(both) => both.map_err(|error| Failed::unsent(error.outcome, error.detail)),
            Err(_) => Err(Failed::unsent(Outcome::Timeout, "no turn at the instance in time".to_owned())),
        }
    }

    /// Whether all of the body can be kept for a replay.
    fn fits(&self, upload: Option<&Upload>) -> bool {
        let most = self.terms.policy.retry.max_body as u64;
        upload
            .is_none_or(|upload| upload.replayable() && upload.length().is_some_and(|length| length <= most))
    }

    /// The head of an attempt. Each gets a copy, for the first may not be the last. Where there is a
    /// deadline it says what is left; with a body under way the time-out's end is not known yet.
    fn head(&self, body: AttemptBody, upload: Option<&Upload>, bounds: Bounds<'_>) -> Request<AttemptBody> {
        let mut request = Request::new(body);
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = self.uri.clone();
        *request.headers_mut() = self.headers.clone();
        *request.version_mut() = Version::HTTP_11;
        if let Some(cap) = self.deadline.cap() {
            let under_way = upload.is_some_and(|upload| !upload.ended());
            let ends = if under_way { cap.into() } else { bounds.ends(upload) };
            self.own.write_headers(request.headers_mut(), ends, Instant::now());
        }
        request
    }

    /// Whether a 101 is the one that was asked for.
    fn switches(&self, response: &Response<Incoming>) -> bool {
        let Some(asked) = &self.asked.upgrade else { return false };
        let listed = |offer: &HeaderValue, one: &HeaderValue| {
            offer.to_str().is_ok_and(|offer| {
                offer.split(',').any(|part| part.trim().as_bytes().eq_ignore_ascii_case(one.as_bytes()))
            })
        };
        response.headers().get(UPGRADE).is_some_and(|got| listed(asked, got))
    }
}

/// What the app is told when no attempt brought an answer.
fn reason(failed: &Failed, gave_up: Option<GiveUp>) -> Reason {
    match failed.outcome {
        Outcome::ConnectRefused | Outcome::ConnectFailed => Reason::ConnectFailed,
        Outcome::ConnectTimeout => Reason::ConnectTimeout,
        Outcome::Closed | Outcome::ClosedMidHead if gave_up == Some(GiveUp::SentUnknown) => {
            Reason::SentUnknown
        }
        Outcome::Closed | Outcome::ClosedMidHead => Reason::UpstreamClosed,
        Outcome::BadResponse => Reason::BadResponse,
        Outcome::PerTryTimeout | Outcome::Timeout => Reason::Timeout,
        Outcome::Deadline => Reason::DeadlineExceeded,
        Outcome::Overloaded => Reason::Overloaded,
        Outcome::Resource => Reason::LocalResource,
        Outcome::BadRequest => Reason::BadBody,
        Outcome::ClientGone if failed.body_timeout => Reason::BodyTimeout,
        Outcome::ClientGone => Reason::ClientGone,
        Outcome::Status(_) | Outcome::SidecarError(_) => Reason::Internal,
    }
}

/// An attempt at an endpoint begins.
pub(crate) fn begin(endpoint: &Endpoint, exchange: &mut RequestAccount) {
    exchange.attempts += 1;
    exchange.set_instance(&endpoint.id);
    endpoint.picks.fetch_add(1, Relaxed);
}

/// What became of an attempt, and what of it was sent.
fn told(ended: &Attempted) -> (Outcome, Sent) {
    match ended {
        Ok(answer) => (answer.outcome, answer.sent.max(Sent::Head)),
        Err(failed) => (failed.outcome, failed.sent),
    }
}
