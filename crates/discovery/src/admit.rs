//! Decides whether an answer may replace what is held. Pure: no clock, no I/O, no memory.
//!
//! Every answer passes through here before it is seen by anybody. What is too bad to be believed at
//! once (all instances gone, more than half gone) is for [`crate::guard`] to say, which is asked on
//! the way.

use std::sync::Arc;

use outrigger_registry::Instance;

use crate::{Knowledge, Snapshot};

/// What is held, with the index it was learned at.
#[derive(Debug)]
pub(crate) struct Current<'a> {
    pub(crate) snapshot: &'a Snapshot,
    pub(crate) index: u64,
}

/// An answer.
#[derive(Debug)]
pub(crate) struct Candidate {
    pub(crate) instances: Vec<Instance>,
    pub(crate) index: u64,
    /// Any server may have given it, also one that has fallen behind.
    pub(crate) stale: bool,
}

/// What to do with an [`Candidate`].
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It says what is held already: swap nothing, wake nobody.
    Unchanged,
    /// It is older than what is held: no news.
    Behind,
    /// It replaces what is held; each identity once, sorted by it.
    Accept(Arc<[Instance]>),
}

/// Judges one answer. `screen` is shown its instances in order, and may say what is to be known
/// instead of just these.
pub(crate) fn admit(
    current: &Current<'_>,
    candidate: Candidate,
    screen: impl FnOnce(&[Instance]) -> Option<Arc<[Instance]>>,
) -> Verdict {
    let answered = current.snapshot.knowledge == Knowledge::Answered;
    let known = current.snapshot.knowledge != Knowledge::Unasked;
    // A stale read must not turn the table back to a state that it has moved on from. A current one
    // may: there an index that went back means that the registry itself started over.
    if known && candidate.stale && candidate.index < current.index {
        return Verdict::Behind;
    }
    let instances = sort_and_dedup(candidate.instances);
    let kept = screen(&instances);
    let same = kept.as_deref().unwrap_or(&instances) == &*current.snapshot.instances;
    if answered && same {
        return Verdict::Unchanged;
    }
    Verdict::Accept(kept.unwrap_or_else(|| instances.into()))
}

/// Registries list in any order; the same content must compare equal. Of entries that claim one
/// identity, which no sound registry sends, the first is taken: an identity has one place.
fn sort_and_dedup(mut instances: Vec<Instance>) -> Vec<Instance> {
    instances.sort_by(|a, b| a.id.cmp(&b.id));
    instances.dedup_by(|later, kept| later.id == kept.id);
    instances
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use outrigger_config::Weights;
    use outrigger_registry::{HealthStatus, InstanceId};
    use proptest::{collection::vec, prelude::*, sample::select};

    use super::*;

    /// Without a guard.
    fn admit(held: &Current<'_>, offer: Candidate) -> Verdict {
        super::admit(held, offer, |_| None)
    }

    fn instance(id: u8, status: HealthStatus) -> Instance {
        Instance {
            id: InstanceId { datacenter: "dc1".into(), node: "n1".into(), id: id.to_string().into() },
            addr: Ok(([127, 0, 0, id], 80).into()),
            tags: Arc::from([]),
            meta: Arc::default(),
            weights: Weights::default(),
            status,
            node_lost: false,
            create_index: 1,
        }
    }

    fn instances() -> impl Strategy<Value = Vec<Instance>> {
        let status = select(vec![
            HealthStatus::Passing,
            HealthStatus::Warning,
            HealthStatus::Critical,
            HealthStatus::Maintenance,
        ]);
        vec((0_u8..8, status), 0..12)
            .prop_map(|all| all.into_iter().map(|(id, status)| instance(id, status)).collect())
    }

    fn candidate(instances: Vec<Instance>, index: u64) -> Candidate {
        Candidate { instances, index, stale: false }
    }

    /// What is held after `instances` were accepted from nothing.
    fn accepted_snapshot(now: Instant, instances: Vec<Instance>) -> Snapshot {
        match admit(&Current { snapshot: &Snapshot::unasked(), index: 0 }, candidate(instances, 1)) {
            Verdict::Accept(instances) => Snapshot::unasked().next(instances, now),
            verdict => panic!("a first answer was judged {verdict:?}"),
        }
    }

    fn now() -> Instant {
        tokio::time::Instant::now().into_std()
    }

    proptest! {
        #[test]
        fn a_first_answer_is_accepted_whatever_it_is(offered in instances(), index: u64, stale: bool, at: u64) {
            let held = Current { snapshot: &Snapshot::unasked(), index: at };
            let verdict = admit(&held, Candidate { instances: offered, index, stale });
            prop_assert!(matches!(verdict, Verdict::Accept(_)));
        }

        #[test]
        fn what_is_accepted_is_sorted_lists_each_identity_once_and_invents_nothing(offered in instances()) {
            let snapshot = accepted_snapshot(now(), offered.clone());
            prop_assert!(snapshot.instances.windows(2).all(|pair| pair[0].id < pair[1].id));
            prop_assert!(snapshot.instances.iter().all(|kept| offered.contains(kept)));
            prop_assert!(offered.iter().all(|one| snapshot.instances.iter().any(|kept| kept.id == one.id)));
        }

        #[test]
        fn the_same_content_in_any_order_at_any_index_is_unchanged(
            (listed, shuffled) in instances().prop_map(sort_and_dedup).prop_flat_map(|all| (Just(all.clone()), Just(all).prop_shuffle())),
            at: u64,
            index: u64,
        ) {
            let snapshot = accepted_snapshot(now(), listed);
            let verdict = admit(&Current { snapshot: &snapshot, index: at }, candidate(shuffled, index));
            prop_assert_eq!(verdict, Verdict::Unchanged);
        }

        #[test]
        fn a_current_answer_replaces_exactly_what_differs(first in instances(), second in instances(), at: u64, index: u64) {
            let snapshot = accepted_snapshot(now(), first);
            let differs = *snapshot.instances != *sort_and_dedup(second.clone());
            let verdict = admit(&Current { snapshot: &snapshot, index: at }, candidate(second.clone(), index));
            let expected = if differs { Verdict::Accept(sort_and_dedup(second).into()) } else { Verdict::Unchanged };
            prop_assert_eq!(verdict, expected);
        }

        #[test]
        fn a_stale_answer_never_turns_the_table_back(first in instances(), second in instances(), at in 0_u64..4, index in 0_u64..4) {
            let snapshot = accepted_snapshot(now(), first);
            let verdict = admit(&Current { snapshot: &snapshot, index: at }, Candidate { instances: second, index, stale: true });
            prop_assert_eq!(verdict == Verdict::Behind, index < at);
        }
    }

    #[test]
    fn another_life_under_the_same_identity_is_a_change() {
        let snapshot = accepted_snapshot(now(), vec![instance(1, HealthStatus::Passing)]);
        let again = Instance { create_index: 2, ..instance(1, HealthStatus::Passing) };
        let verdict = admit(&Current { snapshot: &snapshot, index: 1 }, candidate(vec![again], 2));
        assert!(matches!(verdict, Verdict::Accept(_)));
    }
}
