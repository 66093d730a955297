//! The question that is under way, and what its answer changes.

use std::{collections::BTreeSet, fmt, future::Future, pin::Pin, sync::Arc, time::Duration};

use outrigger_registry::{Consistency, Cursor, Error, Kv, KvAnswer, KvEntry, KvScope};
use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};

use crate::{
    Entries,
    believed::BelievedEntries,
    pace::{AnswerTraits, NextQuestion, QuestionPace},
};

/// What [`KvFollower::next`] learned.
#[derive(Debug)]
pub enum KvNews {
    /// The registry answered.
    Answered {
        /// It is the first answer after failures.
        is_back: bool,
        /// The entries differ from those of the answer before.
        is_new: bool,
        /// The index of the answer; 0 where it cannot be used.
        index: u64,
    },
    /// The question failed.
    Failed {
        /// Why.
        error: Error,
        /// Failures in a row, this one included.
        failures: u32,
    },
    /// [`KvFollower::take_due`] may have something.
    Due,
}

/// Most entries that are looked at one by one, because an answer lacks them.
const MAX_PROBED: usize = 16;

/// The answer to one question.
struct TimedAnswer {
    took: Duration,
    /// The wait that was asked for.
    wait: Duration,
    answer: Result<KvAnswer, Error>,
    /// The names of the entries that are not in the answer because the token may not read them.
    hidden: BTreeSet<String>,
}

/// An entry that counts: its name and its whole key.
type KnownKey = (String, String);

type Question = Pin<Box<dyn Future<Output = TimedAnswer> + Send>>;

type ReadEntry<T> = Box<dyn Fn(KvEntry) -> Option<(String, T)> + Send + Sync>;

type KeyOfName = Box<dyn Fn(&str) -> String + Send + Sync>;

/// Follows the entries below one prefix.
pub struct KvFollower<T> {
    kv: Arc<dyn Kv>,
    longest_wait: Box<dyn Fn() -> Duration + Send + Sync>,
    prefix: String,
    read: ReadEntry<T>,
    believed: BelievedEntries<T>,
    pace: QuestionPace,
    next: NextQuestion,
    key_of: KeyOfName,
    /// The entries that the token may not read, by the last answer.
    hidden: BTreeSet<String>,
    question: Question,
    /// Changes when the registry answers others again.
    returned: Option<watch::Receiver<()>>,
}

impl<T: fmt::Debug> fmt::Debug for KvFollower<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KvFollower").field("prefix", &self.prefix).finish_non_exhaustive()
    }
}

impl<T: Clone + PartialEq> KvFollower<T> {
    /// Asks nothing yet. `longest_wait` is the time that a question may wait at the registry. `read` makes the name and the content of an
    /// entry; `None`: it does not count. `key_of` makes the whole key of a name. `stored` are the entries of an earlier run, which count
    /// until the first answer.
    pub fn new(
        kv: Arc<dyn Kv>,
        longest_wait: impl Fn() -> Duration + Send + Sync + 'static,
        prefix: &str,
        read: impl Fn(KvEntry) -> Option<(String, T)> + Send + Sync + 'static,
        key_of: impl Fn(&str) -> String + Send + Sync + 'static,
        stored: Entries<T>,
    ) -> Self {
        let first = QuestionPace::first(Instant::now());
        let (longest_wait, read) = (Box::new(longest_wait), Box::new(read));
        let believed = BelievedEntries::new(stored, first.at);
        let known = known_keys(believed.entries(), &key_of);
        let returned = kv.returned();
        let question = ask(kv.clone(), prefix.to_owned(), longest_wait(), known, first);
        Self {
            kv,
            longest_wait,
            prefix: prefix.to_owned(),
            read,
            believed,
            pace: QuestionPace::default(),
            next: first,
            key_of: Box::new(key_of),
            hidden: BTreeSet::new(),
            question,
            returned,
        }
    }

