//! A request's walk: judge, route, admit, pick, try, perhaps try again, answer.
//!
//! One function read downward. What it decides by lives in `outrigger-policy`; what it answers when it
//! has no answer of an instance's, in [`crate::respond`].

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use http::{
    HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, Version,
    header::{CONNECTION, CONTENT_LENGTH, EXPECT, UPGRADE},
};
use http_body::Body;
use hyper::body::Incoming;
use outrigger_policy::{
    Outcome, Sent, Verdict,
    breaker::Permit,
    outlier::Blame,
    retry::{self, Decision, GiveUp},
};
use tokio::time::{Instant, sleep, timeout_at};

use crate::{
    attempt::{self, Bounds, Due, Failed},
    body::{Carried, Driver, ResponseBody},
    error::{Reason, Refusal},
    exchange::Exchange,
    headers::{self, Asked},
    respond,
    route::{self, Route},
    session::Session,
    tunnel::{Held, Tunnel},
    upload::{AttemptBody, Upload},
    upstream::{
        cluster::{Cluster, Terms},
        endpoint::{Checkout, CheckoutError, Endpoint, Ticket},
        pool::{Conn, Found},
    },
};

/// Carries one request. Every door leads through an answer.
pub(crate) async fn handle(
    session: Arc<Session>,
    request: Request<Incoming>,
) -> Result<Response<ResponseBody>, Gone> {
    let accepted = Instant::now();
    let (head, body) = request.into_parts();
    let mut exchange = Exchange::new(&session, accepted, &head.method, head.uri.path());
    if !body.is_end_stream() {
        // Held from here on, so that a refusal knows that a body was left unread.
        exchange.upload = Some(Upload::new(body, 0, accepted));
    }
    // A body that waits for our word is not asked for, only to be thrown away.
    let waits = head.headers.contains_key(EXPECT);
    let found = match headers::judge(&head.method, &head.uri, head.version, &head.headers) {
        Ok(()) => route::find(&session, &head.uri, &head.headers).await,
        Err(refusal) => Err(refusal),
    };
    let route = match found {
        Ok(route) => route,
        Err(refusal) => return Ok(Box::pin(refuse(&refusal, exchange, waits)).await),
    };
    let cluster = route.cluster.clone();
    cluster.touch(accepted);
    let terms = cluster.view.load().terms.clone();
    exchange.routed(&terms.series, &cluster.label);
    let permit = match cluster.breaker.admit(accepted.into_std()) {
        Ok(permit) => permit,
        Err(open) => {
            let detail = format!("{}: the circuit breaker is open", cluster.label);
            let refusal =
                Refusal { retry_after: Some(open.retry_after), ..Refusal::new(Reason::CircuitOpen, detail) };
            return Ok(Box::pin(refuse(&refusal, exchange, waits)).await);
        }
    };
    cluster.budget.deposit(accepted.into_std());
    if let Some(upload) = &exchange.upload {
        upload.keep(terms.policy.retry.max_body);
    }
    let call = Call::new(&session, &terms, head, route, exchange.upload.as_ref());
    let ended = call.attempts(&cluster, &mut exchange).await;
    if let Ended::Refused { refusal: Refusal { reason: Reason::ClientGone, .. }, verdict } = &ended {
        permit.record(Instant::now().into_std(), *verdict);
        return Err(Gone);
    }
    Ok(call.finish(&cluster, ended, permit, exchange))
}

/// The app went away: there is nobody to answer, and the connection ends.
#[derive(Debug, thiserror::Error)]
#[error("the app went away")]
pub(crate) struct Gone;

/// Refuses a request before any instance has seen it. A short body is read first: the app's connection
/// can then go on.
async fn refuse(refusal: &Refusal, exchange: Exchange, waits: bool) -> Response<ResponseBody> {
    if let Some(upload) = &exchange.upload
        && !waits
        && !refusal.reason.closes()
    {
        upload.discard(SHORT_BODY, SHORT_WAIT).await;
    }
    respond::refuse(refusal, exchange)
}

