//! Follows the parts of the merged configuration, and merges them again when one changes.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    future::pending,
    sync::Arc,
    time::Duration,
};

use futures_util::future::select_all;
use outrigger_config::{ConfigContext, count};
use outrigger_events::{Event, EventKind, Events};
use outrigger_kv_watch::NewestSaver;
use outrigger_task::essential;
use parking_lot::Mutex;
use prometheus::{IntGaugeVec, register_int_gauge_vec_with_registry};
use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};
use tokio_util::task::AbortOnDropHandle;
use tracing::{info, warn};

use crate::{
    ConfigPart, ConfigState, ConfigView, KnownConfig, KvEntries, LastGoodDocuments, PrefixStore, PrefixView,
    ProblemReason, ViewProblem,
};

/// Changes within this time after the first one are merged together.
const QUIET: Duration = Duration::from_millis(100);
/// The name under which the last good documents are stored. No prefix of the settings is empty.
const DOCUMENTS: &str = "";
/// Most names of changed properties that an event has.
const MAX_NAMES: usize = 5;

/// A part that is followed.
pub type FollowedPart = (ConfigContext, watch::Receiver<Arc<PrefixView>>);

/// Follows the merged configuration.
pub struct ConfigWatch {
    shared: Arc<Shared>,
    running: Mutex<Option<AbortOnDropHandle<()>>>,
}

struct Shared {
    state: watch::Sender<Arc<ConfigState>>,
    merger: Mutex<Merger>,
    events: Events,
    /// `outrigger_app_config_problems`
    problems: IntGaugeVec,
}

/// What the next merge needs of those before.
struct Merger {
    /// Of the parts that are followed: a merge of others is not put in place.
    generation: u64,
    last_good: LastGoodDocuments,
    store: PrefixStore,
    /// Absent: nothing is saved.
    saver: Option<NewestSaver<KvEntries>>,
}

impl fmt::Debug for ConfigWatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConfigWatch").field("state", &self.shared.state.borrow()).finish_non_exhaustive()
    }
}

impl ConfigWatch {
    /// Follows nothing yet. `store` is for the last good version of each document. Reads a small file.
    ///
    /// # Errors
    /// When the metrics are registered already.
    pub fn new(
        store: PrefixStore,
        events: Events,
        metrics: &prometheus::Registry,
    ) -> Result<Self, prometheus::Error> {
        let problems = register_int_gauge_vec_with_registry!(
            "outrigger_app_config_problems",
            "Keys and properties of the app's merged configuration that are not used as they are.",
            &["reason"],
            metrics
        )?;
        let stored = store.load(DOCUMENTS).map(|stored| stored.entries);
        let merger = Merger {
            generation: 0,
            last_good: LastGoodDocuments(stored.unwrap_or_default()),
            store,
            saver: None,
        };
        let shared = Shared { state: watch::Sender::default(), merger: Mutex::new(merger), events, problems };
        shared.count(&[]);
        Ok(Self { shared: Arc::new(shared), running: Mutex::default() })
    }

    /// Follows these parts from now on, most specific first, and no others. `cache`: whether the last good documents stay on disk; if not,
    /// those that are there are removed. When it returns, the state is that of these parts. Needs a tokio runtime.
    pub fn follow(&self, parts: Vec<FollowedPart>, cache: bool) {
        let mut running = self.running.lock();
        *running = None;
        let mut parts = parts;
        let now: Vec<_> = parts.iter_mut().map(look).collect();
        let generation = {
            let mut merger = self.shared.merger.lock();
            merger.generation += 1;
            merger.set_cached(cache);
            self.shared.merge(&mut merger, now);
            merger.generation
        };
        if parts.is_empty() {
            return;
        }
        let follower = PartsFollower { shared: self.shared.clone(), generation, parts };
        let task = tokio::spawn(essential("the merged configuration of the app", follower.run()));
        *running = Some(AbortOnDropHandle::new(task));
    }

