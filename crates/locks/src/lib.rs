//! Holds locks, semaphores and leases of the registry for the app, and tells their loss before another can hold them.
//!
//! | module | its job |
//! |---|---|
//! | [`manager`] | acquires, waits, renews and gives back; the leases by their ids |
//! | `hold` | one hold: renews its session, watches the lock, and says when it is lost |
//! | `holder` | a holder, and what is known of it |
//! | `validity` | until when a session holds for certain. Pure |
//! | `view` | one watch for each name, shared by all that wait for it or hold it |
//! | `sightings` | since when each holder was seen |
//! | `metrics` | what is counted |
//! | `record` | on disk: the sessions of this process, its leases, and the highest token of each name |
//! | `name` | which names a lock may have |
//! | `clock` | a clock that counts while the machine is suspended |
//!
//! **What is promised.** A session ends at the registry no earlier than its time to live after the last renewal that the
//! registry has answered. The hold counts from the moment *before* that renewal was sent, on a clock that counts while the machine is
//! suspended, and ends a margin earlier. So the app is told before another can acquire the lock, whatever is lost: the leader, the agent, the
//! network, or time. Not promised: that an operator does not delete the key or force its release. The watch tells that as
//! soon as it is seen, and the fencing token of the next holder is higher.

mod clock;
mod error;
mod hold;
mod holder;
pub mod manager;
mod metrics;
mod name;
mod record;
mod sightings;
mod validity;
mod view;

#[cfg(test)]
mod tests;

pub use clock::BootClock;
pub use error::{AcquireError, LeaseError};
pub use hold::{HoldState, LossReason, Released};
pub use holder::KnownHolder;
pub use manager::{
    Acquire, Held, HeldHere, Lease, LeaseHere, LockManager, LockView, LockWatch, LocksOverview, Waiting,
    WaitingHere,
};
pub use name::{LockName, NameError, is_lease_id};
pub use view::WatchedLock;
