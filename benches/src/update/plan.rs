//! What is updated, and how one line of the table is measured.

/// Instances of the service that changes.
pub(super) const INSTANCES: u32 = 10_000;

/// Where an update must arrive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reach {
    /// A follower of the service has the new snapshot.
    Snapshot,
    /// The proxy picks from it.
    View,
}

/// What differs from the previous answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum UpdateKind {
    /// The health of one instance.
    One,
    /// The health of every instance.
    Health,
    /// Every instance is replaced.
    Others,
}

/// How one line is measured.
#[derive(Debug, Clone, Copy)]
pub(super) struct UpdatePlan {
    pub(super) reach: Reach,
    /// Watched services, including the one that changes.
    pub(super) services: u32,
    pub(super) rounds: u32,
}
