//! The breaker's life, in single steps and against a model that keeps every event.

use std::{
    sync::Barrier,
    thread,
    time::{Duration, Instant},
};

use outrigger_config::CircuitBreaker;
use outrigger_policy::{
    Breaker, Verdict,
    circuit_breaker::{BreakerOpen, BreakerState, Permit},
};
use proptest::prelude::*;

use crate::{millis, origin};

const SECOND: Duration = Duration::from_secs(1);

/// Admits and ends `count` requests.
fn run_requests(breaker: &Breaker, now: Instant, count: u32, verdict: Verdict) {
    for _ in 0..count {
        breaker.admit(now).unwrap().record(now, verdict);
    }
}

/// A breaker with default settings that opened at the moment returned.
fn open_breaker() -> (Breaker, Instant) {
    open_breaker_with(CircuitBreaker::default())
}

fn open_breaker_with(settings: CircuitBreaker) -> (Breaker, Instant) {
    let now = origin();
    let breaker = Breaker::new(Some(&settings), now);
    run_requests(&breaker, now, settings.min_requests, Verdict::Failure);
    assert_eq!(breaker.state(now), BreakerState::Open);
    (breaker, now)
}

#[test]
fn half_of_twenty_requests_open_it() {
    let now = origin();
    let breaker = Breaker::new(Some(&CircuitBreaker::default()), now);
    run_requests(&breaker, now, 10, Verdict::Success);
    run_requests(&breaker, now, 9, Verdict::Failure);
    assert_eq!((breaker.state(now), breaker.trips()), (BreakerState::Closed, 0));
    run_requests(&breaker, now, 1, Verdict::Failure);
    assert_eq!((breaker.state(now), breaker.trips()), (BreakerState::Open, 1));
    assert_eq!(breaker.admit(now + millis(300)).unwrap_err(), BreakerOpen { retry_after: millis(700) });
}

#[test]
fn what_blames_nobody_is_not_counted() {
    let now = origin();
    let breaker = Breaker::new(Some(&CircuitBreaker::default()), now);
    run_requests(&breaker, now, 19, Verdict::Failure);
    run_requests(&breaker, now, 100, Verdict::Ignore);
    drop(breaker.admit(now).unwrap());
    assert_eq!(breaker.state(now), BreakerState::Closed);
}

#[test]
fn failures_are_forgotten_after_the_window() {
    let now = origin();
    let breaker = Breaker::new(Some(&CircuitBreaker::default()), now);
    run_requests(&breaker, now, 19, Verdict::Failure);
    run_requests(&breaker, now + 10 * SECOND, 19, Verdict::Failure);
    assert_eq!(breaker.state(now + 10 * SECOND), BreakerState::Closed);
    run_requests(&breaker, now + 19 * SECOND, 1, Verdict::Failure);
    assert_eq!(breaker.state(now + 19 * SECOND), BreakerState::Open);
}

#[test]
fn rows_of_failures_count_only_when_asked_for() {
    let settings = CircuitBreaker { consecutive_failures: Some(3), ..CircuitBreaker::default() };
    let now = origin();
    let breaker = Breaker::new(Some(&settings), now);
    run_requests(&breaker, now, 2, Verdict::Failure);
    run_requests(&breaker, now, 1, Verdict::Success);
    run_requests(&breaker, now, 2, Verdict::Failure);
    assert_eq!(breaker.state(now), BreakerState::Closed);
    run_requests(&breaker, now, 1, Verdict::Failure);
    assert_eq!(breaker.state(now), BreakerState::Open);
}

