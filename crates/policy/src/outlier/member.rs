//! One endpoint as its judge knows it: where it stands and since when.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use outrigger_config::OutlierDetection;

use super::{Record, Why, word::Standing};
use crate::backoff::Backoff;

/// Where an endpoint stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Life {
    Trusted {
        since: Instant,
    },
    Out {
        /// For not accepting connections.
        hard: bool,
        why: Why,
        /// When it lost its trust.
        since: Instant,
        /// The end of its time out.
        until: Instant,
        spell: Duration,
    },
    /// A request decides.
    Probation {
        /// Why it was out, and when it lost its trust.
        why: Why,
        since: Instant,
        /// When that began.
        from: Instant,
        /// Any request does from here on.
        any_from: Instant,
        any: bool,
    },
}

/// Why an endpoint is not trusted, for pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ejected {
    /// What it was taken out for, the last time if there were several in a row.
    pub why: Why,
    /// When it lost its trust.
    pub since: Instant,
    /// When it is tried again, or has been since.
    pub until: Instant,
}

#[derive(Debug)]
pub(super) struct Member {
    pub(super) record: Arc<Record>,
    /// The registry lets it be chosen.
    pub(super) listed: bool,
    pub(super) life: Life,
    /// Doublings of its next time out.
    doublings: u32,
    /// When it was last tried by a probe or, before the first, taken out.
    pub(super) asked: Instant,
    /// A probe of it is under way.
    pub(super) probing: bool,
}

impl Member {
    pub(super) fn new(record: Arc<Record>, now: Instant) -> Self {
        Self {
            record,
            listed: true,
            life: Life::Trusted { since: now },
            doublings: 0,
            asked: now,
            probing: false,
        }
    }

    /// Takes it out, for longer each time. Returns for how long.
    pub(super) fn eject(
        &mut self,
        why: Why,
        settings: &OutlierDetection,
        now: Instant,
        random: u64,
    ) -> Duration {
        let lost_trust = match self.life {
            Life::Trusted { since } => {
                let served =
                    now.saturating_duration_since(since).as_nanos() / settings.window.as_nanos().max(1);
                self.doublings = self.doublings.saturating_sub(u32::try_from(served).unwrap_or(u32::MAX));
                now
            }
            Life::Out { since, .. } | Life::Probation { since, .. } => since,
        };
        let spell = spell(settings, self.doublings, random);
        self.doublings = self.doublings.saturating_add(1);
        self.asked = now;
        self.life = Life::Out { hard: why.is_hard(), why, since: lost_trust, until: now + spell, spell };
        spell
    }

    /// Why it is not trusted, since when, and until when it is out.
    pub(super) fn ejected(&self) -> Option<Ejected> {
        match self.life {
            Life::Trusted { .. } => None,
            Life::Out { why, since, until, .. } => Some(Ejected { why, since, until }),
            Life::Probation { why, since, from, .. } => Some(Ejected { why, since, until: from }),
        }
    }

    pub(super) fn trust(&mut self, now: Instant) {
        self.life = Life::Trusted { since: now };
    }

    pub(super) fn is_trusted(&self) -> bool {
        matches!(self.life, Life::Trusted { .. })
    }

    /// Out for not accepting connections.
    pub(super) fn is_hard(&self) -> bool {
        matches!(self.life, Life::Out { hard: true, .. })
    }

    /// Out for its answers, or not yet trusted again.
    pub(super) fn is_soft(&self) -> bool {
        !self.is_trusted() && !self.is_hard()
    }

    /// Lets time pass: after a while in probation any request decides.
    pub(super) fn advance(&mut self, now: Instant) {
        if let Life::Probation { any_from, any, .. } = &mut self.life
            && *any_from <= now
        {
            *any = true;
        }
    }

    /// It accepts connections; true when its time out was over, and its probation has begun with that.
    pub(super) fn accepts(&mut self, now: Instant) -> bool {
        let Life::Out { hard: false, why, since, until, spell } = self.life else { return false };
        let over = until <= now;
        if over {
            self.life = Life::Probation { why, since, from: now, any_from: now + spell, any: false };
        }
        over
    }

    /// When [`advance`](Self::advance) has something to do.
    pub(super) fn advances(&self) -> Option<Instant> {
        match self.life {
            Life::Probation { any_from, any: false, .. } => Some(any_from),
            Life::Trusted { .. } | Life::Out { .. } | Life::Probation { .. } => None,
        }
    }

    /// What its record is to show.
    pub(super) fn standing(&self, panic: bool) -> Standing {
        match self.life {
            Life::Trusted { .. } => Standing::Trusted,
            Life::Out { hard: true, .. } if panic => Standing::PanicHard,
            Life::Out { .. } | Life::Probation { .. } if panic => Standing::PanicSoft,
            Life::Out { .. } => Standing::Ejected,
            Life::Probation { any: true, .. } => Standing::ProbationAny,
            Life::Probation { any: false, .. } => Standing::Probation,
        }
    }
}

/// A time out: its ceiling doubles from `base` to `max`, and chance takes up to a half of it away.
fn spell(settings: &OutlierDetection, doublings: u32, random: u64) -> Duration {
    let ceiling =
        Backoff { base: settings.base_ejection_time, max: settings.max_ejection_time }.ceiling(doublings);
    let less = Backoff { base: ceiling / 2, max: ceiling / 2 }.after(0, random);
    ceiling - less
}
