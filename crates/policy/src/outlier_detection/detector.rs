//! Decides for all endpoints of a cluster together: which are ejected, which return, which are probed.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use outrigger_config::OutlierDetection;

use super::{
    EjectionReason, EndpointStats, Report,
    ejection::{Ejection, EjectionDetails, Eligibility, Tracked},
    state::EndpointState,
    stats::Signal,
    success_rate::{self, RateSample},
};

/// Pause between two probes of an endpoint in panic mode, or with the breaker open.
const PROBE_INTERVAL: Duration = Duration::from_millis(250);
/// The longest pause between two probes of a last resort: its node may be gone for days.
const MAX_PROBE_INTERVAL: Duration = Duration::from_secs(10);
/// Most probes of a cluster in flight at once.
const MAX_PROBES: usize = 8;
/// A probe without a result after this long is lost: a connect has its own, shorter time-out.
const PROBE_TIMEOUT: Duration = Duration::from_secs(5);

/// The states of one cluster's endpoints, each an `Arc<T>`. The cluster keeps the detector behind a lock,
/// which is held for one call and never across an await.
#[derive(Debug)]
pub struct Detector<T> {
    members: Vec<Tracked<T>>,
    /// [`Eligibility::InService`] while a member is, then [`Eligibility::LastResort`]: the members that count.
    counted: Eligibility,
    panic: bool,
    /// Requests have somewhere else to go while no member is healthy.
    relieved: bool,
    /// The View may still be the one from before the last [`set_members`](Self::set_members).
    view_pending: bool,
}

/// A change, for log and metrics.
#[derive(Debug, Clone)]
pub enum EjectionEvent<T> {
    /// An endpoint was ejected.
    Ejected {
        /// The endpoint.
        endpoint: Arc<T>,
        /// Why.
        reason: EjectionReason,
        /// How long at least.
        ejection_time: Duration,
    },
    /// `max_ejection_percent` prevented an ejection.
    CapReached {
        /// The endpoint.
        endpoint: Arc<T>,
        /// Why it would have been ejected.
        reason: EjectionReason,
    },
    /// The ejection time has ended and the endpoint accepts connections: the next request on which a
    /// retry is allowed decides.
    Probation {
        /// The endpoint.
        endpoint: Arc<T>,
    },
    /// An endpoint is healthy again.
    Returned {
        /// The endpoint.
        endpoint: Arc<T>,
        /// The evidence.
        by: ReturnedBy,
    },
    /// Panic mode has begun (true: no endpoint is healthy, so ejected ones may be chosen) or ended (false).
    Panic(bool),
}

/// The evidence that an endpoint is healthy again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ReturnedBy {
    /// A successful request.
    Request,
    /// An accepted connection. The caller ends the breaker's open time with
    /// [`Breaker::half_open`](crate::Breaker::half_open).
    Probe,
}

/// What [`Detector::advance`] asks for.
#[derive(Debug)]
pub struct DueActions<T> {
    /// Endpoints to probe now with a TCP connection; each probe ends with [`Detector::report_probe`].
    pub probes: Vec<Arc<T>>,
    /// What has changed.
    pub events: Vec<EjectionEvent<T>>,
    /// When to call again. `None`: not before another event.
    pub next: Option<Instant>,
}

/// Counts of the endpoints in service, or of the last resorts where there is none, by state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct EjectionCounts {
    /// They may be chosen.
    pub healthy: usize,
    /// They may not be chosen, except in panic mode.
    pub ejected: usize,
    /// A request decides.
    pub probation: usize,
    /// Panic mode: no endpoint is healthy, and all may be chosen, except last resorts that accept no connections.
    pub panic: bool,
}

impl<T> Default for Detector<T> {
    fn default() -> Self {
        Self {
            members: Vec::new(),
            counted: Eligibility::InService,
            panic: false,
            relieved: false,
            view_pending: false,
        }
    }
}