    /// The prefix that is followed.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// The entries that count.
    pub fn entries(&self) -> &Entries<T> {
        self.believed.entries()
    }

    /// The entries of the last answer: without those that are gone and still count. `None`: there was no answer yet.
    pub fn last_answer(&self) -> Option<&Entries<T>> {
        self.believed.seen()
    }

    /// The entries that the last answer lacks because the token may not read them. They count as they were.
    pub fn hidden(&self) -> &BTreeSet<String> {
        &self.hidden
    }

    /// Asks, and waits for news. May be dropped at any time: the question goes on with the next call.
    pub async fn next(&mut self) -> KvNews {
        let due = self.believed.next_due();
        let answered = loop {
            tokio::select! {
                answered = &mut self.question => break answered,
                () = sleep_until_some(due) => return KvNews::Due,
                () = changed(&mut self.returned) => {
                    if self.pace.failures() > 0 {
                        self.pace.forget_pauses();
                        self.ask_now();
                    }
                }
            }
        };
        let (news, next) = self.on_answer(answered);
        self.next = next;
        self.prepare_question();
        news
    }

    /// Asks at once, where the next question is not asked yet because a pause is kept.
    pub fn ask_now(&mut self) {
        let now = Instant::now();
        if self.next.at > now {
            self.next.at = now;
            self.prepare_question();
        }
    }

    fn prepare_question(&mut self) {
        let known = known_keys(self.believed.entries(), &self.key_of);
        self.question = ask(self.kv.clone(), self.prefix.clone(), (self.longest_wait)(), known, self.next);
    }

    /// Whether the entries are to be applied now. They count as applied then.
    pub fn take_due(&mut self, now: Instant) -> bool {
        self.believed.take_due(now)
    }

    /// The entries are to be applied again.
    pub fn mark_changed(&mut self) {
        self.believed.mark_changed();
    }

    fn on_answer(&mut self, timed: TimedAnswer) -> (KvNews, NextQuestion) {
        let now = Instant::now();
        let TimedAnswer { took, wait, answer, hidden } = timed;
        match answer {
            Ok(answer) => {
                let is_back = self.pace.failures() > 0;
                let (is_empty, cursor) = (answer.entries.is_empty(), answer.cursor);
                let mut entries: Entries<T> = answer.entries.into_iter().filter_map(&self.read).collect();
                let kept = hidden.iter().filter_map(|name| self.entries().get_key_value(name));
                entries.extend(kept.map(|(name, entry)| (name.clone(), entry.clone())));
                self.hidden = hidden;
                let is_new = self.believed.on_answer(entries, now);
                let is_doubtful = self.believed.is_doubtful();
                let traits = AnswerTraits { cursor, is_new, is_empty, is_doubtful, took, wait };
                let next = self.pace.after_answer(traits, now, fastrand::f64());
                (KvNews::Answered { is_back, is_new, index: cursor.index() }, next)
            }
            Err(error) => {
                self.believed.on_failure();
                let next = self.pace.after_failure(now, fastrand::u64(..));
                (KvNews::Failed { error, failures: self.pace.failures() }, next)
            }
        }
    }
}

fn known_keys<T>(entries: &Entries<T>, key_of: impl Fn(&str) -> String) -> Vec<KnownKey> {
    entries.keys().map(|name| (name.clone(), key_of(name))).collect()
}

/// `known`: the entries that count.
fn ask(
    kv: Arc<dyn Kv>,
    prefix: String,
    longest: Duration,
    known: Vec<KnownKey>,
    next: NextQuestion,
) -> Question {
    Box::pin(async move {
        sleep_until(next.at).await;
        let wait = if next.cursor == Cursor::START { Duration::ZERO } else { longest };
        let asked = Instant::now();
        let mut answer = ask_for_present(&*kv, &prefix, next.cursor, longest).await;
        let mut hidden = BTreeSet::new();
        if let Ok(listed) = &mut answer {
            let found = match listed.entries.is_empty() && known.is_empty() {
                true => check_rights(&*kv, &prefix, longest).await.map(|()| BTreeSet::new()),
                false => find_hidden(&*kv, &known, listed, longest).await,
            };
            match found {
                Ok(found) => hidden = found,
                Err(error) => answer = Err(error),
            }
        }
        TimedAnswer { took: asked.elapsed(), wait, answer, hidden }
    })
}

