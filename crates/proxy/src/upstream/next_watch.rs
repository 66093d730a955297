//! The watch that takes the place of the one that a cluster follows, because the settings ask for other addresses.
//!
//! The cluster goes on with what it knows until the new watch has an answer, so that no request finds it empty: for as long as the
//! registry is away, and while the registry answers with an empty list although it lists instances for the other watch.

use std::{future::pending, sync::Arc};

use outrigger_discovery::{Discovery, Follower, Knowledge, WatchReason};
use outrigger_registry::Query;
use tracing::error;

use crate::upstream::cluster::{Cluster, watch_reason};

/// A watch with its two followers.
#[derive(Debug)]
pub(crate) struct NextWatch {
    /// Of the writer of the cluster.
    of_task: Follower,
    of_cluster: Follower,
}

impl NextWatch {
    /// The watch of `query`, where that is not followed `now`; `before` if it is the same.
    pub(crate) fn of(
        query: Query,
        now: &Follower,
        before: Option<Self>,
        discovery: &Discovery,
        is_declared: bool,
    ) -> Option<Self> {
        if *now.query() == query {
            return None;
        }
        // The service has its place in the quotas already.
        let reason = if is_declared { WatchReason::Declared } else { WatchReason::Lookup };
        if let Some(before) = before.filter(|before| *before.of_task.query() == query) {
            before.of_task.set_reason(reason);
            before.of_cluster.set_reason(reason);
            return Some(before);
        }
        let follow = || discovery.follow(query.clone(), reason);
        match follow().and_then(|of_task| Ok(Self { of_task, of_cluster: follow()? })) {
            Ok(next) => Some(next),
            Err(error) => {
                error!(watch = %query, %error, "its other addresses are not watched");
                None
            }
        }
    }

    /// Makes the cluster follow it. Returns the follower of its writer.
    pub(crate) fn take_over(self, cluster: &Cluster) -> Follower {
        cluster.follower.store(Arc::new(self.of_cluster));
        // After the store: the reason may have changed before.
        let reason = watch_reason(cluster.is_declared());
        cluster.follower.load().set_reason(reason);
        self.of_task.set_reason(reason);
        self.of_task
    }

    /// Resolves with each new snapshot; never without a watch. Cancel-safe.
    pub(crate) async fn changed(next: &mut Option<Self>) {
        match next {
            Some(next) => _ = next.of_task.changed().await,
            None => pending().await,
        }
    }

    /// Whether it can take the place of the watch that is followed `now`.
    pub(crate) fn is_ready(&self, now: &Follower) -> bool {
        let (new, old) = (self.of_task.snapshot(), now.snapshot());
        match (new.knowledge, old.knowledge) {
            (Knowledge::Unasked, _) => false,
            (_, Knowledge::Unasked) => true,
            (Knowledge::Remembered, _) => false,
            (Knowledge::Answered, _) => !new.instances.is_empty() || old.instances.is_empty(),
        }
    }
}

#[cfg(test)]
mod tests;
