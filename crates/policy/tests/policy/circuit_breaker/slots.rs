//! Probes that have no verdict for long: a slow upload, a long poll, a request that waits in a queue.

use std::{
    thread,
    time::{Duration, Instant},
};

use outrigger_config::CircuitBreaker;
use outrigger_policy::{
    Verdict,
    circuit_breaker::{BreakerState, Permit},
};

use super::{SECOND, open_breaker, open_breaker_with, run_requests};
use crate::millis;

fn with_probes(probes: u32) -> CircuitBreaker {
    CircuitBreaker { probes, ..CircuitBreaker::default() }
}

#[test]
fn the_slot_of_a_probe_without_a_verdict_passes_on_to_the_next_request() {
    let (breaker, now) = open_breaker();
    let now = now + SECOND;
    let _upload = breaker.admit(now).unwrap();
    assert_eq!(breaker.admit(now + millis(999)).unwrap_err().retry_after, millis(1));
    let now = now + SECOND;
    let probe = breaker.admit(now).unwrap();
    assert!(probe.is_probe() && breaker.admit(now).is_err(), "one at a time");
    probe.record(now, Verdict::Success);
    assert_eq!((breaker.state(now), breaker.trips()), (BreakerState::Closed, 1));
}

#[test]
fn it_does_so_whatever_the_open_times_are() {
    for open_for in [millis(10), 3600 * SECOND] {
        let settings = CircuitBreaker { open_for, max_open_for: 3600 * SECOND, ..Default::default() };
        let (breaker, now) = open_breaker_with(settings);
        let now = now + open_for;
        let _poll = breaker.admit(now).unwrap();
        assert_eq!(breaker.admit(now).unwrap_err().retry_after, SECOND, "{open_for:?}");
        breaker.admit(now + SECOND).unwrap().record(now + SECOND, Verdict::Success);
        assert_eq!(breaker.state(now + SECOND), BreakerState::Closed, "{open_for:?}");
    }
}

#[test]
fn each_further_time_is_twice_as_long_up_to_sixteen_seconds() {
    let (breaker, now) = open_breaker();
    let mut now = now + SECOND;
    let mut silent = vec![breaker.admit(now).unwrap()];
    for seconds in [1, 2, 4, 8, 16, 16] {
        assert_eq!(breaker.admit(now).unwrap_err().retry_after, seconds * SECOND);
        now += seconds * SECOND;
        silent.push(breaker.admit(now).unwrap());
    }
}

#[test]
fn a_late_verdict_changes_nothing_after_the_next_probe_has_closed_it() {
    let verdicts = [Some(Verdict::Success), Some(Verdict::Failure), Some(Verdict::Ignore), None];
    for verdict in verdicts {
        let settings = CircuitBreaker { min_requests: 1, ..CircuitBreaker::default() };
        let (breaker, now) = open_breaker_with(settings);
        let late = breaker.admit(now + SECOND).unwrap();
        let now = now + 2 * SECOND;
        breaker.admit(now).unwrap().record(now, Verdict::Success);
        end(late, now, verdict);
        assert_eq!((breaker.state(now), breaker.trips()), (BreakerState::Closed, 1), "{verdict:?}");
    }
}

#[test]
fn a_late_verdict_changes_nothing_after_the_next_probe_has_opened_it() {
    for verdict in [Some(Verdict::Success), Some(Verdict::Failure), Some(Verdict::Ignore), None] {
        let (breaker, now) = open_breaker();
        let late = breaker.admit(now + SECOND).unwrap();
        let now = now + 2 * SECOND;
        breaker.admit(now).unwrap().record(now, Verdict::Failure);
        end(late, now + SECOND, verdict);
        assert_eq!(breaker.admit(now + SECOND).unwrap_err().retry_after, SECOND, "{verdict:?}");
        // Nor in the next half-open period, where it would take a slot of another probe.
        let late = breaker.admit(now + 2 * SECOND).unwrap();
        breaker.half_open_for_new_endpoint();
        let _probe = breaker.admit(now + 2 * SECOND).unwrap();
        end(late, now + 2 * SECOND, verdict);
        assert_eq!(breaker.state(now + 2 * SECOND), BreakerState::HalfOpen, "{verdict:?}");
        assert!(breaker.admit(now + 2 * SECOND).is_err(), "{verdict:?}");
    }
}

fn end(permit: Permit<'_>, now: Instant, verdict: Option<Verdict>) {
    match verdict {
        Some(verdict) => _ = permit.record(now, verdict),
        None => drop(permit),
    }
}

#[test]
fn a_service_whose_responses_take_longer_than_a_slot_closes_it() {
    let (breaker, now) = open_breaker();
    let now = now + SECOND;
    let slow = breaker.admit(now).unwrap();
    let slower: Vec<_> = [1, 3, 7].map(|after| breaker.admit(now + after * SECOND).unwrap()).into();
    slow.record(now + 10 * SECOND, Verdict::Success);
    assert_eq!(breaker.state(now + 10 * SECOND), BreakerState::Closed);
    for probe in slower {
        probe.record(now + 11 * SECOND, Verdict::Failure);
    }
    run_requests(&breaker, now + 11 * SECOND, 19, Verdict::Failure);
    assert_eq!(breaker.state(now + 11 * SECOND), BreakerState::Closed, "the late ones are not counted");
}

