//! Requests that eject an endpoint, or decide its probation, at the same time.

use std::{sync::Arc, time::Instant};

use loom::thread;
use outrigger_config::OutlierDetection;

use crate::{
    SECOND, check, origin,
    outcome::{Outcome, Sent},
    outlier_detection::{
        AttemptGuard, Detector, EjectionState, Eligibility, EndpointStats, FailureAttribution,
    },
    sync::Mutex,
};

const SETTINGS: OutlierDetection = OutlierDetection {
    consecutive_failures: Some(1),
    success_rate: None,
    window: SECOND,
    min_requests: 1,
    max_ejection_percent: 50.0,
    base_ejection_time: SECOND,
    max_ejection_time: SECOND,
};
const BAD: Outcome = Outcome::Status(503);
const GOOD: Outcome = Outcome::Status(200);

/// Two endpoints and their detector.
struct Cluster {
    stats: [Arc<EndpointStats>; 2],
    detector: Mutex<Detector<EndpointStats>>,
}

type Guard = AttemptGuard<Arc<EndpointStats>>;

impl Cluster {
    fn new(now: Instant) -> Arc<Self> {
        let stats = [(); 2].map(|()| Arc::new(EndpointStats::new(now)));
        let mut detector = Detector::default();
        detector.set_members(
            Some(&SETTINGS),
            stats.iter().map(|one| (Arc::clone(one), Eligibility::InService)),
            now,
        );
        detector.advance(now, false);
        Arc::new(Self { stats, detector: Mutex::new(detector) })
    }

    /// The first endpoint is on probation at the moment returned.
    fn in_probation(now: Instant) -> (Arc<Self>, Instant) {
        let cluster = Self::new(now);
        cluster.request(0, BAD, now);
        let now = now + SECOND;
        let mut detector = cluster.detector.lock();
        detector.advance(now, false);
        detector.report_probe(Some(&SETTINGS), &cluster.stats[0], true, now, 0);
        drop(detector);
        assert_eq!(cluster.stats[0].ejection_state(), EjectionState::Probation);
        (cluster, now)
    }

    fn begin(&self, at: usize) -> Option<Guard> {
        AttemptGuard::begin(Arc::clone(&self.stats[at]), Some(&SETTINGS), true)
    }

    fn end(&self, guard: Guard, outcome: Outcome, now: Instant) {
        let stats = Arc::clone(guard.endpoint());
        let blame = &mut FailureAttribution::default();
        if let Some(report) = guard.record_end(Some(&SETTINGS), blame, outcome, Sent::Head, now) {
            self.detector.lock().report(Some(&SETTINGS), &stats, report, now, 0);
        }
    }

    fn request(&self, at: usize, outcome: Outcome, now: Instant) {
        if let Some(guard) = self.begin(at) {
            self.end(guard, outcome, now);
        }
    }

    fn spawn<R: 'static>(self: &Arc<Self>, work: impl FnOnce(&Self) -> R + 'static) -> thread::JoinHandle<R> {
        let cluster = Arc::clone(self);
        thread::spawn(move || work(&cluster))
    }

    /// What the requests see of the first endpoint is what the detector decided.
    fn assert_agreement(&self) -> EjectionState {
        let state = self.stats[0].ejection_state();
        let is_out = self.detector.lock().ejection_details(&self.stats[0]).is_some();
        assert_eq!(is_out, state != EjectionState::Healthy, "{state:?}");
        state
    }
}

#[test]
fn one_request_at_a_time_holds_the_slot_and_it_is_not_lost() {
    let now = origin();
    check(3, move || {
        let (cluster, _) = Cluster::in_probation(now);
        let holds = Arc::new(loom::sync::atomic::AtomicUsize::new(0));
        let try_slot = move |cluster: &Cluster, holds: &loom::sync::atomic::AtomicUsize| {
            if let Some(guard) = cluster.begin(0) {
                assert_eq!(holds.fetch_add(1, std::sync::atomic::Ordering::AcqRel), 0, "held twice");
                holds.fetch_sub(1, std::sync::atomic::Ordering::AcqRel);
                drop(guard);
            }
        };
        let other = {
            let holds = Arc::clone(&holds);
            cluster.spawn(move |cluster| try_slot(cluster, &holds))
        };
        try_slot(&cluster, &holds);
        other.join().unwrap();
        assert!(cluster.stats[0].admits(true), "the slot is free again");
    });
}

#[test]
fn a_slot_that_passes_on_belongs_to_the_next_request() {
    let now = origin();
    check(3, move || {
        let (cluster, now) = Cluster::in_probation(now);
        let slow = cluster.begin(0).unwrap();
        cluster.detector.lock().advance(now, false);
        // The app of the slow request leaves while its slot passes on.
        let leaves = cluster.spawn(move |_| drop(slow));
        cluster.detector.lock().advance(now + SECOND, false);
        let next = cluster.begin(0);
        leaves.join().unwrap();
        assert!(next.is_some(), "free by the one or by the other");
        assert!(cluster.begin(0).is_none(), "nor does the first one free the slot of the next");
        drop(next);
        assert!(cluster.stats[0].admits(true));
    });
}

#[test]
fn of_two_verdicts_the_first_one_decides_the_probation() {
    let now = origin();
    check(2, move || {
        let (cluster, now) = Cluster::in_probation(now);
        let slow = cluster.begin(0).unwrap();
        cluster.detector.lock().advance(now, false);
        let now = now + SECOND;
        cluster.detector.lock().advance(now, false);
        let next = cluster.begin(0).unwrap();
        let ends = cluster.spawn(move |cluster| cluster.end(slow, GOOD, now));
        cluster.end(next, BAD, now);
        ends.join().unwrap();
        let state = cluster.assert_agreement();
        assert!(matches!(state, EjectionState::Healthy | EjectionState::Ejected), "{state:?}");
    });
}

#[test]
fn two_workers_that_fail_the_last_two_endpoints_leave_one_to_choose() {
    for outcome in [BAD, Outcome::ConnectRefused] {
        let now = origin();
        check(2, move || {
            let cluster = Cluster::new(now);
            let other = cluster.spawn(move |cluster| cluster.request(1, outcome, now));
            cluster.request(0, outcome, now);
            assert!(cluster.stats.iter().any(|one| one.admits(false)));
            other.join().unwrap();
            assert!(cluster.stats.iter().any(|one| one.admits(false)));
            let counts = cluster.detector.lock().counts();
            assert_eq!(counts.panic, outcome != BAD);
            cluster.assert_agreement();
        });
    }
}

#[test]
fn a_failure_from_before_the_ejection_does_not_end_it_twice() {
    let now = origin();
    check(2, move || {
        let cluster = Cluster::new(now);
        let early = cluster.begin(0).unwrap();
        let other = cluster.spawn(move |cluster| cluster.request(0, Outcome::ConnectRefused, now));
        cluster.end(early, BAD, now);
        other.join().unwrap();
        assert_eq!(cluster.assert_agreement(), EjectionState::Ejected);
        assert_eq!(cluster.detector.lock().counts().ejected, 1);
    });
}
