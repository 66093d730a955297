//! Keeps instances that an answer loses in a mass, as suspects. Pure: `now` and the liveness of
//! instances are arguments.
//!
//! A registry may list no instances by mistake (docs/decisions/mass-loss.md). The answer is the same when the
//! instances really are gone; the difference is whether they still answer.
//!
//! | in an answer | believed |
//! |---|---|
//! | an instance that takes no traffic (critical, in maintenance) is gone | at once: an orderly drain is never delayed |
//! | at most half of the instances that take traffic are gone | at once |
//! | all, or more than half, are gone within 2 s; or any is gone while the index went back | suspect |
//! | instances are critical | at once: an explicit statement |
//! | more than half are critical only because of their nodes' health, and traffic to them succeeds | suspect |
//! | everything else (new instances, changes) | at once |
//!
//! A suspect is kept as it was last listed until one of these happens:
//!
//! - The registry lists it again, or lists it as critical.
//! - It does not answer ([`MassLossGuard::drop_suspects`]). A service that was scaled to zero is gone
//!   in a moment.
//! - Its address is listed for another instance.
//! - Consistent answers confirm the loss for more than
//!   [`confirm_for`](outrigger_config::MassLoss::confirm_for), with no other answer and no error in
//!   between. This does not apply when no listed instance takes traffic. An agent that is stopped
//!   deregisters its services, one that is killed is reported as lost with its node, and all servers
//!   confirm that for the seconds until the agent is back; without the suspects every request would
//!   fail.
//! - An answer that is not stale comes after the registry has answered for
//!   [`hold_for`](outrigger_config::MassLoss::hold_for). While the registry is silent no suspect is
//!   dropped. After a failure ([`MassLossGuard::record_failure`]) the time starts again, because the
//!   instances that must register again see the registry return no earlier than this process does.
//!
//! An answer confirms a loss when its server knows a leader and its index is higher than when the instance was
//! last listed: in Consul each removal raises the service's index (the conformance suite checks that), so an
//! answer at the same index (to a token that may not read the service) proves no removal. An answer after the
//! index went back confirms nothing either: a registry that has lost its data lists nothing, and the instances
//! need a moment to register again.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use outrigger_registry::{Consistency, Instance, InstanceId};

use super::liveness::SuspectToProbe;
use crate::instances::find;

/// Why an answer is suspect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SuspectReason {
    /// The answer is empty.
    Empty,
    /// The index is lower than the last one.
    IndexWentBack,
    /// More than half of the instances that took traffic are gone.
    Collapsed,
    /// More than half are critical only because of their nodes' health.
    NodesLost,
}

impl SuspectReason {
    pub(crate) const ALL: [Self; 4] = [Self::Empty, Self::IndexWentBack, Self::Collapsed, Self::NodesLost];

    /// The label in metrics and logs.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Empty => "empty",
            Self::IndexWentBack => "index_went_back",
            Self::Collapsed => "collapsed",
            Self::NodesLost => "nodes_lost",
        }
    }

    /// Whether consistent answers can confirm the loss.
    fn can_be_confirmed(self) -> bool {
        match self {
            Self::Collapsed | Self::NodesLost => true,
            Self::Empty | Self::IndexWentBack => false,
        }
    }
}

/// An answer, with the facts that decide how much of it is believed.
#[derive(Debug)]
pub(crate) struct ReviewedAnswer<'a> {
    /// Sorted by identity, each identity once.
    pub(crate) instances: &'a [Instance],
    pub(crate) consistency: Consistency,
    pub(crate) index: u64,
    /// The index of the previous answer.
    pub(crate) previous_index: u64,
    pub(crate) went_back: bool,
    pub(crate) known_leader: bool,
    pub(crate) now: Instant,
}

/// A suspect that is now accepted as lost.
#[derive(Debug)]
pub(crate) struct AcceptedLoss {
    /// As it was last listed.
    pub(crate) instance: Instance,
    /// The index of the last answer that listed it.
    pub(crate) listed_at: u64,
    /// It is still listed, as critical.
    pub(crate) is_listed: bool,
}

