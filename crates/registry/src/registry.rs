//! The questions that every registry answers. The loops that ask them are in other crates.

use std::{fmt, future::Future, pin::Pin, sync::Arc, time::Duration};

use tokio::sync::watch;

use crate::{Error, Instance};

/// A boxed answer, because the registry is chosen at run time. Not used on the path of a request.
pub type AnswerFuture<'a, T> = Pin<Box<dyn Future<Output = Result<T, Error>> + Send + 'a>>;

/// The service that a question is about.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Query {
    /// Its name, lower case.
    pub service: Arc<str>,
    /// Its datacenter. Absent: the registry's default.
    pub datacenter: Option<Arc<str>>,
}

impl fmt::Display for Query {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.datacenter {
            None => self.service.fmt(f),
            Some(datacenter) => write!(f, "{}@{datacenter}", self.service),
        }
    }
}

/// How fresh an answer must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Consistency {
    /// The registry's default: in Consul the leader answers.
    #[default]
    Default,
    /// Any server may answer, also while the cluster has no leader.
    Stale,
    /// The leader confirms its leadership first.
    Consistent,
}

/// The position of a watch. Only the registry that made it can read it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Cursor(pub(crate) u64);

impl Cursor {
    /// The cursor of a watch that has no answer yet: its next question is answered at once.
    pub const START: Self = Self(0);

    /// The raw index, for a metric.
    pub fn index(self) -> u64 {
        self.0
    }

    /// A cursor at `index`, for tests and other registries.
    pub fn at(index: u64) -> Self {
        Self(index)
    }
}

/// One answer of a watch.
#[derive(Debug, Clone, PartialEq)]
pub struct WatchAnswer {
    /// Every instance of the service, critical ones included.
    pub instances: Vec<Instance>,
    /// The cursor of the next question; [`Cursor::START`] when the index went back or cannot be used.
    pub cursor: Cursor,
    /// The index of the registry went back: the registry was restarted, or another server answered.
    pub index_went_back: bool,
    /// The age of the answer, where the registry states it (Consul: `X-Consul-LastContact` of a stale
    /// read). `None`: the answer is current.
    pub age: Option<Duration>,
    /// Consul: whether the server that answered knows a leader. `true` in other registries.
    pub known_leader: bool,
}

/// A source of instances.
pub trait Registry: fmt::Debug + Send + Sync + 'static {
    /// One question. It is answered when the instances of the service may have changed since `cursor`, or
    /// after about `wait`; at once for [`Cursor::START`]. No answer within `wait` + `wait`/16 and a margin
    /// is an error. The time spent waiting for a connection counts as `wait`; when `wait` ends there, the
    /// error is [`Error::Busy`].
    fn watch<'a>(
        &'a self,
        query: &'a Query,
        cursor: Cursor,
        consistency: Consistency,
        wait: Duration,
    ) -> AnswerFuture<'a, WatchAnswer>;

    /// The longest `wait` that a caller should ask for.
    fn longest_wait(&self) -> Duration;

    /// A possible reason for an answer that is empty where instances were expected, for pages and error
    /// bodies. `None`: an empty answer means that there are no instances.
    fn empty_hint(&self) -> Option<&'static str> {
        None
    }
}

