//! What an endpoint's attempts came to. Lock-free: every request writes here.

use std::{
    sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed},
    time::Instant,
};

use outrigger_config::OutlierDetection;

use super::{
    Blame, Trust, Why,
    evidence::Evidence,
    word::{Seen, Standing, Word},
};
use crate::{
    outcome::{Outcome, Sent},
    window::{Tally, Ticks},
};

/// Connect time-outs without an answer between that are proof enough.
const CONNECT_TIMEOUTS: u32 = 2;

/// A low rate is shown to the judge at every fourth failure: it compares with all siblings, which
/// would cost too much at each.
const RATE_STEP: u32 = 4;

/// One endpoint's record: made with the endpoint and, as its load and its connections, not carried
/// over into another life of it.
#[derive(Debug)]
pub struct Record {
    limits: Limits,
    ticks: Ticks,
    word: Word,
    /// Requests failed since the last success.
    row: AtomicU32,
    /// Connect time-outs since the last answer.
    timeouts: AtomicU32,
    /// Failures since the judge last compared its rate.
    unshown: AtomicU32,
    ended: Tally,
    failed: Tally,
}

impl Record {
    /// The record of an endpoint nothing is known against; without settings it stays so.
    pub fn new(settings: Option<&OutlierDetection>, now: Instant) -> Self {
        let window = settings.copied().unwrap_or_default().window;
        Self {
            limits: Limits::new(settings),
            ticks: Ticks::new(now, window),
            word: Word::new(),
            row: AtomicU32::new(0),
            timeouts: AtomicU32::new(0),
            unshown: AtomicU32::new(0),
            ended: Tally::default(),
            failed: Tally::default(),
        }
    }

    /// Goes on by other settings, with what was counted, unless the window has another length. Its
    /// standing is the judge's business: [`Judge::adopt`](super::Judge::adopt).
    pub fn adopt(&self, settings: Option<&OutlierDetection>) {
        self.limits.adopt(settings);
        if settings.is_some_and(|settings| self.ticks.set_window(settings.window)) {
            self.ended.clear();
            self.failed.clear();
        }
    }

    /// Whether a pick may take it. `retryable`: a retry is allowed on the request, should this attempt
    /// fail (only such a request is used to try an endpoint out).
    #[inline]
    pub fn admits(&self, retryable: bool) -> bool {
        self.word.load().standing().admits(retryable)
    }

    /// How far it is trusted, for pages and metrics.
    pub fn trust(&self) -> Trust {
        self.word.load().standing().trust()
    }