/// Picks in a row that may fall on an endpoint which another request is trying out.
const PASSED: u32 = 16;

/// The longest body that is read only to keep a connection, and how long for.
const SHORT_BODY: u64 = 64 * 1024;
const SHORT_WAIT: Duration = Duration::from_millis(50);

/// What every attempt of one request shares.
struct Call<'a> {
    session: &'a Arc<Session>,
    terms: &'a Arc<Terms>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    version: Version,
    asked: Asked,
    request: retry::Request,
}

/// An answer, with what it still hangs on.
struct Answer {
    response: Response<Incoming>,
    conn: Box<Conn>,
    ticket: Ticket,
    outcome: Outcome,
    sent: Sent,
}

/// How the attempts ended.
enum Ended {
    Answer(Box<Answer>),
    Refused { refusal: Refusal, verdict: Verdict },
}

impl<'a> Call<'a> {
    fn new(
        session: &'a Arc<Session>,
        terms: &'a Arc<Terms>,
        head: http::request::Parts,
        route: Route,
        upload: Option<&Upload>,
    ) -> Self {
        let mut map = head.headers;
        let rules = session.shared.rules.load();
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
        let request = retry::Request {
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
        }
    }

    /// Tries until there is an answer for the app.
    async fn attempts(&self, cluster: &Arc<Cluster>, exchange: &mut Exchange) -> Ended {
        let policy = &self.terms.policy;
        let upload = exchange.upload.clone();
        let upload = upload.as_ref();
        let mut tried: Vec<Arc<Endpoint>> = Vec::new();
        let mut retries = 0;
        // A try's time does not begin before its turn to be tried, whatever was waited for.
        let mut begun = if policy.per_try_timeout.is_some() { Instant::now() } else { exchange.started };
        let mut raced = false;
        let mut blame = Blame::default();
        // Endpoints that somebody else is trying out just now: passed over, not tried.
        let mut passed = 0;
        let mut before: Option<Result<Box<Answer>, Failed>> = None;
        loop {
            let retryable = self.retryable(retries, upload);
            let Some(endpoint) = cluster.pick(&tried, retryable).filter(|_| passed <= PASSED) else {
                return match before {
                    // The last ones have left meanwhile: what was seen of them is the answer.
                    Some(ended) => self.decided(ended, Decision::GiveUp(GiveUp::Attempts), cluster),
                    None => Ended::Refused { refusal: cluster.nothing_to_pick(), verdict: Verdict::Ignore },
                };
            };
            let Some(mark) = endpoint.record.begin(retryable) else {
                passed += 1;
                continue;
            };
            // Its turn is given back before another is asked for: there may be one only.
            drop(before.take());
            exchange.attempts += 1;
            exchange.tries(&endpoint.id);
            endpoint.picks.fetch_add(1, Relaxed);
            let bounds = Bounds {
                accepted: exchange.started,
                begun,
                timeout: policy.timeout,
                per_try: policy.per_try_timeout,
                body_idle: policy.body_idle,
            };
            let ended = self.attempt(&endpoint, upload, bounds, &mut raced).await;
            let (outcome, sent) = match &ended {
                Ok(answer) => (answer.outcome, answer.sent.max(Sent::Head)),
                Err(failed) => (failed.outcome, failed.sent),
            };
            self.terms.series.attempted(outcome);
            let now = Instant::now();
            match outcome.verdict() {
                Verdict::Failure => endpoint.blame(),
                Verdict::Success => endpoint.went_well(now),
                Verdict::Ignore => {}
            }
            if let Some(report) = mark.end(&mut blame, outcome, sent, now.into_std()) {
                cluster.trust.report(cluster, &endpoint.record, report, now);
            }
            let made =
                retry::Tried { retries, sent, outcome, replayable: upload.is_none_or(Upload::replayable) };
            let deadline = bounds.deadline(upload).into_std();
            let random = fastrand::u64(..);
            let (settings, budget) = (&policy.retry, &cluster.budget);
            match retry::judge(settings, budget, &self.request, &made, now.into_std(), deadline, random) {
                Decision::Again { after, .. } => {
                    before = Some(ended);
                    self.terms.series.retried.inc();
                    retries += 1;
                    tried.push(endpoint);
                    if !after.is_zero() {
                        Box::pin(sleep(after)).await;
                    }
                    begun = Instant::now();
                }
                decision => {
                    exchange.answered = Some(now);
                    return self.decided(ended, decision, cluster);
                }
            }
        }
    }

