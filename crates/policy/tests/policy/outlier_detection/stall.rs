//! Endpoints that accept requests and answer none.

use std::time::Duration;

use outrigger_policy::outlier_detection::stall::{PeakLatency, Stall};

use super::SECOND;
use crate::{millis, origin};

#[test]
fn five_checks_without_a_response_are_a_stall_for_as_long_as_checks_go_on() {
    let now = origin();
    let stall = Stall::new(now);
    (0..4).for_each(|_| stall.record_tick(0, now));
    assert!(!stall.is_stalled(|| panic!("below the count the clock is not read")));
    stall.record_tick(0, now + SECOND);
    assert!(stall.is_stalled(|| now + SECOND + millis(599)));
    assert!(!stall.is_stalled(|| now + SECOND + millis(600)));
    stall.record_tick(0, now + 10 * SECOND);
    assert!(stall.is_stalled(|| now + 10 * SECOND));
    stall.record_response();
    assert!(!stall.is_stalled(|| now + 10 * SECOND));
}

#[test]
fn a_request_that_waits_while_others_are_answered_is_no_evidence() {
    let now = origin();
    let stall = Stall::new(now);
    let given = stall.responses();
    stall.record_response();
    (0..100).for_each(|_| stall.record_tick(given, now));
    assert!(!stall.is_stalled(|| now));
    // The requests that the endpoint got since then show that it has stopped.
    let given = stall.responses();
    (0..5).for_each(|_| stall.record_tick(given, now));
    assert!(stall.is_stalled(|| now));
}

#[test]
fn a_success_counts_for_whole_seconds() {
    let now = origin();
    let stall = Stall::new(now);
    let lately = Duration::from_secs(2);
    assert!(!stall.succeeded_within(lately, now));
    stall.record_success(now + millis(300));
    assert!(stall.succeeded_within(lately, now + millis(2_999)));
    assert!(!stall.succeeded_within(lately, now + millis(3_000)));
}

#[test]
fn one_probe_runs_at_a_time_and_none_for_a_second_after_one_that_connected() {
    let now = origin();
    let stall = Stall::new(now);
    assert!(stall.try_begin_probe(now) && !stall.try_begin_probe(now));
    stall.end_probe(false, now);
    assert!(!stall.is_unreachable(now));
    assert!(!stall.try_begin_probe(now + millis(999)));
    assert!(stall.try_begin_probe(now + SECOND));
    stall.end_probe(true, now + SECOND);
    assert!(stall.try_begin_probe(now + SECOND), "only a probe that connected is enough for a while");
}

#[test]
fn a_probe_that_could_not_connect_counts_for_a_second() {
    let now = origin() + 10 * SECOND;
    let stall = Stall::new(now);
    assert!(!stall.is_unreachable(now + SECOND));
    assert!(stall.try_begin_probe(now + 2 * SECOND));
    stall.end_probe(true, now + 2 * SECOND);
    assert!(stall.is_unreachable(now + 3 * SECOND - millis(1)));
    assert!(!stall.is_unreachable(now + 3 * SECOND));
}

#[test]
fn a_wait_is_unusual_beyond_twice_the_peak_which_decays_by_an_eighth() {
    let peak = PeakLatency::default();
    assert!(peak.is_unusual(millis(1)) && !peak.is_unusual(Duration::ZERO));
    peak.record(millis(800));
    peak.record(millis(100));
    assert!(!peak.is_unusual(millis(1_600)) && peak.is_unusual(millis(1_601)));
    peak.decay();
    assert!(!peak.is_unusual(millis(1_400)) && peak.is_unusual(millis(1_401)));
    (0..100).for_each(|_| peak.decay());
    assert!(peak.is_unusual(millis(1)));
}
