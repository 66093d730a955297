//! Endpoints that may be chosen only while no endpoint in service is healthy.

use outrigger_policy::{Outcome, outlier_detection::Eligibility};

use super::{BAD, GOOD, Rig, SECOND, describe};
use crate::millis;

const SERVING: Eligibility = Eligibility::InService;
const LAST: Eligibility = Eligibility::LastResort;
const OUT: Eligibility = Eligibility::OutOfService;

fn rig_of(members: &[Eligibility]) -> Rig {
    let mut rig = Rig::new(members.len());
    assert!(rig.set_eligibility(members.iter().copied()).is_empty());
    assert!(rig.detector.advance(rig.now, false).events.is_empty());
    rig
}

#[test]
fn beside_endpoints_in_service_they_count_for_nothing() {
    let mut rig = rig_of(&[SERVING, LAST, LAST, LAST]);
    rig.requests(0, 5, BAD);
    assert_eq!(rig.states(), "TTTT", "the only endpoint in service is not ejected for its responses");
    assert_eq!(rig.detector.counts().healthy, 1);
    rig.request(0, Outcome::ConnectRefused);
    assert_eq!(rig.states(), "PTTT", "none in service is healthy");
}

#[test]
fn one_that_refuses_is_ejected_and_comes_back_by_a_probe() {
    for members in [[LAST, LAST], [SERVING, LAST]] {
        let mut rig = rig_of(&members);
        rig.request(1, Outcome::ConnectRefused);
        assert_eq!(rig.states(), "TE", "{members:?}");
        assert_eq!(describe(&rig.advance_and_accept(2 * SECOND)), ["returned by probe"], "{members:?}");
        assert_eq!(rig.states(), "TT", "{members:?}");
    }
    let mut rig = rig_of(&[SERVING, OUT]);
    rig.request(1, Outcome::ConnectRefused);
    assert!(rig.advance_and_accept(2 * SECOND).is_empty());
    assert_eq!(rig.states(), "TE", "one that is not in service stays out");
}

#[test]
fn where_none_is_in_service_they_count_and_panic_spares_those_that_accept_no_connections() {
    let mut rig = rig_of(&[LAST, LAST, OUT]);
    rig.requests(0, 5, BAD);
    assert_eq!(rig.states(), "ETT");
    rig.requests(1, 5, BAD);
    assert_eq!(rig.states(), "ETT", "half of them stay");
    let events = rig.request(1, Outcome::ConnectRefused);
    assert_eq!(describe(&events).last().map(String::as_str), Some("panic true"));
    assert_eq!(rig.states(), "PET", "what answers may be chosen, what refuses may not");
    assert_eq!(describe(&rig.request(0, GOOD)), ["returned by request", "panic false"]);
    assert_eq!(rig.states(), "TET");
}

#[test]
fn one_that_comes_into_service_is_chosen_again_in_panic_mode() {
    let mut rig = rig_of(&[LAST]);
    rig.request(0, Outcome::ConnectRefused);
    assert_eq!(rig.states(), "E");
    rig.update_view(&[true]);
    assert_eq!(rig.states(), "P");
    rig.set_eligibility([LAST]);
    assert_eq!(rig.states(), "P", "while the old View is there, it has an endpoint to choose");
    rig.detector.advance(rig.now, false);
    assert_eq!(rig.states(), "E");
}

#[test]
fn the_last_of_them_is_probed_often_and_less_often_after_a_while() {
    let mut rig = rig_of(&[LAST]);
    rig.request(0, Outcome::ConnectRefused);
    let probes = |rig: &mut Rig, seconds: u64| {
        let mut count = 0;
        for _ in 0..seconds * 20 {
            for at in {
                let due = rig.advance(millis(50));
                rig.indexes(&due.probes)
            } {
                count += 1;
                assert!(rig.report_probe(at, false).is_empty());
            }
        }
        count
    };
    assert_eq!(probes(&mut rig, 2), 8, "every 250 ms");
    probes(&mut rig, 58);
    assert!((6..=9).contains(&probes(&mut rig, 60)), "an eighth of the time that it is out");
    probes(&mut rig, 3600);
    assert_eq!(probes(&mut rig, 60), 6, "every 10 s");
    assert_eq!(describe(&rig.advance_and_accept(10 * SECOND)), ["returned by probe", "panic false"]);
}
