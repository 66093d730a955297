use std::time::Duration;

use super::*;

fn text(registry: &Registry) -> String {
    prometheus::TextEncoder::new().encode_to_string(&registry.gather()).unwrap()
}

#[test]
fn a_service_that_returns_while_its_old_requests_are_in_flight_keeps_its_series() {
    let registry = Registry::new();
    let metrics = Metrics::register(&registry).unwrap();
    let old = metrics.service_series(Some("orders"));
    let new = metrics.service_series(Some("orders"));
    new.record_answer(200);
    drop(old);
    assert!(text(&registry).contains("service=\"orders\""));
}

#[test]
fn every_series_of_a_service_is_removed_with_its_last_holder() {
    let registry = Registry::new();
    let metrics = Metrics::register(&registry).unwrap();
    let series = metrics.service_series(Some("orders"));
    series.record_answer(200);
    series.record_error(Reason::Timeout);
    series.record_attempt(Outcome::Closed);
    series.record_give_up(GiveUp::Budget);
    series.duration.observe(0.1);
    assert!(text(&registry).contains("service=\"orders\""));
    drop(series);
    assert!(!text(&registry).contains("service=\"orders\""), "{}", text(&registry));
}

/// Names, labels, help texts, buckets, and which series exist before they are counted. `scrape.txt` was written by
/// counters and a histogram of the crate prometheus.
#[test]
fn a_scrape_has_the_text_of_the_crates_own_counters() {
    let registry = Registry::new();
    let metrics = Metrics::register(&registry).unwrap();
    let series = metrics.service_series(Some("orders"));
    for status in [200, 200, 204, 404, 429, 503, 100, 299, 599, 600, 999, 499] {
        series.record_answer(status);
    }
    series.record_error(Reason::Timeout);
    series.record_error(Reason::ClientGone);
    for outcome in [Outcome::Status(200), Outcome::Status(200), Outcome::Status(99), Outcome::Closed] {
        series.record_attempt(outcome);
    }
    series.record_give_up(GiveUp::Budget);
    series.record_hedge(HedgeResult::Lost);
    series.record_rejection(Rejected::TimedOut);
    series.retried.inc();
    series.raced.inc();
    series.opened.inc();
    series.reused.inc();
    series.stale.inc();
    for micros in [1, 500, 501, 2_500, 40_000, 15_000_000, 15_000_001, 3_600_000_000] {
        series.duration.observe(Duration::from_micros(micros).as_secs_f64());
    }
    series.in_flight.inc();
    series.in_flight.inc();
    series.in_flight.dec();
    metrics.record_refusal(Reason::SlowHead);
    metrics.record_refusal(Reason::SlowHead);
    metrics.active.inc();
    metrics.worker_lag(1).set(0.25);
    assert_eq!(series.totals(), (12, 1, 1));
    assert_eq!(text(&registry), include_str!("scrape.txt"));
}
