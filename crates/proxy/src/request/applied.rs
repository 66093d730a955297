//! What the rules of a service say of one request: what its attempts need of them.

use std::sync::Arc;

use crate::upstream::{over::LinkedFailover, subset::Subset, traffic::Mirror};

/// What the rules of a service say of a request.
#[derive(Debug, Default)]
pub(crate) struct AppliedRules {
    /// The part of the service's instances to which it goes. `None`: all.
    pub(crate) subset: Option<Arc<Subset>>,
    /// Where it goes while these instances cannot take it. `None`: nowhere.
    pub(crate) failover: Option<Arc<LinkedFailover>>,
    /// Where a copy of it goes. `None`: there is none.
    pub(crate) mirror: Option<Arc<Mirror>>,
}
