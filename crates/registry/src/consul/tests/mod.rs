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
use crate::{
    Checks, Consistency, Cursor, OwnCheck, Query, Registrar, Registration, Registry, ReportedHealth, Watched,
};

/// More than any test needs.
const LONG: Duration = Duration::from_secs(20);

fn settings(agent: &Agent) -> config::ConsulSettings {
    let address = config::ConsulAddress { tls: false, host: "127.0.0.1".into(), port: agent.addr().port() };
    config::ConsulSettings { address, ..config::ConsulSettings::default() }
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

/// A client with a connection to an agent that answered once and is silent from now on, and the
/// clock paused: it runs on only while everybody waits for it.
async fn silenced() -> (Agent, Consul) {
    let agent = Agent::start(|number, _| match number {
        0 => canned::Act::Send(canned::health("5", "[]")),
        1 => canned::Act::Send(canned::answer(200, &[], "\"127.0.0.1:8300\"")),
        _ => canned::Act::Hang,
    })
    .await;
    // One connection for all watches, so that the one that is there is used.
    let consul = Consul::new(&config::ConsulSettings { max_connections: 1, ..settings(&agent) }).unwrap();
    watch(&consul, 0).await.unwrap();
    consul.leader().await.unwrap();
    tokio::time::pause();
    (agent, consul)
}
