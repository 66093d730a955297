//! Requests that open, probe and close a breaker at the same time.

use std::{sync::Arc, time::Instant};

use loom::thread::{self, JoinHandle};
use outrigger_config::CircuitBreaker;

use crate::{
    SECOND, check,
    circuit_breaker::{Breaker, BreakerState},
    origin,
    outcome::Verdict,
};

const SETTINGS: CircuitBreaker = CircuitBreaker {
    failure_ratio: 1.0,
    window: SECOND,
    min_requests: 1_000_000,
    consecutive_failures: Some(2),
    open_for: SECOND,
    max_open_for: SECOND,
    probes: 1,
};

fn spawn<R: 'static>(breaker: &Arc<Breaker>, work: impl FnOnce(&Breaker) -> R + 'static) -> JoinHandle<R> {
    let breaker = Arc::clone(breaker);
    thread::spawn(move || work(&breaker))
}

/// A breaker that opened at `now`.
fn open(now: Instant) -> Arc<Breaker> {
    let breaker = Breaker::new(now);
    for _ in 0..2 {
        breaker.admit(Some(&SETTINGS), now).unwrap().record(now, Verdict::Failure);
    }
    assert_eq!(breaker.state(Some(&SETTINGS), now), BreakerState::Open);
    Arc::new(breaker)
}

#[test]
fn failures_at_the_same_time_are_all_counted_and_open_it_once() {
    let now = origin();
    check(2, move || {
        let breaker = Arc::new(Breaker::new(now));
        // The first request sets the window, which clears every bucket: too many stores for a model.
        drop(breaker.admit(Some(&SETTINGS), now));
        let fail = move |breaker: &Breaker| {
            if let Ok(permit) = breaker.admit(Some(&SETTINGS), now) {
                permit.record(now, Verdict::Failure);
            }
        };
        let other = spawn(&breaker, fail);
        fail(&breaker);
        other.join().unwrap();
        assert_eq!((breaker.state(Some(&SETTINGS), now), breaker.trips()), (BreakerState::Open, 1));
    });
}

#[test]
fn two_requests_at_the_end_of_the_open_time_are_one_probe() {
    let now = origin();
    check(3, move || {
        let (breaker, now) = (open(now), now + SECOND);
        // The permits of the other thread are dropped there.
        let other = spawn(&breaker, move |breaker| {
            breaker.admit(Some(&SETTINGS), now).is_ok_and(|permit| permit.is_probe())
        });
        let own = breaker.admit(Some(&SETTINGS), now);
        if let Ok(permit) = own {
            assert!(permit.is_probe());
            permit.record(now, Verdict::Success);
            assert_eq!(breaker.state(Some(&SETTINGS), now), BreakerState::Closed);
            other.join().unwrap();
        } else {
            assert!(other.join().unwrap(), "the other one was the probe");
            assert!(breaker.admit(Some(&SETTINGS), now).is_ok(), "and has freed its slot");
        }
    });
}

#[test]
fn of_a_slow_probe_and_the_next_one_the_first_verdict_decides() {
    let now = origin();
    check(3, move || {
        let (breaker, now) = (open(now), now + SECOND);
        let slow = breaker.admit(Some(&SETTINGS), now).unwrap();
        let later = now + SECOND;
        let next = spawn(&breaker, move |breaker| {
            let permit = breaker.admit(Some(&SETTINGS), later);
            let is_probe = permit.as_ref().is_ok_and(|permit| permit.is_probe());
            if let Ok(permit) = permit {
                permit.record(later, Verdict::Success);
            }
            is_probe
        });
        slow.record(later, Verdict::Failure);
        let was_probe = next.join().unwrap();
        // Closed by the next one, or opened by the slow one; never half-open with a slot that no request holds.
        let state = breaker.state(Some(&SETTINGS), later);
        assert!(matches!(state, BreakerState::Open | BreakerState::Closed), "{state:?}");
        assert!(was_probe || state == BreakerState::Open);
        assert_eq!(breaker.trips(), 1);
        if state == BreakerState::Open {
            let probe = breaker.admit(Some(&SETTINGS), later + SECOND).unwrap();
            assert!(probe.is_probe());
        }
    });
}

#[test]
fn a_verdict_from_before_it_opened_is_not_counted_after_it_closed() {
    let now = origin();
    check(2, move || {
        let breaker = Arc::new(Breaker::new(now));
        let early = breaker.admit(Some(&SETTINGS), now).unwrap();
        let trip = spawn(&breaker, move |breaker| {
            for _ in 0..2 {
                if let Ok(permit) = breaker.admit(Some(&SETTINGS), now) {
                    permit.record(now, Verdict::Failure);
                }
            }
        });
        early.record(now, Verdict::Failure);
        trip.join().unwrap();
        assert_eq!((breaker.state(Some(&SETTINGS), now), breaker.trips()), (BreakerState::Open, 1));
        let probe = breaker.admit(Some(&SETTINGS), now + SECOND).unwrap();
        probe.record(now + SECOND, Verdict::Success);
        assert_eq!(breaker.state(Some(&SETTINGS), now + SECOND), BreakerState::Closed);
        // One failure is no two in a row.
        let after = breaker.admit(Some(&SETTINGS), now + SECOND).unwrap();
        after.record(now + SECOND, Verdict::Failure);
        assert_eq!(breaker.state(Some(&SETTINGS), now + SECOND), BreakerState::Closed);
    });
}
