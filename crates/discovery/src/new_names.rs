//! Limits how often a name that no configuration declares is asked for the first time. Pure: `now` is an argument.
//!
//! Each new name is a question to the registry. Without a limit, an app that makes names up would
//! ask the registry at the rate of its requests: a name that has left the quota for another one is new again.

use std::time::{Duration, Instant};

/// New names at once, after a time without any: as many services as are watched by default. The first requests of an app to all its
/// services come together.
const BURST: usize = 256;

/// A token bucket, as a generic cell rate algorithm (ITU-T I.371): one time instead of a count and its last change.
#[derive(Debug)]
pub(crate) struct NewNames {
    /// When the bucket is full again.
    full_at: Instant,
}

impl NewNames {
    /// A full bucket.
    pub(crate) fn new(now: Instant) -> Self {
        Self { full_at: now }
    }

    /// Takes a token. `Some`: how long the name is to wait for it, in the order in which names ask; `None`: longer than
    /// `longest_wait`, and nothing is taken. `per_second` come back each second, at least one; the bucket holds [`BURST`], or as many
    /// as `max_services` where that is more.
    pub(crate) fn take(
        &mut self,
        per_second: usize,
        max_services: usize,
        longest_wait: Duration,
        now: Instant,
    ) -> Option<Duration> {
        let interval = Duration::from_secs(1) / u32::try_from(per_second.max(1)).unwrap_or(u32::MAX);
        let burst = u32::try_from(BURST.max(max_services)).unwrap_or(u32::MAX);
        let full_at = self.full_at.max(now) + interval;
        let wait = full_at.saturating_duration_since(now).saturating_sub(interval.saturating_mul(burst));
        if wait > longest_wait {
            return None;
        }
        self.full_at = full_at;
        Some(wait)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(
        names: &mut NewNames,
        asked: usize,
        (per_second, max_services): (usize, usize),
        now: Instant,
    ) -> usize {
        (0..asked).filter(|_| names.take(per_second, max_services, Duration::ZERO, now).is_some()).count()
    }

    #[test]
    fn a_burst_is_taken_at_once_and_then_the_rate() {
        let start = crate::clock::now();
        for (settings, burst) in [((10, 4), BURST), ((10, 256), BURST), ((10, 300), 300), ((1, 1000), 1000)] {
            let mut names = NewNames::new(start);
            assert_eq!(taken(&mut names, 10_000, settings, start), burst, "{settings:?}");
            let later = start + Duration::from_secs(3);
            assert_eq!(taken(&mut names, 10_000, settings, later), 3 * settings.0, "{settings:?}");
            let much_later = start + Duration::from_secs(3600);
            assert_eq!(taken(&mut names, 10_000, settings, much_later), burst, "{settings:?}");
        }
    }

    #[test]
    fn without_a_token_names_wait_in_turn_and_those_beyond_the_longest_wait_take_none() {
        let start = crate::clock::now();
        let mut names = NewNames::new(start);
        assert_eq!(taken(&mut names, 1000, (10, 1), start), BURST);
        let longest = Duration::from_millis(350);
        let mut ask = |now| names.take(10, 1, longest, now).map(|wait| wait.as_millis());
        assert_eq!([(); 5].map(|()| ask(start)), [Some(100), Some(200), Some(300), None, None]);
        let later = start + Duration::from_millis(100);
        assert_eq!([(); 2].map(|()| ask(later)), [Some(300), None], "one has had its turn");
        assert_eq!(ask(start + Duration::from_secs(1)), Some(0));
    }

    #[test]
    fn a_changed_rate_holds_from_the_next_name_on() {
        let start = crate::clock::now();
        let mut names = NewNames::new(start);
        assert_eq!(taken(&mut names, 1000, (1, 1), start), BURST);
        let later = start + Duration::from_secs(1);
        assert!(taken(&mut names, 1000, (1, 1), later) == 1 && taken(&mut names, 1000, (1, 1), later) == 0);
        // The bucket of the greater rate is smaller in time.
        let later = start + Duration::from_secs(BURST as u64 * 2);
        assert_eq!(taken(&mut names, 1000, (100, 1), later), BURST);
    }
}
