//! Doubts answers in which many instances are gone at once. Pure: `now` is an argument, and what
//! speaks for an instance comes in from outside.
//!
//! A registry says by mistake that nobody is there: Consul answers `200 []` when a token is not yet
//! known to the server that is asked, when a follower has fallen behind, when an agent or a cluster
//! has lost its data. It says the same when the instances really have left. What tells the two apart
//! is whether they still answer.
//!
//! | in an answer | believed |
//! |---|---|
//! | an instance that takes no traffic (critical, in maintenance) is gone | at once: an orderly drain is never held up |
//! | at most half of those that take traffic are gone | at once |
//! | all are gone, or more than half, within 2 s; or any while the index went back | suspect |
//! | instances turned critical | at once: a statement |
//! | more than half turned critical by their nodes' health alone, and traffic to them succeeds | suspect |
//! | everything else that it says (who is new, what changed) | at once |
//!
//! A suspect is kept as it was last listed until one of these:
//!
//! - it is listed again, or said to be critical: the registry's word is believed,
//! - it does not answer ([`MassLossGuard::drop_suspects`]; a service that was scaled to zero is gone in a moment),
//! - its address is listed for somebody else,
//! - consistent answers confirm the loss over more than [`confirm_for`](outrigger_config::MassLoss::confirm_for),
//!   without one between them that does not, and without an error. Not where it leaves nobody who takes
//!   traffic: an agent that is stopped takes along whatever it had registered, one that is killed is said
//!   to be lost with its node, all servers confirm that for the seconds until it is back, and without the
//!   suspects every request would fail for certain,
//! - any answer that is not stale comes after the registry has answered for
//!   [`hold_for`](outrigger_config::MassLoss::hold_for). While it is silent nobody is dropped, and after a silence
//!   ([`MassLossGuard::record_failure`]) the time begins anew, for those who have to register again notice the end
//!   of the silence no sooner than we do.
//!
//! What confirms a loss is an answer of a server that knows a leader, with an index higher than when
//! the instance was last listed. In Consul each removal raises its service's index (held to that by
//! the conformance suite), so that an answer at the same index says nothing of anybody's leaving: it
//! is what a read shows that a token does not allow, and what something in between makes up. Nor does
//! an answer count after the index went back: a registry that has lost its data confirms that it has
//! none, and those who are to register again need a moment. For both only `hold` remains.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use outrigger_registry::{Consistency, Instance, InstanceId};

use crate::instances::find;

/// Why an answer is suspect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SuspectReason {
    /// It is empty.
    Empty,
    /// Its index is lower than the last.
    IndexWentBack,
    /// More than half of those that took traffic are gone.
    Collapsed,
    /// More than half turned critical by their nodes' health alone.
    NodesLost,
}

impl SuspectReason {
    pub(crate) const ALL: [Self; 4] = [Self::Empty, Self::IndexWentBack, Self::Collapsed, Self::NodesLost];

    /// The word for metrics and logs.
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

/// An answer, with what matters for how far it is believed.
#[derive(Debug)]
pub(crate) struct ReviewedAnswer<'a> {
    /// Sorted by identity, each once.
    pub(crate) instances: &'a [Instance],
    pub(crate) consistency: Consistency,
    pub(crate) index: u64,
    /// The index of the answer before it.
    pub(crate) previous_index: u64,
    pub(crate) went_back: bool,
    pub(crate) known_leader: bool,
    pub(crate) now: Instant,
}

/// A suspect whose loss is now believed.
#[derive(Debug)]
pub(crate) struct AcceptedLoss {
    /// As it was last listed.
    pub(crate) instance: Instance,
    /// The index of the last answer that listed it.
    pub(crate) listed_at: u64,
    /// It is listed as critical, and not gone.
    pub(crate) is_listed: bool,
}

/// What is to be known after an answer, and what that did to the suspects.
#[derive(Debug, Default)]
pub(crate) struct Review {
    /// `None`: the answer as it is. Else who is listed and who is kept against it, sorted.
    pub(crate) known: Option<Arc<[Instance]>>,
    pub(crate) findings: Findings,
    /// Sorted by identity.
    pub(crate) accepted_losses: Vec<AcceptedLoss>,
}

/// What an answer led to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Findings {
    /// Why it is suspect, and how many are suspect for it that were not before.
    pub(crate) suspected: Option<(SuspectReason, usize)>,
    /// Suspects of which the registry speaks again.
    pub(crate) listed_again: usize,
    /// Suspects whose loss is now believed: how many [`Review::accepted_losses`] lists.
    pub(crate) accepted: usize,
}

