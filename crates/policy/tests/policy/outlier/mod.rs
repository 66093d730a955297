//! The trust in a cluster's endpoints, through the calls that the proxy makes.

mod adopt;
mod evidence;
mod model;
mod probes;
mod spells;
mod table;
mod threads;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use outrigger_config::OutlierDetection;
use outrigger_policy::{
    Outcome, Sent,
    outlier::{Blame, Due, Event, Judge, Record, ReturnedBy, Trust, Why},
};

use crate::origin;

const SECOND: Duration = Duration::from_secs(1);
const GOOD: Outcome = Outcome::Status(200);
const BAD: Outcome = Outcome::Status(503);

/// A cluster of `records`, all listed, with a clock.
struct Rig {
    now: Instant,
    records: Vec<Arc<Record>>,
    judge: Judge,
    /// Chance takes nothing of a time out away at 0, and a half at the most.
    random: u64,
}

impl Rig {
    fn new(count: usize) -> Self {
        Self::with(count, OutlierDetection::default())
    }

    fn with(count: usize, settings: OutlierDetection) -> Self {
        let now = origin();
        let records: Vec<_> = (0..count).map(|_| Arc::new(Record::new(Some(&settings), now))).collect();
        let mut judge = Judge::new(Some(&settings));
        let events = judge.follow(records.iter().map(|one| (one.clone(), true)), now);
        assert!(events.is_empty(), "{events:?}");
        let due = judge.due(now, false);
        assert!(due.events.is_empty() && due.next.is_none(), "{due:?}");
        Self { now, records, judge, random: 0 }
    }

    /// The registry says who may be chosen, and a new View shows it.
    fn list(&mut self, listed: &[bool]) -> Vec<Event> {
        let mut events = self.follow(listed);
        events.extend(self.judge.due(self.now, false).events);
        events
    }

    /// The registry says who may be chosen; the old View is still there.
    fn follow(&mut self, listed: &[bool]) -> Vec<Event> {
        let known = self.records.iter().cloned().zip(listed.iter().copied());
        self.judge.follow(known, self.now)
    }

    /// One request of one attempt, on which a retry is allowed.
    fn request(&mut self, at: usize, outcome: Outcome) -> Vec<Event> {
        self.attempt(at, outcome, &mut Blame::default())
    }

    /// One attempt of the request that `blame` belongs to.
    fn attempt(&mut self, at: usize, outcome: Outcome, blame: &mut Blame) -> Vec<Event> {
        let record = &self.records[at];
        let Some(mark) = record.begin(true) else { return Vec::new() };
        let report = mark.end(blame, outcome, Sent::Head, self.now);
        report.map(|report| self.judge.ask(record, report, self.now, self.random)).unwrap_or_default()
    }

    fn requests(&mut self, at: usize, count: usize, outcome: Outcome) -> Vec<Event> {
        (0..count).flat_map(|_| self.request(at, outcome)).collect()
    }

    fn pass(&mut self, time: Duration) -> Due {
        self.now += time;
        self.judge.due(self.now, false)
    }

    /// Time passes, and whoever is tried then accepts the connection.
    fn pass_up(&mut self, time: Duration) -> Vec<Event> {
        let due = self.pass(time);
        let probed = self.places(&due.probes).into_iter().flat_map(|at| self.probed(at, true));
        let mut events = due.events;
        events.extend(probed);
        // What begins with that is due now.
        self.judge.due(self.now, false);
        events
    }

    fn probed(&mut self, at: usize, connected: bool) -> Vec<Event> {
        self.judge.probed(&self.records[at], connected, self.now, self.random)
    }

    /// Whom `records` belong to.
    fn places(&self, records: &[Arc<Record>]) -> Vec<usize> {
        let place = |one: &Arc<Record>| self.records.iter().position(|own| Arc::ptr_eq(own, one)).unwrap();
        records.iter().map(place).collect()
    }

    /// A letter for each endpoint.
    fn shown(&self) -> String {
        self.records
            .iter()
            .map(|record| match record.trust() {
                Trust::Trusted => 'T',
                Trust::Ejected => 'E',
                Trust::Probation => 'B',
                Trust::Panic => 'P',
            })
            .collect()
    }
}

fn words(events: &[Event]) -> Vec<String> {
    let word = |event: &Event| match event {
        Event::Ejected { why, .. } => format!("ejected {}", why.label()),
        Event::Spared { why, .. } => format!("spared {}", why.label()),
        Event::Probation { .. } => "probation".to_owned(),
        Event::Returned { by: ReturnedBy::Request, .. } => "returned by request".to_owned(),
        Event::Returned { by: ReturnedBy::Probe, .. } => "returned by probe".to_owned(),
        Event::Panic(on) => format!("panic {on}"),
    };
    events.iter().map(word).collect()
}

/// How long the ejection in `events` lasts.
fn spell(events: &[Event]) -> Duration {
    let spell = |event: &Event| match event {
        Event::Ejected { spell, .. } => Some(*spell),
        _ => None,
    };
    events.iter().find_map(spell).unwrap()
}

#[test]
fn turned_off_everybody_is_trusted() {
    let now = origin();
    let record = Arc::new(Record::new(None, now));
    let mut judge = Judge::new(None);
    assert!(judge.follow([(record.clone(), true)], now).is_empty());
    for _ in 0..100 {
        let mark = record.begin(false).unwrap();
        assert_eq!(mark.end(&mut Blame::default(), Outcome::ConnectRefused, Sent::Nothing, now), None);
    }
    let due = judge.due(now + SECOND, true);
    assert!(due.events.is_empty() && due.probes.is_empty() && due.next.is_none());
    assert!(record.admits(false));
}

#[test]
fn every_reason_has_a_word_of_its_own() {
    let mut labels: Vec<_> = Why::ALL.map(Why::label).to_vec();
    labels.sort_unstable();
    labels.dedup();
    assert_eq!(labels.len(), Why::ALL.len());
}
