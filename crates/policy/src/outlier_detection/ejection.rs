//! One endpoint as its judge knows it: where it stands and since when.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use outrigger_config::OutlierDetection;

use super::{EjectionReason, EndpointStats, state::EndpointState};
use crate::backoff::Backoff;

/// Where an endpoint stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ejection {
    Healthy {
        since: Instant,
    },
    Ejected {
        /// For not accepting connections.
        hard: bool,
        reason: EjectionReason,
        /// When it lost its trust.
        since: Instant,
        /// The end of its time out.
        until: Instant,
        ejection_time: Duration,
    },
    /// A request decides.
    Probation {
        /// Why it was out, and when it lost its trust.
        reason: EjectionReason,
        since: Instant,
        /// When that began.
        started: Instant,
        /// Any request does from here on.
        any_request_from: Instant,
        any_request: bool,
    },
}

/// Why an endpoint is not trusted, for pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EjectionDetails {
    /// What it was taken out for, the last time if there were several in a row.
    pub reason: EjectionReason,
    /// When it lost its trust.
    pub since: Instant,
    /// When it is tried again, or has been since.
    pub until: Instant,
}

#[derive(Debug)]
pub(super) struct Tracked {
    pub(super) stats: Arc<EndpointStats>,
    /// The registry lets it be chosen.
    pub(super) eligible: bool,
    pub(super) ejection: Ejection,
    /// Doublings of its next time out.
    doublings: u32,
    /// When it was last tried by a probe or, before the first, taken out.
    pub(super) last_probe: Instant,
    /// A probe of it is under way.
    pub(super) probing: bool,
}

impl Tracked {
    pub(super) fn new(stats: Arc<EndpointStats>, now: Instant) -> Self {
        Self {
            stats,
            eligible: true,
            ejection: Ejection::Healthy { since: now },
            doublings: 0,
            last_probe: now,
            probing: false,
        }
    }

    /// Takes it out, for longer each time. Returns for how long.
    pub(super) fn eject(
        &mut self,
        reason: EjectionReason,
        settings: &OutlierDetection,
        now: Instant,
        random: u64,
    ) -> Duration {
        let ejected_since = match self.ejection {
            Ejection::Healthy { since } => {
                let served =
                    now.saturating_duration_since(since).as_nanos() / settings.window.as_nanos().max(1);
                self.doublings = self.doublings.saturating_sub(u32::try_from(served).unwrap_or(u32::MAX));
                now
            }
            Ejection::Ejected { since, .. } | Ejection::Probation { since, .. } => since,
        };
        let ejection_time = ejection_time(settings, self.doublings, random);
        self.doublings = self.doublings.saturating_add(1);
        self.last_probe = now;
        self.ejection = Ejection::Ejected {
            hard: reason.is_hard(),
            reason,
            since: ejected_since,
            until: now + ejection_time,
            ejection_time,
        };
        ejection_time
    }

    /// Why it is not trusted, since when, and until when it is out.
    pub(super) fn details(&self) -> Option<EjectionDetails> {
        match self.ejection {
            Ejection::Healthy { .. } => None,
            Ejection::Ejected { reason: why, since, until, .. } => {
                Some(EjectionDetails { reason: why, since, until })
            }
            Ejection::Probation { reason: why, since, started: from, .. } => {
                Some(EjectionDetails { reason: why, since, until: from })
            }
        }
    }

    pub(super) fn mark_healthy(&mut self, now: Instant) {
        self.ejection = Ejection::Healthy { since: now };
    }

    pub(super) fn is_healthy(&self) -> bool {
        matches!(self.ejection, Ejection::Healthy { .. })
    }

    /// Out for not accepting connections.
    pub(super) fn is_hard(&self) -> bool {
        matches!(self.ejection, Ejection::Ejected { hard: true, .. })
    }

    /// Out for its answers, or not yet trusted again.
    pub(super) fn is_soft(&self) -> bool {
        !self.is_healthy() && !self.is_hard()
    }

    /// Lets time pass: after a while in probation any request decides.
    pub(super) fn advance(&mut self, now: Instant) {
        if let Ejection::Probation { any_request_from, any_request: any, .. } = &mut self.ejection
            && *any_request_from <= now
        {
            *any = true;
        }
    }

    /// It accepts connections; true when its time out was over, and its probation has begun with that.
    pub(super) fn begin_probation_if_due(&mut self, now: Instant) -> bool {
        let Ejection::Ejected { hard: false, reason: why, since, until, ejection_time } = self.ejection
        else {
            return false;
        };
        let over = until <= now;
        if over {
            self.ejection = Ejection::Probation {
                reason: why,
                since,
                started: now,
                any_request_from: now + ejection_time,
                any_request: false,
            };
        }
        over
    }

    /// When [`advance`](Self::advance) has something to do.
    pub(super) fn next_advance(&self) -> Option<Instant> {
        match self.ejection {
            Ejection::Probation { any_request_from, any_request: false, .. } => Some(any_request_from),
            Ejection::Healthy { .. } | Ejection::Ejected { .. } | Ejection::Probation { .. } => None,
        }
    }

    /// What its record is to show.
    pub(super) fn state(&self, panic: bool) -> EndpointState {
        match self.ejection {
            Ejection::Healthy { .. } => EndpointState::Healthy,
            Ejection::Ejected { hard: true, .. } if panic => EndpointState::PanicHard,
            Ejection::Ejected { .. } | Ejection::Probation { .. } if panic => EndpointState::PanicSoft,
            Ejection::Ejected { .. } => EndpointState::Ejected,
            Ejection::Probation { any_request: true, .. } => EndpointState::ProbationAny,
            Ejection::Probation { any_request: false, .. } => EndpointState::Probation,
        }
    }
}

/// A time out: its ceiling doubles from `base` to `max`, and chance takes up to a half of it away.
fn ejection_time(settings: &OutlierDetection, doublings: u32, random: u64) -> Duration {
    let ceiling =
        Backoff { base: settings.base_ejection_time, max: settings.max_ejection_time }.max_pause(doublings);
    let less = Backoff { base: ceiling / 2, max: ceiling / 2 }.pause(0, random);
    ceiling - less
}
