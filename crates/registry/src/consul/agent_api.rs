//! What the local agent of Consul is asked about the app, one HTTP exchange each.
//!
//! A trait, so that what follows from the answers ([`super::drift`]) is tested without a socket. [`super::registrar`]
//! makes the five verbs of [`Registrar`](crate::Registrar) of these calls.

use std::{collections::BTreeMap, fmt, time::Duration};

use tokio::sync::watch;

use crate::{AnswerFuture, Cursor, Registration, ReportedHealth, WatchAnswer};

/// The calls to an agent about the app that is registered there.
///
/// Each call ends in its own time, at last with [`Error::Timeout`](crate::Error::Timeout).
pub trait AgentApi: fmt::Debug + Send + Sync + 'static {
    /// Registers `registration`, or corrects the registration of the same id. A new check starts with
    /// [`Registration::initial_health`]; an existing check keeps its status. Every other check stays:
    /// maintenance mode, and checks that an earlier registration left ([`AgentApi::service_checks`]). The
    /// registry keeps the registration in the catalog with the credentials of this call
    /// ([`AgentApi::watch_credentials`]).
    fn register<'a>(&'a self, registration: &'a Registration) -> AnswerFuture<'a, ()>;

    /// The checks of registration `id`; none for an unknown id.
    fn service_checks<'a>(&'a self, id: &'a str) -> AnswerFuture<'a, ServiceChecks>;

    /// Removes a check by its own id. An unknown id is not an error.
    fn deregister_check<'a>(&'a self, check: &'a str) -> AnswerFuture<'a, ()>;

    /// Removes a registration and its checks, maintenance mode included. An unknown id is not an error.
    fn deregister<'a>(&'a self, id: &'a str) -> AnswerFuture<'a, ()>;

    /// Sets status and output of the check of registration `id`, which also renews its TTL. `output` must be
    /// constant, because a change of it wakes every watcher.
    fn update_check<'a>(
        &'a self,
        id: &'a str,
        health: ReportedHealth,
        output: &'a str,
    ) -> AnswerFuture<'a, ()>;

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
    /// [`Registry::watch`](crate::Registry::watch) does. The catalog may lack what the agent holds. Host names are not looked up: their
    /// addresses are 0.0.0.0.
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
    pub meta: BTreeMap<String, String>,
    /// Shares of traffic.
    pub weights: outrigger_config::Weights,
    /// Whether tags may be changed in the catalog, from outside this agent.
    pub enable_tag_override: bool,
    /// The content hash of Consul, for the next [`AgentApi::agent_service`]. Empty in an answer of
    /// [`AgentApi::agent_services`].
    pub content_hash: String,
}

impl AgentService {
    /// Whether it has the port of `registration` and its address; an empty one is none.
    pub(super) fn is_at(&self, registration: &Registration) -> bool {
        self.port == i64::from(registration.port)
            && self.address.as_deref().unwrap_or_default()
                == registration.address.as_deref().unwrap_or_default()
    }
}

/// The checks of one registration, as the agent holds them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ServiceChecks {
    /// The check that [`AgentApi::register`] makes, or a check of the same id that replaced it.
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
    /// It has the name that [`AgentApi::register`] gives.
    pub has_our_name: bool,
    /// Its status.
    pub health: ReportedHealth,
    /// The output of the last report; empty at first.
    pub output: String,
    /// The agent set the status because the TTL was not renewed.
    pub ttl_expired: bool,
}
