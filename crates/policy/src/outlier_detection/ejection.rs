//! One endpoint's state as the detector keeps it, with its times.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use outrigger_config::OutlierDetection;

use super::{EjectionReason, EndpointStats, state::EndpointState};
use crate::{backoff::Backoff, probe_slot::slot_time};

/// Pause between two looks at the slot of a probation. A request takes it without a word to the detector.
const SLOT_CHECK_INTERVAL: Duration = Duration::from_millis(250);

/// Whether an endpoint may be chosen, apart from its ejection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Eligibility {
    /// Its health check is passing or warning.
    InService,
    /// It may be chosen only while no endpoint in service is healthy. It is ejected, probed and brought back as those in
    /// service are. It counts (for panic mode, for the cap, as a sibling) only while none is in service.
    LastResort,
    /// It is not chosen. It keeps its state until it is eligible again, counts for nothing, and is neither probed nor brought back.
    OutOfService,
}

/// The state of an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ejection {
    Healthy {
        since: Instant,
    },
    Ejected {
        /// The endpoint accepts no connections.
        hard: bool,
        reason: EjectionReason,
        /// When it stopped being healthy.
        since: Instant,
        /// When the ejection time ends.
        until: Instant,
        ejection_time: Duration,
    },
    /// A request decides.
    Probation {
        reason: EjectionReason,
        /// When it stopped being healthy.
        since: Instant,
        /// When the probation began.
        started: Instant,
        /// From then on any request decides.
        any_request_from: Instant,
        any_request: bool,
        slot: ProbationSlot,
    },
}

/// The slot of a probation, as the detector sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ProbationSlot {
    /// The first epoch of the probation.
    first_epoch: u64,
    /// The number of the request that holds the slot, and when the detector saw it first.
    holder: Option<(u32, Instant)>,
    /// How often the slot has passed on.
    passed: u32,
    /// When to look again.
    check_at: Instant,
}

/// Why an endpoint is not healthy, for pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EjectionDetails {
    /// The reason, of the last ejection if there were several in a row.
    pub reason: EjectionReason,
    /// When it stopped being healthy.
    pub since: Instant,
    /// When the ejection time ends, or when the probation began.
    pub until: Instant,
}

/// An endpoint with its state.
#[derive(Debug)]
pub(super) struct Tracked<T> {
    pub(super) endpoint: Arc<T>,
    pub(super) eligibility: Eligibility,
    pub(super) ejection: Ejection,
    /// Doublings of the next ejection time.
    doublings: u32,
    /// When the last probe began; before the first probe, the ejection.
    pub(super) last_probe: Instant,
    /// A probe is in flight.
    pub(super) probing: bool,
}

impl<T: AsRef<EndpointStats>> Tracked<T> {
    pub(super) fn stats(&self) -> &EndpointStats {
        (*self.endpoint).as_ref()
    }

    /// A probe has connected: true when the ejection time was over and the probation has begun.
    pub(super) fn begin_probation_if_due(&mut self, now: Instant) -> bool {
        let Ejection::Ejected { hard: false, reason, since, until, ejection_time } = self.ejection else {
            return false;
        };
        let over = until <= now;
        if over {
            let first_epoch = self.stats().state_bits().epoch() + 1;
            self.ejection = Ejection::Probation {
                reason,
                since,
                started: now,
                any_request_from: now + ejection_time,
                any_request: false,
                slot: ProbationSlot {
                    first_epoch,
                    holder: None,
                    passed: 0,
                    check_at: now + SLOT_CHECK_INTERVAL,
                },
            };
        }
        over
    }

    /// Whether a request that began in `epoch` held the slot of the probation that still goes on.
    pub(super) fn is_in_probation_since(&self, epoch: u64) -> bool {
        matches!(self.ejection, Ejection::Probation { slot, .. } if slot.first_epoch <= epoch)
    }

    /// Passes the slot of a probation on, when its holder has had no verdict for too long.
    pub(super) fn pass_probation_on(&mut self, now: Instant) {
        let state = self.state(false);
        let seen = self.stats().probation_holder();
        let Ejection::Probation { slot, .. } = &mut self.ejection else { return };
        slot.check_at = now + SLOT_CHECK_INTERVAL;
        let Some((taken, number)) = seen else {
            slot.holder = None;
            return;
        };
        let since = match slot.holder {
            Some((held_by, since)) if held_by == number => since,
            _ => now,
        };
        slot.holder = Some((number, since));
        if now.saturating_duration_since(since) < slot_time(slot.passed) {
            return;
        }
        if (*self.endpoint).as_ref().pass_probation_on(taken, state) {
            slot.passed = slot.passed.saturating_add(1);
            slot.holder = None;
        }
    }
}

impl<T> Tracked<T> {
    pub(super) fn new(endpoint: Arc<T>, now: Instant) -> Self {
        Self {
            endpoint,
            eligibility: Eligibility::InService,
            ejection: Ejection::Healthy { since: now },
            doublings: 0,
            last_probe: now,
            probing: false,
        }
    }

    /// Ejects the endpoint, for longer each time. Returns how long.
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

    /// Why it is not healthy, since when and until when.
    pub(super) fn details(&self) -> Option<EjectionDetails> {
        match self.ejection {
            Ejection::Healthy { .. } => None,
            Ejection::Ejected { reason, since, until, .. } => Some(EjectionDetails { reason, since, until }),
            Ejection::Probation { reason, since, started, .. } => {
                Some(EjectionDetails { reason, since, until: started })
            }
        }
    }

    /// Whether it may be chosen, at least while no other may.
    pub(super) fn is_eligible(&self) -> bool {
        self.eligibility != Eligibility::OutOfService
    }

    pub(super) fn mark_healthy(&mut self, now: Instant) {
        self.ejection = Ejection::Healthy { since: now };
    }

    pub(super) fn is_healthy(&self) -> bool {
        matches!(self.ejection, Ejection::Healthy { .. })
    }

    /// Ejected because it accepts no connections.
    pub(super) fn is_hard(&self) -> bool {
        matches!(self.ejection, Ejection::Ejected { hard: true, .. })
    }

    /// Ejected for its responses, or on probation.
    pub(super) fn is_soft(&self) -> bool {
        !self.is_healthy() && !self.is_hard()
    }

    /// Applies the passing of time: after a while on probation any request decides.
    pub(super) fn advance(&mut self, now: Instant) {
        if let Ejection::Probation { any_request_from, any_request, .. } = &mut self.ejection
            && *any_request_from <= now
        {
            *any_request = true;
        }
    }

    /// When [`advance`](Self::advance) may change the state, or the slot of a probation may pass on.
    pub(super) fn next_advance(&self) -> Option<Instant> {
        match self.ejection {
            Ejection::Probation { any_request_from, any_request: false, slot, .. } => {
                Some(any_request_from.min(slot.check_at))
            }
            Ejection::Probation { slot, .. } => Some(slot.check_at),
            Ejection::Healthy { .. } | Ejection::Ejected { .. } => None,
        }
    }

    /// The state to publish.
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

/// An ejection time: its ceiling doubles from the base to the maximum, and chance subtracts up to a half.
fn ejection_time(settings: &OutlierDetection, doublings: u32, random: u64) -> Duration {
    let ceiling =
        Backoff { base: settings.base_ejection_time, max: settings.max_ejection_time }.max_pause(doublings);
    let less = Backoff { base: ceiling / 2, max: ceiling / 2 }.pause(0, random);
    ceiling - less
}
