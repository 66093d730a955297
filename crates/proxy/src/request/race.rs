//! Moves the attempt of a request, and perhaps a second one beside it: the first response is taken, the other attempt is
//! cancelled. Nearly every race has one attempt alone.
//!
//! There are two triggers. With `hedge`, the first attempt takes longer than a percentile of the service's recent response
//! times ("The Tail at Scale", J. Dean, L. A. Barroso, CACM 2013: a twentieth more requests takes the slowest ones' time away).
//! Without it, the instance is stalled: it answers no request while others answer. A stopped process keeps its connections
//! open, and nothing else would tell it from a slow one before the request's time is over; the first attempt goes on, because
//! it may be slow all the same.
//!
//! The second attempt goes to another instance, is paid for from the retry budget, and is made only when the body is
//! whole and can be sent again. Hedging is off by default: whether a response's latency is worth more load is for the
//! app's owners to say.

use std::{
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use outrigger_policy::retry::RetryEligibility;
use tokio::time::Instant;

use crate::{
    metrics::labels::HedgeResult,
    request::{
        app::{Downstream, RequestAccount},
        attempt::{Attempt, AttemptState, CONTINUE},
        bounds::{AttemptResult, Bounds},
        call::Call,
    },
    upstream::{endpoint::Endpoint, lease::Lease},
};

/// A second attempt goes only to an instance on which a request succeeded within this time; in whole seconds, as
/// [`Endpoint::succeeded_within`] counts.
const ANSWERED_WITHIN: Duration = Duration::from_secs(2);
/// How long the app waits for a `100 (Continue)` of the instance before it gets one from here.
const CONTINUE_AFTER: Duration = Duration::from_secs(1);

/// The attempts that are under way.
pub(crate) struct Race<'r> {
    first: Option<Attempt<'r>>,
    second: Option<Box<Attempt<'r>>>,
    retry: RetryEligibility<'r>,
    /// When a second attempt is made beside a slow first one.
    hedge_at: Option<Instant>,
    /// The endpoint of the second attempt, once there was one.
    other: Option<Arc<Endpoint>>,
    /// No second attempt is begun from here on: there was one, or the time for it has passed.
    is_settled: bool,
}

/// How the attempts ended.
pub(crate) struct RaceEnd<'r> {
    pub(crate) attempt: Attempt<'r>,
    pub(crate) result: AttemptResult,
    pub(crate) now: Instant,
    /// The other endpoint that was tried.
    pub(crate) other: Option<Arc<Endpoint>>,
}

/// One of the two attempts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    First,
    Second,
}

impl<'r> Race<'r> {
    pub(crate) fn new(call: &Call<'r>, first: Attempt<'r>, retry: RetryEligibility<'r>) -> Self {
        let hedge_at =
            call.settings.policy.hedge.as_ref().filter(|_| retry.allows_hedge()).and_then(|hedge| {
                let now = Instant::now();
                let usual = call.cluster.latency.percentile(hedge.percentile, now.into_std())?;
                Some(now + usual.max(hedge.min_delay))
            });
        Self { first: Some(first), second: None, retry, hedge_at, other: None, is_settled: false }
    }

