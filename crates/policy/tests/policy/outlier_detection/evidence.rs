//! Which outcomes eject an endpoint, and how many it takes.

use outrigger_config::OutlierDetection;
use outrigger_policy::{
    Outcome, Sent,
    outlier_detection::{EjectionEvent, EjectionState, FailureAttribution, LossEvent},
};

use super::{BAD, Event, GOOD, Rig, SECOND, describe};
use crate::millis;

/// How many requests with `outcome` eject the first of three; `None`: more than a thousand.
fn requests_until_ejected(outcome: Outcome, settings: OutlierDetection) -> Option<usize> {
    let mut rig = Rig::with(3, settings);
    for sibling in [1, 2] {
        rig.requests(sibling, 30, GOOD);
    }
    (1..=1000).find(|_| {
        rig.request(0, outcome);
        rig.states() == "ETT"
    })
}

#[test]
fn each_outcome_needs_its_own_number_of_requests() {
    let rows = OutlierDetection::default();
    for (outcome, count) in [
        (Outcome::ConnectRefused, Some(1)),
        (Outcome::ConnectFailed, Some(1)),
        (Outcome::TlsFailed, Some(1)),
        (Outcome::UnreachableFromHere, Some(1)),
        (Outcome::ConnectTimeout, Some(2)),
        (Outcome::Status(502), Some(5)),
        (Outcome::Status(503), Some(5)),
        (Outcome::Status(504), Some(5)),
        (Outcome::Closed, Some(5)),
        (Outcome::ClosedMidHead, Some(5)),
        (Outcome::BadResponse, Some(5)),
        (Outcome::PerTryTimeout, Some(5)),
        (Outcome::Timeout, Some(5)),
        // By the success rate alone, from twenty requests on.
        (Outcome::Status(500), Some(20)),
        (Outcome::Status(599), Some(20)),
        (Outcome::Deadline, Some(20)),
        (Outcome::SidecarError(503), Some(20)),
        (Outcome::SidecarError(404), Some(20)),
        (Outcome::SidecarError(200), None),
        (Outcome::Status(200), None),
        (Outcome::Status(404), None),
        (Outcome::Status(429), None),
        (Outcome::Status(501), None),
        (Outcome::Status(505), None),
        (Outcome::Overloaded, None),
        (Outcome::Resource, None),
        (Outcome::BadRequest, None),
        (Outcome::ClientGone, None),
    ] {
        assert_eq!(requests_until_ejected(outcome, rows), count, "{outcome:?}");
    }
}

#[test]
fn without_rows_and_rates_only_hard_evidence_counts() {
    let settings =
        OutlierDetection { consecutive_failures: None, success_rate: None, ..OutlierDetection::default() };
    for (outcome, count) in [(BAD, None), (Outcome::Status(500), None), (Outcome::ConnectRefused, Some(1))] {
        assert_eq!(requests_until_ejected(outcome, settings), count, "{outcome:?}");
    }
    let rate = OutlierDetection { consecutive_failures: None, ..OutlierDetection::default() };
    assert_eq!(requests_until_ejected(BAD, rate), Some(20));
}

#[test]
fn a_request_that_waited_for_a_slot_counts_against_no_endpoint() {
    let rig = Rig::new(3);
    for _ in 0..100 {
        for outcome in [Outcome::Timeout, Outcome::Deadline, Outcome::PerTryTimeout] {
            let mark = rig.stats[0].begin_attempt(rig.settings, true).unwrap();
            assert_eq!(
                mark.record_end(
                    rig.settings,
                    &mut FailureAttribution::default(),
                    outcome,
                    Sent::Nothing,
                    rig.now
                ),
                None
            );
        }
    }
    assert_eq!(rig.stats[0].ejection_state(), EjectionState::Healthy);
}

