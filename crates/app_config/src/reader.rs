//! Answers reads of keys as Consul does, also those that wait for a change.
//!
//! A read that does not wait is one question to the registry. A read that waits asks no question that waits: the watch of the allowed
//! prefix, which there is once, wakes every client of a key below it, and each then asks without waiting, together with the others
//! that ask for the same.
//!
//! While the registry is away, or leaves the question without an answer for a second, the last good entries of the watch are the answer, with
//! their age. A read that asks for the newest entries ([`Consistency::Consistent`]) is not answered so: it fails.
//!
//! The index of an answer never goes back for a client, also where that of the registry does (`HandedIndex`).

use std::{
    collections::HashMap,
    future::Future,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    sync::{
        Arc,
        atomic::{
            AtomicU64, AtomicUsize,
            Ordering::{Relaxed, SeqCst},
        },
    },
    time::Duration,
};

use outrigger_registry::{Consistency, Cursor, Error, Kv, KvAnswer, KvEntry, KvScope};
use parking_lot::Mutex;
use tokio::{
    sync::watch,
    time::{Instant, sleep_until, timeout, timeout_at},
};

use crate::{
    AllowedKeys, PrefixView, PrefixWatches,
    allowed::ReadScope,
    handed_index::HandedIndex,
    silence::{ANSWER_WITHIN, is_refusal},
};

/// Longest time for a question to the registry; [`ANSWER_WITHIN`] where the last good entries can be the answer.
const ASK_WITHIN: Duration = Duration::from_secs(10);
/// How often a client that waits for a key of a prefix without keys makes the watch ask.
const HURRY_INTERVAL: Duration = Duration::from_secs(2);
/// Most texts of which the indexes are remembered.
const MAX_TARGETS: usize = 1024;

/// One read.
#[derive(Debug, Clone)]
pub struct KvRead {
    /// What is read.
    pub scope: ReadScope,
    /// How fresh the answer must be.
    pub consistency: Consistency,
    /// The index of the answer that the client has. 0: it is answered at once.
    pub index: u64,
    /// How long to wait for another index; up to a sixteenth is added, as Consul does.
    pub wait: Duration,
}

/// The answer.
#[derive(Debug, Clone, PartialEq)]
pub struct KvReading {
    /// The entries, in the order of their keys. Empty: there is none.
    pub entries: Vec<Arc<KvEntry>>,
    /// The index for the client. Never 0, and never below the one that the client sent.
    pub index: u64,
    /// Whether the registry knows a leader.
    pub known_leader: bool,
    /// For how long the server that answered had no contact with the leader.
    pub last_contact: Duration,
    /// The registry does not answer: the entries are the last good ones, of this age.
    pub stale_for: Option<Duration>,
}

/// Why a read is not answered.
#[derive(Debug, thiserror::Error)]
pub enum KvReadError {
    /// `api.config.allow` does not name it.
    #[error("api.config.allow does not name it")]
    NotAllowed,
    /// The registry does not answer, and nothing is known of an earlier answer; or it refuses.
    #[error("read the keys")]
    Registry(#[source] Error),
}

/// Reads keys for the app.
#[derive(Debug)]
pub struct KvReader {
    kv: Arc<dyn Kv>,
    watches: Arc<PrefixWatches>,
    allowed: Mutex<Arc<AllowedKeys>>,
    /// By the text that is read.
    targets: Mutex<HashMap<String, Arc<ReadTarget>>>,
    /// The order in which reads and questions begin.
    order: AtomicU64,
}

/// Reads of one text.
#[derive(Debug, Default)]
struct ReadTarget {
    handed: Mutex<HandedIndex>,
    /// While there are reads.
    answers: Mutex<HashMap<AnswerKey, SharedAnswer>>,
    readers: AtomicUsize,
    used: AtomicU64,
}

/// Reads of the same, which may share a question: whether it is about all keys that begin so, and how fresh its answer must be.
type AnswerKey = (bool, Consistency);

/// The last answer, which is held while the next one is waited for.
type SharedAnswer = Arc<tokio::sync::Mutex<Option<Arc<FetchedEntries>>>>;

/// What the registry or the watch has.
#[derive(Debug)]
struct FetchedEntries {
    /// When the question began, in the order of the reader.
    asked: u64,
    entries: Vec<Arc<KvEntry>>,
    content: u64,
    /// That of the registry; 0: not known.
    index: u64,
    known_leader: bool,
    last_contact: Duration,
    stale_for: Option<Duration>,
}

/// A read under way.
struct ActiveRead<'a>(&'a ReadTarget);

