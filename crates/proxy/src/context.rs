//! What the connections share: of one proxy, of one worker, of one listener; and what the requests of one connection share.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::Waker,
    time::Duration,
};

use arc_swap::ArcSwap;
use outrigger_config as config;
use outrigger_http1::HeadLimits;
use parking_lot::Mutex;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::{
    host::HostNames,
    limit::MIN_ANSWER_FIELDS,
    metrics::{
        Metrics,
        cells::{Block, WorkerCells},
    },
    upstream::{
        cluster::{Cluster, ClusterKey},
        manager::{ClusterManager, upstream_key},
    },
};

/// One proxy's clusters and metrics.
#[derive(Debug)]
pub(crate) struct ProxyContext {
    pub(crate) clusters: Arc<ClusterManager>,
    pub(crate) metrics: Arc<Metrics>,
    /// A random name, by which the proxy knows a request that it has carried before (`outbound.loop_guard`).
    pub(crate) loop_id: Box<str>,
}

impl ProxyContext {
    pub(crate) fn new(clusters: Arc<ClusterManager>, metrics: Arc<Metrics>) -> Self {
        Self { clusters, metrics, loop_id: format!("{:016x}", fastrand::u64(..)).into() }
    }
}

/// What the connections of one worker share.
#[derive(Debug)]
pub(crate) struct WorkerContext {
    pub(crate) context: Arc<ProxyContext>,
    /// The worker's number, from 0.
    pub(crate) index: usize,
    /// The worker's connections, to be woken.
    pub(crate) table: ConnectionTable,
}

impl WorkerContext {
    /// The worker's cells.
    pub(crate) fn cells(&self) -> &Block<WorkerCells> {
        self.context.metrics.workers.at(self.index)
    }
}

/// The place of a connection in the table.
pub(crate) type Place = u32;

/// The connections of one worker that can be woken from outside: to end when they are idle for too long, or at a drain. One
/// sweep per worker replaces a timer and a drain signal per connection, which would cost several times the memory of an idle
/// connection.
#[derive(Debug, Default)]
pub(crate) struct ConnectionTable(Mutex<Places>);

#[derive(Debug, Default)]
struct Places {
    places: Vec<Option<Entry>>,
    free: Vec<Place>,
}

#[derive(Debug)]
struct Entry {
    waker: Waker,
    /// When its idle time is over; `None`: the connection is active.
    idle_until: Option<Instant>,
}

/// Up to this many places, an empty table keeps its memory, so that connections that come and go do not allocate it again and again.
const KEPT_PLACES: usize = 256;

impl ConnectionTable {
    /// Parks a connection, which `waker` wakes at `until` or at a drain. Gives its place: `place`, when it has one.
    pub(crate) fn park(&self, place: Option<Place>, waker: &Waker, until: Instant) -> Place {
        let mut table = self.0.lock();
        let Places { places, free } = &mut *table;
        let place = place.or_else(|| free.pop()).unwrap_or_else(|| {
            places.push(None);
            Place::try_from(places.len() - 1).unwrap_or(Place::MAX)
        });
        if let Some(slot) = places.get_mut(place as usize) {
            match slot {
                Some(entry) => {
                    entry.idle_until = Some(until);
                    entry.waker.clone_from(waker);
                }
                None => *slot = Some(Entry { waker: waker.clone(), idle_until: Some(until) }),
            }
        }
        place
    }

    /// The connection is active.
    pub(crate) fn unpark(&self, place: Place) {
        if let Some(Some(entry)) = self.0.lock().places.get_mut(place as usize) {
            entry.idle_until = None;
        }
    }

    /// The connection is gone.
    pub(crate) fn remove(&self, place: Place) {
        let mut table = self.0.lock();
        if let Some(slot) = table.places.get_mut(place as usize) {
            *slot = None;
            table.free.push(place);
        }
        if table.free.len() == table.places.len() {
            if table.places.len() > KEPT_PLACES {
                *table = Places::default();
            }
            table.places.clear();
            table.free.clear();
        }
    }

    /// Wakes the connections with an idle time that is over.
    pub(crate) fn wake_idle(&self, now: Instant) {
        for entry in self.0.lock().places.iter().flatten() {
            if entry.idle_until.is_some_and(|until| until <= now) {
                entry.waker.wake_by_ref();
            }
        }
    }

    /// Wakes every connection.
    pub(crate) fn wake_all(&self) {
        for entry in self.0.lock().places.iter().flatten() {
            entry.waker.wake_by_ref();
        }
    }
}

/// What a listener accepts connections for.
#[derive(Debug)]
pub(crate) enum ListenerKind {
    /// Each request names its service.
    ByName,
    /// Every request goes to this service.
    Service(Arc<Cluster>),
    /// Every connection goes to an instance of this service, as bytes.
    Tcp(Arc<Cluster>),
}

impl ListenerKind {
    /// The service of every request or connection; `None`: each request names its own.
    pub(crate) fn cluster(&self) -> Option<&Arc<Cluster>> {
        match self {
            Self::ByName => None,
            Self::Service(cluster) | Self::Tcp(cluster) => Some(cluster),
        }
    }

    /// Whether `other` is of the same kind, and for a service, of the same cluster.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::ByName, Self::ByName) => true,
            (Self::Service(one), Self::Service(other)) | (Self::Tcp(one), Self::Tcp(other)) => {
                Arc::ptr_eq(one, other)
            }
            (Self::ByName | Self::Service(_) | Self::Tcp(_), _) => false,
        }
    }
}

