//! A registry to start on a laptop or in a test: Consul's HTTP subset in memory.
//!
//! It answers as Consul 1.8.7 does, where a client of the agent, catalog, health and status
//! endpoints looks: shapes, words, indexes, blocking queries, checks that run. A conformance suite
//! holds it against the real one. Nothing is kept over a restart, as with a Consul dev agent.
//!
//! What it does not do answers 501 with a sentence: KV, sessions, events, prepared queries,
//! transactions, ACLs, Connect, several datacenters, filter expressions (but one on a service's id), script
//! and gRPC checks.
//! There is no DNS, and no cluster: the one node always leads.

mod blocking;
mod checks;
mod http;
mod options;
mod server;
mod shared_store;
mod store;
mod wire;

pub use options::{CONSUL_VERSION, DevRegistryOptions};
pub use server::DevRegistry;
