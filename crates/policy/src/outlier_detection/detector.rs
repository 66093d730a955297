//! Decides for all endpoints of a cluster at once: who is taken out, who comes back, who is tried.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use outrigger_config::OutlierDetection;

use super::{
    EjectionReason, EndpointStats, Report,
    ejection::{Ejection, EjectionDetails, Tracked},
    state::EndpointState,
    stats::Signal,
    success_rate,
};

/// Pause between two probes of an endpoint while a success is waited for.
const PROBE_INTERVAL: Duration = Duration::from_millis(250);
/// Most probes of a cluster under way at once.
const MAX_PROBES: usize = 8;
/// A probe that has not ended after this long is taken as lost: its connect has a time-out of its own.
const PROBE_TIMEOUT: Duration = Duration::from_secs(5);

/// The trust in one cluster's endpoints. Lives in a lock of the cluster's, which is held for one call
/// and never over an await.
#[derive(Debug)]
pub struct Detector {
    /// `None`: turned off, everybody is trusted.
    settings: Option<OutlierDetection>,
    members: Vec<Tracked>,
    panic: bool,
    /// The View may still be the one from before the last [`follow`](Judge::follow).
    view_pending: bool,
}

/// What has changed, for log and metrics.
#[derive(Debug, Clone)]
pub enum EjectionEvent {
    /// An endpoint was taken out.
    Ejected {
        /// Whose.
        stats: Arc<EndpointStats>,
        /// Why.
        reason: EjectionReason,
        /// For how long at least.
        ejection_time: Duration,
    },
    /// It would have been taken out, if `max_ejected` allowed it.
    CapReached {
        /// Whose.
        stats: Arc<EndpointStats>,
        /// Why it would have been.
        reason: EjectionReason,
    },
    /// Its time out has ended and it accepts connections: the next request on which a retry is allowed
    /// decides.
    Probation {
        /// Whose.
        stats: Arc<EndpointStats>,
    },
    /// It is trusted again.
    Returned {
        /// Whose.
        stats: Arc<EndpointStats>,
        /// What showed that it is well.
        by: ReturnedBy,
    },
    /// No endpoint is trusted, so all may be chosen (true), or one is again (false).
    Panic(bool),
}

/// What showed that an endpoint is well again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ReturnedBy {
    /// A request that it answered.
    Request,
    /// A connection that it accepted. The cluster's breaker is to be told
    /// ([`Breaker::half_open`](crate::Breaker::half_open)): it need not wait any longer.
    Probe,
}

/// What is to be done now.
#[derive(Debug, Default)]
pub struct DueActions {
    /// To these a TCP connection is to be tried now; each ends with [`Detector::report_probe`].
    pub probes: Vec<Arc<EndpointStats>>,
    /// What has changed.
    pub events: Vec<EjectionEvent>,
    /// When to ask again. `None`: not before something else happens.
    pub next: Option<Instant>,
}

/// How many of the endpoints that the registry lets be chosen stand where.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct EjectionCounts {
    /// They may be chosen.
    pub healthy: usize,
    /// They may not (in panic: they may all the same).
    pub ejected: usize,
    /// A request decides about them.
    pub probation: usize,
    /// No endpoint is trusted, and all may be chosen.
    pub panic: bool,
}

impl Detector {
    /// A judge of nobody yet; without settings it never takes anybody out.
    pub fn new(settings: Option<&OutlierDetection>) -> Self {
        Self { settings: settings.copied(), members: Vec::new(), panic: false, view_pending: false }
    }

    /// Goes on by other settings; whoever is out stays out for as long as was said. Turned off (`None`)
    /// everybody is trusted and nobody is known any more; turned on, [`follow`](Self::set_members) has to say
    /// again who there is.
    pub fn apply_settings(&mut self, settings: Option<&OutlierDetection>) -> Vec<EjectionEvent> {
        self.settings = settings.copied();
        let mut events = Vec::new();
        if settings.is_none() {
            for member in self.members.drain(..) {
                member.stats.publish(EndpointState::Healthy);
            }
            if std::mem::take(&mut self.panic) {
                events.push(EjectionEvent::Panic(false));
            }
        }
        events
    }

