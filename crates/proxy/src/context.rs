//! What every listener, worker and connection of one proxy shares.

use std::sync::{Arc, atomic::AtomicUsize};

use crate::{metrics::Metrics, upstream::manager::ClusterManager};

/// One proxy's clusters, metrics and totals.
#[derive(Debug)]
pub(crate) struct ProxyContext {
    pub(crate) clusters: Arc<ClusterManager>,
    pub(crate) metrics: Arc<Metrics>,
    /// App connections open.
    pub(crate) connections: AtomicUsize,
    /// Requests and tunnels under way.
    pub(crate) in_flight: AtomicUsize,
}
