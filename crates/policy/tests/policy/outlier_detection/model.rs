//! Random histories against a slow and simple model without epochs.

use std::time::{Duration, Instant};

use outrigger_config::OutlierDetection;
use outrigger_policy::{
    Outcome, Sent,
    outlier_detection::{EjectionState, FailureAttribution},
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
    /// A request to one endpoint, if the endpoint may be chosen.
    Request { at: usize, outcome: Outcome, retryable: bool },
    /// Time passes, then the due probes run: the bits are the endpoints that accept connections.
    Pass { time: Duration, breaker_open: bool, up: u8 },
    /// Other endpoints are eligible.
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

/// An endpoint's state in the model.
#[derive(Debug, Clone)]
struct ModelEndpoint {
    eligible: bool,
    /// Since when it is healthy, if it is.
    healthy_since: Option<Instant>,
    hard: bool,
    until: Instant,
    /// On probation: from this moment on any request decides.
    probation: Option<Instant>,
    /// That moment has passed.
    any: bool,
    ejection_time: Duration,
    doublings: u32,
    tried: Instant,
    failures: Vec<Outcome>,
}

#[derive(Debug)]
struct DetectorModel {
    now: Instant,
    all: Vec<ModelEndpoint>,
}

impl DetectorModel {
    fn new(count: usize, now: Instant) -> Self {
        let one = ModelEndpoint {
            eligible: true,
            healthy_since: Some(now),
            hard: false,
            until: now,
            probation: None,
            any: false,
            ejection_time: Duration::ZERO,
            doublings: 0,
            tried: now,
            failures: Vec::new(),
        };
        Self { now, all: vec![one; count] }
    }

    fn panic(&self) -> bool {
        let mut eligible = self.all.iter().filter(|one| one.eligible).peekable();
        eligible.peek().is_some() && eligible.all(|one| one.healthy_since.is_none())
    }

    fn ejection_state(&self, at: usize) -> EjectionState {
        let one = &self.all[at];
        match (one.healthy_since, one.probation) {
            (Some(_), _) => EjectionState::Healthy,
            _ if one.eligible && self.panic() => EjectionState::Panic,
            (None, Some(_)) => EjectionState::Probation,
            (None, None) => EjectionState::Ejected,
        }
    }

    fn admits(&self, at: usize, retryable: bool) -> bool {
        let one = &self.all[at];
        match self.ejection_state(at) {
            EjectionState::Healthy | EjectionState::Panic => true,
            EjectionState::Ejected => false,
            EjectionState::Probation => retryable || one.any,
        }
    }

    fn request(&mut self, at: usize, outcome: Outcome) {
        let panic = self.ejection_state(at) == EjectionState::Panic;
        let one = &mut self.all[at];
        match (outcome, one.healthy_since) {
            (Outcome::Resource, _) => {}
            (GOOD, Some(_)) => one.failures.clear(),
            (GOOD, None) => self.mark_healthy(at),
            // In panic mode the ejection time stays, but a probation ends.
            (Outcome::ConnectRefused, None) if panic && one.probation.is_none() => one.hard = true,
            (Outcome::ConnectRefused, None) => self.eject(at, true),
            (_, None) if panic => {}
            (failed, None) => self.eject(at, failed != BAD),
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
            Outcome::ConnectRefused => self.eject(at, true),
            Outcome::ConnectTimeout if timeouts >= 2 => self.eject(at, true),
            BAD if row % ROW == 0 && self.is_below_cap() => self.eject(at, false),
            _ => {}
        }
    }

    /// One more ejection must leave half of the endpoints that accept connections.
    fn is_below_cap(&self) -> bool {
        let out = |one: &&ModelEndpoint| one.eligible && one.healthy_since.is_none();
        let hard = self.all.iter().filter(out).filter(|one| one.hard).count();
        let soft = self.all.iter().filter(out).filter(|one| !one.hard).count();
        let eligible = self.all.iter().filter(|one| one.eligible).count();
        soft < (eligible - hard) / 2
    }

    fn eject(&mut self, at: usize, hard: bool) {
        let now = self.now;
        let one = &mut self.all[at];
        if let Some(since) = one.healthy_since {
            let windows = (now - since).as_secs() / 10;
            one.doublings = one.doublings.saturating_sub(windows as u32);
        }
        one.ejection_time = Duration::from_secs(60.min(1 << one.doublings.min(10)));
        one.doublings += 1;
        (one.healthy_since, one.probation, one.any, one.hard) = (None, None, false, hard);
        (one.until, one.tried) = (now + one.ejection_time, now);
        one.failures.clear();
    }

    fn mark_healthy(&mut self, at: usize) {
        let one = &mut self.all[at];
        (one.healthy_since, one.probation, one.any, one.hard) = (Some(self.now), None, false, false);
        one.failures.clear();
    }

    /// Lets time pass; returns the endpoints to probe now.
    fn advance(&mut self, breaker_open: bool) -> Vec<usize> {
        let (now, panic) = (self.now, self.panic());
        for one in self.all.iter_mut().filter(|one| one.eligible && !panic) {
            one.any |= one.probation.is_some_and(|any| any <= now);
        }
        let often = |one: &ModelEndpoint| one.tried + millis(250) <= now;
        let is_due = |one: &ModelEndpoint| match (one.eligible && one.healthy_since.is_none(), panic) {
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

    fn report_probe(&mut self, at: usize, up: bool) {
        let panic = self.panic();
        let one = &mut self.all[at];
        let out = one.healthy_since.is_none();
        let over = one.probation.is_none() && one.until <= self.now;
        if up && out && (one.hard || panic) {
            self.mark_healthy(at);
        } else if up && out && over {
            one.probation = Some(self.now + one.ejection_time);
        } else if !up && out && over && !panic {
            self.eject(at, true);
        }
    }
}

/// Applies a step to both.
fn apply(rig: &mut Rig, model: &mut DetectorModel, step: &Step) {
    match step {
        Step::Request { at, outcome, retryable } => {
            let at = at % rig.stats.len();
            let record = rig.stats[at].clone();
            assert_eq!(record.admits(*retryable), model.admits(at, *retryable), "whether {at} is admitted");
            if !record.admits(*retryable) {
                return;
            }
            let mark = record.begin_attempt(rig.settings, *retryable).unwrap();
            if let Some(report) = mark.record_end(
                rig.settings,
                &mut FailureAttribution::default(),
                *outcome,
                Sent::Head,
                rig.now,
            ) {
                rig.detector.report(rig.settings, &record, report, rig.now, 0);
            }
            model.request(at, *outcome);
        }
        Step::Pass { time, breaker_open, up } => {
            rig.now += *time;
            model.now += *time;
            // An endpoint that returns may end panic mode, and then other probes are due.
            loop {
                let due = rig.detector.advance(rig.now, *breaker_open);
                let mut probes = rig.indexes(&due.probes);
                probes.sort_unstable();
                assert_eq!(probes, model.advance(*breaker_open));
                if probes.is_empty() {
                    assert!(due.next.is_none_or(|next| next > rig.now), "what is due was done");
                    return;
                }
                for at in probes {
                    let up = up & (1 << at) != 0;
                    rig.report_probe(at, up);
                    model.report_probe(at, up);
                }
            }
        }
        Step::List(mask) => {
            let eligible: Vec<bool> = (0..rig.stats.len()).map(|at| mask & (1 << at) != 0).collect();
            rig.set_members(&eligible);
            for (one, eligible) in model.all.iter_mut().zip(eligible) {
                one.eligible = eligible;
            }
            apply(rig, model, &Step::Pass { time: Duration::ZERO, breaker_open: false, up: 0 });
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]
    #[test]
    fn any_history_leads_to_the_states_of_the_model(
        count in 1..=4_usize,
        steps in proptest::collection::vec(step(), 1..120),
    ) {
        let mut rig = Rig::with(count, settings());
        let mut model = DetectorModel::new(count, rig.now);
        for step in &steps {
            apply(&mut rig, &mut model, step);
            for at in 0..count {
                prop_assert_eq!(rig.stats[at].ejection_state(), model.ejection_state(at), "{} after {:?}", at, step);
            }
            let counts = rig.detector.counts();
            prop_assert_eq!(counts.panic, model.panic());
            let eligible = model.all.iter().filter(|one| one.eligible).count();
            prop_assert_eq!(counts.healthy + counts.ejected + counts.probation, eligible);
            let usable = |at: &usize| model.all[*at].eligible && rig.stats[*at].admits(false);
            prop_assert!(eligible == 0 || (0..count).any(|at| usable(&at)), "no endpoint may be chosen");
        }
    }
}
