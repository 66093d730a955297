//! A Consul agent as [`Registry`] and [`Registrar`].
//!
//! Every method is one HTTP exchange. Two kinds of connections are kept apart: agent calls have four
//! of their own, so that a renewal of a TTL never stands in line behind watches; watches share at most
//! `max_connections`, a tenth of them for the questions that are answered at once. Where there
//! are more watches than connections they take turns, with shorter waits: see [`WatchLoad`].
//!
//! What is known of Consul's behaviour was seen on 1.8.7; newer versions answer the same questions
//! with more fields. Nothing here remembers an answer, asks again or logs.

mod agent;
mod conn;
mod cursor;
mod dial;
mod http;
mod lane;
mod observe;
mod refusal;
mod tls;
mod token;
mod wire;

#[cfg(test)]
mod tests;

use std::{fmt, fmt::Write as _, time::Duration};

use ::http::{HeaderMap, Method, StatusCode};
use bytes::Bytes;
use outrigger_config as config;

use self::{
    agent::{Register, Update, check_id, go_duration},
    conn::Reply,
    http::{Ask, Http, encoded},
    lane::{Lane, Place},
};
use crate::{
    Answer, Consistency, Cursor, Error, Held, Query, Registrar, Registration, Registry, ReportedHealth,
    Watched,
    resolve::{Listed, resolve},
};

pub use observe::{Observation, Observer};

/// Connections of their own for agent calls.
const AGENT_CONNECTIONS: usize = 4;
/// Agent calls stall for seven seconds while there is no leader, and then succeed.
const AGENT_CALL: Duration = Duration::from_secs(15);
/// So do reads that are answered at once.
const READ: Duration = Duration::from_secs(10);
/// On top of a blocking query's wait and its jitter of a sixteenth.
const MARGIN: Duration = Duration::from_secs(5);
/// Consul takes longer waits for this one.
const LONGEST_WAIT: Duration = Duration::from_secs(600);
/// A shorter wait than this is no blocking query.
const SHORTEST_WAIT: Duration = Duration::from_millis(10);

/// A Consul agent. Cheap to make; it connects with its first question.
pub struct Consul {
    http: Http,
    datacenter: Option<String>,
    wait: Duration,
    agent: Lane,
    watches: Lane,
    // `None` where one connection is all there is.
    reads: Option<Lane>,
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

/// Who the agent says it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentSelf {
    /// Its node's name.
    pub node: String,
    /// Its datacenter.
    pub datacenter: String,
    /// Its version, as `1.8.7`.
    pub version: String,
}

impl Consul {
    /// Checks the token and the TLS files; a file that cannot be used is [`Error::File`].
    pub fn new(config: &config::Consul) -> Result<Self, Error> {
        Self::with_observer(config, Observer::none())
    }

    /// The same, and `observer` is told about every exchange.
    pub fn with_observer(config: &config::Consul, observer: Observer) -> Result<Self, Error> {
        let (watches, reads) = shares(config.max_connections);
        Ok(Self {
            http: Http::new(config, observer)?,
            datacenter: config.datacenter.clone(),
            wait: config.wait,
            agent: Lane::new(AGENT_CONNECTIONS),
            watches: Lane::new(watches),
            reads: (reads > 0).then(|| Lane::new(reads)),
        })
    }

    /// How full the connections for watches are, for a metric.
    pub fn watch_load(&self) -> WatchLoad {
        let lanes = [Some(&self.watches), self.reads.as_ref()];
        let sum = |of: fn(&Lane) -> usize| lanes.into_iter().flatten().map(of).sum();
        WatchLoad { in_use: sum(Lane::in_use), waiting: sum(Lane::waiting), limit: sum(Lane::limit) }
    }

    /// The leader's address; `None` while there is none. Keeps naming the last one until its loss was
    /// noticed.
    pub async fn leader(&self) -> Result<Option<String>, Error> {
        self.call("leader", Method::GET, "/v1/status/leader".into(), Bytes::new(), wire::leader).await
    }

    /// Who the agent is. Needs `agent:read` where ACLs are on.
    pub async fn agent_self(&self) -> Result<AgentSelf, Error> {
        self.call("self", Method::GET, "/v1/agent/self".into(), Bytes::new(), wire::agent_self).await
    }