impl<T: AsRef<EndpointStats>> Detector<T> {
    /// Sets the known endpoints, before the cluster's one writer swaps in a new View. An endpoint that is
    /// missing is forgotten; a new one is healthy. Without settings all endpoints are healthy, and none is
    /// known.
    ///
    /// It lets more endpoints be chosen and none fewer, so the old View also always has one to choose.
    /// [`advance`](Self::advance) does the rest: call it when the new View is there.
    pub fn set_members(
        &mut self,
        settings: Option<&OutlierDetection>,
        members: impl IntoIterator<Item = (Arc<T>, Eligibility)>,
        now: Instant,
    ) -> Vec<EjectionEvent<T>> {
        let mut events = Vec::new();
        let before = std::mem::take(&mut self.members).into_iter();
        if settings.is_none() {
            for member in before {
                member.stats().publish(EndpointState::Healthy);
            }
            if std::mem::take(&mut self.panic) {
                events.push(EjectionEvent::Panic(false));
            }
            return events;
        }
        let mut before: Vec<Option<Tracked<T>>> = before.map(Some).collect();
        for (endpoint, eligibility) in members {
            let place = before.get_mut((*endpoint).as_ref().member());
            let old = place.and_then(|one| one.take_if(|one| Arc::ptr_eq(&one.endpoint, &endpoint)));
            let mut member = old.unwrap_or_else(|| Tracked::new(endpoint, now));
            member.eligibility = eligibility;
            member.stats().set_member(self.members.len());
            self.members.push(member);
        }
        let any_in_service = self.members.iter().any(|member| member.eligibility == Eligibility::InService);
        self.counted = if any_in_service { Eligibility::InService } else { Eligibility::LastResort };
        self.view_pending = true;
        self.update_panic(&mut events);
        self.publish_matching(true);
        events
    }

    /// Says whether requests have somewhere else to go while no endpoint is healthy: then the last one may be ejected as any
    /// other, and there is no panic mode.
    pub fn set_relieved(&mut self, relieved: bool) -> Vec<EjectionEvent<T>> {
        let mut events = Vec::new();
        self.relieved = relieved;
        if self.update_panic(&mut events) {
            self.publish_all();
        }
        events
    }

    /// Decides on the report of an attempt. `random` is uniform over all of `u64`.
    ///
    /// After an event the caller must call [`advance`](Self::advance) again.
    pub fn report(
        &mut self,
        settings: Option<&OutlierDetection>,
        endpoint: &Arc<T>,
        report: Report,
        now: Instant,
        random: u64,
    ) -> Vec<EjectionEvent<T>> {
        let mut events = Vec::new();
        let Some(settings) = settings else { return events };
        let Some(at) = self.find(endpoint) else { return events };
        // Another report has changed the state meanwhile. That a slot passed on does not end the probation.
        let member = &self.members[at];
        let is_current = member.stats().state_bits().epoch() == report.epoch
            || report.probation && member.is_in_probation_since(report.epoch);
        if !is_current {
            return events;
        }
        match report.signal {
            Signal::Recovered => self.restore(at, ReturnedBy::Request, now, &mut events),
            Signal::Failed(reason) => self.handle_failure(at, reason, settings, now, random, &mut events),
        }
        self.publish(at, &mut events);
        events
    }

    /// Applies the passing of time; says what is due, and when to call again. `breaker_open`: the
    /// cluster's breaker lets no request pass, so only probes find out.
    pub fn advance(&mut self, now: Instant, breaker_open: bool) -> DueActions<T> {
        let mut due = DueActions { probes: Vec::new(), events: Vec::new(), next: None };
        if std::mem::take(&mut self.view_pending) {
            self.update_panic(&mut due.events);
            self.publish_all();
        }
        let panics_over = self.panic.then_some(self.counted);
        for member in &mut self.members {
            if member.is_eligible() && panics_over != Some(member.eligibility) {
                member.advance(now);
                if matches!(member.ejection, Ejection::Probation { .. }) {
                    member.stats().publish(member.state(false));
                    member.pass_probation_on(now);
                }
            }
        }
        self.start_probes(now, breaker_open, &mut due.probes);
        due.next = self.next_check(breaker_open);
        due
    }

    /// Records a probe that [`advance`](Self::advance) asked for: whether a connection was made. Not for
    /// a probe that failed because the sidecar lacks a resource: it is asked for again later.
    pub fn report_probe(
        &mut self,
        settings: Option<&OutlierDetection>,
        endpoint: &Arc<T>,
        connected: bool,
        now: Instant,
        random: u64,
    ) -> Vec<EjectionEvent<T>> {
        let mut events = Vec::new();
        let Some(settings) = settings else { return events };
        let Some(at) = self.find(endpoint) else { return events };
        let panic = self.panics_over(&self.members[at]);
        let member = &mut self.members[at];
        member.probing = false;
        if connected {
            // An open port says nothing about an endpoint that was ejected for its responses, except in
            // panic mode, where a request can find out.
            if member.is_eligible() && (member.is_hard() || panic) {
                self.restore(at, ReturnedBy::Probe, now, &mut events);
            } else if member.is_eligible() && member.begin_probation_if_due(now) {
                events.push(EjectionEvent::Probation { endpoint: endpoint.clone() });
            }
        } else if let Ejection::Ejected { hard, reason, until, .. } = member.ejection
            && until <= now
            && !panic
        {
            let reason = if hard { reason } else { EjectionReason::Unreachable };
            let ejection_time = member.eject(reason, settings, now, random);
            if !hard {
                events.push(EjectionEvent::Ejected { endpoint: endpoint.clone(), reason, ejection_time });
            }
        }
        self.publish(at, &mut events);
        events
    }