impl<'a> ActiveRead<'a> {
    fn begin(target: &'a ReadTarget) -> Self {
        target.readers.fetch_add(1, Relaxed);
        Self(target)
    }
}

impl Drop for ActiveRead<'_> {
    fn drop(&mut self) {
        // The last reader lets go of the answers, which may be large.
        if self.0.readers.fetch_sub(1, Relaxed) == 1 {
            self.0.answers.lock().clear();
        }
    }
}

impl KvReader {
    /// Serves nothing before [`KvReader::allow`].
    pub fn new(kv: Arc<dyn Kv>, watches: Arc<PrefixWatches>) -> Self {
        Self { kv, watches, allowed: Mutex::default(), targets: Mutex::default(), order: AtomicU64::new(0) }
    }

    /// Serves what `allowed` names from now on. Its prefixes are to be followed ([`PrefixWatches::follow`]).
    pub fn allow(&self, allowed: AllowedKeys) {
        *self.allowed.lock() = Arc::new(allowed);
    }

    /// Answers a read. One that waits is also answered when `ends` resolves.
    ///
    /// # Errors
    /// When it is not allowed, or neither the registry nor an earlier answer says anything.
    pub async fn read(
        &self,
        read: &KvRead,
        ends: impl Future<Output = ()>,
    ) -> Result<KvReading, KvReadError> {
        let target = self.target(read);
        let _active = ActiveRead::begin(&target);
        let until = Instant::now() + read.wait + read.wait.mul_f64(fastrand::f64() / 16.0);
        let mut ends = std::pin::pin!(ends);
        loop {
            // Other settings may have taken the permission away.
            let allowed = self.allowed.lock().clone();
            let entry = allowed.entry_of(&read.scope).ok_or(KvReadError::NotAllowed)?;
            let mut changes = self.watches.view(entry);
            if let Some(changes) = &mut changes {
                changes.mark_unchanged();
            }
            let fetched = self.fetch(&target, read, entry, &allowed).await?;
            let (index, is_due) =
                target.handed.lock().next(&read.scope, fetched.index, fetched.content, read.index);
            if is_due || Instant::now() >= until {
                return Ok(fetched.reading(index));
            }
            let changed = self.wait_for_change(changes, read, entry, &allowed, &fetched);
            tokio::select! {
                // The answer at the end of the wait is asked for, too: the registry may be away by then.
                _ = timeout_at(until, changed) => {}
                () = &mut ends => return Ok(fetched.reading(index)),
            }
        }
    }

    fn target(&self, read: &KvRead) -> Arc<ReadTarget> {
        let mut targets = self.targets.lock();
        let text = read.scope.text();
        if targets.len() >= MAX_TARGETS && !targets.contains_key(text) {
            let unused = targets.iter().filter(|(_, target)| target.readers.load(Relaxed) == 0);
            let oldest = unused.min_by_key(|(_, target)| target.used.load(Relaxed));
            if let Some(oldest) = oldest.map(|(text, _)| text.clone()) {
                targets.remove(&oldest);
            }
        }
        let target = targets.entry(text.to_owned()).or_default();
        target.used.store(self.next_order(), Relaxed);
        target.clone()
    }

