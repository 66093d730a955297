//! The retry budget, against a model that keeps every event in a list.

use std::{thread, time::Duration};

use outrigger_config::RetryBudget as Settings;
use outrigger_policy::RetryBudget;
use proptest::prelude::*;

use crate::{millis, origin};

/// In hundred-thousandths of a retry, so that percents and milliseconds are whole numbers.
struct BudgetModel {
    percent: u64,
    min_per_second: u64,
    window: u64,
    requests: Vec<u64>,
    retries: Vec<u64>,
}

impl BudgetModel {
    const RETRY: u64 = 100_000;

    fn available(&self, now: u64) -> u64 {
        let width = self.window / 10;
        let within =
            |events: &[u64]| events.iter().filter(|&&at| at / width + 10 > now / width).count() as u64;
        let earned = within(&self.requests) * self.percent * Self::RETRY / 100
            + self.min_per_second * self.window * 100;
        earned.saturating_sub(within(&self.retries) * Self::RETRY) / Self::RETRY
    }
}

#[derive(Debug, Clone)]
enum BudgetEvent {
    Pass(u64),
    Requests(u8),
    Retry,
    /// The oldest retry that was not refunded was not made.
    Refund,
}

fn events() -> impl Strategy<Value = Vec<BudgetEvent>> {
    let event = prop_oneof![
        2 => (0..3_000_u64).prop_map(BudgetEvent::Pass),
        1 => (10_000..100_000_u64).prop_map(BudgetEvent::Pass),
        4 => any::<u8>().prop_map(BudgetEvent::Requests),
        8 => Just(BudgetEvent::Retry),
        2 => Just(BudgetEvent::Refund),
    ];
    prop::collection::vec(event, 0..300)
}

proptest! {
    #[test]
    fn it_allows_what_a_list_of_all_events_would_allow(
        percent in 0..=100_u64, min_per_second in 0..4_u64, tenths in 1..60_u64, events in events(),
    ) {
        let window = tenths * 1_000;
        let settings = Settings {
            ratio: percent as f64 / 100.0, min_per_second: min_per_second as u32, window: millis(window),
        };
        let mut model = BudgetModel { percent, min_per_second, window, requests: vec![], retries: vec![] };
        let (start, mut now) = (origin(), 0);
        let budget = RetryBudget::new(&settings, start);
        for event in events {
            match event {
                BudgetEvent::Pass(millis) => now += millis,
                BudgetEvent::Requests(count) => for _ in 0..count {
                    budget.deposit(&settings, start + millis(now));
                    model.requests.push(now);
                },
                BudgetEvent::Retry => {
                    let allowed = model.available(now) > 0;
                    prop_assert_eq!(budget.withdraw(&settings, start + millis(now)), allowed);
                    if allowed {
                        model.retries.push(now);
                    }
                }
                BudgetEvent::Refund => if !model.retries.is_empty() {
                    budget.refund(start + millis(model.retries.remove(0)), start + millis(now));
                },
            }
            prop_assert_eq!(budget.available(&settings, start + millis(now)), model.available(now));
        }
    }

    #[test]
    fn a_clock_that_steps_back_is_no_reason_to_panic_or_to_lose_count(steps in prop::collection::vec(0..2_000_u64, 1..100)) {
        let settings = Settings { ratio: 1.0, min_per_second: 0, window: Duration::from_secs(60) };
        let start = origin() + Duration::from_secs(1);
        let budget = RetryBudget::new(&settings, start);
        for &step in &steps {
            // From a second before its beginning to a second after it.
            budget.deposit(&settings, start + millis(step) - Duration::from_secs(1));
        }
        prop_assert_eq!(budget.available(&settings, start), steps.len() as u64);
    }
}

fn spent(settings: Settings, requests: u64) -> u64 {
    let now = origin();
    let budget = RetryBudget::new(&settings, now);
    (0..requests).for_each(|_| budget.deposit(&settings, now));
    (0..).take_while(|_| budget.withdraw(&settings, now)).count() as u64
}

