//! Why a service is watched.

/// Why a service is followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum WatchReason {
    /// The configuration names the service; the quotas do not apply.
    Declared,
    /// A request named the service.
    OnDemand,
}

impl WatchReason {
    /// The label in metrics and on admin pages.
    pub fn label(self) -> &'static str {
        match self {
            Self::Declared => "declared",
            Self::OnDemand => "on_demand",
        }
    }
}
