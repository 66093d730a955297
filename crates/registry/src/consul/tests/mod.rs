//! The client against an agent that plays given bytes.

mod canned;
mod connections;
mod errors;
mod golden;
mod registration;
mod secure;
mod token;
mod watch;

use std::time::Duration;

use canned::Agent;
use outrigger_config as config;
use tokio::time::Instant;

use super::*;

/// More than any test needs.
const LONG: Duration = Duration::from_secs(20);

fn settings(agent: &Agent) -> config::Consul {
    let address = config::ConsulAddress { tls: false, host: "127.0.0.1".into(), port: agent.addr().port() };
    config::Consul { address, ..config::Consul::default() }
}

fn client(agent: &Agent) -> Consul {
    Consul::new(&settings(agent)).unwrap()
}

fn query(service: &str) -> Query {
    Query { service: service.into(), datacenter: None }
}

/// One watch of `orders` from `index`.
async fn watch(consul: &Consul, index: u64) -> Result<Watched, Error> {
    consul.watch(&query("orders"), Cursor::at(index), Consistency::Default, Duration::from_secs(1)).await
}
