//! What the requests of one connection, and the connections of one worker, share.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use crate::{
    context::ProxyContext,
    downstream::table::ConnectionTable,
    listener::kind::ListenerState,
    metrics::cells::{Block, WorkerCells},
    upstream::manager::ClusterManager,
};

/// What the connections of one worker share.
#[derive(Debug)]
pub(crate) struct WorkerContext {
    pub(crate) context: Arc<ProxyContext>,
    pub(crate) index: usize,
    pub(crate) table: ConnectionTable,
}

impl WorkerContext {
    /// The worker's cells.
    pub(crate) fn cells(&self) -> &Block<WorkerCells> {
        self.context.metrics.workers.at(self.index)
    }
}

/// What the requests of one connection share.
#[derive(Debug)]
pub(crate) struct ConnectionInfo {
    pub(crate) worker: Arc<WorkerContext>,
    pub(crate) listener: Arc<ListenerState>,
    pub(crate) peer: SocketAddr,
    /// The address of this side.
    pub(crate) local: SocketAddr,
}

impl ConnectionInfo {
    pub(crate) fn clusters(&self) -> &Arc<ClusterManager> {
        &self.worker.context.clusters
    }

    pub(crate) fn local_ip(&self) -> Option<IpAddr> {
        Some(self.local.ip().to_canonical())
    }

    pub(crate) fn local_port(&self) -> u16 {
        self.local.port()
    }
}
