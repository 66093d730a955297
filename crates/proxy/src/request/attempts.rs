//! The attempts of one request: pick, try, perhaps try again.
//!
//! One loop read downward. The decisions are those of `outrigger-policy`; a second attempt beside a slow one is made by
//! [`race`](super::race).

use std::{future::poll_fn, sync::Arc};

use outrigger_policy::{
    Outcome, Sent, Verdict,
    retry::{self, GiveUp, Pushback, RetryDecision, RetryEligibility},
};
use tokio::time::{Instant, sleep};

use crate::{
    reason::{Reason, Refusal},
    request::{
        app::{Downstream, RequestAccount},
        attempt::{Attempt, AttemptState},
        bounds::{AttemptResult, Bounds, Failed, Response, outcome_of},
        call::Call,
        pushback,
        race::{Race, RaceEnd},
    },
    upstream::{cluster::Cluster, endpoint::Endpoint, lease::Lease},
};

/// Picks in a row that may fall on endpoints on probation that other requests decide.
const MAX_PASSED: u32 = 16;

/// How the attempts ended.
#[expect(clippy::large_enum_variant, reason = "boxing the response would allocate for every request")]
pub(crate) enum AttemptsEnd<'r> {
    /// With a response for the app.
    Answered(Attempt<'r>, Response),
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
) -> AttemptsEnd<'r> {
    let (cluster, policy) = (call.cluster, &call.settings.policy);
    let mut state = AttemptState::default();
    let mut retries = 0;
    // The time of an attempt begins with the attempt. Where nothing was waited for since the head, that is the head's time, and
    // the clock is not read again.
    let mut begun = if account.slot.is_some() || policy.per_try_timeout.is_some() {
        Instant::now()
    } else {
        account.started
    };
    let mut pushed_before = false;
    // Endpoints on probation that other requests decide: passed over, not tried.
    let mut passed = 0;
    let mut before: Option<Box<(Attempt<'r>, AttemptResult)>> = None;
    if call.deadline.cap().is_some_and(|ends| Instant::now() >= ends.into()) {
        let detail = format!("{}: the deadline had passed, nothing was sent", cluster.label);
        let refusal = Refusal::new(Reason::DeadlineExceeded, detail);
        return AttemptsEnd::Refused { refusal, verdict: Verdict::Ignore };
    }
    loop {
        let fits = app.upload.fits(policy.retry.max_body);
        let retry = RetryEligibility::new(&policy.retry, call.traits, retries, fits);
        let retryable = retry.allows_retry();
        let Some(endpoint) = cluster.pick(&state.tried, retryable).filter(|_| passed <= MAX_PASSED) else {
            return match before {
                // The last endpoints have left meanwhile: what they answered is the answer.
                Some(last) => {
                    let (attempt, result) = *last;
                    decided(call, attempt, result, RetryDecision::GiveUp(GiveUp::Attempts), false)
                }
                None => AttemptsEnd::Refused { refusal: cluster.refuse_pick(), verdict: Verdict::Ignore },
            };
        };
        let Some(lease) = Lease::begin(call.settings, endpoint.clone(), retryable, begun) else {
            passed += 1;
            continue;
        };
        // The attempt before holds its endpoint's permit: dropped before another permit is asked for, which may be the same.
        drop(before.take());
        let bounds = Bounds {
            deadline: call.deadline,
            begun,
            per_try: policy.per_try_timeout,
            retry,
            body_idle: policy.body_idle,
        };
        account.attempts += 1;
        account.set_instance(&endpoint.id);
        lease.count_pick();
        let first = Attempt::new(lease, bounds, call, &mut app.upload);
        let mut race = Race::new(call, first, retry);
        let ended = poll_fn(|cx| race.poll(call, app, &mut state, account, cx)).await;
        let RaceEnd { attempt, result, now, other } = match ended {
            Some(ended) => ended,
            None => return AttemptsEnd::Gone { verdict: Verdict::Ignore },
        };
        let outcome = outcome_of(&result);
        let is_retried = retry.is_retried(outcome);
        let sent = attempt.sent_with(&result);
        let pushback = match &result {
            Ok(_) if is_retried => attempt.response().and_then(pushback::read_pushback),
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
        state.tried.extend(other);
        let is_decided = outcome.status().is_some() && !is_retried;
        let last = retry::LastAttempt {
            sent,
            outcome,
            replayable: app.upload.is_replayable(),
            pushback,
            has_other_instance: !is_decided
                && (pushback.is_some() || sent == Sent::Nothing)
                && cluster.pick_other(&state.tried, &endpoint).is_some(),
            earlier_pushback: pushed_before,
        };
        let ends = bounds.ends(&app.upload).into_std();
        let random = if is_decided { 0 } else { fastrand::u64(..) };
        match retry::decide_retry(&retry, &cluster.budget, &last, now.into_std(), ends, random) {
            RetryDecision::Retry { after, uncounted } => {
                // For a long wait the attempt is dropped, so that its permit and its connection are free for other requests.
                before = (after <= policy.retry.backoff_max).then(|| Box::new((attempt, result)));
                let cells = call.cells();
                cells.inc(&cells.retried);
                retries += u32::from(!uncounted);
                pushed_before |= matches!(pushback, Some(Pushback::Instance(_)));
                state.tried.push(endpoint);
                if !after.is_zero() && app.unless_gone(sleep(after)).await.is_none() {
                    return AttemptsEnd::Gone { verdict: Verdict::Ignore };
                }
                begun = Instant::now();
            }
            decision => {
                account.answered_at = Some(now);
                let is_out = is_out(cluster, &endpoint);
                return decided(call, attempt, result, decision, is_out);
            }
        }
    }
}

/// Whether an instance is ejected by now while others are not: its failure says nothing of the service.
fn is_out(cluster: &Cluster, endpoint: &Arc<Endpoint>) -> bool {
    !endpoint.stats.admits(true) && cluster.pick_other(&[], endpoint).is_some()
}

/// The response, or what to say when there is none.
fn decided<'r>(
    call: &Call<'r>,
    attempt: Attempt<'r>,
    result: AttemptResult,
    decision: RetryDecision,
    is_out: bool,
) -> AttemptsEnd<'r> {
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
            let verdict = if is_out { Verdict::Ignore } else { failed.outcome.verdict() };
            if failed.outcome == Outcome::ClientGone && failed.reason.is_none() {
                return AttemptsEnd::Gone { verdict };
            }
            let why = gave_up.map_or("", GiveUp::label);
            let detail = format!("{}: {}; not tried again: {why}", call.cluster.label, failed.detail);
            AttemptsEnd::Refused { refusal: Refusal::new(reason(&failed, gave_up), detail), verdict }
        }
    }
}

/// The reason that the app gets when no attempt brought a response.
fn reason(failed: &Failed, gave_up: Option<GiveUp>) -> Reason {
    if let Some(reason) = failed.reason {
        return reason;
    }
    match failed.outcome {
        Outcome::ConnectRefused | Outcome::ConnectFailed => Reason::ConnectFailed,
        Outcome::ConnectTimeout => Reason::ConnectTimeout,
        Outcome::Closed | Outcome::ClosedMidHead if gave_up == Some(GiveUp::SentUnknown) => {
            Reason::SentUnknown
        }
        Outcome::Closed | Outcome::ClosedMidHead => Reason::UpstreamClosed,
        Outcome::BadResponse => Reason::BadResponse,
        Outcome::PerTryTimeout | Outcome::Timeout => Reason::Timeout,
        Outcome::Deadline => Reason::DeadlineExceeded,
        Outcome::Overloaded => Reason::Overloaded,
        Outcome::Resource => Reason::LocalResource,
        Outcome::BadRequest => Reason::BadBody,
        Outcome::ClientGone => Reason::ClientGone,
        Outcome::Status(_) | Outcome::SidecarError(_) => Reason::Internal,
    }
}