    /// Counts of the endpoints in service, or of the last resorts where there is none.
    pub fn counts(&self) -> EjectionCounts {
        let mut counts = EjectionCounts { panic: self.panic, ..EjectionCounts::default() };
        for member in self.counted() {
            match member.ejection {
                Ejection::Healthy { .. } => counts.healthy += 1,
                Ejection::Ejected { .. } => counts.ejected += 1,
                Ejection::Probation { .. } => counts.probation += 1,
            }
        }
        counts
    }

    /// Why an endpoint is ejected or on probation; `None`: it is healthy.
    pub fn ejection_details(&self, endpoint: &Arc<T>) -> Option<EjectionDetails> {
        self.find(endpoint).and_then(|at| self.members[at].details())
    }

    fn find(&self, endpoint: &Arc<T>) -> Option<usize> {
        let at = (**endpoint).as_ref().member();
        self.members.get(at).is_some_and(|one| Arc::ptr_eq(&one.endpoint, endpoint)).then_some(at)
    }

    /// The members that count: those in service, or the last resorts where there is none.
    fn counted(&self) -> impl Iterator<Item = &Tracked<T>> {
        self.members.iter().filter(|member| self.is_counted(member))
    }

    fn is_counted(&self, member: &Tracked<T>) -> bool {
        member.eligibility == self.counted
    }

    /// Whether panic mode is about the member.
    fn panics_over(&self, member: &Tracked<T>) -> bool {
        self.panic && self.is_counted(member)
    }

    fn restore(&mut self, at: usize, by: ReturnedBy, now: Instant, events: &mut Vec<EjectionEvent<T>>) {
        let member = &mut self.members[at];
        if !member.is_healthy() {
            member.mark_healthy(now);
            events.push(EjectionEvent::Returned { endpoint: member.endpoint.clone(), by });
        }
    }

    fn handle_failure(
        &mut self,
        at: usize,
        reason: EjectionReason,
        settings: &OutlierDetection,
        now: Instant,
        random: u64,
        events: &mut Vec<EjectionEvent<T>>,
    ) {
        if reason == EjectionReason::SuccessRate && !self.is_outlier(at, settings, now) {
            return;
        }
        let first = self.members[at].is_healthy();
        if first && !reason.is_hard() && !self.is_below_cap(settings) {
            let endpoint = self.members[at].endpoint.clone();
            events.push(EjectionEvent::CapReached { endpoint, reason });
            return;
        }
        let panic = self.panics_over(&self.members[at]);
        let member = &mut self.members[at];
        match &mut member.ejection {
            // Panic mode: new hard evidence replaces the reason; the ejection time stays, because the
            // endpoint is in use.
            Ejection::Ejected { hard, reason: known, .. } if panic && reason.is_hard() && !*hard => {
                (*hard, *known) = (true, reason);
            }
            Ejection::Ejected { .. } => {}
            Ejection::Healthy { .. } | Ejection::Probation { .. } => {
                let ejection_time = member.eject(reason, settings, now, random);
                let endpoint = member.endpoint.clone();
                events.push(EjectionEvent::Ejected { endpoint, reason, ejection_time });
            }
        }
    }

    fn is_outlier(&self, at: usize, settings: &OutlierDetection, now: Instant) -> bool {
        let sample = |member: &Tracked<T>| member.stats().rate_sample(settings, now);
        let Some((least, own)) = settings.success_rate.zip(sample(&self.members[at])) else { return false };
        let siblings = self
            .members
            .iter()
            .enumerate()
            .filter(|(other, member)| *other != at && self.is_counted(member) && member.is_healthy());
        let mut siblings: Vec<RateSample> = siblings.filter_map(|(_, member)| sample(member)).collect();
        success_rate::is_outlier(own, least, &mut siblings)
    }

    /// Whether one more endpoint may be ejected for its responses.
    fn is_below_cap(&self, settings: &OutlierDetection) -> bool {
        if self.relieved {
            return true;
        }
        let accepting = self.counted().filter(|member| !member.is_hard()).count();
        let out = self.counted().filter(|member| member.is_soft()).count();
        // The tolerance is for binary fractions: 29 % of 100 may not be exactly 29.
        (out + 1) as f64 <= accepting as f64 * settings.max_ejection_percent / 100.0 + 1e-9
    }

