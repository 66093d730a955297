//! A Consul agent as [`Registry`](crate::Registry) and [`Registrar`](crate::Registrar).
//!
//! Every method of `Registry` and of [`AgentApi`] is one HTTP exchange; `registrar` makes the five verbs of
//! `Registrar` of them. `drift` compares agent and catalog with what was announced. Agent calls have five slots of their own,
//! so that the renewal of a TTL never waits for watches, and the questions that wait for a change of a registration have theirs. Watches share at most `max_connections` slots; a tenth of them
//! is kept for questions that are answered at once. Where there are more watches than slots, the
//! watches share them by shorter waits: see [`WatchLoad`]. The same happens where the agent takes no more
//! connections of this address, which it counts over all processes: `pressure`.
//!
//! The described behaviour of Consul was observed on 1.8.7; newer versions answer the same questions with
//! more fields. The module remembers no answers except resolved host names and, in [`Seen`](crate::Seen), what `drift`
//! needs. It logs only what it corrects itself, and a token file that becomes unusable or usable.

mod address;
mod agent;
mod agent_api;
mod agent_calls;
mod api_client;
mod catalog_watch;
mod chain;
mod connection;
mod connection_limit;
mod connection_pool;
mod contact;
mod cursor;
mod dial;
mod drift;
mod kv;
mod locks;
mod observe;
mod pressure;
mod refusal;
mod registrar;
mod rival;
mod stale;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
mod token;
mod transaction;
mod watch;
mod wire;

#[cfg(test)]
mod tests;

use std::{fmt, sync::Arc, time::Duration};

use ::http::{Method, StatusCode};
use bytes::Bytes;
use outrigger_config as config;
use parking_lot::Mutex;
use tokio::sync::Semaphore;

use self::{
    api_client::{ApiClient, ApiRequest},
    connection::ApiResponse,
    connection_limit::{ConnectionLimit, Slot},
    token::TokenSource,
};
use crate::{Error, resolve::Resolver};

pub use agent_api::{AgentApi, AgentService, OwnCheck, ServiceChecks};
pub use observe::{Observation, Observer};

/// Connections that are kept for agent calls, which are answered at once.
const AGENT_CONNECTIONS: usize = 5;
/// Connections of the questions about registrations, two for each, which wait at the agent. Beyond 64 registrations they
/// take turns.
const REGISTRATION_CONNECTIONS: usize = 128;
/// Agent calls stall for seven seconds while the cluster has no leader, and then succeed.
const AGENT_CALL_TIMEOUT: Duration = Duration::from_secs(15);
/// The longest wait of a question about the registration while the agent takes no more connections: a report may need the
/// connection.
const PRESSED_WAIT: Duration = Duration::from_secs(5);
/// Consul shortens longer waits to this one.
const LONGEST_WAIT: Duration = Duration::from_secs(600);
/// A blocking query with a shorter wait would not block.
const SHORTEST_WAIT: Duration = Duration::from_millis(10);

/// A Consul agent. It connects with its first question.
pub struct Consul {
    api: ApiClient,
    resolver: Resolver,
    datacenter: Option<String>,
    // The agent's own datacenter, once it is known. Locked for a copy or a replacement.
    own_datacenter: Mutex<Option<Arc<str>>>,
    // Locked for a copy or a replacement.
    wait: Mutex<Duration>,
    agent_connections: ConnectionLimit,
    // Apart from those of agent calls: a report must not wait for a question that waits, however many services the app has.
    registration_connections: ConnectionLimit,
    // `None` where `max_connections` is 1.
    read_connections: Option<ConnectionLimit>,
    // Of the reads, those in other datacenters: one of these may not answer at all, and leaves connections to the others.
    reads_elsewhere: Semaphore,
}

/// How many of the connections for watches are in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WatchLoad {
    /// Blocking queries and reads in progress.
    pub in_use: usize,
    /// Watches that wait for a connection. Above 0 for long: there are more watched services than
    /// connections, and changes are seen some seconds late.
    pub waiting: usize,
    /// The limit: `registry.consul.max_connections`, or fewer while the agent takes no more connections.
    pub limit: usize,
}

/// A token that was read, for [`Consul::apply_settings`].
pub struct NewCredentials(TokenSource);

impl fmt::Debug for NewCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NewCredentials")
    }
}

impl Consul {
    /// Reads the token file and the TLS files. A file that cannot be used is [`Error::File`]. When the
    /// token file becomes unusable later, the last token stays in use and a warning is logged.
    pub fn new(config: &config::ConsulSettings) -> Result<Self, Error> {
        Self::with_observer(config, Observer::none())
    }

