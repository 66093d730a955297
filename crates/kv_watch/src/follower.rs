//! The question that is under way, and what its answer changes.

use std::{fmt, future::Future, pin::Pin, sync::Arc, time::Duration};

use outrigger_registry::{AnswerFuture, Consistency, Cursor, Error, Kv, KvAnswer, KvEntry, KvScope};
use tokio::time::{Instant, sleep_until};

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

/// The answer to one question: how long the registry took, the wait that was asked for, and what it says.
type TimedAnswer = (Duration, Duration, Result<KvAnswer, Error>);

type Question = Pin<Box<dyn Future<Output = TimedAnswer> + Send>>;

type ReadEntry<T> = Box<dyn Fn(KvEntry) -> Option<(String, T)> + Send + Sync>;

/// Follows the entries below one prefix.
pub struct KvFollower<T> {
    kv: Arc<dyn Kv>,
    longest_wait: Box<dyn Fn() -> Duration + Send + Sync>,
    prefix: String,
    read: ReadEntry<T>,
    believed: BelievedEntries<T>,
    pace: QuestionPace,
    /// A key below the prefix that was there.
    known_key: Option<String>,
    next: NextQuestion,
    question: Question,
}

impl<T: fmt::Debug> fmt::Debug for KvFollower<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KvFollower").field("prefix", &self.prefix).finish_non_exhaustive()
    }
}

impl<T: Clone + PartialEq> KvFollower<T> {
    /// Asks nothing yet. `longest_wait` is the time that a question may wait at the registry. `read` makes the name and the content of an
    /// entry; `None`: it does not count. `stored` are the entries of an earlier run, which count until the first answer;
    /// `stored_key` is the whole key of one of them.
    pub fn new(
        kv: Arc<dyn Kv>,
        longest_wait: impl Fn() -> Duration + Send + Sync + 'static,
        prefix: &str,
        read: impl Fn(KvEntry) -> Option<(String, T)> + Send + Sync + 'static,
        stored: Entries<T>,
        stored_key: Option<String>,
    ) -> Self {
        let mut pace = QuestionPace::default();
        let first = pace.first(Instant::now());
        let (longest_wait, read) = (Box::new(longest_wait), Box::new(read));
        let believed = BelievedEntries::new(stored, first.at);
        let known = stored_key.clone().filter(|_| !believed.entries().is_empty());
        let question = ask(kv.clone(), prefix.to_owned(), longest_wait(), known, first);
        Self {
            kv,
            longest_wait,
            prefix: prefix.to_owned(),
            read,
            believed,
            pace,
            known_key: stored_key,
            next: first,
            question,
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

    /// Asks, and waits for news. May be dropped at any time: the question goes on with the next call.
    pub async fn next(&mut self) -> KvNews {
        let due = self.believed.next_due();
        let answered = tokio::select! {
            answered = &mut self.question => answered,
            () = sleep_until_some(due) => return KvNews::Due,
        };
        let (took, wait, answer) = answered;
        let (news, next) = self.on_answer(took, wait, answer);
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
        let known = self.known_key.clone().filter(|_| !self.believed.entries().is_empty());
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

    fn on_answer(
        &mut self,
        took: Duration,
        wait: Duration,
        answer: Result<KvAnswer, Error>,
    ) -> (KvNews, NextQuestion) {
        let now = Instant::now();
        match answer {
            Ok(answer) => {
                let is_back = self.pace.failures() > 0;
                let (is_empty, cursor) = (answer.entries.is_empty(), answer.cursor);
                if let Some(first) = answer.entries.first() {
                    self.known_key = Some(first.key.clone());
                }
                let entries = answer.entries.into_iter().filter_map(&self.read).collect();
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

/// `known`: a key below the prefix that was there.
fn ask(
    kv: Arc<dyn Kv>,
    prefix: String,
    longest: Duration,
    known: Option<String>,
    next: NextQuestion,
) -> Question {
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
