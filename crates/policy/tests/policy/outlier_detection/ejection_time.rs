//! How long an endpoint is ejected, and how it returns.

use std::time::Duration;

use outrigger_config::OutlierDetection;
use outrigger_policy::{
    Outcome, Sent,
    outlier_detection::{EjectionReason, EjectionState, FailureAttribution},
};
use proptest::prelude::*;

use super::{BAD, Event, GOOD, Rig, SECOND, describe, ejection_time};
use crate::millis;

/// Ejects the first of three for its responses.
fn eject_for_answers(rig: &mut Rig) -> Vec<Event> {
    rig.requests(0, 5, BAD)
}

/// Two endpoints; the first one is on probation.
fn in_probation() -> Rig {
    let mut rig = Rig::new(2);
    eject_for_answers(&mut rig);
    assert_eq!(describe(&rig.advance_and_accept(SECOND)), ["probation"]);
    rig
}

#[test]
fn the_details_of_an_ejection_name_the_reason_the_start_and_the_end() {
    let mut rig = Rig::new(3);
    let start = rig.now;
    let told = |rig: &Rig, at: usize| {
        let ejected = rig.detector.ejection_details(&rig.stats[at])?;
        Some((ejected.reason, (ejected.since - start).as_millis(), (ejected.until - start).as_millis()))
    };
    eject_for_answers(&mut rig);
    rig.advance(millis(200));
    rig.request(1, Outcome::ConnectRefused);
    assert_eq!(told(&rig, 0), Some((EjectionReason::ConsecutiveFailures, 0, 1_000)));
    assert_eq!(told(&rig, 1), Some((EjectionReason::Unreachable, 200, 1_200)));
    assert_eq!(told(&rig, 2), None);

    rig.advance(millis(900));
    rig.report_probe(0, true);
    assert_eq!(
        told(&rig, 0),
        Some((EjectionReason::ConsecutiveFailures, 0, 1_100)),
        "in probation from when that was seen"
    );
    rig.request(0, BAD);
    assert_eq!(told(&rig, 0), Some((EjectionReason::Probation, 0, 3_100)), "since the first ejection");
    rig.advance(millis(100));
    rig.report_probe(1, false);
    assert_eq!(
        told(&rig, 1),
        Some((EjectionReason::Unreachable, 200, 3_200)),
        "a probe finds what was found before"
    );
    rig.advance(SECOND * 2);
    rig.report_probe(1, true);
    assert_eq!(told(&rig, 1), None);
    rig.request(0, GOOD);
    assert_eq!(told(&rig, 0), None);
}

#[test]
fn in_panic_mode_hard_evidence_replaces_the_reason() {
    let mut rig = Rig::new(2);
    eject_for_answers(&mut rig);
    rig.request(1, Outcome::ConnectRefused);
    assert_eq!(
        rig.detector.ejection_details(&rig.stats[0]).map(|ejected| ejected.reason),
        Some(EjectionReason::ConsecutiveFailures)
    );
    rig.request(0, Outcome::ConnectRefused);
    let ejected = rig.detector.ejection_details(&rig.stats[0]);
    assert_eq!(ejected.map(|ejected| ejected.reason), Some(EjectionReason::Unreachable));
}

#[test]
fn each_failed_probation_doubles_the_ejection_time() {
    let mut rig = Rig::new(2);
    let mut spells = vec![ejection_time(&eject_for_answers(&mut rig))];
    for _ in 0..8 {
        rig.advance_and_accept(spells[spells.len() - 1]);
        let events = rig.request(0, BAD);
        assert_eq!(describe(&events), ["ejected probation"]);
        spells.push(ejection_time(&events));
    }
    assert_eq!(spells, [1, 2, 4, 8, 16, 32, 60, 60, 60].map(Duration::from_secs));
}

#[test]
fn each_failed_probe_doubles_the_ejection_time() {
    let mut rig = Rig::new(2);
    rig.request(0, Outcome::ConnectRefused);
    for seconds in [1, 2, 4, 8, 16, 32, 60, 60] {
        let early = rig.advance(seconds * SECOND - millis(1));
        assert_eq!((early.probes.len(), early.next), (0, Some(rig.now + millis(1))));
        assert_eq!(rig.advance(millis(1)).probes.len(), 1, "after {seconds} s");
        assert!(rig.report_probe(0, false).is_empty());
    }
    assert_eq!(rig.states(), "ET");
}

#[test]
fn a_healthy_window_takes_one_doubling_back() {
    for (trusted, seconds) in [(0, 8), (9, 8), (10, 4), (29, 2), (30, 1), (1000, 1)] {
        // Three times in a row without a healthy window between.
        let mut rig = Rig::new(2);
        for _ in 0..3 {
            rig.request(0, Outcome::ConnectRefused);
            rig.advance(millis(8000));
            rig.report_probe(0, true);
        }
        rig.advance(trusted * SECOND);
        assert_eq!(ejection_time(&rig.request(0, Outcome::ConnectRefused)), seconds * SECOND, "{trusted} s");
    }
}

proptest! {
    #[test]
    fn chance_takes_up_to_a_half_away(random: u64, base in 10_u64..5000, doublings in 0_u32..12) {
        let settings = OutlierDetection { base_ejection_time: millis(base), max_ejection_time: millis(60_000), ..OutlierDetection::default() };
        let mut rig = Rig::with(2, settings);
        rig.random = random;
        let mut got = ejection_time(&eject_for_answers(&mut rig));
        for _ in 0..doublings {
            rig.advance_and_accept(got);
            got = ejection_time(&rig.request(0, BAD));
        }
        let ceiling = millis(base.saturating_mul(1 << doublings).min(60_000));
        prop_assert!(got <= ceiling && got >= ceiling / 2, "{got:?} of {ceiling:?}");
    }
}

