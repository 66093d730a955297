use std::{sync::Barrier, thread, time::Duration};

use outrigger_policy::{Outcome, retry::GiveUp};
use prometheus::Registry;

use super::*;
use cells::Block;
use labels::{HedgeResult, PoolEvent, Rejected, SecondAttempt, Tolerated};

fn register(registry: &Registry, threads: usize) -> Arc<Metrics> {
    let metrics = Metrics::new(threads).unwrap();
    families::register(registry, &metrics).unwrap();
    metrics
}

fn text(registry: &Registry) -> String {
    prometheus::TextEncoder::new().encode_to_string(&registry.gather()).unwrap()
}

#[test]
fn a_service_that_returns_while_its_old_requests_are_in_flight_keeps_its_series() {
    let registry = Registry::new();
    let metrics = register(&registry, 1);
    let old = metrics.service_series(Some("orders"));
    let new = metrics.service_series(Some("orders"));
    new.cells.at(0).record_answer(200);
    drop(old);
    assert!(text(&registry).contains("service=\"orders\""));
}

#[test]
fn every_series_of_a_service_is_removed_with_its_last_holder() {
    let registry = Registry::new();
    let metrics = register(&registry, 1);
    let series = metrics.service_series(Some("orders"));
    count_one_of_each(series.cells.at(0));
    assert!(text(&registry).contains("service=\"orders\""));
    drop(series);
    assert!(!text(&registry).contains("service=\"orders\""), "{}", text(&registry));
    assert!(metrics.services.lock().is_empty());
}

fn count_one_of_each(cells: &Block<ServiceCells>) {
    cells.record_answer(200);
    cells.record_answer(299);
    cells.record_error(Reason::Timeout);
    cells.record_attempt(Outcome::Closed);
    cells.record_give_up(GiveUp::Budget);
    cells.record_second(SecondAttempt::Hedge, HedgeResult::Lost);
    cells.record_rejection(Rejected::TimedOut);
    cells.record_pool_event(PoolEvent::Reused);
    cells.record_duration(Duration::from_millis(100));
    cells.inc(&cells.retried);
    cells.inc(&cells.raced);
    cells.inc(&cells.in_flight);
}

/// Names, labels, help texts, buckets, and which series exist before they are counted. `scrape.txt` was written by
/// counters and a histogram of the crate prometheus.
#[test]
fn a_scrape_has_the_text_of_the_crates_own_counters() {
    let registry = Registry::new();
    let metrics = register(&registry, 2);
    let series = metrics.service_series(Some("orders"));
    let (first, second) = (series.cells.at(0), series.cells.at(1));
    for status in [200, 200, 204, 404, 429, 503, 100, 299, 599, 600, 999, 499] {
        first.record_answer(status);
    }
    first.record_error(Reason::Timeout);
    first.record_error(Reason::ClientGone);
    for outcome in [Outcome::Status(200), Outcome::Status(200), Outcome::Status(99), Outcome::Closed] {
        second.record_attempt(outcome);
    }
    first.record_give_up(GiveUp::Budget);
    first.record_second(SecondAttempt::Hedge, HedgeResult::Lost);
    first.record_rejection(Rejected::TimedOut);
    first.record_tolerated(Tolerated::Framing);
    first.inc(&first.retried);
    second.inc(&second.raced);
    first.record_pool_event(PoolEvent::Opened);
    second.record_pool_event(PoolEvent::Reused);
    first.record_pool_event(PoolEvent::Stale);
    for micros in [1, 500, 501, 2_500, 40_000, 15_000_000, 15_000_001, 3_600_000_000] {
        first.record_duration(Duration::from_micros(micros));
    }
    first.inc(&first.in_flight);
    first.inc(&first.in_flight);
    first.dec(&first.in_flight);
    let workers = [metrics.workers.at(0), metrics.workers.at(1)];
    workers[0].record_refusal(Reason::SlowHead);
    workers[1].record_refusal(Reason::SlowHead);
    let _active = workers[0].gauge_guard(&workers[0].active);
    drop(workers[0].gauge_guard(&workers[0].parked));
    metrics.worker_lag(1).set(0.25);
    assert_eq!(series.totals(), (12, 1, 1));
    assert_eq!(text(&registry), include_str!("scrape.txt"));
}

