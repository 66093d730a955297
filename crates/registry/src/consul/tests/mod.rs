//! The client against an agent that sends given bytes.

mod address;
mod connections;
mod errors;
mod golden;
mod names;
mod registration;
mod scripted_agent;
mod secure;
mod token;
mod watch;

use std::time::Duration;

use outrigger_config as config;
use scripted_agent::{LONG, ScriptedAgent};
use tokio::time::Instant;

use super::*;
use crate::{Consistency, Cursor, Query, Registration, Registry, ReportedHealth, WatchAnswer};

fn settings(agent: &ScriptedAgent) -> config::ConsulSettings {
    let address = config::ConsulAddress { tls: false, host: "127.0.0.1".into(), port: agent.addr().port() };
    config::ConsulSettings { address, ..config::ConsulSettings::default() }
}

fn client(agent: &ScriptedAgent) -> Consul {
    Consul::new(&settings(agent)).unwrap()
}

fn query(service: &str) -> Query {
    Query::new(service, None)
}

/// One watch of `orders` from `index`.
async fn watch(consul: &Consul, index: u64) -> Result<WatchAnswer, Error> {
    consul.watch(&query("orders"), Cursor::at(index), Consistency::Default, Duration::from_secs(1)).await
}

/// A client with a connection to an agent that answered once and sends nothing from now on. The clock is
/// paused: it advances only while all tasks wait.
async fn client_of_silent_agent() -> (ScriptedAgent, Consul) {
    let agent = ScriptedAgent::start(|number, _| match number {
        0 => scripted_agent::AgentAction::Send(scripted_agent::health_response("5", "[]")),
        1 => scripted_agent::AgentAction::Send(scripted_agent::response(200, &[], "{}")),
        _ => scripted_agent::AgentAction::Hang,
    })
    .await;
    // One connection for all watches, so that the open one is used.
    let consul = Consul::new(&config::ConsulSettings { max_connections: 1, ..settings(&agent) }).unwrap();
    watch(&consul, 0).await.unwrap();
    consul.agent_services().await.unwrap();
    tokio::time::pause();
    (agent, consul)
}