#[test]
fn a_service_that_hangs_gets_few_requests_and_its_first_time_out_opens_it() {
    let (breaker, opened) = open_breaker();
    let mut now = opened + SECOND;
    let mut hanging = vec![];
    while now < opened + SECOND + Duration::from_secs(15) {
        hanging.extend(breaker.admit(now).ok());
        now += millis(50);
    }
    assert_eq!(hanging.len(), 4, "at 0, 1, 3 and 7 s");
    hanging.remove(0).record(now, Verdict::Failure);
    assert_eq!(breaker.admit(now).unwrap_err().retry_after, 2 * SECOND);
    drop(hanging);
    assert_eq!(breaker.admit(now + SECOND).unwrap_err().retry_after, SECOND);
}

#[test]
fn beside_a_success_the_failure_of_a_probe_without_its_slot_is_dropped() {
    for (late, state) in [(true, BreakerState::HalfOpen), (false, BreakerState::Open)] {
        let (breaker, now) = open_breaker_with(with_probes(2));
        let now = now + SECOND;
        let (slow, good) = (breaker.admit(now).unwrap(), breaker.admit(now).unwrap());
        good.record(now, Verdict::Success);
        // It loses its slot only when every slot is held and another request asks for one.
        let rest = late.then(|| {
            let asks = [now, now + SECOND].map(|now| breaker.admit(now).unwrap());
            assert!(asks.iter().all(Permit::is_probe));
            asks
        });
        let now = now + SECOND;
        slow.record(now, Verdict::Failure);
        assert_eq!(breaker.state(now), state, "late: {late}");
        if let Some([next, _]) = rest {
            next.record(now, Verdict::Success);
            assert_eq!(breaker.state(now), BreakerState::Closed);
        }
    }
}

#[test]
fn a_probe_without_its_slot_that_ends_frees_no_other_one() {
    let (breaker, now) = open_breaker();
    let now = now + SECOND;
    let (dropped, ignored) = (breaker.admit(now).unwrap(), breaker.admit(now + SECOND).unwrap());
    let now = now + 3 * SECOND;
    let _probe = breaker.admit(now).unwrap();
    drop(dropped);
    ignored.record(now, Verdict::Ignore);
    assert!(breaker.admit(now).is_err());
}

#[test]
fn an_app_that_leaves_frees_its_slot_at_once() {
    let (breaker, now) = open_breaker_with(with_probes(2));
    let now = now + SECOND;
    let (gone, _probe) = (breaker.admit(now).unwrap(), breaker.admit(now).unwrap());
    drop(gone);
    assert!(breaker.admit(now).unwrap().is_probe());
}

#[test]
fn other_settings_hold_for_the_slots_that_are_asked_for_from_then_on() {
    let (mut breaker, now) = open_breaker_with(with_probes(3));
    let now = now + SECOND;
    let settings = with_probes(3);
    let three = breaker.breaker.admit(Some(&settings), now).unwrap();
    let others = [breaker.breaker.admit(Some(&settings), now), breaker.breaker.admit(Some(&settings), now)];
    assert!(others.iter().all(Result::is_ok));
    assert!(breaker.breaker.admit(Some(&settings), now).is_err());
    // Fewer: none is free until enough have passed on.
    let fewer = with_probes(1);
    assert!(breaker.breaker.admit(Some(&fewer), now).is_err());
    let next = breaker.breaker.admit(Some(&fewer), now + SECOND).unwrap();
    assert!(breaker.breaker.admit(Some(&fewer), now + SECOND).is_err());
    // More: the next one is free at once.
    let more = with_probes(2);
    let last = breaker.breaker.admit(Some(&more), now + SECOND).unwrap();
    next.record(now + SECOND, Verdict::Success);
    drop((three, others, last));
    assert_eq!(breaker.breaker.state(Some(&fewer), now + SECOND), BreakerState::Closed);
    // Off and on again: no slot is left of before.
    let (reloaded, now) = open_breaker();
    breaker = reloaded;
    let hangs = breaker.admit(now + SECOND).unwrap();
    breaker.breaker.turn_off();
    drop(breaker.admit(now + SECOND).unwrap());
    hangs.record(now + SECOND, Verdict::Failure);
    assert_eq!(breaker.state(now + SECOND), BreakerState::Closed);
}

#[test]
fn threads_that_ask_for_a_slot_that_passes_on_get_one_together() {
    for _ in 0..100 {
        let (breaker, now) = open_breaker();
        let now = now + SECOND;
        let _silent = breaker.admit(now).unwrap();
        let later = now + SECOND;
        let admitted: Vec<_> = thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(|| breaker.admit(later).ok())).collect();
            threads.into_iter().filter_map(|thread| thread.join().unwrap()).collect()
        });
        assert_eq!(admitted.len(), 1);
    }
}

#[test]
fn a_clock_that_steps_back_keeps_a_slot() {
    let (breaker, now) = open_breaker();
    let now = now + 10 * SECOND;
    let _probe = breaker.admit(now).unwrap();
    assert_eq!(breaker.admit(now - 5 * SECOND).unwrap_err().retry_after, SECOND);
}
