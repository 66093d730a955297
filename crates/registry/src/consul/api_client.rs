//! One HTTP exchange with the agent: connection limit, token, time-out, one repetition where an idle
//! connection was closed, and a typed error for every other failure.

use std::{error::Error as StdError, fmt, io, time::Duration};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, header};
use http_body_util::Full;
use outrigger_config as config;
use outrigger_net::format_host_port;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use tokio::time::timeout;

use super::{
    connection::{AgentConnection, ApiResponse, ExchangeFailure},
    connection_limit::{ConnectionLimit, Slot},
    dial::Dialer,
    observe::{ObservedExchange, Observer},
    token::{CurrentToken, TokenSource},
};
use crate::Error;

/// Longest body that is read.
const MAX_BODY: usize = 64 << 20;

/// Every character that must be escaped in a path segment or a query value.
const RESERVED: &AsciiSet =
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
    /// Longest time from the slot to the last byte of the answer.
    pub(super) timeout: Duration,
}

impl ApiRequest {
    /// A request without a body.
    pub(super) fn get(operation: &'static str, target: String, timeout: Duration) -> Self {
        Self { operation, method: Method::GET, target, body: Bytes::new(), timeout }
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
    max_body: usize,
}

impl ApiClient {
    /// Checks the address, the token and the TLS files. Opens no connection.
    pub(super) fn new(config: &config::ConsulSettings, observer: Observer) -> Result<Self, Error> {
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
            max_body: MAX_BODY,
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
        let result = timeout(ask.timeout, Box::pin(self.exchange(&slot, &ask)))
            .await
            .unwrap_or_else(|_| Err(Error::Timeout { request: ask.method_and_path(), after: ask.timeout }))
            .and_then(parse);
        observed.set_outcome(&result);
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
            limit: limit.limit,
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
        if let Some(conn) = pop_reusable(slot).await {
            match self.exchange_on(conn, slot, request.clone()).await {
                // The agent closed the connection while the request was in transit. Every request of this
                // client may be repeated: reads, and writes that state a desired content.
                Err(ExchangeFailure::Unanswered(_)) => {}
                other => return other.map_err(|broken| self.exchange_error(ask, broken)),
            }
        }
        let stream = self.dialer.connect().await?;
        let conn = AgentConnection::new(stream)
            .await
            .map_err(|error| self.dialer.connect_error(io::Error::other(error)))?;
        self.exchange_on(conn, slot, request).await.map_err(|broken| self.exchange_error(ask, broken))
    }

    async fn exchange_on(
        &self,
        mut conn: AgentConnection,
        slot: &Slot<'_>,
        request: Request<Full<Bytes>>,
    ) -> Result<ApiResponse, ExchangeFailure> {
        let reply = conn.exchange(request, self.max_body).await?;
        slot.push_idle(conn);
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
                None => {
                    let hint = self.dialer.unanswered_hint();
                    Error::Exchange { request, source: ClosedUnanswered { source, hint }.into() }
                }
            },
        }
    }

    #[cfg(test)]
    pub(super) fn with_max_body(self, max_body: usize) -> Self {
        Self { max_body, ..self }
    }
}

/// The newest idle connection that can be used. Connections that cannot be used are closed.
async fn pop_reusable(slot: &Slot<'_>) -> Option<AgentConnection> {
    while let Some(mut conn) = slot.pop_idle() {
        if conn.is_reusable().await {
            return Some(conn);
        }
    }
    None
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

/// A new connection that ended before a byte of the answer.
#[derive(Debug)]
struct ClosedUnanswered {
    source: hyper::Error,
    /// What else it may mean, and what to do then.
    hint: Option<&'static str>,
}

impl fmt::Display for ClosedUnanswered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "closed without a byte of an answer: the agent stopped, or this address holds all the \
             connections that it allows (limits.http_max_conns_per_client, 200)",
        )?;
        self.hint.map_or(Ok(()), |hint| write!(f, "; {hint}"))
    }
}

impl StdError for ClosedUnanswered {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        Some(&self.source)
    }
}