    /// Who is known, from the cluster's one writer, before a new View is swapped in. True beside a
    /// record: the registry lets it be chosen (passing, warning). The others keep their standing until
    /// they are listed again, but count for nothing, and are neither tried nor brought back.
    /// Who is missing is forgotten; a record seen for the first time is trusted.
    ///
    /// It lets endpoints be chosen and takes none away, so that in the old View, too, there is always
    /// one. What it ends is ended by [`due`](Self::advance), to be called when the new View is there.
    pub fn set_members(
        &mut self,
        known: impl IntoIterator<Item = (Arc<EndpointStats>, bool)>,
        now: Instant,
    ) -> Vec<EjectionEvent> {
        let before = std::mem::take(&mut self.members).into_iter();
        let mut before: HashMap<_, _> = before.map(|one| (Arc::as_ptr(&one.stats), one)).collect();
        if self.settings.is_some() {
            for (record, eligible) in known {
                let old = before.remove(&Arc::as_ptr(&record));
                let mut member = old.unwrap_or_else(|| Tracked::new(record, now));
                member.eligible = eligible;
                self.members.push(member);
            }
        }
        self.view_pending = true;
        let mut events = Vec::new();
        self.update_panic(&mut events);
        self.publish_matching(true);
        events
    }

    /// Judges a report of an attempt at `record`. `random` is uniform over all of `u64`.
    ///
    /// When something has changed, whoever waits for [`due`](Self::advance) has to ask again.
    pub fn report(
        &mut self,
        record: &Arc<EndpointStats>,
        report: Report,
        now: Instant,
        random: u64,
    ) -> Vec<EjectionEvent> {
        let mut events = Vec::new();
        let Some(settings) = self.settings else { return events };
        let Some(at) = self.find(record) else { return events };
        // Somebody else's evidence has changed its standing meanwhile.
        if record.state_bits().epoch() != report.epoch {
            return events;
        }
        match report.signal {
            Signal::Recovered => self.restore(at, ReturnedBy::Request, now, &mut events),
            Signal::Failed(why) => self.handle_failure(at, why, &settings, now, random, &mut events),
        }
        self.publish(at, &mut events);
        events
    }

    /// Lets time pass, and says what is to be done and when to ask again. `breaker_open`: the cluster's
    /// breaker lets no request pass, so that only probes can find out.
    pub fn advance(&mut self, now: Instant, breaker_open: bool) -> DueActions {
        let mut due = DueActions::default();
        if std::mem::take(&mut self.view_pending) {
            self.update_panic(&mut due.events);
            self.publish_all();
        }
        if !self.panic {
            for member in self.members.iter_mut().filter(|member| member.eligible) {
                member.advance(now);
                if matches!(member.ejection, Ejection::Probation { .. }) {
                    member.stats.publish(member.state(false));
                }
            }
        }
        self.start_probes(now, breaker_open, &mut due.probes);
        due.next = self.next_check(breaker_open);
        due
    }

    /// The end of a probe that [`due`](Self::advance) asked for: whether a connection was made. Not called
    /// when it failed for want of something of our own, it is asked for again after a while.
    pub fn report_probe(
        &mut self,
        record: &Arc<EndpointStats>,
        connected: bool,
        now: Instant,
        random: u64,
    ) -> Vec<EjectionEvent> {
        let mut events = Vec::new();
        let Some(settings) = self.settings else { return events };
        let Some(at) = self.find(record) else { return events };
        let panic = self.panic;
        let member = &mut self.members[at];
        member.probing = false;
        if connected {
            // That it accepts connections shows nothing about one that was out for its answers, unless
            // there is nobody better: but then a request can find out.
            if member.eligible && (member.is_hard() || panic) {
                self.restore(at, ReturnedBy::Probe, now, &mut events);
            } else if member.eligible && member.begin_probation_if_due(now) {
                events.push(EjectionEvent::Probation { stats: record.clone() });
            }
        } else if let Ejection::Ejected { hard, reason: why, until, .. } = member.ejection
            && until <= now
            && !panic
        {
            let why = if hard { why } else { EjectionReason::Unreachable };
            let spell = member.eject(why, &settings, now, random);
            if !hard {
                events.push(EjectionEvent::Ejected {
                    stats: record.clone(),
                    reason: why,
                    ejection_time: spell,
                });
            }
        }
        self.publish(at, &mut events);
        events
    }