    async fn ask_watch(
        &self,
        query: &Query,
        cursor: Cursor,
        consistency: Consistency,
        wait: Duration,
    ) -> Result<Watched, Error> {
        let wait = wait.clamp(SHORTEST_WAIT, LONGEST_WAIT);
        let (ask, place) = if cursor == Cursor::START {
            let ask = self.read(query, consistency);
            let place = self.place(self.reads.as_ref().unwrap_or(&self.watches), &ask, wait).await?;
            (ask, place)
        } else {
            let ask = self.blocking(query, cursor, consistency, wait);
            let place = self.place(&self.watches, &ask, wait).await?;
            let turn = place.turn(wait).max(SHORTEST_WAIT);
            (self.blocking(query, cursor, consistency, turn), place)
        };
        let request = ask.name();
        let (listed, watched) = self
            .http
            .ask(place, ask, |reply| watched(&ok(reply, &request)?, cursor, consistency, &request))
            .await?;
        Ok(Watched { instances: resolve(listed).await, ..watched })
    }

    fn read(&self, query: &Query, consistency: Consistency) -> Ask {
        let target = self.health_target(query, consistency, None);
        Ask { operation: "read", method: Method::GET, target, body: Bytes::new(), longest: READ }
    }

    fn blocking(&self, query: &Query, cursor: Cursor, consistency: Consistency, wait: Duration) -> Ask {
        let target = self.health_target(query, consistency, Some((cursor, wait)));
        let longest = wait + wait / 16 + MARGIN;
        Ask { operation: "watch", method: Method::GET, target, body: Bytes::new(), longest }
    }

    fn health_target(
        &self,
        query: &Query,
        consistency: Consistency,
        from: Option<(Cursor, Duration)>,
    ) -> String {
        let mut options = Vec::new();
        if let Some((cursor, wait)) = from {
            options.push(format!("index={}", cursor.index()));
            options.push(format!("wait={}", go_duration(wait)));
        }
        if let Some(datacenter) = query.datacenter.as_deref().or(self.datacenter.as_deref()) {
            options.push(format!("dc={}", encoded(datacenter)));
        }
        match consistency {
            Consistency::Default => {}
            Consistency::Stale => options.push("stale".into()),
            Consistency::Consistent => options.push("consistent".into()),
        }
        let path = format!("/v1/health/service/{}", encoded(&query.service));
        if options.is_empty() { path } else { format!("{path}?{}", options.join("&")) }
    }

    async fn place<'a>(&self, lane: &'a Lane, ask: &Ask, longest: Duration) -> Result<Place<'a>, Error> {
        self.http.place(lane, longest, ask.operation, || ask.name()).await
    }

    /// An agent call: its answer's body read by `read`.
    async fn call<T>(
        &self,
        operation: &'static str,
        method: Method,
        target: String,
        body: Bytes,
        read: fn(&[u8]) -> serde_json::Result<T>,
    ) -> Result<T, Error> {
        let ask = Ask { operation, method, target, body, longest: AGENT_CALL };
        let request = ask.name();
        self.ask_agent(ask, |reply| {
            read(&ok(reply, &request)?.body).map_err(|error| malformed(&request, &error))
        })
        .await
    }

    async fn ask_agent<T>(
        &self,
        ask: Ask,
        judge: impl FnOnce(Reply) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let place = self.place(&self.agent, &ask, AGENT_CALL).await?;
        self.http.ask(place, ask, judge).await
    }

    /// An agent call that says nothing but yes.
    async fn put(&self, operation: &'static str, target: String, body: Bytes) -> Result<(), Error> {
        self.call(operation, Method::PUT, target, body, |_| Ok(())).await
    }

    async fn ask_held(&self, id: &str, hash: Option<&str>, wait: Duration) -> Result<Option<Held>, Error> {
        let mut target = format!("/v1/agent/service/{}", encoded(id));
        let mut longest = AGENT_CALL;
        if let Some(hash) = hash.filter(|hash| !hash.is_empty()) {
            let wait = wait.clamp(SHORTEST_WAIT, LONGEST_WAIT);
            // Writing to a `String` cannot fail.
            let _ = write!(target, "?hash={}&wait={}", encoded(hash), go_duration(wait));
            longest = wait + wait / 16 + AGENT_CALL;
        }
        let ask = Ask { operation: "held", method: Method::GET, target, body: Bytes::new(), longest };
        let request = ask.name();
        self.ask_agent(ask, |reply| {
            if reply.status == StatusCode::NOT_FOUND {
                return Ok(None);
            }
            let reply = ok(reply, &request)?;
            wire::agent_service(&reply.body).map(Some).map_err(|error| malformed(&request, &error))
        })
        .await
    }
}

