//! The loop: asks the registry, hands the documents to the caller, and keeps the last good versions.

use std::{future::Future, pin::Pin, sync::Arc, time::Duration};

use outrigger_config::{
    DocumentResult, DocumentState, DocumentVersions, SettingsDocument, error_chain, settings_prefix,
};
use outrigger_registry::{AnswerFuture, Consistency, Cursor, Error, Kv, KvAnswer, KvScope};
use tokio::{
    sync::Notify,
    time::{Instant, sleep_until},
};
use tracing::{debug, info, warn};

use crate::{
    DocumentStore,
    believed::{BelievedDocuments, Documents},
    pace::{AnswerTraits, NextQuestion, QuestionPace},
};

/// What became of each document that was applied. `None`: they could not be applied now, and are applied again later.
pub type AppliedResults = Option<Vec<DocumentResult>>;

/// When documents that could not be applied are applied again.
const APPLY_AGAIN: Duration = Duration::from_secs(1);

/// The answer to one question: how long the registry took, the wait that was asked for, and what it says.
type TimedAnswer = (Duration, Duration, Result<KvAnswer, Error>);

/// Follows the documents below one prefix.
pub struct DocumentFollower {
    kv: Arc<dyn Kv>,
    longest_wait: Box<dyn Fn() -> Duration + Send + Sync>,
    prefix: String,
    store: DocumentStore,
    /// Applied in this run or in the one before.
    last_good: Documents,
    believed: BelievedDocuments,
    is_store_failing: bool,
}

impl std::fmt::Debug for DocumentFollower {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DocumentFollower").field("prefix", &self.prefix).finish_non_exhaustive()
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
        Self {
            kv,
            longest_wait: Box::new(longest_wait),
            prefix: settings_prefix(prefix),
            store,
            believed: BelievedDocuments::new(last_good.clone(), Instant::now()),
            last_good,
            is_store_failing: false,
        }
    }

    /// The documents that count, each with its last good version. Before [`DocumentFollower::run`]: those of the run before, which the
    /// caller puts in place before it starts.
    pub fn documents(&self) -> Vec<DocumentVersions> {
        let versions = |current: &SettingsDocument| DocumentVersions {
            last_good: self.last_good.get(&current.name).cloned(),
            current: current.clone(),
        };
        self.believed.documents().values().map(versions).collect()
    }

    /// Asks until it is dropped, and calls `apply` with all documents when they have changed, and when `again` is notified.
    pub async fn run<F, R>(mut self, again: Arc<Notify>, apply: F)
    where
        F: Fn(Vec<DocumentVersions>) -> R,
        R: Future<Output = AppliedResults>,
    {
        let mut pace = QuestionPace::default();
        let mut question = self.ask(pace.first(Instant::now()));
        let mut apply_again = None;
        loop {
            let due = self.believed.next_due().into_iter().chain(apply_again).min();
            tokio::select! {
                (took, wait, answer) = &mut question => {
                    let next = self.on_answer(&mut pace, took, wait, answer);
                    question = self.ask(next);
                }
                () = sleep_until_some(due) => {}
                () = again.notified() => self.believed.mark_changed(),
            }
            let now = Instant::now();
            let is_again = apply_again.is_some_and(|at| at <= now);
            if self.believed.take_due(now) || is_again {
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

    fn ask(&self, next: NextQuestion) -> Pin<Box<dyn Future<Output = TimedAnswer> + Send>> {
        let (kv, prefix) = (self.kv.clone(), self.prefix.clone());
        let longest = (self.longest_wait)();
        let known = self.believed.documents().keys().next().map(|name| format!("{prefix}{name}"));
        Box::pin(async move {
            sleep_until(next.at).await;
            let wait = if next.cursor == Cursor::START { Duration::ZERO } else { longest };
            let asked = Instant::now();
            let scope = KvScope::Prefix(&prefix);
            let answer: AnswerFuture<'_, _> = kv.watch_kv(scope, next.cursor, Consistency::Default, longest);
            let answer = match (answer.await, known) {
                (Ok(answer), Some(known)) if answer.entries.is_empty() => {
                    check_readable(&*kv, &known, longest).await.map(|()| answer)
                }
                (answer, _) => answer,
            };
            (asked.elapsed(), wait, answer)
        })
    }

    fn on_answer(
        &mut self,
        pace: &mut QuestionPace,
        took: Duration,
        wait: Duration,
        answer: Result<KvAnswer, Error>,
    ) -> NextQuestion {
        let now = Instant::now();
        match answer {
            Ok(answer) => {
                if pace.failures() > 0 {
                    info!(prefix = self.prefix, "the settings in the KV are read again");
                }
                let (is_empty, cursor) = (answer.entries.is_empty(), answer.cursor);
                let is_new = self.believed.on_answer(self.documents_of(answer), now);
                let is_doubtful = self.believed.is_doubtful();
                let traits = AnswerTraits { cursor, is_new, is_empty, is_doubtful, took, wait };
                pace.after_answer(traits, now, fastrand::f64())
            }
            Err(error) => {
                self.believed.on_failure();
                let reason = error_chain(&error);
                match pace.failures() {
                    // One failure alone is often a connection that was closed.
                    1 => warn!(
                        prefix = self.prefix,
                        reason, "the settings in the KV cannot be read, the last ones stay"
                    ),
                    _ => debug!(prefix = self.prefix, reason, "the settings in the KV cannot be read"),
                }
                pace.after_failure(now, fastrand::u64(..))
            }
        }
    }

    fn documents_of(&self, answer: KvAnswer) -> Documents {
        let document = |entry: outrigger_registry::KvEntry| {
            let name = entry.key.strip_prefix(&self.prefix)?.to_owned();
            // `settings/` itself, or a folder that Consul's pages made.
            let is_document = !name.is_empty() && !name.ends_with('/');
            let document =
                SettingsDocument { name: name.clone(), index: entry.modify_index, value: entry.value };
            is_document.then_some((name, document))
        };
        answer.entries.into_iter().filter_map(document).collect()
    }

    /// Keeps what was applied as the last good version, and forgets what is gone.
    async fn note_results(&mut self, results: &[DocumentResult]) {
        let mut last_good = self.last_good.clone();
        for result in results.iter().filter(|result| result.state == DocumentState::Applied) {
            if let Some(document) = self.believed.documents().get(&result.name) {
                last_good.insert(result.name.clone(), document.clone());
            }
        }
        last_good.retain(|name, _| self.believed.documents().contains_key(name));
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

/// That `key` may be read. To a token that may not, Consul shows a prefix as empty, and refuses to read a single key.
async fn check_readable(kv: &dyn Kv, key: &str, longest: Duration) -> Result<(), Error> {
    kv.watch_kv(KvScope::Key(key), Cursor::START, Consistency::Default, longest).await.map(|_| ())
}

async fn sleep_until_some(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