#[test]
fn an_instance_with_a_part_of_the_time_out_is_not_treated_as_one_with_all_of_it() {
    for (before, late, states) in [(false, false, "ET"), (true, false, "TT"), (false, true, "TT")] {
        let mut rig = Rig::new(2);
        for _ in 0..5 {
            let mut blame = FailureAttribution::default();
            if before {
                rig.attempt(1, Outcome::Resource, &mut blame);
            }
            if late {
                blame.mark_delayed();
            }
            rig.attempt(0, Outcome::Timeout, &mut blame);
        }
        assert_eq!(rig.states(), states, "another attempt before: {before}, got it late: {late}");
    }
}

/// One response with a good head and a complete or a cut body.
fn answer_with_body(rig: &mut Rig, at: usize, cut: bool) -> Vec<Event> {
    let record = rig.stats[at].clone();
    let mark = record.begin_attempt(rig.settings, true).unwrap();
    let mut blame = FailureAttribution::default();
    let (report, began) = mark.record_head(rig.settings, &mut blame, GOOD, Sent::Head, rig.now);
    assert_eq!(report, None);
    let began = began.unwrap();
    if !cut {
        record.record_body_end(began, rig.now);
        return Vec::new();
    }
    let report = record.record_body_cut(rig.settings, began, &mut blame, SECOND, rig.now);
    report.map(|report| rig.detector.report(rig.settings, &record, report, rig.now, 0)).unwrap_or_default()
}

#[test]
fn five_cut_bodies_in_a_row_eject_an_endpoint_and_a_complete_one_ends_the_row() {
    let mut rig = Rig::new(2);
    for _ in 0..4 {
        answer_with_body(&mut rig, 0, true);
    }
    answer_with_body(&mut rig, 0, false);
    for _ in 0..4 {
        answer_with_body(&mut rig, 0, true);
    }
    assert_eq!(rig.states(), "TT");
    answer_with_body(&mut rig, 0, true);
    assert_eq!(rig.states(), "ET");
}

#[test]
fn a_body_that_flowed_for_a_whole_window_is_not_counted_when_it_is_cut() {
    for (flowed, states) in [(millis(9_999), "ETT"), (10 * SECOND, "TTT"), (3600 * SECOND, "TTT")] {
        let mut rig = Rig::new(3);
        for sibling in [1, 2] {
            rig.requests(sibling, 30, GOOD);
        }
        let record = rig.stats[0].clone();
        for _ in 0..100 {
            let mark = record.begin_attempt(rig.settings, true).unwrap();
            let mut blame = FailureAttribution::default();
            let (_, began) = mark.record_head(rig.settings, &mut blame, GOOD, Sent::Head, rig.now);
            let Some(began) = began else { break };
            if let Some(report) = record.record_body_cut(rig.settings, began, &mut blame, flowed, rig.now) {
                rig.detector.report(rig.settings, &record, report, rig.now, 0);
            }
        }
        assert_eq!(rig.states(), states, "{flowed:?}");
    }
}

#[test]
fn what_an_instance_loses_at_one_moment_is_one_event() {
    let start = crate::origin();
    let losses = LossEvent::new(start);
    let at = |time| start + millis(time);
    assert!(!losses.record(at(0), at(5_000)), "the first loss");
    assert!(losses.record(at(4_999), at(5_000)) && losses.record(at(0), at(5_999)), "of the same event");
    assert!(!losses.record(at(0), at(6_000)), "a second later");
    assert!(!losses.record(at(6_001), at(6_100)), "a request from after the event");
    assert!(losses.record(at(6_001), at(6_200)));
    // A service that closes each connection by itself, one request after the other.
    let counted = (10..20).filter(|nth| !losses.record(at(nth * 1_000 + 1), at(nth * 1_000 + 20))).count();
    assert_eq!(counted, 10);
}

#[test]
fn a_cut_body_and_a_gateway_status_are_one_row() {
    let mut rig = Rig::new(2);
    for _ in 0..2 {
        answer_with_body(&mut rig, 0, true);
        rig.request(0, BAD);
    }
    assert_eq!(rig.states(), "TT");
    answer_with_body(&mut rig, 0, true);
    assert_eq!(rig.states(), "ET");
}

