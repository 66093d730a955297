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
    Knowledge, Snapshot, WatchReason,
    admit::{Candidate, Current, Verdict, admit},
    entry::Service,
    evidence::LivenessProber,
    guard::{MassLossGuard, ReviewedAnswer, SuspectReason},
    memory::{CachedAnswer, DiskCache},
    metrics::Metrics,
    outage::{FailureScope, OutageTracker},
    pacer::{AnswerKind, RateLimiter},
    status::error_chain,
    table::{Services, now},
};

mod doubt;
mod recall;

/// Services are not all asked for in the same instant, neither at the start nor when an outage ends. A request
/// that waits for its answer is not made to wait longer.
const START_JITTER: Duration = Duration::from_millis(100);
const REREAD_INTERVAL: Duration = Duration::from_secs(300);
const BACKOFF: Backoff = Backoff { base: Duration::from_millis(250), max: Duration::from_secs(30) };
/// Fewest time between an error and a question that does not wait for the end of the back-off.
const MIN_RETRY_PAUSE: Duration = Duration::from_secs(1);
/// Errors in a row after which a stale read is tried.
const STALE_READ_AFTER_ERRORS: u32 = 2;
/// Consul takes a wait of 0 for its default, 5 min.
const MIN_WAIT: Duration = Duration::from_secs(1);

/// What all watchers share.
#[derive(Debug)]
pub(crate) struct WatchContext {
    registry: Arc<dyn Registry>,
    services: Arc<Services>,
    pub(crate) metrics: Metrics,
    outage: OutageTracker,
    pub(crate) prober: LivenessProber,
    cache: Option<Arc<DiskCache>>,
}

impl WatchContext {
    pub(crate) fn new(
        registry: Arc<dyn Registry>,
        services: Arc<Services>,
        metrics: Metrics,
        cache: Option<Arc<DiskCache>>,
    ) -> Self {
        let probe = services.settings().mass_loss.unwrap_or_default().probe_timeout;
        let (outage, prober) = (OutageTracker::default(), LivenessProber::new(probe));
        Self { registry, services, metrics, outage, prober, cache }
    }
}

/// The one writer of an entry.
#[derive(Debug)]
pub(crate) struct Watcher {
    context: Arc<WatchContext>,
    service: Arc<Service>,
    reason: WatchReason,
    limiter: RateLimiter,
    cursor: Cursor,
    reread_at: Instant,
    /// The pause before the re-read after that; below [`REREAD_INTERVAL`] only after a loss (`watcher/doubt.rs`).
    reread_interval: Duration,
    failures: u32,
    /// Seen when a question is asked: an outage that ends meanwhile ends the pause after it.
    outage_ended: watch::Receiver<()>,
    failure_scope: Option<FailureScope>,
    guard: MassLossGuard,
    /// A suspect answer that was not told of yet.
    unreported: Option<(SuspectReason, usize)>,
    /// When a suspect answer is asked about again.
    recheck_at: Instant,
    /// What was known before a restart, until the registry's first answer.
    cached: Option<CachedAnswer>,
}

/// One question that is out.
#[derive(Debug, Clone, Copy)]
struct BlockingQuery {
    cursor: Cursor,
    consistency: Consistency,
    wait: Duration,
    asked_at: Instant,
}

impl BlockingQuery {
    /// What its answer, which came at `now`, is to the pacer.
    fn answer_kind(&self, changed: bool, now: Instant) -> AnswerKind {
        AnswerKind::of(changed, now.saturating_duration_since(self.asked_at), self.wait)
    }
}

impl Watcher {
    pub(crate) fn new(context: Arc<WatchContext>, service: Arc<Service>, reason: WatchReason) -> Self {
        let now = now();
        let cached = context.cache.as_ref().and_then(|memory| memory.load_cached(&service.query, now));
        Self {
            guard: MassLossGuard::new(context.services.settings().mass_loss),
            outage_ended: context.outage.subscribe_end(),
            context,
            service,
            reason,
            limiter: RateLimiter::new(now),
            cursor: Cursor::START,
            reread_at: now,
            reread_interval: REREAD_INTERVAL,
            failures: 0,
            failure_scope: None,
            unreported: None,
            recheck_at: now,
            cached,
        }
    }

