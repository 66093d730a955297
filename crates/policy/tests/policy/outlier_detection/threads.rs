//! What holds when several workers report at the same time.

use std::{
    sync::{
        Barrier, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    thread,
};

use outrigger_policy::{
    Outcome, Sent,
    outlier_detection::{EjectionCounts, FailureAttribution},
};

use super::{BAD, Rig, SECOND};

/// Two workers fail one of two endpoints each, at the same time. Returns whether there was a moment
/// without an endpoint to choose, and the counts at the end.
fn race(requests: usize, outcome: Outcome) -> (bool, EjectionCounts) {
    let Rig { now, stats: records, detector, settings, .. } = Rig::new(2);
    let (detector, start, done) = (Mutex::new(detector), Barrier::new(3), AtomicBool::new(false));
    let ever_none_usable = thread::scope(|scope| {
        let watcher = scope.spawn(|| {
            start.wait();
            let mut none_usable = false;
            while !done.load(Relaxed) {
                none_usable |= !records.iter().any(|record| record.admits(false));
            }
            none_usable
        });
        let workers: Vec<_> = records
            .iter()
            .map(|record| {
                scope.spawn(|| {
                    start.wait();
                    for _ in 0..requests {
                        let mark = record.begin_attempt(settings, true).unwrap();
                        if let Some(report) = mark.record_end(
                            settings,
                            &mut FailureAttribution::default(),
                            outcome,
                            Sent::Head,
                            now,
                        ) {
                            detector.lock().unwrap().report(settings, record, report, now, 0);
                        }
                    }
                })
            })
            .collect();
        for worker in workers {
            worker.join().unwrap();
        }
        done.store(true, Relaxed);
        watcher.join().unwrap()
    });
    (ever_none_usable, detector.into_inner().unwrap().counts())
}

#[test]
fn two_workers_cannot_eject_the_last_two() {
    for _ in 0..200 {
        let (ever_none_usable, counts) = race(5, BAD);
        assert!(!ever_none_usable);
        assert_eq!((counts.healthy, counts.ejected, counts.panic), (1, 1, false));
    }
}

#[test]
fn when_both_refuse_connections_panic_mode_leaves_an_endpoint_to_choose() {
    for _ in 0..200 {
        let (ever_none_usable, counts) = race(1, Outcome::ConnectRefused);
        assert!(!ever_none_usable);
        assert_eq!((counts.healthy, counts.ejected, counts.panic), (0, 2, true));
    }
}

#[test]
fn of_many_requests_one_takes_the_slot_of_a_probation() {
    for _ in 0..100 {
        let mut rig = Rig::new(2);
        rig.requests(0, 5, BAD);
        rig.advance_and_accept(SECOND);
        let (record, settings) = (&rig.stats[0], rig.settings);
        let (start, count) = (Barrier::new(4), AtomicUsize::new(0));
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    start.wait();
                    let mark = record.begin_attempt(settings, true);
                    count.fetch_add(usize::from(mark.is_some()), Relaxed);
                    // The slot is freed only after every thread has tried to take it.
                    start.wait();
                });
            }
        });
        assert_eq!(count.into_inner(), 1);
    }
}