    /// How many stand where.
    pub fn counts(&self) -> EjectionCounts {
        let mut counts = EjectionCounts { panic: self.panic, ..EjectionCounts::default() };
        for member in self.eligible() {
            match member.ejection {
                Ejection::Healthy { .. } => counts.healthy += 1,
                Ejection::Ejected { .. } => counts.ejected += 1,
                Ejection::Probation { .. } => counts.probation += 1,
            }
        }
        counts
    }

    /// Why an endpoint is not trusted; `None`: it is.
    pub fn ejection_details(&self, record: &Arc<EndpointStats>) -> Option<EjectionDetails> {
        self.find(record).and_then(|at| self.members[at].details())
    }

    fn find(&self, record: &Arc<EndpointStats>) -> Option<usize> {
        self.members.iter().position(|member| Arc::ptr_eq(&member.stats, record))
    }

    fn eligible(&self) -> impl Iterator<Item = &Tracked> {
        self.members.iter().filter(|member| member.eligible)
    }

    fn restore(&mut self, at: usize, by: ReturnedBy, now: Instant, events: &mut Vec<EjectionEvent>) {
        let member = &mut self.members[at];
        if !member.is_healthy() {
            member.mark_healthy(now);
            events.push(EjectionEvent::Returned { stats: member.stats.clone(), by });
        }
    }

    fn handle_failure(
        &mut self,
        at: usize,
        why: EjectionReason,
        settings: &OutlierDetection,
        now: Instant,
        random: u64,
        events: &mut Vec<EjectionEvent>,
    ) {
        if why == EjectionReason::SuccessRate && !self.is_outlier(at, settings, now) {
            return;
        }
        let first = self.members[at].is_healthy();
        if first && !why.is_hard() && !self.is_below_cap(settings) {
            events.push(EjectionEvent::CapReached { stats: self.members[at].stats.clone(), reason: why });
            return;
        }
        let panic = self.panic;
        let member = &mut self.members[at];
        match &mut member.ejection {
            // In panic: it is worse than was known. It is not out for longer, since it is not out.
            Ejection::Ejected { hard, reason: known, .. } if panic && why.is_hard() && !*hard => {
                (*hard, *known) = (true, why);
            }
            Ejection::Ejected { .. } => {}
            Ejection::Healthy { .. } | Ejection::Probation { .. } => {
                let spell = member.eject(why, settings, now, random);
                events.push(EjectionEvent::Ejected {
                    stats: member.stats.clone(),
                    reason: why,
                    ejection_time: spell,
                });
            }
        }
    }

    fn is_outlier(&self, at: usize, settings: &OutlierDetection, now: Instant) -> bool {
        let rate = |member: &Tracked| member.stats.success_rate(now, settings.min_requests);
        let Some((least, own)) = settings.success_rate.zip(rate(&self.members[at])) else { return false };
        let siblings = self
            .members
            .iter()
            .enumerate()
            .filter(|(other, member)| *other != at && member.eligible && member.is_healthy());
        let mut siblings: Vec<f64> = siblings.filter_map(|(_, member)| rate(member)).collect();
        success_rate::is_outlier(own, least, &mut siblings)
    }

