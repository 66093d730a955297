//! Which requests are retried: the safe ones, while a retry helps and the budget pays for it.

use std::time::Duration;

use outrigger_config::{RetryBudget as BudgetSettings, RetryPolicy};
use outrigger_policy::{
    Outcome, RetryBudget, Sent,
    retry::{
        GiveUp, LastAttempt, Pushback, RequestTraits, RetryDecision, RetryEligibility, decide_retry,
        is_idempotent, is_safe,
    },
};
use proptest::prelude::*;

use crate::{millis, origin};

const GET: RequestTraits = RequestTraits { idempotent: true, safe: true, allowed: true };
const PUT: RequestTraits = RequestTraits { safe: false, ..GET };
const POST: RequestTraits = RequestTraits { idempotent: false, safe: false, allowed: true };

fn affordable(retries: u32) -> BudgetSettings {
    BudgetSettings { ratio: 0.0, min_per_second: retries, window: Duration::from_secs(1) }
}

fn first_attempt(outcome: Outcome, sent: Sent) -> LastAttempt {
    LastAttempt {
        sent,
        outcome,
        replayable: true,
        pushback: None,
        has_other_instance: true,
        earlier_pushback: false,
        attempts: 1,
    }
}

/// The decision after a first attempt, with default settings, a full budget and enough time.
fn decide(request: RequestTraits, attempt: LastAttempt) -> RetryDecision {
    decide_after(request, 0, attempt)
}

/// The decision after an attempt that followed `retries` counted ones.
fn decide_after(request: RequestTraits, retries: u32, attempt: LastAttempt) -> RetryDecision {
    let now = origin();
    let settings = RetryPolicy::default();
    let budget = RetryBudget::new(&settings.budget, now);
    let before = budget.available(&settings.budget, now);
    let eligibility = RetryEligibility::new(&settings, request, retries, true);
    let decision = decide_retry(&eligibility, &budget, &attempt, now, now + Duration::from_secs(15), 0);
    let paid = before - budget.available(&settings.budget, now);
    let pays = matches!(decision, RetryDecision::Retry { .. }) && attempt.sent != Sent::Nothing;
    assert_eq!(paid, u64::from(pays), "{attempt:?}");
    decision
}

fn check(request: RequestTraits, cases: &[(Outcome, Sent, RetryDecision)]) {
    for &(outcome, sent, expected) in cases {
        assert_eq!(decide(request, first_attempt(outcome, sent)), expected, "{outcome:?}, sent {sent:?}");
    }
}

const UNCOUNTED: RetryDecision = RetryDecision::Retry { after: Duration::ZERO, uncounted: true };
/// The random number of these cases is 0, so the pause is 0.
const RETRY: RetryDecision = RetryDecision::Retry { after: Duration::ZERO, uncounted: false };
const fn give_up(why: GiveUp) -> RetryDecision {
    RetryDecision::GiveUp(why)
}

#[test]
fn any_request_of_which_nothing_was_sent_is_retried_at_once() {
    for request in [GET, POST] {
        check(
            request,
            &[
                (Outcome::ConnectRefused, Sent::Nothing, UNCOUNTED),
                (Outcome::ConnectTimeout, Sent::Nothing, UNCOUNTED),
                (Outcome::ConnectFailed, Sent::Nothing, UNCOUNTED),
                (Outcome::TlsFailed, Sent::Nothing, UNCOUNTED),
                (Outcome::UnreachableFromHere, Sent::Nothing, UNCOUNTED),
                (Outcome::Closed, Sent::Nothing, RETRY),
                (Outcome::PerTryTimeout, Sent::Nothing, RETRY),
                (Outcome::Overloaded, Sent::Nothing, RETRY),
                (Outcome::Resource, Sent::Nothing, RETRY),
            ],
        );
    }
}

