//! What every listener, worker and connection of one proxy shares.

use std::sync::Arc;

use crate::{metrics::Metrics, upstream::manager::ClusterManager};

/// One proxy's clusters and metrics.
#[derive(Debug)]
pub(crate) struct ProxyContext {
    pub(crate) clusters: Arc<ClusterManager>,
    pub(crate) metrics: Arc<Metrics>,
}
