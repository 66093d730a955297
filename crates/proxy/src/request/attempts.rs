//! The attempts of one request: pick, try, perhaps a second one beside a slow one, perhaps again.
//!
//! [`make_attempts`] is one loop read downward; the decisions are those of `outrigger-policy`. A [`Race`] moves the attempt, and
//! perhaps a second one beside it: the first response is taken, the other attempt is cancelled. Nearly every race has one
//! attempt alone.
//!
//! There are two triggers. With `hedge`, the first attempt takes longer than a percentile of the service's recent response
//! times ("The Tail at Scale", J. Dean, L. A. Barroso, CACM 2013: a twentieth more requests takes the slowest ones' time away).
//! With or without it, the instance is stalled: two requests or more wait there and none is answered, while other instances
//! answer. A stopped process keeps its connections open, and nothing else would tell it from a slow one before the request's time
//! is over; the first attempt goes on, because it may be slow all the same. For that reason only safe requests are sent twice
//! without `hedge`.
//!
//! The second attempt goes to another instance, is paid for from the retry budget, and is made only when the body is
//! whole and can be sent again. Hedging is off by default: whether a response's latency is worth more load is for the
//! app's owners to say.

use std::{
    future::poll_fn,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use outrigger_policy::{
    Outcome, Sent, Verdict,
    retry::{self, GiveUp, Pushback, RetryDecision, RetryEligibility},
};
use tokio::time::{Instant, sleep};

use crate::{
    metrics::labels::{HedgeResult, SecondAttempt},
    reason::{Reason, Refusal},
    request::{
        app::{Downstream, RequestAccount},
        attempt::{Attempt, AttemptState, CONTINUE, EndedAttempt},
        call::{AttemptResult, Bound, Bounds, Call, Response, outcome_of},
        explain, pushback,
    },
    upstream::endpoint::Endpoint,
};

/// Picks in a row that may fall on endpoints on probation that other requests decide.
pub(crate) const MAX_PASSED: usize = 16;
/// A second attempt goes only to an instance on which a request succeeded within this time; in whole seconds, as
/// [`Endpoint::succeeded_within`] counts.
const ANSWERED_WITHIN: Duration = Duration::from_secs(2);
/// How long the app waits for a `100 (Continue)` of the instance before it gets one from here.
const CONTINUE_AFTER: Duration = Duration::from_secs(1);

/// How the attempts ended.
pub(crate) enum AttemptsEnd {
    /// With a response for the app.
    Answered(EndedAttempt, Response),
    /// With none.
    Refused { refusal: Refusal, verdict: Verdict },
    /// The app is gone.
    Gone { verdict: Verdict },
}

/// Tries until there is a response for the app.
pub(crate) async fn make_attempts<'r>(
    call: &Call<'r>,
    app: &mut Downstream<'_>,
    account: &mut RequestAccount<'_>,
) -> AttemptsEnd {
    let mut attempts = Attempts {
        call,
        state: AttemptState::default(),
        retries: 0,
        retry: eligibility(call, app, 0),
        pushed_before: false,
        paid_at: None,
        before: None,
    };
    if call.deadline.cap().is_some_and(|ends| app.now >= ends.into()) {
        let limit = explain::time_limit(call, Bound::Deadline);
        let detail = format!("{}: the deadline had passed, nothing was sent; {limit}", call.cluster.label);
        let refusal = Refusal::new(Reason::DeadlineExceeded, detail);
        return AttemptsEnd::Refused { refusal, verdict: Verdict::Ignore };
    }
    loop {
        // In a block: during a pause there is no room for a race.
        let ended = {
            let mut race = match attempts.begin(app, account) {
                Ok(race) => race,
                Err(end) => return end,
            };
            poll_fn(|cx| race.poll(call, app, &mut attempts.state, account, cx)).await
        };
        let pause = match attempts.decide(ended, app, account) {
            Ok(pause) => pause,
            Err(end) => return end,
        };
        if !pause.is_zero() && app.unless_gone(sleep(pause)).await.is_none() {
            attempts.refund();
            return AttemptsEnd::Gone { verdict: Verdict::Ignore };
        }
    }
}

