//! What the HTTP handlers share.

use std::{net::SocketAddr, sync::Arc};

use tokio::sync::Semaphore;

use crate::{metrics::RequestMetrics, options::DevRegistryOptions, shared_store::SharedStore};

/// The store, and the facts of the server that answers show.
#[derive(Debug)]
pub(crate) struct HttpContext {
    pub(crate) store: Arc<SharedStore>,
    pub(crate) options: DevRegistryOptions,
    pub(crate) addr: SocketAddr,
    pub(crate) metrics: RequestMetrics,
    /// A blocking query holds one permit while it blocks.
    pub(crate) blocking_slots: Semaphore,
}

impl HttpContext {
    pub(crate) fn new(store: Arc<SharedStore>, options: DevRegistryOptions, addr: SocketAddr) -> Self {
        let blocking_slots = Semaphore::new(options.max_blocking_queries.min(Semaphore::MAX_PERMITS));
        Self { store, options, addr, metrics: RequestMetrics::default(), blocking_slots }
    }
}
