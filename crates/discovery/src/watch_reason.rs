//! Why a service is watched.

/// Why a service is followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum WatchReason {
    /// The configuration names the service; the quotas do not apply.
    Declared,
    /// A request named the service.
    OnDemand,
    /// A look-up of the name alone asked for it, and nothing is sent to it by that. No quota of [`Discovery`](crate::Discovery)
    /// applies or counts it: the follower has a quota of its own.
    Lookup,
}

impl WatchReason {
    /// The label in metrics and on admin pages.
    pub fn label(self) -> &'static str {
        match self {
            Self::Declared => "declared",
            Self::OnDemand => "on_demand",
            Self::Lookup => "lookup",
        }
    }
}
