//! One HTTP exchange with the agent: a place among the connections, the token, the time-out, one
//! more try where an idle connection had died, and a typed error for everything else.

use std::{error::Error as StdError, fmt, io, time::Duration};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, header};
use http_body_util::Full;
use outrigger_config as config;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use tokio::{sync::watch, time::timeout};

use super::{
    conn::{Broken, Conn, Reply},
    dial::Dialer,
    lane::{Lane, Place},
    observe::{Observer, Watching},
    token::Source,
};
use crate::Error;

/// Longest body that is read.
const MAX_BODY: usize = 64 << 20;

/// Everything that a path segment or a query value may not carry as it is.
const RESERVED: &AsciiSet =
    &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b':');

/// One question.
#[derive(Debug)]
pub(super) struct Ask {
    /// The word for metrics.
    pub(super) operation: &'static str,
    pub(super) method: Method,
    /// Path and query, encoded.
    pub(super) target: String,
    /// JSON, or nothing.
    pub(super) body: Bytes,
    /// Longest time from the place to the last byte of the answer.
    pub(super) longest: Duration,
}

impl Ask {
    /// Method and path, for errors. What the query says is in the caller's log fields.
    pub(super) fn name(&self) -> String {
        let path = self.target.split('?').next().unwrap_or_default();
        format!("{} {path}", self.method)
    }
}

/// The agent, as an HTTP server.
pub(super) struct Http {
    dialer: Dialer,
    host: HeaderValue,
    token: Source,
    observer: Observer,
    max_body: usize,
}

impl Http {
    /// Checks the address, the token and the TLS files. Connects to nobody.
    pub(super) fn new(config: &config::ConsulSettings, observer: Observer) -> Result<Self, Error> {
        let config::ConsulAddress { host, port, .. } = &config.address;
        let authority =
            if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
        let host = HeaderValue::try_from(authority).map_err(|error| Error::Connect {
            address: config.address.to_string(),
            source: io::Error::new(io::ErrorKind::InvalidInput, error),
        })?;
        Ok(Self {
            dialer: Dialer::new(config)?,
            host,
            token: Source::new(config.token.as_ref())?,
            observer,
            max_body: MAX_BODY,
        })
    }

    /// Asks, and has `judge` make something of the whole answer, whatever its status.
    pub(super) async fn ask<T>(
        &self,
        place: Place<'_>,
        ask: Ask,
        judge: impl FnOnce(Reply) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let mut watching = Watching::new(&self.observer, ask.operation);
        let result = timeout(ask.longest, Box::pin(self.exchange(&place, &ask)))
            .await
            .unwrap_or_else(|_| Err(Error::Timeout { request: ask.name(), after: ask.longest }))
            .and_then(judge);
        watching.ended(&result);
        result
    }

    /// A place in `lane`, within `longest`.
    pub(super) async fn place<'a>(
        &self,
        lane: &'a Lane,
        longest: Duration,
        operation: &'static str,
        request: impl FnOnce() -> String,
    ) -> Result<Place<'a>, Error> {
        let mut watching = Watching::new(&self.observer, operation);
        let result = lane.place(longest).await.ok_or_else(|| Error::Busy {
            request: request(),
            limit: lane.limit(),
            after: longest,
        });
        watching.ended(&result);
        if result.is_ok() {
            // The exchange itself is what is told of then.
            watching.forget();
        }
        result
    }

    /// The agent's address, for people.
    pub(super) fn address(&self) -> String {
        self.dialer.address().to_string()
    }

    /// Whether a token is configured.
    pub(super) fn sends_token(&self) -> bool {
        self.token.is_set()
    }

    /// Counts the tokens, where they change.
    pub(super) fn rotations(&self) -> watch::Receiver<u64> {
        self.token.rotations()
    }

    async fn exchange(&self, place: &Place<'_>, ask: &Ask) -> Result<Reply, Error> {
        let request = self.request(ask).await?;
        if let Some(conn) = living(place).await {
            match self.exchange_on(conn, place, request.clone()).await {
                // The agent closed it while the request was on its way. All requests here may be
                // repeated: reads, and writes that state what should be.
                Err(Broken::Unanswered(_)) => {}
                other => return other.map_err(|broken| self.error(ask, broken)),
            }
        }
        let conn = self.dialer.connect().await?;
        self.exchange_on(conn, place, request).await.map_err(|broken| self.error(ask, broken))
    }

    async fn exchange_on(
        &self,
        mut conn: Conn,
        place: &Place<'_>,
        request: Request<Full<Bytes>>,
    ) -> Result<Reply, Broken> {
        let reply = conn.exchange(request, self.max_body).await?;
        place.keep(conn);
        Ok(reply)
    }

    async fn request(&self, ask: &Ask) -> Result<Request<Full<Bytes>>, Error> {
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
            .map_err(|error| Error::Exchange { request: ask.name(), source: error.into() })
    }

    fn error(&self, ask: &Ask, broken: Broken) -> Error {
        let request = ask.name();
        match broken {
            Broken::TooLarge => Error::TooLarge { request, limit: self.max_body },
            Broken::Midway(source) => Error::Exchange { request, source: source.into() },
            Broken::Unanswered(source) => Error::Exchange { request, source: Unanswered(source).into() },
        }
    }

    #[cfg(test)]
    pub(super) fn with_max_body(self, max_body: usize) -> Self {
        Self { max_body, ..self }
    }
}

/// The newest idle connection that still lives. Dead ones are closed on the way.
async fn living(place: &Place<'_>) -> Option<Conn> {
    while let Some(mut conn) = place.idle() {
        if conn.revive().await {
            return Some(conn);
        }
    }
    None
}

/// Escapes one path segment or query value.
pub(super) fn encoded(value: &str) -> impl fmt::Display + '_ {
    utf8_percent_encode(value, RESERVED)
}

/// A fresh connection that ended before a byte of the answer.
#[derive(Debug)]
struct Unanswered(hyper::Error);

impl fmt::Display for Unanswered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "closed without a byte of an answer: the agent stopped, or this address holds all the \
             connections that it allows (limits.http_max_conns_per_client, 200)",
        )
    }
}

impl StdError for Unanswered {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        Some(&self.0)
    }
}