#[test]
fn an_idempotent_request_is_retried_after_a_lost_connection_a_gateway_status_or_a_per_try_timeout() {
    check(
        GET,
        &[
            (Outcome::Closed, Sent::Head, RETRY),
            (Outcome::Closed, Sent::Body, RETRY),
            (Outcome::ClosedMidHead, Sent::Head, RETRY),
            (Outcome::BadResponse, Sent::Head, RETRY),
            (Outcome::PerTryTimeout, Sent::Head, RETRY),
            (Outcome::Resource, Sent::Head, RETRY),
            (Outcome::Status(502), Sent::Head, RETRY),
            (Outcome::Status(503), Sent::Body, RETRY),
            (Outcome::Status(504), Sent::Head, RETRY),
        ],
    );
}

#[test]
fn a_post_that_was_sent_is_not_repeated_and_the_reason_says_whether_a_response_came() {
    check(
        POST,
        &[
            (Outcome::Closed, Sent::Head, give_up(GiveUp::SentUnknown)),
            (Outcome::Closed, Sent::Body, give_up(GiveUp::SentUnknown)),
            (Outcome::ClosedMidHead, Sent::Body, give_up(GiveUp::SentUnknown)),
            (Outcome::BadResponse, Sent::Body, give_up(GiveUp::SentUnknown)),
            (Outcome::PerTryTimeout, Sent::Body, give_up(GiveUp::SentUnknown)),
            (Outcome::Status(503), Sent::Body, give_up(GiveUp::NotRetryable)),
        ],
    );
}

#[test]
fn a_response_for_the_app_is_not_retried() {
    for request in [GET, POST] {
        check(
            request,
            &[
                (Outcome::Status(200), Sent::Body, RetryDecision::Done),
                (Outcome::Status(404), Sent::Head, RetryDecision::Done),
                (Outcome::Status(500), Sent::Head, RetryDecision::Done),
                (Outcome::SidecarError(503), Sent::Head, RetryDecision::Done),
            ],
        );
    }
}

#[test]
fn a_request_without_time_or_without_its_app_is_not_retried() {
    check(
        GET,
        &[
            (Outcome::Timeout, Sent::Head, give_up(GiveUp::Deadline)),
            (Outcome::Timeout, Sent::Nothing, give_up(GiveUp::Deadline)),
            (Outcome::Deadline, Sent::Head, give_up(GiveUp::Deadline)),
            (Outcome::BadRequest, Sent::Body, give_up(GiveUp::NotRetryable)),
            (Outcome::ClientGone, Sent::Nothing, give_up(GiveUp::NotRetryable)),
        ],
    );
}

#[test]
fn the_app_can_forbid_retries_and_the_body_can_be_gone() {
    let refused = first_attempt(Outcome::ConnectRefused, Sent::Nothing);
    let forbidden = RequestTraits { allowed: false, ..GET };
    assert_eq!(decide(forbidden, refused), give_up(GiveUp::Off));
    assert_eq!(decide(GET, LastAttempt { replayable: false, ..refused }), give_up(GiveUp::BodyGone));
    let alone = LastAttempt { has_other_instance: false, ..refused };
    assert_eq!(decide_after(GET, 2, alone), give_up(GiveUp::Attempts));
}

