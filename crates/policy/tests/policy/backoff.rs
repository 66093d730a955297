//! The pause before a retry: within its ceiling, spread over the whole range, longer each time.

use outrigger_config::RetryPolicy;
use outrigger_policy::Backoff;
use proptest::prelude::*;

use crate::millis;

proptest! {
    #[test]
    fn a_pause_stays_below_a_ceiling_that_doubles(base in 0..5_000_u64, max in 0..60_000_u64, n: u32, random: u64) {
        let backoff = Backoff { base: millis(base), max: millis(max) };
        let ceiling = u128::from(base).saturating_mul(1 << n.min(64)).min(u128::from(max));
        let pause = backoff.pause(n, random);
        prop_assert!(pause.as_nanos() <= ceiling * 1_000_000, "{:?} above {}ms", pause, ceiling);
        prop_assert!(backoff.max_pause(n) <= backoff.max_pause(n.saturating_add(1)));
        let longer = backoff.pause_of_half(n, random);
        prop_assert!(backoff.max_pause(n) / 2 <= longer && longer <= backoff.max_pause(n), "{:?}", longer);
    }

    #[test]
    fn a_pause_takes_its_place_in_the_range_from_the_random_number(n in 0..40_u32, random: u64) {
        let backoff = Backoff { base: millis(25), max: millis(250) };
        let fraction = random as f64 / 2_f64.powi(64);
        let expected = backoff.max_pause(n).as_secs_f64() * fraction;
        prop_assert!((backoff.pause(n, random).as_secs_f64() - expected).abs() < 2e-9);
    }
}

#[test]
fn the_ceilings_of_retries_grow_from_25_to_250_ms() {
    let backoff = Backoff::from(&RetryPolicy::default());
    for (n, ceiling) in
        [(0, 25), (1, 50), (2, 100), (3, 200), (4, 250), (31, 250), (32, 250), (u32::MAX, 250)]
    {
        assert_eq!(backoff.max_pause(n), millis(ceiling), "pause {n}");
        assert_eq!(backoff.pause(n, u64::MAX), millis(ceiling), "pause {n}");
        assert_eq!(backoff.pause(n, 0), millis(0), "pause {n}");
    }
}