    /// Publishes the state of one endpoint, or of all when panic mode begins or ends.
    fn publish(&mut self, at: usize, events: &mut Vec<EjectionEvent<T>>) {
        if self.update_panic(events) {
            self.publish_all();
        } else {
            let member = &self.members[at];
            member.stats().publish(self.state_of(member));
        }
    }

    /// Whether panic mode has begun or ended.
    fn update_panic(&mut self, events: &mut Vec<EjectionEvent<T>>) -> bool {
        let none_healthy =
            !self.relieved && self.counted().next().is_some() && !self.counted().any(Tracked::is_healthy);
        // The endpoint that ends it may not be in the View yet.
        let panic = none_healthy || (self.view_pending && self.panic);
        let changed = panic != self.panic;
        if changed {
            self.panic = panic;
            events.push(EjectionEvent::Panic(panic));
        }
        changed
    }

    /// Publishes every state, first the ones that allow a pick: there is always an endpoint to choose.
    fn publish_all(&self) {
        self.publish_matching(true);
        self.publish_matching(false);
    }

    /// Publishes the states that allow a pick, or the ones that do not.
    fn publish_matching(&self, usable: bool) {
        for member in &self.members {
            let state = self.state_of(member);
            if state.admits(false) == usable {
                member.stats().publish(state);
            }
        }
    }

    /// The state to publish of a member.
    fn state_of(&self, member: &Tracked<T>) -> EndpointState {
        // The registry has no contact with the node either: to choose the endpoint is not better than no attempt.
        let is_gone = member.eligibility == Eligibility::LastResort && member.is_hard();
        member.state(self.panics_over(member) && !is_gone)
    }

    /// When an endpoint's next probe is due.
    fn probe_at(&self, member: &Tracked<T>, breaker_open: bool) -> Option<Instant> {
        let often = member.last_probe + probe_interval(member);
        match member.ejection {
            _ if !member.is_eligible() || member.probing => None,
            Ejection::Healthy { .. } => None,
            _ if self.panics_over(member) => Some(often),
            Ejection::Ejected { hard: true, until, .. } if breaker_open => Some(often.min(until)),
            // Also after an ejection for responses: the instance may have died before a request is spent.
            Ejection::Ejected { until, .. } => Some(until),
            Ejection::Probation { .. } => None,
        }
    }

    fn start_probes(&mut self, now: Instant, breaker_open: bool, probes: &mut Vec<Arc<T>>) {
        for member in &mut self.members {
            member.probing &= now < member.last_probe + PROBE_TIMEOUT;
        }
        let in_flight = self.members.iter().filter(|member| member.probing).count();
        let mut ready: Vec<(Instant, usize)> = self
            .members
            .iter()
            .enumerate()
            .filter(|(_, member)| self.probe_at(member, breaker_open).is_some_and(|at| at <= now))
            .map(|(at, member)| (member.last_probe, at))
            .collect();
        // The longest wait first, so that every endpoint is probed.
        ready.sort();
        for (_, at) in ready.into_iter().take(MAX_PROBES.saturating_sub(in_flight)) {
            let member = &mut self.members[at];
            member.probing = true;
            member.last_probe = now;
            probes.push(member.endpoint.clone());
        }
    }

    fn next_check(&self, breaker_open: bool) -> Option<Instant> {
        let full = self.members.iter().filter(|member| member.probing).count() >= MAX_PROBES;
        let eligible = self.members.iter().filter(|member| member.is_eligible());
        let times = eligible.flat_map(|member| {
            // With all slots taken, the end of a probe is the next event.
            let probe = self.probe_at(member, breaker_open).filter(|_| !full);
            let lost = member.probing.then(|| member.last_probe + PROBE_TIMEOUT);
            let next_advance = member.next_advance().filter(|_| !self.panics_over(member));
            [probe, lost, next_advance]
        });
        times.flatten().min()
    }
}

/// The pause between two probes of an endpoint where probes are the only way back: for a last resort an eighth of the time that it
/// is out already.
fn probe_interval<T>(member: &Tracked<T>) -> Duration {
    match member.ejection {
        Ejection::Ejected { since, .. } | Ejection::Probation { since, .. }
            if member.eligibility == Eligibility::LastResort =>
        {
            let out_for = member.last_probe.saturating_duration_since(since);
            (out_for / 8).clamp(PROBE_INTERVAL, MAX_PROBE_INTERVAL)
        }
        _ => PROBE_INTERVAL,
    }
}
