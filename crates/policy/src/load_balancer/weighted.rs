//! Weighted round robin: exact over a cycle, and smooth within it.
//!
//! The weights, divided by their greatest common divisor, are turns per cycle. The table of all turns is
//! built once, so a pick is one read; the usual smooth-weighted recurrence (nginx's) reads every endpoint
//! per pick, n·W reads for a cycle of W turns.
//!
//! **Smooth.** The m endpoints of one weight w form a class. A class has m·w turns, at the ideal places
//! (2k+1)·W/(2mw) of the cycle; its endpoints take these turns in rotation. A counting sort by the ideal
//! places is the table. Ideal places per endpoint would be simpler, but all endpoints of weight 1 would
//! share the middle of the cycle: 1, 1, 3 would give C A B C C instead of C A C B C. Before any place
//! each class is within ½ of its due turns, so with c different weights no turn is further than
//! c/2 + 1 from its ideal place, and c is small: W ≥ c(c+1)/2.
//!
//! **Bounded.** A cycle has at most 65,536 turns (256 KiB), or as many as there are endpoints. Greater
//! weights are scaled down to this sum and rounded, to at least one turn each.

use super::cycle::Cycle;

/// Most turns of a cycle with exact shares.
const MAX_TURNS: u64 = 65_536;

/// A cycle with turns by weight.
pub(super) fn turns_by_weight(weights: &[u32]) -> Cycle {
    let exact = divide_by_gcd(weights);
    let total: u64 = exact.iter().sum();
    Cycle::new(build_cycle(&if total <= MAX_TURNS { exact } else { scale_down(&exact, total) }))
}

/// The weights divided by their greatest common divisor.
fn divide_by_gcd(weights: &[u32]) -> Vec<u64> {
    let divisor = weights.iter().fold(0, |divisor, &weight| gcd(divisor, weight)).max(1);
    weights.iter().map(|&weight| u64::from(weight / divisor)).collect()
}

fn gcd(mut a: u32, mut b: u32) -> u32 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

/// Shares of a cycle of about [`MAX_TURNS`], rounded to the nearest, at least 1 for a weight above 0.
fn scale_down(weights: &[u64], total: u64) -> Vec<u64> {
    let share = |weight: u64| (weight * MAX_TURNS + total / 2) / total;
    weights.iter().map(|&weight| if weight == 0 { 0 } else { share(weight).max(1) }).collect()
}

