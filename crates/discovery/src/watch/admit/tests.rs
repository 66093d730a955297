//! Which answers replace the snapshot.

use std::time::Instant;

use outrigger_registry::{HealthStatus, testing};
use proptest::{collection::vec, prelude::*, sample::select};

use super::*;

/// Without a screen.
fn admit(current: &Current<'_>, candidate: Candidate) -> Verdict {
    super::admit(current, candidate, |_| None)
}

fn instance(id: u8, status: HealthStatus) -> Instance {
    Instance { addr: Ok(([127, 0, 0, id], 80).into()), ..testing::instance("n1", &id.to_string(), status) }
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

/// The first snapshot, with `instances`.
fn accepted_snapshot(now: Instant, instances: Vec<Instance>) -> Snapshot {
    match admit(&Current { snapshot: &Snapshot::default(), index: 0 }, candidate(instances, 1)) {
        Verdict::Accept(instances) => Snapshot::default().next(instances, now),
        verdict => panic!("a first answer was not accepted: {verdict:?}"),
    }
}

fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

proptest! {
    #[test]
    fn every_first_answer_is_accepted(offered in instances(), index: u64, stale: bool, at: u64) {
        let current = Current { snapshot: &Snapshot::default(), index: at };
        let verdict = admit(&current, Candidate { instances: offered, index, stale });
        prop_assert!(matches!(verdict, Verdict::Accept(_)));
    }

    #[test]
    fn an_accepted_answer_is_sorted_and_lists_each_identity_once(offered in instances()) {
        let snapshot = accepted_snapshot(now(), offered.clone());
        prop_assert!(snapshot.instances.windows(2).all(|pair| pair[0].id < pair[1].id));
        prop_assert!(snapshot.instances.iter().all(|kept| offered.contains(kept)));
        prop_assert!(offered.iter().all(|one| snapshot.instances.iter().any(|kept| kept.id == one.id)));
    }

    #[test]
    fn the_same_instances_in_any_order_at_any_index_are_unchanged(
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
    fn a_stale_answer_never_restores_an_older_state(first in instances(), second in instances(), at in 0_u64..4, index in 0_u64..4) {
        let snapshot = accepted_snapshot(now(), first);
        let verdict = admit(&Current { snapshot: &snapshot, index: at }, Candidate { instances: second, index, stale: true });
        prop_assert_eq!(verdict == Verdict::Behind, index < at);
    }
}

#[test]
fn a_new_registration_of_the_same_identity_is_a_change() {
    let snapshot = accepted_snapshot(now(), vec![instance(1, HealthStatus::Passing)]);
    let again = Instance { create_index: 2, ..instance(1, HealthStatus::Passing) };
    let verdict = admit(&Current { snapshot: &snapshot, index: 1 }, candidate(vec![again], 2));
    assert!(matches!(verdict, Verdict::Accept(_)));
}
