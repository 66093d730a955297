//! Random histories against a model that is slow, plain, and knows neither words nor generations.

use std::time::{Duration, Instant};

use outrigger_config::OutlierDetection;
use outrigger_policy::{
    Outcome, Sent,
    outlier::{Blame, Trust},
};
use proptest::prelude::*;

use super::{BAD, GOOD, Rig};
use crate::millis;

const ROW: usize = 3;

fn settings() -> OutlierDetection {
    OutlierDetection {
        consecutive_failures: Some(ROW as u32),
        success_rate: None,
        ..OutlierDetection::default()
    }
}

/// One step of a history.
#[derive(Debug, Clone)]
enum Step {
    /// A request to one endpoint, if it may be chosen for one.
    Request { at: usize, outcome: Outcome, retryable: bool },
    /// Time passes, then whoever is to be tried is: the bits say who accepts connections.
    Pass { time: Duration, breaker_open: bool, up: u8 },
    /// The registry's list changes.
    List(u8),
}

fn step() -> impl Strategy<Value = Step> {
    let outcome = prop_oneof![
        3 => Just(BAD),
        2 => Just(GOOD),
        2 => Just(Outcome::ConnectRefused),
        1 => Just(Outcome::ConnectTimeout),
        1 => Just(Outcome::Resource),
    ];
    prop_oneof![
        8 => (0..4_usize, outcome, any::<bool>())
            .prop_map(|(at, outcome, retryable)| Step::Request { at, outcome, retryable }),
        3 => (0..3000_u64, any::<bool>(), any::<u8>())
            .prop_map(|(time, breaker_open, up)| Step::Pass { time: millis(time), breaker_open, up }),
        1 => any::<u8>().prop_map(Step::List),
    ]
}

/// An endpoint's past, as far as it matters.
#[derive(Debug, Clone)]
struct Plain {
    listed: bool,
    /// Since when it is trusted, if it is.
    trusted: Option<Instant>,
    hard: bool,
    until: Instant,
    /// Since its time out has ended a request decides; from this moment on, any.
    probation: Option<Instant>,
    /// That moment has passed.
    any: bool,
    spell: Duration,
    doublings: u32,
    tried: Instant,
    failures: Vec<Outcome>,
}

#[derive(Debug)]
struct Model {
    now: Instant,
    all: Vec<Plain>,
}

impl Model {
    fn new(count: usize, now: Instant) -> Self {
        let one = Plain {
            listed: true,
            trusted: Some(now),
            hard: false,
            until: now,
            probation: None,
            any: false,
            spell: Duration::ZERO,
            doublings: 0,
            tried: now,
            failures: Vec::new(),
        };
        Self { now, all: vec![one; count] }
    }

    fn panic(&self) -> bool {
        let mut listed = self.all.iter().filter(|one| one.listed).peekable();
        listed.peek().is_some() && listed.all(|one| one.trusted.is_none())
    }

    fn trust(&self, at: usize) -> Trust {
        let one = &self.all[at];
        match (one.trusted, one.probation) {
            (Some(_), _) => Trust::Trusted,
            _ if one.listed && self.panic() => Trust::Panic,
            (None, Some(_)) => Trust::Probation,
            (None, None) => Trust::Ejected,
        }
    }

    fn admits(&self, at: usize, retryable: bool) -> bool {
        let one = &self.all[at];
        match self.trust(at) {
            Trust::Trusted | Trust::Panic => true,
            Trust::Ejected => false,
            Trust::Probation => retryable || one.any,
        }
    }

    fn request(&mut self, at: usize, outcome: Outcome) {
        let panic = self.trust(at) == Trust::Panic;
        let one = &mut self.all[at];
        match (outcome, one.trusted) {
            (Outcome::Resource, _) => {}
            (GOOD, Some(_)) => one.failures.clear(),
            (GOOD, None) => self.back(at),
            // In panic its time out is not made longer, but a probation that was reached is over.
            (Outcome::ConnectRefused, None) if panic && one.probation.is_none() => one.hard = true,
            (Outcome::ConnectRefused, None) => self.out(at, true),
            (_, None) if panic => {}
            (failed, None) => self.out(at, failed != BAD),
            (failed, Some(_)) => self.count(at, failed),
        }
    }

    fn count(&mut self, at: usize, failed: Outcome) {
        let one = &mut self.all[at];
        one.failures.push(failed);
        let row = one.failures.iter().filter(|one| **one == BAD).count();
        let last_answer = one.failures.iter().rposition(|one| *one == BAD).map_or(0, |at| at + 1);
        let timeouts = one.failures.len() - last_answer;
        match failed {
            Outcome::ConnectRefused => self.out(at, true),
            Outcome::ConnectTimeout if timeouts >= 2 => self.out(at, true),
            BAD if row % ROW == 0 && self.has_room() => self.out(at, false),
            _ => {}
        }
    }

