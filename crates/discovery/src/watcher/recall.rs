//! Serving from before a restart: not at once, for a registry that answers does so in milliseconds
//! and knows better, but as soon as the first question fails or takes long.

use std::{pin::pin, sync::Arc, time::Duration};

use outrigger_registry::{Error, WatchAnswer};
use tokio::time::timeout;
use tracing::{debug, warn};

use super::{Question, Watcher};
use crate::{Knowledge, Snapshot, memory::Recalled};

/// Longest wait for the first answer before what was known serves in its place; at most half of what
/// a request waits.
const PATIENCE: Duration = Duration::from_millis(250);

impl Watcher {
    pub(super) async fn ask_and_recall(&self, question: Question) -> Result<WatchAnswer, Error> {
        if self.recalled.is_none() {
            return self.ask(question).await;
        }
        let mut answer = pin!(self.ask(question));
        let patience = PATIENCE.min(self.shared.table.settings().first_answer / 2);
        if let Ok(answer) = timeout(patience, &mut answer).await {
            return answer;
        }
        self.serve_recalled();
        answer.await
    }

    /// Lets what was known before the restart serve, if the registry has not answered yet.
    pub(super) fn serve_recalled(&self) {
        let Some(Recalled { instances, index, heard_at }) = &self.recalled else { return };
        let Some(snapshot) = self.entry.recall(instances.clone(), *index, *heard_at) else { return };
        self.shared.table.became_known(&self.entry.query);
        let instances = snapshot.instances.len();
        let age = self.entry.heard_ago(super::now()).unwrap_or_default();
        let service = &self.entry.query;
        if self.shared.memory.as_ref().is_some_and(|memory| memory.serves_first()) {
            warn!(%service, instances, ?age, "the registry does not answer, serving what was known before the restart");
        } else {
            debug!(%service, instances, ?age, "serving what was known before the restart");
        }
    }

    /// What an answer is compared with: what is known, or would be if the registry stayed silent.
    pub(super) fn held(&self) -> Arc<Snapshot> {
        let snapshot = self.entry.snapshot();
        match &self.recalled {
            Some(recalled) if snapshot.knowledge == Knowledge::Unasked => {
                Arc::new(snapshot.remembered(recalled.instances.clone(), recalled.heard_at))
            }
            _ => snapshot,
        }
    }

    /// The index of [`Watcher::held`].
    pub(super) fn last_index(&self) -> u64 {
        match &self.recalled {
            Some(recalled) => recalled.index,
            None => self.entry.index(),
        }
    }
}