#[test]
fn by_default_it_is_a_fifth_of_the_requests_and_a_hundred_in_ten_seconds() {
    assert_eq!(spent(Settings::default(), 0), 100);
    assert_eq!(spent(Settings::default(), 1_000), 300);
}

#[test]
fn tenths_of_a_percent_are_exact() {
    for thousandths in 0..=1_000_u32 {
        let ratio = f64::from(thousandths) / 1_000.0;
        let settings = Settings { ratio, min_per_second: 0, window: Duration::from_secs(10) };
        assert_eq!(spent(settings, 1_000), u64::from(thousandths), "{ratio}");
    }
}

#[test]
fn deposits_expire_after_the_window() {
    let now = origin();
    let settings = Settings { ratio: 1.0, min_per_second: 0, window: Duration::from_secs(10) };
    let budget = RetryBudget::new(&settings, now);
    budget.deposit(&settings, now);
    assert_eq!(budget.available(&settings, now + millis(9_999)), 1);
    assert_eq!(budget.available(&settings, now + millis(10_000)), 0);
    assert_eq!(budget.available(&settings, now + Duration::from_secs(86_400)), 0);
}

#[test]
fn threads_together_never_spend_more_than_there_is_and_lose_no_deposit() {
    let now = origin();
    let settings = Settings { ratio: 0.5, min_per_second: 0, window: Duration::from_secs(10) };
    let budget = RetryBudget::new(&settings, now);
    let spend = || (0..5_000).filter(|_| budget.withdraw(&settings, now)).count() as u64;
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| (0..5_000).for_each(|_| budget.deposit(&settings, now)));
        }
    });
    assert_eq!(budget.available(&settings, now), 10_000);
    let spent: u64 = thread::scope(|scope| {
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(spend)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    // Two concurrent withdrawals may both fail at the last retry; a later one succeeds.
    assert!(spent <= 10_000);
    assert_eq!(budget.available(&settings, now), 10_000 - spent);
}

#[test]
fn deposits_count_with_the_new_settings() {
    let now = origin();
    let settings = Settings { ratio: 0.1, min_per_second: 0, window: Duration::from_secs(10) };
    let budget = RetryBudget::new(&settings, now);
    (0..100).for_each(|_| budget.deposit(&settings, now));
    assert!(budget.withdraw(&settings, now));
    let settings = Settings { ratio: 0.2, min_per_second: 1, ..settings };
    assert_eq!(budget.available(&settings, now), 20 + 10 - 1);
    let settings = Settings { window: Duration::from_secs(20), ..settings };
    assert_eq!(budget.available(&settings, now), 20, "another window begins with its reserve");
}

#[test]
fn another_window_empties_the_deposits_and_the_withdrawals() {
    let start = origin();
    let with = |seconds| Settings { ratio: 1.0, min_per_second: 0, window: Duration::from_secs(seconds) };
    let budget = RetryBudget::new(&with(60), start);
    let now = start + Duration::from_secs(1_000);
    for window in [1, 60, 1, 60] {
        assert_eq!(budget.available(&with(window), now), 0, "{window} s");
        for _ in 0..2 {
            budget.deposit(&with(window), now);
        }
        assert!(budget.withdraw(&with(window), now));
        assert_eq!(budget.available(&with(window), now), 1, "{window} s");
    }
}

#[test]
fn a_deposit_by_a_clock_that_is_a_window_late_is_counted() {
    let start = origin();
    let settings = Settings { ratio: 1.0, min_per_second: 0, window: Duration::from_secs(10) };
    let budget = RetryBudget::new(&settings, start);
    for seconds in [30, 20] {
        budget.deposit(&settings, start + Duration::from_secs(seconds));
    }
    assert_eq!(budget.available(&settings, start + Duration::from_secs(30)), 2);
}