#[test]
fn one_good_probe_closes_it_and_the_window_is_forgotten() {
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
fn a_probe_without_a_verdict_gives_its_place_to_the_next() {
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
    let breaker = Breaker::new(Some(&CircuitBreaker::default()), now);
    let early: Vec<Permit<'_>> = (0..3).map(|_| breaker.admit(now).unwrap()).collect();
    run_requests(&breaker, now, 20, Verdict::Failure);
    let probe = breaker.admit(now + SECOND).unwrap();
    for (permit, verdict) in early.into_iter().zip([Verdict::Success, Verdict::Failure, Verdict::Ignore]) {
        permit.record(now + SECOND, verdict);
        assert_eq!(breaker.state(now + SECOND), BreakerState::HalfOpen);
    }
    assert!(breaker.admit(now + SECOND).is_err(), "the one probe is still out");
    probe.record(now + SECOND, Verdict::Success);
    assert_eq!(breaker.state(now + SECOND), BreakerState::Closed);
}

#[test]
fn a_probe_of_an_earlier_spell_has_no_say_in_this_one() {
    let (breaker, now) = open_breaker_with(CircuitBreaker { probes: 2, ..CircuitBreaker::default() });
    let now = now + SECOND;
    let (failing, late) = (breaker.admit(now).unwrap(), breaker.admit(now).unwrap());
    failing.record(now, Verdict::Failure);
    let now = now + 2 * SECOND;
    let _probes = (breaker.admit(now).unwrap(), breaker.admit(now).unwrap());
    drop(late);
    assert!(breaker.admit(now).is_err(), "a place that is not its own was given back");
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
fn without_settings_it_admits_whatever_happens() {
    let now = origin();
    let breaker = Breaker::new(None, now);
    run_requests(&breaker, now, 1_000, Verdict::Failure);
    assert_eq!((breaker.state(now), breaker.trips()), (BreakerState::Closed, 0));
}

#[test]
fn a_clock_that_steps_back_is_no_reason_to_panic() {
    let start = origin() + 100 * SECOND;
    let breaker = Breaker::new(Some(&CircuitBreaker::default()), start);
    run_requests(&breaker, start - SECOND, 20, Verdict::Failure);
    assert_eq!(breaker.admit(start - 2 * SECOND).unwrap_err().retry_after, SECOND);
    assert_eq!(breaker.state(start - 3 * SECOND), BreakerState::Open);
    let probe = breaker.admit(start + SECOND).unwrap();
    probe.record(start, Verdict::Failure);
    assert!(breaker.admit(start - SECOND).is_err());
}

#[test]
fn threads_that_see_enough_at_the_same_time_trip_it_once() {
    let settings = CircuitBreaker { min_requests: 1, ..CircuitBreaker::default() };
    let now = origin();
    for _ in 0..500 {
        let breaker = Breaker::new(Some(&settings), now);
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
fn threads_together_get_no_more_probes_than_there_are() {
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

/// The same promises in the plainest words: a list of all that ended, and no generations but the
/// moment of the last change.
struct BreakerModel {
    settings: CircuitBreaker,
    state: BreakerState,
    /// (tenth of the window, failed), since it last closed.
    ended: Vec<(u128, bool)>,
    since: Duration,
    pause: Duration,
    out: u32,
    successes: u32,
    changes: u32,
    trips: u64,
}

impl BreakerModel {
    fn new(settings: CircuitBreaker) -> Self {
        let (since, pause) = (Duration::ZERO, settings.open_for);
        Self {
            settings,
            state: BreakerState::Closed,
            ended: vec![],
            since,
            pause,
            out: 0,
            successes: 0,
            changes: 0,
            trips: 0,
        }
    }

    fn state(&self, now: Duration) -> BreakerState {
        let over = self.state == BreakerState::Open && now >= self.since + self.pause;
        if over { BreakerState::HalfOpen } else { self.state }
    }

    /// Whether it is a probe; or the pause.
    fn admit(&mut self, now: Duration) -> Result<bool, Duration> {
        if self.state == BreakerState::Open && self.state(now) == BreakerState::HalfOpen {
            self.change_state(BreakerState::HalfOpen);
        }
        match self.state {
            BreakerState::Closed => Ok(false),
            BreakerState::Open => Err(self.since + self.pause - now),
            BreakerState::HalfOpen if self.out == self.settings.probes => Err(self.settings.open_for),
            BreakerState::HalfOpen => {
                self.out += 1;
                Ok(true)
            }
        }
    }

    /// `changes` as it was when the request was admitted; no verdict for one that was cancelled.
    fn end(&mut self, changes: u32, now: Duration, verdict: Option<Verdict>) {
        if changes != self.changes {
            return;
        }
        let failed = match verdict {
            Some(Verdict::Success) => Some(false),
            Some(Verdict::Failure) => Some(true),
            Some(Verdict::Ignore) | None => None,
        };
        self.out -= u32::from(self.state == BreakerState::HalfOpen);
        match (self.state, failed) {
            (BreakerState::Closed, Some(failed)) => {
                self.ended.push((now.as_nanos() / (self.settings.window.as_nanos() / 10), failed));
                if failed && self.is_enough() {
                    self.trips += 1;
                    self.pause = self.settings.open_for;
                    self.since = now;
                    self.change_state(BreakerState::Open);
                }
            }
            (BreakerState::HalfOpen, Some(true)) => {
                self.pause = (self.pause * 2).min(self.settings.max_open_for);
                self.since = now;
                self.change_state(BreakerState::Open);
            }
            (BreakerState::HalfOpen, Some(false)) => {
                self.successes += 1;
                if self.successes == self.settings.probes {
                    self.ended.clear();
                    self.change_state(BreakerState::Closed);
                }
            }
            _ => {}
        }
    }

    fn is_enough(&self) -> bool {
        let newest = self.ended.last().map_or(0, |&(tenth, _)| tenth);
        let window: Vec<bool> =
            self.ended.iter().filter(|&&(tenth, _)| tenth + 10 > newest).map(|&(_, failed)| failed).collect();
        let failed = window.iter().filter(|&&failed| failed).count();
        let row = self.ended.iter().rev().take_while(|&&(_, failed)| failed).count();
        window.len() >= self.settings.min_requests as usize
            && failed as f64 >= self.settings.failure_ratio * window.len() as f64
            || self.settings.consecutive_failures.is_some_and(|most| row >= most as usize)
    }

    fn change_state(&mut self, state: BreakerState) {
        self.state = state;
        self.changes += 1;
        (self.out, self.successes) = (0, 0);
    }
}

#[derive(Debug, Clone)]
enum BreakerEvent {
    Pass(u64),
    Admit,
    /// One of those in flight ends, or is cancelled.
    End(prop::sample::Index, Option<Verdict>),
}

fn events() -> impl Strategy<Value = Vec<BreakerEvent>> {
    let verdict = prop_oneof![
        6 => Just(Some(Verdict::Failure)),
        4 => Just(Some(Verdict::Success)),
        1 => Just(Some(Verdict::Ignore)),
        1 => Just(None),
    ];
    let event = prop_oneof![
        2 => (0..300_u64).prop_map(BreakerEvent::Pass),
        1 => (300..8_000_u64).prop_map(BreakerEvent::Pass),
        8 => Just(BreakerEvent::Admit),
        8 => (any::<prop::sample::Index>(), verdict).prop_map(|(which, verdict)| BreakerEvent::End(which, verdict)),
    ];
    prop::collection::vec(event, 0..400)
}

fn settings() -> impl Strategy<Value = CircuitBreaker> {
    let row = prop::option::weighted(0.3, 1..8_u32);
    (1..=10_u32, 1..8_u64, 1..12_u32, row, 1..4_u64, 1..4_u32).prop_map(
        |(ratio, window, min_requests, consecutive_failures, open, probes)| CircuitBreaker {
            failure_ratio: f64::from(ratio) / 10.0,
            window: Duration::from_secs(window),
            min_requests,
            consecutive_failures,
            open_for: millis(open * 500),
            max_open_for: millis(3_000),
            probes,
        },
    )
}

proptest! {
    #[test]
    fn it_lives_as_a_model_that_keeps_every_event(settings in settings(), events in events()) {
        let start = origin();
        let breaker = Breaker::new(Some(&settings), start);
        let mut model = BreakerModel::new(settings);
        let mut now = Duration::ZERO;
        let mut in_flight: Vec<(Permit<'_>, u32)> = vec![];
        for event in events {
            match event {
                BreakerEvent::Pass(time) => now += millis(time),
                BreakerEvent::Admit => match (breaker.admit(start + now), model.admit(now)) {
                    (Ok(permit), Ok(probe)) => {
                        prop_assert_eq!(permit.is_probe(), probe);
                        in_flight.push((permit, model.changes));
                    }
                    (Err(open), Err(pause)) => prop_assert_eq!(open.retry_after, pause),
                    (admitted, expected) => prop_assert!(false, "{:?} where {:?} was due", admitted, expected),
                },
                BreakerEvent::End(which, verdict) if !in_flight.is_empty() => {
                    let (permit, changes) = in_flight.swap_remove(which.index(in_flight.len()));
                    match verdict {
                        Some(verdict) => permit.record(start + now, verdict),
                        None => drop(permit),
                    }
                    model.end(changes, now, verdict);
                }
                BreakerEvent::End(..) => {}
            }
            prop_assert_eq!(breaker.state(start + now), model.state(now));
            prop_assert_eq!(breaker.trips(), model.trips);
        }
    }
}

#[test]
fn half_opened_it_lets_probes_pass_before_its_time() {
    let (breaker, now) = open_breaker();
    breaker.half_open();
    assert_eq!(breaker.state(now), BreakerState::HalfOpen);
    let probe = breaker.admit(now).unwrap();
    assert!(probe.is_probe() && breaker.admit(now).is_err(), "one at a time, as ever");
    probe.record(now, Verdict::Success);
    assert_eq!((breaker.state(now), breaker.trips()), (BreakerState::Closed, 1));
}

#[test]
fn a_probe_that_fails_before_its_time_doubles_the_spell() {
    let (breaker, now) = open_breaker();
    breaker.half_open();
    breaker.admit(now).unwrap().record(now, Verdict::Failure);
    assert_eq!(breaker.admit(now).unwrap_err(), BreakerOpen { retry_after: 2 * SECOND });
}

#[test]
fn half_opening_what_is_not_open_changes_nothing() {
    let now = origin();
    let breaker = Breaker::new(Some(&CircuitBreaker::default()), now);
    let early = breaker.admit(now).unwrap();
    breaker.half_open();
    assert_eq!(breaker.state(now), BreakerState::Closed);
    // Its verdict still counts: no new generation has begun.
    early.record(now, Verdict::Failure);
    run_requests(&breaker, now, 19, Verdict::Failure);
    assert_eq!(breaker.state(now), BreakerState::Open);
    breaker.half_open();
    let probe = breaker.admit(now).unwrap();
    breaker.half_open();
    assert!(breaker.admit(now).is_err(), "the place is taken still");
    probe.record(now, Verdict::Success);
    assert_eq!(breaker.state(now), BreakerState::Closed);
    Breaker::new(None, now).half_open();
}

#[test]
fn other_settings_leave_an_open_breaker_open_for_as_long_as_it_may_be_now() {
    let (breaker, now) =
        open_breaker_with(CircuitBreaker { open_for: 20 * SECOND, ..CircuitBreaker::default() });
    breaker.apply_settings(Some(&CircuitBreaker {
        open_for: 5 * SECOND,
        max_open_for: 8 * SECOND,
        ..Default::default()
    }));
    assert_eq!(breaker.admit(now).unwrap_err(), BreakerOpen { retry_after: 8 * SECOND });
    assert_eq!((breaker.state(now), breaker.trips()), (BreakerState::Open, 1));
    assert_eq!(breaker.state(now + 8 * SECOND), BreakerState::HalfOpen);
}

#[test]
fn what_was_counted_is_judged_by_the_new_settings() {
    let now = origin();
    let breaker = Breaker::new(Some(&CircuitBreaker::default()), now);
    run_requests(&breaker, now, 9, Verdict::Failure);
    breaker.apply_settings(Some(&CircuitBreaker { min_requests: 10, ..Default::default() }));
    assert_eq!(breaker.state(now), BreakerState::Closed, "nothing has failed since");
    run_requests(&breaker, now, 1, Verdict::Failure);
    assert_eq!(breaker.state(now), BreakerState::Open);

    let breaker = Breaker::new(Some(&CircuitBreaker::default()), now);
    run_requests(&breaker, now, 19, Verdict::Failure);
    breaker.apply_settings(Some(&CircuitBreaker { window: 20 * SECOND, ..Default::default() }));
    run_requests(&breaker, now, 19, Verdict::Failure);
    assert_eq!(breaker.state(now), BreakerState::Closed, "another window begins empty");
    run_requests(&breaker, now, 1, Verdict::Failure);
    assert_eq!(breaker.state(now), BreakerState::Open);
}

#[test]
fn rows_are_counted_from_the_moment_that_they_are_asked_for() {
    let now = origin();
    let breaker = Breaker::new(Some(&CircuitBreaker::default()), now);
    breaker.apply_settings(Some(&CircuitBreaker { consecutive_failures: Some(3), ..Default::default() }));
    run_requests(&breaker, now, 3, Verdict::Failure);
    assert_eq!(breaker.state(now), BreakerState::Open);
}

#[test]
fn turned_off_it_admits_everything_and_turned_on_again_it_knows_nothing_of_before() {
    let (breaker, now) = open_breaker();
    breaker.apply_settings(None);
    run_requests(&breaker, now, 100, Verdict::Failure);
    assert_eq!(breaker.state(now), BreakerState::Closed);
    breaker.apply_settings(None);
    let before = breaker.admit(now).unwrap();
    breaker.apply_settings(Some(&CircuitBreaker { min_requests: 1, ..Default::default() }));
    before.record(now, Verdict::Failure);
    assert_eq!(breaker.state(now), BreakerState::Closed, "it was admitted while nobody counted");
    run_requests(&breaker, now, 1, Verdict::Failure);
    assert_eq!((breaker.state(now), breaker.trips()), (BreakerState::Open, 2));
}

#[test]
fn a_probe_from_before_it_was_turned_off_changes_nothing() {
    let (breaker, now) = open_breaker();
    let later = now + SECOND;
    let probe = breaker.admit(later).unwrap();
    assert!(probe.is_probe());
    breaker.apply_settings(None);
    breaker.apply_settings(Some(&CircuitBreaker::default()));
    probe.record(later, Verdict::Failure);
    assert_eq!(breaker.state(later), BreakerState::Closed);
}

#[test]
fn somebody_who_joins_is_asked_at_once_and_the_next_spell_is_the_first_again() {
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
fn somebody_who_joins_does_not_wait_for_the_probe_that_is_out() {
    let (breaker, now) = open_breaker();
    breaker.half_open();
    let hangs = breaker.admit(now).unwrap();
    assert!(breaker.admit(now).is_err());
    breaker.half_open_for_new_endpoint();
    let probe = breaker.admit(now).unwrap();
    hangs.record(now, Verdict::Failure);
    assert_eq!(breaker.state(now), BreakerState::HalfOpen, "what the others came to says nothing now");
    probe.record(now, Verdict::Success);
    assert_eq!(breaker.state(now), BreakerState::Closed);
}

#[test]
fn a_closed_one_forgets_nothing_when_somebody_joins() {
    let now = origin();
    let breaker = Breaker::new(Some(&CircuitBreaker::default()), now);
    run_requests(&breaker, now, 19, Verdict::Failure);
    breaker.half_open_for_new_endpoint();
    run_requests(&breaker, now, 1, Verdict::Failure);
    assert_eq!(breaker.state(now), BreakerState::Open);
    Breaker::new(None, now).half_open_for_new_endpoint();
}
