//! Other processes that register the same id at the same agent, for example because a unit file was copied.
//!
//! Every run puts a mark of its own into the metadata of what it registers ([`RunMark`]). A mark of another run in the agent's copy,
//! after this run's announcement, comes from a process that registers the same id. It is corrected once without more, because a
//! call of a run that has ended may arrive late, and a process that is being replaced may register once more. The second one
//! within a minute is a conflict. Both processes see it, and both compare the marks: the one that registered later stops, and
//! takes the id over when the other one leaves or no longer renews its check.
//!
//! The order is that of a logical clock: a run that finds the registration of another one has a greater number than that one,
//! whatever their clocks show. The clock of the machine decides only between runs of which neither found the other.
//!
//! Consul holds one registration of an id for each agent, so the same id at two agents is no conflict. A restart is none: the mark of
//! the earlier run is replaced by the first announcement, and no process writes it again.

use std::{fmt, time::Duration};

use outrigger_net::format_host_port;
use tokio::time::Instant;

use super::agent_api::{AgentService, OwnCheck};
use crate::{Claim, Rival};

/// The metadata key of the mark of a run. Other versions read it, so it must not change.
pub(super) const RUN_KEY: &str = "outrigger-run";

/// So many registrations of other runs, each after a correction, are a conflict. The run that stops has replaced that of the other
/// one as often, so that the other one sees the conflict, too.
const CONFLICT_AFTER: u32 = 2;

/// Registrations of other runs that are further apart are counted anew.
const COUNT_WINDOW: Duration = Duration::from_secs(60);

/// A conflict is over when no other run has registered for this long. The other process may still wait: it says so itself.
const FORGET_AFTER: Duration = Duration::from_secs(600);

/// The mark of one run. The run that was first is less than the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct RunMark {
    /// When the first of the runs that keep one [`Claim`] registered, in microseconds of a logical clock.
    since: u64,
    /// When this run registered first, by the same clock. It tells runs apart that began with copies of one claim.
    begun: u64,
    /// Tells runs of one time apart.
    random: u32,
}

impl fmt::Display for RunMark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}-{:08x}", self.since, self.begun, self.random)
    }
}

impl RunMark {
    /// The mark of a run that begins now, after the one that made `found`.
    pub(super) fn new(claim: &Claim, found: Option<Self>) -> Self {
        let after = |found: Self| found.since.max(found.begun).saturating_add(1);
        let begun = found.map_or(claim.now, |found| claim.now.max(after(found)));
        Self { since: claim.since.unwrap_or(begun), begun, random: fastrand::u32(..) }
    }

    /// What the next run with the same claim keeps.
    pub(super) fn since(&self) -> u64 {
        self.since
    }

    /// The mark of the run that made `held`. `None`: an earlier version made it, another program, or settings that left the mark no room.
    fn of(held: &AgentService) -> Option<Self> {
        let mut parts = held.meta.get(RUN_KEY)?.split('-');
        let (since, begun, random) = (parts.next()?, parts.next()?, parts.next()?);
        let random = u32::from_str_radix(random, 16).ok()?;
        let mark = Self { since: since.parse().ok()?, begun: begun.parse().ok()?, random };
        parts.next().is_none().then_some(mark)
    }
}

/// What was seen of other runs.
#[derive(Default)]
pub(super) struct Rivals {
    /// Since the first announcement.
    own: Option<RunMark>,
    /// The mark in the agent's copy before the first announcement.
    found: Option<RunMark>,
    other: Option<OtherRun>,
    /// When `found`, of another run, was replaced.
    replaced: Option<Instant>,
    /// How often this run has replaced the registration of another one.
    replacements: u32,
    /// The agent's copy since the last announcement is counted.
    is_counted: bool,
    /// The other run keeps the id.
    is_yielding: bool,
}

struct OtherRun {
    address: String,
    /// It was first.
    is_first: bool,
    registrations: u32,
    last: Instant,
}

