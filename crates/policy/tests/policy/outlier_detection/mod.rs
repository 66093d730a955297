//! The states of a cluster's endpoints, through the calls that the proxy makes.

mod ejection_time;
mod evidence;
mod last_resorts;
mod model;
mod probes;
mod relief;
mod settings;
mod slots;
mod stall;
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
        Detector, DueActions, EjectionEvent, EjectionReason, EjectionState, Eligibility, EndpointStats,
        FailureAttribution, ReturnedBy,
    },
};

use crate::origin;

const SECOND: Duration = Duration::from_secs(1);
const GOOD: Outcome = Outcome::Status(200);
const BAD: Outcome = Outcome::Status(503);

type Event = EjectionEvent<EndpointStats>;

/// A cluster of eligible endpoints, with a clock.
struct Rig {
    now: Instant,
    stats: Vec<Arc<EndpointStats>>,
    detector: Detector<EndpointStats>,
    /// Leaked, so that a guard does not borrow the rig.
    settings: Option<&'static OutlierDetection>,
    /// 0 subtracts nothing from an ejection time; the greatest value subtracts a half.
    random: u64,
}

impl Rig {
    fn new(count: usize) -> Self {
        Self::with(count, OutlierDetection::default())
    }

    fn with(count: usize, settings: OutlierDetection) -> Self {
        let now = origin();
        let settings = Some(&*Box::leak(Box::new(settings)));
        let stats: Vec<_> = (0..count).map(|_| Arc::new(EndpointStats::new(now))).collect();
        let mut detector = Detector::default();
        let members = stats.iter().map(|one| (one.clone(), Eligibility::InService));
        let events = detector.set_members(settings, members, now);
        assert!(events.is_empty(), "{events:?}");
        let due = detector.advance(now, false);
        assert!(due.events.is_empty() && due.next.is_none(), "{due:?}");
        Self { now, stats, detector, settings, random: 0 }
    }

    /// Changes which endpoints are eligible, and publishes a new View.
    fn update_view(&mut self, eligible: &[bool]) -> Vec<Event> {
        let mut events = self.set_members(eligible);
        events.extend(self.detector.advance(self.now, false).events);
        events
    }

    /// Changes which endpoints are eligible; the old View is still there.
    fn set_members(&mut self, eligible: &[bool]) -> Vec<Event> {
        self.set_eligibility(
            eligible.iter().map(|one| if *one { Eligibility::InService } else { Eligibility::OutOfService }),
        )
    }

    /// The same, with last resorts.
    fn set_eligibility(&mut self, eligible: impl IntoIterator<Item = Eligibility>) -> Vec<Event> {
        let known = self.stats.iter().cloned().zip(eligible);
        self.detector.set_members(self.settings, known, self.now)
    }

    /// One request of one attempt, on which a retry is allowed.
    fn request(&mut self, at: usize, outcome: Outcome) -> Vec<Event> {
        self.attempt(at, outcome, &mut FailureAttribution::default())
    }

    /// One attempt of the request that `blame` belongs to.
    fn attempt(&mut self, at: usize, outcome: Outcome, blame: &mut FailureAttribution) -> Vec<Event> {
        let stats = &self.stats[at];
        let Some(guard) = stats.begin_attempt(self.settings, true) else { return Vec::new() };
        let report = guard.record_end(self.settings, blame, outcome, Sent::Head, self.now);
        report
            .map(|report| self.detector.report(self.settings, stats, report, self.now, self.random))
            .unwrap_or_default()
    }

    fn requests(&mut self, at: usize, count: usize, outcome: Outcome) -> Vec<Event> {
        (0..count).flat_map(|_| self.request(at, outcome)).collect()
    }

    fn advance(&mut self, time: Duration) -> DueActions<EndpointStats> {
        self.now += time;
        self.detector.advance(self.now, false)
    }

    /// Lets time pass; every probe that is due then connects.
    fn advance_and_accept(&mut self, time: Duration) -> Vec<Event> {
        let due = self.advance(time);
        let probed = self.indexes(&due.probes).into_iter().flat_map(|at| self.report_probe(at, true));
        let mut events = due.events;
        events.extend(probed);
        // Probations that begin now are published by this call.
        self.detector.advance(self.now, false);
        events
    }

    fn report_probe(&mut self, at: usize, connected: bool) -> Vec<Event> {
        self.detector.report_probe(self.settings, &self.stats[at], connected, self.now, self.random)
    }

    /// The indexes of endpoints.
    fn indexes(&self, endpoints: &[Arc<EndpointStats>]) -> Vec<usize> {
        let index_of =
            |one: &Arc<EndpointStats>| self.stats.iter().position(|own| Arc::ptr_eq(own, one)).unwrap();
        endpoints.iter().map(index_of).collect()
    }

    /// A letter for each endpoint.
    fn states(&self) -> String {
        self.stats
            .iter()
            .map(|stats| match stats.ejection_state() {
                EjectionState::Healthy => 'T',
                EjectionState::Ejected => 'E',
                EjectionState::Probation => 'B',
                EjectionState::Panic => 'P',
            })
            .collect()
    }
}

fn describe(events: &[Event]) -> Vec<String> {
    let word = |event: &Event| match event {
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
fn ejection_time(events: &[Event]) -> Duration {
    let ejection_time = |event: &Event| match event {
        EjectionEvent::Ejected { ejection_time, .. } => Some(*ejection_time),
        _ => None,
    };
    events.iter().find_map(ejection_time).unwrap()
}

#[test]
fn turned_off_every_endpoint_is_healthy() {
    let now = origin();
    let stats = Arc::new(EndpointStats::new(now));
    let mut detector = Detector::default();
    assert!(detector.set_members(None, [(stats.clone(), Eligibility::InService)], now).is_empty());
    for _ in 0..100 {
        let guard = stats.begin_attempt(None, false).unwrap();
        assert_eq!(
            guard.record_end(
                None,
                &mut FailureAttribution::default(),
                Outcome::ConnectRefused,
                Sent::Nothing,
                now
            ),
            None
        );
    }
    let due = detector.advance(now + SECOND, true);
    assert!(due.events.is_empty() && due.probes.is_empty() && due.next.is_none());
    assert!(stats.admits(false));
}

#[test]
fn every_reason_has_its_own_label() {
    let reasons = [
        EjectionReason::Unreachable,
        EjectionReason::UnreachableFromHere,
        EjectionReason::ConnectTimeouts,
        EjectionReason::ConsecutiveFailures,
        EjectionReason::SuccessRate,
        EjectionReason::Probation,
    ];
    let mut labels = reasons.map(EjectionReason::label).to_vec();
    labels.sort_unstable();
    labels.dedup();
    assert_eq!(labels.len(), reasons.len());
}
