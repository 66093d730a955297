//! A request's walk: judge, route, admit, try, answer.
//!
//! One function read downward. The attempts are [`crate::call`]'s; what it answers when it has no answer
//! of an instance's, [`crate::respond`]'s.

use std::{sync::Arc, time::Duration};

use http::{
    HeaderMap, HeaderValue, Request, Response, StatusCode, Uri, Version,
    header::{CONNECTION, CONTENT_LENGTH, EXPECT, UPGRADE},
};
use http_body::Body;
use hyper::body::Incoming;
use outrigger_policy::{Deadline, Verdict, circuit_breaker::Permit, deadline::add_saturating};
use tokio::time::{Instant, timeout_at};

use crate::{
    body::{Carried, Driver, ResponseBody},
    call::{Answer, Call, Ended},
    headers,
    metrics::labels::Rejected,
    reason::{Reason, Refusal},
    request::account::RequestAccount,
    request::deadline::ClientDeadline,
    request::route::{self, Route},
    respond,
    session::Session,
    tunnel::{Held, Tunnel},
    upload::Upload,
    upstream::{
        bulkhead::{Bulkhead, Slot},
        cluster::Cluster,
        pool::Conn,
    },
};

/// Carries one request. Every door leads through an answer.
pub(crate) async fn handle(
    session: Arc<Session>,
    request: Request<Incoming>,
) -> Result<Response<ResponseBody>, Gone> {
    let accepted = Instant::now();
    let (head, body) = request.into_parts();
    let mut exchange = RequestAccount::new(&session, accepted, &head.method, head.uri.path());
    if !body.is_end_stream() {
        // Held from here on, so that a refusal knows that a body was left unread.
        exchange.upload = Some(Upload::new(body, 0, accepted));
    }
    // A body that waits for our word is not asked for, only to be thrown away.
    let waits = head.headers.contains_key(EXPECT);
    let found = match headers::judge(&head.method, &head.uri, head.version, &head.headers) {
        Ok(own) => find(&session, &head.uri, &head.headers, own, accepted).await.map(|route| (own, route)),
        Err(refusal) => Err(refusal),
    };
    let (own, route) = match found {
        Ok(found) => found,
        Err(refusal) => return Ok(Box::pin(refuse(&refusal, exchange, waits)).await),
    };
    let cluster = route.cluster.clone();
    cluster.mark_used(accepted);
    let terms = cluster.view.load().settings.clone();
    exchange.set_service(&terms.series, &cluster.label);
    let permit = match cluster.breaker.admit(terms.policy.circuit_breaker.as_ref(), accepted.into_std()) {
        Ok(permit) => permit,
        Err(open) => {
            cluster.request_refresh();
            let detail = format!("{}: the circuit breaker is open", cluster.label);
            let refusal =
                Refusal { retry_after: Some(open.retry_after), ..Refusal::new(Reason::CircuitOpen, detail) };
            return Ok(Box::pin(refuse(&refusal, exchange, waits)).await);
        }
    };
    let set = terms.policy.deadline.map(|limit| add_saturating(accepted.into_std(), limit));
    let deadline = Deadline::new(accepted.into_std(), terms.policy.timeout);
    let deadline = deadline.capped(ends(own, accepted)).capped(set);
    if let Some(bulkhead) = &terms.bulkhead {
        match place(bulkhead, &cluster, deadline).await {
            Ok(place) => exchange.slot = Some(place),
            Err(refusal) => return Ok(Box::pin(refuse(&refusal, exchange, waits)).await),
        }
    }
    cluster.budget.deposit(&terms.policy.retry.budget, accepted.into_std());
    if let Some(upload) = &exchange.upload {
        upload.keep(terms.policy.retry.max_body);
    }
    let mut call = Call::new(&session, &terms, head, route, own, deadline, exchange.upload.as_ref());
    call.probe = permit.is_probe();
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

/// When the app's own deadline passes.
fn ends(own: ClientDeadline, accepted: Instant) -> Option<std::time::Instant> {
    own.timeout.map(|patience| add_saturating(accepted.into_std(), patience))
}

/// Finds the service, within the app's own deadline.
async fn find(
    session: &Session,
    uri: &Uri,
    headers: &HeaderMap,
    own: ClientDeadline,
    accepted: Instant,
) -> Result<Route, Refusal> {
    let found = route::find(session, uri, headers);
    let Some(ends) = ends(own, accepted) else { return found.await };
    // Boxed, for few requests have one and each would carry the room for its timer.
    match Box::pin(timeout_at(ends.into(), found)).await {
        Ok(found) => found,
        Err(_) => {
            let detail = "the app's own deadline passed before the registry answered for the service";
            Err(Refusal::new(Reason::DeadlineExceeded, detail))
        }
    }
}

/// A place in the service's bulkhead.
async fn place(bulkhead: &Bulkhead, cluster: &Cluster, deadline: Deadline) -> Result<Slot, Refusal> {
    if let Some(place) = bulkhead.try_acquire() {
        return Ok(place);
    }
    let (ends, _) = deadline.expires_at(None);
    Box::pin(bulkhead.acquire(ends.into())).await.map_err(|shed| {
        if shed == Rejected::TimedOut && deadline.cap().is_some_and(|cap| Instant::now() >= cap.into()) {
            let detail = format!("{}: no place in max_in_flight before the deadline", cluster.label);
            return Refusal::new(Reason::DeadlineExceeded, detail);
        }
        cluster.view.load().settings.series.record_rejection(shed);
        let detail = format!("{}: {}", cluster.label, bulkhead.explain(shed));
        let retry_after = Some(Duration::from_secs(1));
        Refusal { retry_after, ..Refusal::new(Reason::BulkheadFull, detail) }
    })
}

/// Refuses a request before any instance has seen it. A short body is read first: the app's connection
/// can then go on.
async fn refuse(refusal: &Refusal, exchange: RequestAccount, waits: bool) -> Response<ResponseBody> {
    if let Some(upload) = &exchange.upload
        && !waits
        && !refusal.reason.closes_connection()
    {
        upload.discard(SHORT_BODY, SHORT_WAIT).await;
    }
    respond::refuse(refusal, exchange)
}

/// The longest body that is read only to keep a connection, and how long for.
const SHORT_BODY: u64 = 64 * 1024;
const SHORT_WAIT: Duration = Duration::from_millis(50);

impl Call<'_> {
    /// Tells the breaker what the app sees, and answers.
    fn finish(
        &self,
        cluster: &Arc<Cluster>,
        ended: Ended,
        permit: Permit<'_>,
        mut exchange: RequestAccount,
    ) -> Response<ResponseBody> {
        let now = exchange.answered_at.unwrap_or_else(Instant::now).into_std();
        match ended {
            Ended::Refused { refusal, verdict } => {
                permit.record(now, verdict);
                if verdict == Verdict::Failure {
                    cluster.record_failure();
                }
                respond::refuse(&refusal, exchange)
            }
            Ended::Answer(answer) => {
                permit.record(now, answer.outcome.verdict());
                if answer.outcome.verdict() == Verdict::Failure {
                    cluster.record_failure();
                }
                exchange.record_answer(answer.response.status(), None);
                if answer.response.status() == StatusCode::SWITCHING_PROTOCOLS {
                    self.tunnel(*answer, exchange)
                } else {
                    self.carry(cluster, *answer, exchange)
                }
            }
        }
    }

    /// The instance's answer, on its way to the app.
    fn carry(
        &self,
        cluster: &Arc<Cluster>,
        answer: Answer,
        exchange: RequestAccount,
    ) -> Response<ResponseBody> {
        let Answer { response, conn, ticket, rest, .. } = answer;
        if let Some(upload) = &exchange.upload {
            upload.keep_no_more();
        }
        let (mut parts, incoming) = response.into_parts();
        headers::strip_response(&mut parts.headers, parts.status);
        let bodiless = respond::bodiless(&self.method, parts.status);
        let close_is_end =
            self.version == Version::HTTP_10 && !bodiless && !parts.headers.contains_key(CONTENT_LENGTH);
        let unfinished = exchange.has_unread_body();
        if unfinished {
            parts.headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        // The length is said anew, once, from what the codec made of it.
        if let (false, Some(length)) = (bodiless, incoming.size_hint().exact()) {
            parts.headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
        }
        let driver = if unfinished { drive_apart(conn) } else { Driver::Here(conn) };
        let ends = self.deadline.cap().map(Instant::from_std);
        if ends.is_some() {
            self.session.set_ends(ends);
        }
        let body = ResponseBody::carried(Carried {
            incoming,
            driver,
            ticket,
            cluster: cluster.clone(),
            rest,
            exchange,
            idle: self.terms.policy.body_idle,
            max_idle: self.terms.policy.pool.max_idle,
            silence: None,
            late: false,
            moved: false,
            ended: false,
            failed: false,
            ends,
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
    fn tunnel(&self, answer: Answer, exchange: RequestAccount) -> Response<ResponseBody> {
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
