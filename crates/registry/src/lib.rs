//! Asks a registry one question at a time. The crate runs no loops, spawns no tasks and remembers no
//! answers, except the last good content of the file registry.
//!
//! [`Registry`] is the source of instances; [`Registrar`] is where the local app is registered.
//! [`consul::Consul`] is both; [`file::FileRegistry`] is a registry of static instances. Asking again,
//! backing off and keeping the last good answer belong to the `discovery` crate.

pub mod consul;
mod error;
pub mod file;
mod file_version;
mod model;
mod registry;
mod resolve;
#[cfg(feature = "testing")]
pub mod testing;

pub use error::Error;
pub use model::{DRAINING_MARK, HealthStatus, Instance, InstanceId, Unusable};
pub use registry::{
    AgentService, AnswerFuture, Consistency, Cursor, OwnCheck, Query, Registrar, Registration, Registry,
    ReportedHealth, ServiceChecks, WatchAnswer,
};