    /// Begins an attempt, after the pick. `None`: it was to be tried out, and another request is doing
    /// so already; pick again.
    #[inline]
    pub fn begin(&self, retryable: bool) -> Option<Mark<'_>> {
        let seen = self.word.load();
        let probation = match seen.standing() {
            Standing::Trusted | Standing::PanicSoft | Standing::PanicHard => false,
            // Taken out since the pick: as good as an attempt begun a moment ago.
            Standing::Ejected => false,
            Standing::Probation if !retryable => return None,
            Standing::Probation | Standing::ProbationAny if self.word.take(seen) => true,
            Standing::Probation | Standing::ProbationAny | Standing::Taken => return None,
        };
        Some(Mark { record: self, seen, probation })
    }

    /// Success rate over the window, when it had enough requests to have one.
    pub(super) fn rate(&self, now: Instant, min_requests: u32) -> Option<f64> {
        let tick = self.ticks.at(now);
        let ended = self.ended.sum(tick);
        let enough = ended > 0 && ended >= u64::from(min_requests);
        enough.then(|| ended.saturating_sub(self.failed.sum(tick)) as f64 / ended as f64)
    }

    pub(super) fn seen(&self) -> Seen {
        self.word.load()
    }

    /// Begins a generation, if its standing is another. What was counted is then forgotten.
    pub(super) fn show(&self, standing: Standing) {
        let now = self.word.load().standing();
        let is_taken_from = now == Standing::Taken && standing.is_probation();
        if now == standing || is_taken_from {
            return;
        }
        self.word.begin(standing);
        self.row.store(0, Relaxed);
        self.timeouts.store(0, Relaxed);
        self.unshown.store(0, Relaxed);
        self.ended.clear();
        self.failed.clear();
    }

    /// An end while trusted: counts it, and says whether it is reason to ask the judge.
    fn count(&self, evidence: Evidence, now: Instant) -> Option<Why> {
        match evidence {
            Evidence::None => None,
            Evidence::Unreachable => Some(Why::Unreachable),
            Evidence::ConnectTimeout => {
                let timeouts = self.timeouts.fetch_add(1, Relaxed).saturating_add(1);
                let rate = self.fail(now);
                if timeouts >= CONNECT_TIMEOUTS { Some(Why::ConnectTimeouts) } else { rate }
            }
            Evidence::Good => {
                self.succeed(now);
                None
            }
            Evidence::Bad => self.bad(now),
            Evidence::Doubtful => self.fail(now),
        }
    }

    fn succeed(&self, now: Instant) {
        clear(&self.row);
        self.ended.add(self.ticks.at(now));
    }

    /// One more in a row, and in the rate.
    fn bad(&self, now: Instant) -> Option<Why> {
        let row = self.row.fetch_add(1, Relaxed).saturating_add(1);
        let rate = self.fail(now);
        // Again with each further row: the cap may have refused this one.
        let most = self.limits.row.load(Relaxed);
        if most > 0 && row.is_multiple_of(most) { Some(Why::Row) } else { rate }
    }

    /// The body came to its end, of an answer whose head was counted by [`Mark::head`].
    #[inline]
    pub fn body_ended(&self, since: Began, now: Instant) {
        if self.limits.on.load(Relaxed) && self.trusted_since(since) {
            self.succeed(now);
        }
    }

    /// The same body was cut, or fell silent: a failure like a connection that ends before the head.
    /// With a report, the cluster's [`Judge`](super::Judge) is to be asked.
    pub fn body_cut(&self, since: Began, blame: &mut Blame, now: Instant) -> Option<Report> {
        if !self.limits.on.load(Relaxed) || !blame.spend() || !self.trusted_since(since) {
            return None;
        }
        let says = Says::Fails(self.bad(now)?);
        Some(Report { generation: since.0.generation(), says })
    }

    fn trusted_since(&self, since: Began) -> bool {
        let now = self.word.load();
        now.standing() == Standing::Trusted && now.generation() == since.0.generation()
    }

    /// Counts a failure in the rate, and says whether the rate is to be compared.
    fn fail(&self, now: Instant) -> Option<Why> {
        let tick = self.ticks.at(now);
        self.ended.add(tick);
        self.failed.add(tick);
        let least = self.limits.success_rate()?;
        if self.unshown.fetch_add(1, Relaxed).saturating_add(1) < RATE_STEP {
            return None;
        }
        let enough = self.limits.min_requests.load(Relaxed);
        let low = self.rate(now, enough).is_some_and(|rate| rate < least);
        low.then(|| {
            self.unshown.store(0, Relaxed);
            Why::Rate
        })
    }
}

/// The settings that an attempt's end reads: words, so that they can change under it without a lock.
#[derive(Debug)]
struct Limits {
    /// False: turned off, it is trusted for ever.
    on: AtomicBool,
    /// 0: rows are not counted.
    row: AtomicU32,
    /// As bits; not a number: shares are not compared.
    success_rate: AtomicU64,
    min_requests: AtomicU32,
}

impl Limits {
    fn new(settings: Option<&OutlierDetection>) -> Self {
        let limits = Self {
            on: AtomicBool::new(false),
            row: AtomicU32::new(0),
            success_rate: AtomicU64::new(f64::NAN.to_bits()),
            min_requests: AtomicU32::new(0),
        };
        limits.adopt(settings);
        limits
    }

    fn adopt(&self, settings: Option<&OutlierDetection>) {
        if let Some(settings) = settings {
            self.row.store(settings.consecutive_failures.unwrap_or(0), Relaxed);
            self.success_rate.store(settings.success_rate.unwrap_or(f64::NAN).to_bits(), Relaxed);
            self.min_requests.store(settings.min_requests, Relaxed);
        }
        self.on.store(settings.is_some(), Relaxed);
    }

    fn success_rate(&self) -> Option<f64> {
        Some(f64::from_bits(self.success_rate.load(Relaxed))).filter(|rate| !rate.is_nan())
    }
}

