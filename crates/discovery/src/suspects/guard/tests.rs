//! Which losses are accepted, and when.

use std::{collections::BTreeSet, time::Duration};

use outrigger_registry::{HealthStatus, NamedHost, testing};
use proptest::{
    collection::{btree_map, vec},
    prelude::*,
    sample::select,
};

use super::*;

const SECOND: Duration = Duration::from_secs(1);
const MS: Duration = Duration::from_millis(1);

fn id(id: u8) -> InstanceId {
    InstanceId { datacenter: "dc1".into(), node: "n1".into(), id: format!("{id:03}").into() }
}

fn instance(n: u8, status: HealthStatus) -> Instance {
    Instance { addr: Ok(([127, 0, 0, n], 80).into()), ..testing::instance("n1", &id(n).id, status) }
}

fn passing(ids: &[u8]) -> Vec<Instance> {
    ids.iter().map(|id| instance(*id, HealthStatus::Passing)).collect()
}

fn with_lost_nodes(ids: &[u8]) -> Vec<Instance> {
    ids.iter().map(|id| Instance { node_lost: true, ..instance(*id, HealthStatus::Critical) }).collect()
}

/// A service and its guard.
struct Case {
    guard: MassLossGuard,
    known: Arc<[Instance]>,
    now: Instant,
    recently_served: Vec<u8>,
    /// Index of the last answer.
    index: u64,
    /// Index of the next answer.
    next: u64,
    leaderless: bool,
}

impl Case {
    fn new(known: Vec<Instance>) -> Self {
        let now = tokio::time::Instant::now().into_std();
        let guard = MassLossGuard::new(Some(outrigger_config::MassLoss::default()));
        Self {
            guard,
            known: known.into(),
            now,
            recently_served: Vec::new(),
            index: 7,
            next: 8,
            leaderless: false,
        }
    }

    fn answer_of(&mut self, instances: &[Instance], consistency: Consistency, went_back: bool) -> Findings {
        let answer = ReviewedAnswer {
            instances,
            consistency,
            index: self.next,
            previous_index: self.index,
            went_back,
            known_leader: !self.leaderless,
            now: self.now,
        };
        let served = self.recently_served.clone();
        let recently_served = move |one: &InstanceId| served.iter().any(|n| id(*n) == *one);
        let Review { known, findings, accepted_losses } =
            self.guard.review(&self.known, &answer, recently_served);
        self.index = self.next;
        self.known = known.unwrap_or_else(|| instances.into());
        assert_eq!(accepted_losses.len(), findings.accepted);
        findings
    }

    fn answer(&mut self, instances: &[Instance]) -> Findings {
        self.answer_of(instances, Consistency::Default, false)
    }

    fn confirm(&mut self, instances: &[Instance]) -> Findings {
        self.answer_of(instances, Consistency::Consistent, false)
    }

    fn known(&self) -> Vec<u8> {
        self.known.iter().map(|one| one.id.id.parse().unwrap()).collect()
    }

    fn passing(&self) -> Vec<u8> {
        let passing = self.known.iter().filter(|one| one.status == HealthStatus::Passing);
        passing.map(|one| one.id.id.parse().unwrap()).collect()
    }
}

#[test]
fn a_loss_is_suspect_when_all_or_most_are_gone_or_the_index_went_back() {
    use SuspectReason::{Collapsed, Empty, IndexWentBack};
    for (before, after, went_back, expected) in [
        (&[1][..], &[][..], false, Some((Empty, 1))),
        (&[1, 2, 3], &[], false, Some((Empty, 3))),
        (&[1, 2, 3], &[], true, Some((IndexWentBack, 3))),
        (&[1, 2, 3], &[1, 2], true, Some((IndexWentBack, 1))),
        (&[1, 2, 3], &[1, 2, 3], true, None),
        (&[1, 2, 3], &[3], false, Some((Collapsed, 2))),
        (&[1, 2, 3], &[2, 3], false, None),
        (&[1, 2], &[1], false, None),
        (&[1, 2, 3, 4], &[1, 2], false, None),
        (&[1, 2, 3, 4], &[1, 7, 8, 9], false, Some((Collapsed, 3))),
        (&[], &[], true, None),
    ] {
        let mut case = Case::new(passing(before));
        let findings = case.answer_of(&passing(after), Consistency::Default, went_back);
        assert_eq!(findings.suspected, expected, "{before:?} then {after:?}, went back: {went_back}");
        let all: BTreeSet<_> = match expected {
            Some(_) => before.iter().chain(after).copied().collect(),
            None => after.iter().copied().collect(),
        };
        assert_eq!(case.known(), Vec::from_iter(all), "{before:?} then {after:?}");
    }
}

