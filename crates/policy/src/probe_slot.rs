//! How long one request may decide for all others before another one may decide as well.
//!
//! The probe of a half-open breaker and the request of a probation keep other requests away until they have
//! a verdict. A slow upload, a long poll or a request that waits in a queue has none for minutes, although
//! the service is well: its slot passes on to the next request after a while. Its own verdict still counts
//! while no other one has decided.
//!
//! The first slot passes on after a second: most responses come earlier, and stall detection takes a longer
//! wait for unusual as well. Each further time is twice as long, so that a service that hangs gets few
//! requests: five within its first half minute. Sixteen seconds are the most, a little longer than the
//! default `timeout`, so that a request that times out still holds its slot then. (Resilience4j has
//! `maxWaitDurationInHalfOpenState` for the same purpose; linkerd2 and Envoy let a request decide for any
//! time.)

use std::time::Duration;

/// The time of the first slot.
pub(crate) const FIRST_SLOT_TIME: Duration = Duration::from_secs(1);
/// The longest time.
const MAX_SLOT_TIME: Duration = Duration::from_secs(16);

/// How long a slot is held, after slots have passed on `passed` times without a verdict.
pub(crate) fn slot_time(passed: u32) -> Duration {
    FIRST_SLOT_TIME.saturating_mul(1_u32.checked_shl(passed).unwrap_or(u32::MAX)).min(MAX_SLOT_TIME)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slot_times_double_up_to_the_longest() {
        let seconds: Vec<u64> = (0..7).map(|passed| slot_time(passed).as_secs()).collect();
        assert_eq!(seconds, [1, 2, 4, 8, 16, 16, 16]);
        assert_eq!(slot_time(u32::MAX), MAX_SLOT_TIME);
    }
}
