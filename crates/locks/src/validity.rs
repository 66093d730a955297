//! Until when a session holds for certain, and when to renew it. Pure: times are arguments, of a clock that counts while the machine is
//! suspended.
//!
//! Consul ends a session no earlier than its time to live after the last renewal that it has answered (it waits twice that
//! time). When the renewal reached it is not known here; that it was not before it was sent is. So the session is certain
//! for its time to live from the moment before it was sent.

use std::time::Duration;

/// Time between two renewals where the last one failed.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// The certain time of one session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Validity {
    ttl: Duration,
    /// When the last renewal that was answered was sent.
    renewed_at: Duration,
    next_renewal: Duration,
}

impl Validity {
    /// A session that was opened or renewed by a request that was sent at `sent_at`.
    pub(crate) fn new(ttl: Duration, sent_at: Duration) -> Self {
        Self { ttl, renewed_at: sent_at, next_renewal: sent_at + ttl / 3 }
    }

    /// The time to live of the session.
    pub(crate) fn ttl(&self) -> Duration {
        self.ttl
    }

    /// When the last renewal that was answered was sent: the registry ends the session a time to live later at the earliest.
    pub(crate) fn renewed_at(&self) -> Duration {
        self.renewed_at
    }

    /// How much earlier than the registry the session ends here: for the way of the news to the app. A tenth of the time to live, between
    /// half a second and five seconds.
    fn margin(&self) -> Duration {
        (self.ttl / 10).clamp(Duration::from_millis(500), Duration::from_secs(5))
    }

    /// The session holds for certain before this time.
    pub(crate) fn ends_at(&self) -> Duration {
        self.renewed_at + self.ttl.saturating_sub(self.margin())
    }

    /// Whether it holds for certain at `now`.
    pub(crate) fn holds(&self, now: Duration) -> bool {
        now < self.ends_at()
    }

    /// Whether the renewal that was due is not answered at `now`, a second later.
    pub(crate) fn is_overdue(&self, now: Duration) -> bool {
        now >= self.renewed_at + self.ttl / 3 + RETRY_INTERVAL
    }

    /// When to renew it.
    pub(crate) fn next_renewal(&self) -> Duration {
        self.next_renewal
    }

    /// A renewal that was sent at `sent_at` has succeeded. Answers may come in another order than requests were sent.
    pub(crate) fn record_success(&mut self, sent_at: Duration) {
        self.renewed_at = self.renewed_at.max(sent_at);
        self.next_renewal = self.renewed_at + self.ttl / 3;
    }

    /// A renewal has failed at `now`, without an answer of the registry about the session.
    pub(crate) fn record_failure(&mut self, now: Duration) {
        self.next_renewal = now + RETRY_INTERVAL.min(self.ttl / 10);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_session_is_renewed_after_a_third_of_its_time_and_certain_until_a_tenth_before_its_end() {
        let mut validity = Validity::new(s(30), s(100));
        assert_eq!((validity.next_renewal(), validity.ends_at()), (s(110), s(127)));
        assert!(validity.holds(s(126)) && !validity.holds(s(127)));
        assert!(!validity.is_overdue(Duration::from_millis(110_999)) && validity.is_overdue(s(111)));
        validity.record_failure(s(111));
        assert_eq!((validity.next_renewal(), validity.ends_at()), (s(112), s(127)));
        validity.record_success(s(112));
        assert_eq!((validity.next_renewal(), validity.ends_at()), (s(122), s(139)));
        // The answer to an earlier request.
        validity.record_success(s(110));
        assert_eq!(validity.ends_at(), s(139));
    }

    proptest! {
        /// The registry ends the session when `ttl` has passed since a renewal reached it, which is not before it was sent.
        #[test]
        fn a_session_never_holds_here_after_the_registry_may_have_ended_it(
            ttl in 10_u64..3600,
            steps in prop::collection::vec((0_u64..40_000, 0_u64..20_000, any::<bool>()), 0..40),
        ) {
            let ttl = s(ttl);
            let mut now = s(1);
            let mut validity = Validity::new(ttl, now);
            // When the last renewal reached the registry.
            let mut reached = now;
            for (pause, delay, succeeds) in steps {
                now += Duration::from_millis(pause);
                let sent_at = now;
                now += Duration::from_millis(delay);
                if succeeds {
                    reached = reached.max(sent_at);
                    validity.record_success(sent_at);
                } else {
                    validity.record_failure(now);
                }
                prop_assert!(validity.ends_at() + Duration::from_millis(500) <= reached + ttl);
                prop_assert!(validity.next_renewal() >= sent_at);
            }
        }
    }
}
