//! Requests that hold the slot of a probation without a verdict: a slow upload, a long poll, a stream.

use std::sync::Arc;

use outrigger_policy::{
    Outcome, Sent,
    outlier_detection::{AttemptGuard, EndpointStats, FailureAttribution},
};

use super::{BAD, Event, GOOD, Rig, SECOND, describe};
use crate::millis;

/// The first of two is on probation; an ejection time is three seconds, so that any request decides late.
fn in_probation() -> Rig {
    let mut rig = Rig::with(
        2,
        outrigger_config::OutlierDetection {
            base_ejection_time: 3 * SECOND,
            ..outrigger_config::OutlierDetection::default()
        },
    );
    rig.requests(0, 5, BAD);
    rig.advance_and_accept(3 * SECOND);
    assert_eq!(rig.states(), "BT");
    rig
}

type Guard = AttemptGuard<Arc<EndpointStats>>;

fn begin(rig: &Rig) -> Option<Guard> {
    AttemptGuard::begin(rig.stats[0].clone(), rig.settings, true)
}

fn end(rig: &mut Rig, guard: Guard, outcome: Outcome) -> Vec<Event> {
    let record = rig.stats[0].clone();
    let blame = &mut FailureAttribution::default();
    let report = guard.record_end(rig.settings, blame, outcome, Sent::Head, rig.now);
    report.map(|report| rig.detector.report(rig.settings, &record, report, rig.now, 0)).unwrap_or_default()
}

/// Lets time pass in the steps that the detector asks for. Returns the milliseconds until a request may
/// take the slot again; `None`: not within `most`.
fn until_free(rig: &mut Rig, most: u32) -> Option<u32> {
    let mut waited = 0;
    while !rig.stats[0].admits(true) {
        if waited >= most {
            return None;
        }
        let next = rig.detector.advance(rig.now, false).next;
        assert!(next.is_some_and(|next| next <= rig.now + millis(250)), "{next:?}");
        rig.advance(millis(50));
        waited += 50;
    }
    Some(waited)
}

#[test]
fn the_slot_passes_on_to_the_next_request_which_decides() {
    for late in [GOOD, BAD, Outcome::ConnectRefused, Outcome::ClientGone] {
        let mut rig = in_probation();
        let upload = begin(&rig).unwrap();
        assert!((1000..=1500).contains(&until_free(&mut rig, 10_000).unwrap()));
        assert_eq!(describe(&rig.request(0, GOOD)), ["returned by request"]);
        // The late verdict belongs to a probation that has ended.
        assert!(end(&mut rig, upload, late).is_empty(), "{late:?}");
        assert_eq!(rig.states(), "TT");
        rig.requests(0, 4, BAD);
        assert_eq!(rig.states(), "TT", "{late:?} counts in no row");
    }
}

#[test]
fn a_late_verdict_of_an_earlier_probation_decides_no_later_one() {
    for late in [GOOD, BAD, Outcome::ConnectRefused] {
        let mut rig = in_probation();
        let upload = begin(&rig).unwrap();
        until_free(&mut rig, 10_000).unwrap();
        assert_eq!(describe(&rig.request(0, BAD)), ["ejected probation"]);
        rig.advance_and_accept(6 * SECOND);
        assert_eq!(rig.states(), "BT");
        let second = begin(&rig).unwrap();
        assert!(end(&mut rig, upload, late).is_empty(), "{late:?}");
        assert!(rig.states() == "BT" && begin(&rig).is_none(), "{late:?}");
        assert_eq!(describe(&end(&mut rig, second, GOOD)), ["returned by request"]);
    }
}

#[test]
fn while_no_other_request_has_decided_a_late_verdict_does() {
    for (late, event, states) in [(GOOD, "returned by request", "TT"), (BAD, "ejected probation", "ET")] {
        let mut rig = in_probation();
        let first = begin(&rig).unwrap();
        until_free(&mut rig, 10_000).unwrap();
        let second = begin(&rig).unwrap();
        assert_eq!(describe(&end(&mut rig, first, late)), [event]);
        assert_eq!(rig.states(), states);
        // And then that of the other one is the late one.
        assert!(end(&mut rig, second, if late == GOOD { BAD } else { GOOD }).is_empty());
        assert_eq!(rig.states(), states);
    }
}

#[test]
fn each_further_time_is_twice_as_long() {
    let mut rig = in_probation();
    let mut silent = vec![];
    for seconds in [1, 2, 4, 8, 16, 16] {
        silent.push(begin(&rig).unwrap());
        let waited = until_free(&mut rig, 60_000).unwrap();
        assert!((seconds * 1000..=seconds * 1000 + 500).contains(&waited), "{waited} ms of {seconds} s");
    }
}

#[test]
fn requests_that_end_without_a_verdict_each_have_the_whole_time() {
    let mut rig = in_probation();
    for _ in 0..10 {
        let gone = begin(&rig).unwrap();
        assert_eq!(until_free(&mut rig, 900), None);
        drop(gone);
        assert!(rig.stats[0].admits(true));
    }
}

#[test]
fn one_that_has_lost_its_slot_frees_no_other_one() {
    let mut rig = in_probation();
    let lost = begin(&rig).unwrap();
    until_free(&mut rig, 10_000).unwrap();
    let _second = begin(&rig).unwrap();
    drop(lost);
    assert!(begin(&rig).is_none());
}

#[test]
fn a_slot_that_passes_on_is_for_the_same_requests_as_before() {
    let mut rig = in_probation();
    let _first = begin(&rig).unwrap();
    until_free(&mut rig, 10_000).unwrap();
    assert!(!rig.stats[0].admits(false), "a retry must be allowed");
    let _second = begin(&rig).unwrap();
    until_free(&mut rig, 10_000).unwrap();
    assert!(rig.stats[0].admits(false), "three seconds are over");
}

#[test]
fn in_panic_mode_no_slot_is_held_and_a_late_success_ends_it() {
    let mut rig = in_probation();
    let upload = begin(&rig).unwrap();
    rig.request(1, Outcome::ConnectRefused);
    assert_eq!(rig.states(), "PP");
    rig.advance(5 * SECOND);
    assert_eq!(describe(&end(&mut rig, upload, GOOD)), ["returned by request", "panic false"]);
    assert_eq!(rig.states(), "TE");
}