    /// Runs until `stop`; a question that is out is then dropped.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        stop.run_until_cancelled(self.watch()).await;
    }

    async fn watch(&mut self) {
        if self.reason == WatchReason::Declared {
            sleep(START_JITTER.mul_f64(fastrand::f64())).await;
        }
        loop {
            self.check_suspects().await;
            if !self.guard.has_suspects() {
                self.wait_for_token().await;
            }
            let query = self.next_query();
            self.outage_ended.mark_unchanged();
            match self.query_or_serve_cached(query).await {
                Ok(answer) => self.on_answer(query, answer),
                Err(error) => self.on_error(query, error).await,
            }
        }
    }

    async fn wait_for_token(&mut self) {
        let pause = self.limiter.take_token(now());
        if pause > Duration::ZERO {
            self.context.metrics.limited.inc();
            sleep(pause).await;
        }
    }

    fn next_query(&mut self) -> BlockingQuery {
        let now = now();
        if now >= self.reread_at || self.guard.has_suspects() {
            self.cursor = Cursor::START;
        }
        let longest = self.context.registry.longest_wait();
        let wait = longest.mul_f64(2.0 / 3.0 + fastrand::f64() / 3.0);
        // Not past the next re-read, however long the waits are set.
        let wait = match self.reread_at.saturating_duration_since(now) {
            Duration::ZERO => wait,
            until_reread => wait.min(until_reread),
        };
        let wait = wait.max(MIN_WAIT);
        BlockingQuery { cursor: self.cursor, consistency: self.consistency(), wait, asked_at: now }
    }

    async fn run_query(&self, query: BlockingQuery) -> Result<WatchAnswer, Error> {
        let BlockingQuery { cursor, consistency, wait, .. } = query;
        self.context.registry.watch(&self.service.query, cursor, consistency, wait).await
    }

    /// Takes an answer of the default consistency.
    fn on_answer(&mut self, query: BlockingQuery, answer: WatchAnswer) {
        let now = now();
        let index = answer.cursor.index();
        let was = self.last_index();
        let went_back = answer.index_went_back || index != 0 && index < was;
        if went_back {
            self.context.metrics.index_resets.inc();
            let service = &self.service.query;
            info!(%service, was, index, "the registry's index went back, reading again from the start");
        }
        if query.cursor == Cursor::START {
            let longest =
                if self.service.has_presumed_gone(now) { REREAD_WHILE_LOST } else { REREAD_INTERVAL };
            self.reread_at = now + self.reread_interval.mul_f64(0.8 + 0.4 * fastrand::f64());
            self.reread_interval = longest.min(self.reread_interval * 2);
        }
        // An answer to a question without a cursor is fresh whatever its index.
        self.cursor = if went_back && query.cursor != Cursor::START { Cursor::START } else { answer.cursor };
        self.record_recovery(query.asked_at, now);
        let had_suspects = self.guard.has_suspects();
        let changed = self.apply(answer, query.consistency, went_back, now);
        // Questions about a suspect answer have a pace of their own.
        if !had_suspects {
            self.limiter.record_answer(query.answer_kind(changed, now));
        }
        if self.service.has_presumed_gone(now) {
            self.limiter.cap_interval(REREAD_WHILE_LOST);
        }
    }

    /// After an error: tell, try another server where that may help, and pause.
    async fn on_error(&mut self, query: BlockingQuery, error: Error) {
        self.cursor = Cursor::START;
        self.guard.record_failure();
        self.serve_cached();
        // The re-read after each error comes back at once and unchanged. That it follows a question
        // that was held for a proper time tells a registry that flaps from one that never blocks.
        if query.answer_kind(false, now()) == AnswerKind::Unchanged {
            self.limiter.record_answer(AnswerKind::Unchanged);
        }
        self.failures = self.failures.saturating_add(1);
        self.record_error(&error);
        let has_answered = self.service.snapshot().knowledge == Knowledge::Answered;
        if (self.failures >= STALE_READ_AFTER_ERRORS || !has_answered) && another_server_may_answer(&error) {
            self.read_stale().await;
        }
        self.back_off().await;
    }

    async fn back_off(&mut self) {
        let pause = BACKOFF.pause(self.failures - 1, fastrand::u64(..));
        let early = async {
            sleep(MIN_RETRY_PAUSE).await;
            tokio::select! {
                () = self.service.refresh_requested() => {}
                // An error means that nobody is left to tell.
                _ = self.outage_ended.changed() => sleep(START_JITTER.mul_f64(fastrand::f64())).await,
            }
        };
        // Elapsed or not: it is time.
        let _ = timeout(pause, early).await;
    }

    async fn read_stale(&mut self) {
        let query = BlockingQuery { consistency: Consistency::Stale, ..self.next_query() };
        match self.run_query(query).await {
            Ok(answer) => {
                self.context.metrics.stale_answers.inc();
                self.apply(answer, query.consistency, false, now());
            }
            Err(error) => {
                self.context.metrics.count_error(&error);
                debug!(service = %self.service.query, error = %error_chain(&error), "stale read failed");
            }
        }
    }

    /// Judges an answer and keeps it, or not. Whether it changed anything.
    fn apply(
        &mut self,
        answer: WatchAnswer,
        consistency: Consistency,
        went_back: bool,
        now: Instant,
    ) -> bool {
        let index = answer.cursor.index();
        let hint = if answer.instances.is_empty() { self.context.registry.empty_hint() } else { None };
        let (current, was) = (self.current_snapshot(), self.last_index());
        let candidate =
            Candidate { instances: answer.instances, index, stale: consistency == Consistency::Stale };
        // Consul's indexes start at 1: without any, a server has nothing to go by.
        let went_back = went_back || index == 0 && was > 0;
        let verdict = admit(&Current { snapshot: &current, index: was }, candidate, |instances| {
            let known_leader = answer.known_leader;
            self.screen(
                &current,
                &ReviewedAnswer {
                    instances,
                    consistency,
                    index,
                    previous_index: was,
                    went_back,
                    known_leader,
                    now,
                },
            )
        });
        if verdict == Verdict::Behind {
            debug!(service = %self.service.query, index, "stale answer is older than the table");
            return false;
        }
        self.cached = None;
        // Before the swap: whom it wakes finds these facts already told.
        self.service.update_watch_health(|contact| {
            contact.index = index;
            contact.known_leader = answer.known_leader;
            contact.empty_hint = hint;
            contact.confirmed_at = now.checked_sub(answer.age.unwrap_or_default()).or(Some(now));
        });
        let Verdict::Accept(instances) = verdict else {
            self.service.unchanged.fetch_add(1, Relaxed);
            return false;
        };
        self.publish(instances, now);
        true
    }

    fn publish(&self, instances: Arc<[Instance]>, now: Instant) {
        let was_known = self.service.ever_had_instances();
        self.service.accepted.fetch_add(1, Relaxed);
        let snapshot = self.service.publish(instances, now);
        if !was_known && self.service.ever_had_instances() {
            self.context.services.mark_known(&self.service.query);
        }
        if let Some(memory) = &self.context.cache {
            memory.record_change(&self.service);
        }
        self.log_change(&snapshot);
    }

    fn log_change(&self, snapshot: &Snapshot) {
        let service = &self.service.query;
        if !self.service.ever_had_instances() {
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
    fn record_error(&mut self, error: &Error) {
        self.context.metrics.count_error(error);
        let (service, text, now) = (&self.service.query, error_chain(error), now());
        let stale_for =
            self.service.confirmed_ago(now).map_or("never heard".to_owned(), |ago| format!("{ago:.1?}"));
        let scope = FailureScope::of(error);
        let is_new = self.failure_scope.replace(scope) != Some(scope);
        match scope {
            FailureScope::Registry if is_new && self.context.outage.record_failure(now) => {
                warn!(%service, error = text, %stale_for, "registry gives no answer, serving last snapshots");
            }
            FailureScope::Service if is_new => {
                warn!(%service, error = text, %stale_for, "answer cannot be read, serving last snapshot");
            }
            FailureScope::Registry | FailureScope::Service => {
                debug!(%service, error = text, %stale_for, "watch failed");
            }
        }
        self.service.update_watch_health(|contact| {
            contact.error = Some(text);
            contact.failures = self.failures;
        });
    }

    /// Ends whatever trouble there was.
    fn record_recovery(&mut self, asked_at: Instant, now: Instant) {
        if let Some(gone_for) = self.context.outage.record_answer(asked_at, now) {
            info!(service = %self.service.query, ?gone_for, "registry answers again");
        }
        let Some(scope) = self.failure_scope.take() else { return };
        if scope == FailureScope::Service {
            info!(service = %self.service.query, failures = self.failures, "answer can be read again");
        }
        self.failures = 0;
        self.service.update_watch_health(|contact| {
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