    /// The entries now. Reads of the same that begin while a question waits to be asked share it.
    async fn fetch(
        &self,
        target: &ReadTarget,
        read: &KvRead,
        entry: &str,
        allowed: &AllowedKeys,
    ) -> Result<Arc<FetchedEntries>, KvReadError> {
        let begun = self.next_order();
        let key = (matches!(read.scope, ReadScope::Prefix(_)), read.consistency);
        let shared = target.answers.lock().entry(key).or_default().clone();
        let mut answer = shared.lock().await;
        if let Some(shared) = answer.as_ref().filter(|shared| shared.asked > begun) {
            return Ok(shared.clone());
        }
        let fetched = Arc::new(self.ask(read, entry, allowed).await?);
        *answer = Some(fetched.clone());
        Ok(fetched)
    }

    fn next_order(&self) -> u64 {
        self.order.fetch_add(1, SeqCst)
    }

    async fn ask(
        &self,
        read: &KvRead,
        entry: &str,
        allowed: &AllowedKeys,
    ) -> Result<FetchedEntries, KvReadError> {
        let order = self.next_order();
        let view = self.watches.view(entry).map(|view| view.borrow().clone());
        let is_empty =
            view.as_ref().is_some_and(|view| view.answered.as_ref().is_some_and(|all| all.is_empty()));
        // What asks for the newest entries is answered with no older ones.
        let may_be_older = read.consistency != Consistency::Consistent;
        let known = view.filter(|view| view.entries.is_some() && may_be_older);
        let is_away = known.as_ref().is_some_and(|view| view.failure.is_some());
        // A server that was restarted may answer with earlier entries while it reads its log.
        let consistency = match read.consistency {
            Consistency::Default if is_away => Consistency::Consistent,
            consistency => consistency,
        };
        let answered = match self.silence(read, known.is_some()) {
            Some(after) => Err(unanswered(&read.scope, after)),
            None => self.ask_registry(read, consistency, known.is_some()).await,
        };
        if is_empty && answered.as_ref().is_ok_and(|answer| !answer.entries.is_empty()) {
            // The watch asks about a prefix without keys from time to time alone. What it has must not be older than what clients have.
            self.watches.hurry(entry);
        }
        let stale = |view: &PrefixView| FetchedEntries::of_view(view, &read.scope, allowed, order);
        match (answered, known) {
            // To a token that may not read, Consul shows no keys.
            (Ok(answer), Some(known)) if answer.entries.is_empty() && is_away => {
                let stale = stale(&known);
                let is_gone = stale.entries.is_empty();
                Ok(if is_gone { FetchedEntries::of_answer(answer, allowed, order) } else { stale })
            }
            (Ok(answer), _) => Ok(FetchedEntries::of_answer(answer, allowed, order)),
            (Err(error), Some(known)) if !is_refusal(&error) => Ok(stale(&known)),
            (Err(error), _) => Err(KvReadError::Registry(error)),
        }
    }

    /// For how long the registry has not answered such questions. `None`: it is asked. `is_known`: there are last good entries.
    fn silence(&self, read: &KvRead, is_known: bool) -> Option<Duration> {
        let silences = self.watches.silences();
        silences.lasted(read.consistency).or_else(|| {
            // What may be older is not waited for a second time.
            let is_stale = read.consistency == Consistency::Stale && is_known;
            let after = silences.may_be_of_all().filter(|_| is_stale)?;
            silences.begin(&self.kv, read.scope.text(), read.consistency, after);
            Some(after)
        })
    }

    /// One question. `is_known`: there are last good entries.
    async fn ask_registry(
        &self,
        read: &KvRead,
        consistency: Consistency,
        is_known: bool,
    ) -> Result<KvAnswer, Error> {
        let within = match (is_known, read.index) {
            (true, _) => ANSWER_WITHIN,
            (false, 0) => ASK_WITHIN,
            (false, _) => read.wait.clamp(ANSWER_WITHIN, ASK_WITHIN),
        };
        let scope = match &read.scope {
            ReadScope::Key(key) => KvScope::Key(key),
            ReadScope::Prefix(prefix) => KvScope::Prefix(prefix),
        };
        let asked = self.kv.watch_kv(scope, Cursor::START, consistency, within);
        let answered = timeout(within, asked).await.unwrap_or_else(|_| Err(unanswered(&read.scope, within)));
        if let Err(Error::Timeout { .. }) = &answered {
            self.watches.silences().begin(&self.kv, read.scope.text(), read.consistency, within);
        }
        answered
    }