#[test]
fn losses_within_two_seconds_count_as_one() {
    type Step = (u32, &'static [u8], &'static [u8]);
    // Milliseconds, the instances listed then, and the instances known after that.
    let cases: [&[Step]; 4] = [
        &[(0, &[2, 3], &[2, 3]), (500, &[3], &[1, 2, 3]), (900, &[], &[1, 2, 3])],
        &[(0, &[2, 3], &[2, 3]), (1_999, &[3], &[1, 2, 3])],
        &[(0, &[2, 3], &[2, 3]), (2_000, &[3], &[3]), (4_000, &[], &[3])],
        &[(0, &[2, 3], &[2, 3]), (500, &[1, 2, 3], &[1, 2, 3]), (900, &[2, 3], &[2, 3])],
    ];
    for steps in cases {
        let mut case = Case::new(passing(&[1, 2, 3]));
        let start = case.now;
        for &(at, listed, known) in steps {
            case.now = start + at * MS;
            case.answer(&passing(listed));
            case.next += 1;
            assert_eq!(case.known(), known, "after {at} ms of {steps:?}");
        }
    }
}

#[test]
fn an_earlier_loss_within_two_seconds_is_accepted_with_the_others() {
    let mut case = Case::new(passing(&[1, 2, 3, 4]));
    case.answer(&passing(&[2, 3, 4]));
    case.next = 9;
    let left = passing(&[4]);
    assert_eq!(case.answer(&left).suspected, Some((SuspectReason::Collapsed, 3)));
    case.confirm(&left);
    case.now += 1_001 * MS;
    assert_eq!(case.confirm(&left).accepted, 3);
    assert_eq!(case.known(), [4]);
}

#[test]
fn instances_without_traffic_are_gone_at_once_and_do_not_count() {
    for status in [HealthStatus::Critical, HealthStatus::Maintenance] {
        let mut case = Case::new(vec![instance(1, status), instance(2, status)]);
        assert_eq!(case.answer(&[]), Findings::default());
        assert!(case.known().is_empty());

        // One of two instances with traffic is no mass loss, even when one without traffic leaves too.
        let drained = instance(3, status);
        let mut case = Case::new([passing(&[1, 2]), vec![drained]].concat());
        assert_eq!(case.answer(&passing(&[2])), Findings::default());
        assert_eq!(case.known(), [2]);
    }
    let nowhere =
        Instance { addr: Err(outrigger_registry::Unusable::NoAddress), ..instance(1, HealthStatus::Passing) };
    let mut case = Case::new(vec![nowhere]);
    assert_eq!(case.answer(&[]), Findings::default(), "it cannot be probed");
}

#[test]
fn a_loss_is_accepted_when_consistent_answers_confirm_it_for_more_than_a_second() {
    let mut case = Case::new(passing(&[1, 2, 3]));
    let left = passing(&[3]);
    case.answer(&left);
    let start = case.now;
    for (at, accepted) in [(100, 0), (600, 0), (1100, 0), (1101, 2)] {
        case.now = start + at * MS;
        assert_eq!(case.confirm(&left).accepted, accepted, "after {at} ms");
        assert_eq!(case.known().len(), 3 - accepted);
    }
}

