//! Decides for all endpoints of a cluster at once: who is taken out, who comes back, who is tried.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use outrigger_config::OutlierDetection;

use super::{
    Record, Report, Why,
    member::{Ejected, Life, Member},
    rate,
    record::Says,
    word::Standing,
};

/// Pause between two probes of an endpoint while a success is waited for.
const PROBE_EVERY: Duration = Duration::from_millis(250);
/// Most probes of a cluster under way at once.
const PROBES: usize = 8;
/// A probe that has not ended after this long is taken as lost: its connect has a time-out of its own.
const PROBE_LOST: Duration = Duration::from_secs(5);

/// The trust in one cluster's endpoints. Lives in a lock of the cluster's, which is held for one call
/// and never over an await.
#[derive(Debug)]
pub struct Judge {
    /// `None`: turned off, everybody is trusted.
    settings: Option<OutlierDetection>,
    members: Vec<Member>,
    panic: bool,
    /// The View may still be the one from before the last [`follow`](Judge::follow).
    unsettled: bool,
}

/// What has changed, for log and metrics.
#[derive(Debug, Clone)]
pub enum Event {
    /// An endpoint was taken out.
    Ejected {
        /// Whose.
        record: Arc<Record>,
        /// Why.
        why: Why,
        /// For how long at least.
        spell: Duration,
    },
    /// It would have been taken out, if `max_ejected` allowed it.
    Spared {
        /// Whose.
        record: Arc<Record>,
        /// Why it would have been.
        why: Why,
    },
    /// Its time out has ended and it accepts connections: the next request on which a retry is allowed
    /// decides.
    Probation {
        /// Whose.
        record: Arc<Record>,
    },
    /// It is trusted again.
    Returned {
        /// Whose.
        record: Arc<Record>,
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
pub struct Due {
    /// To these a TCP connection is to be tried now; each ends with [`Judge::probed`].
    pub probes: Vec<Arc<Record>>,
    /// What has changed.
    pub events: Vec<Event>,
    /// When to ask again. `None`: not before something else happens.
    pub next: Option<Instant>,
}

/// How many of the endpoints that the registry lets be chosen stand where.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// They may be chosen.
    pub trusted: usize,
    /// They may not (in panic: they may all the same).
    pub ejected: usize,
    /// A request decides about them.
    pub probation: usize,
    /// No endpoint is trusted, and all may be chosen.
    pub panic: bool,
}

impl Judge {
    /// A judge of nobody yet; without settings it never takes anybody out.
    pub fn new(settings: Option<&OutlierDetection>) -> Self {
        Self { settings: settings.copied(), members: Vec::new(), panic: false, unsettled: false }
    }

