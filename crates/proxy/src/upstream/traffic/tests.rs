use super::*;

fn subset(name: &str) -> config::Subset {
    config::Subset::of_all(name)
}

fn split(weights: &[u32]) -> Split {
    let names: Vec<_> = (0..weights.len()).map(|at| format!("s{at}")).collect();
    let subsets: Vec<_> =
        names.iter().map(|name| Arc::new(Subset::new(subset(name), Balance::RoundRobin))).collect();
    let entries = names.iter().zip(weights).map(|(name, weight)| config::SplitEntry {
        to: SplitTarget::Subset(name.as_str().into()),
        weight: *weight,
    });
    Split::new(&config::Split { entries: entries.collect(), sticky: None }, &subsets, None)
}

fn index_of(target: Option<&Target>) -> usize {
    match target {
        Some(Target::Subset(subset)) => subset.name()[1..].parse().unwrap(),
        other => panic!("{other:?}"),
    }
}

fn counts(split: &Split, requests: usize, is_usable: impl Fn(&Target) -> bool) -> Vec<usize> {
    let mut counts = vec![0; split.weights.len()];
    for _ in 0..requests {
        counts[index_of(split.choose(None, &is_usable))] += 1;
    }
    counts
}

#[test]
fn the_shares_of_a_split_are_exact_over_a_cycle() {
    assert_eq!(counts(&split(&[9500, 500]), 20, |_| true), [19, 1]);
    assert_eq!(counts(&split(&[9999, 1]), 10_000, |_| true), [9999, 1]);
    assert_eq!(counts(&split(&[0, 300, 200]), 500, |_| true), [0, 300, 200]);
}

#[test]
fn the_share_of_an_empty_entry_goes_to_the_others_in_proportion() {
    let split = split(&[5000, 3000, 2000]);
    let is_usable = |target: &Target| index_of(Some(target)) != 0;
    assert_eq!(counts(&split, 1000, is_usable), [0, 600, 400]);
    let none = counts(&split, 1000, |_| false);
    assert_eq!(none, [500, 300, 200], "without a usable entry each request goes where it would go");
}

#[test]
fn an_entry_without_weight_is_no_reason_to_leave_the_split() {
    let split = split(&[300, 0]);
    // The only usable entry gets no request, so that each one goes where it would go with all of them usable.
    assert_eq!(counts(&split, 10, |target| index_of(Some(target)) == 1), [10, 0]);
}

/// The entry of each of 20,000 users.
fn users(split: &Split, is_usable: impl Fn(&Target) -> bool) -> Vec<usize> {
    let entry = |user: usize| index_of(split.choose(Some(format!("user-{user}").as_bytes()), &is_usable));
    (0..20_000).map(entry).collect()
}

fn share(entries: &[usize], wanted: usize) -> f64 {
    entries.iter().filter(|entry| **entry == wanted).count() as f64 / entries.len() as f64
}

#[test]
fn a_sticky_split_keeps_users_and_moves_only_the_difference_of_the_weights() {
    let before = users(&split(&[9500, 500]), |_| true);
    assert_eq!(before, users(&split(&[95, 5]), |_| true), "the same in every process");
    let after = users(&split(&[9000, 1000]), |_| true);
    let moved = before.iter().zip(&after).filter(|(before, after)| before != after).count();
    assert!((share(&before, 1) - 0.05).abs() < 0.005 && (share(&after, 1) - 0.1).abs() < 0.01);
    assert!(before.iter().zip(&after).all(|(before, after)| before == after || (*before, *after) == (0, 1)));
    assert!((moved as f64 / 20_000.0 - 0.05).abs() < 0.01, "{moved}");
}

#[test]
fn of_several_entries_hardly_more_users_move_than_the_shares_say() {
    let split_of = |entries: &[(&str, u32)]| {
        let subsets: Vec<_> = entries
            .iter()
            .map(|(name, _)| Arc::new(Subset::new(subset(name), Balance::RoundRobin)))
            .collect();
        let entries = entries.iter().map(|(name, weight)| config::SplitEntry {
            to: SplitTarget::Subset((*name).into()),
            weight: *weight,
        });
        Split::new(&config::Split { entries: entries.collect(), sticky: None }, &subsets, None)
    };
    let before = users(&split_of(&[("s0", 80), ("s1", 10), ("s2", 10)]), |_| true);
    let after = users(&split_of(&[("s2", 20), ("s1", 10), ("s0", 70)]), |_| true);
    let moved = before.iter().zip(&after).filter(|(before, after)| before != after).count();
    // 1 - (1/(1 + 1/7 + 2/7) + 1/(8 + 1 + 2) + 1/(8 + 1 + 1)): the probability that the same entry wins both draws is the sum of
    // 1 / sum(max(wj/wi, vj/vi)) over the entries i, with the weights w before and v after.
    assert!((moved as f64 / 20_000.0 - 0.109).abs() < 0.01, "{moved}");
    let (grown, other) = (&[("s0", 80), ("s1", 10), ("s2", 20)], |_: &Target| true);
    let moved = before.iter().zip(users(&split_of(grown), other)).filter(|(before, after)| *before != after);
    assert!(moved.map(|(_, after)| after).all(|entry| entry == 2), "all of them to the entry that has grown");
    for (entry, expected) in [(0, 0.7), (1, 0.1), (2, 0.2)] {
        assert!((share(&after, entry) - expected).abs() < 0.01);
    }
}

#[test]
fn users_of_an_empty_entry_spread_over_the_others_and_the_others_stay() {
    let split = split(&[5000, 3000, 2000]);
    let before = users(&split, |_| true);
    let after = users(&split, |target| index_of(Some(target)) != 0);
    for (before, after) in before.iter().zip(&after) {
        assert!(if *before == 0 { *after != 0 } else { before == after });
    }
    assert!((share(&after, 1) - 0.6).abs() < 0.02 && (share(&after, 2) - 0.4).abs() < 0.02);
}

#[test]
fn a_subset_and_the_turns_of_a_split_stay_when_other_rules_change() {
    let rules = |weight: u32, names: &[&str]| config::TrafficRules {
        subsets: names.iter().map(|name| subset(name)).collect(),
        split: Some(config::Split {
            entries: vec![config::SplitEntry { to: SplitTarget::Subset(names[0].into()), weight }],
            sticky: None,
        }),
        ..config::TrafficRules::default()
    };
    let live = LiveSubsets::default();
    let new = |rules: &config::TrafficRules, before| {
        Traffic::new(rules, Balance::RoundRobin, &live, before).unwrap()
    };
    let first = new(&rules(1, &["a", "b"]), None);
    assert!(Arc::ptr_eq(&first, &new(&rules(1, &["a", "b"]), Some(&first))));
    let second = new(&rules(2, &["a", "c"]), Some(&first));
    assert!(Arc::ptr_eq(&first.subsets[0], &second.subsets[0]));
    assert!(Arc::ptr_eq(&first.split.as_ref().unwrap().cursor, &second.split.as_ref().unwrap().cursor));
    assert!(
        Traffic::new(&config::TrafficRules::default(), Balance::RoundRobin, &live, Some(&second)).is_none()
    );
}
