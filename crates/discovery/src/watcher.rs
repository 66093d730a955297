//! The loop that keeps one service's entry current.
//!
//! Ask, judge the answer, ask again. The rules, and where they come from:
//!
//! - **Wait** between 2/3 and all of the registry's longest wait, so that watches started together
//!   drift apart. It is bounded at all because some changes wake nobody (an instance re-registered
//!   under another name).
//! - **A full re-read** every 5 min ± 20 %, for the same reason: there the blocked answer itself is
//!   wrong, and only a question without a cursor brings the truth. Every few seconds where instances were
//!   lost that may be there: see `watcher/doubt.rs`.
//! - **The cursor is forgotten** when the index went back (a query with an index from the future
//!   sleeps through every change) and after any error (the index may belong to another life of the
//!   registry).
//! - **On an error** the last good answer stays. The next question comes after a back-off of
//!   250 ms → 30 s with full jitter; after 1 s of it already where requests of the service fail, or once
//!   the registry has answered for another service.
//! - **No leader**: from the second error in a row on, or the first where the registry has never
//!   answered, each error that another server could make good is followed by one stale read. The default
//!   consistency is asked for again each time, because a stale watch hears of changes some 75 ms later.
//! - **Suspect answers** are followed by consistent reads: see `watcher/doubt.rs`.
//! - **What was known before a restart** serves while the registry is silent: see `watcher/recall.rs`.
//! - **Answers that come too fast** are limited: see [`crate::pacer`].

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};

use outrigger_policy::Backoff;
use outrigger_registry::{Consistency, Cursor, Error, Instance, Registry, WatchAnswer};
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use self::doubt::REREAD_WHILE_LOST;
use crate::{
    Kind, Knowledge, Snapshot,
    admit::{Held, Offer, Verdict, admit},
    entry::Entry,
    evidence::Examiner,
    guard::{Answer, Guard, Reason},
    memory::{Memory, Recalled},
    metrics::Metrics,
    outage::{Outage, Trouble},
    pacer::{Brought, Pacer},
    status::in_full,
    table::{Table, now},
};

mod doubt;
mod recall;

/// Services are not all asked for in the same instant, neither at the start nor when an outage ends. A request
/// that waits for its answer is not made to wait longer.
const START_JITTER: Duration = Duration::from_millis(100);
const REREAD: Duration = Duration::from_secs(300);
const BACKOFF: Backoff = Backoff { base: Duration::from_millis(250), max: Duration::from_secs(30) };
/// Fewest time between an error and a question that does not wait for the end of the back-off.
const EARLY: Duration = Duration::from_secs(1);
/// Errors in a row after which a stale read is tried.
const LEADERLESS: u32 = 2;
/// Consul takes a wait of 0 for its default, 5 min.
const SHORTEST_WAIT: Duration = Duration::from_secs(1);

/// What all watchers share.
#[derive(Debug)]
pub(crate) struct Shared {
    registry: Arc<dyn Registry>,
    table: Arc<Table>,
    pub(crate) metrics: Metrics,
    outage: Outage,
    pub(crate) examiner: Examiner,
    memory: Option<Arc<Memory>>,
}

impl Shared {
    pub(crate) fn new(
        registry: Arc<dyn Registry>,
        table: Arc<Table>,
        metrics: Metrics,
        memory: Option<Arc<Memory>>,
    ) -> Self {
        let probe = table.settings().mass_loss.unwrap_or_default().probe_timeout;
        let (outage, examiner) = (Outage::default(), Examiner::new(probe));
        Self { registry, table, metrics, outage, examiner, memory }
    }
}

/// The one writer of an entry.
#[derive(Debug)]
pub(crate) struct Watcher {
    shared: Arc<Shared>,
    entry: Arc<Entry>,
    kind: Kind,
    pacer: Pacer,
    cursor: Cursor,
    reread_at: Instant,
    /// The pause before the re-read after that; below [`REREAD`] only after a loss (`watcher/doubt.rs`).
    reread: Duration,
    failures: u32,
    /// Seen when a question is asked: an outage that ends meanwhile ends the pause after it.
    over: watch::Receiver<()>,
    trouble: Option<Trouble>,
    guard: Guard,
    /// A suspect answer that was not told of yet.
    untold: Option<(Reason, usize)>,
    /// When a suspect answer is asked about again.
    recheck_at: Instant,
    /// What was known before a restart, until the registry's first answer.
    recalled: Option<Recalled>,
}

/// One question that is out.
#[derive(Debug, Clone, Copy)]
struct Question {
    cursor: Cursor,
    consistency: Consistency,
    wait: Duration,
    asked_at: Instant,
}

impl Question {
    /// What its answer, which came at `now`, is to the pacer.
    fn brought(&self, changed: bool, now: Instant) -> Brought {
        Brought::of(changed, now.saturating_duration_since(self.asked_at), self.wait)
    }
}