#[test]
fn the_body_of_a_bad_response_is_not_counted() {
    for outcome in [BAD, Outcome::Status(500), Outcome::SidecarError(503)] {
        let rig = Rig::new(2);
        let mark = rig.stats[0].begin_attempt(rig.settings, true).unwrap();
        assert!(
            mark.record_head(rig.settings, &mut FailureAttribution::default(), outcome, Sent::Head, rig.now)
                .1
                .is_none(),
            "{outcome:?}"
        );
    }
}

#[test]
fn a_body_that_is_cut_after_the_ejection_is_not_counted() {
    let mut rig = Rig::new(2);
    let record = rig.stats[0].clone();
    let begun: Vec<_> = (0..5)
        .map(|_| {
            let mark = record.begin_attempt(rig.settings, true).unwrap();
            mark.record_head(rig.settings, &mut FailureAttribution::default(), GOOD, Sent::Head, rig.now)
                .1
                .unwrap()
        })
        .collect();
    rig.requests(0, 5, BAD);
    rig.advance(2 * SECOND);
    rig.request(0, GOOD);
    assert_eq!(rig.states(), "TT");
    for began in begun {
        assert_eq!(
            record.record_body_cut(rig.settings, began, &mut FailureAttribution::default(), SECOND, rig.now),
            None
        );
    }
    rig.requests(0, 4, BAD);
    assert_eq!(rig.states(), "TT", "what was cut before counts in no later row");
}

#[test]
fn a_success_ends_a_row() {
    let mut rig = Rig::new(2);
    for _ in 0..10 {
        rig.requests(0, 4, BAD);
        rig.request(0, GOOD);
    }
    assert_eq!(rig.states(), "TT");
    rig.requests(0, 5, BAD);
    assert_eq!(rig.states(), "ET");
}

#[test]
fn only_a_response_separates_two_connect_time_outs() {
    for (between, states) in [
        (BAD, "TT"),
        (GOOD, "TT"),
        (Outcome::PerTryTimeout, "ET"),
        (Outcome::Closed, "ET"),
        (Outcome::Resource, "ET"),
    ] {
        let mut rig = Rig::new(2);
        rig.request(0, Outcome::ConnectTimeout);
        rig.request(0, between);
        rig.request(0, Outcome::ConnectTimeout);
        assert_eq!(rig.states(), states, "{between:?}");
    }
}

#[test]
fn a_request_that_no_instance_can_answer_counts_against_the_first_one() {
    let mut rig = Rig::new(3);
    for at in 0..3 {
        rig.requests(at, 4, BAD);
    }
    let mut blame = FailureAttribution::default();
    for at in [0, 1, 2, 1, 2] {
        rig.attempt(at, BAD, &mut blame);
    }
    assert_eq!(rig.states(), "ETT");
    // Repeated at one endpoint it is also one failure.
    let mut rig = Rig::new(2);
    let mut blame = FailureAttribution::default();
    for _ in 0..10 {
        rig.attempt(0, BAD, &mut blame);
    }
    assert_eq!(rig.states(), "TT");
}

#[test]
fn a_refused_connection_counts_after_any_other_failure() {
    let mut rig = Rig::new(3);
    let mut blame = FailureAttribution::default();
    for (at, outcome) in [(0, BAD), (1, Outcome::ConnectRefused)] {
        rig.attempt(at, outcome, &mut blame);
    }
    assert_eq!(rig.states(), "TET");
    // It is not the request's one attributed failure.
    let mut blame = FailureAttribution::default();
    rig.requests(0, 3, BAD);
    rig.attempt(2, Outcome::ConnectTimeout, &mut blame);
    rig.attempt(0, BAD, &mut blame);
    assert_eq!(rig.states(), "EET");
}

#[test]
fn an_attempt_from_before_the_ejection_is_not_counted_after_it() {
    let mut rig = Rig::new(2);
    let record = rig.stats[0].clone();
    let late: Vec<_> = (0..2).map(|_| record.begin_attempt(rig.settings, true).unwrap()).collect();
    rig.request(0, Outcome::ConnectRefused);
    for (mark, outcome) in late.into_iter().zip([GOOD, Outcome::ConnectRefused]) {
        assert_eq!(
            mark.record_end(rig.settings, &mut FailureAttribution::default(), outcome, Sent::Head, rig.now),
            None,
            "{outcome:?}"
        );
    }
    assert_eq!(rig.states(), "ET");
}