#[test]
fn a_loss_of_all_serving_instances_is_accepted_only_after_ten_seconds() {
    let unhealthy = vec![instance(4, HealthStatus::Critical), instance(5, HealthStatus::Maintenance)];
    // All at once, one after the other, all but instances without traffic, or all with their nodes.
    for (first, then) in [
        (vec![], vec![]),
        (passing(&[3]), vec![]),
        (unhealthy.clone(), unhealthy),
        (with_lost_nodes(&[1, 2, 3]), with_lost_nodes(&[1, 2, 3])),
    ] {
        let mut case = Case::new(passing(&[1, 2, 3]));
        case.recently_served = vec![1, 2, 3];
        let start = case.now;
        case.answer(&first);
        case.confirm(&then);
        for at in [2_000, 5_000, 9_999] {
            case.now = start + at * MS;
            assert_eq!(case.confirm(&then).accepted, 0, "{then:?} after {at} ms");
            assert_eq!(case.passing(), [1, 2, 3], "{then:?} after {at} ms");
        }
        case.now = start + 10 * SECOND;
        case.confirm(&then);
        assert!(case.passing().is_empty(), "{then:?}");
    }
}

#[test]
fn confirmation_begins_when_an_instance_with_traffic_is_listed() {
    let mut case = Case::new(passing(&[1, 2, 3]));
    case.answer(&[instance(4, HealthStatus::Critical)]);
    case.confirm(&[instance(4, HealthStatus::Critical)]);
    case.now += 2 * SECOND;
    let left = passing(&[4]);
    assert_eq!(case.confirm(&left).accepted, 0);
    case.now += 1_001 * MS;
    assert_eq!(case.confirm(&left).accepted, 3);
}

#[test]
fn a_silence_restarts_the_times() {
    let mut case = Case::new(passing(&[1, 2, 3]));
    case.answer(&[]);
    case.now += 30 * SECOND;
    case.guard.record_failure();
    case.answer_of(&[], Consistency::Stale, false);
    assert_eq!(case.confirm(&[]).accepted, 0, "a stale answer is not the end of the silence");
    case.now += 9_999 * MS;
    assert_eq!(case.confirm(&[]).accepted, 0);
    case.now += MS;
    assert_eq!(case.confirm(&[]).accepted, 3);

    let mut case = Case::new(passing(&[1, 2, 3]));
    let left = passing(&[3]);
    case.answer(&left);
    case.confirm(&left);
    case.guard.record_failure();
    case.now += 1001 * MS;
    assert_eq!(case.confirm(&left).accepted, 0, "earlier confirmations no longer count");
    case.now += 1001 * MS;
    assert_eq!(case.confirm(&left).accepted, 2);
}

#[test]
fn only_consistent_answers_confirm() {
    for consistency in [Consistency::Default, Consistency::Stale] {
        let mut case = Case::new(passing(&[1]));
        case.answer(&[]);
        let start = case.now;
        for at in 1..=9 {
            case.now = start + at * SECOND;
            assert_eq!(case.answer_of(&[], consistency, false).accepted, 0, "{consistency:?} after {at} s");
        }
        assert_eq!(case.known(), [1]);
    }
}

#[test]
fn an_answer_at_the_index_of_the_last_listing_or_below_confirms_nothing() {
    for index in [0, 6, 7] {
        let mut case = Case::new(passing(&[1, 2]));
        case.next = index;
        case.answer(&[]);
        let start = case.now;
        for at in [0, 400, 1_200, 5_000, 9_999] {
            case.now = start + at * MS;
            assert_eq!(case.confirm(&[]).accepted, 0, "index {index} after {at} ms");
        }
        case.now = start + 10 * SECOND;
        assert_eq!(case.confirm(&[]).accepted, 2, "index {index}");
    }
}

#[test]
fn each_loss_is_confirmed_against_the_index_of_its_own_last_listing() {
    let mut case = Case::new(passing(&[1, 2, 3, 4, 5, 6, 7, 8, 9]));
    case.answer(&passing(&[7, 8, 9]));
    case.now += 500 * MS;
    let left = passing(&[9]);
    case.answer(&left);
    let start = case.now;
    for at in [0, 1_100] {
        case.now = start + at * MS;
        case.confirm(&left);
    }
    assert_eq!(
        case.known(),
        [7, 8, 9],
        "7 and 8 were still listed at the index at which they are missing now"
    );
    case.next = 9;
    case.confirm(&left);
    case.now += 1_001 * MS;
    case.confirm(&left);
    assert_eq!(case.known(), [9]);
}

