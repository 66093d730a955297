//! Random histories against a model that keeps every event.

use std::time::Duration;

use outrigger_config::CircuitBreaker;
use outrigger_policy::{
    Verdict,
    circuit_breaker::{BreakerState, Permit},
};
use proptest::prelude::*;

use super::TestBreaker;
use crate::{millis, origin};

/// The same behaviour with a list of all ends, and a count of changes in place of epochs.
struct BreakerModel {
    settings: CircuitBreaker,
    state: BreakerState,
    /// (tenth of the window, failed), since it last closed.
    ended: Vec<(u128, bool)>,
    since: Duration,
    pause: Duration,
    /// The probes that hold a slot, since when, and for how long.
    slots: Vec<(u32, Duration, Duration)>,
    /// Slots have passed on this often since a success.
    passed: u32,
    /// Requests that were admitted.
    admitted: u32,
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
            slots: vec![],
            passed: 0,
            admitted: 0,
            successes: 0,
            changes: 0,
            trips: 0,
        }
    }

    fn state(&self, now: Duration) -> BreakerState {
        let over = self.state == BreakerState::Open && now >= self.since + self.pause;
        if over { BreakerState::HalfOpen } else { self.state }
    }

    /// The request's number and whether it is a probe; an error is the pause.
    fn admit(&mut self, now: Duration) -> Result<(u32, bool), Duration> {
        if self.state == BreakerState::Open && self.state(now) == BreakerState::HalfOpen {
            self.change_state(BreakerState::HalfOpen);
        }
        match self.state {
            BreakerState::Open => return Err(self.since + self.pause - now),
            BreakerState::Closed => {}
            BreakerState::HalfOpen => self.take_slot(now)?,
        }
        self.admitted += 1;
        Ok((self.admitted, self.state == BreakerState::HalfOpen))
    }

    fn take_slot(&mut self, now: Duration) -> Result<(), Duration> {
        let is_over = |since: Duration, time: Duration| now >= since + time;
        let most = self.settings.probes as usize;
        if self.slots.len() == most && self.slots.iter().any(|&(_, since, time)| is_over(since, time)) {
            self.slots.retain(|&(_, since, time)| !is_over(since, time));
            self.passed += 1;
        }
        if self.slots.len() == most {
            return Err(self.slots.iter().map(|(_, since, time)| *since + *time - now).min().unwrap());
        }
        let time = Duration::from_secs(16.min(1 << self.passed.min(10)));
        self.slots.push((self.admitted + 1, now, time));
        Ok(())
    }

    /// `changes` as it was when the request was admitted; no verdict for one that was cancelled.
    fn end(&mut self, number: u32, changes: u32, now: Duration, verdict: Option<Verdict>) {
        if changes != self.changes {
            return;
        }
        let failed = match verdict {
            Some(Verdict::Success) => Some(false),
            Some(Verdict::Failure) => Some(true),
            Some(Verdict::Ignore) | None => None,
        };
        let slots = self.slots.len();
        self.slots.retain(|slot| slot.0 != number);
        let is_late = self.slots.len() == slots;
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
            (BreakerState::HalfOpen, Some(true)) if is_late && self.successes > 0 => {}
            (BreakerState::HalfOpen, Some(true)) => {
                self.pause = (self.pause * 2).min(self.settings.max_open_for);
                self.since = now;
                self.change_state(BreakerState::Open);
            }
            (BreakerState::HalfOpen, Some(false)) => {
                (self.successes, self.passed) = (self.successes + 1, 0);
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
        self.slots.clear();
        (self.passed, self.successes) = (0, 0);
    }
}

#[derive(Debug, Clone)]
enum BreakerEvent {
    Pass(u64),
    Admit,
    /// A request in flight ends, or is cancelled.
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
    fn it_behaves_as_a_model_that_keeps_every_event(settings in settings(), events in events()) {
        let start = origin();
        let breaker = TestBreaker::new(Some(&settings), start);
        let mut model = BreakerModel::new(settings);
        let mut now = Duration::ZERO;
        let mut in_flight: Vec<(Permit<'_>, u32, u32)> = vec![];
        for event in events {
            match event {
                BreakerEvent::Pass(time) => now += millis(time),
                BreakerEvent::Admit => match (breaker.admit(start + now), model.admit(now)) {
                    (Ok(permit), Ok((number, probe))) => {
                        prop_assert_eq!(permit.is_probe(), probe);
                        in_flight.push((permit, number, model.changes));
                    }
                    (Err(open), Err(pause)) => prop_assert_eq!(open.retry_after, pause),
                    (admitted, expected) => prop_assert!(false, "{:?} where {:?} was due", admitted, expected),
                },
                BreakerEvent::End(which, verdict) if !in_flight.is_empty() => {
                    let (permit, number, changes) = in_flight.swap_remove(which.index(in_flight.len()));
                    match verdict {
                        Some(verdict) => _ = permit.record(start + now, verdict),
                        None => drop(permit),
                    }
                    model.end(number, changes, now, verdict);
                }
                BreakerEvent::End(..) => {}
            }
            prop_assert_eq!(breaker.state(start + now), model.state(now));
            prop_assert_eq!(breaker.trips(), model.trips);
        }
    }
}
