//! Endpoints that accept requests and answer none.

use std::time::Duration;

use outrigger_policy::outlier_detection::stall::{PeakLatency, Stall};

use super::SECOND;
use crate::{millis, origin};

#[test]
fn five_checks_without_a_response_are_a_stall_for_as_long_as_checks_go_on() {
    let now = origin();
    let stall = Stall::new(now);
    let mut waits = [stall.begin_wait(), stall.begin_wait()];
    (0..4).for_each(|at| stall.record_tick(&mut waits[at % 2], now));
    assert!(!stall.is_stalled(|| panic!("below the count the clock is not read")));
    stall.record_tick(&mut waits[0], now + millis(500));
    assert!(!stall.is_stalled(|| now), "the first one's further checks count as those of one alone");
    stall.record_tick(&mut waits[1], now + millis(500));
    assert!(stall.is_stalled(|| now + millis(500 + 599)));
    assert!(!stall.is_stalled(|| now + millis(500 + 600)));
    stall.record_response();
    assert!(!stall.is_stalled(|| now + millis(500)));
}

#[test]
fn one_request_that_waits_alone_is_no_evidence_and_a_second_one_is_at_once() {
    let now = origin();
    let stall = Stall::new(now);
    let (mut lone, mut other) = (stall.begin_wait(), stall.begin_wait());
    for check in 0..100 {
        stall.record_tick(&mut lone, now + check * millis(250));
        assert!(!stall.is_stalled(|| now + check * millis(250)), "after {check} checks");
    }
    let now = now + 100 * millis(250);
    stall.record_tick(&mut other, now);
    assert!(stall.is_stalled(|| now));
    // A response to either of them is news of both.
    stall.record_response();
    stall.record_tick(&mut lone, now);
    stall.record_tick(&mut other, now);
    assert!(!stall.is_stalled(|| now));
}

#[test]
fn slow_requests_that_follow_each_other_each_wait_alone() {
    let stall = Stall::new(origin());
    let mut now = origin();
    // Each is given up by its app after a while, as a long poll; the next one checks when it has waited for a second.
    for _ in 0..10 {
        let mut lone = stall.begin_wait();
        now += SECOND;
        for _ in 0..8 {
            stall.record_tick(&mut lone, now);
            assert!(!stall.is_stalled(|| now));
            now += millis(250);
        }
    }
}

#[test]
fn a_request_that_waits_while_others_are_answered_is_no_evidence() {
    let now = origin();
    let stall = Stall::new(now);
    let mut before = [stall.begin_wait(), stall.begin_wait()];
    stall.record_response();
    (0..100).for_each(|at| stall.record_tick(&mut before[at % 2], now));
    assert!(!stall.is_stalled(|| now));
    // The requests that the endpoint got since then show that it has stopped.
    let mut since = [stall.begin_wait(), stall.begin_wait()];
    (0..6).for_each(|at| stall.record_tick(&mut since[at % 2], now));
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
