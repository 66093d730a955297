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
//! - it does not answer ([`Guard::dismiss`]; a service that was scaled to zero is gone in a moment),
//! - its address is listed for somebody else,
//! - consistent answers confirm the loss over more than [`confirm_for`](outrigger_config::MassLoss::confirm_for),
//!   without one between them that does not, and without an error. Not where it leaves nobody who takes
//!   traffic: an agent that is stopped takes along whatever it had registered, one that is killed is said
//!   to be lost with its node, all servers confirm that for the seconds until it is back, and without the
//!   suspects every request would fail for certain,
//! - any answer that is not stale comes after the registry has answered for
//!   [`hold_for`](outrigger_config::MassLoss::hold_for). While it is silent no suspect is dropped, and after a silence
//!   ([`Guard::interrupted`]) the time begins anew, for those who have to register again notice the end
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

/// Why an answer is suspect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reason {
    /// It is empty.
    Empty,
    /// Its index is lower than the last.
    IndexWentBack,
    /// More than half of those that took traffic are gone.
    Collapsed,
    /// More than half turned critical by their nodes' health alone.
    NodesLost,
}

impl Reason {
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
pub(crate) struct Answer<'a> {
    /// Sorted by identity, each once.
    pub(crate) instances: &'a [Instance],
    pub(crate) consistency: Consistency,
    pub(crate) index: u64,
    /// The index of the answer before it.
    pub(crate) was: u64,
    pub(crate) went_back: bool,
    pub(crate) known_leader: bool,
    pub(crate) now: Instant,
}

/// A suspect whose loss is now believed.
#[derive(Debug)]
pub(crate) struct GivenUp {
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
    pub(crate) given_up: Vec<GivenUp>,
}

/// What an answer led to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Findings {
    /// Why it is suspect, and how many are suspect for it that were not before.
    pub(crate) suspected: Option<(Reason, usize)>,
    /// Suspects of which the registry speaks again.
    pub(crate) listed_again: usize,
    /// Suspects whose loss is now believed: how many [`Review::given_up`] lists.
    pub(crate) accepted: usize,
}

/// The suspects of one service.
#[derive(Debug)]
pub(crate) struct Guard {
    rules: Option<outrigger_config::MassLoss>,
    suspects: BTreeMap<InstanceId, Suspect>,
    /// What the last answer lists, while there are suspects.
    listed: Arc<[Instance]>,
    /// The registry has failed since the last answer that counts.
    interrupted: bool,
    /// Who was let go without a doubt in the last [`TOGETHER`].
    let_go: Vec<LetGo>,
}

/// Losses within this time are one loss: an agent that was wiped takes its services out one by one.
const TOGETHER: Duration = Duration::from_secs(2);

/// An instance whose loss was no mass by itself.
#[derive(Debug)]
struct LetGo {
    instance: Instance,
    /// The index of the last answer that listed it.
    listed_at: u64,
    at: Instant,
}

#[derive(Debug)]
struct Suspect {
    /// As it was last listed.
    instance: Instance,
    reason: Reason,
    /// The index of the last answer that listed it.
    listed_at: u64,
    since: Instant,
    /// When the first of the answers that confirm its loss came.
    confirmed: Option<Instant>,
}

impl Guard {
    /// Without rules it believes everything.
    pub(crate) fn new(rules: Option<outrigger_config::MassLoss>) -> Self {
        Self {
            rules,
            suspects: BTreeMap::new(),
            listed: Arc::from([]),
            interrupted: false,
            let_go: Vec::new(),
        }
    }

    /// Goes on by other rules. Without any, nobody is kept any longer than the next answer.
    pub(crate) fn adopt(&mut self, rules: Option<outrigger_config::MassLoss>) {
        self.rules = rules;
        if rules.is_none() {
            self.suspects.clear();
            self.let_go.clear();
        }
    }

    /// Whether anybody is kept against the registry's word.
    pub(crate) fn doubts(&self) -> bool {
        !self.suspects.is_empty()
    }

    /// Who is kept, sorted.
    pub(crate) fn suspects(&self) -> impl ExactSizeIterator<Item = &InstanceId> {
        self.suspects.keys()
    }

    /// Who is kept, where, and whether only traffic speaks for it: a node that the registry has lost
    /// may well accept connections.
    pub(crate) fn to_examine(&self) -> Vec<(InstanceId, SocketAddr, bool)> {
        let examined = self.suspects.iter().filter_map(|(id, suspect)| {
            let addr = suspect.instance.addr.as_ref().ok()?;
            Some((id.clone(), *addr, suspect.reason == Reason::NodesLost))
        });
        examined.collect()
    }

    /// Judges `answer`, when `held` was known before. `vouched` says whether real traffic to an
    /// instance succeeds.
    pub(crate) fn review(
        &mut self,
        held: &[Instance],
        answer: &Answer<'_>,
        vouched: impl Fn(&InstanceId) -> bool,
    ) -> Review {
        let Some(rules) = self.rules else { return Review::default() };
        if answer.consistency != Consistency::Stale && std::mem::take(&mut self.interrupted) {
            self.suspects.values_mut().for_each(|suspect| suspect.begin_anew(answer.now));
        }
        let before = self.suspects.len();
        self.suspects.retain(|_, suspect| !suspect.is_spoken_of(answer));
        let listed_again = before - self.suspects.len();
        let given_up = self.give_up(answer, &rules);
        let suspected = self.suspect(held, answer, &given_up, vouched);
        let findings = Findings { suspected, listed_again, accepted: given_up.len() };
        if !self.doubts() {
            self.listed = Arc::from([]);
            return Review { known: None, findings, given_up };
        }
        self.listed = answer.instances.into();
        Review { known: Some(self.known()), findings, given_up }
    }