/// Settings of the connections of one listener.
#[derive(Debug)]
pub(crate) struct DownstreamSettings {
    /// The section `outbound` of the settings.
    pub(crate) outbound: config::Outbound,
    /// Limits of the app's heads.
    pub(crate) request_heads: HeadLimits,
    /// Limits of the instances' heads.
    pub(crate) response_heads: HeadLimits,
    /// Longest time that the app may leave an answer unread.
    pub(crate) unread: Duration,
    /// Whether the log gets one line per request.
    pub(crate) access_log: bool,
    /// Names of services resolve to this machine, and refuse what a browser sends (`dns.browsers`).
    pub(crate) guards_browsers: bool,
    /// What hosts may name.
    pub(crate) names: Arc<HostNames>,
    /// The setting `hosts` of each service that has it.
    hosts: Vec<(ClusterKey, Vec<String>)>,
    /// The setting `tcp` of each service with `protocol: tcp`.
    tcp: Vec<(ClusterKey, config::TcpSettings)>,
}

impl DownstreamSettings {
    pub(crate) fn new(config: &config::Config) -> Self {
        let limits = &config.outbound.limits;
        let bytes = limits.max_header_bytes;
        let idle = config.upstreams.iter().map(|upstream| upstream.policy.body_idle);
        let idle = idle.chain(config.tuned.iter().map(|tuned| tuned.policy.body_idle));
        Self {
            outbound: config.outbound.clone(),
            request_heads: HeadLimits { bytes, fields: limits.max_headers, target: bytes },
            response_heads: HeadLimits {
                bytes,
                fields: limits.max_headers.max(MIN_ANSWER_FIELDS),
                target: bytes,
            },
            unread: idle.fold(config.defaults.body_idle, Duration::max),
            access_log: config.log.access,
            guards_browsers: config.dns.guards_browsers(),
            names: Arc::new(HostNames::new(config)),
            hosts: config
                .upstreams
                .iter()
                .filter(|upstream| !upstream.hosts.is_empty())
                .map(|upstream| (upstream_key(upstream), upstream.hosts.clone()))
                .collect(),
            tcp: config
                .upstreams
                .iter()
                .filter(|upstream| upstream.protocol == config::Protocol::Tcp)
                .map(|upstream| (upstream_key(upstream), upstream.tcp))
                .collect(),
        }
    }

    /// The setting `tcp` of a service. `None`: it does not speak bytes.
    #[inline]
    pub(crate) fn tcp_of(&self, key: &ClusterKey) -> Option<&config::TcpSettings> {
        self.tcp.iter().find(|(of, _)| of == key).map(|(_, tcp)| tcp)
    }

    /// The setting `hosts` of a service.
    pub(crate) fn hosts_of(&self, key: &ClusterKey) -> &[String] {
        self.hosts.iter().find(|(of, _)| of == key).map_or(&[], |(_, hosts)| hosts)
    }
}

/// What the connections of one listener share. A listener that gets another kind gets another state; its
/// earlier connections keep the retired one until they end.
#[derive(Debug)]
pub(crate) struct ListenerState {
    pub(crate) kind: ListenerKind,
    /// Shared with every other state, so that a reload also reaches the connections of retired ones.
    pub(crate) settings: Arc<ArcSwap<DownstreamSettings>>,
    /// Cancelled: the connections end, idle ones at once, the others with their request.
    pub(crate) connections_shutdown: CancellationToken,
    retired: AtomicBool,
}

impl ListenerState {
    pub(crate) fn new(
        kind: ListenerKind,
        settings: Arc<ArcSwap<DownstreamSettings>>,
        connections_shutdown: CancellationToken,
    ) -> Arc<Self> {
        Arc::new(Self { kind, settings, connections_shutdown, retired: AtomicBool::new(false) })
    }

    /// From now on, each response of which the head is not written yet closes its connection. A connection between two requests
    /// waits for its next one.
    pub(crate) fn retire(&self) {
        self.retired.store(true, Relaxed);
    }

    /// Whether [`ListenerState::retire`] was called.
    pub(crate) fn is_retired(&self) -> bool {
        self.retired.load(Relaxed)
    }

    /// Whether the connections are to end, and one between two requests has time for one more.
    pub(crate) fn waits_for_last_request(&self) -> bool {
        self.is_retired() && !self.connections_shutdown.is_cancelled()
    }

    /// Whether a response that begins now ends its connection.
    pub(crate) fn ends_connections(&self) -> bool {
        self.is_retired() || self.connections_shutdown.is_cancelled()
    }
}

/// What the requests of one connection share.
#[derive(Debug, Clone)]
pub(crate) struct ConnectionInfo {
    pub(crate) worker: Arc<WorkerContext>,
    /// The state of the listener at the time of the accept.
    pub(crate) listener: Arc<ListenerState>,
    /// The app's address.
    pub(crate) peer: SocketAddr,
    /// The address that the app connected to.
    pub(crate) local: SocketAddr,
    /// The app speaks HTTP/2.
    pub(crate) is_http2: bool,
}

impl ConnectionInfo {
    /// The clusters that requests are routed to.
    pub(crate) fn clusters(&self) -> &Arc<ClusterManager> {
        &self.worker.context.clusters
    }
}
