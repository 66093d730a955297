//! One watch: the loop, and what follows from each answer and each error.

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};

use outrigger_config::{error_chain, format_coarse_duration};
use outrigger_events::EventKind;
use outrigger_policy::Backoff;
use outrigger_registry::{Consistency, Cursor, Error, Instance, WatchAnswer};
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::{
    admit::{Candidate, Current, Verdict, admit},
    cached::CachedFallback,
    context::WatchContext,
    lookup::look_up_on_request,
    outage::FailureScope,
    publish::publish,
    rate_limiter::{AnswerKind, RateLimiter},
    recheck::SuspectRecheck,
};
use crate::{Knowledge, WatchReason, clock::now, service::Service, suspects::ReviewedAnswer};

/// Spreads the queries of many services, at the start and when an outage ends. On-demand services start
/// without it, because a request waits for the answer.
const START_JITTER: Duration = Duration::from_millis(100);
const REREAD_INTERVAL: Duration = Duration::from_secs(300);
/// The first pause before the full re-read after a mass loss.
const REREAD_AFTER_LOSS: Duration = Duration::from_secs(1);
/// The longest pause while the lost instances are kept.
const REREAD_WHILE_LOST: Duration = Duration::from_secs(4);
const BACKOFF: Backoff = Backoff { base: Duration::from_millis(250), max: Duration::from_secs(30) };
/// Shortest pause between an error and the next query when the back-off ends early.
const MIN_RETRY_PAUSE: Duration = Duration::from_secs(1);
/// Errors in a row after which a stale read is tried.
const STALE_READ_AFTER_ERRORS: u32 = 2;
/// Consul takes a wait of 0 as its default, 5 min.
const MIN_WAIT: Duration = Duration::from_secs(1);

/// The one writer of a [`Service`].
#[derive(Debug)]
pub(crate) struct Watcher {
    context: Arc<WatchContext>,
    service: Arc<Service>,
    reason: WatchReason,
    limiter: RateLimiter,
    cursor: Cursor,
    reread_at: Instant,
    /// The pause before the re-read after that; below [`REREAD_INTERVAL`] only after a mass loss.
    reread_interval: Duration,
    failures: u32,
    /// Marked as seen before each query: an outage that ends during the query ends the back-off after it.
    outage_ended: watch::Receiver<()>,
    failure_scope: Option<FailureScope>,
    suspects: SuspectRecheck,
    cached: CachedFallback,
}

/// One query that the registry has not answered.
#[derive(Debug, Clone, Copy)]
struct BlockingQuery {
    cursor: Cursor,
    consistency: Consistency,
    wait: Duration,
    asked_at: Instant,
}

impl BlockingQuery {
    /// What its answer at `now` is to the rate limiter.
    fn answer_kind(&self, changed: bool, now: Instant) -> AnswerKind {
        AnswerKind::of(changed, now.saturating_duration_since(self.asked_at), self.wait)
    }
}

impl Watcher {
    pub(crate) fn new(context: Arc<WatchContext>, service: Arc<Service>, reason: WatchReason) -> Self {
        let now = now();
        Self {
            suspects: SuspectRecheck::new(context.clone(), service.clone()),
            cached: CachedFallback::load(context.clone(), service.clone()),
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
        }
    }

