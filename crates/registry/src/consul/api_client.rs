//! One HTTP exchange with the agent: connection limit, token, time-out, one repetition where an idle
//! connection was closed, and a typed error for every other failure.
//!
//! **An agent that takes no more connections of this address** closes a new one without a byte, or with status 429. A call
//! that cannot wait takes the next connection that any other question of this process gives back; a watch gives its slot up.
//! A connection of a process with several is replaced after [`RENEW_AFTER`], the new one first: so a process that has its
//! connections notices that others have none, and gives some up ([`pressure`](super::pressure)). Where the app is registered, the
//! first connection is opened for the calls, before the watches take all that the agent allows.

use std::{fmt, io, time::Duration};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, header};
use http_body_util::Full;
use outrigger_config as config;
use outrigger_net::format_host_port;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use tokio::{
    sync::Mutex,
    time::{Instant, sleep, timeout},
};
use tracing::warn;

use super::{
    connection::{AgentConnection, ApiResponse, ExchangeFailure},
    connection_limit::{ConnectionLimit, Slot},
    connection_pool::ConnectionPool,
    contact::{AgentContact, AnsweredBy},
    dial::{Dialer, is_end},
    observe::{ObservedExchange, Observer},
    pressure::Refused,
    refusal::is_connection_limit,
    token::{CurrentToken, TokenSource},
};
use crate::Error;

/// Longest body that is read.
const MAX_BODY: usize = 64 << 20;
/// Pause before a connection is tried again that was closed without a byte: an agent that stops takes none then.
const SECOND_TRY_AFTER: Duration = Duration::from_millis(50);
/// How often a call that cannot wait tries a new connection while it waits for one of this process.
const URGENT_RETRY_INTERVAL: Duration = Duration::from_millis(250);
/// Longest wait for one: waits of watches are shorter while the agent refuses connections.
const URGENT_WAIT: Duration = Duration::from_secs(12);
/// Age of a connection that is replaced by a new one.
const RENEW_AFTER: Duration = Duration::from_secs(30);
/// Least time between two attempts to open the connection for calls.
const RESERVE_INTERVAL: Duration = Duration::from_secs(1);
/// A process with fewer connections replaces none: it has none to give up.
const RENEW_FROM: usize = 6;

/// Every character that must be escaped in a path segment or a query value.
pub(super) const RESERVED: &AsciiSet =
    &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b':');

/// One request to the agent.
#[derive(Debug)]
pub(super) struct ApiRequest {
    /// Its label in metrics.
    pub(super) operation: &'static str,
    pub(super) method: Method,
    /// Path and query, encoded.
    pub(super) target: String,
    /// JSON, or empty.
    pub(super) body: Bytes,
    /// It waits at the agent for a change, or a watch makes it: calls come first where connections are few.
    pub(super) can_wait: bool,
    /// Longest time from the slot to the last byte of the answer.
    pub(super) timeout: Duration,
}

impl ApiRequest {
    /// A request without a body that can wait.
    pub(super) fn get(operation: &'static str, target: String, timeout: Duration) -> Self {
        Self { operation, method: Method::GET, target, body: Bytes::new(), can_wait: true, timeout }
    }

    /// A call that cannot wait, with `body` as JSON, or empty.
    pub(super) fn call(
        operation: &'static str,
        method: Method,
        target: String,
        body: Bytes,
        timeout: Duration,
    ) -> Self {
        Self { operation, method, target, body, can_wait: false, timeout }
    }

    /// The request, before all that can wait.
    pub(super) fn urgent(self) -> Self {
        Self { can_wait: false, ..self }
    }

    /// Method and path, for errors. The query is in the log fields of the caller.
    pub(super) fn method_and_path(&self) -> String {
        let path = self.target.split('?').next().unwrap_or_default();
        format!("{} {path}", self.method)
    }
}

/// The HTTP client of the agent.
pub(super) struct ApiClient {
    pub(super) dialer: Dialer,
    host: HeaderValue,
    pub(super) token: CurrentToken,
    observer: Observer,
    pub(super) pool: ConnectionPool,
    /// The slots of the watches, which get fewer while the agent takes no more connections.
    pub(super) watches: ConnectionLimit,
    /// When the connection for calls was opened or could not be.
    reserved_at: Mutex<Option<Instant>>,
    max_body: usize,
    pub(super) contact: AgentContact,
}

impl ApiClient {
    /// Checks the address, the token and the TLS files. Opens no connection. `watches`: the most connections of watches.
    pub(super) fn new(
        config: &config::ConsulSettings,
        watches: usize,
        observer: Observer,
    ) -> Result<Self, Error> {
        let config::ConsulAddress { host, port, .. } = &config.address;
        // The zone of a link-local address holds on this machine alone (RFC 6874 §4).
        let host = host.split('%').next().unwrap_or(host);
        let host = HeaderValue::try_from(format_host_port(host, *port)).map_err(|error| Error::Connect {
            address: config.address.to_string(),
            source: io::Error::new(io::ErrorKind::InvalidInput, error),
        })?;
        Ok(Self {
            dialer: Dialer::new(config)?,
            host,
            token: CurrentToken::new(TokenSource::new(config.token.as_ref())?),
            observer,
            pool: ConnectionPool::default(),
            watches: ConnectionLimit::yielding(watches),
            reserved_at: Mutex::new(None),
            max_body: MAX_BODY,
            contact: AgentContact::default(),
        })
    }

