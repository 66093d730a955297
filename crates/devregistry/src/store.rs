//! The registry's state: what the agent holds, what the catalog lists, and at which index each last changed. No clock,
//! no I/O, no tasks: every command that depends on time takes `now`.

mod agent;
mod agent_state;
mod catalog;
mod clock;
mod index;
mod model;
mod state;
#[cfg(test)]
mod tests;

pub(crate) use agent::{NODE_MAINTENANCE, SERVICE_MAINTENANCE};
pub(crate) use index::{Topic, TopicIndex};
pub(crate) use model::{
    Check, CheckKind, NewCheck, NewService, Node, NodeInfo, Probe, ProbeTarget, Row, Service, Status,
    TaggedAddress, Weights,
};
pub(crate) use state::{SERVER_PORT, Store};
