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
//! **Settings can change under it** ([`Breaker::adopt`]). What a request reads are words of their own;
//! the rest lies behind the lock. An open spell goes on, at most as long as it may be now; the counts
//! stay, unless the window has another length. Turned off it admits by the same one load.
//!
//! It declines to know about endpoints, to count attempts and to start timers: an open breaker becomes
//! half-open when somebody asks after its time, or says that the time need not be waited for.

mod permit;
mod phase;

use std::{
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{
            AtomicU32, AtomicU64,
            Ordering::{Acquire, Relaxed, Release},
        },
    },
    time::{Duration, Instant},
};

use outrigger_config::CircuitBreaker;

use crate::{
    outcome::Verdict,
    window::{Tally, Ticks},
};
pub use permit::Permit;
use phase::{Entry, Life, Settled};

/// What a breaker is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum State {
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
pub struct Open {
    /// When asking again makes sense: the rest of the open spell, or while probes are out the
    /// shortest one.
    pub retry_after: Duration,
}

/// One service's circuit breaker.
#[derive(Debug)]
pub struct Breaker {
    ticks: Ticks,
    /// The generation, with [`CLOSED`] or [`OFF`] in its lowest bits: all that an admission reads while
    /// closed. Written under the lock of `life`.
    word: AtomicU64,
    ended: Tally,
    failed: Tally,
    /// Failures since the last success, when rows are counted.
    row: AtomicU32,
    trips: AtomicU64,
    /// The settings that a request's end reads.
    limits: Limits,
    life: Mutex<Held>,
}

/// Set in the word of a generation in which the breaker is closed.
const CLOSED: u64 = 1;
/// Set in the word of a generation in which it is turned off.
const OFF: u64 = 2;
/// The bits of a word below its generation.
const FLAGS: u32 = 2;

/// When the counts are reason to open.
#[derive(Debug)]
struct Limits {
    /// As bits.
    failure_ratio: AtomicU64,
    min_requests: AtomicU32,
    /// 0: rows are not counted.
    row: AtomicU32,
}

/// What only its lock's holder reads.
#[derive(Debug)]
struct Held {
    life: Life,
    settings: CircuitBreaker,
}

impl Breaker {
    /// A closed breaker; without settings it admits everything for ever.
    pub fn new(settings: Option<&CircuitBreaker>, now: Instant) -> Self {
        let word = if settings.is_some() { CLOSED } else { OFF };
        let settings = settings.copied().unwrap_or_default();
        Self {
            ticks: Ticks::new(now, settings.window),
            word: AtomicU64::new(word),
            ended: Tally::default(),
            failed: Tally::default(),
            row: AtomicU32::new(0),
            trips: AtomicU64::new(0),
            limits: Limits::new(&settings),
            life: Mutex::new(Held { life: Life::Closed, settings }),
        }
    }

    /// Goes on by other settings, in the state that it is in. Turned off (`None`) it admits everything;
    /// turned on again it begins closed, with nothing counted.
    pub fn adopt(&self, settings: Option<&CircuitBreaker>) {
        let mut held = self.held();
        let was_off = self.word.load(Relaxed) & OFF != 0;
        let Some(settings) = settings else {
            if !was_off {
                held.life = Life::Closed;
                self.begin(OFF);
            }
            return;
        };
        held.settings = *settings;
        held.life.shorten(settings.max_open_for);
        self.limits.adopt(settings);
        if self.ticks.set_window(settings.window) || was_off {
            self.forget();
        }
        if was_off {
            self.begin(CLOSED);
        }
    }