    /// Follows nothing any more. Returns when the last good documents are on disk; a disk that hangs makes it wait.
    pub async fn stop(&self) {
        *self.running.lock() = None;
        let saver = self.shared.merger.lock().saver.clone();
        if let Some(saver) = saver {
            saver.flush().await;
        }
    }

    /// What is known, from now on.
    pub fn state(&self) -> watch::Receiver<Arc<ConfigState>> {
        self.shared.state.subscribe()
    }
}

fn look((context, view): &mut FollowedPart) -> ConfigPart {
    ConfigPart { context: context.clone(), prefix: view.borrow_and_update().clone() }
}

fn entries_of(parts: &[ConfigPart]) -> Vec<Option<Arc<KvEntries>>> {
    parts.iter().map(|part| part.prefix.entries.clone()).collect()
}

/// Whether both are the same answers.
fn is_same(a: &[Option<Arc<KvEntries>>], b: &[Option<Arc<KvEntries>>]) -> bool {
    let is_same = |(a, b): (&Option<Arc<KvEntries>>, &Option<Arc<KvEntries>>)| match (a, b) {
        (Some(a), Some(b)) => Arc::ptr_eq(a, b),
        (a, b) => a.is_none() && b.is_none(),
    };
    a.len() == b.len() && a.iter().zip(b).all(is_same)
}

struct PartsFollower {
    shared: Arc<Shared>,
    generation: u64,
    parts: Vec<FollowedPart>,
}

impl PartsFollower {
    /// Never returns.
    async fn run(mut self) {
        let mut merged = entries_of(&self.shared.state.borrow().parts);
        let mut due: Option<Instant> = None;
        loop {
            let merge_is_due = async {
                match due {
                    Some(due) => sleep_until(due).await,
                    None => pending().await,
                }
            };
            tokio::select! {
                biased;
                () = merge_is_due => {}
                () = any_changed(&mut self.parts) => {}
            }
            let now: Vec<_> = self.parts.iter_mut().map(look).collect();
            let entries = entries_of(&now);
            if is_same(&entries, &merged) {
                due = None;
                self.shared.note_parts(self.generation, now);
                continue;
            }
            // The first configuration is not waited for.
            let is_first = self.shared.state.borrow().known.is_none();
            let at =
                *due.get_or_insert_with(|| if is_first { Instant::now() } else { Instant::now() + QUIET });
            if at > Instant::now() {
                continue;
            }
            due = None;
            merged = entries;
            let (shared, generation) = (self.shared.clone(), self.generation);
            let merge = move || {
                let mut merger = shared.merger.lock();
                if merger.generation == generation {
                    shared.merge(&mut merger, now);
                }
            };
            // A panic was reported; a runtime that stops runs no new task.
            let _ = tokio::task::spawn_blocking(merge).await;
        }
    }
}

/// Resolves when the view of some part may be another one. A prefix that is no longer followed does not change.
async fn any_changed(parts: &mut [FollowedPart]) {
    let changes = parts.iter_mut().map(|(_, view)| {
        Box::pin(async move {
            if view.changed().await.is_err() {
                pending::<()>().await;
            }
        })
    });
    select_all(changes).await;
}

impl Shared {
    /// Other views of the same entries: only their age has changed.
    fn note_parts(&self, generation: u64, parts: Vec<ConfigPart>) {
        let merger = self.merger.lock();
        if merger.generation == generation {
            let known = self.state.borrow().known.clone();
            self.state.send_replace(Arc::new(ConfigState { known, parts }));
        }
    }

    /// Merges the parts, and puts the result in place. Blocks.
    fn merge(&self, merger: &mut Merger, parts: Vec<ConfigPart>) {
        let before = self.state.borrow().clone();
        let known_entries: Option<Vec<_>> = entries_of(&parts).into_iter().collect();
        let known = known_entries.filter(|entries| !entries.is_empty()).map(|entries| {
            let with_entries = parts.iter().zip(&entries).map(|(part, entries)| (&part.context, &**entries));
            let good_before = merger.last_good.clone();
            let view = ConfigView::of_contexts(with_entries, &mut merger.last_good);
            merger.save(good_before != merger.last_good);
            KnownConfig::new(view)
        });
        self.tell(before.known.as_ref(), known.as_ref());
        self.state.send_replace(Arc::new(ConfigState { known, parts }));
    }

