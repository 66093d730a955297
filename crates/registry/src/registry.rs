//! The questions that every registry answers. The loops that ask them are in other crates.

use std::{fmt, future::Future, pin::Pin, sync::Arc, time::Duration};

use outrigger_config::AddressKind;

use crate::{Error, Instance, chain::Chain};

/// A boxed answer, because the registry is chosen at run time. Not used on the path of a request.
pub type AnswerFuture<'a, T> = Pin<Box<dyn Future<Output = Result<T, Error>> + Send + 'a>>;

/// A boxed look-up of host names ([`Registry::look_up_again`]).
pub type LookupFuture<'a> = Pin<Box<dyn Future<Output = Option<Vec<Instance>>> + Send + 'a>>;

/// The service that a question is about.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Query {
    /// Its name, lower case.
    pub service: Arc<str>,
    /// Its datacenter. Absent: the registry's default.
    pub datacenter: Option<Arc<str>>,
    /// An expression in the language of Consul's filters, which the registry evaluates: only instances that it keeps are listed.
    /// Absent: all are. A file of instances has no such expressions, and lists all.
    pub filter: Option<Arc<str>>,
    /// Which address of each instance is listed. A registry that has one address of each lists that.
    pub address: AddressKind,
}

impl Query {
    /// All instances of a service, at the addresses that are usual for this sidecar.
    pub fn new(service: impl Into<Arc<str>>, datacenter: Option<Arc<str>>) -> Self {
        Self { service: service.into(), datacenter, filter: None, address: AddressKind::Auto }
    }
}

impl fmt::Display for Query {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.service.fmt(f)?;
        if let Some(datacenter) = &self.datacenter {
            write!(f, "@{datacenter}")?;
        }
        if self.address != AddressKind::Auto {
            write!(f, " ({})", self.address.as_str())?;
        }
        match &self.filter {
            None => Ok(()),
            Some(filter) => write!(f, " where {filter}"),
        }
    }
}

/// How fresh an answer must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
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
    /// Consul: false when the server that answered a stale or consistent read knows no leader. `true` in other registries, and
    /// in an answer of an agent of Consul that does not come from a server (streaming).
    pub known_leader: bool,
}

/// One answer about a chain.
#[derive(Debug, Clone, PartialEq)]
pub struct ChainAnswer {
    /// The chain.
    pub chain: Chain,
    /// As [`WatchAnswer::cursor`].
    pub cursor: Cursor,
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

    /// One question about the compiled chain of a service: what Consul's config entries say of its requests. Answered as
    /// [`Registry::watch`] is; any write of a config entry answers it. `None`: the registry has none.
    fn watch_chain<'a>(
        &'a self,
        _service: &'a str,
        _cursor: Cursor,
        _wait: Duration,
    ) -> Option<AnswerFuture<'a, ChainAnswer>> {
        None
    }

    /// The longest `wait` that a caller should ask for.
    fn longest_wait(&self) -> Duration;

    /// Looks up the host names that `instances` came from, which are sorted by identity, at most once a second for each name.
    /// Returns all instances with the addresses of now, sorted. `None`: they are the same, or none came from a name.
    fn look_up_again<'a>(&'a self, _instances: &'a [Instance]) -> LookupFuture<'a> {
        Box::pin(async { None })
    }

    /// A possible reason for an answer that is empty where instances were expected, for pages and error
    /// bodies. `None`: an empty answer means that there are no instances.
    fn empty_hint(&self) -> Option<&'static str> {
        None
    }
}