/// The cycle: each endpoint's index as often as its weight, evenly spread. O(W + n log n).
fn build_cycle(weights: &[u64]) -> Vec<u32> {
    let mut by_weight: Vec<u32> = (0..).take(weights.len()).filter(|&i| weights[i as usize] > 0).collect();
    // At equal places the greater weight is first; equal weights keep their order in the View.
    by_weight.sort_by_key(|&index| std::cmp::Reverse(weights[index as usize]));

    let total: u64 = weights.iter().sum();
    let classes = || by_weight.chunk_by(|&a, &b| weights[a as usize] == weights[b as usize]);
    let places = |class: &[u32]| {
        let turns = class.len() as u64 * weights[class[0] as usize];
        (0..turns).map(move |turn| ((2 * turn + 1) * total / (2 * turns)) as usize)
    };

    // A counting sort: the turns per place, the start of each place's run, then the turns themselves.
    let mut begin = vec![0_usize; total as usize + 1];
    for place in classes().flat_map(places) {
        begin[place + 1] += 1;
    }
    for place in 1..begin.len() {
        begin[place] += begin[place - 1];
    }
    let mut cycle = vec![0; total as usize];
    for class in classes() {
        for (place, &index) in places(class).zip(class.iter().cycle()) {
            cycle[begin[place]] = index;
            begin[place] += 1;
        }
    }
    cycle
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn cycle(weights: &[u32]) -> String {
        let names = |&index: &u32| char::from(b'A' + index as u8);
        turns_by_weight(weights).turns().iter().map(names).collect()
    }

    #[test]
    fn heavy_endpoints_take_turns_with_light_ones() {
        assert_eq!(cycle(&[1, 1, 3]), "CACBC");
        assert_eq!(cycle(&[10, 10, 30]), "CACBC");
        assert_eq!(cycle(&[5, 1, 1]), "ABAAACA");
        assert_eq!(cycle(&[2, 1]), "ABA");
        assert_eq!(cycle(&[7, 7, 7]), "ABC");
        assert_eq!(cycle(&[0, 3, 0, 3]), "BD");
    }

    /// Every endpoint's turns, against the places that its class and its rank in it entitle it to.
    fn furthest_from_its_ideal_place(weights: &[u64]) -> (f64, usize) {
        let total: u64 = weights.iter().sum();
        let mut classes = BTreeMap::<u64, Vec<u32>>::new();
        for (index, &weight) in (0..).zip(weights).filter(|&(_, &weight)| weight > 0) {
            classes.entry(weight).or_default().push(index);
        }
        let mut taken = vec![0; weights.len()];
        let mut furthest = 0.0_f64;
        for (place, &index) in build_cycle(weights).iter().enumerate() {
            let weight = weights[index as usize];
            let class = &classes[&weight];
            let rank = class.iter().position(|&member| member == index).unwrap();
            let turn = rank + taken[index as usize] * class.len();
            let ideal = (turn as f64 + 0.5) * total as f64 / (class.len() as f64 * weight as f64);
            furthest = furthest.max((place as f64 + 0.5 - ideal).abs());
            taken[index as usize] += 1;
        }
        (furthest, classes.len())
    }

    proptest! {
        #[test]
        fn no_turn_is_far_from_its_ideal_place(weights in prop::collection::vec(0..40_u64, 1..60)) {
            let (furthest, classes) = furthest_from_its_ideal_place(&weights);
            prop_assert!(furthest <= classes as f64 / 2.0 + 1.0, "{furthest} with {classes} classes");
        }

        #[test]
        fn scaling_down_rounds_each_share_to_the_nearest_turn_but_none_to_zero(
            weights in prop::collection::vec(prop_oneof![Just(0), 1..10_u32, 1..=u32::MAX], 1..50),
        ) {
            let weighted = turns_by_weight(&weights);
            let turns = weighted.turns();
            prop_assert!(turns.len() as u64 <= MAX_TURNS + weights.len() as u64);
            let mut counts = vec![0_u64; weights.len()];
            turns.iter().for_each(|&turn| counts[turn as usize] += 1);
            let exact = divide_by_gcd(&weights);
            let total: u64 = exact.iter().sum();
            for (&got, &weight) in counts.iter().zip(&exact) {
                prop_assert_eq!(got > 0, weight > 0);
                let due = if total > MAX_TURNS { weight as f64 / total as f64 * MAX_TURNS as f64 } else { weight as f64 };
                prop_assert!(weight == 0 || (got as f64 - due.max(1.0)).abs() <= 0.5 + 1e-9, "{got} of {due}");
            }
        }
    }

    #[test]
    fn shares_that_fit_are_exact() {
        let turns = |weights| turns_by_weight(weights).turns().len();
        assert_eq!((turns(&[65_535, 1]), turns(&[u32::MAX, u32::MAX])), (65_536, 2));
        let scaled = turns_by_weight(&[131_071, 1]);
        assert_eq!(scaled.turns().iter().filter(|&&turn| turn == 1).count(), 1);
        assert_eq!(scaled.turns().len(), 65_537);
    }

    #[test]
    fn more_endpoints_than_turns_get_one_each() {
        let many: Vec<u32> = (1..=70_000).collect();
        let weighted = turns_by_weight(&many);
        let mut turns = weighted.turns().to_vec();
        turns.sort_unstable();
        turns.dedup();
        assert_eq!(turns.len(), many.len());
    }
}