/// The attempts so far.
struct Attempts<'c, 'r> {
    call: &'c Call<'r>,
    state: AttemptState,
    /// Retries that count.
    retries: u32,
    /// What may follow the attempt that is under way, or the next one.
    retry: RetryEligibility<'r>,
    /// An instance asked for a pause before.
    pushed_before: bool,
    /// When the retry that comes next was paid for; `None`: it costs nothing, or was made.
    paid_at: Option<Instant>,
    /// The last attempt, which answers the app when no other one can be made.
    before: Option<Box<(EndedAttempt, AttemptResult)>>,
}

impl<'r> Attempts<'_, 'r> {
    /// Picks an endpoint and begins an attempt at it. `Err`: there is none.
    fn begin(
        &mut self,
        app: &mut Downstream<'_>,
        account: &mut RequestAccount<'_>,
    ) -> Result<Race<'r>, AttemptsEnd> {
        // Where nothing was waited for since the head, that is the head's time, and the clock is not read again.
        let (call, begun) = (self.call, app.now);
        let retry = self.retry;
        let retryable = retry.allows_retry();
        // Endpoints on probation that other requests decide: passed over once each, not tried.
        let mut passed = Vec::new();
        let lease = loop {
            let may_pick = passed.len() <= MAX_PASSED;
            let picked = may_pick.then(|| call.pick(&self.state.tried, &passed, retryable, begun)).flatten();
            let Some(endpoint) = picked else {
                self.refund();
                return Err(match self.before.take() {
                    // The last endpoints have left meanwhile: what they answered is the answer.
                    Some(last) => {
                        let (attempt, result) = *last;
                        let decision = RetryDecision::GiveUp(GiveUp::Attempts);
                        decided(call, attempt, result, decision, account.attempts, Instant::now())
                    }
                    None => {
                        let refusal =
                            call.cluster.refuse_pick(call.subset(), app.info.clusters().first_answer());
                        AttemptsEnd::Refused { refusal, verdict: Verdict::Ignore }
                    }
                });
            };
            match call.lease(endpoint, retryable, begun) {
                Ok(lease) => break lease,
                Err(endpoint) => passed.push(endpoint),
            }
        };
        // The attempt before holds its endpoint's permit: dropped before another permit is asked for, which may be the same.
        drop(self.before.take());
        let bounds = Bounds {
            deadline: call.deadline,
            begun,
            retry,
            policy: &call.settings.policy,
            is_grpc: call.is_grpc,
        };
        if account.attempts > 0 {
            let cells = call.cells();
            cells.inc(&cells.retried);
            self.paid_at = None;
        }
        call.count_attempt(&lease, account);
        let first = Attempt::new(lease, bounds, call, &mut app.upload);
        Ok(Race::new(call, first))
    }

    /// Takes back what was paid for a retry that is not made.
    fn refund(&mut self) {
        if let Some(paid_at) = self.paid_at.take() {
            self.call.cluster.budget.refund(paid_at.into_std(), Instant::now().into_std());
        }
    }

    /// Whether there is another attempt, and after which pause. `ended`: `None` when the app is gone. `Err`: there is none.
    fn decide(
        &mut self,
        ended: Option<RaceEnd>,
        app: &mut Downstream<'_>,
        account: &mut RequestAccount<'_>,
    ) -> Result<Duration, AttemptsEnd> {
        let Some(RaceEnd { attempt, result, now, both }) = ended else {
            return Err(AttemptsEnd::Gone { verdict: Verdict::Ignore });
        };
        app.now = now;
        let (first, second) = match both {
            Some([first, second]) => (first, Some(second)),
            None => (attempt.lease.endpoint().clone(), None),
        };
        let (call, policy) = (self.call, &self.call.settings.policy);
        let retry = self.retry;
        let outcome = outcome_of(&result);
        let is_retried = retry.is_retried(outcome);
        let sent = attempt.sent;
        let pushback = match &result {
            Ok(_) if is_retried => {
                attempt.exchange.as_ref().and_then(|one| pushback::read_pushback(one.response()?))
            }
            _ => None,
        };
        // The breaker waits for its probe, and every request waits for the breaker.
        let pushback = match pushback {
            Some(Pushback::Instance(wait) | Pushback::Call(wait))
                if call.is_probe && wait > policy.retry.backoff_max =>
            {
                Some(Pushback::Never)
            }
            asked => asked,
        };
        self.state.tried.extend(second);
        let is_decided = outcome.status().is_some() && !is_retried;
        // What the next pick may take, if it is made: only after a pushback does the attempt count as a retry all the same.
        let has_other = || {
            let next = eligibility(call, app, self.retries + u32::from(pushback.is_some()));
            call.pick_other(&self.state.tried, &first, next.allows_retry(), now).is_some()
        };
        let is_own_fault = outcome == Outcome::TlsFailed
            && call.with_owner(&first, |owner, _| owner.fails_tls_alike(&first));
        let last = retry::LastAttempt {
            sent,
            // With a fault of this side's settings a request is not sent around to every instance.
            outcome: if is_own_fault { Outcome::Resource } else { outcome },
            replayable: app.upload.is_replayable(),
            pushback,
            has_other_instance: !is_decided && (pushback.is_some() || sent == Sent::Nothing) && has_other(),
            earlier_pushback: self.pushed_before,
            attempts: account.attempts,
        };
        let ends = call.ends(&app.upload).into_std();
        let random = if is_decided { 0 } else { fastrand::u64(..) };
        match retry::decide_retry(&retry, &call.cluster.budget, &last, now.into_std(), ends, random) {
            RetryDecision::Retry { after, uncounted } => {
                // For a long wait the attempt is dropped, so that its permit and its connection are free for other requests.
                self.before = (after <= policy.retry.backoff_max).then(|| Box::new((attempt, result)));
                self.paid_at = (sent != Sent::Nothing).then_some(now);
                self.retries += u32::from(!uncounted);
                self.pushed_before |= matches!(pushback, Some(Pushback::Instance(_)));
                self.state.tried.push(first);
                self.retry = eligibility(call, app, self.retries);
                Ok(after)
            }
            decision => {
                account.answered_at = Some(now);
                Err(decided(call, attempt, result, decision, account.attempts, now))
            }
        }
    }
}