    /// Goes on by other settings; whoever is out stays out for as long as was said. Turned off (`None`)
    /// everybody is trusted and nobody is known any more; turned on, [`follow`](Self::follow) has to say
    /// again who there is.
    pub fn adopt(&mut self, settings: Option<&OutlierDetection>) -> Vec<Event> {
        self.settings = settings.copied();
        let mut events = Vec::new();
        if settings.is_none() {
            for member in self.members.drain(..) {
                member.record.show(Standing::Trusted);
            }
            if std::mem::take(&mut self.panic) {
                events.push(Event::Panic(false));
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
    /// one. What it ends is ended by [`due`](Self::due), to be called when the new View is there.
    pub fn follow(
        &mut self,
        known: impl IntoIterator<Item = (Arc<Record>, bool)>,
        now: Instant,
    ) -> Vec<Event> {
        let before = std::mem::take(&mut self.members).into_iter();
        let mut before: HashMap<_, _> = before.map(|one| (Arc::as_ptr(&one.record), one)).collect();
        if self.settings.is_some() {
            for (record, listed) in known {
                let old = before.remove(&Arc::as_ptr(&record));
                let mut member = old.unwrap_or_else(|| Member::new(record, now));
                member.listed = listed;
                self.members.push(member);
            }
        }
        self.unsettled = true;
        let mut events = Vec::new();
        self.look_for_panic(&mut events);
        self.show_those(true);
        events
    }

    /// Judges a report of an attempt at `record`. `random` is uniform over all of `u64`.
    ///
    /// When something has changed, whoever waits for [`due`](Self::due) has to ask again.
    pub fn ask(&mut self, record: &Arc<Record>, report: Report, now: Instant, random: u64) -> Vec<Event> {
        let mut events = Vec::new();
        let Some(settings) = self.settings else { return events };
        let Some(at) = self.find(record) else { return events };
        // Somebody else's evidence has changed its standing meanwhile.
        if record.seen().generation() != report.generation {
            return events;
        }
        match report.says {
            Says::Well => self.restore(at, ReturnedBy::Request, now, &mut events),
            Says::Fails(why) => self.fails(at, why, &settings, now, random, &mut events),
        }
        self.show(at, &mut events);
        events
    }

    /// Lets time pass, and says what is to be done and when to ask again. `breaker_open`: the cluster's
    /// breaker lets no request pass, so that only probes can find out.
    pub fn due(&mut self, now: Instant, breaker_open: bool) -> Due {
        let mut due = Due::default();
        if std::mem::take(&mut self.unsettled) {
            self.look_for_panic(&mut due.events);
            self.show_all();
        }
        if !self.panic {
            for member in self.members.iter_mut().filter(|member| member.listed) {
                member.advance(now);
                if matches!(member.life, Life::Probation { .. }) {
                    member.record.show(member.standing(false));
                }
            }
        }
        self.start_probes(now, breaker_open, &mut due.probes);
        due.next = self.next(breaker_open);
        due
    }

    /// The end of a probe that [`due`](Self::due) asked for: whether a connection was made. Not called
    /// when it failed for want of something of our own, it is asked for again after a while.
    pub fn probed(&mut self, record: &Arc<Record>, connected: bool, now: Instant, random: u64) -> Vec<Event> {
        let mut events = Vec::new();
        let Some(settings) = self.settings else { return events };
        let Some(at) = self.find(record) else { return events };
        let panic = self.panic;
        let member = &mut self.members[at];
        member.probing = false;
        if connected {
            // That it accepts connections shows nothing about one that was out for its answers, unless
            // there is nobody better: but then a request can find out.
            if member.listed && (member.is_hard() || panic) {
                self.restore(at, ReturnedBy::Probe, now, &mut events);
            } else if member.listed && member.accepts(now) {
                events.push(Event::Probation { record: record.clone() });
            }
        } else if let Life::Out { hard, why, until, .. } = member.life
            && until <= now
            && !panic
        {
            let why = if hard { why } else { Why::Unreachable };
            let spell = member.eject(why, &settings, now, random);
            if !hard {
                events.push(Event::Ejected { record: record.clone(), why, spell });
            }
        }
        self.show(at, &mut events);
        events
    }

    /// How many stand where.
    pub fn counts(&self) -> Counts {
        let mut counts = Counts { panic: self.panic, ..Counts::default() };
        for member in self.listed() {
            match member.life {
                Life::Trusted { .. } => counts.trusted += 1,
                Life::Out { .. } => counts.ejected += 1,
                Life::Probation { .. } => counts.probation += 1,
            }
        }
        counts
    }

    /// Why an endpoint is not trusted; `None`: it is.
    pub fn ejected(&self, record: &Arc<Record>) -> Option<Ejected> {
        self.find(record).and_then(|at| self.members[at].ejected())
    }

    fn find(&self, record: &Arc<Record>) -> Option<usize> {
        self.members.iter().position(|member| Arc::ptr_eq(&member.record, record))
    }

    fn listed(&self) -> impl Iterator<Item = &Member> {
        self.members.iter().filter(|member| member.listed)
    }

    fn restore(&mut self, at: usize, by: ReturnedBy, now: Instant, events: &mut Vec<Event>) {
        let member = &mut self.members[at];
        if !member.is_trusted() {
            member.trust(now);
            events.push(Event::Returned { record: member.record.clone(), by });
        }
    }

    fn fails(
        &mut self,
        at: usize,
        why: Why,
        settings: &OutlierDetection,
        now: Instant,
        random: u64,
        events: &mut Vec<Event>,
    ) {
        if why == Why::Rate && !self.is_outlier(at, settings, now) {
            return;
        }
        let first = self.members[at].is_trusted();
        if first && !why.is_hard() && !self.has_room(settings) {
            events.push(Event::Spared { record: self.members[at].record.clone(), why });
            return;
        }
        let panic = self.panic;
        let member = &mut self.members[at];
        match &mut member.life {
            // In panic: it is worse than was known. It is not out for longer, since it is not out.
            Life::Out { hard, why: known, .. } if panic && why.is_hard() && !*hard => {
                (*hard, *known) = (true, why);
            }
            Life::Out { .. } => {}
            Life::Trusted { .. } | Life::Probation { .. } => {
                let spell = member.eject(why, settings, now, random);
                events.push(Event::Ejected { record: member.record.clone(), why, spell });
            }
        }
    }

    fn is_outlier(&self, at: usize, settings: &OutlierDetection, now: Instant) -> bool {
        let rate = |member: &Member| member.record.rate(now, settings.min_requests);
        let Some((least, own)) = settings.success_rate.zip(rate(&self.members[at])) else { return false };
        let siblings = self
            .members
            .iter()
            .enumerate()
            .filter(|(other, member)| *other != at && member.listed && member.is_trusted());
        let mut siblings: Vec<f64> = siblings.filter_map(|(_, member)| rate(member)).collect();
        rate::is_outlier(own, least, &mut siblings)
    }

    /// Whether one more may be taken out for its answers.
    fn has_room(&self, settings: &OutlierDetection) -> bool {
        let accepting = self.listed().filter(|member| !member.is_hard()).count();
        let out = self.listed().filter(|member| member.is_soft()).count();
        // A hair of tolerance: 0.29 of 100 is not 29 in binary.
        (out + 1) as f64 <= accepting as f64 * settings.max_ejection_ratio + 1e-9
    }

    /// Makes the record at `at` show where its endpoint stands now; all of them when panic begins or
    /// ends with it.
    fn show(&mut self, at: usize, events: &mut Vec<Event>) {
        if self.look_for_panic(events) {
            self.show_all();
        } else {
            let member = &self.members[at];
            member.record.show(member.standing(self.panic && member.listed));
        }
    }

    /// Whether panic has begun or ended.
    fn look_for_panic(&mut self, events: &mut Vec<Event>) -> bool {
        let nobody = self.listed().next().is_some() && !self.listed().any(Member::is_trusted);
        // Who ends it may not be in the View yet.
        let panic = nobody || (self.unsettled && self.panic);
        let changed = panic != self.panic;
        if changed {
            self.panic = panic;
            events.push(Event::Panic(panic));
        }
        changed
    }

    /// Makes every record show where its endpoint stands. Who may be chosen is written first: there is
    /// always one.
    fn show_all(&self) {
        self.show_those(true);
        self.show_those(false);
    }

    /// The part of [`show_all`](Self::show_all) for those who may be chosen, or may not.
    fn show_those(&self, usable: bool) {
        for member in &self.members {
            let standing = member.standing(self.panic && member.listed);
            if standing.admits(false) == usable {
                member.record.show(standing);
            }
        }
    }

    /// When a member is to be tried by a probe, if it is.
    fn probe_at(&self, member: &Member, breaker_open: bool) -> Option<Instant> {
        let often = member.asked + PROBE_EVERY;
        match member.life {
            _ if !member.listed || member.probing => None,
            Life::Trusted { .. } => None,
            _ if self.panic => Some(often),
            Life::Out { hard: true, until, .. } if breaker_open => Some(often.min(until)),
            // Also before a request is spent on one that was out for its answers: it may have died.
            Life::Out { until, .. } => Some(until),
            Life::Probation { .. } => None,
        }
    }

    fn start_probes(&mut self, now: Instant, breaker_open: bool, probes: &mut Vec<Arc<Record>>) {
        for member in &mut self.members {
            member.probing &= now < member.asked + PROBE_LOST;
        }
        let under_way = self.members.iter().filter(|member| member.probing).count();
        let mut ready: Vec<(Instant, usize)> = self
            .members
            .iter()
            .enumerate()
            .filter(|(_, member)| self.probe_at(member, breaker_open).is_some_and(|at| at <= now))
            .map(|(at, member)| (member.asked, at))
            .collect();
        // Who has waited longest is first, so that of many each has its turn.
        ready.sort();
        for (_, at) in ready.into_iter().take(PROBES.saturating_sub(under_way)) {
            let member = &mut self.members[at];
            member.probing = true;
            member.asked = now;
            probes.push(member.record.clone());
        }
    }

    fn next(&self, breaker_open: bool) -> Option<Instant> {
        let full = self.members.iter().filter(|member| member.probing).count() >= PROBES;
        let times = self.listed().flat_map(|member| {
            // With all places taken, the end of a probe is what is waited for.
            let probe = self.probe_at(member, breaker_open).filter(|_| !full);
            let lost = member.probing.then(|| member.asked + PROBE_LOST);
            let advances = member.advances().filter(|_| !self.panic);
            [probe, lost, advances]
        });
        times.flatten().min()
    }
}
