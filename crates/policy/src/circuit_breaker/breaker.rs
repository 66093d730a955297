//! The breaker's words and its lock, and the permit of an admitted request.

use std::{
    sync::atomic::Ordering::{Acquire, Relaxed, Release},
    time::{Duration, Instant},
};

use outrigger_config::CircuitBreaker;

use super::phase::{Admission, BreakerState, Phase, ProbeEffect};
use crate::{
    outcome::Verdict,
    sliding_window::{SlidingCounter, WindowClock},
    sync::{AtomicU32, AtomicU64, Mutex},
};

/// The breaker refused a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("circuit breaker open, next try in {retry_after:?}")]
pub struct BreakerOpen {
    /// The rest of the open time; while probes are in flight, the time until one of their slots passes on.
    pub retry_after: Duration,
}

/// What the end of a request has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BreakerChange {
    /// The breaker was closed and is open.
    Opened {
        /// Requests in the window that failed; with `consecutive_failures` it may be few of them.
        failed: u32,
        /// Requests in the window that ended.
        ended: u32,
    },
    /// A probe has failed: it is open again.
    Reopened,
    /// The probes have succeeded: it is closed.
    Closed,
}

/// One service's circuit breaker.
#[derive(Debug)]
pub struct Breaker {
    clock: WindowClock,
    /// The epoch, with [`CLOSED_FLAG`] or [`OFF_FLAG`] in its lowest bits: all that an admission reads
    /// while closed. Written under the lock of `phase`.
    epoch: AtomicU64,
    ended: SlidingCounter,
    failed: SlidingCounter,
    /// Failures since the last success.
    consecutive: AtomicU32,
    trips: AtomicU64,
    phase: Mutex<Phase>,
}

/// The breaker is closed in this epoch.
const CLOSED_FLAG: u64 = 1;
/// The breaker is turned off in this epoch.
const OFF_FLAG: u64 = 2;
/// Bits of the word below the epoch.
const FLAG_BITS: u32 = 2;

impl Breaker {
    /// A closed breaker.
    pub fn new(now: Instant) -> Self {
        Self {
            // The first request sets the window.
            clock: WindowClock::new(now, Duration::ZERO),
            epoch: AtomicU64::new(CLOSED_FLAG),
            ended: SlidingCounter::default(),
            failed: SlidingCounter::default(),
            consecutive: AtomicU32::new(0),
            trips: AtomicU64::new(0),
            phase: Mutex::new(Phase::Closed),
        }
    }

    /// Turns the breaker off: it is closed, and begins empty at the first request with settings. Returns whether it was not closed
    /// before.
    pub fn turn_off(&self) -> bool {
        let mut phase = self.phase.lock();
        if self.epoch.load(Relaxed) & OFF_FLAG != 0 {
            return false;
        }
        self.start_epoch(OFF_FLAG);
        !matches!(std::mem::replace(&mut *phase, Phase::Closed), Phase::Closed)
    }