impl Registry for Consul {
    fn watch<'a>(
        &'a self,
        query: &'a Query,
        cursor: Cursor,
        consistency: Consistency,
        wait: Duration,
    ) -> Answer<'a, Watched> {
        Box::pin(self.ask_watch(query, cursor, consistency, wait))
    }

    fn kind(&self) -> &'static str {
        "consul"
    }

    fn longest_wait(&self) -> Duration {
        self.wait
    }

    fn empty_hint(&self) -> Option<&'static str> {
        Some(if self.http.sends_token() {
            "if Consul's ACLs are on, the token may lack node:read: lists are then empty without an error"
        } else {
            "if Consul's ACLs are on, no token is set: lists are then empty without an error"
        })
    }
}

impl Registrar for Consul {
    fn register<'a>(&'a self, registration: &'a Registration) -> Answer<'a, ()> {
        Box::pin(async move {
            let body = json(&Register::from(registration))?;
            // Without it checks of an earlier registration under this id would stay and count.
            self.put("register", "/v1/agent/service/register?replace-existing-checks".into(), body).await
        })
    }

    fn deregister<'a>(&'a self, id: &'a str) -> Answer<'a, ()> {
        Box::pin(async move {
            let target = format!("/v1/agent/service/deregister/{}", encoded(id));
            match self.put("deregister", target, Bytes::new()).await {
                // What the agent says of an unknown id where ACLs are on.
                Err(error) if error.is_unknown_service() => Ok(()),
                other => other,
            }
        })
    }

    fn report<'a>(&'a self, id: &'a str, health: ReportedHealth, output: &'a str) -> Answer<'a, ()> {
        Box::pin(async move {
            let body = json(&Update::new(health, output))?;
            self.put("report", format!("/v1/agent/check/update/{}", encoded(&check_id(id))), body).await
        })
    }

    fn maintenance<'a>(&'a self, id: &'a str, on: bool, reason: &'a str) -> Answer<'a, ()> {
        Box::pin(async move {
            let (id, reason) = (encoded(id), encoded(reason));
            let target = format!("/v1/agent/service/maintenance/{id}?enable={on}&reason={reason}");
            self.put("maintenance", target, Bytes::new()).await
        })
    }

    fn held<'a>(&'a self, id: &'a str, hash: Option<&'a str>, wait: Duration) -> Answer<'a, Option<Held>> {
        Box::pin(self.ask_held(id, hash, wait))
    }

    fn all_held(&self) -> Answer<'_, Vec<Held>> {
        let target = "/v1/agent/services".into();
        Box::pin(self.call("all_held", Method::GET, target, Bytes::new(), wire::agent_services))
    }
}

impl fmt::Debug for Consul {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Consul")
            .field("address", &self.http.address())
            .field("datacenter", &self.datacenter)
            .field("load", &self.watch_load())
            .finish_non_exhaustive()
    }
}

/// How many connections are for blocking queries, and how many for the questions that are answered
/// at once: a service's first answer does not stand in line behind watches.
fn shares(max_connections: usize) -> (usize, usize) {
    let all = max_connections.max(1);
    let reads = if all == 1 { 0 } else { (all / 10).max(1) };
    (all - reads, reads)
}

fn ok(reply: Reply, request: &str) -> Result<Reply, Error> {
    if reply.status == StatusCode::OK {
        return Ok(reply);
    }
    Err(refusal::refused(request.to_owned(), reply.status.as_u16(), &reply.body))
}

/// The entries of an answer, still to be resolved, and everything else that it says.
fn watched(
    reply: &Reply,
    sent: Cursor,
    consistency: Consistency,
    request: &str,
) -> Result<(Vec<Listed>, Watched), Error> {
    let listed = wire::health_service(&reply.body).map_err(|error| malformed(request, &error))?;
    let step = cursor::step(sent, text(&reply.headers, "x-consul-index"));
    let age = text(&reply.headers, "x-consul-lastcontact").and_then(|text| text.parse().ok());
    let watched = Watched {
        instances: Vec::new(),
        cursor: step.cursor,
        went_back: step.went_back,
        // The leader's own answers carry a 0 that says nothing.
        age: age.filter(|_| consistency == Consistency::Stale).map(Duration::from_millis),
        known_leader: text(&reply.headers, "x-consul-knownleader") != Some("false"),
    };
    Ok((listed, watched))
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

fn malformed(request: &str, error: &serde_json::Error) -> Error {
    Error::Malformed { request: request.to_owned(), reason: error.to_string() }
}

fn json(body: &impl serde::Serialize) -> Result<Bytes, Error> {
    serde_json::to_vec(body).map(Bytes::from).map_err(|error| malformed("our own request", &error))
}