#[test]
fn a_late_report_changes_nothing() {
    let mut rig = Rig::new(2);
    let record = rig.stats[0].clone();
    let refused = |rig: &Rig| {
        let mark = record.begin_attempt(rig.settings, true).unwrap();
        mark.record_end(
            rig.settings,
            &mut FailureAttribution::default(),
            Outcome::ConnectRefused,
            Sent::Nothing,
            rig.now,
        )
        .unwrap()
    };
    let (first, second) = (refused(&rig), refused(&rig));
    assert_eq!(rig.detector.report(rig.settings, &record, first, rig.now, 0).len(), 1);
    rig.advance(SECOND);
    rig.report_probe(0, true);
    assert!(rig.detector.report(rig.settings, &record, second, rig.now, 0).is_empty());
    assert_eq!(rig.states(), "TT");
}

/// The state of the first endpoint after each one has had its good and bad responses, in turn.
fn state_after_answers(answers: &[(usize, usize)]) -> char {
    let mut rig = Rig::with(
        answers.len(),
        OutlierDetection { consecutive_failures: None, ..OutlierDetection::default() },
    );
    for (at, (good, bad)) in answers.iter().enumerate().rev() {
        rig.requests(at, *good, GOOD);
        rig.requests(at, *bad, BAD);
    }
    rig.states().chars().next().unwrap()
}

#[test]
fn a_rate_is_low_only_by_comparison_with_siblings() {
    for (answers, states, what) in [
        (&[(10, 20), (30, 0), (30, 0)][..], 'E', "33 % beside 100 %"),
        (&[(0, 20), (20, 0)], 'E', "of two, one fails all and the other none"),
        (&[(10, 12), (22, 0)], 'E', "of two, one fails more than half"),
        (&[(48, 32), (80, 0)], 'E', "of two, 40 points below"),
        (&[(60, 40), (90, 10)], 'E', "of two, 30 points below, with many requests"),
        (&[(12, 12), (20, 4)], 'T', "of two, 33 points below, with few requests: by chance"),
        (&[(60, 40), (80, 20)], 'T', "of two, 20 points below"),
        (&[(0, 40), (0, 40)], 'T', "of two, both fail all"),
        (&[(10, 20), (10, 0)], 'T', "of two, the other one has too few requests"),
        (&[(10, 20)], 'T', "alone"),
        (&[(10, 20), (30, 0), (10, 0)], 'E', "of three, one has too few requests"),
        (&[(16, 4), (30, 0), (30, 0)], 'T', "80 % is enough"),
        (&[(60, 40), (80, 20), (80, 20)], 'T', "20 points below"),
        (&[(60, 40), (90, 10), (90, 10)], 'E', "30 points below"),
        (&[(60, 40), (100, 0), (100, 0), (70, 30), (70, 30)], 'T', "of an even number, their middle"),
        (&[(54, 48), (100, 0), (100, 0), (70, 30), (70, 30)], 'E', "of an even number, their middle"),
        (&[(5, 10), (30, 0), (30, 0)], 'T', "too few requests"),
    ] {
        assert_eq!(state_after_answers(answers), states, "{what}: {answers:?}");
    }
}

#[test]
fn a_rate_covers_the_window_only() {
    let mut rig =
        Rig::with(3, OutlierDetection { consecutive_failures: None, ..OutlierDetection::default() });
    rig.requests(0, 19, BAD);
    rig.advance(11 * SECOND);
    for at in [1, 2, 0] {
        rig.requests(at, 30, GOOD);
    }
    // 11 of 41; with the 19 before it would be a half.
    rig.requests(0, 7, BAD);
    assert_eq!(rig.states(), "TTT");
    rig.requests(0, 13, BAD);
    assert_eq!(rig.states(), "ETT");
}