/// What may follow the next attempt, after `retries` retries that count.
fn eligibility<'r>(call: &Call<'r>, app: &Downstream<'_>, retries: u32) -> RetryEligibility<'r> {
    let settings = &call.settings.policy.retry;
    RetryEligibility::new(settings, call.traits, retries, app.upload.fits(settings.max_body))
}

/// The response, or what to say when there is none.
fn decided(
    call: &Call<'_>,
    attempt: EndedAttempt,
    result: AttemptResult,
    decision: RetryDecision,
    attempts: u32,
    now: Instant,
) -> AttemptsEnd {
    let gave_up = match decision {
        RetryDecision::GiveUp(why) => {
            call.cells().record_give_up(why);
            Some(why)
        }
        RetryDecision::Done | RetryDecision::Retry { .. } => None,
    };
    match result {
        Ok(response) => AttemptsEnd::Answered(attempt, response),
        Err(failed) => {
            let verdict = call.with_owner(attempt.lease.endpoint(), |owner, _| {
                attempt.lease.verdict(owner, failed.outcome, now)
            });
            if failed.outcome == Outcome::ClientGone && failed.reason.is_none() {
                return AttemptsEnd::Gone { verdict };
            }
            let mut detail = format!("{}: {}", call.cluster.label, failed.detail);
            if let Some(why) = gave_up {
                detail.push_str(&format!("; {}", explain::give_up(call, why, attempts)));
            }
            let reason = failed.reason_for_app(gave_up);
            AttemptsEnd::Refused { refusal: Refusal::new(reason, detail), verdict }
        }
    }
}