#[test]
fn a_refused_connection_is_not_counted_while_another_instance_may_accept() {
    for outcome in [
        Outcome::ConnectRefused,
        Outcome::ConnectFailed,
        Outcome::TlsFailed,
        Outcome::ConnectTimeout,
        Outcome::UnreachableFromHere,
    ] {
        let refused = first_attempt(outcome, Sent::Nothing);
        let alone = LastAttempt { has_other_instance: false, ..refused };
        for request in [GET, POST] {
            assert_eq!(decide_after(request, 2, refused), UNCOUNTED, "{outcome:?}");
            assert_eq!(decide_after(request, 1, alone), RETRY, "{outcome:?}");
        }
    }
    // A single instance may leave a request out on one connection after the other, and not for ever.
    let left_out =
        LastAttempt { has_other_instance: false, ..first_attempt(Outcome::Unprocessed, Sent::Nothing) };
    for request in [GET, POST] {
        assert_eq!(decide_after(request, 2, left_out), UNCOUNTED);
        let often = LastAttempt { attempts: 10, ..left_out };
        assert_eq!(decide_after(request, 2, often), give_up(GiveUp::Attempts));
    }
    for (outcome, sent) in [(Outcome::Closed, Sent::Nothing), (Outcome::Overloaded, Sent::Nothing)] {
        assert_eq!(
            decide_after(GET, 2, first_attempt(outcome, sent)),
            give_up(GiveUp::Attempts),
            "{outcome:?}"
        );
    }
    let off = RequestTraits { allowed: false, ..GET };
    assert_eq!(decide(off, first_attempt(Outcome::ConnectRefused, Sent::Nothing)), give_up(GiveUp::Off));
}

/// What [`RetryEligibility`] says, in the order of its methods.
fn eligibility(settings: &RetryPolicy, request: RequestTraits, retries: u32, body_kept: bool) -> [bool; 8] {
    let one = RetryEligibility::new(settings, request, retries, body_kept);
    [
        one.is_repeatable(),
        one.is_repeatable_after_race(),
        one.accepts_race(),
        one.allows_retry(),
        one.is_last(),
        one.allows_hedge(),
        one.allows_race_when_stalled(false),
        one.allows_race_when_stalled(true),
    ]
}

#[test]
fn what_may_follow_an_attempt_is_known_before_it_begins() {
    const YES: bool = true;
    const NO: bool = false;
    let settings = RetryPolicy::default();
    let lenient = RetryPolicy { non_idempotent: true, ..settings.clone() };
    let off = RetryPolicy { max_retries: 0, ..settings.clone() };
    let alone = RetryPolicy { stalled: false, ..settings.clone() };
    let forbidden = RequestTraits { allowed: false, ..GET };
    for (settings, request, retries, body_kept, expected) in [
        (&settings, GET, 0, YES, [YES, YES, YES, YES, NO, YES, YES, YES]),
        (&settings, GET, 1, YES, [YES, YES, YES, YES, NO, NO, YES, YES]),
        (&settings, GET, 2, YES, [YES, YES, YES, NO, YES, NO, YES, YES]),
        (&settings, GET, 0, NO, [YES, YES, NO, NO, NO, YES, YES, YES]),
        (&settings, PUT, 0, YES, [YES, YES, YES, YES, NO, YES, NO, YES]),
        (&settings, POST, 0, YES, [NO, NO, NO, NO, NO, NO, NO, NO]),
        (&lenient, POST, 0, YES, [YES, NO, NO, YES, NO, YES, NO, YES]),
        (&off, GET, 0, YES, [YES, YES, YES, NO, YES, YES, NO, NO]),
        (&alone, GET, 0, YES, [YES, YES, YES, YES, NO, YES, NO, NO]),
        (&settings, forbidden, 0, YES, [NO, NO, NO, NO, YES, NO, NO, NO]),
    ] {
        let case = format!("{request:?}, {retries} retries, body kept {body_kept}");
        assert_eq!(eligibility(settings, request, retries, body_kept), expected, "{case}");
    }
    let one = RetryEligibility::new(&settings, GET, 0, true);
    let retried = |status| one.is_retried(Outcome::Status(status));
    assert!([502, 503, 504].into_iter().all(retried) && ![200, 404, 500].into_iter().any(retried));
    assert!(!one.is_retried(Outcome::SidecarError(503)));
}

#[test]
fn idempotent_methods_are_those_of_rfc_9110() {
    for method in ["GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"] {
        assert!(is_idempotent(method.as_bytes()), "{method}");
    }
    for method in ["POST", "PATCH", "CONNECT", "get", "", "PROPFIND"] {
        assert!(!is_idempotent(method.as_bytes()), "{method}");
    }
}

