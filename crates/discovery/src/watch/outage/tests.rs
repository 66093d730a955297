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