    /// Lets a request pass, or says when to ask again.
    #[inline]
    pub fn admit(&self, now: Instant) -> Result<Permit<'_>, Open> {
        let word = self.word.load(Acquire);
        if word & CLOSED != 0 {
            Ok(Permit::closed(self, word))
        } else if word & OFF != 0 {
            Ok(Permit::free())
        } else {
            self.ask(now)
        }
    }

    /// What it would do with a request at `now`.
    pub fn state(&self, now: Instant) -> State {
        self.held().life.state(now)
    }

    /// Ends an open spell at once: something else has shown that the service may be there again (an
    /// instance that could not be connected to accepts connections). The next requests are probes; if
    /// one fails, the next spell is twice as long, as ever. Changes nothing unless it is open.
    pub fn half_open(&self) {
        let mut held = self.held();
        if held.life.half_open() {
            self.begin(0);
        }
    }

    /// Somebody has joined who was not asked when it opened. The next requests are probes, whatever it
    /// waited for, and if one fails the next spell is as short as the first: what lengthened the last one
    /// was said about others. Changes nothing when it is closed.
    pub fn joined(&self) {
        let mut held = self.held();
        if held.life.begin_again() {
            self.begin(0);
        }
    }

    /// How often it has opened from closed. A failed probe prolongs a spell, and is not counted again.
    pub fn trips(&self) -> u64 {
        self.trips.load(Relaxed)
    }

    /// Admits while not closed.
    #[cold]
    fn ask(&self, now: Instant) -> Result<Permit<'_>, Open> {
        let mut held = self.held();
        let Held { life, settings } = &mut *held;
        match life.enter(now, settings) {
            Entry::Free => Ok(self.let_in()),
            Entry::FirstProbe => Ok(Permit::probe(self, self.begin(0))),
            Entry::Probe => Ok(Permit::probe(self, self.word.load(Relaxed))),
            Entry::Refused(retry_after) => Err(Open { retry_after }),
        }
    }

    /// It was closed, or turned off, since the word was read.
    fn let_in(&self) -> Permit<'_> {
        let word = self.word.load(Relaxed);
        if word & OFF != 0 { Permit::free() } else { Permit::closed(self, word) }
    }

    /// The end of a request that was admitted while closed, in the generation `word`.
    fn count(&self, word: u64, now: Instant, verdict: Verdict) {
        if self.word.load(Acquire) != word {
            return;
        }
        let tick = self.ticks.at(now);
        match verdict {
            Verdict::Ignore => {}
            Verdict::Success => {
                self.ended.add(tick);
                if self.limits.row.load(Relaxed) > 0 {
                    self.row.store(0, Relaxed);
                }
            }
            Verdict::Failure => {
                self.ended.add(tick);
                self.failed.add(tick);
                let row = self.row.fetch_add(1, Relaxed).saturating_add(1);
                if self.is_enough(tick, row) {
                    self.trip(word, now);
                }
            }
        }
    }

    /// The failures counted are reason to open.
    fn is_enough(&self, tick: u32, row: u32) -> bool {
        let (ended, failed) = (self.ended.sum(tick), self.failed.sum(tick));
        let least = u64::from(self.limits.min_requests.load(Relaxed));
        let ratio = f64::from_bits(self.limits.failure_ratio.load(Relaxed));
        let most = self.limits.row.load(Relaxed);
        (ended >= least && failed as f64 >= ratio * ended as f64) || (most > 0 && row >= most)
    }

    #[cold]
    fn trip(&self, word: u64, now: Instant) {
        let mut held = self.held();
        // Of several that saw enough at the same time, the first one opens it.
        if self.word.load(Relaxed) == word {
            held.life = Life::opened(now, &held.settings);
            self.trips.fetch_add(1, Relaxed);
            self.begin(0);
        }
    }

    /// The end of a probe, in the generation `word`; without a verdict it gives its place back.
    fn settle(&self, word: u64, now: Instant, verdict: Verdict) {
        let mut held = self.held();
        if self.word.load(Relaxed) != word {
            return;
        }
        let Held { life, settings } = &mut *held;
        match life.settle(now, verdict, settings) {
            Settled::Unchanged => {}
            Settled::Reopened => {
                self.begin(0);
            }
            Settled::Closed => {
                self.forget();
                self.begin(CLOSED);
            }
        }
    }

    /// A probe ended without anybody's word.
    fn give_back(&self, word: u64) {
        let mut held = self.held();
        if self.word.load(Relaxed) == word {
            held.life.give_back();
        }
    }

    /// What was counted says nothing any more.
    fn forget(&self) {
        self.ended.clear();
        self.failed.clear();
        self.row.store(0, Relaxed);
    }

    /// Starts a generation, and returns its word. Called with the lock of `life` held.
    fn begin(&self, flag: u64) -> u64 {
        let word = (((self.word.load(Relaxed) >> FLAGS) + 1) << FLAGS) | flag;
        self.word.store(word, Release);
        word
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        // Nothing panics while it is held, and a half-made change is not possible: each is one store.
        self.life.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Limits {
    fn new(settings: &CircuitBreaker) -> Self {
        let none = Self {
            failure_ratio: AtomicU64::new(0),
            min_requests: AtomicU32::new(0),
            row: AtomicU32::new(0),
        };
        none.adopt(settings);
        none
    }

    /// Word by word: an end that comes in between is judged by some of each, once.
    fn adopt(&self, settings: &CircuitBreaker) {
        self.failure_ratio.store(settings.failure_ratio.to_bits(), Relaxed);
        self.min_requests.store(settings.min_requests, Relaxed);
        self.row.store(settings.consecutive_failures.unwrap_or(0), Relaxed);
    }
}