#[test]
fn only_a_request_that_changes_nothing_may_run_at_two_instances_at_once() {
    for method in ["GET", "HEAD", "OPTIONS"] {
        assert!(is_safe(method.as_bytes()), "{method}");
    }
    for method in ["PUT", "DELETE", "POST", "PATCH", "TRACE", "CONNECT", "get", ""] {
        assert!(!is_safe(method.as_bytes()), "{method}");
    }
}

fn outcome() -> impl Strategy<Value = Outcome> {
    prop_oneof![
        (100..600_u16).prop_map(Outcome::Status),
        (500..506_u16).prop_map(Outcome::Status),
        prop::sample::select(vec![
            Outcome::SidecarError(503),
            Outcome::ConnectRefused,
            Outcome::ConnectTimeout,
            Outcome::ConnectFailed,
            Outcome::TlsFailed,
            Outcome::Closed,
            Outcome::ClosedMidHead,
            Outcome::BadResponse,
            Outcome::PerTryTimeout,
            Outcome::Timeout,
            Outcome::Deadline,
            Outcome::Overloaded,
            Outcome::Resource,
            Outcome::UnreachableFromHere,
            Outcome::BadRequest,
            Outcome::ClientGone,
        ]),
    ]
}

fn attempt() -> impl Strategy<Value = LastAttempt> {
    let sent = prop::sample::select(vec![Sent::Nothing, Sent::Head, Sent::Body]);
    (sent, outcome(), prop::bool::weighted(0.8), pushback(), any::<bool>(), any::<bool>()).prop_map(
        |(sent, outcome, replayable, pushback, elsewhere, pushed_before)| LastAttempt {
            sent,
            outcome,
            replayable,
            pushback,
            has_other_instance: elsewhere,
            earlier_pushback: pushed_before,
            attempts: 1,
        },
    )
}

fn pushback() -> impl Strategy<Value = Option<Pushback>> {
    prop_oneof![
        4 => Just(None),
        1 => Just(Some(Pushback::Never)),
        2 => (0..1_500_u64).prop_map(|n| Some(Pushback::Call(millis(n)))),
        2 => (0..1_500_u64).prop_map(|n| Some(Pushback::Instance(millis(n)))),
    ]
}

fn request() -> impl Strategy<Value = RequestTraits> {
    (any::<bool>(), any::<bool>(), prop::bool::weighted(0.8)).prop_map(|(idempotent, safe, allowed)| {
        RequestTraits { idempotent, safe: idempotent && safe, allowed }
    })
}

fn settings() -> impl Strategy<Value = RetryPolicy> {
    (0..5_u32, 0..100_u64, 0..500_u64, prop::bool::weighted(0.2), 0..1_500_u64).prop_map(
        |(max_retries, base, max, non_idempotent, max_retry_after)| RetryPolicy {
            max_retries,
            backoff_base: millis(base),
            backoff_max: millis(max),
            non_idempotent,
            max_retry_after: millis(max_retry_after),
            ..RetryPolicy::default()
        },
    )
}

/// Another attempt could help, whether or not it is allowed.
fn could_help(settings: &RetryPolicy, outcome: Outcome) -> bool {
    match outcome {
        Outcome::Status(status) => settings.statuses.contains(&status),
        Outcome::SidecarError(_)
        | Outcome::Timeout
        | Outcome::Deadline
        | Outcome::BadRequest
        | Outcome::ClientGone => false,
        _ => true,
    }
}