const THREADS: usize = 4;
const ROUNDS: u64 = 20_000;

/// Counts in one service from several threads, and calls `meanwhile` until they have ended.
fn count_on_threads(series: &ServiceSeries, worker_of: fn(usize) -> usize, mut meanwhile: impl FnMut()) {
    let begin = Barrier::new(THREADS);
    thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS)
            .map(|thread| {
                let (cells, begin) = (series.cells.at(worker_of(thread)), &begin);
                scope.spawn(move || {
                    begin.wait();
                    for _ in 0..ROUNDS {
                        count_one_of_each(cells);
                        cells.dec(&cells.in_flight);
                    }
                })
            })
            .collect();
        loop {
            let has_ended = threads.iter().all(thread::ScopedJoinHandle::is_finished);
            meanwhile();
            if has_ended {
                break;
            }
        }
    });
}

fn assert_every_count(registry: &Registry, series: &ServiceSeries) {
    let all = THREADS as u64 * ROUNDS;
    assert_eq!(series.totals(), (2 * all, all, all));
    let text = text(registry);
    for line in [
        format!("outrigger_requests_total{{code=\"200\",service=\"orders\"}} {all}"),
        format!("outrigger_requests_total{{code=\"299\",service=\"orders\"}} {all}"),
        format!("outrigger_pool_connections_total{{event=\"reused\",service=\"orders\"}} {all}"),
        format!("outrigger_request_duration_seconds_sum{{service=\"orders\"}} {}", all / 10),
        format!("outrigger_request_duration_seconds_bucket{{service=\"orders\",le=\"0.1\"}} {all}"),
        format!("outrigger_request_duration_seconds_count{{service=\"orders\"}} {all}"),
        "outrigger_in_flight{service=\"orders\"} 0".to_owned(),
    ] {
        assert!(text.lines().any(|one| one == line), "{line}\n{text}");
    }
}

#[test]
fn workers_on_threads_of_their_own_count_exactly_and_no_scrape_goes_backwards() {
    let registry = Registry::new();
    let metrics = register(&registry, THREADS);
    let series = metrics.service_series(Some("orders"));
    let mut last = HashMap::new();
    count_on_threads(
        &series,
        |thread| thread,
        || {
            for line in text(&registry).lines().filter(|line| !line.starts_with('#')) {
                let (name, value) = line.rsplit_once(' ').unwrap();
                let value: f64 = value.parse().unwrap();
                assert!(value >= 0.0, "{line}");
                if !name.starts_with("outrigger_in_flight") {
                    let before = last.insert(name.to_owned(), value).unwrap_or(0.0);
                    assert!(value >= before, "{line}; before: {before}");
                }
            }
        },
    );
    assert!(!last.is_empty());
    assert_every_count(&registry, &series);
}

#[test]
fn a_worker_that_several_threads_run_counts_exactly() {
    let registry = Registry::new();
    let metrics = register(&registry, 0);
    let series = metrics.service_series(Some("orders"));
    count_on_threads(&series, |_| 0, || {});
    assert_every_count(&registry, &series);
}

#[test]
fn every_status_has_the_label_that_it_was_counted_with() {
    let metrics = Metrics::new(1).unwrap();
    let series = metrics.service_series(Some("orders"));
    let counts = |status: u16| if (100..600).contains(&status) { u64::from(status) } else { 1 };
    for status in 99..602 {
        for _ in 0..counts(status) {
            series.cells.at(0).record_answer(status);
        }
    }
    let mut expected: Vec<_> = (100..600).map(|status: u16| (status.to_string(), counts(status))).collect();
    expected.push(("other".to_owned(), 3));
    assert_eq!(series.cells.codes(), expected);
}

#[test]
#[cfg(debug_assertions)]
#[should_panic(expected = "another thread writes to a worker's cells")]
fn a_second_thread_that_writes_to_a_workers_cells_is_noticed() {
    let metrics = Metrics::new(1).unwrap();
    let series = metrics.service_series(Some("orders"));
    let cells = series.cells.at(0);
    thread::scope(|scope| scope.spawn(|| cells.record_answer(200)).join()).unwrap();
    cells.record_answer(200);
}
