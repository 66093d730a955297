//! Follows the documents of a registry's KV that set how services are called ([`outrigger_config::SettingsDocument`]).
//!
//! One question for all of them waits at the registry for a change ([`DocumentFollower`], over `outrigger-kv-watch`, which gathers
//! changes and doubts removals). What it learns goes to the caller, which puts the documents over its settings and
//! returns what became of each. The last good version of each document stays in a file ([`DocumentStore`]), so that a
//! restart without the registry, or with a wrong document in it, keeps what was in effect.
//!
//! | module | what it does |
//! |---|---|
//! | `follower` | the loop: asks, applies, stores |
//! | `store` | the last good versions, on disk |
//!
//! The crate does not read documents: `outrigger-config` does.

mod follower;
mod store;

pub use follower::{AppliedResults, DocumentFollower};
pub use store::DocumentStore;
