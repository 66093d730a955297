//! What an endpoint's attempts came to. Lock-free: every request writes here.

use std::{
    sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed},
    time::Instant,
};

use outrigger_config::OutlierDetection;

use super::{
    EjectionReason, EjectionState, FailureAttribution,
    evidence::Evidence,
    state::{EndpointState, StateBits, StateCell},
};
use crate::{
    outcome::{Outcome, Sent},
    sliding_window::{SlidingCounter, WindowClock},
};

/// Connect time-outs without an answer between that are proof enough.
const MAX_CONNECT_TIMEOUTS: u32 = 2;

/// A low rate is shown to the judge at every fourth failure: it compares with all siblings, which
/// would cost too much at each.
const RATE_CHECK_INTERVAL: u32 = 4;

/// One endpoint's record: made with the endpoint and, as its load and its connections, not carried
/// over into another life of it.
#[derive(Debug)]
pub struct EndpointStats {
    limits: DetectionLimits,
    clock: WindowClock,
    state: StateCell,
    /// Requests failed since the last success.
    consecutive: AtomicU32,
    /// Connect time-outs since the last answer.
    connect_timeouts: AtomicU32,
    /// Failures since the judge last compared its rate.
    uncompared_failures: AtomicU32,
    ended: SlidingCounter,
    failed: SlidingCounter,
}

impl EndpointStats {
    /// The record of an endpoint nothing is known against; without settings it stays so.
    pub fn new(settings: Option<&OutlierDetection>, now: Instant) -> Self {
        let window = settings.copied().unwrap_or_default().window;
        Self {
            limits: DetectionLimits::new(settings),
            clock: WindowClock::new(now, window),
            state: StateCell::new(),
            consecutive: AtomicU32::new(0),
            connect_timeouts: AtomicU32::new(0),
            uncompared_failures: AtomicU32::new(0),
            ended: SlidingCounter::default(),
            failed: SlidingCounter::default(),
        }
    }

    /// Goes on by other settings, with what was counted, unless the window has another length. Its
    /// standing is the judge's business: [`Judge::adopt`](super::Detector::apply_settings).
    pub fn apply_settings(&self, settings: Option<&OutlierDetection>) {
        self.limits.apply_settings(settings);
        if settings.is_some_and(|settings| self.clock.set_window(settings.window)) {
            self.ended.clear();
            self.failed.clear();
        }
    }

    /// Whether a pick may take it. `retryable`: a retry is allowed on the request, should this attempt
    /// fail (only such a request is used to try an endpoint out).
    #[inline]
    pub fn admits(&self, retryable: bool) -> bool {
        self.state.load().state().admits(retryable)
    }

    /// How far it is trusted, for pages and metrics.
    pub fn ejection_state(&self) -> EjectionState {
        self.state.load().state().ejection_state()
    }

