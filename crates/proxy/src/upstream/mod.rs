//! The services' side: clusters, their endpoints, and the connections to them.

pub(crate) mod bulkhead;
pub(crate) mod cluster;
pub(crate) mod connect;
pub(crate) mod ejection;
pub(crate) mod endpoint;
pub(crate) mod manager;
pub(crate) mod pool;
pub(crate) mod reconcile;
