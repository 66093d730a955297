//! A table of deadlines, in milliseconds after the head was accepted.

use std::time::Duration;

use outrigger_policy::deadline::{Deadline, TimeoutCause, add_saturating};

use crate::{millis, origin};

#[test]
fn each_body_byte_restarts_the_time_out_and_the_cap_stays() {
    let accepted = origin();
    let cases = [
        // time-out, cap, last body byte, ends at, by which
        (1_000, None, None, 1_000, TimeoutCause::Timeout),
        (1_000, None, Some(400), 1_400, TimeoutCause::Timeout),
        (1_000, Some(300), None, 300, TimeoutCause::Deadline),
        (1_000, Some(1_200), None, 1_000, TimeoutCause::Timeout),
        (1_000, Some(1_200), Some(400), 1_200, TimeoutCause::Deadline),
        (1_000, Some(1_000), None, 1_000, TimeoutCause::Timeout),
        (1_000, Some(0), Some(900), 0, TimeoutCause::Deadline),
    ];
    for (timeout, cap, last, at, cause) in cases {
        let deadline = Deadline::new(accepted, millis(timeout)).capped(cap.map(|cap| accepted + millis(cap)));
        let got = deadline.expires_at(last.map(|last| accepted + millis(last)));
        assert_eq!(got, (accepted + millis(at), cause), "{timeout} {cap:?} {last:?}");
    }
}

#[test]
fn a_byte_from_before_the_head_changes_nothing() {
    let accepted = origin() + millis(100);
    let deadline = Deadline::new(accepted, millis(5));
    assert_eq!(deadline.expires_at(Some(accepted - millis(50))).0, accepted + millis(5));
}

#[test]
fn of_several_caps_the_earliest_counts() {
    let accepted = origin();
    let cap = |n| Some(accepted + millis(n));
    let deadline = Deadline::new(accepted, millis(1_000)).capped(cap(300)).capped(None).capped(cap(700));
    assert_eq!(deadline.cap(), cap(300));
    assert_eq!(deadline.expires_at(None), (accepted + millis(300), TimeoutCause::Deadline));
}

#[test]
fn a_time_out_beyond_every_instant_does_not_overflow() {
    let accepted = origin();
    let (at, _) = Deadline::new(accepted, Duration::MAX).expires_at(None);
    assert!(at > accepted + Duration::from_secs(3600));
    assert_eq!(add_saturating(accepted, Duration::MAX), at);
}