/// The suspects of one service.
#[derive(Debug)]
pub(crate) struct MassLossGuard {
    settings: Option<outrigger_config::MassLoss>,
    suspects: BTreeMap<InstanceId, Suspect>,
    /// What the last answer lists, while there are suspects.
    listed: Arc<[Instance]>,
    /// The registry has failed since the last answer that counts.
    interrupted: bool,
    /// Who was let go without a doubt in the last [`ONE_LOSS_WINDOW`].
    recent_losses: Vec<RecentLoss>,
}

/// Losses within this time are one loss: an agent that was wiped takes its services out one by one.
const ONE_LOSS_WINDOW: Duration = Duration::from_secs(2);

/// An instance whose loss was no mass by itself.
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
    /// When the first of the answers that confirm its loss came.
    confirmed_since: Option<Instant>,
}

impl MassLossGuard {
    /// Without rules it believes everything.
    pub(crate) fn new(settings: Option<outrigger_config::MassLoss>) -> Self {
        Self {
            settings,
            suspects: BTreeMap::new(),
            listed: Arc::from([]),
            interrupted: false,
            recent_losses: Vec::new(),
        }
    }

    /// Goes on by other rules. Without any, nobody is kept any longer than the next answer.
    pub(crate) fn apply_settings(&mut self, settings: Option<outrigger_config::MassLoss>) {
        self.settings = settings;
        if settings.is_none() {
            self.suspects.clear();
            self.recent_losses.clear();
        }
    }

    /// Whether anybody is kept against the registry's word.
    pub(crate) fn has_suspects(&self) -> bool {
        !self.suspects.is_empty()
    }

    /// Who is kept, sorted.
    pub(crate) fn suspects(&self) -> impl ExactSizeIterator<Item = &InstanceId> {
        self.suspects.keys()
    }

    /// Who is kept, where, and whether only traffic speaks for it: a node that the registry has lost
    /// may well accept connections.
    pub(crate) fn suspects_to_probe(&self) -> Vec<(InstanceId, SocketAddr, bool)> {
        let examined = self.suspects.iter().filter_map(|(id, suspect)| {
            let addr = suspect.instance.addr.as_ref().ok()?;
            Some((id.clone(), *addr, suspect.reason == SuspectReason::NodesLost))
        });
        examined.collect()
    }

    /// Judges `answer`, when `held` was known before. `vouched` says whether real traffic to an
    /// instance succeeds.
    pub(crate) fn review(
        &mut self,
        current: &[Instance],
        answer: &ReviewedAnswer<'_>,
        recently_served: impl Fn(&InstanceId) -> bool,
    ) -> Review {
        let Some(rules) = self.settings else { return Review::default() };
        if answer.consistency != Consistency::Stale && std::mem::take(&mut self.interrupted) {
            self.suspects.values_mut().for_each(|suspect| suspect.restart(answer.now));
        }
        let before = self.suspects.len();
        self.suspects.retain(|_, suspect| !suspect.is_listed_again(answer));
        let listed_again = before - self.suspects.len();
        let given_up = self.accept_losses(answer, &rules);
        let suspected = self.add_suspects(current, answer, &given_up, recently_served);
        let findings = Findings { suspected, listed_again, accepted: given_up.len() };
        if !self.has_suspects() {
            self.listed = Arc::from([]);
            return Review { known: None, findings, accepted_losses: given_up };
        }
        self.listed = answer.instances.into();
        Review { known: Some(self.known()), findings, accepted_losses: given_up }
    }

    /// The registry has failed: how long it has been saying something begins anew.
    pub(crate) fn record_failure(&mut self) {
        self.interrupted = true;
    }

    /// Believes the loss of these: nothing speaks for them.
    pub(crate) fn drop_suspects(&mut self, ids: &[InstanceId]) {
        for id in ids {
            self.suspects.remove(id);
        }
    }

    /// What the last answer lists, and the suspects.
    pub(crate) fn known(&self) -> Arc<[Instance]> {
        let listed = self.listed.iter().filter(|one| !self.suspects.contains_key(&one.id));
        let kept = self.suspects.values().map(|suspect| &suspect.instance);
        let mut known: Vec<_> = listed.chain(kept).cloned().collect();
        known.sort_by(|a, b| a.id.cmp(&b.id));
        known.into()
    }

    /// Believes the losses that are confirmed, or have been doubted for long enough: whose, sorted.
    fn accept_losses(
        &mut self,
        answer: &ReviewedAnswer<'_>,
        rules: &outrigger_config::MassLoss,
    ) -> Vec<AcceptedLoss> {
        let mut given_up = Vec::new();
        self.suspects.retain(|_, suspect| {
            let gone = suspect.is_loss_accepted(answer, rules);
            if gone {
                given_up.push(AcceptedLoss {
                    instance: suspect.instance.clone(),
                    listed_at: suspect.listed_at,
                    is_listed: suspect.reason == SuspectReason::NodesLost,
                });
            }
            !gone
        });
        given_up
    }

