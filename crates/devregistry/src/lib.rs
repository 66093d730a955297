//! A registry to start on a laptop or in a test: Consul's HTTP subset in memory.
//!
//! It answers clients of the agent, catalog, coordinate, event, health, key-value, session, transaction and status
//! endpoints as Consul 1.8.7 does: shapes, texts, indexes, blocking queries, filters, checks that run, sessions that
//! expire. A
//! conformance suite compares it with the real Consul. Nothing is kept over a restart, as with a Consul dev agent.
//!
//! Unsupported endpoints answer 501 with a text: prepared queries, transactions on anything but keys, Connect,
//! several datacenters, script and gRPC checks.
//! There is no DNS, and no cluster: the one node always leads.

mod blocking;
mod checks;
mod http;
mod metrics;
mod options;
mod row_filter;
mod server;
mod shared_store;
mod store;
mod wire;

pub use options::{CONSUL_VERSION, DevRegistryOptions};
pub use server::DevRegistry;