/// A place where the local app is registered.
pub trait Registrar: fmt::Debug + Send + Sync + 'static {
    /// Registers `registration`, or corrects the registration of the same id. A new check starts with
    /// [`Registration::initial_health`]; an existing check keeps its status. Every other check stays:
    /// maintenance mode, and checks that an earlier registration left ([`Registrar::service_checks`]). The
    /// registry keeps the registration in the catalog with the credentials of this call
    /// ([`Registrar::watch_credentials`]).
    fn register<'a>(&'a self, registration: &'a Registration) -> AnswerFuture<'a, ()>;

    /// The checks of registration `id`; none for an unknown id.
    fn service_checks<'a>(&'a self, id: &'a str) -> AnswerFuture<'a, ServiceChecks>;

    /// Removes a check by its own id. An unknown id is not an error.
    fn deregister_check<'a>(&'a self, check: &'a str) -> AnswerFuture<'a, ()>;

    /// Removes a registration and its checks, maintenance mode included. An unknown id is not an error.
    fn deregister<'a>(&'a self, id: &'a str) -> AnswerFuture<'a, ()>;

    /// Reports the health of the check of registration `id`, which also renews its TTL. `output` must be
    /// constant, because a change of it wakes every watcher.
    fn report<'a>(&'a self, id: &'a str, health: ReportedHealth, output: &'a str) -> AnswerFuture<'a, ()>;

    /// Turns maintenance mode on or off.
    fn set_maintenance<'a>(&'a self, id: &'a str, on: bool, reason: &'a str) -> AnswerFuture<'a, ()>;

    /// The registration `id` as the agent holds it: answered when it differs from `hash`, or after `wait`;
    /// at once without a hash. `None`: the agent does not hold it.
    fn agent_service<'a>(
        &'a self,
        id: &'a str,
        hash: Option<&'a str>,
        wait: Duration,
    ) -> AnswerFuture<'a, Option<AgentService>>;

    /// What callers find under the name and id of `registration`, on any agent; blocks as
    /// [`Registry::watch`] does. The catalog may lack what the agent holds.
    fn catalog_entry<'a>(
        &'a self,
        registration: &'a Registration,
        cursor: Cursor,
        wait: Duration,
    ) -> AnswerFuture<'a, WatchAnswer>;

    /// Every service that the agent holds, with id, port and address.
    fn agent_services(&self) -> AnswerFuture<'_, Vec<AgentService>>;

    /// A number that rises when the credentials change (Consul: the token file has new content). What was
    /// registered with the old credentials must be registered again, because the agent can no longer update
    /// the catalog once they expire. A change is seen with the next question of any kind.
    fn watch_credentials(&self) -> watch::Receiver<u64>;
}

/// The local app's registration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registration {
    /// Its id, unique on the agent.
    pub id: String,
    /// The service's name.
    pub name: String,
    /// Its address. Absent: the address of the agent.
    pub address: Option<String>,
    /// The app's port.
    pub port: u16,
    /// Tags.
    pub tags: Vec<String>,
    /// Metadata.
    pub meta: std::collections::BTreeMap<String, String>,
    /// Shares of traffic.
    pub weights: outrigger_config::Weights,
    /// The check becomes critical when it is not renewed for this time.
    pub ttl: Duration,
    /// The registry removes the registration when it has been critical for this time.
    pub deregister_after: Duration,
    /// The status of a check that is new to the agent. Without it callers see a healthy app as critical
    /// until the first report.
    pub initial_health: ReportedHealth,
}

/// A registration as the agent holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentService {
    /// Its id.
    pub id: String,
    /// The service's name.
    pub name: String,
    /// Its own address, if it has one.
    pub address: Option<String>,
    /// Its port.
    pub port: i64,
    /// Tags.
    pub tags: Vec<String>,
    /// Metadata.
    pub meta: std::collections::BTreeMap<String, String>,
    /// Shares of traffic.
    pub weights: outrigger_config::Weights,
    /// Whether tags may be changed in the catalog, from outside this agent.
    pub enable_tag_override: bool,
    /// The content hash of Consul, for the next [`Registrar::agent_service`]. Empty in an answer of
    /// [`Registrar::agent_services`].
    pub content_hash: String,
}

/// The checks of one registration, as the agent holds them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ServiceChecks {
    /// The check that [`Registrar::register`] makes, or a check of the same id that replaced it.
    pub own: Option<OwnCheck>,
    /// The ids of all other checks; they count for the status of the service too.
    pub others: Vec<String>,
    /// The reason for maintenance mode. `None`: it is off.
    pub maintenance: Option<String>,
}

/// The check that the agent holds under the id of our check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnCheck {
    /// Its id.
    pub id: String,
    /// It has the name that [`Registrar::register`] gives.
    pub has_our_name: bool,
    /// Its status.
    pub health: ReportedHealth,
    /// The output of the last report; empty at first.
    pub output: String,
    /// The agent set the status because the TTL was not renewed.
    pub ttl_expired: bool,
}

/// The health of the app, as the sidecar reports it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReportedHealth {
    /// The app is healthy.
    Passing,
    /// The app answers, and asks for less traffic (HTTP 429).
    Warning,
    /// The app is not healthy.
    Critical,
}
