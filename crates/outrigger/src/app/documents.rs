//! Documents of the registry's KV over the settings of the file.

use std::{collections::BTreeMap, future::Future, sync::Arc, time::Duration};

use outrigger_config::{Config, DocumentResult, DocumentState, DocumentVersions, LoadedConfig};
use outrigger_dynamic_config::{
    AppliedResults, DocumentFollower, DocumentSaver, DocumentStore, FirstAnswer, FollowedDocuments,
    FollowerSignals,
};
use outrigger_events::{Event, EventKind, Events};
use outrigger_task::essential;
use parking_lot::Mutex;
use prometheus::{IntGaugeVec, register_int_gauge_vec_with_registry};
use tokio::{
    sync::{Notify, watch},
    time::timeout,
};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};
use tracing::{info, warn};

use super::receipts::{Receipts, instance_id};
use crate::registry::{self, OpenedRegistry};

/// Longest wait of a start for the documents.
const FIRST_ANSWER_WITHIN: Duration = Duration::from_secs(3);

/// Longest wait at the end for documents that are being applied and saved.
const STOP_WITHIN: Duration = Duration::from_secs(5);

/// The settings of the file, and the documents that are over them.
#[derive(Debug)]
pub(super) struct SettingLayers {
    state: Mutex<LayerState>,
    /// Settings are put in place one at a time.
    pub(super) applying: tokio::sync::Mutex<()>,
    /// Notified: the documents are read again.
    again: Arc<Notify>,
    follower: Mutex<Option<RunningFollower>>,
    saver: DocumentSaver,
    first_answer: watch::Sender<FirstAnswer>,
    start: watch::Sender<DocumentsAtStart>,
    pub(super) receipts: Receipts,
    /// `outrigger_dynamic_config_documents`
    counts: IntGaugeVec,
}

/// What a start waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum DocumentsAtStart {
    /// The first settings are not in place.
    Unknown,
    /// No documents are followed.
    None,
    /// They are. `has_stored`: those of the run before are in place.
    Followed { has_stored: bool },
}

#[derive(Debug, Default)]
struct LayerState {
    /// Absent before the first settings are in place.
    base: Option<LoadedConfig>,
    documents: Vec<DocumentVersions>,
    results: Vec<DocumentResult>,
}

/// Follows the documents below a prefix.
#[derive(Debug)]
struct RunningFollower {
    prefix: String,
    stop: CancellationToken,
    task: AbortOnDropHandle<()>,
}

/// What other settings of the file do to the follower.
#[derive(Debug)]
pub(super) enum FollowerChange {
    Keep,
    Stop,
    Start { prefix: String, follower: Box<DocumentFollower> },
}

/// Settings of the file, and what runs with the documents over them.
#[derive(Debug)]
pub(super) struct LayeredSettings {
    base: LoadedConfig,
    pub(super) loaded: LoadedConfig,
    documents: Vec<DocumentVersions>,
    results: Vec<DocumentResult>,
    change: FollowerChange,
}

impl SettingLayers {
    pub(super) fn register(metrics: &prometheus::Registry) -> Result<Self, prometheus::Error> {
        let counts = register_int_gauge_vec_with_registry!(
            "outrigger_dynamic_config_documents",
            "Documents in the registry's KV that concern this sidecar.",
            &["state"],
            metrics
        )?;
        let layers = Self {
            state: Mutex::default(),
            applying: tokio::sync::Mutex::default(),
            again: Arc::default(),
            follower: Mutex::default(),
            saver: DocumentSaver::default(),
            first_answer: watch::Sender::new(FirstAnswer::Pending),
            start: watch::Sender::new(DocumentsAtStart::Unknown),
            receipts: Receipts::register(metrics)?,
            counts,
        };
        layers.count(&[]);
        Ok(layers)
    }

    /// The settings of the file that are in place, without documents.
    pub(super) fn base(&self) -> Option<LoadedConfig> {
        self.state.lock().base.clone()
    }

    /// Resolves once requests get the settings of the documents: the registry has said which ones there are, or those of the run
    /// before are in place and the registry does not answer. Waits for [`FIRST_ANSWER_WITHIN`] at most.
    pub(super) fn first_documents(&self) -> impl Future<Output = ()> + Send + use<> {
        let (mut start, mut first) = (self.start.subscribe(), self.first_answer.subscribe());
        async move {
            let start = start.wait_for(|start| *start != DocumentsAtStart::Unknown).await.map(|start| *start);
            let Ok(DocumentsAtStart::Followed { has_stored }) = start else { return };
            let is_settled = |state: &FirstAnswer| match state {
                FirstAnswer::Pending => false,
                FirstAnswer::Failed => has_stored,
                FirstAnswer::Refused | FirstAnswer::Received => true,
            };
            if timeout(FIRST_ANSWER_WITHIN, first.wait_for(is_settled)).await.is_err() {
                warn!(
                    has_stored,
                    "the registry has not answered for the settings in its KV, starting without"
                );
            }
        }
    }

    /// What runs with these settings of the file. Puts nothing in place. Reads a small file when another prefix is to be followed.
    pub(super) fn put_over(&self, base: LoadedConfig, registry: &OpenedRegistry) -> LayeredSettings {
        let change = self.plan_follower(&base.config, registry);
        let documents = match &change {
            FollowerChange::Keep => self.state.lock().documents.clone(),
            FollowerChange::Stop => Vec::new(),
            FollowerChange::Start { follower, .. } => follower.documents(),
        };
        let applied = base.with_documents(&documents, &instance_id(&base.config));
        LayeredSettings { base, loaded: applied.loaded, documents, results: applied.documents, change }
    }

