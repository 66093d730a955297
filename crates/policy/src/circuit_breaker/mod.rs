//! Stops sending to a service that cannot be used, and finds out when it can be again.
//!
//! **What it is for.** While every instance of a service fails, each request to it costs the app a
//! whole time-out and the service a share of what it has left to recover with. The breaker answers for
//! it, at once. It judges *requests*, by what the app sees, and not attempts: a failure that a retry
//! saved never happened, and an instance that should not be chosen is the business of whoever chooses.
//!
//! **Three states.** *Closed*: everything passes and is counted. When at least `min_requests` ended in
//! the window and `failure_ratio` of them failed, or `consecutive_failures` in a row, it opens. *Open*:
//! nothing passes for a while. *Half-open*: after that while, `probes` requests at once may pass; as
//! many successes close it and forget the window, one failure opens it for twice as long, up to
//! `open_max`. Only a failure is looked at for opening: a success cannot be the proof of an outage.
//!
//! **Nobody is judged by old evidence.** Each change of state begins a new generation, and a
//! [`Permit`] remembers the one it was admitted in. A request that was sent before the breaker opened
//! and ends after it says nothing about the service now: its verdict is dropped. And whoever holds a
//! probe's place gives it back through any door: a verdict, [`Verdict::Ignore`], or a drop.
//!
//! **What it costs.** Closed, a request pays for one load when it is admitted and one
//! compare-and-swap when it ends; only a failure adds the window up. Generation and "closed" are one
//! word for that reason. Everything else is behind a lock that is held for a few instructions: to
//! open, and while not closed, when requests are refused anyway. There is one race that the lock does
//! not cover: a verdict that passed the generation check, then slept through a whole open spell before
//! it was counted, is counted in the new window. It is one count among `min_requests`.
//!
//! **Numbers.** The window and the ratio are those of Hystrix (10 s, 50 %, 20 requests); the pause
//! grows as in linkerd2's failure accrual (from 1 s, doubling; there to 60 s, here to 30 s, since a
//! probe is one request).
//!
//! **Settings can change under it** ([`Breaker::apply_settings`]). What a request reads are words of their own;
//! the rest lies behind the lock. An open spell goes on, at most as long as it may be now; the counts
//! stay, unless the window has another length. Turned off it admits by the same one load.
//!
//! It declines to know about endpoints, to count attempts and to start timers: an open breaker becomes
//! half-open when somebody asks after its time, or says that the time need not be waited for.

mod permit;
mod phase;

use std::{
    sync::atomic::{
        AtomicU32, AtomicU64,
        Ordering::{Acquire, Relaxed, Release},
    },
    time::{Duration, Instant},
};

use outrigger_config::CircuitBreaker;
use parking_lot::Mutex;

use crate::{
    outcome::Verdict,
    sliding_window::{SlidingCounter, WindowClock},
};
pub use permit::Permit;
use phase::{Admission, Phase, ProbeEffect};

/// What a breaker is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum BreakerState {
    /// Requests pass.
    Closed,
    /// Requests are refused.
    Open,
    /// The next requests, a few at a time, find out.
    HalfOpen,
}

/// The breaker refused a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("circuit breaker open, next try in {retry_after:?}")]
pub struct BreakerOpen {
    /// When asking again makes sense: the rest of the open spell, or while probes are out the
    /// shortest one.
    pub retry_after: Duration,
}

/// One service's circuit breaker.
#[derive(Debug)]
pub struct Breaker {
    clock: WindowClock,
    /// The generation, with [`CLOSED_FLAG`] or [`OFF_FLAG`] in its lowest bits: all that an admission reads while
    /// closed. Written under the lock of `phase`.
    epoch: AtomicU64,
    ended: SlidingCounter,
    failed: SlidingCounter,
    /// Failures since the last success, when rows are counted.
    consecutive: AtomicU32,
    trips: AtomicU64,
    /// The settings that a request's end reads.
    limits: TripLimits,
    state: Mutex<LockedState>,
}

/// Set in the word of a generation in which the breaker is closed.
const CLOSED_FLAG: u64 = 1;
/// Set in the word of a generation in which it is turned off.
const OFF_FLAG: u64 = 2;
/// The bits of a word below its generation.
const FLAG_BITS: u32 = 2;

