//! Percentiles of recent response times: their precision, their expiry, and the least number of samples.

use std::time::Duration;

use outrigger_policy::LatencyHistogram;
use proptest::prelude::*;

use crate::{millis, origin};

proptest! {
    #[test]
    fn a_percentile_is_never_too_short_and_at_most_an_eighth_too_long(
        micros in prop::collection::vec(1..20_000_000_u64, 20..300), share in 0.5..0.999_f64,
    ) {
        let now = origin();
        let latency = LatencyHistogram::new(now);
        for &one in &micros {
            latency.record(Duration::from_micros(one), now);
        }
        let mut sorted = micros;
        sorted.sort_unstable();
        let rank = (sorted.len() as f64 * share).ceil() as usize;
        let exact = sorted[rank - 1];
        let got = latency.percentile(share, now).unwrap().as_micros() as u64;
        prop_assert!(got > exact && got <= exact + exact / 8 + 1, "{got} for {exact}");
    }
}

#[test]
fn too_few_responses_have_no_percentile() {
    let now = origin();
    let latency = LatencyHistogram::new(now);
    for n in 0..19 {
        latency.record(millis(n), now);
    }
    assert_eq!(latency.percentile(0.95, now), None);
    latency.record(millis(20), now);
    assert!(latency.percentile(0.95, now + millis(100)).is_some());
}

#[test]
fn what_is_older_than_two_periods_is_forgotten() {
    let now = origin();
    let latency = LatencyHistogram::new(now);
    let record = |took, at| (0..100).for_each(|_| latency.record(millis(took), now + millis(at)));
    record(900, 0);
    record(10, 10_500);
    let at = |at| latency.percentile(0.95, now + millis(at));
    assert!(at(11_000).unwrap() > millis(900));
    record(10, 20_500);
    assert!(at(21_000).unwrap() < millis(20));
    assert_eq!(at(60_000), None);
}

#[test]
fn a_duration_beyond_the_last_bucket_counts_as_the_longest() {
    let now = origin();
    let latency = LatencyHistogram::new(now);
    (0..20).for_each(|_| latency.record(Duration::MAX, now));
    assert!(latency.percentile(0.5, now).unwrap() > Duration::from_secs(60));
}

#[test]
fn two_shares_at_the_same_moment_have_their_own_percentiles() {
    let now = origin();
    let latency = LatencyHistogram::new(now);
    (0..50).for_each(|_| latency.record(millis(10), now));
    (0..50).for_each(|_| latency.record(millis(900), now));
    for _ in 0..2 {
        assert!(latency.percentile(0.5, now).unwrap() < millis(20));
        assert!(latency.percentile(0.95, now).unwrap() > millis(900));
    }
}
