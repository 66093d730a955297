//! The registry's state: what the agent holds, what the catalog lists, keys and sessions, and at which index each last
//! changed. No clock,
//! no I/O, no tasks: every command that depends on time takes `now`.

mod agent;
mod agent_state;
mod catalog;
mod clock;
mod coordinate;
mod coordinate_table;
mod event;
mod event_state;
mod index;
mod kv;
mod kv_table;
mod model;
mod session;
mod session_table;
mod state;
#[cfg(test)]
mod tests;
mod txn;

pub(crate) use agent::{NODE_MAINTENANCE, SERVICE_MAINTENANCE};
pub(crate) use coordinate_table::{Coordinate, DIMENSIONS, NodeCoordinate};
pub(crate) use event::EventFilters;
pub(crate) use event_state::{Event, NewEvent};
pub(crate) use index::{Topic, TopicIndex};
pub(crate) use kv::{KvOp, KvVerb};
pub(crate) use kv_table::KvEntry;
pub(crate) use model::{
    Check, CheckKind, NewCheck, NewService, Node, NodeInfo, Probe, ProbeTarget, Row, Service, Status,
    TaggedAddress, Weights,
};
pub(crate) use session_table::{Session, SessionBehavior, SessionServiceCheck};
pub(crate) use state::{SERF_PORT, SERF_WAN_PORT, SERVER_PORT, Store};
pub(crate) use txn::{TxnError, TxnOp};
