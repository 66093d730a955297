//! The results of an endpoint's attempts. Lock-free, because every request writes here.

use std::{
    ops::Deref,
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
    time::{Duration, Instant},
};

use outrigger_config::OutlierDetection;

use super::{
    EjectionReason, EjectionState, FailureAttribution,
    evidence::Evidence,
    state::{EndpointState, StateBits, StateCell},
    success_rate::RateSample,
};
use crate::{
    outcome::{Outcome, Sent},
    sliding_window::{SlidingCounter, WindowClock},
    sync::AtomicU32,
};

/// Connect time-outs without a response between them that eject an endpoint.
const MAX_CONNECT_TIMEOUTS: u32 = 2;

/// Failures between two comparisons of the success rate: a comparison reads all siblings, which would
/// cost too much at each failure.
const RATE_CHECK_INTERVAL: u32 = 4;

/// One endpoint's results. They belong to the endpoint, as its load and its connections do: an instance
/// that is registered anew begins with empty ones.
#[derive(Debug)]
pub struct EndpointStats {
    clock: WindowClock,
    state: StateCell,
    /// How often a request has asked for the slot of a probation: tells its holders apart.
    probation_takes: AtomicU32,
    /// Failed requests since the last success.
    consecutive: AtomicU32,
    /// Connect time-outs since the last response.
    connect_timeouts: AtomicU32,
    /// Failures since the detector last compared the success rate.
    uncompared_failures: AtomicU32,
    ended: SlidingCounter,
    failed: SlidingCounter,
    /// The endpoint's place in its detector, which alone reads and writes it.
    member: AtomicUsize,
}

impl EndpointStats {
    /// A healthy endpoint without results.
    pub fn new(now: Instant) -> Self {
        Self {
            // The first request sets the window.
            clock: WindowClock::new(now, Duration::ZERO),
            state: StateCell::new(),
            probation_takes: AtomicU32::new(0),
            consecutive: AtomicU32::new(0),
            connect_timeouts: AtomicU32::new(0),
            uncompared_failures: AtomicU32::new(0),
            ended: SlidingCounter::default(),
            failed: SlidingCounter::default(),
            member: AtomicUsize::new(0),
        }
    }

    /// The place that [`set_member`](Self::set_member) noted; any place before.
    pub(super) fn member(&self) -> usize {
        self.member.load(Relaxed)
    }

    /// Notes the endpoint's place in its detector.
    pub(super) fn set_member(&self, at: usize) {
        self.member.store(at, Relaxed);
    }

    /// Whether a pick may take the endpoint. `retryable`: a retry may follow if the attempt fails; usually
    /// only such a request decides a probation.
    #[inline]
    pub fn admits(&self, retryable: bool) -> bool {
        self.state.load().state().admits(retryable)
    }

    /// The state, for pages and metrics.
    pub fn ejection_state(&self) -> EjectionState {
        self.state.load().state().ejection_state()
    }

    /// [`AttemptGuard::begin`] for borrowed statistics.
    #[inline]
    pub fn begin_attempt(
        &self,
        settings: Option<&OutlierDetection>,
        retryable: bool,
    ) -> Option<AttemptGuard<&Self>> {
        AttemptGuard::begin(self, settings, retryable)
    }

    fn set_window(&self, settings: &OutlierDetection) {
        self.clock.set_window(settings.window, &[&self.ended, &self.failed]);
    }

    /// The attempts in the window; `None` below `min_requests`.
    pub(super) fn rate_sample(&self, settings: &OutlierDetection, now: Instant) -> Option<RateSample> {
        self.set_window(settings);
        let tick = self.clock.tick(now);
        let ended = self.ended.sum(tick);
        let enough = ended > 0 && ended >= u64::from(settings.min_requests);
        enough.then(|| RateSample { ended, failed: self.failed.sum(tick) })
    }

    pub(super) fn state_bits(&self) -> StateBits {
        self.state.load()
    }

    /// The state and the number of the holder, while a request holds the slot of a probation.
    pub(super) fn probation_holder(&self) -> Option<(StateBits, u32)> {
        let seen = self.state.load();
        (seen.state() == EndpointState::ProbationTaken).then(|| (seen, self.probation_takes.load(Relaxed)))
    }

    /// Gives the slot of a probation to the next request: `state` says which. The holder has lost it.
    pub(super) fn pass_probation_on(&self, taken: StateBits, state: EndpointState) -> bool {
        self.state.pass_probation_on(taken, state)
    }

    fn take_probation(&self, seen: StateBits) -> bool {
        // Before the take, so that the number belongs to the holder or to a later request that failed to take it.
        self.probation_takes.fetch_add(1, Relaxed);
        self.state.take_probation(seen)
    }

    /// Begins an epoch with empty counts, if the state is another.
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