    /// One more than there are must not be more than half of those that accept connections.
    fn has_room(&self) -> bool {
        let out = |one: &&Plain| one.listed && one.trusted.is_none();
        let hard = self.all.iter().filter(out).filter(|one| one.hard).count();
        let soft = self.all.iter().filter(out).filter(|one| !one.hard).count();
        let listed = self.all.iter().filter(|one| one.listed).count();
        soft < (listed - hard) / 2
    }

    fn out(&mut self, at: usize, hard: bool) {
        let now = self.now;
        let one = &mut self.all[at];
        if let Some(since) = one.trusted {
            let windows = (now - since).as_secs() / 10;
            one.doublings = one.doublings.saturating_sub(windows as u32);
        }
        one.spell = Duration::from_secs(60.min(1 << one.doublings.min(10)));
        one.doublings += 1;
        (one.trusted, one.probation, one.any, one.hard) = (None, None, false, hard);
        (one.until, one.tried) = (now + one.spell, now);
        one.failures.clear();
    }

    fn back(&mut self, at: usize) {
        let one = &mut self.all[at];
        (one.trusted, one.probation, one.any, one.hard) = (Some(self.now), None, false, false);
        one.failures.clear();
    }

    /// Lets time pass; who is to be tried now.
    fn due(&mut self, breaker_open: bool) -> Vec<usize> {
        let (now, panic) = (self.now, self.panic());
        for one in self.all.iter_mut().filter(|one| one.listed && !panic) {
            one.any |= one.probation.is_some_and(|any| any <= now);
        }
        let often = |one: &Plain| one.tried + millis(250) <= now;
        let is_due = |one: &Plain| match (one.listed && one.trusted.is_none(), panic) {
            (false, _) => false,
            (true, true) => often(one),
            (true, false) if one.probation.is_some() => false,
            (true, false) => one.until <= now || (one.hard && breaker_open && often(one)),
        };
        let due: Vec<usize> = (0..self.all.len()).filter(|at| is_due(&self.all[*at])).collect();
        for at in &due {
            self.all[*at].tried = now;
        }
        due
    }

    fn probed(&mut self, at: usize, up: bool) {
        let panic = self.panic();
        let one = &mut self.all[at];
        let out = one.trusted.is_none();
        let over = one.probation.is_none() && one.until <= self.now;
        if up && out && (one.hard || panic) {
            self.back(at);
        } else if up && out && over {
            one.probation = Some(self.now + one.spell);
        } else if !up && out && over && !panic {
            self.out(at, true);
        }
    }
}

/// Does a step to both.
fn apply(rig: &mut Rig, model: &mut Model, step: &Step) {
    match step {
        Step::Request { at, outcome, retryable } => {
            let at = at % rig.records.len();
            let record = rig.records[at].clone();
            assert_eq!(record.admits(*retryable), model.admits(at, *retryable), "whether {at} is admitted");
            if !record.admits(*retryable) {
                return;
            }
            let mark = record.begin(*retryable).unwrap();
            if let Some(report) = mark.end(&mut Blame::default(), *outcome, Sent::Head, rig.now) {
                rig.judge.ask(&record, report, rig.now, 0);
            }
            model.request(at, *outcome);
        }
        Step::Pass { time, breaker_open, up } => {
            rig.now += *time;
            model.now += *time;
            // Who is back may end the panic, and then others are due.
            loop {
                let due = rig.judge.due(rig.now, *breaker_open);
                let mut probes = rig.places(&due.probes);
                probes.sort_unstable();
                assert_eq!(probes, model.due(*breaker_open));
                if probes.is_empty() {
                    assert!(due.next.is_none_or(|next| next > rig.now), "what is due was done");
                    return;
                }
                for at in probes {
                    let up = up & (1 << at) != 0;
                    rig.probed(at, up);
                    model.probed(at, up);
                }
            }
        }
        Step::List(mask) => {
            let listed: Vec<bool> = (0..rig.records.len()).map(|at| mask & (1 << at) != 0).collect();
            rig.follow(&listed);
            for (one, listed) in model.all.iter_mut().zip(listed) {
                one.listed = listed;
            }
            apply(rig, model, &Step::Pass { time: Duration::ZERO, breaker_open: false, up: 0 });
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]
    #[test]
    fn any_history_is_judged_as_the_model_judges_it(
        count in 1..=4_usize,
        steps in proptest::collection::vec(step(), 1..120),
    ) {
        let mut rig = Rig::with(count, settings());
        let mut model = Model::new(count, rig.now);
        for step in &steps {
            apply(&mut rig, &mut model, step);
            for at in 0..count {
                prop_assert_eq!(rig.records[at].trust(), model.trust(at), "{} after {:?}", at, step);
            }
            let counts = rig.judge.counts();
            prop_assert_eq!(counts.panic, model.panic());
            let listed = model.all.iter().filter(|one| one.listed).count();
            prop_assert_eq!(counts.trusted + counts.ejected + counts.probation, listed);
            let usable = |at: &usize| model.all[*at].listed && rig.records[*at].admits(false);
            prop_assert!(listed == 0 || (0..count).any(|at| usable(&at)), "nobody may be chosen");
        }
    }
}