    /// Sends the request; `parse` makes the result from the complete answer, whatever its status.
    pub(super) async fn send<T>(
        &self,
        slot: Slot<'_>,
        ask: ApiRequest,
        parse: impl FnOnce(ApiResponse) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let mut observed = ObservedExchange::new(&self.observer, ask.operation);
        let (asked_at, by) = (Instant::now(), AnsweredBy::of(&ask.target));
        let result = timeout(ask.timeout, Box::pin(self.exchange(&slot, &ask)))
            .await
            .unwrap_or_else(|_| Err(Error::Timeout { request: ask.method_and_path(), after: ask.timeout }))
            .and_then(parse);
        observed.set_outcome(&result);
        self.contact.record(by, asked_at, &result);
        result
    }

    /// A slot of the connection limit `limit`, within `longest`.
    pub(super) async fn acquire_slot<'a>(
        &self,
        limit: &'a ConnectionLimit,
        longest: Duration,
        operation: &'static str,
        request: impl FnOnce() -> String,
    ) -> Result<Slot<'a>, Error> {
        let mut observed = ObservedExchange::new(&self.observer, operation);
        let result = limit.acquire(longest).await.ok_or_else(|| Error::Busy {
            request: request(),
            limit: limit.limit(),
            after: longest,
        });
        observed.set_outcome(&result);
        if result.is_ok() {
            // The exchange is reported instead.
            observed.discard();
        }
        result
    }

    async fn exchange(&self, slot: &Slot<'_>, ask: &ApiRequest) -> Result<ApiResponse, Error> {
        let request = self.build_request(ask).await?;
        if let Some(conn) = self.pool.pop_idle(!ask.can_wait).await {
            let conn = self.renew(conn).await;
            match self.exchange_on(conn, slot, request.clone()).await {
                // The agent closed the connection while the request was in transit. Every request of this
                // client may be repeated: reads, and writes that state a desired content. A repeated write under a
                // condition may find it broken by the first one: its caller reads the key.
                Err(ExchangeFailure::Unanswered(_)) => {}
                other => return other.map_err(|broken| self.exchange_error(ask, broken)),
            }
        }
        if ask.can_wait {
            self.open_for_calls().await;
        }
        if let Some(reply) = self.exchange_on_new(slot, ask, &request).await? {
            return Ok(reply);
        }
        self.record_refusal(if slot.is_of(&self.watches) { Refused::Watch } else { Refused::Other });
        if !ask.can_wait
            && let Some(reply) = self.exchange_in_turn(slot, ask, &request).await?
        {
            return Ok(reply);
        }
        let open = self.pool.open();
        // Others are open: the protocol is right.
        let hint = if open == 0 { self.dialer.unanswered_hint() } else { None };
        Err(Error::ConnectionLimit { request: ask.method_and_path(), open, hint })
    }

    /// An exchange on a new connection. `None`: the agent takes no more connections of this address, or it is about to stop.
    async fn exchange_on_new(
        &self,
        slot: &Slot<'_>,
        ask: &ApiRequest,
        request: &Request<Full<Bytes>>,
    ) -> Result<Option<ApiResponse>, Error> {
        for pause in [Duration::ZERO, SECOND_TRY_AFTER] {
            sleep(pause).await;
            let Some(conn) = self.connect().await? else { continue };
            match self.exchange_on(conn, slot, request.clone()).await {
                Ok(reply) if is_connection_limit(reply.status, &reply.body) => return Ok(None),
                Ok(reply) => return Ok(Some(reply)),
                Err(ExchangeFailure::Unanswered(source))
                    if self.dialer.exchange_hint(&source, false).is_none() => {}
                Err(broken) => return Err(self.exchange_error(ask, broken)),
            }
        }
        Ok(None)
    }

    /// Opens the connection that stays for calls, if the app is registered and no connection is open. A question that can wait, which is
    /// about to open one, waits for that.
    async fn open_for_calls(&self) {
        let is_due = || self.pool.keeps_one() && self.pool.open() == 0;
        if !is_due() {
            return;
        }
        let mut reserved_at = self.reserved_at.lock().await;
        let was_tried = reserved_at.is_some_and(|at| at.elapsed() < RESERVE_INTERVAL);
        if is_due() && !was_tried {
            // The question that waits has the same error.
            if let Ok(Some(conn)) = self.connect().await {
                self.pool.give_back(conn);
            }
            *reserved_at = Some(Instant::now());
        }
    }

    /// An exchange on the next connection that another question of this process gives back, or on a new one. `None`: there was
    /// none in time.
    async fn exchange_in_turn(
        &self,
        slot: &Slot<'_>,
        ask: &ApiRequest,
        request: &Request<Full<Bytes>>,
    ) -> Result<Option<ApiResponse>, Error> {
        let give_up_at = Instant::now() + URGENT_WAIT;
        while self.pool.open() > 0 && Instant::now() < give_up_at {
            let Some(conn) = self.pool.wait_for_idle(URGENT_RETRY_INTERVAL).await else {
                match self.exchange_on_new(slot, ask, request).await? {
                    Some(reply) => return Ok(Some(reply)),
                    None => continue,
                }
            };
            match self.exchange_on(conn, slot, request.clone()).await {
                Err(ExchangeFailure::Unanswered(_)) => {}
                other => return other.map(Some).map_err(|broken| self.exchange_error(ask, broken)),
            }
        }
        Ok(None)
    }

    /// A new connection. `None`: the agent closed it within the handshake of TLS, while others of this process are open.
    async fn connect(&self) -> Result<Option<AgentConnection>, Error> {
        match self.dialer.connect().await {
            Ok(stream) => AgentConnection::new(stream, self.pool.count())
                .await
                .map(Some)
                .map_err(|error| self.dialer.connect_error(io::Error::other(error))),
            Err(error) if self.pool.open() > 0 && is_closed_at_once(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// A new connection in the place of an old one, if this process has several, and the agent takes it.
    async fn renew(&self, mut conn: AgentConnection) -> AgentConnection {
        if conn.age() < RENEW_AFTER || self.pool.open() < RENEW_FROM {
            return conn;
        }
        conn.restart_age();
        // An error is left to the next connection that is needed.
        let Ok(renewed) = self.connect().await else { return conn };
        if let Some(mut renewed) = renewed
            && renewed.is_accepted().await
        {
            return renewed;
        }
        self.record_refusal(Refused::Other);
        conn
    }

    fn record_refusal(&self, refused: Refused) {
        self.watches.record_refusal(refused);
        self.pool.close_idle();
        if self.watches.is_worth_a_warning() {
            let (open, watches) = (self.pool.open(), self.watches.limit());
            warn!(
                open,
                watches,
                "Consul closes new connections of this address: it allows limits.http_max_conns_per_client (200 by \
                 default) to all processes of this host together; watches share fewer connections now and see changes \
                 later; raise that limit in the agent's configuration"
            );
        }
    }

    async fn exchange_on(
        &self,
        mut conn: AgentConnection,
        slot: &Slot<'_>,
        request: Request<Full<Bytes>>,
    ) -> Result<ApiResponse, ExchangeFailure> {
        let reply = conn.exchange(request, self.max_body).await?;
        if !slot.is_surplus() || self.pool.is_awaited() {
            self.pool.give_back(conn);
        }
        Ok(reply)
    }

    async fn build_request(&self, ask: &ApiRequest) -> Result<Request<Full<Bytes>>, Error> {
        let mut request = Request::builder()
            .method(&ask.method)
            .uri(&ask.target)
            .header(header::HOST, &self.host)
            .header(header::USER_AGENT, concat!("outrigger/", env!("CARGO_PKG_VERSION")));
        if let Some(token) = self.token.header().await {
            request = request.header("x-consul-token", token);
        }
        if !ask.body.is_empty() {
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        request
            .body(Full::new(ask.body.clone()))
            .map_err(|error| Error::Exchange { request: ask.method_and_path(), source: error.into() })
    }

    fn exchange_error(&self, ask: &ApiRequest, broken: ExchangeFailure) -> Error {
        let request = ask.method_and_path();
        match broken {
            ExchangeFailure::TooLarge => Error::TooLarge { request, limit: self.max_body },
            ExchangeFailure::Midway(source) => match self.dialer.exchange_hint(&source, source.is_parse()) {
                Some(hint) => Error::Exchange { request, source: HintedError::new(&source, hint).into() },
                None => Error::Exchange { request, source: source.into() },
            },
            ExchangeFailure::Unanswered(source) => match self.dialer.exchange_hint(&source, false) {
                Some(hint) => Error::Exchange { request, source: HintedError::new(&source, hint).into() },
                None => Error::Exchange { request, source: source.into() },
            },
        }
    }

    #[cfg(test)]
    pub(super) fn with_max_body(self, max_body: usize) -> Self {
        Self { max_body, ..self }
    }
}

/// Whether the peer closed the connection before the handshake of TLS was over.
fn is_closed_at_once(error: &Error) -> bool {
    matches!(error, Error::Connect { source, .. } if is_end(source))
}

/// Escapes one path segment or query value.
pub(super) fn percent_encode(value: &str) -> impl fmt::Display + '_ {
    utf8_percent_encode(value, RESERVED)
}

/// A broken exchange, with what to do about it. It has no source, because its text holds the causes.
#[derive(Debug, thiserror::Error)]
#[error("{causes}; {hint}")]
struct HintedError {
    causes: String,
    hint: &'static str,
}

impl HintedError {
    fn new(error: &hyper::Error, hint: &'static str) -> Self {
        Self { causes: config::error_chain(error), hint }
    }
}