#[test]
fn the_ejection_time_is_between_a_half_and_the_whole() {
    for (random, expected) in [(0, 1000), (u64::MAX / 2, 750), (u64::MAX, 500)] {
        let mut rig = Rig::new(2);
        rig.random = random;
        let ejection_time = ejection_time(&eject_for_answers(&mut rig));
        assert!(ejection_time.abs_diff(millis(expected)) < millis(1), "{ejection_time:?} for {random}");
    }
}

#[test]
fn one_success_on_probation_is_enough() {
    let mut rig = in_probation();
    assert_eq!(describe(&rig.request(0, GOOD)), ["returned by request"]);
    assert_eq!(rig.states(), "TT");
    // Its counts begin empty.
    rig.requests(0, 4, BAD);
    assert_eq!(rig.states(), "TT");
}

#[test]
fn one_retryable_request_at_a_time_decides_a_probation() {
    let rig = in_probation();
    let record = &rig.stats[0];
    assert!(record.admits(true) && !record.admits(false));
    assert!(record.begin_attempt(rig.settings, false).is_none());
    let _guard = record.begin_attempt(rig.settings, true).unwrap();
    assert!(!record.admits(true) && record.begin_attempt(rig.settings, true).is_none());
    assert_eq!(record.ejection_state(), EjectionState::Probation);
}

#[test]
fn an_attempt_without_evidence_frees_the_slot() {
    let mut rig = in_probation();
    let record = rig.stats[0].clone();
    drop(record.begin_attempt(rig.settings, true).unwrap());
    assert!(record.admits(true));
    for outcome in [Outcome::ClientGone, Outcome::Overloaded, Outcome::Resource] {
        assert!(rig.request(0, outcome).is_empty());
        assert!(record.admits(true), "{outcome:?}");
    }
    // A request that failed at another endpoint before says nothing about this one.
    let mut blame = FailureAttribution::default();
    rig.attempt(1, BAD, &mut blame);
    assert!(rig.attempt(0, BAD, &mut blame).is_empty());
    assert!(record.admits(true) && !record.admits(false));
}

#[test]
fn the_slot_of_an_old_probation_is_not_freed_in_a_new_one() {
    let mut rig = in_probation();
    let record = rig.stats[0].clone();
    let old = record.begin_attempt(rig.settings, true).unwrap();
    // The other endpoint fails; panic mode begins, and ends with a success of this endpoint.
    rig.request(1, Outcome::ConnectRefused);
    rig.request(0, GOOD);
    rig.requests(0, 5, BAD);
    rig.advance(SECOND);
    rig.report_probe(1, true);
    rig.requests(0, 5, BAD);
    rig.advance_and_accept(4 * SECOND);
    assert_eq!(rig.states(), "BT");
    let new = record.begin_attempt(rig.settings, true).unwrap();
    drop(old);
    assert!(!record.admits(true), "the slot of the new probation is still taken");
    drop(new);
    assert!(record.admits(true));
}

#[test]
fn without_retryable_requests_any_request_decides_after_a_while() {
    let mut rig = in_probation();
    let due = rig.detector.advance(rig.now, false);
    assert_eq!(due.next, Some(rig.now + millis(250)), "the slot is looked at");
    assert!(!rig.stats[0].admits(false));
    let due = rig.advance(SECOND);
    assert_eq!(due.next, Some(rig.now + millis(250)));
    let record = rig.stats[0].clone();
    let mark = record.begin_attempt(rig.settings, false).unwrap();
    assert!(record.begin_attempt(rig.settings, false).is_none());
    drop(mark);
    assert!(record.begin_attempt(rig.settings, false).is_some(), "still for any");
}

#[test]
fn the_slot_stays_taken_when_the_probation_opens_to_any_request() {
    let mut rig = in_probation();
    let record = rig.stats[0].clone();
    let mark = record.begin_attempt(rig.settings, true).unwrap();
    rig.advance(SECOND);
    assert!(!record.admits(true), "one at a time, still");
    let report =
        mark.record_end(rig.settings, &mut FailureAttribution::default(), GOOD, Sent::Head, rig.now).unwrap();
    assert_eq!(
        describe(&rig.detector.report(rig.settings, &record, report, rig.now, 0)),
        ["returned by request"]
    );
}

#[test]
fn a_refused_connection_on_probation_is_hard_evidence() {
    let mut rig = in_probation();
    assert_eq!(describe(&rig.request(0, Outcome::ConnectRefused)), ["ejected unreachable"]);
    let due = rig.advance(2 * SECOND);
    assert_eq!((due.probes.len(), rig.states().as_str()), (1, "ET"));
}

#[test]
fn one_that_has_died_during_an_ejection_for_responses_costs_no_request() {
    let mut rig = Rig::new(2);
    eject_for_answers(&mut rig);
    let due = rig.advance(SECOND);
    assert_eq!((rig.indexes(&due.probes), due.events.len()), (vec![0], 0));
    assert!(!rig.stats[0].admits(true), "not before it has accepted a connection");
    assert_eq!(describe(&rig.report_probe(0, false)), ["ejected unreachable"]);
    assert_eq!(rig.states(), "ET");
    assert_eq!(describe(&rig.advance_and_accept(2 * SECOND)), ["returned by probe"], "as any that refused");
}