#[test]
fn a_server_without_a_leader_and_an_error_restart_the_confirmation() {
    for leaderless in [true, false] {
        let mut case = Case::new(passing(&[1, 2, 3]));
        case.answer(&passing(&[3]));
        case.confirm(&passing(&[3]));
        case.now += 900 * MS;
        if leaderless {
            case.leaderless = true;
            case.confirm(&passing(&[3]));
            case.leaderless = false;
        } else {
            case.guard.record_failure();
        }
        case.now += 900 * MS;
        assert_eq!(case.confirm(&passing(&[3])).accepted, 0, "the first confirmation after the restart");
        case.now += 1_001 * MS;
        assert_eq!(case.confirm(&passing(&[3])).accepted, 2);
    }
}

#[test]
fn an_answer_that_lists_the_suspects_again_restarts_the_confirmation() {
    let mut case = Case::new(passing(&[1, 2, 3]));
    let left = passing(&[3]);
    case.answer(&left);
    case.confirm(&left);
    case.now += 900 * MS;
    assert_eq!(case.confirm(&passing(&[1, 2, 3])).listed_again, 2);
    assert!(!case.guard.has_suspects());
    case.next = 9;
    case.answer(&left);
    case.now += 900 * MS;
    assert_eq!(case.confirm(&left).accepted, 0);
    assert_eq!(case.known(), [1, 2, 3]);
}

#[test]
fn a_registry_that_lost_its_data_confirms_nothing_and_is_believed_after_ten_seconds() {
    for later in [false, true] {
        let mut case = Case::new(passing(&[1, 2]));
        case.answer_of(&[], Consistency::Default, !later);
        let start = case.now;
        case.confirm(&[]);
        case.now = start + 500 * MS;
        case.answer_of(&[], Consistency::Consistent, later);
        for at in [2_000, 5_000, 9_999] {
            case.now = start + at * MS;
            assert_eq!(case.confirm(&[]).accepted, 0, "after {at} ms");
        }
        case.now = start + 10 * SECOND;
        assert_eq!(case.confirm(&[]).accepted, 2);
        assert!(case.known().is_empty());
    }
}

#[test]
fn after_ten_seconds_a_default_read_is_believed_too_and_a_stale_read_never() {
    let mut case = Case::new(passing(&[1]));
    case.answer(&[]);
    case.now += 3600 * SECOND;
    assert_eq!(case.answer_of(&[], Consistency::Stale, false).accepted, 0);
    assert_eq!(case.answer(&[]).accepted, 1);
}

#[test]
fn each_loss_has_its_own_time() {
    let mut case = Case::new(passing(&[1, 2, 3]));
    case.answer(&passing(&[3]));
    case.now += 8 * SECOND;
    assert_eq!(case.answer(&[]).suspected, Some((SuspectReason::Empty, 1)));
    case.now += 2 * SECOND;
    assert_eq!(case.answer(&[]).accepted, 2);
    assert_eq!(case.known(), [3]);
}

#[test]
fn the_rest_of_a_suspect_answer_is_believed_at_once() {
    let mut case = Case::new(passing(&[1, 2, 3]));
    case.answer(&[instance(3, HealthStatus::Critical), instance(4, HealthStatus::Passing)]);
    assert_eq!((case.known(), case.passing()), (vec![1, 2, 3, 4], vec![1, 2, 4]));
}

#[test]
fn a_suspect_listed_as_unhealthy_is_believed_at_once() {
    let mut case = Case::new(passing(&[1, 2]));
    case.answer(&[]);
    let findings =
        case.answer(&[instance(1, HealthStatus::Critical), instance(2, HealthStatus::Maintenance)]);
    assert_eq!((findings.listed_again, case.passing(), case.guard.has_suspects()), (2, vec![], false));
}

#[test]
fn a_dropped_suspect_is_gone() {
    let mut case = Case::new(passing(&[1, 2, 3]));
    case.answer(&[]);
    case.guard.drop_suspects(&[id(1), id(3)]);
    let known: Vec<_> = case.guard.known().iter().map(|one| one.id.clone()).collect();
    assert_eq!(known, [id(2)]);
    assert_eq!(case.guard.suspects_to_probe().len(), 1);
}

