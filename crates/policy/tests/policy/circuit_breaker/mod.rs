//! The breaker's states, in single steps and against a model that keeps every event.

mod model;
mod slots;

use std::{
    sync::Barrier,
    thread,
    time::{Duration, Instant},
};

use crate::{millis, origin};
use outrigger_config::CircuitBreaker;
use outrigger_policy::{
    Breaker, Verdict,
    circuit_breaker::{BreakerChange, BreakerOpen, BreakerState, Permit},
};

const SECOND: Duration = Duration::from_secs(1);

/// A breaker with the settings of its next calls.
struct TestBreaker {
    breaker: Breaker,
    settings: Option<CircuitBreaker>,
}

impl TestBreaker {
    fn new(settings: Option<&CircuitBreaker>, now: Instant) -> Self {
        Self { breaker: Breaker::new(now), settings: settings.copied() }
    }

    fn admit(&self, now: Instant) -> Result<Permit<'_>, BreakerOpen> {
        self.breaker.admit(self.settings.as_ref(), now)
    }

    fn state(&self, now: Instant) -> BreakerState {
        self.breaker.state(self.settings.as_ref(), now)
    }

    fn trips(&self) -> u64 {
        self.breaker.trips()
    }

    fn half_open(&self) {
        self.breaker.half_open();
    }

    fn half_open_for_new_endpoint(&self) {
        self.breaker.half_open_for_new_endpoint();
    }
}

/// Admits and ends `count` requests.
fn run_requests(breaker: &TestBreaker, now: Instant, count: u32, verdict: Verdict) {
    for _ in 0..count {
        breaker.admit(now).unwrap().record(now, verdict);
    }
}

/// A breaker with default settings that opened at the moment returned.
fn open_breaker() -> (TestBreaker, Instant) {
    open_breaker_with(CircuitBreaker::default())
}

fn open_breaker_with(settings: CircuitBreaker) -> (TestBreaker, Instant) {
    let now = origin();
    let breaker = TestBreaker::new(Some(&settings), now);
    run_requests(&breaker, now, settings.min_requests, Verdict::Failure);
    assert_eq!(breaker.state(now), BreakerState::Open);
    (breaker, now)
}

#[test]
fn half_of_twenty_requests_open_it() {
    let now = origin();
    let breaker = TestBreaker::new(Some(&CircuitBreaker::default()), now);
    run_requests(&breaker, now, 10, Verdict::Success);
    run_requests(&breaker, now, 9, Verdict::Failure);
    assert_eq!((breaker.state(now), breaker.trips()), (BreakerState::Closed, 0));
    run_requests(&breaker, now, 1, Verdict::Failure);
    assert_eq!((breaker.state(now), breaker.trips()), (BreakerState::Open, 1));
    assert_eq!(breaker.admit(now + millis(300)).unwrap_err(), BreakerOpen { retry_after: millis(700) });
}

#[test]
fn a_refusal_is_told_as_an_admission_meets_it_and_takes_no_slot() {
    let (breaker, now) = open_breaker();
    let told = |now| breaker.breaker.refusal(breaker.settings.as_ref(), now);
    assert_eq!(told(now + millis(300)), Some(millis(700)));
    let later = now + SECOND;
    assert_eq!((told(later), told(later)), (None, None), "no slot is taken");
    let probe = breaker.admit(later).unwrap();
    let refused = breaker.admit(later).unwrap_err();
    assert_eq!(told(later), Some(refused.retry_after), "the only slot is held");
    probe.record(later, Verdict::Success);
    assert_eq!((told(later), breaker.state(later)), (None, BreakerState::Closed));
    assert_eq!(breaker.breaker.refusal(None, later), None);
}

#[test]
fn a_result_that_is_no_evidence_is_not_counted() {
    let now = origin();
    let breaker = TestBreaker::new(Some(&CircuitBreaker::default()), now);
    run_requests(&breaker, now, 19, Verdict::Failure);
    run_requests(&breaker, now, 100, Verdict::Ignore);
    drop(breaker.admit(now).unwrap());
    assert_eq!(breaker.state(now), BreakerState::Closed);
}

