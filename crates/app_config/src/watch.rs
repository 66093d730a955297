//! Follows one prefix.

use std::{sync::Arc, time::Duration};

use outrigger_config::{error_chain, prefix_covers};
use outrigger_kv_watch::{Entries, KvFollower, KvNews, NewestSaver};
use outrigger_registry::{Kv, KvEntry};
use parking_lot::Mutex;
use tokio::{
    sync::{Notify, watch},
    time::Instant,
};
use tracing::{debug, info, warn};

use crate::{KvEntries, PrefixStore, PrefixView, view::ConfirmedAt};

/// How often the time of the file of unchanged entries is renewed, at most.
const CONFIRM_EVERY: Duration = Duration::from_secs(30);

/// Shortest time between two questions that clients hurry.
const HURRY_EVERY: Duration = Duration::from_secs(1);

/// The watch of one prefix.
#[derive(Debug)]
pub(crate) struct PrefixWatch {
    follower: KvFollower<Arc<KvEntry>>,
    saver: PrefixSaver,
    view: watch::Sender<Arc<PrefixView>>,
    /// The saver has the entries that count.
    is_saved: bool,
    confirmed_file: Option<Instant>,
}

/// Writes the file of one prefix.
pub(crate) type PrefixSaver = NewestSaver<KeptEntries>;

/// What the file is to have.
pub(crate) struct KeptEntries {
    entries: Arc<KvEntries>,
    index: u64,
}

/// Writes entries, or renews the time of those that are there. `on_disk`: of an earlier run.
fn prefix_saver(store: PrefixStore, prefix: &str, on_disk: Option<Arc<KvEntries>>) -> PrefixSaver {
    let file = store.path(prefix).map(|path| path.display().to_string()).unwrap_or_default();
    let (saved, reported) = (prefix.to_owned(), prefix.to_owned());
    let on_disk = Mutex::new(on_disk);
    let save = move |kept: &KeptEntries| {
        let KeptEntries { entries, index } = kept;
        let is_there = on_disk.lock().as_ref().is_some_and(|known| Arc::ptr_eq(known, entries));
        if is_there && store.confirm(&saved).is_ok() {
            return Ok(());
        }
        *on_disk.lock() = None;
        store.save(&saved, entries, *index)?;
        *on_disk.lock() = Some(entries.clone());
        Ok(())
    };
    NewestSaver::new(save, move |_, error| {
        let prefix = &reported;
        warn!(prefix, file, %error, "the last good entries cannot be saved, a restart would lose them");
    })
}

impl PrefixWatch {
    /// Reads what an earlier run has left. Asks nothing yet. `longest_wait` is the time that a question may wait at the registry. Blocks.
    pub(crate) fn open(
        kv: Arc<dyn Kv>,
        longest_wait: impl Fn() -> Duration + Send + Sync + 'static,
        prefix: &str,
        store: PrefixStore,
    ) -> Self {
        let stored = store.load(prefix);
        let is_saved = stored.is_some();
        let view = stored.map(|stored| PrefixView {
            entries: Some(Arc::new(stored.entries)),
            index: stored.index,
            confirmed: Some(ConfirmedAt::ago(stored.age, Instant::now())),
            ..PrefixView::default()
        });
        let view = view.unwrap_or_default();
        let saver = prefix_saver(store, prefix, view.entries.clone());
        let entries: Entries<_> = view.entries.as_deref().cloned().unwrap_or_default();
        let read = {
            let prefix = prefix.to_owned();
            // The question is about every key that begins with the text.
            move |entry: KvEntry| {
                prefix_covers(&prefix, &entry.key).then(|| (entry.key.clone(), Arc::new(entry)))
            }
        };
        Self {
            follower: KvFollower::new(kv, longest_wait, prefix, read, str::to_owned, entries),
            saver,
            view: watch::Sender::new(Arc::new(view)),
            is_saved,
            confirmed_file: None,
        }
    }

    /// What is known of the prefix, from now on.
    pub(crate) fn view(&self) -> watch::Receiver<Arc<PrefixView>> {
        self.view.subscribe()
    }

    /// What writes its file.
    pub(crate) fn saver(&self) -> PrefixSaver {
        self.saver.clone()
    }

    /// Asks until it is dropped. `hurry`: a client waits for what the next question may tell.
    pub(crate) async fn run(mut self, hurry: Arc<Notify>) {
        let mut hurried_at: Option<Instant> = None;
        loop {
            let news = tokio::select! {
                news = self.follower.next() => news,
                () = hurry.notified() => {
                    if hurried_at.is_none_or(|at| at.elapsed() >= HURRY_EVERY) {
                        hurried_at = Some(Instant::now());
                        self.follower.ask_now();
                    }
                    continue;
                }
            };
            let now = Instant::now();
            let is_due = self.follower.take_due(now);
            let is_first = self.follower.last_answer().is_some() && self.view.borrow().answered.is_none();
            let mut next = PrefixView::clone(&self.view.borrow());
            let mut is_confirmed = false;
            match news {
                KvNews::Answered { is_new, is_back, index } => {
                    self.log_answer(is_back);
                    is_confirmed = true;
                    next.failure = None;
                    next.confirmed = Some(ConfirmedAt::ago(Duration::ZERO, now));
                    next.index = index;
                    if is_new || is_first {
                        next.answered = self.follower.last_answer().cloned().map(Arc::new);
                    }
                }
                KvNews::Failed { error, failures } => {
                    let reason = error_chain(&error);
                    self.log_failure(failures, &reason);
                    next.failure = Some(reason.into());
                }
                KvNews::Due => {}
            }
            // The first answer makes known that there is nothing, too.
            if is_due || (is_first && next.entries.is_none()) {
                next.entries = Some(Arc::new(self.follower.entries().clone()));
                self.is_saved = false;
            }
            let next = Arc::new(next);
            self.view.send_if_modified(|view| {
                let is_changed = **view != *next;
                *view = next.clone();
                is_changed
            });
            if let Some(entries) = &next.entries {
                self.keep(entries, next.index, is_confirmed, now);
            }
        }
    }

    /// Brings the file up to date.
    fn keep(&mut self, entries: &Arc<KvEntries>, index: u64, is_confirmed: bool, now: Instant) {
        let is_due =
            self.saver.is_failing() || self.confirmed_file.is_none_or(|at| now - at >= CONFIRM_EVERY);
        if self.is_saved && !(is_confirmed && is_due) {
            return;
        }
        self.saver.put(KeptEntries { entries: entries.clone(), index });
        (self.is_saved, self.confirmed_file) = (true, Some(now));
    }

    fn log_answer(&self, is_back: bool) {
        if is_back {
            info!(prefix = self.follower.prefix(), "the app's configuration in the KV is read again");
        }
    }

    fn log_failure(&self, failures: u32, reason: &str) {
        let prefix = self.follower.prefix();
        match failures {
            // One failure alone is often a connection that was closed.
            2 => {
                warn!(prefix, reason, "the app's configuration in the KV cannot be read, the last one stays")
            }
            _ => debug!(prefix, reason, "the app's configuration in the KV cannot be read"),
        }
    }
}