    fn plan_follower(&self, config: &Config, registry: &OpenedRegistry) -> FollowerChange {
        let Some((prefix, kv)) = config.dynamic_config.prefix.clone().zip(registry.kv()) else {
            return FollowerChange::Stop;
        };
        if self.follower.lock().as_ref().is_some_and(|running| running.prefix == prefix) {
            return FollowerChange::Keep;
        }
        let source = registry.registry.clone();
        let store = open_store(config, &prefix);
        let saver = self.saver.clone();
        let follower = DocumentFollower::open(kv, move || source.longest_wait(), &prefix, store, saver);
        FollowerChange::Start { prefix, follower: Box::new(follower) }
    }

    /// The settings are in place. A follower that begins calls `apply`.
    pub(super) fn note_applied<F, R>(&self, layered: LayeredSettings, events: &Events, apply: F)
    where
        F: Fn(FollowedDocuments) -> R + Send + 'static,
        R: Future<Output = AppliedResults> + Send + 'static,
    {
        let LayeredSettings { base, documents, results, change, .. } = layered;
        self.note_results(events, results, Some(base), documents);
        let (next, start) = match change {
            // What was refused may be good now.
            FollowerChange::Keep => return self.again.notify_one(),
            FollowerChange::Stop => (None, DocumentsAtStart::None),
            FollowerChange::Start { prefix, follower } => {
                let has_stored = !follower.documents().is_empty();
                let stop = CancellationToken::new();
                let (again, first_answer) = (self.again.clone(), self.first_answer.clone());
                let signals = FollowerSignals { again, stop: stop.clone(), first_answer };
                let task = tokio::spawn(essential("the settings in the KV", follower.run(signals, apply)));
                let task = AbortOnDropHandle::new(task);
                (Some(RunningFollower { prefix, stop, task }), DocumentsAtStart::Followed { has_stored })
            }
        };
        // The receipt of another prefix is not written before its documents are known.
        self.receipts.withdraw();
        *self.follower.lock() = next;
        self.start.send_replace(start);
    }

    /// Follows no document any more, and withdraws the receipt. Returns when no settings are being put in place, and what was
    /// applied is saved; after 5 s at most.
    pub(super) async fn stop(&self) {
        let follower = self.follower.lock().take();
        let stop_follower = async {
            let ended = async {
                if let Some(RunningFollower { stop, task, .. }) = follower {
                    stop.cancel();
                    let _ = task.await;
                }
                // Of a follower of another prefix, too.
                self.saver.flush().await;
            };
            if timeout(STOP_WITHIN, ended).await.is_err() {
                warn!("documents of the KV are still being applied or saved, stopping all the same");
            }
        };
        tokio::join!(stop_follower, self.receipts.stop());
        drop(self.applying.lock().await);
    }

    pub(super) fn note_results(
        &self,
        events: &Events,
        results: Vec<DocumentResult>,
        base: Option<LoadedConfig>,
        documents: Vec<DocumentVersions>,
    ) {
        let mut state = self.state.lock();
        log_results(events, &state.results, &results);
        self.count(&results);
        state.base = base.or(state.base.take());
        state.documents = documents;
        state.results = results;
    }

    fn count(&self, results: &[DocumentResult]) {
        for state in [DocumentState::Applied, DocumentState::Refused, DocumentState::NotSelected] {
            let count = results.iter().filter(|result| result.state == state).count();
            self.counts.with_label_values(&[state.as_str()]).set(i64::try_from(count).unwrap_or(i64::MAX));
        }
    }
}

/// Logs and records what is new.
fn log_results(events: &Events, before: &[DocumentResult], after: &[DocumentResult]) {
    let known: BTreeMap<_, _> = before.iter().map(|result| (result.name.as_str(), result)).collect();
    for result in after.iter().filter(|result| known.get(result.name.as_str()) != Some(result)) {
        for problem in &result.problems {
            warn!(%problem, "document of the KV refused");
        }
        for warning in &result.warnings {
            warn!(%warning, "document of the KV");
        }
        let (name, index, in_effect) = (&result.name, result.index, result.in_effect);
        match result.state {
            DocumentState::Applied => {
                info!(name, index, "document of the KV applied");
                let reason = format!("{name}: version {index} is in effect");
                events.record(event(EventKind::DocumentApplied, result, &reason));
            }
            DocumentState::Refused => {
                warn!(name, index, in_effect, "document of the KV refused");
                let reason = result.problems.first().map(ToString::to_string).unwrap_or_default();
                events.record(event(EventKind::DocumentRefused, result, &reason));
            }
            DocumentState::NotSelected => {
                info!(name, index, in_effect, "document of the KV is not for this instance yet");
            }
        }
    }
    let is_there = |name: &str| after.iter().any(|result| result.name == name);
    for gone in before.iter().filter(|result| !is_there(&result.name)) {
        info!(name = gone.name, "document of the KV is gone");
        events.record(event(EventKind::DocumentApplied, gone, &format!("{} is gone", gone.name)));
    }
}

fn event(kind: EventKind, result: &DocumentResult, reason: &str) -> Event {
    let event = Event::new(kind, reason);
    match result.service() {
        Some(service) => event.of_service(service),
        None => event,
    }
}

/// The file of the last good documents.
fn open_store(config: &Config, prefix: &str) -> DocumentStore {
    registry::answers_place(config).map_or_else(DocumentStore::none, |place| {
        DocumentStore::at(place.folder, &place.name, &format!("{} {prefix}", place.source))
    })
}