#[test]
fn a_mass_turn_to_critical_is_believed_at_once() {
    let mut case = Case::new(passing(&[1, 2, 3]));
    case.recently_served = vec![1, 2, 3];
    let critical: Vec<_> = [1, 2, 3].map(|n| instance(n, HealthStatus::Critical)).into();
    assert_eq!(case.answer(&critical), Findings::default());
    assert!(case.passing().is_empty());
}

#[test]
fn nodes_lost_in_a_mass_are_suspect_while_traffic_succeeds() {
    for (lost, served, suspected, passing_after) in [
        (&[1, 2, 3][..], &[][..], None, &[][..]),
        (&[1, 2, 3], &[1, 2, 3], Some((SuspectReason::NodesLost, 3)), &[1, 2, 3]),
        (&[1, 2, 3], &[2], Some((SuspectReason::NodesLost, 1)), &[2]),
        (&[1, 2], &[1, 2], Some((SuspectReason::NodesLost, 2)), &[1, 2, 3]),
        (&[1], &[1], None, &[2, 3]),
    ] {
        let mut case = Case::new(passing(&[1, 2, 3]));
        case.recently_served = served.into();
        let healthy: Vec<_> = [1, 2, 3].into_iter().filter(|n| !lost.contains(n)).collect();
        let mut answer = [with_lost_nodes(lost), passing(&healthy)].concat();
        answer.sort_by(|a, b| a.id.cmp(&b.id));
        assert_eq!(case.answer(&answer).suspected, suspected, "lost {lost:?}, served {served:?}");
        assert_eq!(case.passing(), passing_after, "lost {lost:?}, served {served:?}");
        assert_eq!(case.known(), [1, 2, 3]);
    }
}

#[test]
fn an_instance_on_a_lost_node_is_kept_like_a_missing_one() {
    let mut case = Case::new(passing(&[1, 2, 3]));
    case.recently_served = vec![1, 2, 3];
    let most = [with_lost_nodes(&[1, 2]), passing(&[3])].concat();
    case.answer(&most);
    case.confirm(&most);
    assert_eq!(case.passing(), [1, 2, 3]);
    case.now += 1001 * MS;
    assert_eq!(case.confirm(&most).accepted, 2);
    assert_eq!(case.passing(), [3]);

    let lost = with_lost_nodes(&[1, 2]);
    let mut case = Case::new(passing(&[1, 2]));
    case.recently_served = vec![1, 2];
    case.answer(&lost);
    let mut unhealthy = lost.clone();
    unhealthy[0].node_lost = false;
    assert_eq!(case.answer(&unhealthy).listed_again, 1, "its own check is critical too");
    assert_eq!(case.passing(), [2]);
    case.guard.drop_suspects(&[id(2)]);
    assert!(
        case.guard.known().iter().all(|one| one.status == HealthStatus::Critical),
        "as the registry lists them"
    );
}

#[test]
fn without_settings_every_answer_is_believed() {
    let mut case = Case::new(passing(&[1, 2, 3]));
    case.guard = MassLossGuard::new(None);
    assert_eq!(case.answer_of(&[], Consistency::Default, true), Findings::default());
    assert!(case.known().is_empty());
}

fn listing() -> impl Strategy<Value = Vec<Instance>> {
    let status = select(vec![
        HealthStatus::Passing,
        HealthStatus::Warning,
        HealthStatus::Critical,
        HealthStatus::Maintenance,
    ]);
    btree_map(0_u8..8, (status, any::<bool>()), 0..8).prop_map(|all| {
        let listed = all.into_iter().map(|(n, (status, lost))| Instance {
            node_lost: lost && status == HealthStatus::Critical,
            ..instance(n, status)
        });
        listed.collect()
    })
}

fn consistency() -> impl Strategy<Value = Consistency> {
    select(vec![Consistency::Default, Consistency::Stale, Consistency::Consistent])
}

