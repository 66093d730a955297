//! The trust in a cluster's endpoints, through the calls that the proxy makes.

mod ejection_time;
mod evidence;
mod model;
mod probes;
mod settings;
mod table;
mod threads;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use outrigger_config::OutlierDetection;
use outrigger_policy::{
    Outcome, Sent,
    outlier_detection::{
        Detector, DueActions, EjectionEvent, EjectionReason, EjectionState, EndpointStats,
        FailureAttribution, ReturnedBy,
    },
};

use crate::origin;

const SECOND: Duration = Duration::from_secs(1);
const GOOD: Outcome = Outcome::Status(200);
const BAD: Outcome = Outcome::Status(503);

/// A cluster of `records`, all listed, with a clock.
struct Rig {
    now: Instant,
    stats: Vec<Arc<EndpointStats>>,
    detector: Detector,
    /// Chance takes nothing of a time out away at 0, and a half at the most.
    random: u64,
}

impl Rig {
    fn new(count: usize) -> Self {
        Self::with(count, OutlierDetection::default())
    }

    fn with(count: usize, settings: OutlierDetection) -> Self {
        let now = origin();
        let records: Vec<_> =
            (0..count).map(|_| Arc::new(EndpointStats::new(Some(&settings), now))).collect();
        let mut judge = Detector::new(Some(&settings));
        let events = judge.set_members(records.iter().map(|one| (one.clone(), true)), now);
        assert!(events.is_empty(), "{events:?}");
        let due = judge.advance(now, false);
        assert!(due.events.is_empty() && due.next.is_none(), "{due:?}");
        Self { now, stats: records, detector: judge, random: 0 }
    }

    /// The registry says who may be chosen, and a new View shows it.
    fn update_view(&mut self, eligible: &[bool]) -> Vec<EjectionEvent> {
        let mut events = self.set_members(eligible);
        events.extend(self.detector.advance(self.now, false).events);
        events
    }

    /// The registry says who may be chosen; the old View is still there.
    fn set_members(&mut self, eligible: &[bool]) -> Vec<EjectionEvent> {
        let known = self.stats.iter().cloned().zip(eligible.iter().copied());
        self.detector.set_members(known, self.now)
    }

    /// One request of one attempt, on which a retry is allowed.
    fn request(&mut self, at: usize, outcome: Outcome) -> Vec<EjectionEvent> {
        self.attempt(at, outcome, &mut FailureAttribution::default())
    }

    /// One attempt of the request that `blame` belongs to.
    fn attempt(&mut self, at: usize, outcome: Outcome, blame: &mut FailureAttribution) -> Vec<EjectionEvent> {
        let record = &self.stats[at];
        let Some(mark) = record.begin_attempt(true) else { return Vec::new() };
        let report = mark.record_end(blame, outcome, Sent::Head, self.now);
        report.map(|report| self.detector.report(record, report, self.now, self.random)).unwrap_or_default()
    }

    fn requests(&mut self, at: usize, count: usize, outcome: Outcome) -> Vec<EjectionEvent> {
        (0..count).flat_map(|_| self.request(at, outcome)).collect()
    }

    fn advance(&mut self, time: Duration) -> DueActions {
        self.now += time;
        self.detector.advance(self.now, false)
    }

    /// Time passes, and whoever is tried then accepts the connection.
    fn advance_and_accept(&mut self, time: Duration) -> Vec<EjectionEvent> {
        let due = self.advance(time);
        let probed = self.indexes(&due.probes).into_iter().flat_map(|at| self.report_probe(at, true));
        let mut events = due.events;
        events.extend(probed);
        // What begins with that is due now.
        self.detector.advance(self.now, false);
        events
    }

    fn report_probe(&mut self, at: usize, connected: bool) -> Vec<EjectionEvent> {
        self.detector.report_probe(&self.stats[at], connected, self.now, self.random)
    }

    /// Whom `records` belong to.
    fn indexes(&self, records: &[Arc<EndpointStats>]) -> Vec<usize> {
        let place =
            |one: &Arc<EndpointStats>| self.stats.iter().position(|own| Arc::ptr_eq(own, one)).unwrap();
        records.iter().map(place).collect()
    }

    /// A letter for each endpoint.
    fn states(&self) -> String {
        self.stats
            .iter()
            .map(|record| match record.ejection_state() {
                EjectionState::Healthy => 'T',
                EjectionState::Ejected => 'E',
                EjectionState::Probation => 'B',
                EjectionState::Panic => 'P',
            })
            .collect()
    }
}

fn describe(events: &[EjectionEvent]) -> Vec<String> {
    let word = |event: &EjectionEvent| match event {
        EjectionEvent::Ejected { reason: why, .. } => format!("ejected {}", why.label()),
        EjectionEvent::CapReached { reason: why, .. } => format!("spared {}", why.label()),
        EjectionEvent::Probation { .. } => "probation".to_owned(),
        EjectionEvent::Returned { by: ReturnedBy::Request, .. } => "returned by request".to_owned(),
        EjectionEvent::Returned { by: ReturnedBy::Probe, .. } => "returned by probe".to_owned(),
        EjectionEvent::Panic(on) => format!("panic {on}"),
    };
    events.iter().map(word).collect()
}

/// How long the ejection in `events` lasts.
fn ejection_time(events: &[EjectionEvent]) -> Duration {
    let ejection_time = |event: &EjectionEvent| match event {
        EjectionEvent::Ejected { ejection_time, .. } => Some(*ejection_time),
        _ => None,
    };
    events.iter().find_map(ejection_time).unwrap()
}

#[test]
fn turned_off_everybody_is_trusted() {
    let now = origin();
    let record = Arc::new(EndpointStats::new(None, now));
    let mut judge = Detector::new(None);
    assert!(judge.set_members([(record.clone(), true)], now).is_empty());
    for _ in 0..100 {
        let mark = record.begin_attempt(false).unwrap();
        assert_eq!(
            mark.record_end(&mut FailureAttribution::default(), Outcome::ConnectRefused, Sent::Nothing, now),
            None
        );
    }
    let due = judge.advance(now + SECOND, true);
    assert!(due.events.is_empty() && due.probes.is_empty() && due.next.is_none());
    assert!(record.admits(false));
}

#[test]
fn every_reason_has_a_word_of_its_own() {
    let mut labels: Vec<_> = EjectionReason::ALL.map(EjectionReason::label).to_vec();
    labels.sort_unstable();
    labels.dedup();
    assert_eq!(labels.len(), EjectionReason::ALL.len());
}