    /// Counts an end while healthy; with a reason, the detector must decide.
    fn record_evidence(
        &self,
        settings: &OutlierDetection,
        evidence: Evidence,
        now: Instant,
    ) -> Option<EjectionReason> {
        match evidence {
            Evidence::None => None,
            Evidence::Unreachable => Some(EjectionReason::Unreachable),
            Evidence::UnreachableFromHere => Some(EjectionReason::UnreachableFromHere),
            Evidence::ConnectTimeout => {
                let timeouts = self.connect_timeouts.fetch_add(1, Relaxed).saturating_add(1);
                let rate = self.record_rate_failure(settings, now);
                if timeouts >= MAX_CONNECT_TIMEOUTS { Some(EjectionReason::ConnectTimeouts) } else { rate }
            }
            Evidence::Success => {
                self.record_success(now);
                None
            }
            Evidence::Failure => self.record_failure(settings, now),
            Evidence::UncertainFailure => self.record_rate_failure(settings, now),
        }
    }

    fn record_success(&self, now: Instant) {
        reset_if_set(&self.consecutive);
        self.ended.add(self.clock.tick(now));
    }

    /// Counts a failure in the row and in the success rate.
    fn record_failure(&self, settings: &OutlierDetection, now: Instant) -> Option<EjectionReason> {
        let row = self.consecutive.fetch_add(1, Relaxed).saturating_add(1);
        let rate = self.record_rate_failure(settings, now);
        // Again with each further row, because the cap may have prevented this ejection.
        match settings.consecutive_failures {
            Some(most) if row.is_multiple_of(most) => Some(EjectionReason::ConsecutiveFailures),
            Some(_) | None => rate,
        }
    }

    /// Counts the complete body of a response, after [`AttemptGuard::record_head`] recorded its head.
    #[inline]
    pub fn record_body_end(&self, since: AttemptEpoch, now: Instant) {
        if self.is_healthy_since(since) {
            self.record_success(now);
        }
    }

    /// Counts such a body that was cut or stalled after it had flowed for this long: a failure like a
    /// connection that ends before the head. One that flowed for a whole window counts nothing: the window has
    /// newer evidence, and streams end by a cut as a habit. A report goes to the cluster's
    /// [`Detector`](super::Detector).
    pub fn record_body_cut(
        &self,
        settings: Option<&OutlierDetection>,
        since: AttemptEpoch,
        blame: &mut FailureAttribution,
        flowed: Duration,
        now: Instant,
    ) -> Option<Report> {
        let settings = settings.filter(|settings| flowed < settings.window)?;
        if !blame.attribute() || !self.is_healthy_since(since) {
            return None;
        }
        let signal = Signal::Failed(self.record_failure(settings, now)?);
        Some(Report { epoch: since.0.epoch(), probation: false, signal })
    }

    fn is_healthy_since(&self, since: AttemptEpoch) -> bool {
        let now = self.state.load();
        now.state() == EndpointState::Healthy && now.epoch() == since.0.epoch()
    }

    /// Counts a failure in the success rate; with a reason, the detector must compare the rate.
    fn record_rate_failure(&self, settings: &OutlierDetection, now: Instant) -> Option<EjectionReason> {
        let tick = self.clock.tick(now);
        self.ended.add(tick);
        self.failed.add(tick);
        let least = settings.success_rate?;
        if self.uncompared_failures.fetch_add(1, Relaxed).saturating_add(1) < RATE_CHECK_INTERVAL {
            return None;
        }
        let low = self.rate_sample(settings, now).is_some_and(|sample| sample.rate() < least);
        low.then(|| {
            self.uncompared_failures.store(0, Relaxed);
            EjectionReason::SuccessRate
        })
    }
}

impl AsRef<Self> for EndpointStats {
    fn as_ref(&self) -> &Self {
        self
    }
}

/// Does not write a count that is zero, so the cache line stays shared between workers.
fn reset_if_set(count: &AtomicU32) {
    if count.load(Relaxed) != 0 {
        count.store(0, Relaxed);
    }
}

/// The endpoint's state when an attempt began: what the end of the body is counted with.
#[derive(Debug, Clone, Copy)]
pub struct AttemptEpoch(StateBits);

/// One attempt at an endpoint. A guard that is dropped without an end counts nothing, and frees the slot
/// of a probation. `T` holds the endpoint or borrows it.
#[must_use = "a guard that is dropped at once counts nothing"]
#[derive(Debug)]
pub struct AttemptGuard<T: Deref<Target: AsRef<EndpointStats>>> {
    endpoint: T,
    at_begin: StateBits,
    /// The attempt holds the slot of a probation.
    probation: bool,
}

impl<T: Deref<Target: AsRef<EndpointStats>>> AttemptGuard<T> {
    /// Begins an attempt after the pick; the guard records its end. `retryable`: a retry may follow.
    /// `None`: the endpoint is on probation, and another request decides it already; pick again.
    #[inline]
    pub fn begin(endpoint: T, settings: Option<&OutlierDetection>, retryable: bool) -> Option<Self> {
        let stats = endpoint.as_ref();
        let seen = stats.state.load();
        let probation = match seen.state() {
            EndpointState::Healthy | EndpointState::PanicSoft | EndpointState::PanicHard => false,
            // Ejected since the pick: the attempt is like one that began before.
            EndpointState::Ejected => false,
            EndpointState::Probation if !retryable => return None,
            EndpointState::Probation | EndpointState::ProbationAny if stats.take_probation(seen) => true,
            EndpointState::Probation | EndpointState::ProbationAny | EndpointState::ProbationTaken => {
                return None;
            }
        };
        if let Some(settings) = settings {
            stats.set_window(settings);
        }
        Some(Self { endpoint, at_begin: seen, probation })
    }