    /// Logs, counts and records what is new.
    fn tell(&self, before: Option<&KnownConfig>, after: Option<&KnownConfig>) {
        let problems_of = |known: Option<&KnownConfig>| known.map(|known| known.view.problems().to_vec());
        let (old, new) = (problems_of(before).unwrap_or_default(), problems_of(after).unwrap_or_default());
        self.count(&new);
        for problem in new.iter().filter(|problem| !old.contains(problem)) {
            let ViewProblem { key, index, reason, detail, in_effect } = problem;
            let reason = reason.as_str();
            if problem.reason == ProblemReason::UnknownEnding {
                info!(key, index, reason, "key of the app's configuration is not used: {detail}");
                continue;
            }
            warn!(key, index, reason, in_effect, "key of the app's configuration: {detail}");
            if problem.reason.is_refusal() {
                self.events.record(Event::new(EventKind::AppConfigRefused, refusal(problem)));
            }
        }
        let Some(after) = after else { return };
        let Some(change) = describe_change(before.map(|known| &*known.view), &after.view) else { return };
        info!(version = &*after.version, "the app's configuration has changed: {change}");
        self.events.record(Event::new(EventKind::AppConfigChanged, change));
    }

    fn count(&self, problems: &[ViewProblem]) {
        for reason in ProblemReason::OF_KEYS {
            let count = problems.iter().filter(|problem| problem.reason == reason).count();
            let gauge = self.problems.with_label_values(&[reason.as_str()]);
            gauge.set(i64::try_from(count).unwrap_or(i64::MAX));
        }
    }
}

fn refusal(problem: &ViewProblem) -> String {
    let ViewProblem { key, index, detail, in_effect, .. } = problem;
    let instead = match in_effect {
        Some(good) => format!("version {good} stays"),
        None => "it gives nothing".to_owned(),
    };
    format!("{key}, version {index}: {detail}; {instead}")
}

/// Names of properties, without their values. `None`: all is as before.
fn describe_change(before: Option<&ConfigView>, after: &ConfigView) -> Option<String> {
    let by_name = |view: &ConfigView| -> BTreeMap<String, _> {
        view.properties().iter().map(|one| (one.name.clone(), one.value.clone())).collect()
    };
    let Some(before) = before else {
        return Some(count(after.properties().len(), "property"));
    };
    let (before, after) = (by_name(before), by_name(after));
    let names: BTreeSet<_> = before.keys().chain(after.keys()).collect();
    let changed: Vec<_> =
        names.into_iter().filter(|name| before.get(*name) != after.get(*name)).map(String::as_str).collect();
    let first = changed.iter().take(MAX_NAMES).copied().collect::<Vec<_>>().join(", ");
    match changed.len() {
        0 => None,
        count if count > MAX_NAMES => Some(format!("{first} and {} more", count - MAX_NAMES)),
        _ => Some(first),
    }
}

impl Merger {
    /// Whether the last good documents stay on disk. Blocks.
    fn set_cached(&mut self, is_cached: bool) {
        if is_cached && self.saver.is_none() {
            let store = self.store.clone();
            let save = move |documents: &KvEntries| store.save(DOCUMENTS, documents, 0);
            self.saver = Some(NewestSaver::new(save, |_, error| {
                warn!(%error, "the last good documents of the app's configuration cannot be saved, a restart would lose them");
            }));
        } else if !is_cached {
            if let Some(saver) = self.saver.take() {
                saver.close();
            }
            self.store.retain(&[]);
        }
    }

    /// Brings the file up to date.
    fn save(&self, is_changed: bool) {
        if let Some(saver) = self.saver.as_ref().filter(|saver| is_changed || saver.is_failing()) {
            saver.put(self.last_good.0.clone());
        }
    }
}

#[cfg(test)]
mod tests;