proptest! {
    #[test]
    fn a_request_is_retried_exactly_when_that_is_safe_useful_in_time_and_paid_for(
        settings in settings(), request in request(), retries in 0..5_u32, tried in attempt(),
        left in 0..1_000_u64, funds in 0..3_u32, random: u64,
    ) {
        let now = origin();
        let settings = RetryPolicy { budget: affordable(funds), ..settings };
        let budget = RetryBudget::new(&settings.budget, now);
        let deadline = now + millis(left);
        let eligibility = RetryEligibility::new(&settings, request, retries, true);
        let decision = decide_retry(&eligibility, &budget, &tried, now, deadline, random);

        let sent = tried.sent != Sent::Nothing;
        let safe = !sent || request.idempotent || settings.non_idempotent;
        let refused = matches!(tried.outcome, Outcome::ConnectRefused | Outcome::ConnectFailed | Outcome::TlsFailed | Outcome::ConnectTimeout
            | Outcome::UnreachableFromHere);
        let is_uncounted = refused && !sent && tried.has_other_instance;
        let left_to_make = retries < settings.max_retries || (is_uncounted && settings.max_retries > 0);
        let allowed = request.allowed && left_to_make && tried.replayable;
        let pause = settings.backoff_base.saturating_mul(1 << retries).min(settings.backoff_max);
        let paid = u64::from(funds) - budget.available(&settings.budget, now);
        match decision {
            RetryDecision::Retry { after, uncounted } => {
                prop_assert!(safe && allowed && could_help(&settings, tried.outcome));
                prop_assert!(now + after < deadline);
                let asked = match tried.pushback {
                    Some(Pushback::Instance(wait) | Pushback::Call(wait)) => wait,
                    Some(Pushback::Never) | None => Duration::ZERO,
                };
                prop_assert!(tried.pushback != Some(Pushback::Never));
                let longest = if sent { pause + asked } else { asked };
                prop_assert!(after <= longest);
                prop_assert!(after <= settings.max_retry_after + pause);
                prop_assert_eq!(uncounted, is_uncounted);
                prop_assert_eq!(paid, u64::from(sent));
            }
            RetryDecision::GiveUp(why) => {
                prop_assert_eq!(paid, 0);
                let reason = match why {
                    GiveUp::SentUnknown => !safe,
                    GiveUp::NotRetryable => !safe || !could_help(&settings, tried.outcome),
                    GiveUp::Off => !request.allowed || settings.max_retries == 0,
                    GiveUp::Attempts => retries >= settings.max_retries,
                    GiveUp::BodyGone => !tried.replayable,
                    GiveUp::Deadline => {
                        let asked = match tried.pushback {
                            Some(Pushback::Instance(wait) | Pushback::Call(wait)) => wait,
                            Some(Pushback::Never) | None => Duration::ZERO,
                        };
                        matches!(tried.outcome, Outcome::Timeout | Outcome::Deadline)
                            || millis(left) <= pause + asked
                    }
                    GiveUp::Pushback => match tried.pushback {
                        Some(Pushback::Never) => true,
                        Some(Pushback::Call(asked)) => asked > settings.max_retry_after,
                        Some(Pushback::Instance(asked)) => {
                            asked > settings.max_retry_after && !tried.has_other_instance
                        }
                        None => false,
                    },
                    GiveUp::Budget => sent && funds == 0,
                };
                prop_assert!(reason, "{}", why.label());
            }
            RetryDecision::Done => {
                prop_assert!(matches!(tried.outcome, Outcome::Status(_) | Outcome::SidecarError(_)));
                prop_assert!(!could_help(&settings, tried.outcome));
            }
        }
    }

    #[test]
    fn a_request_that_keeps_failing_ends_within_its_attempts_and_its_deadline(
        settings in settings(), attempts in prop::collection::vec((attempt(), 0..200_u64, any::<u64>()), 10),
        request in request(), timeout in 0..2_000_u64,
    ) {
        let start = origin();
        let (mut now, deadline) = (start, start + millis(timeout));
        let settings = RetryPolicy { budget: affordable(100), ..settings };
        let budget = RetryBudget::new(&settings.budget, now);
        let mut retries = 0;
        for (tried, took, random) in attempts {
            now += millis(took);
            let eligibility = RetryEligibility::new(&settings, request, retries, true);
            match decide_retry(&eligibility, &budget, &tried, now, deadline, random) {
                RetryDecision::Retry { after, uncounted } => {
                    retries += u32::from(!uncounted);
                    now += after;
                    prop_assert!(now < deadline);
                }
                RetryDecision::Done | RetryDecision::GiveUp(_) => break,
            }
        }
        prop_assert!(retries <= settings.max_retries);
    }
}

