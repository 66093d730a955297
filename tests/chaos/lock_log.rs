//! What the apps of a case know of their locks, and the store that the mutex protects.

use std::{collections::BTreeMap, time::Duration};

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::lock_audit::{HoldEnd, LockHold, audit_holds, shortest_after_loss};

/// A lock that several apps want.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ContendedLock {
    /// Its name in the API of the sidecars.
    pub(crate) name: &'static str,
    /// 1: a mutex.
    pub(crate) limit: usize,
}

/// The number of a hold in the log of its lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct HoldNumber(usize);

/// All holds so far, on one clock, and a store that refuses older tokens.
#[derive(Debug)]
pub(crate) struct LockLog {
    begun: Instant,
    state: Mutex<LogState>,
}

#[derive(Debug, Default)]
struct LogState {
    holds: BTreeMap<ContendedLock, Vec<LockHold>>,
    /// The highest token that has written.
    written_by: u64,
    writes: u64,
    refused_writes: Vec<String>,
    refused: BTreeMap<String, u64>,
    anomalies: Vec<String>,
}

impl LockLog {
    pub(crate) fn new() -> Self {
        Self { begun: Instant::now(), state: Mutex::default() }
    }

    /// The time since the log began.
    pub(crate) fn now(&self) -> Duration {
        self.begun.elapsed()
    }

    /// `holder` was just told that it holds `lock`.
    pub(crate) fn begin(
        &self,
        lock: ContendedLock,
        holder: &str,
        token: Option<u64>,
        asked: Duration,
    ) -> HoldNumber {
        let mut state = self.state.lock();
        let holds = state.holds.entry(lock).or_default();
        holds.push(LockHold {
            holder: holder.to_owned(),
            token,
            asked,
            acquired: self.now(),
            ended: None,
            renewed: None,
        });
        HoldNumber(holds.len() - 1)
    }

    /// The hold ends now.
    pub(crate) fn end(&self, lock: ContendedLock, HoldNumber(number): HoldNumber, how: HoldEnd) {
        let at = self.now();
        self.change(lock, number, |hold| hold.ended = Some((at, how)));
    }

    /// How the hold ended, which is known later than that it did.
    pub(crate) fn correct_end(&self, lock: ContendedLock, HoldNumber(number): HoldNumber, how: HoldEnd) {
        self.change(lock, number, |hold| {
            if let Some((_, known)) = &mut hold.ended {
                *known = how;
            }
        });
    }

    /// A renewal of the lease was confirmed now.
    pub(crate) fn note_renewal(&self, lock: ContendedLock, HoldNumber(number): HoldNumber) {
        let at = self.now();
        self.change(lock, number, |hold| hold.renewed = Some(at));
    }

    fn change(&self, lock: ContendedLock, number: usize, change: impl FnOnce(&mut LockHold)) {
        let mut state = self.state.lock();
        if let Some(hold) = state.holds.get_mut(&lock).and_then(|holds| holds.get_mut(number)) {
            change(hold);
        }
    }

    /// A write of `holder`, which believes that it holds the lock. The store refuses it where a higher token has written.
    pub(crate) fn write_to_store(&self, holder: &str, token: u64) {
        let mut state = self.state.lock();
        state.writes += 1;
        if token >= state.written_by {
            state.written_by = token;
            return;
        }
        let (at, newest) = (self.now().as_secs_f64(), state.written_by);
        state.refused_writes.push(format!("{holder} with token {token} at {at:.3} s, after {newest}"));
    }

    /// A request for a lock was refused, for this reason.
    pub(crate) fn count_refusal(&self, reason: &str) {
        *self.state.lock().refused.entry(reason.to_owned()).or_default() += 1;
    }

    /// Something that a sidecar must not say.
    pub(crate) fn note_anomaly(&self, what: String) {
        let at = self.now().as_secs_f64();
        self.state.lock().anomalies.push(format!("{what} at {at:.3} s"));
    }

    /// The holds of `lock` so far.
    pub(crate) fn holds(&self, lock: ContendedLock) -> Vec<LockHold> {
        self.state.lock().holds.get(&lock).cloned().unwrap_or_default()
    }

