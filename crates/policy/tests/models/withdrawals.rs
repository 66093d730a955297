//! Retries that are paid for at the same time.

use std::sync::Arc;

use loom::thread;
use outrigger_config::RetryBudget as Settings;

use crate::{SECOND, budget::RetryBudget, check, origin};

/// A retry for each request, and no allowance.
const SETTINGS: Settings = Settings { ratio: 1.0, min_per_second: 0, window: SECOND };

#[test]
fn the_last_retry_is_paid_for_once_at_most() {
    let now = origin();
    check(3, move || {
        let budget = Arc::new(RetryBudget::new(&SETTINGS, now));
        budget.deposit(&SETTINGS, now);
        let other = {
            let budget = Arc::clone(&budget);
            thread::spawn(move || budget.withdraw(&SETTINGS, now))
        };
        let own = budget.withdraw(&SETTINGS, now);
        let paid = u64::from(own) + u64::from(other.join().unwrap());
        assert!(paid <= 1);
        assert_eq!(budget.available(&SETTINGS, now), 1 - paid, "a withdrawal that failed costs nothing");
    });
}

#[test]
fn no_deposit_and_no_withdrawal_is_lost() {
    let now = origin();
    check(3, move || {
        let budget = Arc::new(RetryBudget::new(&SETTINGS, now));
        budget.deposit(&SETTINGS, now);
        let other = {
            let budget = Arc::clone(&budget);
            thread::spawn(move || {
                budget.deposit(&SETTINGS, now);
                budget.withdraw(&SETTINGS, now)
            })
        };
        budget.deposit(&SETTINGS, now);
        let own = budget.withdraw(&SETTINGS, now);
        assert!(own && other.join().unwrap(), "each had paid for its own");
        assert_eq!(budget.available(&SETTINGS, now), 1);
    });
}