#[test]
fn failures_expire_after_the_window() {
    let now = origin();
    let breaker = TestBreaker::new(Some(&CircuitBreaker::default()), now);
    run_requests(&breaker, now, 19, Verdict::Failure);
    run_requests(&breaker, now + 10 * SECOND, 19, Verdict::Failure);
    assert_eq!(breaker.state(now + 10 * SECOND), BreakerState::Closed);
    run_requests(&breaker, now + 19 * SECOND, 1, Verdict::Failure);
    assert_eq!(breaker.state(now + 19 * SECOND), BreakerState::Open);
}

#[test]
fn consecutive_failures_count_only_when_configured() {
    let settings = CircuitBreaker { consecutive_failures: Some(3), ..CircuitBreaker::default() };
    let now = origin();
    let breaker = TestBreaker::new(Some(&settings), now);
    run_requests(&breaker, now, 2, Verdict::Failure);
    run_requests(&breaker, now, 1, Verdict::Success);
    run_requests(&breaker, now, 2, Verdict::Failure);
    assert_eq!(breaker.state(now), BreakerState::Closed);
    run_requests(&breaker, now, 1, Verdict::Failure);
    assert_eq!(breaker.state(now), BreakerState::Open);
}

#[test]
fn one_good_probe_closes_it_and_clears_the_window() {
    let (breaker, now) = open_breaker();
    let now = now + SECOND;
    assert_eq!(breaker.state(now), BreakerState::HalfOpen);
    let probe = breaker.admit(now).unwrap();
    assert!(probe.is_probe());
    assert_eq!(breaker.admit(now).unwrap_err().retry_after, SECOND);
    probe.record(now, Verdict::Success);
    assert_eq!(breaker.state(now), BreakerState::Closed);
    run_requests(&breaker, now, 19, Verdict::Failure);
    assert_eq!((breaker.state(now), breaker.trips()), (BreakerState::Closed, 1));
}

#[test]
fn each_failed_probe_doubles_the_pause_up_to_its_limit() {
    let (breaker, mut now) = open_breaker();
    for seconds in [1, 2, 4, 8, 16, 30, 30] {
        now += seconds * SECOND - millis(1);
        assert_eq!(breaker.admit(now).unwrap_err().retry_after, millis(1));
        now += millis(1);
        breaker.admit(now).unwrap().record(now, Verdict::Failure);
    }
    assert_eq!(breaker.trips(), 1);
    now += 30 * SECOND;
    breaker.admit(now).unwrap().record(now, Verdict::Success);
    run_requests(&breaker, now, 20, Verdict::Failure);
    assert_eq!(breaker.admit(now).unwrap_err().retry_after, SECOND);
    assert_eq!(breaker.trips(), 2);
}

#[test]
fn a_probe_without_a_verdict_frees_its_slot() {
    let (breaker, now) = open_breaker();
    let now = now + SECOND;
    drop(breaker.admit(now).unwrap());
    breaker.admit(now).unwrap().record(now, Verdict::Ignore);
    assert_eq!(breaker.state(now), BreakerState::HalfOpen);
    assert!(breaker.admit(now).unwrap().is_probe());
}

#[test]
fn a_verdict_from_before_it_opened_neither_closes_nor_reopens_it() {
    let now = origin();
    let breaker = TestBreaker::new(Some(&CircuitBreaker::default()), now);
    let early: Vec<Permit<'_>> = (0..3).map(|_| breaker.admit(now).unwrap()).collect();
    run_requests(&breaker, now, 20, Verdict::Failure);
    let probe = breaker.admit(now + SECOND).unwrap();
    for (permit, verdict) in early.into_iter().zip([Verdict::Success, Verdict::Failure, Verdict::Ignore]) {
        permit.record(now + SECOND, verdict);
        assert_eq!(breaker.state(now + SECOND), BreakerState::HalfOpen);
    }
    assert!(breaker.admit(now + SECOND).is_err(), "the one probe is still in flight");
    probe.record(now + SECOND, Verdict::Success);
    assert_eq!(breaker.state(now + SECOND), BreakerState::Closed);
}

