//! The questions that any registry can be asked. The loops that ask them live elsewhere.

use std::{fmt, future::Future, pin::Pin, sync::Arc, time::Duration};

use tokio::sync::watch;

use crate::{Error, Instance};

/// A boxed answer: registries are chosen at run time, off the request's path.
pub type AnswerFuture<'a, T> = Pin<Box<dyn Future<Output = Result<T, Error>> + Send + 'a>>;

/// Which service is asked about.
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
    /// The registry's default: Consul's leader answers.
    #[default]
    Default,
    /// Any server may answer, also while there is no leader.
    Stale,
    /// The leader confirms its leadership first.
    Consistent,
}

/// Where a watch stands. Opaque to everybody but the registry that made it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Cursor(pub(crate) u64);

impl Cursor {
    /// The cursor of a watch that has seen nothing: the next question is answered at once.
    pub const START: Self = Self(0);

    /// The raw index, for a metric.
    pub fn index(self) -> u64 {
        self.0
    }

    /// A cursor at `index`, for tests and for other registries.
    pub fn at(index: u64) -> Self {
        Self(index)
    }
}

/// One answer of a watch.
#[derive(Debug, Clone, PartialEq)]
pub struct WatchAnswer {
    /// Every instance of the service, the critical ones too.
    pub instances: Vec<Instance>,
    /// Where to go on from; [`Cursor::START`] when the index went back or cannot be trusted.
    pub cursor: Cursor,
    /// The registry's index went back: it was restarted, or another server answered.
    pub index_went_back: bool,
    /// How old the answer may be, where the registry says so (Consul: `X-Consul-LastContact` of a
    /// stale read). `None`: it is current.
    pub age: Option<Duration>,
    /// Consul: whether the answering server knows a leader. `true` elsewhere.
    pub known_leader: bool,
}

/// A source of instances.
pub trait Registry: fmt::Debug + Send + Sync + 'static {
    /// One question: answers when the service's instances may have changed since `cursor`, or after
    /// about `wait`. Answers at once for [`Cursor::START`]. It never answers later than
    /// `wait` + `wait`/16 and a margin: a silent registry is an error. Time spent in line for a
    /// connection counts as waiting; where `wait` ends there, the error is [`Error::Busy`].
    fn watch<'a>(
        &'a self,
        query: &'a Query,
        cursor: Cursor,
        consistency: Consistency,
        wait: Duration,
    ) -> AnswerFuture<'a, WatchAnswer>;

    /// The longest `wait` that the watcher should ask for.
    fn longest_wait(&self) -> Duration;

    /// What may be wrong when an answer is empty against expectation, for pages and error bodies.
    /// `None`: an empty answer means what it says.
    fn empty_hint(&self) -> Option<&'static str> {
        None
    }
}

