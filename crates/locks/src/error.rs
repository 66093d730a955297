//! Why a lock is not acquired, and why a lease cannot be used.

use std::time::Duration;

use outrigger_registry::LockKind;

use crate::{LossReason, holder::KnownHolder};

/// Why a lock was not acquired.
#[derive(Debug, thiserror::Error)]
pub enum AcquireError {
    /// Others hold it, and the wait is over.
    #[error("the lock is held by {} other session(s)", holders.len().max(1))]
    Held {
        /// The sessions that hold it, as far as they were seen.
        holders: Vec<KnownHolder>,
    },
    /// The registry ended the session of the last holder, and keeps the lock closed.
    #[error(
        "the session of the last holder was ended by the registry, which keeps the lock closed for up to {longest:?}"
    )]
    LockDelay {
        /// The longest time until it opens, where the last holder has the same settings.
        longest: Duration,
    },
    /// It is a semaphore with another limit.
    #[error("the limit of this semaphore is {limit}, not the one that was asked for")]
    LimitMismatch {
        /// The limit that it has.
        limit: u32,
    },
    /// The key is in use for something else.
    #[error("the key of this lock is in use for {}", kind_text(*kind))]
    KindMismatch {
        /// For what.
        kind: LockKind,
    },
    /// The registry does not answer, or refuses.
    #[error("the registry cannot be asked for the lock")]
    Registry(#[source] outrigger_registry::Error),
    /// The registry gave a lower token than an earlier holder had: its data was lost or restored.
    #[error(
        "the registry gave the fencing token {token}, but {seen} was given before: its data was lost or restored"
    )]
    TokenRegressed {
        /// The token.
        token: u64,
        /// The highest one before.
        seen: u64,
    },
    /// The owner has a lease of an earlier process of this sidecar, which is not taken over yet.
    #[error("the leases of the last run of this sidecar are being taken over; ask again")]
    Restoring,
    /// Another process of this sidecar takes its place.
    #[error("another process of this sidecar takes its place; ask again")]
    HandedOver,
    /// The sidecar drains.
    #[error("the sidecar drains: no lock is acquired any more")]
    Draining,
    /// This process holds as many locks as it may.
    #[error("{limit} locks are held by this sidecar, which is its limit")]
    TooManyHeld {
        /// The limit.
        limit: usize,
    },
    /// As many requests wait as may wait.
    #[error("{limit} requests wait for locks at this sidecar, which is its limit")]
    TooManyWaiters {
        /// The limit.
        limit: usize,
    },
}

impl AcquireError {
    /// All names of reasons.
    pub(crate) const REASONS: [&str; 10] = [
        "lock_held",
        "lock_delay",
        "limit_mismatch",
        "lock_kind_mismatch",
        "registry_unavailable",
        "token_regressed",
        "restoring",
        "draining",
        "too_many_held",
        "too_many_waiters",
    ];

    /// The name of the reason: a closed list.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Held { .. } => "lock_held",
            Self::LockDelay { .. } => "lock_delay",
            Self::LimitMismatch { .. } => "limit_mismatch",
            Self::KindMismatch { .. } => "lock_kind_mismatch",
            Self::Registry(_) => "registry_unavailable",
            Self::TokenRegressed { .. } => "token_regressed",
            Self::Restoring | Self::HandedOver => "restoring",
            Self::Draining => "draining",
            Self::TooManyHeld { .. } => "too_many_held",
            Self::TooManyWaiters { .. } => "too_many_waiters",
        }
    }
}

/// Why a lease cannot be renewed or given back.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LeaseError {
    /// There is no such lease of this lock: it was given back, or this sidecar never gave it out.
    #[error("this sidecar has no such lease of this lock: it was given back, or never given out")]
    Unknown,
    /// It is lost.
    #[error("the lock is lost: {0}")]
    Lost(LossReason),
    /// It may be a lease of an earlier process, which is not taken over yet.
    #[error("the leases of the last run of this sidecar are being taken over; ask again")]
    Restoring,
    /// Another process of this sidecar goes on with the leases.
    #[error("another process of this sidecar takes the leases over; ask again")]
    HandedOver,
}

fn kind_text(kind: LockKind) -> &'static str {
    match kind {
        LockKind::Mutex => "a lock with one holder",
        LockKind::Semaphore { .. } => "a semaphore",
        LockKind::Foreign | LockKind::Unused => "a value that is no lock",
    }
}
