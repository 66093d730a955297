//! How many connections the watches may use while the agent takes no more of this address. Pure: `now` is an argument.
//!
//! An agent takes 200 connections of one address (`limits.http_max_conns_per_client`), and all sidecars of a host share them.
//! A sidecar cannot ask how many are left. It finds out by a connection that is refused, and the numbers of all sidecars
//! approach each other as those of TCP senders on one line do (additive increase, multiplicative decrease):
//!
//! - A watch that gets no connection gives up its slot, and the others wait less long, so that all watches take turns.
//! - A refusal of anything else (a call to the agent, or a connection that was to replace an older one) takes a quarter of
//!   the slots away, at most once in [`SHRINK_INTERVAL`]. So sidecars with many connections leave room for one that has none.
//! - While watches wait for a slot and none was refused for [`GROW_INTERVAL`], an eighth is added.

use std::time::Duration;

use tokio::time::Instant;

/// Least time between two losses of a quarter: several refusals at one moment are one event.
const SHRINK_INTERVAL: Duration = Duration::from_secs(3);
/// Time without a refusal before slots are added, and between two additions.
const GROW_INTERVAL: Duration = Duration::from_secs(10);
/// How long a refusal keeps waits short.
const PRESSED_FOR: Duration = Duration::from_secs(60);
/// Least time between two warnings.
const WARN_INTERVAL: Duration = Duration::from_secs(600);

/// What had no connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refused {
    /// A watch with a slot.
    Watch,
    /// Anything else.
    Other,
}

/// The slots of the watches, and when a connection was refused.
#[derive(Debug)]
pub(super) struct Pressure {
    /// The most slots: the setting.
    most: usize,
    /// The slots now; at least 1.
    slots: usize,
    refused_at: Option<Instant>,
    shrunk_at: Option<Instant>,
    grown_at: Option<Instant>,
    warned_at: Option<Instant>,
}

impl Pressure {
    pub(super) fn new(most: usize) -> Self {
        Self { most, slots: most, refused_at: None, shrunk_at: None, grown_at: None, warned_at: None }
    }

    /// The slots now.
    pub(super) fn slots(&self) -> usize {
        self.slots
    }

    /// Records a refused connection while `in_use` slots are in use. Returns how many slots are taken away.
    pub(super) fn record_refusal(&mut self, refused: Refused, in_use: usize, now: Instant) -> usize {
        self.refused_at = Some(now);
        let used = self.slots.min(in_use);
        let left = match refused {
            Refused::Watch => used.saturating_sub(1),
            Refused::Other if is_within(self.shrunk_at, SHRINK_INTERVAL, now) => return 0,
            Refused::Other => {
                self.shrunk_at = Some(now);
                used - used.div_ceil(4)
            }
        };
        let before = self.slots;
        self.slots = left.max(1).min(before);
        before - self.slots
    }

    /// How many slots are added now, because watches wait for one.
    pub(super) fn grow(&mut self, now: Instant) -> usize {
        let last = self.refused_at.max(self.grown_at);
        if self.slots == self.most || is_within(last, GROW_INTERVAL, now) {
            return 0;
        }
        self.grown_at = Some(now);
        let added = self.slots.div_ceil(8).min(self.most - self.slots);
        self.slots += added;
        added
    }

    /// Whether a connection was refused lately: waits are short then, so that connections come free often.
    pub(super) fn is_pressed(&self, now: Instant) -> bool {
        is_within(self.refused_at, PRESSED_FOR, now)
    }

    /// Whether the refusal at `now` is to be logged.
    pub(super) fn is_worth_a_warning(&mut self, now: Instant) -> bool {
        let is_due = !is_within(self.warned_at, WARN_INTERVAL, now);
        if is_due {
            self.warned_at = Some(now);
        }
        is_due
    }
}

/// Whether it happened, less than `time` ago.
fn is_within(happened_at: Option<Instant>, time: Duration, now: Instant) -> bool {
    happened_at.is_some_and(|at| now.saturating_duration_since(at) < time)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn after(start: Instant, seconds: u64) -> Instant {
        start + Duration::from_secs(seconds)
    }

    #[test]
    fn a_watch_without_a_connection_gives_up_its_slot() {
        let (mut pressure, now) = (Pressure::new(86), Instant::now());
        // Eight watches have a slot, and three of them get no connection.
        for (in_use, slots) in [(8, 7), (7, 6), (6, 5)] {
            pressure.record_refusal(Refused::Watch, in_use, now);
            assert_eq!(pressure.slots(), slots);
        }
        assert!(pressure.is_pressed(now) && !pressure.is_pressed(after(now, 60)));
    }

    #[test]
    fn another_refusal_takes_a_quarter_away_once_in_three_seconds() {
        let (mut pressure, now) = (Pressure::new(86), Instant::now());
        assert_eq!(pressure.record_refusal(Refused::Other, 8, now), 80);
        assert_eq!((pressure.slots(), pressure.record_refusal(Refused::Other, 6, now)), (6, 0));
        pressure.record_refusal(Refused::Other, 6, after(now, 3));
        assert_eq!(pressure.slots(), 4);
        for second in 4..30 {
            pressure.record_refusal(Refused::Other, 4, after(now, second));
        }
        assert_eq!(pressure.slots(), 1, "one watch at a time always gets a turn");
    }

    #[test]
    fn slots_are_added_while_none_is_refused() {
        let (mut pressure, now) = (Pressure::new(20), Instant::now());
        assert_eq!(pressure.grow(now), 0, "all are there");
        pressure.record_refusal(Refused::Watch, 9, now);
        assert_eq!(pressure.grow(after(now, 9)), 0);
        assert_eq!((pressure.grow(after(now, 10)), pressure.grow(after(now, 11))), (1, 0));
        let grown: usize = (2..20).map(|tens| pressure.grow(after(now, tens * 10))).sum();
        assert_eq!((grown, pressure.slots()), (11, 20));
    }

    #[test]
    fn a_warning_is_logged_once_in_ten_minutes() {
        let (mut pressure, now) = (Pressure::new(20), Instant::now());
        let worth: Vec<_> =
            [0, 1, 599, 600, 601].map(|second| pressure.is_worth_a_warning(after(now, second))).to_vec();
        assert_eq!(worth, [true, false, false, true, false]);
    }

    proptest! {
        #[test]
        fn the_slots_stay_between_1_and_the_setting(
            most in 1_usize..200,
            events in proptest::collection::vec((0_u64..30, 0_usize..200, 0..3), 0..100),
        ) {
            let (mut pressure, mut now) = (Pressure::new(most), Instant::now());
            for (seconds, in_use, kind) in events {
                now = after(now, seconds);
                let before = pressure.slots();
                let (taken, added) = match kind {
                    0 => (pressure.record_refusal(Refused::Watch, in_use, now), 0),
                    1 => (pressure.record_refusal(Refused::Other, in_use, now), 0),
                    _ => (0, pressure.grow(now)),
                };
                prop_assert_eq!(pressure.slots(), before + added - taken);
                prop_assert!((1..=most).contains(&pressure.slots()));
            }
        }
    }
}
