//! Watches for the subsets of which the registry evaluates the filter.
//!
//! Nearly every filter selects what the sidecar knows of each instance anyway, and is evaluated here. One that selects more has a watch
//! of its own, which says only which instances are in the subset: their addresses and their health are those of the watch of the
//! service. While the registry is away, or refuses the filter, the last list stays.

use std::sync::{Arc, Weak};

use outrigger_discovery::{Discovery, Follower, WatchReason};
use outrigger_registry::Query;
use outrigger_task::essential;
use tokio::task::AbortHandle;
use tracing::error;

use crate::upstream::subset::{LiveSubsets, Subset};

/// The watches of one cluster.
#[derive(Debug, Default)]
pub(crate) struct AskedSubsets(Vec<AskedSubset>);

#[derive(Debug)]
struct AskedSubset {
    subset: Weak<Subset>,
    query: Query,
    task: AbortHandle,
}

impl Drop for AskedSubset {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl AskedSubsets {
    /// Watches for those of `subsets` that need it, and ends the watches of those that are gone. `of`: the service. With another
    /// `of` the watches begin anew; until their first answers the last lists stay.
    pub(crate) fn follow(
        &mut self,
        discovery: &Arc<Discovery>,
        of: &Query,
        live: &Arc<LiveSubsets>,
        subsets: &[Arc<Subset>],
    ) {
        let is_same = |query: &Query| Query { filter: None, ..query.clone() } == *of;
        self.0.retain(|known| known.subset.strong_count() > 0 && is_same(&known.query));
        for subset in subsets {
            let Some(filter) = subset.asked_filter() else { continue };
            if self.0.iter().any(|known| std::ptr::eq(known.subset.as_ptr(), &**subset)) {
                continue;
            }
            let query = Query { filter: Some(filter.into()), ..of.clone() };
            let name = format!("the subset {} of {of}", subset.name());
            // The settings bound their number, as that of declared services.
            match discovery.follow(query.clone(), WatchReason::Declared) {
                Ok(follower) => {
                    let run = run(follower, Arc::downgrade(subset), live.clone());
                    let task = tokio::spawn(essential(name, run)).abort_handle();
                    self.0.push(AskedSubset { subset: Arc::downgrade(subset), query, task });
                }
                Err(error) => error!(subset = name, %error, "its filter is not watched"),
            }
        }
    }
}

/// Until the subset is gone.
async fn run(mut follower: Follower, subset: Weak<Subset>, live: Arc<LiveSubsets>) {
    loop {
        let snapshot = follower.changed().await;
        let Some(subset) = subset.upgrade() else { return };
        subset.set_listed(&snapshot.instances);
        live.added.notify_one();
    }
}