#[test]
fn one_that_answers_500_is_ejected_within_a_hundred_of_its_requests() {
    for pause in [0, 5, 100] {
        let mut rig = Rig::new(3);
        let mut own = 0;
        while rig.states() == "TTT" && own < 1000 {
            own += 1;
            rig.request(0, Outcome::Status(500));
            rig.request(1, GOOD);
            rig.request(2, GOOD);
            rig.advance(millis(pause));
        }
        assert!(own <= 24, "{own} with {pause} ms between");
    }
}

#[test]
fn errors_of_a_sidecar_further_down_that_all_instances_pass_on_eject_none() {
    let mut rig = Rig::new(3);
    for _ in 0..100 {
        for at in 0..3 {
            rig.request(at, Outcome::SidecarError(503));
            rig.request(at, GOOD);
        }
    }
    assert_eq!(rig.states(), "TTT");
}

#[test]
fn of_two_instances_the_one_that_passes_on_errors_of_a_sidecar_behind_it_is_ejected() {
    for outcome in
        [Outcome::SidecarError(503), Outcome::SidecarError(404), Outcome::Status(500), Outcome::Deadline]
    {
        let mut rig = Rig::new(2);
        let mut own = 0;
        while rig.states() == "TT" && own < 1000 {
            own += 1;
            rig.request(0, outcome);
            rig.request(1, GOOD);
        }
        assert_eq!(rig.states(), "ET", "{outcome:?}");
        assert!(own <= 24, "{outcome:?}: {own}");
    }
}

#[test]
fn of_two_instances_that_fail_equally_often_neither_is_ejected() {
    let mut random = fastrand::Rng::with_seed(7);
    let mut rig = Rig::new(2);
    let mut ejected = 0;
    for _ in 0..2_000 {
        for at in [0, 1] {
            let outcome = if random.bool() { Outcome::Status(500) } else { GOOD };
            ejected += usize::from(!rig.request(at, outcome).is_empty());
        }
        rig.advance(millis(10));
    }
    assert_eq!(ejected, 0);
}

#[test]
fn an_error_of_a_sidecar_further_down_fails_a_probation_and_is_in_no_row() {
    let mut rig = Rig::new(2);
    rig.requests(0, 4, BAD);
    rig.requests(0, 10, Outcome::SidecarError(502));
    assert_eq!(rig.states(), "TT", "ten errors in a row, and none to compare them with");
    rig.request(0, BAD);
    assert_eq!(rig.states(), "ET", "nor do they end a row");
    rig.advance_and_accept(SECOND);
    assert_eq!(rig.states(), "BT");
    assert_eq!(describe(&rig.request(0, Outcome::SidecarError(502))), ["ejected probation"]);
}

#[test]
fn the_cap_prevents_an_ejection_and_reports_it() {
    let mut rig = Rig::new(2);
    rig.requests(0, 5, BAD);
    let events = rig.requests(1, 12, BAD);
    assert_eq!(describe(&events), ["spared consecutive_failures", "spared consecutive_failures"]);
    assert_eq!(rig.states(), "ET");
}

#[test]
fn a_larger_cap_may_lead_to_panic_mode_which_leaves_an_endpoint_to_choose() {
    let mut rig =
        Rig::with(2, OutlierDetection { max_ejection_percent: 100.0, ..OutlierDetection::default() });
    rig.requests(0, 5, BAD);
    let events = rig.requests(1, 5, BAD);
    assert_eq!(describe(&events), ["ejected consecutive_failures", "panic true"]);
    assert_eq!(rig.states(), "PP");
}

#[test]
fn a_cap_of_zero_prevents_every_ejection_for_responses() {
    let mut rig =
        Rig::with(10, OutlierDetection { max_ejection_percent: 0.0, ..OutlierDetection::default() });
    assert!(rig.requests(0, 5, BAD).iter().all(|event| matches!(event, EjectionEvent::CapReached { .. })));
    rig.request(0, Outcome::ConnectRefused);
    assert_eq!(rig.states(), "ETTTTTTTTT");
}
