//! What the connections share: of one proxy, of one worker, of one listener; and what the requests of one connection share.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use outrigger_config as config;
use outrigger_http1::HeadLimits;
use tokio_util::sync::CancellationToken;

use crate::{
    downstream::table::ConnectionTable,
    metrics::{
        Metrics,
        cells::{Block, WorkerCells},
    },
    upstream::{cluster::Cluster, manager::ClusterManager},
};

/// One proxy's clusters and metrics.
#[derive(Debug)]
pub(crate) struct ProxyContext {
    pub(crate) clusters: Arc<ClusterManager>,
    pub(crate) metrics: Arc<Metrics>,
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

/// What a listener accepts connections for.
#[derive(Debug)]
pub(crate) enum ListenerKind {
    /// Each request names its service.
    ByName,
    /// Every request goes to this service.
    Service(Arc<Cluster>),
}

impl ListenerKind {
    /// The service of every request; `None`: each request names its own.
    pub(crate) fn cluster(&self) -> Option<&Arc<Cluster>> {
        match self {
            Self::ByName => None,
            Self::Service(cluster) => Some(cluster),
        }
    }

    /// Whether `other` is of the same kind, and for a service, of the same cluster.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::ByName, Self::ByName) => true,
            (Self::Service(one), Self::Service(other)) => Arc::ptr_eq(one, other),
            (Self::ByName, Self::Service(_)) | (Self::Service(_), Self::ByName) => false,
        }
    }
}

/// Fields that a response may have within the bytes of a head, also where the app's heads may have fewer.
const MAX_RESPONSE_FIELDS: usize = 1000;

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
}

impl DownstreamSettings {
    pub(crate) fn new(config: &config::Config) -> Self {
        let limits = &config.outbound.limits;
        let bytes = limits.max_header_bytes;
        let idle = config.upstreams.iter().map(|upstream| upstream.policy.body_idle);
        Self {
            outbound: config.outbound.clone(),
            request_heads: HeadLimits { bytes, fields: limits.max_headers, target: bytes },
            response_heads: HeadLimits {
                bytes,
                fields: limits.max_headers.max(MAX_RESPONSE_FIELDS),
                target: bytes,
            },
            unread: idle.fold(config.defaults.body_idle, Duration::max),
            access_log: config.log.access,
        }
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

    /// From now on, the answer to the next request of a connection closes the connection.
    pub(crate) fn retire(&self) {
        self.retired.store(true, Relaxed);
    }

    /// Whether [`ListenerState::retire`] was called.
    pub(crate) fn is_retired(&self) -> bool {
        self.retired.load(Relaxed)
    }
}

/// What the requests of one connection share.
#[derive(Debug)]
pub(crate) struct ConnectionInfo {
    pub(crate) worker: Arc<WorkerContext>,
    /// The state of the listener at the time of the accept.
    pub(crate) listener: Arc<ListenerState>,
    /// The app's address.
    pub(crate) peer: SocketAddr,
    /// The address that the app connected to.
    pub(crate) local: SocketAddr,
}

impl ConnectionInfo {
    /// The clusters that requests are routed to.
    pub(crate) fn clusters(&self) -> &Arc<ClusterManager> {
        &self.worker.context.clusters
    }
}