    /// The answer, or what to say when there is none.
    fn decided(&self, ended: Result<Box<Answer>, Failed>, decision: Decision, cluster: &Cluster) -> Ended {
        let gave_up = match decision {
            Decision::GiveUp(why) => {
                self.terms.series.gave_up(why.label());
                Some(why)
            }
            Decision::Done | Decision::Again { .. } => None,
        };
        match ended {
            Ok(answer) => Ended::Answer(answer),
            Err(failed) => {
                let why = gave_up.map_or("", GiveUp::label);
                let detail = format!("{}: {}; not tried again: {why}", cluster.label, failed.detail);
                let refusal = Refusal::new(reason(&failed, gave_up), detail);
                Ended::Refused { refusal, verdict: failed.outcome.verdict() }
            }
        }
    }

    /// One attempt at one endpoint, with the keep-alive race settled inside: a reused connection that
    /// closed before any byte of an answer is nobody's failure, once.
    async fn attempt(
        &self,
        endpoint: &Arc<Endpoint>,
        upload: Option<&Upload>,
        bounds: Bounds,
        raced: &mut bool,
    ) -> Result<Box<Answer>, Failed> {
        let ended = self.once(endpoint, upload, bounds, false).await;
        let (race, sent) = match &ended {
            Err(failed) => (failed.raced, failed.sent),
            // Servers that give up on an idle connection say so with a 408 nobody asked for.
            Ok(answer) => {
                let gave_up = answer.response.status() == StatusCode::REQUEST_TIMEOUT;
                (gave_up && answer.conn.reused(), answer.sent)
            }
        };
        let safe = sent == Sent::Nothing || (self.request.idempotent && self.request.allowed);
        if *raced || !race || !safe || !upload.is_none_or(Upload::replayable) {
            return ended;
        }
        *raced = true;
        drop(ended);
        self.terms.series.raced.inc();
        self.once(endpoint, upload, bounds, true).await
    }

    async fn once(
        &self,
        endpoint: &Arc<Endpoint>,
        upload: Option<&Upload>,
        bounds: Bounds,
        fresh: bool,
    ) -> Result<Box<Answer>, Failed> {
        let (ticket, conn) = self.connection(endpoint, upload, bounds, fresh).await?;
        let body = upload.map_or_else(AttemptBody::empty, Upload::attempt);
        let mut timer = self.session.borrow_timer();
        let (response, conn, sent) = attempt::run(conn, self.head(body), upload, bounds, timer.get()).await?;
        let status = response.status();
        if status == StatusCode::SWITCHING_PROTOCOLS && !self.switches(&response) {
            let detail = "the instance switched to a protocol that nobody asked for".to_owned();
            return Err(Failed { sent: Sent::Head, ..Failed::unsent(Outcome::BadResponse, detail) });
        }
        let outcome = if response.headers().contains_key(headers::ERROR) {
            Outcome::SidecarError(status.as_u16())
        } else {
            Outcome::Status(status.as_u16())
        };
        Ok(Box::new(Answer { response, conn, ticket, outcome, sent }))
    }