#[test]
fn a_probe_from_an_earlier_epoch_changes_nothing() {
    let (breaker, now) = open_breaker_with(CircuitBreaker { probes: 2, ..CircuitBreaker::default() });
    let now = now + SECOND;
    let (failing, late) = (breaker.admit(now).unwrap(), breaker.admit(now).unwrap());
    failing.record(now, Verdict::Failure);
    let now = now + 2 * SECOND;
    let _probes = (breaker.admit(now).unwrap(), breaker.admit(now).unwrap());
    drop(late);
    assert!(breaker.admit(now).is_err(), "a probe freed a slot of another epoch");
}

#[test]
fn several_probes_must_all_succeed() {
    let (breaker, now) = open_breaker_with(CircuitBreaker { probes: 3, ..CircuitBreaker::default() });
    let now = now + SECOND;
    let probes: Vec<_> = (0..3).map(|_| breaker.admit(now).unwrap()).collect();
    assert!(breaker.admit(now).is_err());
    for probe in probes {
        assert_eq!(breaker.state(now), BreakerState::HalfOpen);
        probe.record(now, Verdict::Success);
    }
    assert_eq!(breaker.state(now), BreakerState::Closed);
}

#[test]
fn without_settings_it_admits_every_request() {
    let now = origin();
    let breaker = TestBreaker::new(None, now);
    run_requests(&breaker, now, 1_000, Verdict::Failure);
    assert_eq!((breaker.state(now), breaker.trips()), (BreakerState::Closed, 0));
}

#[test]
fn a_clock_that_steps_back_causes_no_panic() {
    let start = origin() + 100 * SECOND;
    let breaker = TestBreaker::new(Some(&CircuitBreaker::default()), start);
    run_requests(&breaker, start - SECOND, 20, Verdict::Failure);
    assert_eq!(breaker.admit(start - 2 * SECOND).unwrap_err().retry_after, SECOND);
    assert_eq!(breaker.state(start - 3 * SECOND), BreakerState::Open);
    let probe = breaker.admit(start + SECOND).unwrap();
    probe.record(start, Verdict::Failure);
    assert!(breaker.admit(start - SECOND).is_err());
}

#[test]
fn threads_that_see_enough_failures_at_the_same_time_trip_it_once() {
    let settings = CircuitBreaker { min_requests: 1, ..CircuitBreaker::default() };
    let now = origin();
    for _ in 0..500 {
        let breaker = TestBreaker::new(Some(&settings), now);
        let together = Barrier::new(4);
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let permit = breaker.admit(now).unwrap();
                    together.wait();
                    permit.record(now, Verdict::Failure);
                });
            }
        });
        assert_eq!((breaker.state(now), breaker.trips()), (BreakerState::Open, 1));
    }
}

