//! What is updated, and how one line of the table is measured.

/// Instances of the service that changes.
pub(super) const INSTANCES: u32 = 10_000;

/// Where an update has to arrive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reach {
    /// A follower of the service has the new snapshot.
    Snapshot,
    /// The proxy picks by it.
    View,
}

/// What differs from the answer before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum UpdateKind {
    /// The health of one instance.
    One,
    /// The health of every instance.
    Health,
    /// Every instance is another one.
    Others,
}

/// How one line is measured.
#[derive(Debug, Clone, Copy)]
pub(super) struct UpdatePlan {
    pub(super) reach: Reach,
    /// Watched services, the one that changes among them.
    pub(super) services: u32,
    pub(super) rounds: u32,
}
