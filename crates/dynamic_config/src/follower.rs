//! The loop: asks the registry, hands the documents to the caller, and keeps the last good versions.

use std::{collections::BTreeSet, future::Future, sync::Arc, time::Duration};

use outrigger_config::{
    DocumentResult, DocumentState, DocumentVersions, SettingsDocument, error_chain, is_document,
    settings_prefix,
};
use outrigger_kv_watch::{KvFollower, KvNews};
use outrigger_registry::{Kv, KvEntry};
use tokio::{
    sync::{Notify, watch},
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::{DocumentSaver, DocumentStore, store::Documents};

/// What became of each document that was applied. `None`: they could not be applied now, and are applied again later.
pub type AppliedResults = Option<Vec<DocumentResult>>;

/// When documents that could not be applied are applied again.
const APPLY_AGAIN: Duration = Duration::from_secs(1);

/// Whether the registry has said in this run which documents there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FirstAnswer {
    /// It has not been asked yet, or has not answered.
    Pending,
    /// The question has failed, and is asked again.
    Failed,
    /// The token may not ask.
    Refused,
    /// It has, and the documents are in place.
    Received,
}

/// What a follower and its owner tell each other.
#[derive(Debug, Clone)]
pub struct FollowerSignals {
    /// Notified: the documents are applied again.
    pub again: Arc<Notify>,
    /// Cancelled: the follower ends, and what it has applied is on disk then.
    pub stop: CancellationToken,
    /// Set by the follower. It stays [`FirstAnswer::Received`].
    pub first_answer: watch::Sender<FirstAnswer>,
}

/// What a follower hands to its owner.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FollowedDocuments {
    /// The documents that count.
    pub documents: Vec<DocumentVersions>,
    /// The registry has answered in this run. Else they are those of the run before.
    pub is_answered: bool,
}

/// Follows the documents below one prefix.
pub struct DocumentFollower {
    follower: KvFollower<SettingsDocument>,
    store: DocumentStore,
    /// Applied in this run or in the one before.
    last_good: Documents,
    is_answered: bool,
    /// The documents that the token may not read, by the last answer.
    hidden: BTreeSet<String>,
    saver: DocumentSaver,
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
        saver: DocumentSaver,
    ) -> Self {
        let last_good = store.load();
        let prefix = settings_prefix(prefix);
        let read = {
            let prefix = prefix.clone();
            move |entry| read_document(&prefix, entry)
        };
        let key_of = {
            let prefix = prefix.clone();
            move |name: &str| format!("{prefix}{name}")
        };
        let follower = KvFollower::new(kv, longest_wait, &prefix, read, key_of, last_good.clone());
        Self { follower, store, last_good, is_answered: false, hidden: BTreeSet::new(), saver }
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

    /// Asks until it is to stop, and calls `apply` with all documents: after the first answer, when they have changed, and when `again`
    /// is notified.
    pub async fn run<F, R>(mut self, signals: FollowerSignals, apply: F)
    where
        F: Fn(FollowedDocuments) -> R,
        R: Future<Output = AppliedResults>,
    {
        let mut apply_again = None;
        loop {
            tokio::select! {
                news = self.follower.next() => self.on_news(news, &signals.first_answer),
                () = sleep_until_some(apply_again) => {}
                () = signals.again.notified() => self.follower.mark_changed(),
                // Never while documents are applied.
                () = signals.stop.cancelled() => return self.saver.flush().await,
            }
            let now = Instant::now();
            let is_again = apply_again.is_some_and(|at| at <= now);
            if self.follower.take_due(now) || is_again {
                let followed =
                    FollowedDocuments { documents: self.documents(), is_answered: self.is_answered };
                match apply(followed).await {
                    Some(results) => {
                        apply_again = None;
                        if self.is_answered {
                            set_if_other(&signals.first_answer, FirstAnswer::Received);
                        }
                        self.note_results(&results);
                    }
                    None => apply_again = Some(Instant::now() + APPLY_AGAIN),
                }
            }
        }
    }

    fn on_news(&mut self, news: KvNews, first: &watch::Sender<FirstAnswer>) {
        let prefix = self.follower.prefix();
        match news {
            KvNews::Answered { is_back, .. } => {
                if is_back {
                    info!(prefix, "the settings in the KV are read again");
                }
                self.note_hidden();
                if !std::mem::replace(&mut self.is_answered, true) {
                    // The owner learns that these are the registry's, also where they are those of the run before.
                    self.follower.mark_changed();
                }
            }
            KvNews::Due => {}
            KvNews::Failed { error, failures } => {
                let reason = error_chain(&error);
                match failures {
                    // One failure alone is often a connection that was closed.
                    2 => warn!(prefix, reason, "the settings in the KV cannot be read, the last ones stay"),
                    _ => debug!(prefix, reason, "the settings in the KV cannot be read"),
                }
                if !self.is_answered {
                    let is_refused = error.is_forbidden();
                    let state = if is_refused { FirstAnswer::Refused } else { FirstAnswer::Failed };
                    set_if_other(first, state);
                }
            }
        }
    }

    fn note_hidden(&mut self) {
        let hidden = self.follower.hidden();
        if *hidden == self.hidden {
            return;
        }
        if !hidden.is_subset(&self.hidden) {
            let documents = hidden.iter().cloned().collect::<Vec<_>>().join(", ");
            warn!(
                prefix = self.follower.prefix(),
                documents, "the token may no longer read these documents of the KV, their last versions stay"
            );
        }
        self.hidden = hidden.clone();
    }

    /// Keeps what was applied as the last good version, and forgets what is gone.
    fn note_results(&mut self, results: &[DocumentResult]) {
        let mut last_good = self.last_good.clone();
        for result in results.iter().filter(|result| result.state == DocumentState::Applied) {
            if let Some(document) = self.follower.entries().get(&result.name) {
                last_good.insert(result.name.clone(), document.clone());
            }
        }
        last_good.retain(|name, _| self.follower.entries().contains_key(name));
        if last_good == self.last_good && !self.saver.is_failing() {
            return;
        }
        self.last_good = last_good;
        self.saver.put(&self.store, &self.last_good);
    }
}

fn read_document(prefix: &str, entry: KvEntry) -> Option<(String, SettingsDocument)> {
    let name = entry.key.strip_prefix(prefix)?.to_owned();
    // `settings/` itself, or a folder that Consul's pages made.
    let is_key = !name.is_empty() && !name.ends_with('/');
    // The value of a key that is no document is of no use, and may be large.
    let value = if is_document(&name) { entry.value } else { Vec::new() };
    let (index, created) = (entry.modify_index, entry.create_index);
    let document = SettingsDocument { name: name.clone(), index, created, value };
    is_key.then_some((name, document))
}

fn set_if_other(first: &watch::Sender<FirstAnswer>, state: FirstAnswer) {
    first.send_if_modified(|known| std::mem::replace(known, state) != state);
}

async fn sleep_until_some(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
