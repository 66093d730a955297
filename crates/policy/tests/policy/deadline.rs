//! The end of the app's patience: moved by its own bytes, never past its own deadline.

use std::time::Duration;

use outrigger_policy::Deadline;
use proptest::prelude::*;

use crate::{millis, origin};

proptest! {
    #[test]
    fn it_is_the_later_of_head_and_last_body_byte_plus_the_timeout_up_to_the_cap(
        bytes in prop::collection::vec(0..10_000_u64, 0..10), timeout in 0..20_000_u64,
        cap in prop::option::of(0..20_000_u64),
    ) {
        let accepted = origin();
        let deadline = Deadline::new(accepted, millis(timeout)).capped(cap.map(|cap| accepted + millis(cap)));
        for &byte in &bytes {
            deadline.body_byte(accepted + millis(byte));
        }
        let uncapped = bytes.into_iter().max().unwrap_or(0) + timeout;
        let expected = accepted + millis(cap.map_or(uncapped, |cap| cap.min(uncapped)));
        prop_assert_eq!(deadline.at(), expected);
        prop_assert_eq!(deadline.left(accepted), expected - accepted);
        prop_assert_eq!(deadline.left(expected + millis(1)), Duration::ZERO);
    }
}

#[test]
fn a_byte_seen_before_the_head_was_accepted_moves_nothing() {
    let accepted = origin() + millis(100);
    let deadline = Deadline::new(accepted, millis(5));
    deadline.body_byte(accepted - millis(50));
    assert_eq!(deadline.at(), accepted + millis(5));
}

#[test]
fn of_two_caps_the_earlier_counts_and_no_cap_lifts_none() {
    let accepted = origin();
    let cap = |millis| Some(accepted + crate::millis(millis));
    let deadline = Deadline::new(accepted, millis(1_000)).capped(cap(300)).capped(None).capped(cap(700));
    assert_eq!(deadline.at(), accepted + millis(300));
}

#[test]
fn a_timeout_beyond_all_time_is_only_very_long() {
    let accepted = origin();
    let deadline = Deadline::new(accepted, Duration::MAX);
    deadline.body_byte(accepted + millis(1));
    assert!(deadline.left(accepted) > Duration::from_secs(365 * 24 * 3600));
}