    /// Takes in those whose loss is not to be believed yet: why, and how many.
    fn add_suspects(
        &mut self,
        current: &[Instance],
        answer: &ReviewedAnswer<'_>,
        given_up: &[AcceptedLoss],
        recently_served: impl Fn(&InstanceId) -> bool,
    ) -> Option<(SuspectReason, usize)> {
        self.recent_losses.retain(|one| {
            let fresh = answer.now.saturating_duration_since(one.at) < ONE_LOSS_WINDOW;
            fresh && find(answer.instances, &one.instance.id).is_none()
        });
        // Both lists are sorted, and may be long: one walk over the two.
        let mut listed = answer.instances.iter().peekable();
        let (mut trusted, mut gone, mut lost) = (0_usize, Vec::new(), Vec::new());
        for one in current.iter().filter(|one| one.weight() > 0) {
            let is_given_up = given_up.binary_search_by(|gone| gone.instance.id.cmp(&one.id)).is_ok();
            if is_given_up || self.suspects.contains_key(&one.id) {
                continue;
            }
            trusted += 1;
            while listed.next_if(|listed| listed.id < one.id).is_some() {}
            match listed.peek().filter(|listed| listed.id == one.id) {
                None => gone.push(one),
                Some(listed) if listed.node_lost => lost.push(one),
                Some(_) => {}
            }
        }
        let before = self.recent_losses.len();
        let most = |some: &[&Instance]| !some.is_empty() && (some.len() + before) * 2 > trusted + before;
        let (reason, who) = if !gone.is_empty() && answer.went_back {
            (SuspectReason::IndexWentBack, gone)
        } else if !gone.is_empty() && answer.instances.is_empty() {
            (SuspectReason::Empty, gone)
        } else if most(&gone) {
            (SuspectReason::Collapsed, gone)
        } else if lost.len() * 2 > trusted {
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
        let mut who: Vec<_> = who.into_iter().map(|one| (one.clone(), answer.previous_index)).collect();
        if reason != SuspectReason::NodesLost && !who.is_empty() {
            who.extend(self.recent_losses.drain(..).map(|one| (one.instance, one.listed_at)));
        }
        let count = who.len();
        for (instance, listed_at) in who {
            let suspect = Suspect::new(instance, reason, listed_at, answer);
            self.suspects.insert(suspect.instance.id.clone(), suspect);
        }
        (count > 0).then_some((reason, count))
    }
}

impl ReviewedAnswer<'_> {
    /// Whether it confirms that an instance is gone that was listed at `index`.
    fn confirms_loss_since(&self, index: u64) -> bool {
        self.consistency == Consistency::Consistent
            && self.known_leader
            && self.index > index
            && self.lists_any_usable()
    }

    /// Whether there would be anybody to call, were it believed as it is.
    fn lists_any_usable(&self) -> bool {
        self.instances.iter().any(|one| one.weight() > 0)
    }
}

impl Suspect {
    fn new(instance: Instance, reason: SuspectReason, listed_at: u64, answer: &ReviewedAnswer<'_>) -> Self {
        let confirmed = answer.confirms_loss_since(listed_at).then_some(answer.now);
        Self { instance, reason, listed_at, since: answer.now, confirmed_since: confirmed }
    }

    /// What was said before counts no more.
    fn restart(&mut self, now: Instant) {
        (self.since, self.confirmed_since) = (now, None);
    }

    /// Whether the registry has something to say of it, other than that it lost sight of its node.
    fn is_listed_again(&self, answer: &ReviewedAnswer<'_>) -> bool {
        find(answer.instances, &self.instance.id)
            .is_some_and(|listed| self.reason != SuspectReason::NodesLost || !listed.node_lost)
    }

    /// Whether its loss is to be believed after `answer`, which still does not list it.
    fn is_loss_accepted(&mut self, answer: &ReviewedAnswer<'_>, rules: &outrigger_config::MassLoss) -> bool {
        if answer.went_back {
            self.reason = SuspectReason::IndexWentBack;
        } else if answer.instances.is_empty() && self.reason != SuspectReason::IndexWentBack {
            self.reason = SuspectReason::Empty;
        }
        let for_long = |since: Instant| answer.now.saturating_duration_since(since);
        match answer.consistency {
            // Of a server that may have fallen behind: it neither confirms nor refutes.
            Consistency::Stale => false,
            _ if for_long(self.since) >= rules.hold_for => true,
            Consistency::Default => false,
            Consistency::Consistent
                if self.reason.can_be_confirmed() && answer.confirms_loss_since(self.listed_at) =>
            {
                for_long(*self.confirmed_since.get_or_insert(answer.now)) > rules.confirm_for
            }
            Consistency::Consistent => {
                self.confirmed_since = None;
                false
            }
        }
    }
}

#[cfg(test)]
mod tests;
