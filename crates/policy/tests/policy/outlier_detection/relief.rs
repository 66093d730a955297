//! Requests have somewhere else to go while no endpoint is healthy.

use outrigger_policy::Outcome;

use super::{BAD, GOOD, Rig, SECOND, describe};

#[test]
fn no_cap_applies_and_there_is_no_panic_mode() {
    let mut rig = Rig::new(2);
    assert!(rig.detector.set_relieved(true).is_empty());
    assert_eq!(describe(&rig.requests(0, 5, BAD)), ["ejected consecutive_failures"]);
    assert_eq!(describe(&rig.requests(1, 5, BAD)), ["ejected consecutive_failures"], "the last one");
    assert_eq!(rig.states(), "EE");
    assert!(!rig.detector.counts().panic);
    assert!(rig.update_view(&[true, true]).is_empty());
    assert_eq!(rig.states(), "EE");
}

#[test]
fn panic_mode_begins_when_the_relief_ends_and_ends_when_it_begins() {
    let mut rig = Rig::new(2);
    rig.detector.set_relieved(true);
    rig.request(0, Outcome::ConnectRefused);
    rig.requests(1, 5, BAD);
    assert_eq!(rig.states(), "EE");
    assert_eq!(describe(&rig.detector.set_relieved(false)), ["panic true"]);
    assert_eq!(rig.states(), "PP");
    assert_eq!(describe(&rig.detector.set_relieved(true)), ["panic false"]);
    assert_eq!(rig.states(), "EE");
    assert!(rig.detector.set_relieved(true).is_empty());
}

#[test]
fn they_come_back_as_without_it() {
    let mut rig = Rig::new(2);
    rig.detector.set_relieved(true);
    rig.request(0, Outcome::ConnectRefused);
    rig.requests(1, 5, BAD);
    assert_eq!(describe(&rig.advance_and_accept(SECOND)), ["returned by probe", "probation"]);
    assert_eq!(rig.states(), "TB");
    assert_eq!(describe(&rig.request(1, GOOD)), ["returned by request"]);
    // The end of the relief ejects none and brings none back.
    assert!(rig.detector.set_relieved(false).is_empty());
    assert_eq!(rig.states(), "TT");
    assert_eq!(describe(&rig.requests(0, 5, BAD)), ["ejected consecutive_failures"]);
    assert_eq!(describe(&rig.requests(1, 5, BAD)), ["spared consecutive_failures"], "the cap holds again");
}