    /// Begins an attempt, after the pick. `None`: it was to be tried out, and another request is doing
    /// so already; pick again.
    #[inline]
    pub fn begin_attempt(&self, retryable: bool) -> Option<AttemptGuard<'_>> {
        let seen = self.state.load();
        let probation = match seen.state() {
            EndpointState::Healthy | EndpointState::PanicSoft | EndpointState::PanicHard => false,
            // Taken out since the pick: as good as an attempt begun a moment ago.
            EndpointState::Ejected => false,
            EndpointState::Probation if !retryable => return None,
            EndpointState::Probation | EndpointState::ProbationAny if self.state.take_probation(seen) => true,
            EndpointState::Probation | EndpointState::ProbationAny | EndpointState::ProbationTaken => {
                return None;
            }
        };
        Some(AttemptGuard { stats: self, at_begin: seen, probation })
    }

    /// Success rate over the window, when it had enough requests to have one.
    pub(super) fn success_rate(&self, now: Instant, min_requests: u32) -> Option<f64> {
        let tick = self.clock.tick_at(now);
        let ended = self.ended.sum(tick);
        let enough = ended > 0 && ended >= u64::from(min_requests);
        enough.then(|| ended.saturating_sub(self.failed.sum(tick)) as f64 / ended as f64)
    }

    pub(super) fn state_bits(&self) -> StateBits {
        self.state.load()
    }

    /// Begins a generation, if its standing is another. What was counted is then forgotten.
    pub(super) fn publish(&self, state: EndpointState) {
        let now = self.state.load().state();
        let is_taken_from = now == EndpointState::ProbationTaken && state.is_probation();
        if now == state || is_taken_from {
            return;
        }
        self.state.start_epoch(state);
        self.consecutive.store(0, Relaxed);
        self.connect_timeouts.store(0, Relaxed);
        self.uncompared_failures.store(0, Relaxed);
        self.ended.clear();
        self.failed.clear();
    }

    /// An end while trusted: counts it, and says whether it is reason to ask the judge.
    fn record_evidence(&self, evidence: Evidence, now: Instant) -> Option<EjectionReason> {
        match evidence {
            Evidence::None => None,
            Evidence::Unreachable => Some(EjectionReason::Unreachable),
            Evidence::ConnectTimeout => {
                let timeouts = self.connect_timeouts.fetch_add(1, Relaxed).saturating_add(1);
                let rate = self.record_rate_failure(now);
                if timeouts >= MAX_CONNECT_TIMEOUTS { Some(EjectionReason::ConnectTimeouts) } else { rate }
            }
            Evidence::Success => {
                self.record_success(now);
                None
            }
            Evidence::Failure => self.record_failure(now),
            Evidence::UncertainFailure => self.record_rate_failure(now),
        }
    }

    fn record_success(&self, now: Instant) {
        reset_if_set(&self.consecutive);
        self.ended.add(self.clock.tick_at(now));
    }

    /// One more in a row, and in the rate.
    fn record_failure(&self, now: Instant) -> Option<EjectionReason> {
        let row = self.consecutive.fetch_add(1, Relaxed).saturating_add(1);
        let rate = self.record_rate_failure(now);
        // Again with each further row: the cap may have refused this one.
        let most = self.limits.max_consecutive.load(Relaxed);
        if most > 0 && row.is_multiple_of(most) { Some(EjectionReason::ConsecutiveFailures) } else { rate }
    }

    /// The body came to its end, of an answer whose head was counted by [`AttemptGuard::record_head`].
    #[inline]
    pub fn record_body_end(&self, since: AttemptEpoch, now: Instant) {
        if self.limits.enabled.load(Relaxed) && self.is_healthy_since(since) {
            self.record_success(now);
        }
    }

    /// The same body was cut, or fell silent: a failure like a connection that ends before the head.
    /// With a report, the cluster's [`Judge`](super::Detector) is to be asked.
    pub fn record_body_cut(
        &self,
        since: AttemptEpoch,
        blame: &mut FailureAttribution,
        now: Instant,
    ) -> Option<Report> {
        if !self.limits.enabled.load(Relaxed) || !blame.attribute() || !self.is_healthy_since(since) {
            return None;
        }
        let signal = Signal::Failed(self.record_failure(now)?);
        Some(Report { epoch: since.0.epoch(), signal })
    }

    fn is_healthy_since(&self, since: AttemptEpoch) -> bool {
        let now = self.state.load();
        now.state() == EndpointState::Healthy && now.epoch() == since.0.epoch()
    }

    /// Counts a failure in the rate, and says whether the rate is to be compared.
    fn record_rate_failure(&self, now: Instant) -> Option<EjectionReason> {
        let tick = self.clock.tick_at(now);
        self.ended.add(tick);
        self.failed.add(tick);
        let least = self.limits.success_rate()?;
        if self.uncompared_failures.fetch_add(1, Relaxed).saturating_add(1) < RATE_CHECK_INTERVAL {
            return None;
        }
        let enough = self.limits.min_requests.load(Relaxed);
        let low = self.success_rate(now, enough).is_some_and(|rate| rate < least);
        low.then(|| {
            self.uncompared_failures.store(0, Relaxed);
            EjectionReason::SuccessRate
        })
    }
}

/// The settings that an attempt's end reads: words, so that they can change under it without a lock.
#[derive(Debug)]
struct DetectionLimits {
    /// False: turned off, it is trusted for ever.
    enabled: AtomicBool,
    /// 0: rows are not counted.
    max_consecutive: AtomicU32,
    /// As bits; not a number: shares are not compared.
    success_rate: AtomicU64,
    min_requests: AtomicU32,
}

impl DetectionLimits {
    fn new(settings: Option<&OutlierDetection>) -> Self {
        let limits = Self {
            enabled: AtomicBool::new(false),
            max_consecutive: AtomicU32::new(0),
            success_rate: AtomicU64::new(f64::NAN.to_bits()),
            min_requests: AtomicU32::new(0),
        };
        limits.apply_settings(settings);
        limits
    }

    fn apply_settings(&self, settings: Option<&OutlierDetection>) {
        if let Some(settings) = settings {
            self.max_consecutive.store(settings.consecutive_failures.unwrap_or(0), Relaxed);
            self.success_rate.store(settings.success_rate.unwrap_or(f64::NAN).to_bits(), Relaxed);
            self.min_requests.store(settings.min_requests, Relaxed);
        }
        self.enabled.store(settings.is_some(), Relaxed);
    }

    fn success_rate(&self) -> Option<f64> {
        Some(f64::from_bits(self.success_rate.load(Relaxed))).filter(|rate| !rate.is_nan())
    }
}