impl Rivals {
    /// The mark of this run, for an announcement. The first one decides.
    pub(super) fn mark(&mut self, claim: &Claim) -> RunMark {
        if self.own.is_none() && self.is_found_other(claim) {
            self.replaced = Some(Instant::now());
            self.replacements = 1;
        }
        *self.own.get_or_insert_with(|| RunMark::new(claim, self.found))
    }

    /// Takes note of the agent's copy `held`, which is not corrected. True: another run made it, and it is none that this run's claim
    /// is of.
    pub(super) fn is_of_other(&mut self, held: Option<&AgentService>, claim: &Claim) -> bool {
        let mark = held.and_then(RunMark::of);
        match self.own {
            Some(own) => mark.is_some_and(|mark| mark != own),
            None => {
                self.found = mark;
                self.is_found_other(claim)
            }
        }
    }

    fn is_found_other(&self, claim: &Claim) -> bool {
        self.found.is_some_and(|found| Some(found.since) != claim.since)
    }

    /// This run was announced (again).
    pub(super) fn begin_anew(&mut self) {
        let has_replaced = std::mem::take(&mut self.is_counted);
        self.replacements = self.replacements.saturating_add(u32::from(has_replaced));
    }

    /// Whether the other run keeps the id.
    pub(super) fn is_yielding(&self) -> bool {
        self.is_yielding
    }

    /// Whether another process may register the id, too, so that what is held may not be this run's.
    pub(super) fn is_contested(&self, claim: &Claim) -> bool {
        let was_found = match self.own {
            Some(_) => self.replaced.is_some_and(|replaced| replaced.elapsed() < COUNT_WINDOW),
            None => self.is_found_other(claim),
        };
        was_found || self.other.is_some()
    }

    /// The process in conflict with this one.
    pub(super) fn in_conflict(&self) -> Option<Rival> {
        let other = self.other.as_ref().filter(|other| other.registrations >= CONFLICT_AFTER)?;
        Some(Rival { address: other.address.clone(), keeps_id: other.is_first })
    }

    /// Takes note of the agent's copy `held`. True: from now on the other run keeps the id.
    pub(super) fn yields_to(&mut self, held: &AgentService) -> bool {
        let is_over = |other: &mut OtherRun| {
            let is_conflict = other.registrations >= CONFLICT_AFTER;
            other.last.elapsed() >= if is_conflict { FORGET_AFTER } else { COUNT_WINDOW }
        };
        if self.other.take_if(is_over).is_some() {
            self.replacements = 0;
        }
        let (Some(own), Some(mark)) = (self.own, RunMark::of(held)) else { return false };
        if mark == own {
            return false;
        }
        let before = self.other.as_ref().map_or(0, |other| other.registrations);
        // A question may be repeated before the correction.
        let registrations = before.saturating_add(u32::from(!std::mem::replace(&mut self.is_counted, true)));
        let is_first = mark < own;
        self.other =
            Some(OtherRun { address: address_text(held), is_first, registrations, last: Instant::now() });
        self.is_yielding = registrations.min(self.replacements) >= CONFLICT_AFTER && is_first;
        self.is_yielding
    }

    /// While this run yields: whether another one still holds the id. Any other one: where the first one is restarted or replaced,
    /// this run does not step in between. `false`: this run takes it over.
    pub(super) fn is_held_by_other(&mut self, held: Option<&AgentService>, check: Option<&OwnCheck>) -> bool {
        let held = held.filter(|held| RunMark::of(held).is_none_or(|mark| Some(mark) != self.own));
        match (held, check, &mut self.other) {
            (Some(held), Some(check), Some(other)) if !check.ttl_expired => {
                (other.address, other.last) = (address_text(held), Instant::now());
                true
            }
            _ => {
                (self.other, self.is_yielding) = (None, false);
                (self.replacements, self.is_counted) = (0, false);
                false
            }
        }
    }
}

/// The address that `held` is registered for, after "for".
fn address_text(held: &AgentService) -> String {
    match held.address.as_deref().filter(|address| !address.is_empty()) {
        None => format!("the agent's address, port {}", held.port),
        Some(address) => format!("address {}", format_host_port(address, held.port)),
    }
}

#[cfg(test)]
mod tests;
