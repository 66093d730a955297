//! Which endpoints are probed, and when.

use outrigger_policy::Outcome;

use super::{BAD, GOOD, Rig, SECOND, describe};
use crate::millis;

const REFUSED: Outcome = Outcome::ConnectRefused;

/// `count` endpoints that all refuse connections.
fn all_down(count: usize) -> Rig {
    let mut rig = Rig::new(count);
    for at in 0..count {
        rig.request(at, REFUSED);
    }
    rig
}

#[test]
fn without_an_ejection_nothing_is_due() {
    let mut rig = Rig::new(3);
    let due = rig.detector.advance(rig.now, true);
    assert!(due.probes.is_empty() && due.events.is_empty() && due.next.is_none());
}

#[test]
fn in_panic_mode_each_endpoint_is_probed_four_times_a_second() {
    let mut rig = all_down(2);
    let mut count = 0;
    for _ in 0..40 {
        let due = rig.advance(millis(250));
        for at in rig.indexes(&due.probes) {
            count += 1;
            rig.report_probe(at, false);
        }
        assert_eq!(rig.detector.advance(rig.now, false).next, Some(rig.now + millis(250)));
    }
    assert_eq!((count, rig.states().as_str()), (80, "PP"));
}

#[test]
fn the_first_that_accepts_a_connection_returns_and_the_others_wait_their_time() {
    let mut rig = all_down(3);
    let due = rig.advance(millis(250));
    assert_eq!(rig.indexes(&due.probes), [0, 1, 2]);
    assert_eq!(describe(&rig.report_probe(1, true)), ["returned by probe", "panic false"]);
    assert_eq!(rig.states(), "ETE");
    // Probes in flight may still bring endpoints back.
    assert_eq!(describe(&rig.report_probe(0, true)), ["returned by probe"]);
    rig.report_probe(2, false);
    assert_eq!(rig.detector.advance(rig.now, false).next, Some(rig.now + millis(750)));
}

#[test]
fn one_that_was_ejected_for_its_responses_returns_by_a_connection_only_in_panic_mode() {
    let mut rig = Rig::new(2);
    rig.requests(0, 5, BAD);
    assert!(rig.report_probe(0, true).is_empty());
    assert_eq!(rig.states(), "ET");
    rig.request(1, REFUSED);
    assert_eq!(rig.states(), "PP");
    let due = rig.advance(millis(250));
    assert_eq!(rig.indexes(&due.probes), [0, 1]);
    assert_eq!(describe(&rig.report_probe(0, true)), ["returned by probe", "panic false"]);
    assert_eq!(rig.states(), "TE");
}

#[test]
fn at_most_eight_are_probed_at_once_and_each_has_its_turn() {
    let mut rig = all_down(20);
    let mut tried = [0; 20];
    for _ in 0..10 {
        rig.advance(millis(0));
        let due = rig.advance(millis(250));
        assert!(due.probes.len() <= 8);
        let mut ready = rig.indexes(&due.probes);
        while let Some(at) = ready.pop() {
            tried[at] += 1;
            rig.report_probe(at, false);
            let more = rig.detector.advance(rig.now, false);
            ready.extend(rig.indexes(&more.probes));
            assert!(ready.len() <= 8);
        }
    }
    assert!(tried.iter().all(|count| *count == 10), "{tried:?}");
}

#[test]
fn with_all_probe_slots_taken_nothing_is_due_until_one_is_free() {
    let mut rig = all_down(20);
    assert_eq!(rig.advance(millis(250)).probes.len(), 8);
    let due = rig.advance(millis(250));
    assert_eq!((due.probes.len(), due.next), (0, Some(rig.now + millis(4750))));
    rig.report_probe(0, false);
    assert_eq!(rig.detector.advance(rig.now, false).probes.len(), 1);
}

#[test]
fn a_probe_that_never_ends_is_taken_as_lost() {
    let mut rig = all_down(1);
    assert_eq!(rig.advance(millis(250)).probes.len(), 1);
    assert_eq!(rig.advance(millis(4999)).probes.len(), 0);
    assert_eq!(rig.advance(millis(1)).probes.len(), 1);
}

#[test]
fn with_the_breaker_open_unreachable_endpoints_are_probed_often() {
    let mut rig = Rig::new(4);
    rig.request(1, REFUSED);
    rig.now += millis(200);
    rig.requests(0, 5, BAD);
    rig.now += millis(50);
    assert!(rig.detector.advance(rig.now, false).probes.is_empty());
    for _ in 0..3 {
        let due = rig.detector.advance(rig.now, true);
        assert_eq!(rig.indexes(&due.probes), [1]);
        assert!(rig.report_probe(1, false).is_empty());
        rig.now += millis(250);
    }
    // The ejection time is the same as without probes.
    let due = rig.detector.advance(rig.now, false);
    assert_eq!(rig.indexes(&due.probes), [1]);
    assert_eq!(describe(&rig.report_probe(1, true)), ["returned by probe"]);
}

#[test]
fn one_that_is_not_eligible_is_neither_probed_nor_brought_back() {
    let mut rig = all_down(2);
    rig.update_view(&[true, false]);
    for _ in 0..20 {
        let due = rig.advance(SECOND);
        assert_eq!(rig.indexes(&due.probes), [0]);
        rig.report_probe(0, false);
        assert!(rig.report_probe(1, true).is_empty());
    }
    assert_eq!(rig.states(), "PE");
}

#[test]
fn after_panic_mode_endpoints_whose_time_is_over_are_probed_at_once() {
    let mut rig = all_down(2);
    for _ in 0..20 {
        rig.advance(millis(250));
        rig.report_probe(0, false);
        rig.report_probe(1, false);
    }
    rig.request(0, GOOD);
    assert_eq!(rig.states(), "TE");
    let due = rig.detector.advance(rig.now, false);
    assert_eq!(rig.indexes(&due.probes), [1]);
}
