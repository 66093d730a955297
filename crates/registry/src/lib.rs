//! Asks a registry one question at a time. The crate spawns no tasks and remembers no answers, except the last good
//! content of the file registry, and what a caller keeps for it ([`Cursor`], [`Seen`]).
//!
//! [`Registry`] is the source of instances; [`Registrar`] is where the local app is registered; [`Kv`] stores keys and values, and
//! [`Locks`] keeps locks.
//! [`consul::Consul`] is all of them; [`file::FileRegistry`] is a registry of static instances. Asking again,
//! backing off and keeping the last good answer belong to the `discovery` crate; announcing again to the
//! `registration` crate. [`name`] reads the names of services in hosts;
//! [`subset`] tells which instances a subset has; [`chain`] is what Consul's config entries say of a service.

pub mod chain;
pub mod consul;
mod error;
mod facts;
pub mod file;
mod kv;
mod locks;
mod model;
pub mod name;
mod null;
mod registrar;
mod registry;
mod resolve;
mod self_lookup;
pub mod subset;
#[cfg(any(test, feature = "testing"))]
pub mod testing;

pub use error::Error;
pub use facts::{CheckFacts, FactPool, InstanceFacts, NodeFacts};
pub use kv::{HeldPut, Kv, KvAnswer, KvChange, KvEntry, KvScope};
pub use locks::{
    KnownLock, LockAnswer, LockAttempt, LockHolder, LockKind, LockPlace, Locks, NewSession, SessionId,
    SessionInfo,
};
pub use model::{DRAINING_MARK, HealthStatus, Instance, InstanceId, LastResort, NamedHost, Unusable};
pub use registrar::{Claim, Drift, Registrar, Registration, Report, ReportedHealth, Rival, Seen};
pub use registry::{
    AnswerFuture, ChainAnswer, Consistency, Cursor, LookupFuture, Query, Registry, WatchAnswer,
};
pub use self_lookup::{CatalogPresence, SelfLookup};
