//! Asks a registry one question at a time. No loops, no spawns, no memory of answers (but for the
//! file's last good content).
//!
//! [`Registry`] is what instances are learned from, [`Registrar`] where the local app is registered.
//! [`consul::Consul`] is both; [`file::FileRegistry`] is a registry of static instances. Asking again,
//! backing off and keeping the last good answer are the `discovery` crate's.

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
pub use model::{HealthStatus, Instance, InstanceId, Unusable};
pub use registry::{
    AgentService, AnswerFuture, Consistency, Cursor, OwnCheck, Query, Registrar, Registration, Registry,
    ReportedHealth, ServiceChecks, WatchAnswer,
};