proptest! {
    #[test]
    fn no_instance_is_invented_forgotten_or_altered(
        steps in vec((listing(), consistency(), any::<bool>(), 0_u32..3_000, vec(0_u8..8, 0..4), any::<bool>()), 1..30),
    ) {
        let mut case = Case::new(Vec::new());
        let mut once: Vec<Instance> = Vec::new();
        for (answer, consistency, went_back, pause, served, dropping) in steps {
            (case.now, case.recently_served) = (case.now + pause * MS, served);
            let before = case.known.clone();
            once.extend_from_slice(&before);
            let suspects: Vec<_> = case.guard.suspects().cloned().collect();
            case.answer_of(&answer, consistency, went_back);
            let kept: Vec<_> = case.guard.suspects().cloned().collect();

            prop_assert!(case.known.windows(2).all(|pair| pair[0].id < pair[1].id), "sorted, each identity once");
            for one in &answer {
                let now = find(&case.known, &one.id).expect("every listed instance is known");
                let lost = one.node_lost && kept.contains(&one.id);
                prop_assert!(now == one || lost, "as it is listed, unless only its node is lost");
            }
            for one in case.known.iter() {
                let kept = kept.contains(&one.id);
                prop_assert_eq!(kept, !answer.contains(one), "either listed or kept");
                if kept {
                    // Before this answer, or before its loss was accepted a moment ago.
                    prop_assert!(once.contains(one), "as it was known before");
                    prop_assert!(one.weight() > 0, "only instances with traffic are kept");
                }
            }
            for gone in before.iter().filter(|one| one.weight() > 0 && find(&case.known, &one.id).is_none()) {
                // The loss was no mass loss, or the suspect was held for long enough.
                let was_suspect = suspects.contains(&gone.id);
                prop_assert!(was_suspect || (!went_back && !answer.is_empty()), "{} vanished", gone.id);
                prop_assert!(!was_suspect || consistency != Consistency::Stale, "a stale answer confirmed it");
            }
            if dropping && case.guard.has_suspects() {
                case.guard.drop_suspects(&kept);
                prop_assert!(!case.guard.has_suspects());
                case.known = case.guard.known();
                prop_assert_eq!(&*case.known, &*answer);
            }
        }
    }

    #[test]
    fn a_loss_that_every_answer_repeats_is_accepted_at_the_first_answer_after_ten_seconds(
        before in listing(), after in listing(), went_back: bool, pauses in vec(50_u32..1_000, 250),
    ) {
        let mut case = Case::new(before);
        case.recently_served = (0..8).collect();
        case.answer_of(&after, Consistency::Default, went_back);
        let start = case.now;
        for pause in pauses {
            case.now += pause * MS;
            case.confirm(&after);
            if case.now >= start + 10 * SECOND {
                prop_assert_eq!(&*case.known, &*after);
                break;
            }
        }
    }
}

#[test]
fn an_address_that_a_listed_name_has_lost_is_no_loss_of_the_registry() {
    let named = |n: u8| {
        let (host, listed) = ("db.example".into(), id(1).id);
        let named = NamedHost { host, id: listed, port: 80, fallback: Box::default() };
        Instance { named: Some(Arc::new(named)), ..instance(n, HealthStatus::Passing) }
    };
    let mut case = Case::new(vec![named(1), named(2), named(3)]);
    assert_eq!(case.answer(&[named(1)]).suspected, None);
    assert_eq!(case.known(), [1]);
    // The registry itself lists the name no more.
    let mut case = Case::new(vec![named(1), named(2), named(3)]);
    assert_eq!(case.answer(&[]).suspected, Some((SuspectReason::Empty, 3)));
}

#[test]
fn a_suspect_is_probed_at_each_address_of_its_name() {
    let fallback: [std::net::SocketAddr; 2] =
        ["[fd00::1]:80".parse().unwrap(), "[fd00::2]:80".parse().unwrap()];
    let (host, listed) = ("db.example".into(), id(1).id);
    let named = NamedHost { host, id: listed, port: 80, fallback: fallback.into() };
    let named = Instance { named: Some(Arc::new(named)), ..instance(1, HealthStatus::Passing) };
    let mut case = Case::new(vec![named, instance(2, HealthStatus::Passing)]);
    assert_eq!(case.answer(&[]).suspected, Some((SuspectReason::Empty, 2)));
    let others: Vec<_> = case.guard.suspects_to_probe().into_iter().map(|one| one.others.to_vec()).collect();
    assert_eq!(others, [fallback.to_vec(), Vec::new()]);
}