/// When the counts are reason to open.
#[derive(Debug)]
struct TripLimits {
    /// As bits.
    failure_ratio: AtomicU64,
    min_requests: AtomicU32,
    /// 0: rows are not counted.
    max_consecutive: AtomicU32,
}

/// What only its lock's holder reads.
#[derive(Debug)]
struct LockedState {
    phase: Phase,
    settings: CircuitBreaker,
}

impl Breaker {
    /// A closed breaker; without settings it admits everything for ever.
    pub fn new(settings: Option<&CircuitBreaker>, now: Instant) -> Self {
        let epoch = if settings.is_some() { CLOSED_FLAG } else { OFF_FLAG };
        let settings = settings.copied().unwrap_or_default();
        Self {
            clock: WindowClock::new(now, settings.window),
            epoch: AtomicU64::new(epoch),
            ended: SlidingCounter::default(),
            failed: SlidingCounter::default(),
            consecutive: AtomicU32::new(0),
            trips: AtomicU64::new(0),
            limits: TripLimits::new(&settings),
            state: Mutex::new(LockedState { phase: Phase::Closed, settings }),
        }
    }

    /// Goes on by other settings, in the state that it is in. Turned off (`None`) it admits everything;
    /// turned on again it begins closed, with nothing counted.
    pub fn apply_settings(&self, settings: Option<&CircuitBreaker>) {
        let mut locked = self.state.lock();
        let was_off = self.epoch.load(Relaxed) & OFF_FLAG != 0;
        let Some(settings) = settings else {
            if !was_off {
                locked.phase = Phase::Closed;
                self.start_epoch(OFF_FLAG);
            }
            return;
        };
        locked.settings = *settings;
        locked.phase.limit_pause(settings.max_open_for);
        self.limits.apply_settings(settings);
        if self.clock.set_window(settings.window) || was_off {
            self.clear_counts();
        }
        if was_off {
            self.start_epoch(CLOSED_FLAG);
        }
    }