/// Zero without a write when it is zero: the line stays shared between workers.
fn clear(count: &AtomicU32) {
    if count.load(Relaxed) != 0 {
        count.store(0, Relaxed);
    }
}

/// How far an endpoint was trusted when an attempt began, for what its body says later.
#[derive(Debug, Clone, Copy)]
pub struct Began(Seen);

/// One attempt at an endpoint. Dropped without its end it says nothing, and a probation's place is free
/// again.
#[must_use = "a mark dropped at once says nothing about the endpoint"]
#[derive(Debug)]
pub struct Mark<'a> {
    record: &'a Record,
    seen: Seen,
    /// It holds the place of the request that decides.
    probation: bool,
}

impl Mark<'_> {
    /// It is the request that decides whether the endpoint is trusted again.
    pub fn is_probation(&self) -> bool {
        self.probation
    }

    /// Says how the attempt ended: once per attempt, when its answer is there or cannot come.
    /// With a report, the cluster's [`Judge`](super::Judge) is to be asked.
    #[inline]
    pub fn end(self, blame: &mut Blame, outcome: Outcome, sent: Sent, now: Instant) -> Option<Report> {
        self.judged(blame, outcome, sent, true, now)
    }

    /// The same for an answer whose body is still to come. A good head alone ends no row: with a
    /// [`Began`], [`Record::body_ended`] or [`Record::body_cut`] says the rest. It does end a probation,
    /// which cannot wait for a body without end.
    #[inline]
    pub fn head(
        self,
        blame: &mut Blame,
        outcome: Outcome,
        sent: Sent,
        now: Instant,
    ) -> (Option<Report>, Option<Began>) {
        let is_good = Evidence::of(outcome, sent, false) == Evidence::Good;
        let began = (is_good && self.seen.standing() == Standing::Trusted).then_some(Began(self.seen));
        (self.judged(blame, outcome, sent, false, now), began)
    }

    fn judged(
        mut self,
        blame: &mut Blame,
        outcome: Outcome,
        sent: Sent,
        whole: bool,
        now: Instant,
    ) -> Option<Report> {
        if !self.record.limits.on.load(Relaxed) {
            return None;
        }
        let evidence = Evidence::of(outcome, sent, blame.is_first());
        if matches!(evidence, Evidence::Bad | Evidence::Doubtful) && !blame.spend() {
            return None;
        }
        if self.record.word.load().generation() != self.seen.generation() {
            return None;
        }
        let says = if self.seen.standing() == Standing::Trusted {
            if outcome.status().is_some() {
                clear(&self.record.timeouts);
            }
            if evidence == Evidence::Good && !whole {
                return None;
            }
            Says::Fails(self.record.count(evidence, now)?)
        } else {
            self.untrusted(evidence)?
        };
        // The judge ends the probation, and with it the place.
        self.probation = false;
        Some(Report { generation: self.seen.generation(), says })
    }

    /// An end while not trusted.
    fn untrusted(&self, evidence: Evidence) -> Option<Says> {
        match (evidence, self.seen.standing()) {
            (Evidence::None, _) => None,
            (Evidence::Good, _) => Some(Says::Well),
            // What is known already needs no lock: in panic every request ends like this.
            (Evidence::Unreachable | Evidence::ConnectTimeout, Standing::PanicHard | Standing::Ejected) => {
                None
            }
            (Evidence::Unreachable, _) => Some(Says::Fails(Why::Unreachable)),
            (_, _) if !self.probation => None,
            // One is enough here: it was out already.
            (Evidence::ConnectTimeout, _) => Some(Says::Fails(Why::ConnectTimeouts)),
            (Evidence::Bad | Evidence::Doubtful, _) => Some(Says::Fails(Why::Probation)),
        }
    }
}

impl Drop for Mark<'_> {
    fn drop(&mut self) {
        if self.probation {
            self.record.word.give_back(self.seen);
        }
    }
}

/// What the judge is to be told. Old ones are dropped there, so it may be late.
#[must_use = "the cluster's judge is to be asked"]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Report {
    pub(super) generation: u64,
    pub(super) says: Says,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Says {
    /// It answered well while it was not trusted.
    Well,
    Fails(Why),
}