/// The result of a review.
#[derive(Debug, Default)]
pub(crate) struct Review {
    /// The listed instances and the suspects, sorted. `None`: the answer as it is.
    pub(crate) known: Option<Arc<[Instance]>>,
    pub(crate) findings: Findings,
    /// Sorted by identity.
    pub(crate) accepted_losses: Vec<AcceptedLoss>,
}

/// How an answer changed the suspects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Findings {
    /// Why the answer is suspect, and how many new suspects it adds.
    pub(crate) suspected: Option<(SuspectReason, usize)>,
    /// Suspects that the registry lists again.
    pub(crate) listed_again: usize,
    /// The number of [`Review::accepted_losses`].
    pub(crate) accepted: usize,
}

/// The suspects of one service.
#[derive(Debug)]
pub(crate) struct MassLossGuard {
    settings: Option<outrigger_config::MassLoss>,
    suspects: BTreeMap<InstanceId, Suspect>,
    /// The instances of the last answer, while there are suspects.
    listed: Arc<[Instance]>,
    /// The registry has failed since the last answer that was not stale.
    interrupted: bool,
    /// Losses of the last [`ONE_LOSS_WINDOW`] that were accepted at once.
    recent_losses: Vec<RecentLoss>,
}

/// Losses within this time count as one: an agent that was wiped deregisters its services one by one.
const ONE_LOSS_WINDOW: Duration = Duration::from_secs(2);

/// A lost instance that alone was no mass loss.
#[derive(Debug)]
struct RecentLoss {
    instance: Instance,
    /// The index of the last answer that listed it.
    listed_at: u64,
    at: Instant,
}

#[derive(Debug)]
struct Suspect {
    /// As it was last listed.
    instance: Instance,
    reason: SuspectReason,
    /// The index of the last answer that listed it.
    listed_at: u64,
    since: Instant,
    /// When the first answer confirmed its loss.
    confirmed_since: Option<Instant>,
}

impl MassLossGuard {
    /// Without settings every answer is believed.
    pub(crate) fn new(settings: Option<outrigger_config::MassLoss>) -> Self {
        Self {
            settings,
            suspects: BTreeMap::new(),
            listed: Arc::from([]),
            interrupted: false,
            recent_losses: Vec::new(),
        }
    }

    /// Replaces the settings. Without settings, suspects are kept only until the next answer.
    pub(crate) fn apply_settings(&mut self, settings: Option<outrigger_config::MassLoss>) {
        self.settings = settings;
        if settings.is_none() {
            self.suspects.clear();
            self.recent_losses.clear();
        }
    }

    pub(crate) fn has_suspects(&self) -> bool {
        !self.suspects.is_empty()
    }

    /// The suspects, sorted.
    pub(crate) fn suspects(&self) -> impl ExactSizeIterator<Item = &InstanceId> {
        self.suspects.keys()
    }

    /// The suspects with an address.
    pub(crate) fn suspects_to_probe(&self) -> Vec<SuspectToProbe> {
        let to_probe = self.suspects.iter().filter_map(|(id, suspect)| {
            let named = suspect.instance.named.as_ref();
            Some(SuspectToProbe {
                id: id.clone(),
                addr: *suspect.instance.addr.as_ref().ok()?,
                others: named.map(|named| named.fallback.clone()).unwrap_or_default(),
                only_traffic: suspect.reason == SuspectReason::NodesLost,
            })
        });
        to_probe.collect()
    }

