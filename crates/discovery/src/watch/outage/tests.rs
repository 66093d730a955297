//! When an outage begins and ends.

use super::*;

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn an_outage_begins_once_and_ends_once() {
    let start = tokio::time::Instant::now().into_std();
    let outage = OutageTracker::default();
    assert_eq!(outage.record_answer(start, start), None, "there is no outage");
    assert!(outage.record_failure(start));
    assert!(!outage.record_failure(start + SECOND));
    assert_eq!(outage.record_answer(start + SECOND, start + 5 * SECOND), Some(5 * SECOND));
    assert_eq!(outage.record_answer(start + SECOND, start + 6 * SECOND), None);
    assert!(outage.record_failure(start + 7 * SECOND), "a second outage");
}

#[test]
fn only_the_end_of_a_long_outage_notifies() {
    for (lasted, notified) in [(LONG_OUTAGE - SECOND, false), (LONG_OUTAGE, true)] {
        let start = tokio::time::Instant::now().into_std();
        let outage = OutageTracker::default();
        let end = outage.subscribe_end();
        outage.record_failure(start);
        outage.record_answer(start, start + lasted);
        assert_eq!(end.has_changed().is_ok_and(|changed| changed), notified, "after {lasted:?}");
    }
}

#[test]
fn an_answer_to_an_older_question_ends_no_outage() {
    let start = tokio::time::Instant::now().into_std();
    let outage = OutageTracker::default();
    assert!(outage.record_failure(start + SECOND));
    assert_eq!(outage.record_answer(start, start + 2 * SECOND), None);
    assert!(!outage.record_failure(start + 2 * SECOND));
}
