//! When an outage begins and ends.

use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn fail(outage: &OutageTracker, at: Instant) -> bool {
    outage.record_failure("refused".into(), at)
}

#[test]
fn an_outage_begins_once_and_ends_once() {
    let start = tokio::time::Instant::now().into_std();
    let outage = OutageTracker::default();
    assert_eq!(outage.record_answer(start, start), None, "there is no outage");
    assert!(fail(&outage, start));
    assert!(!fail(&outage, start + SECOND));
    assert_eq!(outage.record_answer(start + SECOND, start + 5 * SECOND), Some(5 * SECOND));
    assert_eq!(outage.record_answer(start + SECOND, start + 6 * SECOND), None);
    assert!(fail(&outage, start + 7 * SECOND), "a second outage");
}

#[test]
fn only_the_end_of_a_long_outage_notifies() {
    for (lasted, notified) in [(LONG_OUTAGE - SECOND, false), (LONG_OUTAGE, true)] {
        let start = tokio::time::Instant::now().into_std();
        let outage = OutageTracker::default();
        let end = outage.subscribe_end();
        fail(&outage, start);
        outage.record_answer(start, start + lasted);
        assert_eq!(end.has_changed().is_ok_and(|changed| changed), notified, "after {lasted:?}");
    }
}

#[test]
fn an_answer_to_an_older_question_ends_no_outage() {
    let start = tokio::time::Instant::now().into_std();
    let outage = OutageTracker::default();
    assert!(fail(&outage, start + SECOND));
    assert_eq!(outage.record_answer(start, start + 2 * SECOND), None);
    assert!(!fail(&outage, start + 2 * SECOND));
}

#[test]
fn the_last_answer_and_the_last_error_are_known() {
    let start = tokio::time::Instant::now().into_std();
    let outage = OutageTracker::default();
    let current = |at| {
        let RegistryContact { answered_ago, error } = outage.current(at);
        (answered_ago, error.is_some())
    };
    assert_eq!(current(start), (None, false));
    fail(&outage, start);
    assert_eq!(current(start + SECOND), (None, true));
    outage.record_answer(start + SECOND, start + 2 * SECOND);
    assert_eq!(current(start + 5 * SECOND), (Some(3 * SECOND), false));
    fail(&outage, start + 6 * SECOND);
    outage.record_answer(start + 5 * SECOND, start + 7 * SECOND);
    assert_eq!(current(start + 8 * SECOND), (Some(SECOND), true), "the outage goes on");
    outage.record_stale_answer(start + 9 * SECOND);
    assert_eq!(current(start + 9 * SECOND), (Some(Duration::ZERO), true), "and without a leader too");
}

fn refused(status: u16, text: &str) -> Error {
    Error::Refused { request: "GET /".into(), status, text: text.into(), hint: None }
}

#[test]
fn a_failure_is_about_the_registry_only_when_it_says_so_or_no_service_is_answered() {
    use FailureScope::{Answer, Registry, Service};
    let request = || "GET /".to_owned();
    let timeout = || Error::Timeout { request: request(), after: SECOND };
    let busy = || Error::Busy { request: request(), limit: 1, after: SECOND };
    // Error, whether it is about another datacenter, scope beside answered watches.
    let cases = [
        (refused(403, "Permission denied"), false, Some(Service)),
        (refused(403, "ACL not found"), false, Some(Registry)),
        (refused(500, "something of one service"), false, Some(Service)),
        (refused(500, "rpc error making call: No cluster leader"), false, Some(Registry)),
        (refused(500, "rpc error making call: No cluster leader"), true, Some(Service)),
        (refused(500, "No path to datacenter"), true, Some(Service)),
        (refused(429, "rate limit exceeded, try a different server"), false, Some(Service)),
        (timeout(), false, Some(Registry)),
        (timeout(), true, Some(Service)),
        (busy(), false, Some(Service)),
        (Error::ConnectionLimit { request: request(), open: 3, hint: None }, false, Some(Service)),
        (Error::TooLarge { request: request(), limit: 1 }, false, Some(Answer)),
    ];
    for (error, is_elsewhere, expected) in cases {
        let query = Query::new("orders", is_elsewhere.then(|| "dc2".into()));
        let scope = |failures, others| FailureScope::of(&error, &query, failures, others);
        assert_eq!(scope(2, OtherWatches::Answered), expected, "{error}");
        let is_certain = expected != Some(Service);
        assert_eq!(scope(1, OtherWatches::Answered), expected.filter(|_| is_certain), "{error}");
        let alone = if is_certain { expected } else { Some(Registry) };
        assert_eq!(scope(2, OtherWatches::Failing), alone, "{error}");
        assert_eq!(scope(4, OtherWatches::Pending), expected.filter(|_| is_certain), "{error}");
        assert_eq!(scope(5, OtherWatches::Pending), alone, "{error}");
        assert_eq!(scope(1, OtherWatches::None), alone, "{error}");
    }
}
