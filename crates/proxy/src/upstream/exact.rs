//! The targets of a chain of the registry: instances as the chain names them, apart from the rules of their service.

use std::sync::Arc;

use outrigger_config::ExactTarget;

use crate::upstream::{cluster::Cluster, over::LinkedFailover, subset::Subset};

/// A target with its cluster.
#[derive(Debug)]
pub(crate) struct LinkedTarget {
    pub(crate) rule: Arc<ExactTarget>,
    pub(crate) cluster: Arc<Cluster>,
    /// Its endpoints.
    pub(crate) set: Arc<Subset>,
    /// Where its requests go while none of them is usable. `None`: nowhere.
    pub(crate) failover: Option<Arc<LinkedFailover>>,
}

impl LinkedTarget {
    /// The subset that its requests are picked from. `None`: all endpoints of the cluster.
    pub(crate) fn subset(&self) -> Option<&Arc<Subset>> {
        (self.rule.place.subset.is_some() || self.failover.is_some()).then_some(&self.set)
    }

    /// Whether it has a usable instance, or a failover for it, as far as it is known.
    pub(crate) fn has_usable(&self) -> bool {
        let failover = self.failover.as_ref();
        !self.cluster.has_answer()
            || self.set.set().has_usable()
            || failover.is_some_and(|failover| failover.failover.has_healthy(Some(&*self.set)))
    }
}
