//! What the registry is called, and its limits.

use std::time::Duration;

/// The version of Consul that the registry behaves like.
pub const CONSUL_VERSION: &str = "1.8.7";

/// What the registry is called, and how it differs from Consul's defaults.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DevRegistryOptions {
    /// The node's name. Default `dev`.
    pub node_name: String,
    /// The datacenter's name. Default `dc1`.
    pub datacenter: String,
    /// Least time that a critical service is kept, even if its check's `DeregisterCriticalServiceAfter` is shorter.
    /// Default 1m, as Consul; tests may lower it.
    pub check_deregister_interval_min: Duration,
    /// How often services that have been critical for too long are removed. Default 30s, as Consul.
    pub check_reap_interval: Duration,
    /// How long the catalog keeps a check's old output when the output changed and the status did not. Default 5m, as
    /// Consul.
    pub check_update_interval: Duration,
    /// How often the coordinates of nodes are written that clients have told. Default 5s, as Consul; tests may lower it.
    pub coordinate_update_period: Duration,
    /// How long the deletion of a key counts for the index of a prefix; after that, the index may go back. Default 15m,
    /// as Consul; tests may lower it.
    pub kv_tombstone_ttl: Duration,
    /// Most connections from one address; the next is closed without an answer. Default 200,
    /// both as Consul.
    pub http_max_conns_per_client: usize,
    /// Most blocking queries at a time; the next is answered 503. Default 4096.
    pub max_blocking_queries: usize,
}

impl Default for DevRegistryOptions {
    fn default() -> Self {
        Self {
            node_name: "dev".to_owned(),
            datacenter: "dc1".to_owned(),
            check_deregister_interval_min: Duration::from_secs(60),
            check_reap_interval: Duration::from_secs(30),
            check_update_interval: Duration::from_secs(300),
            coordinate_update_period: Duration::from_secs(5),
            kv_tombstone_ttl: Duration::from_secs(15 * 60),
            http_max_conns_per_client: 200,
            max_blocking_queries: 4096,
        }
    }
}
