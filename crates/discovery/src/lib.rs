//! Keeps the last good answer for each service and tells followers when it changes.
//!
//! [`Discovery::follow`] gives a [`Follower`]: while one lives, one watcher per service asks the
//! registry again and again ([`Registry::watch`] is the question, `watcher.rs` the loop) and puts
//! each new answer behind one swap. Readers load that swap; they never lock, and they never wait for
//! the registry. An update of one service touches that service's entry and nothing else.
//!
//! What it declines to do: it chooses no instance, opens no connection, and does not decide when a
//! service is no longer needed (that is the last follower's drop). It forgets nothing because the
//! registry is silent: the last good answer stays for as long as the silence lasts, and
//! [`ServiceStatus`] says how old it is. Nor is it forgotten because the registry suddenly says that
//! nobody is there, while those it listed still answer (`guard.rs`), nor by a restart ([`DiskCache`]).
//!
//! Metrics are listed in [`metrics`].
//!
//! [`Registry::watch`]: outrigger_registry::Registry::watch

mod cache;
mod clock;
mod discovery;
mod follower;
mod instances;
pub mod metrics;
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
pub use discovery::Discovery;
pub use follower::Follower;
pub use services::FollowError;
pub use snapshot::{InstanceCounts, Knowledge, Snapshot};
pub use status::ServiceStatus;
pub use suspects::{Liveness, ProbeFuture};
pub use watch_reason::WatchReason;
