//! The shares of the endpoints, with many threads and with unusable endpoints.

use std::thread;

use outrigger_config::Balance;
use outrigger_policy::{Cursor, LoadBalancer, LoadMeasure};
use proptest::prelude::*;

const KINDS: [Balance; 5] = Balance::ALL;

/// Any start, often near the end of 64 bits or of 63 bits.
fn start() -> impl Strategy<Value = u64> {
    prop_oneof![
        any::<u64>(),
        (0..200_u64).prop_map(|before| u64::MAX - before),
        (0..200_u64).prop_map(|before| (u64::MAX >> 1).wrapping_sub(100).wrapping_add(before)),
    ]
}

/// The greatest difference between any two endpoints that should be chosen.
fn difference(counts: &[u64], chosen: impl Fn(usize) -> bool) -> u64 {
    let shares = || (0..counts.len()).filter(|&index| chosen(index)).map(|index| counts[index]);
    shares().max().unwrap_or(0) - shares().min().unwrap_or(0)
}

fn pick_on_threads(
    balancer: &LoadBalancer,
    cursor: &Cursor,
    threads: u64,
    picks: u64,
    endpoints: usize,
) -> Vec<u64> {
    let mut counts = vec![0; endpoints];
    thread::scope(|scope| {
        let handles: Vec<_> = (0..threads)
            .map(|_| {
                scope.spawn(|| {
                    let mut counts = vec![0; endpoints];
                    for _ in 0..picks {
                        counts[balancer.pick_first(cursor, 0, |_| true).unwrap()] += 1;
                    }
                    counts
                })
            })
            .collect();
        for handle in handles {
            for (total, count) in counts.iter_mut().zip(handle.join().unwrap()) {
                *total += count;
            }
        }
    });
    counts
}