    /// One of these holders that holds `lock` now, and the number of its hold.
    pub(crate) fn held_by(&self, lock: ContendedLock, holders: &[String]) -> Option<(String, HoldNumber)> {
        let state = self.state.lock();
        let holds = state.holds.get(&lock)?;
        let held = |(_, hold): &(usize, &LockHold)| hold.ended.is_none() && holders.contains(&hold.holder);
        let (number, hold) = holds.iter().enumerate().rfind(held)?;
        Some((hold.holder.clone(), HoldNumber(number)))
    }

    /// The hold with this number.
    pub(crate) fn hold(&self, lock: ContendedLock, HoldNumber(number): HoldNumber) -> Option<LockHold> {
        self.state.lock().holds.get(&lock)?.get(number).cloned()
    }

    /// What is wrong with what was recorded: the first of each kind in words, and how many more there are.
    pub(crate) fn breaches(&self) -> Vec<String> {
        let state = self.state.lock();
        let mut breaches = Vec::new();
        for (lock, holds) in &state.holds {
            let found = audit_holds(holds, lock.limit).into_iter();
            breaches.extend(first_ones(found.map(|breach| format!("{}: {breach}", lock.name)).collect()));
        }
        let refused = state.refused_writes.iter().map(|write| format!("the store refused a holder: {write}"));
        breaches.extend(first_ones(refused.collect()));
        breaches.extend(first_ones(state.anomalies.clone()));
        breaches
    }

    /// How many holds ended in each way.
    pub(crate) fn count_ends(&self) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        for hold in self.state.lock().holds.values().flatten() {
            if let Some((_, how)) = &hold.ended {
                *counts.entry(how.name()).or_default() += 1;
            }
        }
        counts
    }

    /// What was measured, in words.
    pub(crate) fn describe(&self) -> Vec<String> {
        let mut words = Vec::new();
        {
            let state = self.state.lock();
            for (lock, holds) in &state.holds {
                let next = shortest_after_loss(holds).filter(|_| lock.limit == 1);
                let next = next.map_or_else(String::new, |next| {
                    format!(", the next hold at least {:.1} s after a loss", next.as_secs_f64())
                });
                words.push(format!("{}: {} holds{next}", lock.name, holds.len()));
            }
            let refused: Vec<_> = state.refused.iter().map(|(why, count)| format!("{count} {why}")).collect();
            words.push(format!("{} writes; refused requests: {}", state.writes, refused.join(" ")));
        }
        let ends: Vec<_> = self.count_ends().iter().map(|(how, count)| format!("{count} {how}")).collect();
        words.push(format!("ends: {}", ends.join(", ")));
        words
    }
}

/// The first three, and how many more there are: a row of the report stays readable.
fn first_ones(mut breaches: Vec<String>) -> Vec<String> {
    let more = breaches.len().saturating_sub(3);
    breaches.truncate(3);
    breaches.extend((more > 0).then(|| format!("and {more} more like these")));
    breaches
}

#[cfg(test)]
mod tests {
    use super::*;

    const JOBS: ContendedLock = ContendedLock { name: "jobs", limit: 1 };

    #[tokio::test]
    async fn a_write_with_an_older_token_is_a_breach() {
        let log = LockLog::new();
        log.write_to_store("a", 5);
        log.write_to_store("a", 5);
        log.write_to_store("b", 7);
        assert_eq!(log.breaches(), [""; 0]);
        log.write_to_store("a", 5);
        assert_eq!(log.breaches().len(), 1);
        (0..4).for_each(|_| log.write_to_store("a", 6));
        assert_eq!(log.breaches()[3..], ["and 2 more like these"]);
    }

    #[tokio::test]
    async fn a_second_holder_is_a_breach_and_the_present_one_is_known() {
        let log = LockLog::new();
        let holders = ["a".to_owned(), "b".to_owned()];
        let first = log.begin(JOBS, "a", Some(5), log.now());
        assert_eq!(log.held_by(JOBS, &holders), Some(("a".to_owned(), first)));
        let second = log.begin(JOBS, "b", Some(6), log.now());
        log.end(JOBS, first, HoldEnd::Cut);
        assert_eq!(log.held_by(JOBS, &holders), Some(("b".to_owned(), second)));
        assert_eq!((log.breaches().len(), log.count_ends()["cut"]), (1, 1));
        log.end(JOBS, second, HoldEnd::Released);
        assert_eq!(log.held_by(JOBS, &holders), None);
    }
}
