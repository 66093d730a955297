//! Clusters, their endpoints, and the connections to these.

pub(crate) mod asked_subsets;
pub(crate) mod bulkhead;
pub(crate) mod chain_state;
pub(crate) mod cluster;
pub(crate) mod connect;
pub(crate) mod ejection;
pub(crate) mod endpoint;
pub(crate) mod endpoint_tls;
pub(crate) mod exact;
pub(crate) mod failover;
pub(crate) mod failover_state;
pub(crate) mod lease;
pub(crate) mod manager;
pub(crate) mod next_watch;
pub(crate) mod over;
pub(crate) mod pick_set;
pub(crate) mod probe;
pub(crate) mod reconcile;
pub(crate) mod retired_views;
pub(crate) mod subset;
pub(crate) mod traffic;
pub(crate) mod zones;
