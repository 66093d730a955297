//! The data path without listeners and sockets (feature `testing`): the guard of `benches` counts what a request costs on it.
//!
//! The caller's task is the one worker. No endpoint is connected to: a request finds the idle connections that the caller
//! gave to the endpoints.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
};

use arc_swap::ArcSwap;
use outrigger_config as config;
use outrigger_discovery::Discovery;
use outrigger_net::Stream;
use outrigger_registry::{
    HealthStatus, Instance,
    testing::{Listed, ScriptedRegistry, instance},
};
use tokio::{runtime::Handle, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::{
    context::{
        ConnectionInfo, ConnectionTable, DownstreamSettings, ListenerKind, ListenerState, ProxyContext,
        WorkerContext,
    },
    listener::worker::serve_connection,
    metrics::Metrics,
    proxy::StartError,
    reason::Reason,
    status::{ClusterStatus, cluster_status},
    transport::{channel::Channel, exchange::Exchange},
    upstream::{cluster::Cluster, manager::ClusterManager},
};

/// One worker that serves streams of the caller, at which each request names its service.
#[derive(Debug)]
pub struct StreamProxy {
    worker: Arc<WorkerContext>,
    listener: Arc<ListenerState>,
    listed: Listed,
}

impl StreamProxy {
    /// Opens the declared upstreams, for each of which the registry lists the same `instances` healthy instances: `orders-1` at
    /// 127.0.0.1:1, and so on. Their views are kept up to date on the current runtime.
    ///
    /// # Errors
    /// When the name of a metric is invalid.
    pub fn new(config: &config::Config, instances: u16) -> Result<Self, StartError> {
        let (registry, listed) = ScriptedRegistry::listing();
        listed.set(healthy(instances));
        let discovery =
            Discovery::new(registry, config.discovery, Handle::current(), &prometheus::Registry::new())?;
        let metrics = Metrics::new(1)?;
        let clusters = ClusterManager::new(config, discovery, metrics.clone(), Handle::current(), 1);
        let context = Arc::new(ProxyContext::new(clusters, metrics));
        let settings = Arc::new(ArcSwap::from_pointee(DownstreamSettings::new(config)));
        let listener = ListenerState::new(ListenerKind::ByName, settings, CancellationToken::new());
        Ok(Self {
            worker: Arc::new(WorkerContext { context, index: 0, table: ConnectionTable::default() }),
            listener,
            listed,
        })
    }

    /// Lists the first `instances` from now on.
    pub fn list(&self, instances: u16) {
        self.listed.set(healthy(instances));
    }

    /// Resolves when the registry has answered for every declared upstream.
    pub async fn wait_for_first_answers(&self) {
        for cluster in self.worker.context.clusters.clusters() {
            cluster.wait_for_first_answer().await;
        }
    }

    /// Gives every endpoint of every cluster one more idle connection. `connect` makes the stream to an endpoint's address.
    pub fn give_idle(&self, mut connect: impl FnMut(SocketAddr) -> Stream) {
        for cluster in self.worker.context.clusters.clusters() {
            let view = cluster.view.load();
            let pool = &view.settings.policy.pool;
            for endpoint in &view.set.endpoints {
                if let Some(open) = endpoint.pool.reserve(pool.max_connections) {
                    let now = Instant::now();
                    let idle = Exchange::new(connect(endpoint.addr), open, now);
                    endpoint.pool.check_in(self.worker.index, idle, pool.max_idle, now);
                }
            }
        }
    }

    /// The state of every service.
    pub fn status(&self) -> Vec<ClusterStatus> {
        self.worker.context.clusters.clusters().iter().map(|cluster| cluster_status(cluster)).collect()
    }

    /// How many requests ended for `reason`.
    pub fn errors(&self, reason: Reason) -> u64 {
        let clusters = self.worker.context.clusters.clusters();
        let refusals = self.worker.context.metrics.workers.sum(|cells| cells.refusals(reason));
        let errors = |cluster: &Arc<Cluster>| cluster.view.load().settings.series.errors(reason);
        refusals + clusters.iter().map(errors).sum::<u64>()
    }

    /// Serves an app connection to its end.
    pub fn serve(&self, stream: Stream) -> impl Future<Output = ()> + Send + use<> {
        let loopback = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let (worker, listener) = (self.worker.clone(), self.listener.clone());
        let info =
            ConnectionInfo { worker, listener, peer: loopback(1), local: loopback(2), is_http2: false };
        serve_connection(info, Channel::new(stream), ())
    }

    /// Retires the listener, as a hand-over does, or a reload that removes it.
    pub fn retire(&self) {
        self.listener.retire();
    }

    /// Drains: a connection between two requests ends, each other one with its request.
    pub fn drain(&self) {
        self.listener.connections_shutdown.cancel();
        self.worker.table.wake_all();
    }
}

fn healthy(instances: u16) -> Vec<Instance> {
    (1..=instances)
        .map(|n| Instance {
            addr: Ok((Ipv4Addr::LOCALHOST, n).into()),
            meta: Arc::new([("instance".to_owned(), n.to_string())].into()),
            ..instance("node", &format!("orders-{n}"), HealthStatus::Passing)
        })
        .collect()
}