#[test]
fn threads_together_get_no_more_probes_than_allowed() {
    let (breaker, now) = open_breaker_with(CircuitBreaker { probes: 5, ..CircuitBreaker::default() });
    let now = now + SECOND;
    let ask = || (0..50).filter_map(|_| breaker.admit(now).ok()).collect::<Vec<_>>();
    let admitted: Vec<_> = thread::scope(|scope| {
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(ask)).collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(admitted.len(), 5);
    assert!(admitted.iter().all(Permit::is_probe));
}

#[test]
fn half_opened_by_its_caller_it_lets_probes_pass_before_its_time() {
    let (breaker, now) = open_breaker();
    breaker.half_open();
    assert_eq!(breaker.state(now), BreakerState::HalfOpen);
    let probe = breaker.admit(now).unwrap();
    assert!(probe.is_probe() && breaker.admit(now).is_err(), "one at a time");
    probe.record(now, Verdict::Success);
    assert_eq!((breaker.state(now), breaker.trips()), (BreakerState::Closed, 1));
}

#[test]
fn a_probe_that_fails_before_its_time_doubles_the_open_time() {
    let (breaker, now) = open_breaker();
    breaker.half_open();
    breaker.admit(now).unwrap().record(now, Verdict::Failure);
    assert_eq!(breaker.admit(now).unwrap_err(), BreakerOpen { retry_after: 2 * SECOND });
}

#[test]
fn half_opening_changes_nothing_unless_it_is_open() {
    let now = origin();
    let breaker = TestBreaker::new(Some(&CircuitBreaker::default()), now);
    let early = breaker.admit(now).unwrap();
    breaker.half_open();
    assert_eq!(breaker.state(now), BreakerState::Closed);
    // Its verdict still counts, because no new epoch has begun.
    early.record(now, Verdict::Failure);
    run_requests(&breaker, now, 19, Verdict::Failure);
    assert_eq!(breaker.state(now), BreakerState::Open);
    breaker.half_open();
    let probe = breaker.admit(now).unwrap();
    breaker.half_open();
    assert!(breaker.admit(now).is_err(), "the slot is still taken");
    probe.record(now, Verdict::Success);
    assert_eq!(breaker.state(now), BreakerState::Closed);
    TestBreaker::new(None, now).half_open();
}

#[test]
fn other_settings_leave_an_open_breaker_open_for_at_most_the_new_max_open_for() {
    let (mut breaker, now) =
        open_breaker_with(CircuitBreaker { open_for: 20 * SECOND, ..CircuitBreaker::default() });
    breaker.settings =
        Some(CircuitBreaker { open_for: 5 * SECOND, max_open_for: 8 * SECOND, ..Default::default() });
    assert_eq!(breaker.admit(now).unwrap_err(), BreakerOpen { retry_after: 8 * SECOND });
    assert_eq!((breaker.state(now), breaker.trips()), (BreakerState::Open, 1));
    assert_eq!(breaker.state(now + 8 * SECOND), BreakerState::HalfOpen);
}

#[test]
fn counts_are_compared_with_the_new_settings() {
    let now = origin();
    let mut breaker = TestBreaker::new(Some(&CircuitBreaker::default()), now);
    run_requests(&breaker, now, 9, Verdict::Failure);
    breaker.settings = Some(CircuitBreaker { min_requests: 10, ..Default::default() });
    assert_eq!(breaker.state(now), BreakerState::Closed, "nothing has failed since");
    run_requests(&breaker, now, 1, Verdict::Failure);
    assert_eq!(breaker.state(now), BreakerState::Open);

    let mut breaker = TestBreaker::new(Some(&CircuitBreaker::default()), now);
    run_requests(&breaker, now, 19, Verdict::Failure);
    breaker.settings = Some(CircuitBreaker { window: 20 * SECOND, ..Default::default() });
    run_requests(&breaker, now, 19, Verdict::Failure);
    assert_eq!(breaker.state(now), BreakerState::Closed, "another window begins empty");
    run_requests(&breaker, now, 1, Verdict::Failure);
    assert_eq!(breaker.state(now), BreakerState::Open);
}

#[test]
fn failures_of_one_window_are_not_compared_with_successes_of_another() {
    let now = origin();
    let long = CircuitBreaker { window: 600 * SECOND, ..CircuitBreaker::default() };
    let short = CircuitBreaker { window: SECOND, ..CircuitBreaker::default() };
    let mut breaker = TestBreaker::new(Some(&long), now);
    run_requests(&breaker, now, 40, Verdict::Success);
    run_requests(&breaker, now, 20, Verdict::Failure);
    for settings in [short, long] {
        breaker.settings = Some(settings);
        run_requests(&breaker, now, 30, Verdict::Success);
    }
    run_requests(&breaker, now, 1, Verdict::Failure);
    assert_eq!(breaker.state(now), BreakerState::Closed);
}

#[test]
fn a_breaker_that_is_turned_off_is_closed_also_without_a_request() {
    let (breaker, now) = open_breaker();
    breaker.breaker.turn_off();
    assert!(breaker.admit(now).is_ok());
    run_requests(&breaker, now, 19, Verdict::Failure);
    assert_eq!(breaker.state(now), BreakerState::Closed, "it begins empty");
}

#[test]
fn a_success_ends_a_row_also_while_consecutive_failures_is_not_set() {
    let now = origin();
    let mut breaker = TestBreaker::new(Some(&CircuitBreaker::default()), now);
    run_requests(&breaker, now, 5, Verdict::Failure);
    run_requests(&breaker, now, 1, Verdict::Success);
    breaker.settings = Some(CircuitBreaker { consecutive_failures: Some(3), ..Default::default() });
    run_requests(&breaker, now, 2, Verdict::Failure);
    assert_eq!(breaker.state(now), BreakerState::Closed);
    run_requests(&breaker, now, 1, Verdict::Failure);
    assert_eq!(breaker.state(now), BreakerState::Open);
}

#[test]
fn consecutive_failures_can_be_set_later() {
    let now = origin();
    let mut breaker = TestBreaker::new(Some(&CircuitBreaker::default()), now);
    breaker.settings = Some(CircuitBreaker { consecutive_failures: Some(3), ..Default::default() });
    run_requests(&breaker, now, 3, Verdict::Failure);
    assert_eq!(breaker.state(now), BreakerState::Open);
}

#[test]
fn turned_off_it_admits_everything_and_turned_on_again_it_begins_closed_and_empty() {
    let (TestBreaker { breaker, .. }, now) = open_breaker();
    let on = CircuitBreaker { min_requests: 1, ..Default::default() };
    for _ in 0..100 {
        breaker.admit(None, now).unwrap().record(now, Verdict::Failure);
    }
    assert_eq!(breaker.state(None, now), BreakerState::Closed);
    let uncounted = breaker.admit(None, now).unwrap();
    drop(breaker.admit(Some(&on), now).unwrap());
    uncounted.record(now, Verdict::Failure);
    assert_eq!(breaker.state(Some(&on), now), BreakerState::Closed, "admitted while turned off");
    breaker.admit(Some(&on), now).unwrap().record(now, Verdict::Failure);
    assert_eq!((breaker.state(Some(&on), now), breaker.trips()), (BreakerState::Open, 2));
}

#[test]
fn failures_from_before_it_was_turned_off_are_not_counted() {
    let now = origin();
    let on = CircuitBreaker { consecutive_failures: Some(3), min_requests: 3, ..Default::default() };
    let TestBreaker { breaker, .. } = TestBreaker::new(None, now);
    let fail = |settings| breaker.admit(settings, now).unwrap().record(now, Verdict::Failure);
    for settings in [Some(&on), Some(&on), None, Some(&on), Some(&on)] {
        fail(settings);
    }
    assert_eq!(breaker.state(Some(&on), now), BreakerState::Closed);
    fail(Some(&on));
    assert_eq!(breaker.state(Some(&on), now), BreakerState::Open);
}

#[test]
fn a_probe_from_before_it_was_turned_off_changes_nothing() {
    let (TestBreaker { breaker, .. }, now) = open_breaker();
    let (later, on) = (now + SECOND, CircuitBreaker::default());
    let probe = breaker.admit(Some(&on), later).unwrap();
    assert!(probe.is_probe());
    drop(breaker.admit(None, later).unwrap());
    drop(breaker.admit(Some(&on), later).unwrap());
    probe.record(later, Verdict::Failure);
    assert_eq!(breaker.state(Some(&on), later), BreakerState::Closed);
}

#[test]
fn a_new_endpoint_is_tried_at_once_and_the_next_open_time_is_the_shortest() {
    let (breaker, now) = open_breaker();
    for _ in 0..3 {
        breaker.half_open();
        breaker.admit(now).unwrap().record(now, Verdict::Failure);
    }
    assert_eq!(breaker.admit(now).unwrap_err(), BreakerOpen { retry_after: 8 * SECOND });
    breaker.half_open_for_new_endpoint();
    breaker.admit(now).unwrap().record(now, Verdict::Failure);
    assert_eq!(breaker.admit(now).unwrap_err(), BreakerOpen { retry_after: SECOND });
    breaker.half_open_for_new_endpoint();
    breaker.admit(now).unwrap().record(now, Verdict::Success);
    assert_eq!(breaker.state(now), BreakerState::Closed);
}

#[test]
fn a_new_endpoint_does_not_wait_for_a_probe_in_flight() {
    let (breaker, now) = open_breaker();
    breaker.half_open();
    let hangs = breaker.admit(now).unwrap();
    assert!(breaker.admit(now).is_err());
    breaker.half_open_for_new_endpoint();
    let probe = breaker.admit(now).unwrap();
    hangs.record(now, Verdict::Failure);
    assert_eq!(breaker.state(now), BreakerState::HalfOpen, "a probe from an earlier epoch is no evidence");
    probe.record(now, Verdict::Success);
    assert_eq!(breaker.state(now), BreakerState::Closed);
}

#[test]
fn a_closed_breaker_keeps_its_counts_when_an_endpoint_joins() {
    let now = origin();
    let breaker = TestBreaker::new(Some(&CircuitBreaker::default()), now);
    run_requests(&breaker, now, 19, Verdict::Failure);
    breaker.half_open_for_new_endpoint();
    run_requests(&breaker, now, 1, Verdict::Failure);
    assert_eq!(breaker.state(now), BreakerState::Open);
    TestBreaker::new(None, now).half_open_for_new_endpoint();
}

#[test]
fn each_change_of_the_state_is_returned_once_to_the_call_that_makes_it() {
    let settings =
        CircuitBreaker { min_requests: 4, consecutive_failures: None, ..CircuitBreaker::default() };
    let now = origin();
    let breaker = Breaker::new(now);
    let admit = |now| breaker.admit(Some(&settings), now).unwrap();
    assert!(!breaker.half_open() && !breaker.half_open_for_new_endpoint());
    assert_eq!(admit(now).record(now, Verdict::Success), None);
    let late = admit(now);
    for _ in 0..2 {
        assert_eq!(admit(now).record(now, Verdict::Failure), None);
    }
    let last = admit(now);
    assert!(!last.ends_open_time());
    assert_eq!(last.record(now, Verdict::Failure), Some(BreakerChange::Opened { failed: 3, ended: 4 }));
    assert_eq!(late.record(now, Verdict::Failure), None, "it is open already");
    // The first request after the open time makes it half-open, and its failure opens it again.
    let now = now + settings.open_for;
    let probe = admit(now);
    assert!(probe.is_probe() && probe.ends_open_time());
    assert!(breaker.admit(Some(&settings), now).is_err());
    assert_eq!(probe.record(now, Verdict::Failure), Some(BreakerChange::Reopened));
    // A reason from outside makes it half-open before a request.
    assert!(breaker.half_open() && !breaker.half_open() && breaker.half_open_for_new_endpoint());
    let mut changes = Vec::new();
    for _ in 0..settings.probes {
        let probe = admit(now);
        assert!(probe.is_probe() && !probe.ends_open_time());
        changes.extend(probe.record(now, Verdict::Success));
    }
    assert_eq!(changes, [BreakerChange::Closed]);
    // A breaker that is turned off while it is open is closed by that.
    for _ in 0..4 {
        let _ = admit(now).record(now, Verdict::Failure);
    }
    assert_ne!(breaker.state(Some(&settings), now), BreakerState::Closed);
    assert!(breaker.turn_off() && !breaker.turn_off());
    assert!(!Breaker::new(now).turn_off());
}