    /// As [`Consul::new`]; `observer` is called with every exchange.
    pub fn with_observer(config: &config::ConsulSettings, observer: Observer) -> Result<Self, Error> {
        let (watches, reads) = split_connections(config.max_connections);
        Ok(Self {
            api: ApiClient::new(config, watches, observer)?,
            resolver: Resolver::new(),
            datacenter: config.datacenter.clone(),
            own_datacenter: Mutex::default(),
            wait: Mutex::new(config.wait),
            agent_connections: ConnectionLimit::new(AGENT_CONNECTIONS),
            registration_connections: ConnectionLimit::new(REGISTRATION_CONNECTIONS),
            read_connections: (reads > 0).then(|| ConnectionLimit::new(reads)),
            reads_elsewhere: Semaphore::new((reads / 2).max(1)),
        })
    }

    /// Puts other settings in place: the longest wait of watches, and where the credentials are replaced,
    /// [`read_credentials`](Self::read_credentials). The other settings stay.
    pub fn apply_settings(&self, wait: Duration, credentials: Option<NewCredentials>) {
        *self.wait.lock() = wait;
        if let Some(NewCredentials(source)) = credentials {
            self.api.token.replace(source);
        }
    }

    /// Whether one connection stays for registration and reports, because an app is registered. It is opened before those of watches.
    pub fn keep_connection_for_calls(&self, keeps_one: bool) {
        self.api.pool.keep_one(keeps_one);
    }

    /// Reads the token that other settings name. A file that cannot be used is [`Error::File`].
    pub fn read_credentials(token: Option<&config::Token>) -> Result<NewCredentials, Error> {
        TokenSource::new(token).map(NewCredentials)
    }

    /// Asks whether the agent accepts connections, by one more that is closed again: connections that are open may be silent because
    /// this machine has no route any more. Takes 4 s at most, and 2 s for each further address of its name.
    ///
    /// # Errors
    /// When it accepts none.
    pub async fn reach(&self) -> Result<(), Error> {
        self.api.dialer.reach().await
    }

    /// How many of the connections for watches are in use, for a metric.
    pub fn watch_load(&self) -> WatchLoad {
        let limits = [Some(&self.api.watches), self.read_connections.as_ref()];
        let sum = |of: fn(&ConnectionLimit) -> usize| limits.into_iter().flatten().map(of).sum();
        WatchLoad {
            in_use: sum(ConnectionLimit::in_use),
            waiting: sum(ConnectionLimit::waiting),
            limit: sum(ConnectionLimit::limit),
        }
    }

    /// The wait of a question about the registration.
    fn agent_wait(&self, wait: Duration) -> Duration {
        let longest = if self.api.watches.is_pressed() { PRESSED_WAIT } else { LONGEST_WAIT };
        wait.clamp(SHORTEST_WAIT, longest)
    }

    async fn acquire_slot<'a>(
        &self,
        limit: &'a ConnectionLimit,
        ask: &ApiRequest,
        longest: Duration,
    ) -> Result<Slot<'a>, Error> {
        self.api.acquire_slot(limit, longest, ask.operation, || ask.method_and_path()).await
    }

    /// An agent call; `read` parses the body of the answer.
    async fn call_agent<T>(
        &self,
        operation: &'static str,
        method: Method,
        target: String,
        body: Bytes,
        read: fn(&[u8]) -> serde_json::Result<T>,
    ) -> Result<T, Error> {
        let ask = ApiRequest::call(operation, method, target, body, AGENT_CALL_TIMEOUT);
        let request = ask.method_and_path();
        self.send_to_agent(ask, |reply| {
            expect_ok(&reply, &request)?;
            read(&reply.body).map_err(|error| malformed(&request, &error))
        })
        .await
    }

    async fn send_to_agent<T>(
        &self,
        ask: ApiRequest,
        parse: impl FnOnce(ApiResponse) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let slots = if ask.can_wait { &self.registration_connections } else { &self.agent_connections };
        let slot = self.acquire_slot(slots, &ask, AGENT_CALL_TIMEOUT).await?;
        self.api.send(slot, ask, parse).await
    }

    /// An agent call; its answer has no content.
    async fn put(&self, operation: &'static str, target: String, body: Bytes) -> Result<(), Error> {
        self.call_agent(operation, Method::PUT, target, body, |_| Ok(())).await
    }
}

impl fmt::Debug for Consul {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Consul")
            .field("address", &self.api.dialer.address.to_string())
            .field("datacenter", &self.datacenter)
            .field("load", &self.watch_load())
            .finish_non_exhaustive()
    }
}

/// The number of connections for blocking queries, and the number for questions that are answered at once:
/// the first answer of a service does not wait for watches.
fn split_connections(max_connections: usize) -> (usize, usize) {
    let all = max_connections.max(1);
    let reads = if all == 1 { 0 } else { (all / 10).max(1) };
    (all - reads, reads)
}

fn expect_ok(reply: &ApiResponse, request: &str) -> Result<(), Error> {
    if reply.status == StatusCode::OK {
        return Ok(());
    }
    Err(refusal::refused_error(request.to_owned(), reply.status.as_u16(), &reply.body))
}

/// The reason may quote the answer, which may be large: it is cut.
fn malformed(request: &str, error: &serde_json::Error) -> Error {
    Error::Malformed { request: request.to_owned(), reason: refusal::one_line(error.to_string().as_bytes()) }
}