    /// A turn at the endpoint and a connection to it, within the request's time.
    async fn connection(
        &self,
        endpoint: &Arc<Endpoint>,
        upload: Option<&Upload>,
        bounds: Bounds,
        fresh: bool,
    ) -> Result<(Ticket, Box<Conn>), Failed> {
        let ask = Checkout {
            worker: self.session.worker,
            policy: &self.terms.policy,
            limits: self.session.shared.rules.load().heads,
            series: &self.terms.series,
            repeatable: self.request.idempotent && self.request.allowed && self.fits(upload),
            fresh,
            now: bounds.begun,
        };
        let begun = endpoint.try_begin().map(|ticket| (ticket, endpoint.idle(&ask)));
        // The usual case waits for nothing, and needs no timer.
        if let Some((ticket, Found::Ready(conn))) = begun {
            self.terms.series.reused.inc();
            return Ok((ticket, conn));
        }
        let connecting = AtomicBool::new(false);
        let both = async {
            let (ticket, found) = match begun {
                Some(begun) => begun,
                None => {
                    let ticket = endpoint.begin(ask.policy).await?;
                    // Whoever gave the turn back has brought a connection home before.
                    let now = Instant::now();
                    (ticket, endpoint.idle(&Checkout { now, ..ask }))
                }
            };
            connecting.store(true, Relaxed);
            let conn = endpoint.connect(found, &ask).await?;
            Ok::<_, CheckoutError>((ticket, conn))
        };
        // Boxed, for the usual request has left above and need not carry the room for this.
        let (due, what) = bounds.turn(upload);
        match Box::pin(timeout_at(due, both)).await {
            // A connection that comes with the last moment is of no use: nothing is sent for nobody.
            Ok(Ok(_)) | Err(_) if Instant::now() >= due => {
                let outcome = match what {
                    // Nobody accepted for as long as there was: that is the instance, not the queue.
                    Due::Try if connecting.load(Relaxed) => Outcome::ConnectTimeout,
                    Due::Try => Outcome::PerTryTimeout,
                    Due::Whole | Due::Body => Outcome::Timeout,
                };
                Err(Failed::unsent(outcome, "no turn at the instance in time".to_owned()))
            }
            Ok(both) => both.map_err(|error| Failed::unsent(error.outcome, error.detail)),
            Err(_) => Err(Failed::unsent(Outcome::Timeout, "no turn at the instance in time".to_owned())),
        }
    }

    /// Whether another attempt could follow one that fails: such a request may try out an endpoint that
    /// has lost its trust.
    fn retryable(&self, retries: u32, upload: Option<&Upload>) -> bool {
        let settings = &self.terms.policy.retry;
        let safe = self.request.idempotent || settings.non_idempotent;
        safe && self.request.allowed && retries < settings.max_retries && self.fits(upload)
    }

    /// Whether all of the body can be kept for a replay.
    fn fits(&self, upload: Option<&Upload>) -> bool {
        let most = self.terms.policy.retry.max_body as u64;
        upload
            .is_none_or(|upload| upload.replayable() && upload.length().is_some_and(|length| length <= most))
    }

