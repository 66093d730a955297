//! Follows the prefixes of the settings.

use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

use outrigger_registry::Kv;
use outrigger_task::essential;
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio_util::task::AbortOnDropHandle;

use crate::{
    PrefixStore, PrefixView,
    silence::Silences,
    watch::{PrefixSaver, PrefixWatch},
};

/// The watches of a sidecar, one for each prefix.
pub struct PrefixWatches {
    kv: Arc<dyn Kv>,
    longest_wait: Arc<dyn Fn() -> Duration + Send + Sync>,
    store: PrefixStore,
    running: Mutex<RunningWatches>,
    silences: Silences,
}

#[derive(Default)]
struct RunningWatches {
    /// Whether answers are kept on disk.
    is_cached: bool,
    by_prefix: BTreeMap<String, RunningWatch>,
}

struct RunningWatch {
    view: watch::Receiver<Arc<PrefixView>>,
    hurry: Arc<Notify>,
    saver: PrefixSaver,
    _task: AbortOnDropHandle<()>,
}

impl fmt::Debug for PrefixWatches {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let prefixes: Vec<_> = self.running.lock().by_prefix.keys().cloned().collect();
        f.debug_struct("PrefixWatches").field("prefixes", &prefixes).finish_non_exhaustive()
    }
}

impl PrefixWatches {
    /// Follows nothing yet. `longest_wait` is the time that a question may wait at the registry.
    pub fn new(
        kv: Arc<dyn Kv>,
        longest_wait: impl Fn() -> Duration + Send + Sync + 'static,
        store: PrefixStore,
    ) -> Self {
        let (running, silences) = (Mutex::default(), Silences::default());
        Self { kv, longest_wait: Arc::new(longest_wait), store, running, silences }
    }

    /// Follows these prefixes from now on, and no others: a watch that runs goes on. `cache`: whether the last good answers stay on disk; if
    /// not, those that are there are removed. Reads small files. Needs a tokio runtime.
    pub fn follow(&self, prefixes: &[String], cache: bool) {
        let mut running = self.running.lock();
        let is_cached_as_before = running.is_cached == cache;
        let is_kept = |prefix: &String| is_cached_as_before && prefixes.contains(prefix);
        let (kept, dropped) = std::mem::take(&mut running.by_prefix)
            .into_iter()
            .partition::<BTreeMap<_, _>, _>(|(prefix, _)| is_kept(prefix));
        // Their files are removed.
        dropped.values().for_each(|one| one.saver.close());
        drop(dropped);
        *running = RunningWatches { is_cached: cache, by_prefix: kept };
        self.store.retain(if cache { prefixes } else { &[] });
        for prefix in prefixes {
            if running.by_prefix.contains_key(prefix) {
                continue;
            }
            let longest_wait = self.longest_wait.clone();
            let store = if cache { self.store.clone() } else { PrefixStore::none() };
            let watch = PrefixWatch::open(self.kv.clone(), move || longest_wait(), prefix, store);
            let (view, saver) = (watch.view(), watch.saver());
            let hurry = Arc::new(Notify::new());
            let run = watch.run(hurry.clone());
            let task = tokio::spawn(essential("the watch of the app's configuration", run));
            let running_watch = RunningWatch { view, hurry, saver, _task: AbortOnDropHandle::new(task) };
            running.by_prefix.insert(prefix.clone(), running_watch);
        }
    }

    /// What is known of a prefix that is followed, from now on. `None`: it is not followed. The receiver is closed when the prefix is
    /// no longer followed.
    pub fn view(&self, prefix: &str) -> Option<watch::Receiver<Arc<PrefixView>>> {
        self.running.lock().by_prefix.get(prefix).map(|running| running.view.clone())
    }

    /// Follows nothing any more. Returns when the last good answers are on disk; a disk that hangs makes it wait.
    pub async fn stop(&self) {
        let stopped = std::mem::take(&mut self.running.lock().by_prefix);
        let savers: Vec<_> = stopped.into_values().map(|one| one.saver).collect();
        for saver in savers {
            saver.flush().await;
        }
    }

    /// Whether the registry does not answer now, by a question that waits for 1 s at most: the question of a watch says nothing for most of
    /// a minute. Those that ask within a second share one question, and while the registry is silent they wait for none.
    pub async fn is_registry_away(&self) -> bool {
        let prefix = self.running.lock().by_prefix.keys().next().cloned();
        match prefix {
            Some(prefix) => self.silences.check(&self.kv, &prefix).await,
            None => false,
        }
    }

    /// Whether the registry does not answer, as the reads and [`PrefixWatches::is_registry_away`] find it from now on.
    pub fn registry_away(&self) -> watch::Receiver<bool> {
        self.silences.is_unheard()
    }

    pub(crate) fn silences(&self) -> &Silences {
        &self.silences
    }

    /// Asks about the prefix at once, where the next question waits for its time, and not more than once a second: a client waits for a
    /// key of a prefix without keys.
    pub(crate) fn hurry(&self, prefix: &str) {
        if let Some(running) = self.running.lock().by_prefix.get(prefix) {
            running.hurry.notify_one();
        }
    }
}

#[cfg(test)]
mod tests;
