//! Serving from before a restart: not at once, for a registry that answers does so in milliseconds
//! and knows better, but as soon as the first question fails or takes long.

use std::{pin::pin, sync::Arc, time::Duration};

use outrigger_registry::{Error, WatchAnswer};
use tokio::time::timeout;
use tracing::{debug, warn};

use super::{BlockingQuery, Watcher};
use crate::{Knowledge, Snapshot, memory::CachedAnswer};

/// Longest wait for the first answer before what was known serves in its place; at most half of what
/// a request waits.
const FIRST_ANSWER_WAIT: Duration = Duration::from_millis(250);

impl Watcher {
    pub(super) async fn query_or_serve_cached(&self, query: BlockingQuery) -> Result<WatchAnswer, Error> {
        if self.cached.is_none() {
            return self.run_query(query).await;
        }
        let mut answer = pin!(self.run_query(query));
        let longest = FIRST_ANSWER_WAIT.min(self.context.services.settings().first_answer / 2);
        if let Ok(answer) = timeout(longest, &mut answer).await {
            return answer;
        }
        self.serve_cached();
        answer.await
    }

    /// Lets what was known before the restart serve, if the registry has not answered yet.
    pub(super) fn serve_cached(&self) {
        let Some(CachedAnswer { instances, index, confirmed_at: heard_at }) = &self.cached else { return };
        let Some(snapshot) = self.service.publish_cached(instances.clone(), *index, *heard_at) else {
            return;
        };
        self.context.services.mark_known(&self.service.query);
        let instances = snapshot.instances.len();
        let age = self.service.confirmed_ago(super::now()).unwrap_or_default();
        let service = &self.service.query;
        if self.context.cache.as_ref().is_some_and(|memory| memory.is_first_use()) {
            warn!(%service, instances, ?age, "the registry does not answer, serving what was known before the restart");
        } else {
            debug!(%service, instances, ?age, "serving what was known before the restart");
        }
    }

    /// What an answer is compared with: what is known, or would be if the registry stayed silent.
    pub(super) fn current_snapshot(&self) -> Arc<Snapshot> {
        let snapshot = self.service.snapshot();
        match &self.cached {
            Some(recalled) if snapshot.knowledge == Knowledge::Unasked => {
                Arc::new(snapshot.remembered(recalled.instances.clone(), recalled.confirmed_at))
            }
            _ => snapshot,
        }
    }

    /// The index of [`Watcher::current_snapshot`].
    pub(super) fn last_index(&self) -> u64 {
        match &self.cached {
            Some(recalled) => recalled.index,
            None => self.service.index(),
        }
    }
}
