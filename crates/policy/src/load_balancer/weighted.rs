//! In turn, by weight: exact over a cycle, and smooth within it.
//!
//! The weights, divided by their greatest common divisor, are turns per cycle. All turns are laid out
//! once, so that a pick is one read; the usual smooth-weighted recurrence (nginx's) costs a look at
//! every endpoint per pick, or n·W for a whole cycle.
//!
//! **Smooth.** Endpoints of one weight w form a class; m of them have m·w turns, whose ideal places in
//! a cycle of W are (2k+1)·W/(2mw), and take them one after the other. A counting sort by those places
//! is the table. Treating each endpoint by itself would be simpler and put all the light ones on the
//! same ideal place in the middle of the cycle: 1, 1, 3 would become C A B C C rather than C A C B C.
//! Before any place x each class has had within ½ of its due, so with c different weights no turn is
//! further than c/2 + 1 from its ideal place, and c is small: W ≥ c(c+1)/2.
//!
//! **Bounded.** A cycle has at most 65,536 turns (256 KiB), or as many as there are endpoints. Greater
//! weights are scaled down, to no less than one turn each, and the error is published.

use super::{cursor::TurnCounter, cycle::Cycle};

/// Most turns in a cycle whose shares are exact.
const MAX_TURNS: u64 = 65_536;

/// A cycle with turns by weight.
#[derive(Debug)]
pub(super) struct Weighted {
    cycle: Cycle,
    error: f64,
}

impl Weighted {
    pub(super) fn new(weights: &[u32]) -> Self {
        let exact = divide_by_gcd(weights);
        let total: u64 = exact.iter().sum();
        if total <= MAX_TURNS {
            return Self { cycle: Cycle::new(build_cycle(&exact)), error: 0.0 };
        }
        let scaled = scale_down(&exact, total);
        let error = greatest_error(&exact, &scaled);
        Self { cycle: Cycle::new(build_cycle(&scaled)), error }
    }

    pub(super) fn error(&self) -> f64 {
        self.error
    }

    #[inline]
    pub(super) fn pick(
        &self,
        counter: &TurnCounter,
        random: u64,
        ok: impl Fn(usize) -> bool,
    ) -> Option<usize> {
        self.cycle.pick(counter, random, ok)
    }
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

/// Shares of a cycle of about [`MAX_TURNS`], rounded to the nearest; whoever had a share keeps one.
fn scale_down(weights: &[u64], total: u64) -> Vec<u64> {
    let share = |weight: u64| (weight * MAX_TURNS + total / 2) / total;
    weights.iter().map(|&weight| if weight == 0 { 0 } else { share(weight).max(1) }).collect()
}

/// The greatest difference of a share from what it should be, as a part of what it should be.
fn greatest_error(exact: &[u64], scaled: &[u64]) -> f64 {
    let total = |weights: &[u64]| weights.iter().sum::<u64>() as f64;
    let stretch = total(exact) / total(scaled);
    (exact.iter().zip(scaled))
        .filter(|&(&exact, _)| exact > 0)
        .map(|(&exact, &scaled)| (scaled as f64 / exact as f64 * stretch - 1.0).abs())
        .fold(0.0, f64::max)
}

/// The cycle: each endpoint's place as often as its weight says, evenly spread. O(W + n log n).
fn build_cycle(weights: &[u64]) -> Vec<u32> {
    let mut by_weight: Vec<u32> = (0..).take(weights.len()).filter(|&i| weights[i as usize] > 0).collect();
    // Heavy ones first where places are equal, otherwise in their order in the View (a stable sort).
    by_weight.sort_by_key(|&index| std::cmp::Reverse(weights[index as usize]));

    let total: u64 = weights.iter().sum();
    let classes = || by_weight.chunk_by(|&a, &b| weights[a as usize] == weights[b as usize]);
    let places = |class: &[u32]| {
        let turns = class.len() as u64 * weights[class[0] as usize];
        (0..turns).map(move |turn| ((2 * turn + 1) * total / (2 * turns)) as usize)
    };

    // A counting sort: how many turns want a place, where its run begins, then each to its own.
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
        Weighted::new(weights).cycle.turns().iter().map(names).collect()
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
        fn scaling_down_keeps_everyone_and_says_how_much_it_costs(
            weights in prop::collection::vec(prop_oneof![Just(0), 1..10_u32, 1..=u32::MAX], 1..50),
        ) {
            let weighted = Weighted::new(&weights);
            let turns = weighted.cycle.turns();
            prop_assert!(turns.len() as u64 <= MAX_TURNS + weights.len() as u64);
            let total: u64 = weights.iter().map(|&weight| u64::from(weight)).sum();
            let mut error = 0.0_f64;
            for (index, &weight) in (0..).zip(&weights) {
                let got = turns.iter().filter(|&&turn| turn == index).count();
                prop_assert_eq!(got > 0, weight > 0);
                if weight > 0 {
                    let due = f64::from(weight) / total as f64;
                    error = error.max((got as f64 / turns.len() as f64 / due - 1.0).abs());
                }
            }
            prop_assert!((weighted.error() - error).abs() <= 1e-9 * error.max(1.0), "{} {error}", weighted.error());
        }
    }

    #[test]
    fn shares_that_fit_are_exact_and_say_so() {
        assert_eq!(Weighted::new(&[65_535, 1]).error(), 0.0);
        assert_eq!(Weighted::new(&[u32::MAX, u32::MAX]).error(), 0.0);
        assert!(Weighted::new(&[65_536, 1]).error() > 0.0);
    }

    #[test]
    fn more_endpoints_than_turns_get_one_each() {
        let many: Vec<u32> = (1..=70_000).collect();
        let weighted = Weighted::new(&many);
        let mut turns = weighted.cycle.turns().to_vec();
        turns.sort_unstable();
        turns.dedup();
        assert_eq!(turns.len(), many.len());
    }
}
