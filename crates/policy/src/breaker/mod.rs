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
    /// `None`: turned off.
    armed: Option<Armed>,
}

impl Breaker {
    /// A closed breaker; without settings it admits everything for ever.
    pub fn new(settings: Option<&CircuitBreaker>, now: Instant) -> Self {
        Self { armed: settings.map(|settings| Armed::new(settings, now)) }
    }

    /// Lets a request pass, or says when to ask again.
    #[inline]
    pub fn admit(&self, now: Instant) -> Result<Permit<'_>, Open> {
        match &self.armed {
            None => Ok(Permit::free()),
            Some(armed) => armed.admit(now),
        }
    }

    /// What it would do with a request at `now`.
    pub fn state(&self, now: Instant) -> State {
        match &self.armed {
            None => State::Closed,
            Some(armed) => armed.life().state(now),
        }
    }

    /// Ends an open spell at once: something else has shown that the service may be there again (an
    /// instance that could not be connected to accepts connections). The next requests are probes; if
    /// one fails, the next spell is twice as long, as ever. Changes nothing unless it is open.
    pub fn half_open(&self) {
        if let Some(armed) = &self.armed {
            armed.half_open();
        }
    }

    /// Somebody has joined who was not asked when it opened. The next requests are probes, whatever it
    /// waited for, and if one fails the next spell is as short as the first: what lengthened the last one
    /// was said about others. Changes nothing when it is closed.
    pub fn joined(&self) {
        if let Some(armed) = &self.armed {
            armed.joined();
        }
    }

    /// How often it has opened from closed. A failed probe prolongs a spell, and is not counted again.
    pub fn trips(&self) -> u64 {
        self.armed.as_ref().map_or(0, |armed| armed.trips.load(Relaxed))
    }
}

/// A breaker that is not turned off.
#[derive(Debug)]
struct Armed {
    settings: CircuitBreaker,
    ticks: Ticks,
    /// The generation, with [`CLOSED`] in its lowest bit: all that an admission reads while closed.
    /// Written under the lock of `life`.
    word: AtomicU64,
    ended: Tally,
    failed: Tally,
    /// Failures since the last success, when rows are counted.
    row: AtomicU32,
    trips: AtomicU64,
    life: Mutex<Life>,
}

/// Set in the word of a generation in which the breaker is closed.
const CLOSED: u64 = 1;

impl Armed {
    fn new(settings: &CircuitBreaker, now: Instant) -> Self {
        Self {
            settings: *settings,
            ticks: Ticks::new(now, settings.window),
            word: AtomicU64::new(CLOSED),
            ended: Tally::default(),
            failed: Tally::default(),
            row: AtomicU32::new(0),
            trips: AtomicU64::new(0),
            life: Mutex::new(Life::Closed),
        }
    }

    #[inline]
    fn admit(&self, now: Instant) -> Result<Permit<'_>, Open> {
        let word = self.word.load(Acquire);
        if word & CLOSED != 0 { Ok(Permit::closed(self, word)) } else { self.ask(now) }
    }

    /// Admits while not closed.
    #[cold]
    fn ask(&self, now: Instant) -> Result<Permit<'_>, Open> {
        let mut life = self.life();
        match life.enter(now, &self.settings) {
            Entry::Free => Ok(Permit::closed(self, self.word.load(Relaxed))),
            Entry::FirstProbe => Ok(Permit::probe(self, self.begin(0))),
            Entry::Probe => Ok(Permit::probe(self, self.word.load(Relaxed))),
            Entry::Refused(retry_after) => Err(Open { retry_after }),
        }
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
                if self.settings.consecutive_failures.is_some() {
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
        let by_ratio = ended >= u64::from(self.settings.min_requests)
            && failed as f64 >= self.settings.failure_ratio * ended as f64;
        by_ratio || self.settings.consecutive_failures.is_some_and(|most| row >= most)
    }

    #[cold]
    fn trip(&self, word: u64, now: Instant) {
        let mut life = self.life();
        // Of several that saw enough at the same time, the first one opens it.
        if self.word.load(Relaxed) == word {
            *life = Life::opened(now, &self.settings);
            self.trips.fetch_add(1, Relaxed);
            self.begin(0);
        }
    }

    /// The end of a probe, in the generation `word`; without a verdict it gives its place back.
    fn settle(&self, word: u64, now: Instant, verdict: Verdict) {
        let mut life = self.life();
        if self.word.load(Relaxed) != word {
            return;
        }
        match life.settle(now, verdict, &self.settings) {
            Settled::Unchanged => {}
            Settled::Reopened => {
                self.begin(0);
            }
            Settled::Closed => {
                self.ended.clear();
                self.failed.clear();
                self.row.store(0, Relaxed);
                self.begin(CLOSED);
            }
        }
    }

    /// A probe ended without anybody's word.
    fn give_back(&self, word: u64) {
        let mut life = self.life();
        if self.word.load(Relaxed) == word {
            life.give_back();
        }
    }

    fn half_open(&self) {
        let mut life = self.life();
        if life.half_open() {
            self.begin(0);
        }
    }

    fn joined(&self) {
        let mut life = self.life();
        if life.begin_again() {
            self.begin(0);
        }
    }

    /// Starts a generation, and returns its word. Called with the lock of `life` held.
    fn begin(&self, closed: u64) -> u64 {
        let word = (((self.word.load(Relaxed) >> 1) + 1) << 1) | closed;
        self.word.store(word, Release);
        word
    }

    fn life(&self) -> MutexGuard<'_, Life> {
        // Nothing panics while it is held, and a half-made change is not possible: each is one store.
        self.life.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