/// The entries as they are at the leader after all that it has committed. A server that was restarted may answer with earlier ones while it
/// reads its log. A question that waits has seen the present ones before; it is repeated where the index went back.
async fn ask_for_present(
    kv: &dyn Kv,
    prefix: &str,
    cursor: Cursor,
    longest: Duration,
) -> Result<KvAnswer, Error> {
    let scope = KvScope::Prefix(prefix);
    if cursor != Cursor::START {
        let answer = kv.watch_kv(scope, cursor, Consistency::Default, longest).await?;
        if answer.cursor != Cursor::START {
            return Ok(answer);
        }
    }
    kv.watch_kv(scope, Cursor::START, Consistency::Consistent, longest).await
}

/// Tells a prefix without keys from one that the token may not read, which Consul shows in the same way. To read a single key is
/// refused, also where there is none. Each of at most two questions has `longest`.
///
/// # Errors
/// When the token may read neither the key `prefix` nor those below it, or a key cannot be read.
pub async fn check_rights(kv: &dyn Kv, prefix: &str, longest: Duration) -> Result<(), Error> {
    let below = format!("{}/", prefix.trim_end_matches('/'));
    let mut refusal = None;
    // A rule may be about one of the two alone.
    for key in BTreeSet::from([prefix, &below]) {
        match kv.watch_kv(KvScope::Key(key), Cursor::START, Consistency::Default, longest).await {
            Ok(_) => return Ok(()),
            Err(error) if error.is_forbidden() => refusal = Some(error),
            Err(error) => return Err(error),
        }
    }
    refusal.map_or(Ok(()), Err)
}

/// The names of the entries that `listed` lacks because the token may not read them. To such a token Consul shows a prefix without them, as
/// if they were deleted, and refuses to read a single key.
///
/// An entry that was written in the meantime is added to `listed`.
///
/// # Errors
/// When a key cannot be read, or the token may read none of the entries.
async fn find_hidden(
    kv: &dyn Kv,
    known: &[KnownKey],
    listed: &mut KvAnswer,
    longest: Duration,
) -> Result<BTreeSet<String>, Error> {
    let is_empty = listed.entries.is_empty();
    let shown: BTreeSet<_> = listed.entries.iter().map(|entry| entry.key.as_str()).collect();
    let mut missing: Vec<_> = known.iter().filter(|(_, key)| !shown.contains(key.as_str())).collect();
    // Rules are about prefixes: those that are not looked at are taken for hidden where one of the others is.
    let rest = missing.split_off(missing.len().min(MAX_PROBED));
    let mut hidden = BTreeSet::new();
    for (name, key) in missing {
        match kv.watch_kv(KvScope::Key(key), Cursor::START, Consistency::Default, longest).await {
            Ok(answer) => listed.entries.extend(answer.entries),
            Err(error) if error.is_forbidden() && !is_empty => {
                hidden.insert(name.clone());
            }
            Err(error) => return Err(error),
        }
    }
    if !hidden.is_empty() {
        hidden.extend(rest.into_iter().map(|(name, _)| name.clone()));
    }
    Ok(hidden)
}

/// Resolves with a change, and never where there is no signal.
async fn changed(signal: &mut Option<watch::Receiver<()>>) {
    if let Some(receiver) = signal
        && receiver.changed().await.is_ok()
    {
        return;
    }
    *signal = None;
    std::future::pending().await
}

async fn sleep_until_some(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}