impl Watcher {
    pub(crate) fn new(shared: Arc<Shared>, entry: Arc<Entry>, kind: Kind) -> Self {
        let now = now();
        let recalled = shared.memory.as_ref().and_then(|memory| memory.recall(&entry.query, now));
        Self {
            guard: Guard::new(shared.table.settings().mass_loss),
            over: shared.outage.over(),
            shared,
            entry,
            kind,
            pacer: Pacer::new(now),
            cursor: Cursor::START,
            reread_at: now,
            reread: REREAD,
            failures: 0,
            trouble: None,
            untold: None,
            recheck_at: now,
            recalled,
        }
    }

    /// Runs until `stop`; a question that is out is then dropped.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        stop.run_until_cancelled(self.watch()).await;
    }

    async fn watch(&mut self) {
        if self.kind == Kind::Declared {
            sleep(START_JITTER.mul_f64(fastrand::f64())).await;
        }
        loop {
            self.examine().await;
            if !self.guard.doubts() {
                self.pace().await;
            }
            let question = self.next_question();
            self.over.mark_unchanged();
            match self.ask_and_recall(question).await {
                Ok(answer) => self.heard(question, answer),
                Err(error) => self.recover(question, error).await,
            }
        }
    }

    async fn pace(&mut self) {
        let pause = self.pacer.take(now());
        if pause > Duration::ZERO {
            self.shared.metrics.limited.inc();
            sleep(pause).await;
        }
    }

    fn next_question(&mut self) -> Question {
        let now = now();
        if now >= self.reread_at || self.guard.doubts() {
            self.cursor = Cursor::START;
        }
        let longest = self.shared.registry.longest_wait();
        let wait = longest.mul_f64(2.0 / 3.0 + fastrand::f64() / 3.0);
        // Not past the next re-read, however long the waits are set.
        let wait = match self.reread_at.saturating_duration_since(now) {
            Duration::ZERO => wait,
            until_reread => wait.min(until_reread),
        };
        let wait = wait.max(SHORTEST_WAIT);
        Question { cursor: self.cursor, consistency: self.consistency(), wait, asked_at: now }
    }

    async fn ask(&self, question: Question) -> Result<WatchAnswer, Error> {
        let Question { cursor, consistency, wait, .. } = question;
        self.shared.registry.watch(&self.entry.query, cursor, consistency, wait).await
    }

    /// Takes an answer of the default consistency.
    fn heard(&mut self, question: Question, answer: WatchAnswer) {
        let now = now();
        let index = answer.cursor.index();
        let was = self.last_index();
        let went_back = answer.index_went_back || index != 0 && index < was;
        if went_back {
            self.shared.metrics.index_resets.inc();
            let service = &self.entry.query;
            info!(%service, was, index, "the registry's index went back, reading again from the start");
        }
        if question.cursor == Cursor::START {
            let longest = if self.entry.has_lost_lately(now) { REREAD_WHILE_LOST } else { REREAD };
            self.reread_at = now + self.reread.mul_f64(0.8 + 0.4 * fastrand::f64());
            self.reread = longest.min(self.reread * 2);
        }
        // An answer to a question without a cursor is fresh whatever its index.
        self.cursor =
            if went_back && question.cursor != Cursor::START { Cursor::START } else { answer.cursor };
        self.recovered(question.asked_at, now);
        let doubted = self.guard.doubts();
        let changed = self.take(answer, question.consistency, went_back, now);
        // Questions about a suspect answer have a pace of their own.
        if !doubted {
            self.pacer.answered(question.brought(changed, now));
        }
        if self.entry.has_lost_lately(now) {
            self.pacer.hurry(REREAD_WHILE_LOST);
        }
    }

    /// After an error: tell, try another server where that may help, and pause.
    async fn recover(&mut self, question: Question, error: Error) {
        self.cursor = Cursor::START;
        self.guard.interrupted();
        self.serve_recalled();
        // The re-read after each error comes back at once and unchanged. That it follows a question
        // that was held for a proper time tells a registry that flaps from one that never blocks.
        if question.brought(false, now()) == Brought::Nothing {
            self.pacer.answered(Brought::Nothing);
        }
        self.failures = self.failures.saturating_add(1);
        self.failed(&error);
        let has_answered = self.entry.snapshot().knowledge == Knowledge::Answered;
        if (self.failures >= LEADERLESS || !has_answered) && another_server_may_answer(&error) {
            self.ask_any_server().await;
        }
        self.back_off().await;
    }

    async fn back_off(&mut self) {
        let pause = BACKOFF.pause(self.failures - 1, fastrand::u64(..));
        let early = async {
            sleep(EARLY).await;
            tokio::select! {
                () = self.entry.in_need() => {}
                // An error means that nobody is left to tell.
                _ = self.over.changed() => sleep(START_JITTER.mul_f64(fastrand::f64())).await,
            }
        };
        // Elapsed or not: it is time.
        let _ = timeout(pause, early).await;
    }

    async fn ask_any_server(&mut self) {
        let question = Question { consistency: Consistency::Stale, ..self.next_question() };
        match self.ask(question).await {
            Ok(answer) => {
                self.shared.metrics.stale_answers.inc();
                self.take(answer, question.consistency, false, now());
            }
            Err(error) => {
                self.shared.metrics.failed(&error);
                debug!(service = %self.entry.query, error = %in_full(&error), "stale read failed");
            }
        }
    }

    /// Judges an answer and keeps it, or not. Whether it changed anything.
    fn take(&mut self, answer: WatchAnswer, consistency: Consistency, went_back: bool, now: Instant) -> bool {
        let index = answer.cursor.index();
        let hint = if answer.instances.is_empty() { self.shared.registry.empty_hint() } else { None };
        let (held, was) = (self.held(), self.last_index());
        let offer = Offer { instances: answer.instances, index, stale: consistency == Consistency::Stale };
        // Consul's indexes start at 1: without any, a server has nothing to go by.
        let went_back = went_back || index == 0 && was > 0;
        let verdict = admit(&Held { snapshot: &held, index: was }, offer, |instances| {
            let known_leader = answer.known_leader;
            self.doubt(&held, &Answer { instances, consistency, index, was, went_back, known_leader, now })
        });
        if verdict == Verdict::Behind {
            debug!(service = %self.entry.query, index, "stale answer is older than the table");
            return false;
        }
        self.recalled = None;
        // Before the swap: whom it wakes finds these facts already told.
        self.entry.update_contact(|contact| {
            contact.index = index;
            contact.known_leader = answer.known_leader;
            contact.empty_hint = hint;
            contact.heard_at = now.checked_sub(answer.age.unwrap_or_default()).or(Some(now));
        });
        let Verdict::Accept(instances) = verdict else {
            self.entry.unchanged.fetch_add(1, Relaxed);
            return false;
        };
        self.publish(instances, now);
        true
    }

    fn publish(&self, instances: Arc<[Instance]>, now: Instant) {
        let was_known = self.entry.ever_had_instances();
        self.entry.accepted.fetch_add(1, Relaxed);
        let snapshot = self.entry.publish(instances, now);
        if !was_known && self.entry.ever_had_instances() {
            self.shared.table.became_known(&self.entry.query);
        }
        if let Some(memory) = &self.shared.memory {
            memory.changed(&self.entry);
        }
        self.log_change(&snapshot);
    }

    fn log_change(&self, snapshot: &Snapshot) {
        let service = &self.entry.query;
        if !self.entry.ever_had_instances() {
            debug!(%service, "the registry knows no such service");
            return;
        }
        let counts = snapshot.counts();
        info!(
            %service,
            version = snapshot.version,
            passing = counts.passing,
            warning = counts.warning,
            critical = counts.critical,
            maintenance = counts.maintenance,
            "service changed"
        );
    }

    /// Counts and shows an error; logs it where it is news.
    fn failed(&mut self, error: &Error) {
        self.shared.metrics.failed(error);
        let (service, text, now) = (&self.entry.query, in_full(error), now());
        let stale_for =
            self.entry.heard_ago(now).map_or("never heard".to_owned(), |ago| format!("{ago:.1?}"));
        let trouble = Trouble::of(error);
        let news = self.trouble.replace(trouble) != Some(trouble);
        match trouble {
            Trouble::Registry if news && self.shared.outage.failed(now) => {
                warn!(%service, error = text, %stale_for, "registry gives no answer, serving last snapshots");
            }
            Trouble::Service if news => {
                warn!(%service, error = text, %stale_for, "answer cannot be read, serving last snapshot");
            }
            Trouble::Registry | Trouble::Service => {
                debug!(%service, error = text, %stale_for, "watch failed");
            }
        }
        self.entry.update_contact(|contact| {
            contact.error = Some(text);
            contact.failures = self.failures;
        });
    }

    /// Ends whatever trouble there was.
    fn recovered(&mut self, asked_at: Instant, now: Instant) {
        if let Some(gone_for) = self.shared.outage.answered(asked_at, now) {
            info!(service = %self.entry.query, ?gone_for, "registry answers again");
        }
        let Some(trouble) = self.trouble.take() else { return };
        if trouble == Trouble::Service {
            info!(service = %self.entry.query, failures = self.failures, "answer can be read again");
        }
        self.failures = 0;
        self.entry.update_contact(|contact| {
            contact.error = None;
            contact.failures = 0;
        });
    }
}

/// Whether the agent is there and it is a server behind it that fails: without a leader, questions of
/// the default consistency end in 500 or in silence.
fn another_server_may_answer(error: &Error) -> bool {
    match error {
        Error::Timeout { .. } | Error::Exchange { .. } => true,
        Error::Refused { status, .. } => *status >= 500,
        Error::Connect { .. }
        | Error::Busy { .. }
        | Error::Malformed { .. }
        | Error::TooLarge { .. }
        | Error::File { .. } => false,
    }
}