    /// Moves the attempts. Ready with `None`: the app is gone.
    pub(crate) fn poll(
        &mut self,
        call: &Call<'r>,
        app: &mut Downstream<'_>,
        state: &mut AttemptState,
        account: &mut RequestAccount<'_>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<RaceEnd<'r>>> {
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
            if self.hedge_at.is_none() && self.second.is_none() && !self.is_settled {
                self.begin_beside_stalled(call, app, state, account);
                if self.second.is_some() {
                    continue;
                }
            }
            let mut due = self.due(app);
            if let Some(since) = held_since {
                due = due.min(since + CONTINUE_AFTER);
            }
            std::task::ready!(app.timer.poll_until(app.watch_until(due), cx));
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
                    self.begin_second(other, call, app, account, now);
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
    ) -> Option<RaceEnd<'r>> {
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
    ) -> Option<RaceEnd<'r>> {
        let mut attempt = match side {
            Side::First => self.first.take()?,
            Side::Second => *self.second.take()?,
        };
        let end = attempt.end(&result);
        attempt.lease.record(call.cluster, call.settings, call.cells(), &end, &mut state.blame, now);
        let Some(other) = self.other.clone() else {
            return Some(RaceEnd { attempt, result, now, other: None });
        };
        let is_answer = result.as_ref().is_ok_and(|response| !self.retry.is_retried(response.outcome));
        let rest = match side {
            Side::First => self.second.as_deref_mut(),
            Side::Second => self.first.as_mut(),
        };
        let is_second = side == Side::Second;
        let Some(rest) = rest else {
            // The other one has failed before.
            call.cells().record_hedge(match (is_answer, is_second) {
                (true, true) => HedgeResult::Won,
                (true, false) => HedgeResult::Lost,
                (false, _) => HedgeResult::Failed,
            });
            account.set_instance(&attempt.lease.endpoint().id);
            return Some(RaceEnd { attempt, result, now, other: Some(other) });
        };
        if is_answer {
            account.set_instance(&attempt.lease.endpoint().id);
            call.cells().record_hedge(if is_second { HedgeResult::Won } else { HedgeResult::Lost });
            if call.settings.policy.hedge.is_some() {
                // The other one took at least this long: without it, only the quick ones would be remembered.
                call.cluster.latency.record(now - rest.bounds.begun, now.into_std());
            }
            if is_second && rest.lease.endpoint().is_stalled() {
                rest.lease.record_left(call.cluster, call.settings, &mut state.blame, now);
            }
            return Some(RaceEnd { attempt, result, now, other: Some(other) });
        }
        // The app waits on for the other attempt, unless the endpoint of that one is stalled and a third endpoint may answer.
        if is_second && has_third(call, rest, &other, state) {
            call.cells().record_hedge(HedgeResult::Failed);
            return Some(RaceEnd { attempt, result, now, other: Some(other) });
        }
        account.set_instance(&rest.lease.endpoint().id);
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
        if !first.lease.endpoint().is_stalled() || !self.retry.allows_race_when_stalled() {
            return;
        }
        let now = Instant::now();
        if call.cluster.budget.available(&call.settings.policy.retry.budget, now.into_std()) == 0 {
            return;
        }
        let answers = |one: &Arc<Endpoint>| !one.is_stalled() && one.succeeded_within(ANSWERED_WITHIN, now);
        if let Some(other) = self.find_other(call, app, state).filter(answers) {
            self.is_settled = true;
            self.begin_second(other, call, app, account, now);
        }
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
        is_whole.then(|| call.cluster.pick_other(&state.tried, first.lease.endpoint())).flatten()
    }

    fn begin_second(
        &mut self,
        other: Arc<Endpoint>,
        call: &Call<'r>,
        app: &mut Downstream<'_>,
        account: &mut RequestAccount<'_>,
        now: Instant,
    ) {
        let Some(first) = &self.first else { return };
        let Some(lease) = Lease::begin(call.settings, other.clone(), true, now) else { return };
        // The budget comes last, so that only a second attempt that is made is paid for.
        if !call.cluster.budget.withdraw(&call.settings.policy.retry.budget, now.into_std()) {
            call.cells().record_hedge(HedgeResult::Budget);
            return;
        }
        account.attempts += 1;
        account.set_instance(&other.id);
        lease.count_pick();
        let bounds = Bounds { begun: now, ..first.bounds };
        self.second = Some(Box::new(Attempt::new(lease, bounds, call, &mut app.upload)));
        self.other = Some(other);
    }
}

/// Whether the first attempt waits for a stalled endpoint, and a third may be tried in its place.
fn has_third(call: &Call<'_>, first: &Attempt<'_>, second: &Arc<Endpoint>, state: &AttemptState) -> bool {
    if !first.lease.endpoint().is_stalled() || first.bounds.retry.is_last() {
        return false;
    }
    let tried = [&state.tried[..], std::slice::from_ref(second)].concat();
    call.cluster.pick_other(&tried, first.lease.endpoint()).is_some_and(|one| !one.is_stalled())
}