    /// The head of an attempt. Each gets a copy, for the first may not be the last.
    fn head(&self, body: AttemptBody) -> Request<AttemptBody> {
        let mut request = Request::new(body);
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = self.uri.clone();
        *request.headers_mut() = self.headers.clone();
        *request.version_mut() = Version::HTTP_11;
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

    /// Tells the breaker what the app sees, and answers.
    fn finish(
        &self,
        cluster: &Arc<Cluster>,
        ended: Ended,
        permit: Permit<'_>,
        mut exchange: Exchange,
    ) -> Response<ResponseBody> {
        let now = exchange.answered.unwrap_or_else(Instant::now).into_std();
        match ended {
            Ended::Refused { refusal, verdict } => {
                permit.record(now, verdict);
                if verdict == Verdict::Failure {
                    // It may have opened the breaker, and then only probes can find out.
                    cluster.trust.ring();
                }
                respond::refuse(&refusal, exchange)
            }
            Ended::Answer(answer) => {
                permit.record(now, answer.outcome.verdict());
                if answer.outcome.verdict() == Verdict::Failure {
                    cluster.trust.ring();
                }
                exchange.answer(answer.response.status(), None);
                if answer.response.status() == StatusCode::SWITCHING_PROTOCOLS {
                    self.tunnel(*answer, exchange)
                } else {
                    self.carry(cluster, *answer, exchange)
                }
            }
        }
    }

    /// The instance's answer, on its way to the app.
    fn carry(&self, cluster: &Arc<Cluster>, answer: Answer, exchange: Exchange) -> Response<ResponseBody> {
        let Answer { response, conn, ticket, .. } = answer;
        let (mut parts, incoming) = response.into_parts();
        headers::strip_response(&mut parts.headers, parts.status);
        let bodiless = respond::bodiless(&self.method, parts.status);
        let close_is_end =
            self.version == Version::HTTP_10 && !bodiless && !parts.headers.contains_key(CONTENT_LENGTH);
        let unfinished = exchange.unread();
        if unfinished {
            parts.headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        // The length is said anew, once, from what the codec made of it.
        if let (false, Some(length)) = (bodiless, incoming.size_hint().exact()) {
            parts.headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
        }
        let driver = if unfinished { drive_apart(conn) } else { Driver::Here(conn) };
        let body = ResponseBody::carried(Carried {
            incoming,
            driver,
            ticket,
            cluster: cluster.clone(),
            exchange,
            idle: self.terms.policy.body_idle,
            max_idle: self.terms.policy.pool.max_idle,
            silence: None,
            ended: false,
            failed: false,
            close_is_end,
        });
        let mut response = Response::new(body);
        *response.status_mut() = parts.status;
        *response.headers_mut() = parts.headers;
        if self.version == Version::HTTP_11 {
            keep_reason(&mut response, parts.extensions);
        }
        response
    }

    /// The 101, and the instance's half of the tunnel for the connection's task.
    fn tunnel(&self, answer: Answer, exchange: Exchange) -> Response<ResponseBody> {
        let Answer { response, conn, ticket, .. } = answer;
        let (parts, _) = response.into_parts();
        let mut map = parts.headers;
        let protocol = map.get(UPGRADE).cloned();
        headers::strip_response(&mut map, StatusCode::SWITCHING_PROTOCOLS);
        if let Some(protocol) = protocol {
            map.insert(UPGRADE, protocol);
            map.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        }
        let (line, first, open) = conn.into_tunnel();
        self.session.set_tunnel(Tunnel {
            line,
            first,
            held: Held { _open: open, _ticket: ticket, _exchange: exchange },
        });
        let mut response = Response::new(ResponseBody::empty());
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        *response.headers_mut() = map;
        response
    }
}

/// An instance that answers while the app still sends: a task of its own lets both go on, whichever
/// the app is slow with. The connection is not used again.
fn drive_apart(mut conn: Box<Conn>) -> Driver {
    Driver::Task(tokio::spawn(async move {
        // How it ended is told by the body.
        let _ = std::future::poll_fn(|cx| conn.drive(cx)).await;
    }))
}

/// Keeps an instance's own reason phrase.
fn keep_reason(response: &mut Response<ResponseBody>, mut extensions: http::Extensions) {
    if let Some(phrase) = extensions.remove::<hyper::ext::ReasonPhrase>() {
        response.extensions_mut().insert(phrase);
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
        Outcome::Overloaded => Reason::Overloaded,
        Outcome::Resource => Reason::LocalResource,
        Outcome::BadRequest => Reason::BadBody,
        Outcome::ClientGone if failed.body_timeout => Reason::BodyTimeout,
        Outcome::ClientGone => Reason::ClientGone,
        Outcome::Status(_) | Outcome::SidecarError(_) => Reason::Internal,
    }
}