proptest! {
    #[test]
    fn round_robin_never_differs_by_more_than_one(
        weights in prop::collection::vec(0..3_u32, 1..40), start in start(), picks in 0..300_usize,
    ) {
        let balancer = LoadBalancer::new(Balance::RoundRobin, &weights);
        let cursor = Cursor::new(start);
        let mut counts = vec![0; weights.len()];
        for _ in 0..picks {
            match balancer.pick_first(&cursor, 0, |_| true) {
                Some(index) => counts[index] += 1,
                None => prop_assert!(weights.iter().all(|&weight| weight == 0)),
            }
            prop_assert!(difference(&counts, |index| weights[index] > 0) <= 1, "{counts:?}");
            prop_assert!((0..counts.len()).all(|index| weights[index] > 0 || counts[index] == 0));
        }
    }

    #[test]
    fn the_turns_of_an_unusable_endpoint_are_shared_by_all_others(
        good in prop::collection::vec(any::<bool>(), 1..30), start in start(), random: u64,
    ) {
        let balancer = LoadBalancer::new(Balance::RoundRobin, &vec![1; good.len()]);
        let cursor = Cursor::new(start);
        let mut counts = vec![0; good.len()];
        for _ in 0..100 {
            match balancer.pick_first(&cursor, random, |index| good[index]) {
                Some(index) => counts[index] += 1,
                None => prop_assert!(!good.contains(&true)),
            }
            prop_assert!(difference(&counts, |index| good[index]) <= 1, "{counts:?}");
        }
    }

    #[test]
    fn retries_do_not_change_the_order_of_first_picks(
        endpoints in 1..20_usize, start in start(), retried in prop::collection::vec(any::<bool>(), 1..100),
    ) {
        let balancer = LoadBalancer::new(Balance::RoundRobin, &vec![1; endpoints]);
        let (cursor, undisturbed) = (Cursor::new(start), Cursor::new(start));
        for retry in retried {
            let first = balancer.pick_first(&cursor, 0, |_| true);
            prop_assert_eq!(first, balancer.pick_first(&undisturbed, 0, |_| true));
            if retry {
                let second = balancer.pick_retry(&cursor, 0, |index| Some(index) != first);
                prop_assert!(second != first && second.is_some() == (endpoints > 1));
            }
        }
    }

    #[test]
    fn weighted_is_exact_over_a_cycle(
        weights in prop::collection::vec(0..30_u32, 1..30), factor in 1..1000_u32, start in start(),
    ) {
        let scaled: Vec<u32> = weights.iter().map(|weight| weight * factor).collect();
        let balancer = LoadBalancer::new(Balance::Weighted, &scaled);
        let cursor = Cursor::new(start);
        let mut counts = vec![0; weights.len()];
        for _ in 0..weights.iter().sum() {
            counts[balancer.pick_first(&cursor, 0, |_| true).unwrap()] += 1;
        }
        prop_assert_eq!(counts, weights);
    }

    #[test]
    fn weighted_shares_stay_exact_around_an_unusable_endpoint(
        mut weights in prop::collection::vec(1..20_u32, 2..12), bad in any::<prop::sample::Index>(), start in start(),
    ) {
        let bad = bad.index(weights.len());
        let balancer = LoadBalancer::new(Balance::Weighted, &weights);
        let common = weights.iter().fold(0, |a, &b| gcd(a, b));
        weights[bad] = 0;
        let due: Vec<u32> = weights.iter().map(|weight| weight / common).collect();

        let cursor = Cursor::new(start);
        let mut counts = vec![0; weights.len()];
        for _ in 0..due.iter().sum() {
            counts[balancer.pick_first(&cursor, 0, |index| index != bad).unwrap()] += 1;
        }
        prop_assert_eq!(counts, due);
    }

    #[test]
    fn an_endpoint_is_found_exactly_when_one_is_usable(
        weights in prop::collection::vec(0..5_u32, 0..30), good in prop::collection::vec(any::<bool>(), 30),
        start in start(), random: u64,
    ) {
        let ok = |index: usize| good[index];
        let possible = (0..weights.len()).any(|index| weights[index] > 0 && ok(index));
        for kind in KINDS {
            let balancer = LoadBalancer::new(kind, &weights);
            let cursor = Cursor::new(start);
            for found in [balancer.pick_first(&cursor, random, ok), balancer.pick_retry(&cursor, random, ok)] {
                prop_assert_eq!(found.is_some(), possible, "{:?}", kind);
                prop_assert!(found.is_none_or(|index| weights[index] > 0 && ok(index)));
            }
        }
    }

    #[test]
    fn a_new_view_continues_at_the_cursor(endpoints in 1..20_usize, start in start(), before in 0..50) {
        let cursor = Cursor::new(start);
        let mut counts = vec![0; endpoints];
        for pick in 0..before + 30 {
            // A new View for each pick: a registry that repeats its answer.
            let balancer = LoadBalancer::new(Balance::RoundRobin, &vec![pick as u32 + 1; endpoints]);
            counts[balancer.pick_first(&cursor, 0, |_| true).unwrap()] += 1;
            prop_assert!(difference(&counts, |_| true) <= 1);
        }
    }
}

fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[test]
fn round_robin_differs_by_at_most_one_with_many_threads() {
    for (endpoints, start) in [(1, 0), (3, u64::MAX), (7, u64::MAX >> 1), (10_000, 12_345)] {
        let balancer = LoadBalancer::new(Balance::RoundRobin, &vec![1; endpoints]);
        let counts = pick_on_threads(&balancer, &Cursor::new(start), 4, 10_001, endpoints);
        assert_eq!(counts.iter().sum::<u64>(), 40_004);
        assert!(difference(&counts, |_| true) <= 1, "{endpoints} endpoints");
    }
}

#[test]
fn weighted_is_exact_over_a_cycle_with_many_threads() {
    let weights = [10, 1, 5, 0, 4];
    let balancer = LoadBalancer::new(Balance::Weighted, &weights);
    let counts = pick_on_threads(&balancer, &Cursor::new(77), 4, 5_000, weights.len());
    assert_eq!(counts, weights.map(|weight| u64::from(weight) * 1_000));
}

