//! The answer from before a restart, served while the registry is silent: once the first query has
//! failed or takes long, and not before, because a registry that works answers within milliseconds
//! and its answer is newer.

use std::{pin::pin, sync::Arc, time::Duration};

use outrigger_config::format_coarse_duration;
use tokio::time::timeout;
use tracing::{debug, warn};

use super::{changes::record_changes, context::WatchContext};
use crate::{Knowledge, Snapshot, cache::CachedAnswer, clock::now, service::Service};

/// Longest wait for the first answer before the cached one is served; also at most half of the time
/// that a request waits.
pub(crate) const FIRST_ANSWER_WAIT: Duration = Duration::from_millis(250);

/// The cached answer of one watch.
#[derive(Debug)]
pub(super) struct CachedFallback {
    context: Arc<WatchContext>,
    service: Arc<Service>,
    /// Until the registry's first answer.
    answer: Option<CachedAnswer>,
}

impl CachedFallback {
    pub(super) fn load(context: Arc<WatchContext>, service: Arc<Service>) -> Self {
        let answer = context.cache.as_ref().and_then(|cache| cache.load_cached(&service.query, now()));
        Self { context, service, answer }
    }

    /// Returns what `query` returns; serves the cached answer when `query` takes long.
    pub(super) async fn serve_while_waiting<T>(&self, query: impl Future<Output = T>) -> T {
        if self.answer.is_none() {
            return query.await;
        }
        let mut query = pin!(query);
        let longest = FIRST_ANSWER_WAIT.min(self.context.services.settings().first_answer / 2);
        if let Ok(result) = timeout(longest, &mut query).await {
            return result;
        }
        self.serve();
        query.await
    }

    /// Publishes the cached answer, unless the registry has answered.
    pub(super) fn serve(&self) {
        let Some(CachedAnswer { instances, index, confirmed_at }) = &self.answer else { return };
        let Some(snapshot) = self.service.publish_cached(instances.clone(), *index, *confirmed_at) else {
            return;
        };
        self.context.services.mark_known(&self.service.query);
        record_changes(&self.context.events, &self.service.query, &[], &snapshot.instances);
        let instances = snapshot.instances.len();
        let age = self.service.confirmed_ago(now());
        let age = age.map_or_else(|| "unknown".to_owned(), format_coarse_duration);
        let service = &self.service.query;
        if self.context.cache.as_ref().is_some_and(|cache| cache.is_first_use()) {
            warn!(%service, instances, age, "the registry has not answered yet, serving what was known before the restart");
        } else {
            debug!(%service, instances, age, "serving what was known before the restart");
        }
    }

    /// The registry has answered: the cached answer is obsolete.
    pub(super) fn discard(&mut self) {
        self.answer = None;
    }

    /// What an answer is compared with: the snapshot, or the cached answer before the first one.
    pub(super) fn current_snapshot(&self) -> Arc<Snapshot> {
        let snapshot = self.service.snapshot();
        match &self.answer {
            Some(cached) if snapshot.knowledge == Knowledge::Unasked => {
                Arc::new(snapshot.remembered(cached.instances.clone(), cached.confirmed_at))
            }
            _ => snapshot,
        }
    }

    /// The index of [`CachedFallback::current_snapshot`].
    pub(super) fn last_index(&self) -> u64 {
        match &self.answer {
            Some(cached) => cached.index,
            None => self.service.index(),
        }
    }
}
