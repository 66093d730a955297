use super::*;

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn an_outage_is_news_once_and_so_is_its_end() {
    let start = tokio::time::Instant::now().into_std();
    let outage = OutageTracker::default();
    assert_eq!(outage.record_answer(start, start), None, "there is none");
    assert!(outage.record_failure(start));
    assert!(!outage.record_failure(start + SECOND));
    assert_eq!(outage.record_answer(start + SECOND, start + 5 * SECOND), Some(5 * SECOND));
    assert_eq!(outage.record_answer(start + SECOND, start + 6 * SECOND), None);
    assert!(outage.record_failure(start + 7 * SECOND), "another one");
}

#[test]
fn only_the_end_of_a_long_outage_is_told_to_those_who_wait() {
    for (lasted, told) in [(LONG_OUTAGE - SECOND, false), (LONG_OUTAGE, true)] {
        let start = tokio::time::Instant::now().into_std();
        let outage = OutageTracker::default();
        let over = outage.subscribe_end();
        outage.record_failure(start);
        outage.record_answer(start, start + lasted);
        assert_eq!(over.has_changed().is_ok_and(|changed| changed), told, "after {lasted:?}");
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