    /// Lets a request pass. Without settings every request passes uncounted.
    ///
    /// # Errors
    /// While the breaker is open, or half-open with all slots of its probes held.
    #[inline]
    pub fn admit<'a>(
        &'a self,
        settings: Option<&'a CircuitBreaker>,
        now: Instant,
    ) -> Result<Permit<'a>, BreakerOpen> {
        let epoch = self.epoch.load(Acquire);
        match settings {
            Some(settings) if epoch & CLOSED_FLAG != 0 => {
                self.clock.set_window(settings.window, &[&self.ended, &self.failed]);
                Ok(Permit::counted(self, settings, epoch, None))
            }
            None if epoch & OFF_FLAG != 0 => Ok(Permit::uncounted()),
            Some(settings) => self.admit_when_not_closed(settings, now),
            None => {
                self.turn_off();
                Ok(Permit::uncounted())
            }
        }
    }

    /// What an admission at `now` would meet.
    pub fn state(&self, settings: Option<&CircuitBreaker>, now: Instant) -> BreakerState {
        settings.map_or(BreakerState::Closed, |settings| self.phase.lock().state(now, settings))
    }

    /// How long an admission at `now` would be refused. `None`: it would not. Takes no slot of a probe.
    pub fn refusal(&self, settings: Option<&CircuitBreaker>, now: Instant) -> Option<Duration> {
        self.phase.lock().refusal(now, settings?)
    }

    /// Ends the open time at once, because a probe has connected to an instance that could not be
    /// connected to before. The next requests are probes; if one fails, the next open time is twice as
    /// long. Changes nothing unless the breaker is open; returns whether it was.
    pub fn half_open(&self) -> bool {
        let mut phase = self.phase.lock();
        let changed = phase.half_open();
        if changed {
            self.start_epoch(0);
        }
        changed
    }

    /// Ends the open time at once, because an endpoint has joined that had no part in the failures. The
    /// next requests are probes, and if one fails the next open time is the shortest again: earlier
    /// probes met other endpoints. Changes nothing while the breaker is closed; returns whether it was not.
    pub fn half_open_for_new_endpoint(&self) -> bool {
        let mut phase = self.phase.lock();
        let changed = phase.restart_half_open();
        if changed {
            self.start_epoch(0);
        }
        changed
    }

    /// How often the breaker has opened from closed. A failed probe is not counted.
    pub fn trips(&self) -> u64 {
        self.trips.load(Relaxed)
    }

    #[cold]
    fn admit_when_not_closed<'a>(
        &'a self,
        settings: &'a CircuitBreaker,
        now: Instant,
    ) -> Result<Permit<'a>, BreakerOpen> {
        let mut phase = self.phase.lock();
        if self.epoch.load(Relaxed) & OFF_FLAG != 0 {
            self.clear_counts();
            return Ok(Permit::counted(self, settings, self.start_epoch(CLOSED_FLAG), None));
        }
        match phase.admit(now, settings) {
            // Another thread has closed it since the word was read.
            Admission::Ordinary => Ok(Permit::counted(self, settings, self.epoch.load(Relaxed), None)),
            Admission::FirstProbe(number) => {
                let probe = Probe { number, ends_open_time: true };
                Ok(Permit::counted(self, settings, self.start_epoch(0), Some(probe)))
            }
            Admission::Probe(number) => {
                let probe = Probe { number, ends_open_time: false };
                Ok(Permit::counted(self, settings, self.epoch.load(Relaxed), Some(probe)))
            }
            Admission::Refused(retry_after) => Err(BreakerOpen { retry_after }),
        }
    }

    /// Counts the end of a request that was admitted while closed.
    fn record_closed(
        &self,
        settings: &CircuitBreaker,
        epoch: u64,
        now: Instant,
        verdict: Verdict,
    ) -> Option<BreakerChange> {
        if self.epoch.load(Acquire) != epoch {
            return None;
        }
        match verdict {
            Verdict::Ignore => None,
            Verdict::Success => {
                self.ended.add(self.clock.tick(now));
                // A load for nearly all requests: the cache line stays shared between workers.
                if self.consecutive.load(Relaxed) != 0 {
                    self.consecutive.store(0, Relaxed);
                }
                None
            }
            Verdict::Failure => {
                let tick = self.clock.tick(now);
                self.ended.add(tick);
                self.failed.add(tick);
                let consecutive = self.consecutive.fetch_add(1, Relaxed).saturating_add(1);
                let (ended, failed) = (self.ended.sum(tick), self.failed.sum(tick));
                let trips =
                    should_trip(settings, ended, failed, consecutive) && self.trip(settings, epoch, now);
                // Few words, because each request returns one.
                let few = |count: u64| u32::try_from(count).unwrap_or(u32::MAX);
                trips.then(|| BreakerChange::Opened { failed: few(failed), ended: few(ended) })
            }
        }
    }

    /// Returns whether this call opened it.
    #[cold]
    fn trip(&self, settings: &CircuitBreaker, epoch: u64, now: Instant) -> bool {
        let mut phase = self.phase.lock();
        // Of several threads that saw enough failures, the first one opens the breaker.
        let is_first = self.epoch.load(Relaxed) == epoch;
        if is_first {
            *phase = Phase::new_open(now, settings);
            self.trips.fetch_add(1, Relaxed);
            self.start_epoch(0);
        }
        is_first
    }

    fn record_probe(
        &self,
        settings: &CircuitBreaker,
        epoch: u64,
        number: u32,
        now: Instant,
        verdict: Verdict,
    ) -> Option<BreakerChange> {
        let mut phase = self.phase.lock();
        if self.epoch.load(Relaxed) != epoch {
            return None;
        }
        match phase.record_probe(number, now, verdict, settings) {
            ProbeEffect::Unchanged => None,
            ProbeEffect::Reopened => {
                self.start_epoch(0);
                Some(BreakerChange::Reopened)
            }
            ProbeEffect::Closed => {
                self.clear_counts();
                self.start_epoch(CLOSED_FLAG);
                Some(BreakerChange::Closed)
            }
        }
    }

    /// Frees the slot of a probe that ended without a result.
    fn release_probe(&self, epoch: u64, number: u32) {
        let mut phase = self.phase.lock();
        if self.epoch.load(Relaxed) == epoch {
            phase.release_probe(number);
        }
    }

    fn clear_counts(&self) {
        self.ended.clear();
        self.failed.clear();
        self.consecutive.store(0, Relaxed);
    }

    /// Starts an epoch and returns its word. The caller holds the lock of `phase`.
    fn start_epoch(&self, flag: u64) -> u64 {
        let epoch = (((self.epoch.load(Relaxed) >> FLAG_BITS) + 1) << FLAG_BITS) | flag;
        self.epoch.store(epoch, Release);
        epoch
    }
}

