//! A holder of a lock, and what is known of it.

use std::time::Duration;

use outrigger_registry::{LockHolder, SessionInfo};

/// A holder of a lock, as this sidecar knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownHolder {
    /// Its session and value.
    pub holder: LockHolder,
    /// For how long it holds the lock; known where it is a hold of this sidecar.
    pub held_for: Option<Duration>,
    /// For how long this sidecar has seen it as the holder, without a break: it holds the lock at least as long. A registry does not say
    /// since when.
    pub seen_for: Duration,
    /// What the registry says of its session, where it was asked.
    pub session: Option<SessionInfo>,
}

impl KnownHolder {
    /// Whether it is a hold of this sidecar.
    pub fn is_here(&self) -> bool {
        self.held_for.is_some()
    }
}
