//! A Consul agent as [`Registry`](crate::Registry) and [`Registrar`](crate::Registrar).
//!
//! Every method is one HTTP exchange. Two kinds of connections are kept apart: agent calls have five
//! of their own, so that a renewal of a TTL never stands in line behind watches; watches share at most
//! `max_connections`, a tenth of them for the questions that are answered at once. Where there
//! are more watches than connections they take turns, with shorter waits: see [`WatchLoad`].
//!
//! What is known of Consul's behaviour was seen on 1.8.7; newer versions answer the same questions
//! with more fields. Nothing here remembers an answer (but what host names came to) or asks again, and nothing is logged but a token
//! file that goes bad.

mod agent;
mod api_client;
mod connection;
mod connection_limit;
mod cursor;
mod dial;
mod observe;
mod refusal;
mod registrar;
mod token;
mod watch;
mod wire;

#[cfg(test)]
mod tests;

use std::{fmt, time::Duration};

use ::http::{Method, StatusCode};
use bytes::Bytes;
use outrigger_config as config;

use self::{
    api_client::{ApiClient, ApiRequest},
    connection::ApiResponse,
    connection_limit::{ConnectionLimit, Slot},
};
use crate::{Error, resolve::Resolver};

pub use observe::{Observation, Observer};

/// Connections of their own for agent calls.
const AGENT_CONNECTIONS: usize = 5;
/// Agent calls stall for seven seconds while there is no leader, and then succeed.
const AGENT_CALL_TIMEOUT: Duration = Duration::from_secs(15);
/// Consul takes longer waits for this one.
const LONGEST_WAIT: Duration = Duration::from_secs(600);
/// A shorter wait than this is no blocking query.
const SHORTEST_WAIT: Duration = Duration::from_millis(10);

/// A Consul agent. Cheap to make; it connects with its first question.
pub struct Consul {
    api: ApiClient,
    resolver: Resolver,
    datacenter: Option<String>,
    wait: Duration,
    agent_connections: ConnectionLimit,
    watch_connections: ConnectionLimit,
    // `None` where one connection is all there is.
    read_connections: Option<ConnectionLimit>,
}

/// How full the connections for watches are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WatchLoad {
    /// Blocking queries and reads under way.
    pub in_use: usize,
    /// Watches in line for their turn. Above 0 for long: there are more watched services than
    /// connections, and changes are heard some seconds late.
    pub waiting: usize,
    /// Most at once: `registry.consul.max_connections`.
    pub limit: usize,
}

impl Consul {
    /// Reads the token's file and the TLS files; one that cannot be used is [`Error::File`]. A token's
    /// file that goes bad later leaves the last token in use, and is logged.
    pub fn new(config: &config::ConsulSettings) -> Result<Self, Error> {
        Self::with_observer(config, Observer::none())
    }

    /// The same, and `observer` is told about every exchange.
    pub fn with_observer(config: &config::ConsulSettings, observer: Observer) -> Result<Self, Error> {
        let (watches, reads) = split_connections(config.max_connections);
        Ok(Self {
            api: ApiClient::new(config, observer)?,
            resolver: Resolver::new(),
            datacenter: config.datacenter.clone(),
            wait: config.wait,
            agent_connections: ConnectionLimit::new(AGENT_CONNECTIONS),
            watch_connections: ConnectionLimit::new(watches),
            read_connections: (reads > 0).then(|| ConnectionLimit::new(reads)),
        })
    }

    /// How full the connections for watches are, for a metric.
    pub fn watch_load(&self) -> WatchLoad {
        let lanes = [Some(&self.watch_connections), self.read_connections.as_ref()];
        let sum = |of: fn(&ConnectionLimit) -> usize| lanes.into_iter().flatten().map(of).sum();
        WatchLoad {
            in_use: sum(ConnectionLimit::in_use),
            waiting: sum(ConnectionLimit::waiting),
            limit: sum(ConnectionLimit::limit),
        }
    }

    async fn acquire_slot<'a>(
        &self,
        lane: &'a ConnectionLimit,
        ask: &ApiRequest,
        longest: Duration,
    ) -> Result<Slot<'a>, Error> {
        self.api.acquire_slot(lane, longest, ask.operation, || ask.method_and_path()).await
    }

    /// An agent call: its answer's body read by `read`.
    async fn call_agent<T>(
        &self,
        operation: &'static str,
        method: Method,
        target: String,
        body: Bytes,
        read: fn(&[u8]) -> serde_json::Result<T>,
    ) -> Result<T, Error> {
        let ask = ApiRequest { operation, method, target, body, timeout: AGENT_CALL_TIMEOUT };
        let request = ask.method_and_path();
        self.send_to_agent(ask, |reply| {
            read(&expect_ok(reply, &request)?.body).map_err(|error| malformed(&request, &error))
        })
        .await
    }

    async fn send_to_agent<T>(
        &self,
        ask: ApiRequest,
        judge: impl FnOnce(ApiResponse) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let place = self.acquire_slot(&self.agent_connections, &ask, AGENT_CALL_TIMEOUT).await?;
        self.api.send(place, ask, judge).await
    }

    /// An agent call that says nothing but yes.
    async fn put(&self, operation: &'static str, target: String, body: Bytes) -> Result<(), Error> {
        self.call_agent(operation, Method::PUT, target, body, |_| Ok(())).await
    }
}

impl fmt::Debug for Consul {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Consul")
            .field("address", &self.api.address())
            .field("datacenter", &self.datacenter)
            .field("load", &self.watch_load())
            .finish_non_exhaustive()
    }
}

/// How many connections are for blocking queries, and how many for the questions that are answered
/// at once: a service's first answer does not stand in line behind watches.
fn split_connections(max_connections: usize) -> (usize, usize) {
    let all = max_connections.max(1);
    let reads = if all == 1 { 0 } else { (all / 10).max(1) };
    (all - reads, reads)
}

fn expect_ok(reply: ApiResponse, request: &str) -> Result<ApiResponse, Error> {
    if reply.status == StatusCode::OK {
        return Ok(reply);
    }
    Err(refusal::refused_error(request.to_owned(), reply.status.as_u16(), &reply.body))
}

/// The reason quotes what was found, which may be as long as an answer may be: it is cut.
fn malformed(request: &str, error: &serde_json::Error) -> Error {
    Error::Malformed { request: request.to_owned(), reason: refusal::one_line(error.to_string().as_bytes()) }
}