fn should_trip(settings: &CircuitBreaker, ended: u64, failed: u64, consecutive: u32) -> bool {
    let ratio_reached =
        ended >= u64::from(settings.min_requests) && failed as f64 >= settings.failure_ratio * ended as f64;
    ratio_reached || settings.consecutive_failures.is_some_and(|most| consecutive >= most)
}

/// A request that finds out whether the service can be used again.
#[derive(Debug, Clone, Copy)]
struct Probe {
    number: u32,
    /// Its admission has made an open breaker half-open.
    ends_open_time: bool,
}

/// One admitted request. A request that is retried keeps its permit.
///
/// A permit that is dropped without a verdict counts nothing, and frees the slot of a probe.
#[must_use = "a permit that is dropped at once counts nothing"]
#[derive(Debug)]
pub struct Permit<'a> {
    /// `None`: the breaker is off, or the verdict is recorded.
    counted_by: Option<(&'a Breaker, &'a CircuitBreaker)>,
    /// The epoch of the admission.
    epoch: u64,
    /// The request is a probe.
    probe: Option<Probe>,
}

impl<'a> Permit<'a> {
    fn uncounted() -> Self {
        Self { counted_by: None, epoch: 0, probe: None }
    }

    fn counted(breaker: &'a Breaker, settings: &'a CircuitBreaker, epoch: u64, probe: Option<Probe>) -> Self {
        Self { counted_by: Some((breaker, settings)), epoch, probe }
    }

    /// Records the result that the app sees. Called once per request, after its last attempt. Returns what it has changed.
    pub fn record(mut self, now: Instant, verdict: Verdict) -> Option<BreakerChange> {
        let (breaker, settings) = self.counted_by.take()?;
        match self.probe {
            Some(probe) => breaker.record_probe(settings, self.epoch, probe.number, now, verdict),
            None => breaker.record_closed(settings, self.epoch, now, verdict),
        }
    }

    /// Whether the request is a probe of a half-open breaker.
    pub fn is_probe(&self) -> bool {
        self.probe.is_some()
    }

    /// Whether the breaker was open, and half-open from this request on.
    pub fn ends_open_time(&self) -> bool {
        self.probe.is_some_and(|probe| probe.ends_open_time)
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        if let (Some((breaker, _)), Some(probe)) = (self.counted_by.take(), self.probe) {
            breaker.release_probe(self.epoch, probe.number);
        }
    }
}