    /// Returns when the watch has other entries than `fetched`.
    async fn wait_for_change(
        &self,
        changes: Option<watch::Receiver<Arc<PrefixView>>>,
        read: &KvRead,
        entry: &str,
        allowed: &AllowedKeys,
        fetched: &FetchedEntries,
    ) {
        let Some(mut changes) = changes else { return std::future::pending().await };
        loop {
            let is_behind = {
                let view = changes.borrow();
                let is_empty = view.answered.as_ref().is_none_or(|entries| entries.is_empty());
                let is_other = FetchedEntries::of_view(&view, &read.scope, allowed, fetched.asked).content
                    != fetched.content;
                fetched.stale_for.is_none() && (is_empty || is_other || view.failure.is_some())
            };
            if is_behind {
                self.watches.hurry(entry);
            }
            let hurry = sleep_until(Instant::now() + HURRY_INTERVAL);
            tokio::select! {
                changed = changes.changed() => {
                    if changed.is_err() {
                        // The prefix is no longer followed: other settings say what is to be done.
                        return tokio::time::sleep(HURRY_INTERVAL).await;
                    }
                    let view = changes.borrow_and_update().clone();
                    let now = FetchedEntries::of_view(&view, &read.scope, allowed, fetched.asked);
                    if now.content != fetched.content {
                        return;
                    }
                }
                () = hurry, if is_behind => {}
            }
        }
    }
}

fn unanswered(scope: &ReadScope, after: Duration) -> Error {
    // Whole seconds: a text for people.
    let after = Duration::from_secs(after.as_secs());
    Error::Timeout { request: format!("GET /v1/kv/{}", scope.text()), after }
}

impl FetchedEntries {
    fn new(entries: Vec<Arc<KvEntry>>, asked: u64, index: u64) -> Self {
        let mut hasher = DefaultHasher::new();
        for entry in &entries {
            (&entry.key, entry.modify_index).hash(&mut hasher);
        }
        Self {
            asked,
            entries,
            content: hasher.finish(),
            index,
            known_leader: true,
            last_contact: Duration::ZERO,
            stale_for: None,
        }
    }

    fn of_answer(answer: KvAnswer, allowed: &AllowedKeys, asked: u64) -> Self {
        let served = answer.entries.into_iter().filter(|entry| allowed.is_served(&entry.key));
        Self {
            known_leader: answer.known_leader,
            last_contact: answer.age.unwrap_or_default(),
            ..Self::new(served.map(Arc::new).collect(), asked, answer.cursor.index())
        }
    }

    /// What the watch has: the last answer of the registry, or the last good one of an earlier run.
    fn of_view(view: &PrefixView, scope: &ReadScope, allowed: &AllowedKeys, asked: u64) -> Self {
        let entries = if view.failure.is_none() { view.answered.as_ref() } else { None };
        let all = entries.or(view.entries.as_ref()).into_iter().flat_map(|entries| entries.values());
        let served = all.filter(|entry| scope.contains(&entry.key) && allowed.is_served(&entry.key));
        let entries: Vec<_> = served.cloned().collect();
        let index = entries.iter().map(|entry| entry.modify_index).max().unwrap_or_default();
        let age = view.age(Instant::now()).unwrap_or_default();
        Self {
            known_leader: false,
            last_contact: age,
            stale_for: Some(age),
            ..Self::new(entries, asked, index)
        }
    }

    fn reading(&self, index: u64) -> KvReading {
        KvReading {
            entries: self.entries.clone(),
            index,
            known_leader: self.known_leader,
            last_contact: self.last_contact,
            stale_for: self.stale_for,
        }
    }
}

#[cfg(test)]
mod tests;