    /// Reviews `answer`. `current`: the instances known before. `recently_served`: whether requests to an
    /// instance succeed.
    pub(crate) fn review(
        &mut self,
        current: &[Instance],
        answer: &ReviewedAnswer<'_>,
        recently_served: impl Fn(&InstanceId) -> bool,
    ) -> Review {
        let Some(settings) = self.settings else { return Review::default() };
        if answer.consistency != Consistency::Stale && std::mem::take(&mut self.interrupted) {
            self.suspects.values_mut().for_each(|suspect| suspect.restart(answer.now));
        }
        let before = self.suspects.len();
        self.suspects.retain(|_, suspect| !suspect.is_listed_again(answer));
        let listed_again = before - self.suspects.len();
        let accepted = self.accept_losses(answer, &settings);
        let suspected = self.add_suspects(current, answer, &accepted, recently_served);
        let findings = Findings { suspected, listed_again, accepted: accepted.len() };
        if !self.has_suspects() {
            self.listed = Arc::from([]);
            return Review { known: None, findings, accepted_losses: accepted };
        }
        self.listed = answer.instances.into();
        Review { known: Some(self.known()), findings, accepted_losses: accepted }
    }

    /// The registry has failed: the times of all suspects start again with the next answer.
    pub(crate) fn record_failure(&mut self) {
        self.interrupted = true;
    }

    /// Accepts the loss of these suspects, which show no sign of life.
    pub(crate) fn drop_suspects(&mut self, ids: &[InstanceId]) {
        for id in ids {
            self.suspects.remove(id);
        }
    }

    /// The instances of the last answer, and the suspects; sorted.
    pub(crate) fn known(&self) -> Arc<[Instance]> {
        let listed = self.listed.iter().filter(|one| !self.suspects.contains_key(&one.id));
        let kept = self.suspects.values().map(|suspect| &suspect.instance);
        let mut known: Vec<_> = listed.chain(kept).cloned().collect();
        known.sort_by(|a, b| a.id.cmp(&b.id));
        known.into()
    }

    /// Removes the suspects that are confirmed as lost or were held for long enough; sorted.
    fn accept_losses(
        &mut self,
        answer: &ReviewedAnswer<'_>,
        settings: &outrigger_config::MassLoss,
    ) -> Vec<AcceptedLoss> {
        let mut accepted = Vec::new();
        self.suspects.retain(|_, suspect| {
            let gone = suspect.is_loss_accepted(answer, settings);
            if gone {
                accepted.push(AcceptedLoss {
                    instance: suspect.instance.clone(),
                    listed_at: suspect.listed_at,
                    is_listed: suspect.reason == SuspectReason::NodesLost,
                });
            }
            !gone
        });
        accepted
    }

    /// Adds the instances that are not accepted as lost yet: why, and how many.
    fn add_suspects(
        &mut self,
        current: &[Instance],
        answer: &ReviewedAnswer<'_>,
        accepted: &[AcceptedLoss],
        recently_served: impl Fn(&InstanceId) -> bool,
    ) -> Option<(SuspectReason, usize)> {
        self.recent_losses.retain(|one| {
            let fresh = answer.now.saturating_duration_since(one.at) < ONE_LOSS_WINDOW;
            fresh && find(answer.instances, &one.instance.id).is_none()
        });
        // Both lists are sorted, and may be long: one walk over the two.
        let mut listed = answer.instances.iter().peekable();
        let (mut serving, mut gone, mut lost) = (0_usize, Vec::new(), Vec::new());
        for one in current.iter().filter(|one| one.weight() > 0) {
            let is_accepted = accepted.binary_search_by(|gone| gone.instance.id.cmp(&one.id)).is_ok();
            if is_accepted || self.suspects.contains_key(&one.id) {
                continue;
            }
            serving += 1;
            while listed.next_if(|listed| listed.id < one.id).is_some() {}
            match listed.peek().filter(|listed| listed.id == one.id) {
                None if is_still_named(one, answer.instances) => {}
                None => gone.push(one),
                Some(listed) if listed.node_lost => lost.push(one),
                Some(_) => {}
            }
        }
        let before = self.recent_losses.len();
        let most = |some: &[&Instance]| !some.is_empty() && (some.len() + before) * 2 > serving + before;
        let (reason, losses) = if !gone.is_empty() && answer.went_back {
            (SuspectReason::IndexWentBack, gone)
        } else if !gone.is_empty() && answer.instances.is_empty() {
            (SuspectReason::Empty, gone)
        } else if most(&gone) {
            (SuspectReason::Collapsed, gone)
        } else if lost.len() * 2 > serving {
            lost.retain(|one| recently_served(&one.id));
            (SuspectReason::NodesLost, lost)
        } else {
            let gone = gone.into_iter().cloned();
            self.recent_losses.extend(gone.map(|instance| RecentLoss {
                instance,
                listed_at: answer.previous_index,
                at: answer.now,
            }));
            return None;
        };
        let mut losses: Vec<_> = losses.into_iter().map(|one| (one.clone(), answer.previous_index)).collect();
        if reason != SuspectReason::NodesLost && !losses.is_empty() {
            losses.extend(self.recent_losses.drain(..).map(|one| (one.instance, one.listed_at)));
        }
        let count = losses.len();
        for (instance, listed_at) in losses {
            let suspect = Suspect::new(instance, reason, listed_at, answer);
            self.suspects.insert(suspect.instance.id.clone(), suspect);
        }
        (count > 0).then_some((reason, count))
    }
}

