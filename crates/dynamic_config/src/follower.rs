//! The loop: asks the registry, hands the documents to the caller, and keeps the last good versions.

use std::{future::Future, sync::Arc, time::Duration};

use outrigger_config::{
    DocumentResult, DocumentState, DocumentVersions, SettingsDocument, error_chain, settings_prefix,
};
use outrigger_kv_watch::{KvFollower, KvNews};
use outrigger_registry::{Kv, KvEntry};
use tokio::{
    sync::Notify,
    time::{Instant, sleep_until},
};
use tracing::{debug, info, warn};

use crate::{DocumentStore, store::Documents};

/// What became of each document that was applied. `None`: they could not be applied now, and are applied again later.
pub type AppliedResults = Option<Vec<DocumentResult>>;

/// When documents that could not be applied are applied again.
const APPLY_AGAIN: Duration = Duration::from_secs(1);

/// Follows the documents below one prefix.
pub struct DocumentFollower {
    follower: KvFollower<SettingsDocument>,
    store: DocumentStore,
    /// Applied in this run or in the one before.
    last_good: Documents,
    is_store_failing: bool,
}

impl std::fmt::Debug for DocumentFollower {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DocumentFollower").field("prefix", &self.follower.prefix()).finish_non_exhaustive()
    }
}

impl DocumentFollower {
    /// Reads the last good versions. Asks nothing yet. `prefix` is `dynamic_config.prefix`; `longest_wait` is the time that a question
    /// may wait at the registry. Blocks.
    pub fn open(
        kv: Arc<dyn Kv>,
        longest_wait: impl Fn() -> Duration + Send + Sync + 'static,
        prefix: &str,
        store: DocumentStore,
    ) -> Self {
        let last_good = store.load();
        let prefix = settings_prefix(prefix);
        let a_key = last_good.keys().next().map(|name| format!("{prefix}{name}"));
        let read = {
            let prefix = prefix.clone();
            move |entry| read_document(&prefix, entry)
        };
        let follower = KvFollower::new(kv, longest_wait, &prefix, read, last_good.clone(), a_key);
        Self { follower, store, last_good, is_store_failing: false }
    }

    /// The documents that count, each with its last good version. Before [`DocumentFollower::run`]: those of the run before, which the
    /// caller puts in place before it starts.
    pub fn documents(&self) -> Vec<DocumentVersions> {
        let versions = |current: &SettingsDocument| DocumentVersions {
            last_good: self.last_good.get(&current.name).cloned(),
            current: current.clone(),
        };
        self.follower.entries().values().map(versions).collect()
    }

    /// Asks until it is dropped, and calls `apply` with all documents when they have changed, and when `again` is notified.
    pub async fn run<F, R>(mut self, again: Arc<Notify>, apply: F)
    where
        F: Fn(Vec<DocumentVersions>) -> R,
        R: Future<Output = AppliedResults>,
    {
        let mut apply_again = None;
        loop {
            tokio::select! {
                news = self.follower.next() => self.log(news),
                () = sleep_until_some(apply_again) => {}
                () = again.notified() => self.follower.mark_changed(),
            }
            let now = Instant::now();
            let is_again = apply_again.is_some_and(|at| at <= now);
            if self.follower.take_due(now) || is_again {
                match apply(self.documents()).await {
                    Some(results) => {
                        apply_again = None;
                        self.note_results(&results).await;
                    }
                    None => apply_again = Some(Instant::now() + APPLY_AGAIN),
                }
            }
        }
    }

    fn log(&self, news: KvNews) {
        let prefix = self.follower.prefix();
        match news {
            KvNews::Answered { is_back: true, .. } => info!(prefix, "the settings in the KV are read again"),
            KvNews::Answered { .. } | KvNews::Due => {}
            KvNews::Failed { error, failures } => {
                let reason = error_chain(&error);
                match failures {
                    // One failure alone is often a connection that was closed.
                    2 => warn!(prefix, reason, "the settings in the KV cannot be read, the last ones stay"),
                    _ => debug!(prefix, reason, "the settings in the KV cannot be read"),
                }
            }
        }
    }

    /// Keeps what was applied as the last good version, and forgets what is gone.
    async fn note_results(&mut self, results: &[DocumentResult]) {
        let mut last_good = self.last_good.clone();
        for result in results.iter().filter(|result| result.state == DocumentState::Applied) {
            if let Some(document) = self.follower.entries().get(&result.name) {
                last_good.insert(result.name.clone(), document.clone());
            }
        }
        last_good.retain(|name, _| self.follower.entries().contains_key(name));
        if last_good == self.last_good && !self.is_store_failing {
            return;
        }
        self.last_good = last_good;
        let (store, documents) = (self.store.clone(), self.last_good.clone());
        let saved = tokio::task::spawn_blocking(move || store.save(&documents)).await;
        // A runtime that stops runs no new task.
        let Ok(saved) = saved else { return };
        if let (Err(error), false) = (&saved, self.is_store_failing) {
            let file = self.store.path().map(|path| path.display().to_string()).unwrap_or_default();
            warn!(file, %error, "the last good documents cannot be saved, a restart would lose them");
        }
        self.is_store_failing = saved.is_err();
    }
}

fn read_document(prefix: &str, entry: KvEntry) -> Option<(String, SettingsDocument)> {
    let name = entry.key.strip_prefix(prefix)?.to_owned();
    // `settings/` itself, or a folder that Consul's pages made.
    let is_document = !name.is_empty() && !name.ends_with('/');
    let document = SettingsDocument { name: name.clone(), index: entry.modify_index, value: entry.value };
    is_document.then_some((name, document))
}

async fn sleep_until_some(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