    /// The endpoint of the attempt.
    pub fn endpoint(&self) -> &T {
        &self.endpoint
    }

    /// Records the end of the attempt, when its response has arrived or cannot arrive. `settings`: those of
    /// the begin; `None`: outlier detection is off. A report goes to the cluster's
    /// [`Detector`](super::Detector).
    #[inline]
    pub fn record_end(
        self,
        settings: Option<&OutlierDetection>,
        blame: &mut FailureAttribution,
        outcome: Outcome,
        sent: Sent,
        now: Instant,
    ) -> Option<Report> {
        self.conclude(settings, blame, outcome, sent, true, now)
    }

    /// The same for a response with a body that follows. A good head alone does not end a row of failures: with
    /// an [`AttemptEpoch`], [`EndpointStats::record_body_end`] or [`EndpointStats::record_body_cut`]
    /// counts the rest. A good head does end a probation, which cannot wait for an endless body.
    #[inline]
    pub fn record_head(
        self,
        settings: Option<&OutlierDetection>,
        blame: &mut FailureAttribution,
        outcome: Outcome,
        sent: Sent,
        now: Instant,
    ) -> (Option<Report>, Option<AttemptEpoch>) {
        let is_good = Evidence::classify(outcome, sent, false) == Evidence::Success;
        let since = settings
            .filter(|_| is_good && self.at_begin.state() == EndpointState::Healthy)
            .map(|_| AttemptEpoch(self.at_begin));
        (self.conclude(settings, blame, outcome, sent, false, now), since)
    }

    fn conclude(
        mut self,
        settings: Option<&OutlierDetection>,
        blame: &mut FailureAttribution,
        outcome: Outcome,
        sent: Sent,
        is_complete: bool,
        now: Instant,
    ) -> Option<Report> {
        let settings = settings?;
        let stats = self.endpoint.as_ref();
        let evidence = Evidence::classify(outcome, sent, blame.take_first());
        if matches!(evidence, Evidence::Failure | Evidence::UncertainFailure) && !blame.attribute() {
            return None;
        }
        // Of a probation the detector decides: its slot may have passed on, which began an epoch.
        if !self.probation && stats.state.load().epoch() != self.at_begin.epoch() {
            return None;
        }
        let signal = if self.at_begin.state() == EndpointState::Healthy {
            if outcome.status().is_some() {
                reset_if_set(&stats.connect_timeouts);
            }
            if evidence == Evidence::Success && !is_complete {
                return None;
            }
            Signal::Failed(stats.record_evidence(settings, evidence, now)?)
        } else {
            self.signal_while_not_healthy(evidence)?
        };
        // The detector ends the probation, and with it the slot.
        let probation = std::mem::take(&mut self.probation);
        Some(Report { epoch: self.at_begin.epoch(), probation, signal })
    }

    /// The signal of an end while not healthy.
    fn signal_while_not_healthy(&self, evidence: Evidence) -> Option<Signal> {
        match (evidence, self.at_begin.state()) {
            (Evidence::None, _) => None,
            (Evidence::Success, _) => Some(Signal::Recovered),
            // A known state needs no lock: in panic mode every request ends like this.
            (
                Evidence::Unreachable | Evidence::UnreachableFromHere | Evidence::ConnectTimeout,
                EndpointState::PanicHard | EndpointState::Ejected,
            ) => None,
            (Evidence::Unreachable, _) => Some(Signal::Failed(EjectionReason::Unreachable)),
            (Evidence::UnreachableFromHere, _) => Some(Signal::Failed(EjectionReason::UnreachableFromHere)),
            (_, _) if !self.probation => None,
            // One time-out is enough after an ejection.
            (Evidence::ConnectTimeout, _) => Some(Signal::Failed(EjectionReason::ConnectTimeouts)),
            (Evidence::Failure | Evidence::UncertainFailure, _) => {
                Some(Signal::Failed(EjectionReason::Probation))
            }
        }
    }
}

impl<T: Deref<Target: AsRef<EndpointStats>>> Drop for AttemptGuard<T> {
    fn drop(&mut self) {
        if self.probation {
            self.endpoint.as_ref().state.release_probation(self.at_begin);
        }
    }
}

/// What an attempt reports to the detector, which drops reports from earlier epochs and earlier probations.
#[must_use = "a report must reach the cluster's detector"]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Report {
    pub(super) epoch: u64,
    /// The attempt held the slot of a probation.
    pub(super) probation: bool,
    pub(super) signal: Signal,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Signal {
    /// A success while not healthy.
    Recovered,
    Failed(EjectionReason),
}