/// The attempts that are under way.
struct Race<'r> {
    first: Option<Attempt<'r>>,
    second: Option<Box<Attempt<'r>>>,
    /// When a second attempt is made beside a slow first one.
    hedge_at: Option<Instant>,
    /// Why a second attempt was made, once there was one.
    why: SecondAttempt,
    /// A second attempt at a stalled instance was counted as one that the budget did not allow.
    is_budget_counted: bool,
    /// The endpoints of the first and the second attempt, once there was a second one.
    both: Option<[Arc<Endpoint>; 2]>,
    /// No second attempt is begun from here on: there was one, or the time for it has passed.
    is_settled: bool,
}

/// How the attempts ended.
struct RaceEnd {
    attempt: EndedAttempt,
    result: AttemptResult,
    now: Instant,
    /// The endpoints of both attempts, if there were two.
    both: Option<[Arc<Endpoint>; 2]>,
}

/// One of the two attempts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    First,
    Second,
}

impl<'r> Race<'r> {
    fn new(call: &Call<'r>, first: Attempt<'r>) -> Self {
        let may_hedge = first.bounds.retry.allows_hedge();
        let hedge_at = call.settings.policy.hedge.as_ref().filter(|_| may_hedge).and_then(|hedge| {
            let now = Instant::now();
            let usual = call.with_owner(first.lease.endpoint(), |owner, _| {
                owner.latency.percentile(hedge.percentile, now.into_std())
            })?;
            Some(now + usual.max(hedge.min_delay))
        });
        Self {
            first: Some(first),
            second: None,
            hedge_at,
            why: SecondAttempt::Hedge,
            is_budget_counted: false,
            both: None,
            is_settled: false,
        }
    }

    /// Moves the attempts. Ready with `None`: the app is gone.
    fn poll(
        &mut self,
        call: &Call<'r>,
        app: &mut Downstream<'_>,
        state: &mut AttemptState,
        account: &mut RequestAccount<'_>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<RaceEnd>> {
        loop {
            for side in [Side::First, Side::Second] {
                if let Poll::Ready(result) = self.poll_side(side, call, app, state, cx) {
                    let now = Instant::now();
                    if let Some(ended) = self.conclude(side, result, call, state, account, now) {
                        return Poll::Ready(Some(ended));
                    }
                }
            }
            if !app.channel.outbox.is_empty() {
                // Interim responses. That the app takes no more is found by the next write.
                let _ = app.channel.poll_flush(cx);
            }
            if app.poll_gone(cx).is_ready() {
                return Poll::Ready(None);
            }
            let held_since = app.upload.held_since();
            if held_since.is_some() && !app.channel.inbox.is_empty() {
                // The app begins by itself.
                app.upload.release(false, Instant::now());
                continue;
            }
            if self.second.is_none() && !self.is_settled {
                self.begin_beside_stalled(call, app, state, account);
                if self.second.is_some() {
                    continue;
                }
            }
            let mut due = self.due(app);
            if let Some(since) = held_since {
                due = due.min(since + CONTINUE_AFTER);
            }
            ready!(app.timer.poll_until(app.watch_until(due), cx));
            let now = Instant::now();
            if let Some(ended) = self.expire(call, app, state, account, now) {
                return Poll::Ready(Some(ended));
            }
            if held_since.is_some_and(|since| since + CONTINUE_AFTER <= now) && app.upload.release(true, now)
            {
                app.channel.queue(|outbox| outbox.push(CONTINUE));
            }
            if self.hedge_at.is_some_and(|at| at <= now) {
                self.hedge_at = None;
                self.is_settled = true;
                if let Some(other) = self.find_other(call, app, state) {
                    self.begin_second(SecondAttempt::Hedge, other, call, app, account, now);
                }
            }
        }
    }

