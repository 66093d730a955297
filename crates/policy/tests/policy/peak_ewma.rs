//! The average of response times that rises at once and falls slowly.

use std::time::Duration;

use outrigger_policy::PeakEwma;

use crate::origin as now;

const DECAY: Duration = Duration::from_secs(10);
const MS: Duration = Duration::from_millis(1);

#[test]
fn a_slow_response_counts_at_once_and_is_forgiven_over_seconds() {
    let now = now();
    let ewma = PeakEwma::new(now);
    assert_eq!(ewma.load(0, now), 30_000);
    assert_eq!(ewma.load(3, now), 120_000);
    ewma.record(500 * MS, now);
    assert_eq!(ewma.load(0, now), 500_000);
    let later = now + DECAY;
    assert!((200_000..205_000).contains(&ewma.load(0, later)), "{}", ewma.load(0, later));
    ewma.record(2 * MS, later);
    assert!((180_000..190_000).contains(&ewma.load(0, later)), "{}", ewma.load(0, later));
    // Without a response it goes back to the assumption.
    assert!(ewma.load(0, later + 20 * DECAY) <= 30_001);
}

#[test]
fn a_fast_endpoint_keeps_what_was_measured() {
    let now = now();
    let ewma = PeakEwma::new(now);
    for n in 0..1000 {
        ewma.record(2 * MS, now + n * 100 * MS);
    }
    let last = now + 999 * 100 * MS;
    assert!(ewma.load(0, last) < 2_200, "{}", ewma.load(0, last));
    assert!(ewma.load(0, last + 100 * DECAY) < 2_200);
}