impl ReviewedAnswer<'_> {
    /// Whether it confirms that an instance listed at `index` is gone.
    fn confirms_loss_since(&self, index: u64) -> bool {
        self.consistency == Consistency::Consistent
            && self.known_leader
            && self.index > index
            && self.lists_any_usable()
    }

    /// Whether it lists an instance that takes traffic.
    fn lists_any_usable(&self) -> bool {
        self.instances.iter().any(|one| one.weight() > 0)
    }
}

impl Suspect {
    fn new(instance: Instance, reason: SuspectReason, listed_at: u64, answer: &ReviewedAnswer<'_>) -> Self {
        let confirmed = answer.confirms_loss_since(listed_at).then_some(answer.now);
        Self { instance, reason, listed_at, since: answer.now, confirmed_since: confirmed }
    }

    /// Discards the times before `now`.
    fn restart(&mut self, now: Instant) {
        (self.since, self.confirmed_since) = (now, None);
    }

    /// Whether the registry lists it again, other than as critical on a lost node.
    fn is_listed_again(&self, answer: &ReviewedAnswer<'_>) -> bool {
        find(answer.instances, &self.instance.id)
            .is_some_and(|listed| self.reason != SuspectReason::NodesLost || !listed.node_lost)
    }

    /// Whether its loss is accepted after `answer`, which still does not list it.
    fn is_loss_accepted(
        &mut self,
        answer: &ReviewedAnswer<'_>,
        settings: &outrigger_config::MassLoss,
    ) -> bool {
        if answer.went_back {
            self.reason = SuspectReason::IndexWentBack;
        } else if answer.instances.is_empty() && self.reason != SuspectReason::IndexWentBack {
            self.reason = SuspectReason::Empty;
        }
        let for_long = |since: Instant| answer.now.saturating_duration_since(since);
        match answer.consistency {
            // From a server that may have fallen behind: neither confirms nor refutes.
            Consistency::Stale => false,
            _ if for_long(self.since) >= settings.hold_for => true,
            Consistency::Default => false,
            Consistency::Consistent
                if self.reason.can_be_confirmed() && answer.confirms_loss_since(self.listed_at) =>
            {
                for_long(*self.confirmed_since.get_or_insert(answer.now)) > settings.confirm_for
            }
            Consistency::Consistent => {
                self.confirmed_since = None;
                false
            }
        }
    }
}

/// Whether the registry still lists the host name that the instance comes from: the name has lost an address, and the registry
/// nothing.
fn is_still_named(one: &Instance, listed: &[Instance]) -> bool {
    one.named.as_ref().is_some_and(|named| {
        let first = InstanceId { id: named.id.clone(), ..one.id.clone() };
        first != one.id && find(listed, &first).is_some()
    })
}

#[cfg(test)]
mod tests;