    /// Runs until `stop`, which drops a query in flight.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        let (context, service) = (self.context.clone(), self.service.clone());
        let watch = async {
            tokio::select! {
                () = self.watch() => {}
                never = look_up_on_request(&context, &service) => match never {},
            }
        };
        stop.run_until_cancelled(watch).await;
    }

    async fn watch(&mut self) {
        if self.reason == WatchReason::Declared {
            sleep(START_JITTER.mul_f64(fastrand::f64())).await;
        }
        loop {
            self.check_suspects().await;
            if !self.suspects.guard.has_suspects() {
                self.wait_for_token().await;
            }
            let query = self.next_query();
            self.outage_ended.mark_unchanged();
            match self.cached.serve_while_waiting(self.run_query(query)).await {
                Ok(answer) => self.on_answer(query, answer),
                Err(error) => self.on_error(query, error).await,
            }
        }
    }

    /// Probes the suspects, publishes the instances that are left, and waits until the registry is to be
    /// asked again. Returns at once without suspects.
    async fn check_suspects(&mut self) {
        if !self.suspects.guard.has_suspects() {
            return;
        }
        if let Some(known) = self.suspects.drop_silent().await {
            self.publish(known, now());
        }
        self.suspects.warn_of_suspects();
        self.suspects.wait().await;
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
        let has_suspects = self.suspects.guard.has_suspects();
        if now >= self.reread_at || has_suspects {
            self.cursor = Cursor::START;
        }
        let consistency =
            if has_suspects && self.failures == 0 { Consistency::Consistent } else { Consistency::Default };
        let longest = self.context.registry.longest_wait();
        let wait = longest.mul_f64(2.0 / 3.0 + fastrand::f64() / 3.0);
        // Not past the next re-read, however long the registry's waits are.
        let wait = match self.reread_at.saturating_duration_since(now) {
            Duration::ZERO => wait,
            until_reread => wait.min(until_reread),
        };
        let wait = wait.max(MIN_WAIT);
        BlockingQuery { cursor: self.cursor, consistency, wait, asked_at: now }
    }

    async fn run_query(&self, query: BlockingQuery) -> Result<WatchAnswer, Error> {
        let BlockingQuery { cursor, consistency, wait, .. } = query;
        self.context.registry.watch(&self.service.query, cursor, consistency, wait).await
    }

    /// Handles any answer but that of a stale read.
    fn on_answer(&mut self, query: BlockingQuery, answer: WatchAnswer) {
        let now = now();
        let index = answer.cursor.index();
        let was = self.cached.last_index();
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
        // The answer to a query without a cursor is current, whatever its index.
        self.cursor = if went_back && query.cursor != Cursor::START { Cursor::START } else { answer.cursor };
        self.record_recovery(query.asked_at, now);
        let had_suspects = self.suspects.guard.has_suspects();
        let changed = self.apply(answer, query.consistency, went_back, now);
        // The rate limiter does not apply while there are suspects.
        if !had_suspects {
            self.limiter.record_answer(query.answer_kind(changed, now));
        }
        if self.service.has_presumed_gone(now) {
            self.limiter.cap_interval(REREAD_WHILE_LOST);
        }
    }

    /// Records an error, tries another server where that may help, and backs off.
    async fn on_error(&mut self, query: BlockingQuery, error: Error) {
        self.cursor = Cursor::START;
        self.suspects.guard.record_failure();
        self.cached.serve();
        // The re-read after each error returns at once and unchanged. When the failed query lasted for a
        // proper wait, the registry blocks as it should, and the re-read must not count as early.
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
                () = self.service.refresh_requested.notified() => {}
                // An error means that discovery is gone.
                _ = self.outage_ended.changed() => sleep(START_JITTER.mul_f64(fastrand::f64())).await,
            }
        };
        // Elapsed or not: the back-off is over.
        let _ = timeout(pause, early).await;
    }

    async fn read_stale(&mut self) {
        let query = BlockingQuery { consistency: Consistency::Stale, ..self.next_query() };
        match self.run_query(query).await {
            Ok(answer) => {
                self.context.metrics.stale_answers.inc();
                let now = now();
                self.context.outage.record_stale_answer(now);
                self.apply(answer, query.consistency, false, now);
            }
            Err(error) => {
                self.context.metrics.count_error(&error);
                debug!(service = %self.service.query, error = %error_chain(&error), "stale read failed");
            }
        }
    }

    /// Publishes an answer if it is accepted. Returns whether it changed anything.
    fn apply(
        &mut self,
        answer: WatchAnswer,
        consistency: Consistency,
        went_back: bool,
        now: Instant,
    ) -> bool {
        let index = answer.cursor.index();
        let hint = if answer.instances.is_empty() { self.context.registry.empty_hint() } else { None };
        let (current, was) = (self.cached.current_snapshot(), self.cached.last_index());
        let candidate =
            Candidate { instances: answer.instances, index, stale: consistency == Consistency::Stale };
        // Consul's indexes start at 1: a server that reports 0 has lost its data.
        let went_back = went_back || index == 0 && was > 0;
        let known_leader = answer.known_leader;
        let (suspects, mut presumed_gone) = (&mut self.suspects, false);
        let has_filter = self.service.query.filter.is_some();
        let verdict = admit(&Current { snapshot: &current, index: was }, candidate, |instances| {
            // An instance leaves such a list when its data change, and no connection to it says anything about that.
            if has_filter {
                return None;
            }
            let previous_index = was;
            let answer = ReviewedAnswer {
                instances,
                consistency,
                index,
                previous_index,
                went_back,
                known_leader,
                now,
            };
            let screened = suspects.screen(&current, &answer);
            presumed_gone = screened.presumed_gone;
            screened.known
        });
        if presumed_gone {
            self.reread_interval = REREAD_AFTER_LOSS;
            self.reread_at = now + REREAD_AFTER_LOSS;
        }
        if verdict == Verdict::Behind {
            debug!(service = %self.service.query, index, "stale answer is older than the snapshot");
            return false;
        }
        self.cached.discard();
        // Before the swap, so that a follower that the swap wakes finds these facts.
        self.service.update_watch_health(|health| {
            health.index = index;
            health.known_leader = known_leader;
            health.empty_hint = hint;
            health.confirmed_at = now.checked_sub(answer.age.unwrap_or_default()).or(Some(now));
        });
        let Verdict::Accept(instances) = verdict else {
            self.service.unchanged.fetch_add(1, Relaxed);
            return false;
        };
        self.publish(instances, now);
        true
    }

    fn publish(&self, instances: Arc<[Instance]>, now: Instant) {
        publish(&self.context, &self.service, instances, now);
    }

    /// Counts an error, puts it into the status, and logs it when it is new.
    fn record_error(&mut self, error: &Error) {
        self.context.metrics.count_error(error);
        let (service, text) = (&self.service.query, error_chain(error));
        let answered_ago = self.service.confirmed_ago(now());
        self.service.update_watch_health(|health| {
            health.error = Some(text.clone());
            health.failures = self.failures;
        });
        let others = self.context.services.other_watches(&self.service);
        let scope = FailureScope::of(error, service, self.failures, others);
        if is_answered_refusal(error, scope) {
            self.service.refused.send_replace(true);
        }
        let is_new = scope.is_some_and(|scope| self.failure_scope.replace(scope) != Some(scope));
        let is_logged = match scope {
            Some(FailureScope::Registry) if is_new => {
                self.context.outage.warn_of_failure(error, Some(service))
            }
            Some(scope) if is_new => {
                self.warn_of_service_failure(scope, &text, answered_ago);
                true
            }
            _ => false,
        };
        if !is_logged {
            debug!(%service, error = text, "watch failed");
        }
    }

    /// Logs a failure that is about this service only.
    fn warn_of_service_failure(&self, scope: FailureScope, error: &str, answered_ago: Option<Duration>) {
        let (service, age) = (&self.service.query, answered_ago.map(format_coarse_duration));
        self.context.record_event(EventKind::ServiceLost, service, error);
        match (scope, age) {
            (FailureScope::Answer, Some(answered_ago)) => {
                warn!(%service, error, answered_ago, "the registry's answer cannot be read, going on with its last one");
            }
            (FailureScope::Answer, None) => {
                warn!(%service, error, "the registry's answer cannot be read, and none was read before");
            }
            (_, Some(answered_ago)) => {
                warn!(%service, error, answered_ago, "the registry answers for other services and not for this one, going on with its last answer");
            }
            (_, None) => {
                warn!(%service, error, "the registry answers for other services and has not answered for this one");
            }
        }
    }

    /// Resets the failures after a good answer.
    fn record_recovery(&mut self, asked_at: Instant, now: Instant) {
        if let Some(gone_for) = self.context.outage.record_answer(asked_at, now) {
            let gone_for = format_coarse_duration(gone_for);
            info!(service = %self.service.query, gone_for, "the registry answers again");
        }
        let (scope, failures) = (self.failure_scope.take(), std::mem::take(&mut self.failures));
        let service = &self.service.query;
        match scope {
            Some(FailureScope::Service) => {
                info!(%service, failures, "the registry answers for this service again");
                self.context.record_event(
                    EventKind::ServiceBack,
                    service,
                    "the registry answers for it again",
                );
            }
            Some(FailureScope::Answer) => {
                info!(%service, failures, "answer can be read again");
                self.context.record_event(EventKind::ServiceBack, service, "the answer can be read again");
            }
            Some(FailureScope::Registry) | None => {}
        }
        if failures > 0 {
            self.service.update_watch_health(|health| {
                health.error = None;
                health.failures = 0;
            });
        }
    }
}

/// Whether the error is the registry's answer for this service, which the next query will hardly change. A 5xx and a 429 are of
/// the moment, unless the registry answers for other services.
fn is_answered_refusal(error: &Error, scope: Option<FailureScope>) -> bool {
    match error {
        Error::Refused { status, .. } => {
            (400..500).contains(status) && *status != 429 || scope == Some(FailureScope::Service)
        }
        Error::Malformed { .. } | Error::TooLarge { .. } => true,
        Error::Connect { .. }
        | Error::Timeout { .. }
        | Error::Busy { .. }
        | Error::ConnectionLimit { .. }
        | Error::Exchange { .. }
        | Error::File { .. } => false,
    }
}

/// Whether the agent works and a server behind it fails: without a leader, a query of the default
/// consistency ends in status 500 or in a timeout.
fn another_server_may_answer(error: &Error) -> bool {
    match error {
        Error::Timeout { .. } | Error::Exchange { .. } => true,
        Error::Refused { status, .. } => *status >= 500,
        Error::Connect { .. }
        | Error::Busy { .. }
        | Error::ConnectionLimit { .. }
        | Error::Malformed { .. }
        | Error::TooLarge { .. }
        | Error::File { .. } => false,
    }
}