    /// Lets a request pass, or says when to ask again.
    #[inline]
    pub fn admit(&self, now: Instant) -> Result<Permit<'_>, BreakerOpen> {
        let epoch = self.epoch.load(Acquire);
        if epoch & CLOSED_FLAG != 0 {
            Ok(Permit::counted(self, epoch))
        } else if epoch & OFF_FLAG != 0 {
            Ok(Permit::uncounted())
        } else {
            self.admit_when_not_closed(now)
        }
    }

    /// What it would do with a request at `now`.
    pub fn state(&self, now: Instant) -> BreakerState {
        self.state.lock().phase.state(now)
    }

    /// Ends an open spell at once: something else has shown that the service may be there again (an
    /// instance that could not be connected to accepts connections). The next requests are probes; if
    /// one fails, the next spell is twice as long, as ever. Changes nothing unless it is open.
    pub fn half_open(&self) {
        let mut locked = self.state.lock();
        if locked.phase.half_open() {
            self.start_epoch(0);
        }
    }

    /// Somebody has joined who was not asked when it opened. The next requests are probes, whatever it
    /// waited for, and if one fails the next spell is as short as the first: what lengthened the last one
    /// was said about others. Changes nothing when it is closed.
    pub fn half_open_for_new_endpoint(&self) {
        let mut locked = self.state.lock();
        if locked.phase.restart_half_open() {
            self.start_epoch(0);
        }
    }

    /// How often it has opened from closed. A failed probe prolongs a spell, and is not counted again.
    pub fn trips(&self) -> u64 {
        self.trips.load(Relaxed)
    }

    /// Admits while not closed.
    #[cold]
    fn admit_when_not_closed(&self, now: Instant) -> Result<Permit<'_>, BreakerOpen> {
        let mut locked = self.state.lock();
        let LockedState { phase, settings } = &mut *locked;
        match phase.admit(now, settings) {
            Admission::Ordinary => Ok(self.permit_for_current_epoch()),
            Admission::FirstProbe => Ok(Permit::probe(self, self.start_epoch(0))),
            Admission::Probe => Ok(Permit::probe(self, self.epoch.load(Relaxed))),
            Admission::Refused(retry_after) => Err(BreakerOpen { retry_after }),
        }
    }

    /// It was closed, or turned off, since the word was read.
    fn permit_for_current_epoch(&self) -> Permit<'_> {
        let epoch = self.epoch.load(Relaxed);
        if epoch & OFF_FLAG != 0 { Permit::uncounted() } else { Permit::counted(self, epoch) }
    }

    /// The end of a request that was admitted while closed, in the generation `epoch`.
    fn record_closed(&self, epoch: u64, now: Instant, verdict: Verdict) {
        if self.epoch.load(Acquire) != epoch {
            return;
        }
        let tick = self.clock.tick_at(now);
        match verdict {
            Verdict::Ignore => {}
            Verdict::Success => {
                self.ended.add(tick);
                if self.limits.max_consecutive.load(Relaxed) > 0 {
                    self.consecutive.store(0, Relaxed);
                }
            }
            Verdict::Failure => {
                self.ended.add(tick);
                self.failed.add(tick);
                let row = self.consecutive.fetch_add(1, Relaxed).saturating_add(1);
                if self.should_trip(tick, row) {
                    self.trip(epoch, now);
                }
            }
        }
    }

    /// The failures counted are reason to open.
    fn should_trip(&self, tick: u32, consecutive: u32) -> bool {
        let (ended, failed) = (self.ended.sum(tick), self.failed.sum(tick));
        let least = u64::from(self.limits.min_requests.load(Relaxed));
        let ratio = f64::from_bits(self.limits.failure_ratio.load(Relaxed));
        let most = self.limits.max_consecutive.load(Relaxed);
        (ended >= least && failed as f64 >= ratio * ended as f64) || (most > 0 && consecutive >= most)
    }

    #[cold]
    fn trip(&self, epoch: u64, now: Instant) {
        let mut locked = self.state.lock();
        // Of several that saw enough at the same time, the first one opens it.
        if self.epoch.load(Relaxed) == epoch {
            locked.phase = Phase::new_open(now, &locked.settings);
            self.trips.fetch_add(1, Relaxed);
            self.start_epoch(0);
        }
    }

    /// The end of a probe, in the generation `epoch`; without a verdict it gives its place back.
    fn record_probe(&self, epoch: u64, now: Instant, verdict: Verdict) {
        let mut locked = self.state.lock();
        if self.epoch.load(Relaxed) != epoch {
            return;
        }
        let LockedState { phase, settings } = &mut *locked;
        match phase.record_probe(now, verdict, settings) {
            ProbeEffect::Unchanged => {}
            ProbeEffect::Reopened => {
                self.start_epoch(0);
            }
            ProbeEffect::Closed => {
                self.clear_counts();
                self.start_epoch(CLOSED_FLAG);
            }
        }
    }

    /// A probe ended without anybody's word.
    fn release_probe(&self, epoch: u64) {
        let mut locked = self.state.lock();
        if self.epoch.load(Relaxed) == epoch {
            locked.phase.release_probe();
        }
    }

    /// What was counted says nothing any more.
    fn clear_counts(&self) {
        self.ended.clear();
        self.failed.clear();
        self.consecutive.store(0, Relaxed);
    }

    /// Starts a generation, and returns its word. Called with the lock of `phase` held.
    fn start_epoch(&self, flag: u64) -> u64 {
        let epoch = (((self.epoch.load(Relaxed) >> FLAG_BITS) + 1) << FLAG_BITS) | flag;
        self.epoch.store(epoch, Release);
        epoch
    }
}

impl TripLimits {
    fn new(settings: &CircuitBreaker) -> Self {
        let none = Self {
            failure_ratio: AtomicU64::new(0),
            min_requests: AtomicU32::new(0),
            max_consecutive: AtomicU32::new(0),
        };
        none.apply_settings(settings);
        none
    }

    /// Word by word: an end that comes in between is judged by some of each, once.
    fn apply_settings(&self, settings: &CircuitBreaker) {
        self.failure_ratio.store(settings.failure_ratio.to_bits(), Relaxed);
        self.min_requests.store(settings.min_requests, Relaxed);
        self.max_consecutive.store(settings.consecutive_failures.unwrap_or(0), Relaxed);
    }
}
