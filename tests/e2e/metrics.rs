//! Which series a service has, and from when.

use std::collections::BTreeSet;

use outrigger_tests::{
    instance::{Answer, Instance},
    scrape::Scrape,
    sidecar::Sidecar,
};

const DECLARED: &str = "upstreams: [{service: orders}]";

fn of_orders(page: &str) -> Vec<&str> {
    page.lines().filter(|line| line.contains("service=\"orders\"")).collect()
}

/// The families that docs/metrics.md marks as being there from the start: in the fourth column.
fn from_the_start() -> BTreeSet<&'static str> {
    let rows = include_str!("../../docs/metrics.md").lines();
    let cells = rows.map(|row| row.split('|').map(str::trim).collect::<Vec<_>>());
    let marked = cells.filter(|cells| cells.get(4) == Some(&"yes"));
    marked.map(|cells| cells[1].trim_matches('`')).collect()
}

#[tokio::test]
async fn a_service_without_requests_has_few_series_and_those_that_the_page_names() {
    let all = [Instance::start("a").await, Instance::start("b").await, Instance::start("c").await];
    let sidecar = Sidecar::orders(DECLARED, &[&all[0], &all[1], &all[2]]).await;
    let page = sidecar.scrape();
    let series = of_orders(&page);
    assert!(series.len() <= 22, "{series:#?}");
    for line in &series {
        let family = line.split('{').next().unwrap();
        let is_listed = from_the_start().contains(family) || family == "outrigger_table_updates_total";
        assert!(is_listed, "{line}");
    }
    for class in ["2xx", "3xx", "4xx", "5xx"] {
        let line = format!("outrigger_responses_total{{class=\"{class}\",service=\"orders\"}} 0");
        assert!(series.contains(&line.as_str()), "{line} in {series:#?}");
    }
}

#[tokio::test]
async fn series_appear_with_their_first_event_and_count_from_it() {
    let failing = Instance::scripted("a", |_| Answer::status(500, "no")).await;
    let sidecar = Sidecar::orders(DECLARED, &[&failing]).await;
    assert_eq!(sidecar.get("orders", "/").await.status, 500);
    let first = sidecar.scrape();
    let scrape = Scrape::parse(&first);
    for (name, labels, value) in [
        ("outrigger_responses_total", &[("class", "5xx")][..], 1.0),
        ("outrigger_responses_total", &[("class", "2xx")], 0.0),
        ("outrigger_requests_total", &[("code", "500")], 1.0),
        ("outrigger_request_duration_seconds_count", &[], 1.0),
        ("outrigger_attempts_total", &[("outcome", "5xx")], 1.0),
        ("outrigger_instance_picks_total", &[("instance", "a")], 1.0),
    ] {
        assert_eq!(scrape.sum(name, labels), value, "{name} {labels:?} in\n{first}");
    }
    failing.set_script(|_| Answer::ok("healthy"));
    assert_eq!(sidecar.get("orders", "/").await.status, 200);
    // What was counted once stays.
    let second = sidecar.scrape();
    let names = |page: &str| -> BTreeSet<String> {
        of_orders(page).iter().filter_map(|line| Some(line.rsplit_once(' ')?.0.to_owned())).collect()
    };
    let gone: Vec<_> = names(&first).difference(&names(&second)).cloned().collect();
    assert!(gone.is_empty(), "{gone:?}");
    assert_eq!(Scrape::parse(&second).sum("outrigger_responses_total", &[("class", "2xx")]), 1.0);
    let zeros: Vec<_> = of_orders(&second).into_iter().filter(|line| line.ends_with(" 0")).collect();
    for line in &zeros {
        let family = line.split('{').next().unwrap();
        let is_histogram = family.starts_with("outrigger_request_duration_seconds");
        assert!(is_histogram || from_the_start().contains(family), "{line}");
    }
}