    fn side(&mut self, side: Side) -> Option<&mut Attempt<'r>> {
        match side {
            Side::First => self.first.as_mut(),
            Side::Second => self.second.as_deref_mut(),
        }
    }

    fn poll_side(
        &mut self,
        side: Side,
        call: &Call<'r>,
        app: &mut Downstream<'_>,
        state: &mut AttemptState,
        cx: &mut Context<'_>,
    ) -> Poll<AttemptResult> {
        let is_alone = self.first.is_none() || self.second.is_none();
        let Some(attempt) = self.side(side) else { return Poll::Pending };
        attempt.poll(call, app.channel, &mut app.upload, is_alone, &mut state.has_raced, cx)
    }

    fn due(&self, app: &Downstream<'_>) -> Instant {
        let first = self.first.as_ref().map(|attempt| attempt.due(&app.upload));
        let second = self.second.as_ref().map(|attempt| attempt.due(&app.upload));
        [first, second, self.hedge_at].into_iter().flatten().min().unwrap_or_else(Instant::now)
    }

    fn expire(
        &mut self,
        call: &Call<'r>,
        app: &Downstream<'_>,
        state: &mut AttemptState,
        account: &mut RequestAccount<'_>,
        now: Instant,
    ) -> Option<RaceEnd> {
        for side in [Side::First, Side::Second] {
            if let Some(failed) = self.side(side).and_then(|one| one.expire(call, &app.upload, now))
                && let Some(ended) = self.conclude(side, Err(failed), call, state, account, now)
            {
                return Some(ended);
            }
        }
        None
    }

    /// Records an attempt's end. `None`: the other one goes on.
    fn conclude(
        &mut self,
        side: Side,
        result: AttemptResult,
        call: &Call<'r>,
        state: &mut AttemptState,
        account: &mut RequestAccount<'_>,
        now: Instant,
    ) -> Option<RaceEnd> {
        let attempt = self.side(side)?;
        let (retry, end) = (attempt.bounds.retry, attempt.lease_end(&result));
        call.with_lease(&mut attempt.lease, |lease, owner, settings| {
            lease.record(owner, settings, call.cells(), &end, &mut state.blame, now);
        });
        let attempt = match side {
            Side::First => self.first.take()?.into_ended(end.sent),
            Side::Second => self.second.take()?.into_ended(end.sent),
        };
        let Some(both) = self.both.clone() else {
            return Some(RaceEnd { attempt, result, now, both: None });
        };
        let is_answer = result.as_ref().is_ok_and(|response| !retry.is_retried(response.outcome));
        let rest = match side {
            Side::First => self.second.as_deref_mut(),
            Side::Second => self.first.as_mut(),
        };
        let is_second = side == Side::Second;
        let Some(rest) = rest else {
            // The other one has failed before.
            call.cells().record_second(
                self.why,
                match (is_answer, is_second) {
                    (true, true) => HedgeResult::Won,
                    (true, false) => HedgeResult::Lost,
                    (false, _) => HedgeResult::Failed,
                },
            );
            call.name_instance(attempt.lease.endpoint(), account);
            return Some(RaceEnd { attempt, result, now, both: Some(both) });
        };
        if is_answer {
            call.name_instance(attempt.lease.endpoint(), account);
            call.cells()
                .record_second(self.why, if is_second { HedgeResult::Won } else { HedgeResult::Lost });
            if call.settings.policy.hedge.is_some() {
                // The other one took at least this long: without it, only the quick ones would be remembered.
                call.with_owner(rest.lease.endpoint(), |owner, _| {
                    owner.latency.record(now - rest.bounds.begun, now.into_std());
                });
            }
            if is_second && rest.lease.endpoint().is_stalled() {
                call.with_lease(&mut rest.lease, |lease, owner, settings| {
                    lease.record_left(owner, settings, &mut state.blame, now);
                });
            }
            return Some(RaceEnd { attempt, result, now, both: Some(both) });
        }
        // The app waits on for the other attempt, unless the endpoint of that one is stalled and a third endpoint may answer.
        if is_second && has_third(call, rest, &both[1], state) {
            call.cells().record_second(self.why, HedgeResult::Failed);
            return Some(RaceEnd { attempt, result, now, both: Some(both) });
        }
        call.name_instance(rest.lease.endpoint(), account);
        None
    }

    /// Begins a second attempt, when the first one waits for a stalled endpoint, the request may be sent twice, and
    /// another endpoint answers.
    fn begin_beside_stalled(
        &mut self,
        call: &Call<'r>,
        app: &mut Downstream<'_>,
        state: &AttemptState,
        account: &mut RequestAccount<'_>,
    ) {
        let Some(first) = &self.first else { return };
        let policy = &call.settings.policy;
        if !first.lease.endpoint().is_stalled()
            || !first.bounds.retry.allows_race_when_stalled(policy.hedge.is_some())
        {
            return;
        }
        let now = Instant::now();
        let answers = |one: &Arc<Endpoint>| !one.is_stalled() && one.succeeded_within(ANSWERED_WITHIN, now);
        let Some(other) = self.find_other(call, app, state).filter(answers) else { return };
        if call.cluster.budget.available(&policy.retry.budget, now.into_std()) == 0 {
            // The request is looked at again, and may be sent when the budget allows it.
            if !std::mem::replace(&mut self.is_budget_counted, true) {
                call.cells().record_second(SecondAttempt::Stalled, HedgeResult::Budget);
            }
            return;
        }
        (self.is_settled, self.hedge_at) = (true, None);
        self.begin_second(SecondAttempt::Stalled, other, call, app, account, now);
    }

    /// The endpoint of a second attempt, if one can be made: the body is read by one attempt only, until it is whole.
    fn find_other(
        &self,
        call: &Call<'r>,
        app: &Downstream<'_>,
        state: &AttemptState,
    ) -> Option<Arc<Endpoint>> {
        let first = self.first.as_ref()?;
        let is_whole = app.upload.is_ended() && app.upload.is_replayable() && !call.changes.upgrades;
        is_whole
            .then(|| call.pick_other(&state.tried, first.lease.endpoint(), true, Instant::now()))
            .flatten()
    }

    fn begin_second(
        &mut self,
        why: SecondAttempt,
        other: Arc<Endpoint>,
        call: &Call<'r>,
        app: &mut Downstream<'_>,
        account: &mut RequestAccount<'_>,
        now: Instant,
    ) {
        let Some(first) = &self.first else { return };
        let Ok(lease) = call.lease(other.clone(), true, now) else { return };
        // The budget comes last, so that only a second attempt that is made is paid for.
        if !call.cluster.budget.withdraw(&call.settings.policy.retry.budget, now.into_std()) {
            call.cells().record_second(why, HedgeResult::Budget);
            return;
        }
        self.why = why;
        call.count_attempt(&lease, account);
        let bounds = Bounds { begun: now, ..first.bounds };
        let both = [first.lease.endpoint().clone(), other];
        self.second = Some(Box::new(Attempt::new(lease, bounds, call, &mut app.upload)));
        self.both = Some(both);
    }
}

/// Whether the first attempt waits for a stalled endpoint, and a third may be tried in its place.
fn has_third(call: &Call<'_>, first: &Attempt<'_>, second: &Arc<Endpoint>, state: &AttemptState) -> bool {
    if !first.lease.endpoint().is_stalled() || first.bounds.retry.is_last() {
        return false;
    }
    let tried = [&state.tried[..], std::slice::from_ref(second)].concat();
    call.pick_other(&tried, first.lease.endpoint(), true, Instant::now()).is_some_and(|one| !one.is_stalled())
}