/// A place where the local app is registered.
pub trait Registrar: fmt::Debug + Send + Sync + 'static {
    /// Registers `registration`, or corrects the one of the same id. Its check starts critical; one
    /// that is there already keeps its status. Every other check stays: maintenance mode, and also
    /// what an earlier registration left ([`Registrar::service_checks`]). The registry goes on to vouch for it
    /// with the credentials of this call ([`Registrar::watch_credentials`]).
    fn register<'a>(&'a self, registration: &'a Registration) -> AnswerFuture<'a, ()>;

    /// The checks of registration `id`; none for one that is not there.
    fn service_checks<'a>(&'a self, id: &'a str) -> AnswerFuture<'a, ServiceChecks>;

    /// Removes a check by its own id. One that is not there is no error.
    fn deregister_check<'a>(&'a self, check: &'a str) -> AnswerFuture<'a, ()>;

    /// Removes a registration and its checks, maintenance mode too. One that is not there is no error.
    fn deregister<'a>(&'a self, id: &'a str) -> AnswerFuture<'a, ()>;

    /// States the health of the check of registration `id`, which also renews its TTL. `output` must
    /// be constant: a changing one wakes every watcher.
    fn report<'a>(&'a self, id: &'a str, health: ReportedHealth, output: &'a str) -> AnswerFuture<'a, ()>;

    /// Switches maintenance mode.
    fn set_maintenance<'a>(&'a self, id: &'a str, on: bool, reason: &'a str) -> AnswerFuture<'a, ()>;

    /// What the agent holds under `id`: answers when that changes from `hash`, or after `wait`; at
    /// once without a hash. `None`: the agent does not know it.
    fn agent_service<'a>(
        &'a self,
        id: &'a str,
        hash: Option<&'a str>,
        wait: Duration,
    ) -> AnswerFuture<'a, Option<AgentService>>;

    /// What callers find under the name and id of `registration`, on whatever agent: blocks as
    /// [`Registry::watch`] does. The catalog may have lost what the agent holds.
    fn catalog_entry<'a>(
        &'a self,
        registration: &'a Registration,
        cursor: Cursor,
        wait: Duration,
    ) -> AnswerFuture<'a, WatchAnswer>;

    /// The ids, ports and addresses of every service that the agent holds.
    fn agent_services(&self) -> AnswerFuture<'_, Vec<AgentService>>;

    /// A number that changes with the credentials (Consul: a token file that was written anew): what was
    /// registered with others has to be registered again, for when those end, the registry hears no more
    /// of it. The change is seen by the next question, whatever it is.
    fn watch_credentials(&self) -> watch::Receiver<u64>;
}

/// The local app's registration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registration {
    /// Its id, unique on the agent.
    pub id: String,
    /// The service's name.
    pub name: String,
    /// Absent: the agent's own address.
    pub address: Option<String>,
    /// The app's port.
    pub port: u16,
    /// Tags.
    pub tags: Vec<String>,
    /// Metadata.
    pub meta: std::collections::BTreeMap<String, String>,
    /// Shares of traffic.
    pub weights: outrigger_config::Weights,
    /// The check turns critical when not renewed for this long.
    pub ttl: Duration,
    /// The registry removes it after it was critical for this long.
    pub deregister_after: Duration,
    /// What its check says from the start, where the agent does not hold it yet: callers would otherwise
    /// see an app that is well as critical until the first report.
    pub initial_health: ReportedHealth,
}

/// A registration as the agent holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentService {
    /// Its id.
    pub id: String,
    /// The service's name.
    pub name: String,
    /// Its own address, when it has one.
    pub address: Option<String>,
    /// Its port.
    pub port: i64,
    /// Tags.
    pub tags: Vec<String>,
    /// Metadata.
    pub meta: std::collections::BTreeMap<String, String>,
    /// Shares of traffic.
    pub weights: outrigger_config::Weights,
    /// Whether others may change its tags in the catalog.
    pub enable_tag_override: bool,
    /// Consul's content hash: goes into the next [`Registrar::agent_service`]. Empty from
    /// [`Registrar::agent_services`].
    pub content_hash: String,
}

/// The checks of one registration, as the agent holds them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ServiceChecks {
    /// The one that [`Registrar::register`] makes, or what somebody put in its place.
    pub own: Option<OwnCheck>,
    /// The ids of those that it does not make; they count all the same.
    pub others: Vec<String>,
    /// Why the registration is in maintenance. `None`: it is not.
    pub maintenance: Option<String>,
}

/// What is held where our check belongs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnCheck {
    /// Its id.
    pub id: String,
    /// It bears the name that [`Registrar::register`] gives.
    pub has_our_name: bool,
    /// What it says.
    pub health: ReportedHealth,
    /// The text of whoever said so last; empty in the beginning.
    pub output: String,
    /// That was the agent, because nobody renewed it.
    pub ttl_expired: bool,
}

/// Health that the sidecar states for its app.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReportedHealth {
    /// It answers well.
    Passing,
    /// It answers, and asks for less (HTTP 429).
    Warning,
    /// It does not.
    Critical,
}
