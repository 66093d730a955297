//! The quotas of clusters on demand, and which of these go first.

use outrigger_discovery::{FollowError, Knowledge};

use crate::upstream::cluster::Cluster;

/// A quota that is used up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Quota {
    /// `discovery.max_services`
    Services,
    /// `discovery.max_unknown`
    Unknown,
}

impl Quota {
    /// The quota that refuses a service.
    pub(super) fn of(refused: FollowError) -> Option<Self> {
        match refused {
            FollowError::TooManyServices { .. } => Some(Self::Services),
            FollowError::TooManyUnknown { .. } => Some(Self::Unknown),
            FollowError::TooManyNew { .. } | FollowError::ShuttingDown => None,
        }
    }
}

/// Which clusters go first where a quota is used up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum EvictionRank {
    /// The registry has answered, and never listed an instance: most likely a mistyped or made-up name.
    NeverListed,
    /// The registry has not answered yet.
    Unasked,
    /// An instance was listed.
    Listed,
}

impl EvictionRank {
    pub(super) fn of(cluster: &Cluster) -> Self {
        // Not from the View, which comes a moment later.
        let snapshot = cluster.follower.load().snapshot();
        let is_listed = || snapshot.instances.iter().any(|one| cluster.matches(one));
        match snapshot.knowledge {
            _ if cluster.ever_had_instances() || is_listed() => Self::Listed,
            Knowledge::Unasked => Self::Unasked,
            Knowledge::Remembered | Knowledge::Answered => Self::NeverListed,
        }
    }
}