/// Zero without a write when it is zero: the line stays shared between workers.
fn reset_if_set(count: &AtomicU32) {
    if count.load(Relaxed) != 0 {
        count.store(0, Relaxed);
    }
}

/// How far an endpoint was trusted when an attempt began, for what its body says later.
#[derive(Debug, Clone, Copy)]
pub struct AttemptEpoch(StateBits);

/// One attempt at an endpoint. Dropped without its end it says nothing, and a probation's place is free
/// again.
#[must_use = "a mark dropped at once says nothing about the endpoint"]
#[derive(Debug)]
pub struct AttemptGuard<'a> {
    stats: &'a EndpointStats,
    at_begin: StateBits,
    /// It holds the place of the request that decides.
    probation: bool,
}

impl AttemptGuard<'_> {
    /// It is the request that decides whether the endpoint is trusted again.
    pub fn is_probation(&self) -> bool {
        self.probation
    }

    /// Says how the attempt ended: once per attempt, when its answer is there or cannot come.
    /// With a report, the cluster's [`Judge`](super::Detector) is to be asked.
    #[inline]
    pub fn record_end(
        self,
        blame: &mut FailureAttribution,
        outcome: Outcome,
        sent: Sent,
        now: Instant,
    ) -> Option<Report> {
        self.conclude(blame, outcome, sent, true, now)
    }

    /// The same for an answer whose body is still to come. A good head alone ends no row: with a
    /// [`AttemptEpoch`], [`EndpointStats::record_body_end`] or [`EndpointStats::record_body_cut`] says the rest. It does end a probation,
    /// which cannot wait for a body without end.
    #[inline]
    pub fn record_head(
        self,
        blame: &mut FailureAttribution,
        outcome: Outcome,
        sent: Sent,
        now: Instant,
    ) -> (Option<Report>, Option<AttemptEpoch>) {
        let is_good = Evidence::classify(outcome, sent, false) == Evidence::Success;
        let began = (is_good && self.at_begin.state() == EndpointState::Healthy)
            .then_some(AttemptEpoch(self.at_begin));
        (self.conclude(blame, outcome, sent, false, now), began)
    }

    fn conclude(
        mut self,
        blame: &mut FailureAttribution,
        outcome: Outcome,
        sent: Sent,
        is_complete: bool,
        now: Instant,
    ) -> Option<Report> {
        if !self.stats.limits.enabled.load(Relaxed) {
            return None;
        }
        let evidence = Evidence::classify(outcome, sent, blame.take_first());
        if matches!(evidence, Evidence::Failure | Evidence::UncertainFailure) && !blame.attribute() {
            return None;
        }
        if self.stats.state.load().epoch() != self.at_begin.epoch() {
            return None;
        }
        let signal = if self.at_begin.state() == EndpointState::Healthy {
            if outcome.status().is_some() {
                reset_if_set(&self.stats.connect_timeouts);
            }
            if evidence == Evidence::Success && !is_complete {
                return None;
            }
            Signal::Failed(self.stats.record_evidence(evidence, now)?)
        } else {
            self.signal_while_not_healthy(evidence)?
        };
        // The judge ends the probation, and with it the place.
        self.probation = false;
        Some(Report { epoch: self.at_begin.epoch(), signal })
    }

    /// An end while not trusted.
    fn signal_while_not_healthy(&self, evidence: Evidence) -> Option<Signal> {
        match (evidence, self.at_begin.state()) {
            (Evidence::None, _) => None,
            (Evidence::Success, _) => Some(Signal::Recovered),
            // What is known already needs no lock: in panic every request ends like this.
            (
                Evidence::Unreachable | Evidence::ConnectTimeout,
                EndpointState::PanicHard | EndpointState::Ejected,
            ) => None,
            (Evidence::Unreachable, _) => Some(Signal::Failed(EjectionReason::Unreachable)),
            (_, _) if !self.probation => None,
            // One is enough here: it was out already.
            (Evidence::ConnectTimeout, _) => Some(Signal::Failed(EjectionReason::ConnectTimeouts)),
            (Evidence::Failure | Evidence::UncertainFailure, _) => {
                Some(Signal::Failed(EjectionReason::Probation))
            }
        }
    }
}

impl Drop for AttemptGuard<'_> {
    fn drop(&mut self) {
        if self.probation {
            self.stats.state.release_probation(self.at_begin);
        }
    }
}

/// What the judge is to be told. Old ones are dropped there, so it may be late.
#[must_use = "the cluster's judge is to be asked"]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Report {
    pub(super) epoch: u64,
    pub(super) signal: Signal,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Signal {
    /// It answered well while it was not trusted.
    Recovered,
    Failed(EjectionReason),
}