    /// The registry has failed: how long it has been saying something begins anew.
    pub(crate) fn interrupted(&mut self) {
        self.interrupted = true;
    }

    /// Believes the loss of these: nothing speaks for them.
    pub(crate) fn dismiss(&mut self, ids: &[InstanceId]) {
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
    fn give_up(&mut self, answer: &Answer<'_>, rules: &outrigger_config::MassLoss) -> Vec<GivenUp> {
        let mut given_up = Vec::new();
        self.suspects.retain(|_, suspect| {
            let gone = suspect.is_given_up(answer, rules);
            if gone {
                given_up.push(GivenUp {
                    instance: suspect.instance.clone(),
                    listed_at: suspect.listed_at,
                    is_listed: suspect.reason == Reason::NodesLost,
                });
            }
            !gone
        });
        given_up
    }

    /// Takes in those whose loss is not to be believed yet: why, and how many.
    fn suspect(
        &mut self,
        held: &[Instance],
        answer: &Answer<'_>,
        given_up: &[GivenUp],
        vouched: impl Fn(&InstanceId) -> bool,
    ) -> Option<(Reason, usize)> {
        self.let_go.retain(|one| {
            let fresh = answer.now.saturating_duration_since(one.at) < TOGETHER;
            fresh && find(answer.instances, &one.instance.id).is_none()
        });
        // Both lists are sorted, and may be long: one walk over the two.
        let mut listed = answer.instances.iter().peekable();
        let (mut trusted, mut gone, mut lost) = (0_usize, Vec::new(), Vec::new());
        for one in held.iter().filter(|one| one.weight() > 0) {
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
        let before = self.let_go.len();
        let most = |some: &[&Instance]| !some.is_empty() && (some.len() + before) * 2 > trusted + before;
        let (reason, who) = if !gone.is_empty() && answer.went_back {
            (Reason::IndexWentBack, gone)
        } else if !gone.is_empty() && answer.instances.is_empty() {
            (Reason::Empty, gone)
        } else if most(&gone) {
            (Reason::Collapsed, gone)
        } else if lost.len() * 2 > trusted {
            lost.retain(|one| vouched(&one.id));
            (Reason::NodesLost, lost)
        } else {
            let gone = gone.into_iter().cloned();
            self.let_go.extend(gone.map(|instance| LetGo {
                instance,
                listed_at: answer.was,
                at: answer.now,
            }));
            return None;
        };
        let mut who: Vec<_> = who.into_iter().map(|one| (one.clone(), answer.was)).collect();
        if reason != Reason::NodesLost && !who.is_empty() {
            who.extend(self.let_go.drain(..).map(|one| (one.instance, one.listed_at)));
        }
        let count = who.len();
        for (instance, listed_at) in who {
            let suspect = Suspect::new(instance, reason, listed_at, answer);
            self.suspects.insert(suspect.instance.id.clone(), suspect);
        }
        (count > 0).then_some((reason, count))
    }
}

impl Answer<'_> {
    /// Whether it confirms that an instance is gone that was listed at `index`.
    fn confirms_a_loss_since(&self, index: u64) -> bool {
        self.consistency == Consistency::Consistent
            && self.known_leader
            && self.index > index
            && self.leaves_somebody()
    }

    /// Whether there would be anybody to call, were it believed as it is.
    fn leaves_somebody(&self) -> bool {
        self.instances.iter().any(|one| one.weight() > 0)
    }
}

impl Suspect {
    fn new(instance: Instance, reason: Reason, listed_at: u64, answer: &Answer<'_>) -> Self {
        let confirmed = answer.confirms_a_loss_since(listed_at).then_some(answer.now);
        Self { instance, reason, listed_at, since: answer.now, confirmed }
    }

    /// What was said before counts no more.
    fn begin_anew(&mut self, now: Instant) {
        (self.since, self.confirmed) = (now, None);
    }

    /// Whether the registry has something to say of it, other than that it lost sight of its node.
    fn is_spoken_of(&self, answer: &Answer<'_>) -> bool {
        find(answer.instances, &self.instance.id)
            .is_some_and(|listed| self.reason != Reason::NodesLost || !listed.node_lost)
    }

    /// Whether its loss is to be believed after `answer`, which still does not list it.
    fn is_given_up(&mut self, answer: &Answer<'_>, rules: &outrigger_config::MassLoss) -> bool {
        if answer.went_back {
            self.reason = Reason::IndexWentBack;
        } else if answer.instances.is_empty() && self.reason != Reason::IndexWentBack {
            self.reason = Reason::Empty;
        }
        let for_long = |since: Instant| answer.now.saturating_duration_since(since);
        match answer.consistency {
            // Of a server that may have fallen behind: it neither confirms nor refutes.
            Consistency::Stale => false,
            _ if for_long(self.since) >= rules.hold_for => true,
            Consistency::Default => false,
            Consistency::Consistent
                if self.reason.can_be_confirmed() && answer.confirms_a_loss_since(self.listed_at) =>
            {
                for_long(*self.confirmed.get_or_insert(answer.now)) > rules.confirm_for
            }
            Consistency::Consistent => {
                self.confirmed = None;
                false
            }
        }
    }
}

/// The instance of this identity in a sorted list.
fn find<'a>(sorted: &'a [Instance], id: &InstanceId) -> Option<&'a Instance> {
    sorted.binary_search_by(|one| one.id.cmp(id)).ok().and_then(|at| sorted.get(at))
}

#[cfg(test)]
mod tests;