    /// Whether one more may be taken out for its answers.
    fn is_below_cap(&self, settings: &OutlierDetection) -> bool {
        let accepting = self.eligible().filter(|member| !member.is_hard()).count();
        let out = self.eligible().filter(|member| member.is_soft()).count();
        // A hair of tolerance: 0.29 of 100 is not 29 in binary.
        (out + 1) as f64 <= accepting as f64 * settings.max_ejection_percent / 100.0 + 1e-9
    }

    /// Makes the record at `at` show where its endpoint stands now; all of them when panic begins or
    /// ends with it.
    fn publish(&mut self, at: usize, events: &mut Vec<EjectionEvent>) {
        if self.update_panic(events) {
            self.publish_all();
        } else {
            let member = &self.members[at];
            member.stats.publish(member.state(self.panic && member.eligible));
        }
    }

    /// Whether panic has begun or ended.
    fn update_panic(&mut self, events: &mut Vec<EjectionEvent>) -> bool {
        let nobody = self.eligible().next().is_some() && !self.eligible().any(Tracked::is_healthy);
        // Who ends it may not be in the View yet.
        let panic = nobody || (self.view_pending && self.panic);
        let changed = panic != self.panic;
        if changed {
            self.panic = panic;
            events.push(EjectionEvent::Panic(panic));
        }
        changed
    }

    /// Makes every record show where its endpoint stands. Who may be chosen is written first: there is
    /// always one.
    fn publish_all(&self) {
        self.publish_matching(true);
        self.publish_matching(false);
    }

    /// The part of [`publish_all`](Self::show_all) for those who may be chosen, or may not.
    fn publish_matching(&self, usable: bool) {
        for member in &self.members {
            let state = member.state(self.panic && member.eligible);
            if state.admits(false) == usable {
                member.stats.publish(state);
            }
        }
    }

    /// When a member is to be tried by a probe, if it is.
    fn probe_at(&self, member: &Tracked, breaker_open: bool) -> Option<Instant> {
        let often = member.last_probe + PROBE_INTERVAL;
        match member.ejection {
            _ if !member.eligible || member.probing => None,
            Ejection::Healthy { .. } => None,
            _ if self.panic => Some(often),
            Ejection::Ejected { hard: true, until, .. } if breaker_open => Some(often.min(until)),
            // Also before a request is spent on one that was out for its answers: it may have died.
            Ejection::Ejected { until, .. } => Some(until),
            Ejection::Probation { .. } => None,
        }
    }

    fn start_probes(&mut self, now: Instant, breaker_open: bool, probes: &mut Vec<Arc<EndpointStats>>) {
        for member in &mut self.members {
            member.probing &= now < member.last_probe + PROBE_TIMEOUT;
        }
        let under_way = self.members.iter().filter(|member| member.probing).count();
        let mut ready: Vec<(Instant, usize)> = self
            .members
            .iter()
            .enumerate()
            .filter(|(_, member)| self.probe_at(member, breaker_open).is_some_and(|at| at <= now))
            .map(|(at, member)| (member.last_probe, at))
            .collect();
        // Who has waited longest is first, so that of many each has its turn.
        ready.sort();
        for (_, at) in ready.into_iter().take(MAX_PROBES.saturating_sub(under_way)) {
            let member = &mut self.members[at];
            member.probing = true;
            member.last_probe = now;
            probes.push(member.stats.clone());
        }
    }

    fn next_check(&self, breaker_open: bool) -> Option<Instant> {
        let full = self.members.iter().filter(|member| member.probing).count() >= MAX_PROBES;
        let times = self.eligible().flat_map(|member| {
            // With all places taken, the end of a probe is what is waited for.
            let probe = self.probe_at(member, breaker_open).filter(|_| !full);
            let lost = member.probing.then(|| member.last_probe + PROBE_TIMEOUT);
            let next_advance = member.next_advance().filter(|_| !self.panic);
            [probe, lost, next_advance]
        });
        times.flatten().min()
    }
}