#[test]
fn every_reason_to_give_up_has_its_own_label() {
    let words: Vec<&str> = GiveUp::ALL.iter().map(|why| why.label()).collect();
    let expected =
        ["not_retryable", "off", "attempts", "budget", "deadline", "body_gone", "pushback", "sent_unknown"];
    assert_eq!(words, expected);
}

#[test]
fn an_instance_that_asks_for_time_gets_it_unless_another_can_take_the_request() {
    // The settings allow a wait of 1 s, unless the case says otherwise. The random number is 0, so the usual pause is 0.
    let again = |after| RetryDecision::Retry { after: millis(after), uncounted: false };
    let (late, no_wait) = (give_up(GiveUp::Deadline), give_up(GiveUp::Pushback));
    let instance = |after| Some(Pushback::Instance(millis(after)));
    let call = |after| Some(Pushback::Call(millis(after)));
    let cases = [
        // pushback, another instance could take it, an earlier pushback, time left, decision
        (None, false, false, 5_000, again(0)),
        (instance(1_000), false, false, 5_000, again(1_000)),
        (instance(1_000), true, false, 5_000, again(0)),
        (instance(1_000), true, true, 5_000, again(1_000)),
        (instance(1_000), false, true, 5_000, again(1_000)),
        (instance(1_001), false, false, 60_000, no_wait),
        (instance(1_001), false, true, 60_000, no_wait),
        (instance(1_001), true, true, 60_000, again(0)),
        (instance(u64::MAX), false, false, 5_000, no_wait),
        (instance(u64::MAX), true, false, 5_000, again(0)),
        (instance(900), false, false, 800, late),
        (instance(900), true, true, 800, again(0)),
        (call(1_000), true, false, 5_000, again(1_000)),
        (call(0), false, false, 5_000, again(0)),
        (call(1_001), true, false, 60_000, no_wait),
        (call(900), true, false, 800, late),
        (Some(Pushback::Never), true, false, 5_000, no_wait),
    ];
    for (pushback, elsewhere, pushed_before, left, expected) in cases {
        let got = decide_pushed_back(&RetryPolicy::default(), pushback, elsewhere, pushed_before, left);
        assert_eq!(got, expected, "{pushback:?}, elsewhere {elsewhere}, before {pushed_before}");
    }
    let patient = RetryPolicy { max_retry_after: millis(10_000), ..RetryPolicy::default() };
    assert_eq!(decide_pushed_back(&patient, instance(10_000), false, false, 15_000), again(10_000));
    let never = RetryPolicy { max_retry_after: Duration::ZERO, ..RetryPolicy::default() };
    assert_eq!(decide_pushed_back(&never, instance(1), false, false, 5_000), no_wait);
    assert_eq!(decide_pushed_back(&never, instance(0), false, false, 5_000), again(0));
}

/// The decision after a 503 with `pushback`, with `left` milliseconds to the deadline.
fn decide_pushed_back(
    settings: &RetryPolicy,
    pushback: Option<Pushback>,
    elsewhere: bool,
    pushed_before: bool,
    left: u64,
) -> RetryDecision {
    let now = origin();
    let budget = RetryBudget::new(&settings.budget, now);
    let eligibility = RetryEligibility::new(settings, GET, 0, true);
    let tried = first_attempt(Outcome::Status(503), Sent::Head);
    let tried =
        LastAttempt { pushback, has_other_instance: elsewhere, earlier_pushback: pushed_before, ..tried };
    decide_retry(&eligibility, &budget, &tried, now, now + millis(left), 0)
}
