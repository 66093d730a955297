//! Keeps the last good answer for each service and notifies followers when it changes.
//!
//! [`Discovery::follow`] returns a [`Follower`]. While a service has followers, one watcher asks the
//! registry for it ([`Registry::watch`]) in a loop (`watch/`) and swaps each new answer in. Readers
//! load that answer; they take no lock and never wait for the registry. An update of one service
//! touches that service only.
//!
//! This crate chooses no instance, carries no request, and does not decide when a service is no
//! longer needed: the drop of the last follower does. It keeps the last good answer
//!
//! - while the registry is silent, for any time; [`ServiceStatus`] says how old the answer is,
//! - when the registry suddenly lists no instances while the known ones still answer (`suspects/`),
//! - across a restart of the process ([`DiskCache`]).
//!
//! [`Registry::watch`]: outrigger_registry::Registry::watch

mod cache;
mod chain;
mod clock;
mod discovery;
mod follower;
mod instances;
mod metrics;
mod new_names;
mod service;
mod services;
mod snapshot;
mod status;
mod suspects;
mod watch;
mod watch_reason;

#[cfg(test)]
mod tests;

pub use cache::DiskCache;
pub use chain::{ChainFollower, ChainNews, ChainProblem, ChainProblemKind, ChainRules};
pub use clock::unix_time;
pub use discovery::Discovery;
pub use follower::Follower;
pub use services::FollowError;
pub use snapshot::{InstanceCounts, Knowledge, Snapshot};
pub use status::{RegistryContact, ServiceStatus};
pub use suspects::{Liveness, ProbeFuture};
pub use watch_reason::WatchReason;