/// Pearson's statistic for `picks` with equal shares, each pick with its own random number.
fn chi_square(endpoints: usize, ok: impl Fn(usize) -> bool, picks: u32) -> f64 {
    let balancer = LoadBalancer::new(Balance::Random, &vec![9; endpoints]);
    let cursor = Cursor::new(0);
    let mut random = fastrand::Rng::with_seed(7);
    let mut counts = vec![0_u32; endpoints];
    for pick in 0..picks {
        let random = random.u64(..);
        let index = if pick % 2 == 0 {
            balancer.pick_first(&cursor, random, &ok)
        } else {
            balancer.pick_retry(&cursor, random, &ok)
        };
        counts[index.unwrap()] += 1;
    }
    let chosen = (0..endpoints).filter(|&index| ok(index)).count();
    let expected = f64::from(picks) / chosen as f64;
    (0..endpoints)
        .filter(|&index| ok(index))
        .map(|index| (f64::from(counts[index]) - expected).powi(2) / expected)
        .sum()
}

#[test]
fn random_is_uniform() {
    // The 99.9 % quantiles for 9 and for 99 degrees of freedom.
    assert!(chi_square(10, |_| true, 100_000) < 27.88);
    assert!(chi_square(100, |_| true, 100_000) < 148.2);
}

#[test]
fn random_is_uniform_over_the_usable_endpoints() {
    // The 99.9 % quantiles for 6 and for 1 degrees of freedom.
    assert!(chi_square(10, |index| ![0, 4, 8].contains(&index), 100_000) < 22.46);
    assert!(chi_square(4, |index| index % 2 == 0, 100_000) < 10.83);
}

#[test]
fn nothing_is_chosen_from_an_empty_view() {
    for kind in KINDS {
        for weights in [&[][..], &[0, 0]] {
            let balancer = LoadBalancer::new(kind, weights);
            assert_eq!(balancer.pick_first(&Cursor::new(5), 5, |_| true), None);
        }
    }
}

proptest! {
    #[test]
    fn of_two_endpoints_the_one_with_less_load_for_its_weight_is_picked(
        weights in prop::collection::vec(1..1000_u32, 2), loads in prop::collection::vec(0..1000_u64, 2), random: u64,
    ) {
        let balancer = LoadBalancer::new(Balance::LeastRequest, &weights);
        let scaled = |at: usize| (loads[at] + 1) * u64::from(weights[1 - at]);
        let picked = balancer.pick_first_by(&Cursor::new(0), random, |_| true, |at, measure| {
            assert_eq!(measure, LoadMeasure::InFlight);
            loads[at]
        });
        let picked = picked.unwrap();
        prop_assert!(scaled(picked) <= scaled(1 - picked), "{picked}");
    }
}

/// The share of each endpoint in 20,000 picks with these loads.
fn shares(balance: Balance, weights: &[u32], loads: &[u64]) -> Vec<f64> {
    let balancer = LoadBalancer::new(balance, weights);
    let mut random = fastrand::Rng::with_seed(11);
    let mut counts = vec![0_u32; weights.len()];
    for _ in 0..20_000 {
        let random = random.u64(..);
        counts[balancer.pick_first_by(&Cursor::new(0), random, |_| true, |at, _| loads[at]).unwrap()] += 1;
    }
    counts.into_iter().map(|count| f64::from(count) / 20_000.0).collect()
}

#[test]
fn with_loads_by_weight_the_shares_are_by_weight_and_a_loaded_endpoint_gets_few() {
    let near = |found: &[f64], expected: &[f64]| {
        found.iter().zip(expected).all(|(found, expected)| (found - expected).abs() < 0.02)
    };
    // Load + 1 in proportion to the weights.
    let even = shares(Balance::LeastRequest, &[1, 2, 1], &[9, 19, 9]);
    assert!(near(&even, &[0.25, 0.5, 0.25]), "{even:?}");
    // The loaded one of ten is picked when it is drawn twice alone, which never happens, so not at all.
    let mut loads = [1; 10];
    loads[3] = 100;
    assert_eq!(shares(Balance::LeastRequest, &[1; 10], &loads)[3], 0.0);
    // Its floor of exploration: one pick in twenty goes by the draw alone.
    let explored = shares(Balance::PeakEwma, &[1; 10], &loads)[3];
    assert!((0.003..0.008).contains(&explored), "{explored}");
}
