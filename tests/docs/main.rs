//! The pages of `docs/` list every error reason, every metric and every kind of event.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::collections::BTreeSet;

use outrigger::ApiReason;
use outrigger_devregistry::{DevRegistry, DevRegistryOptions};
use outrigger_events::EventKind;
use outrigger_proxy::Reason;
use outrigger_tests::{
    client,
    client::Client,
    consul,
    instance::{Instance, Kill},
    process::Process,
    registry::ConsulAgent,
    wait,
};

const ERRORS: &str = include_str!("../../docs/errors.md");
const METRICS: &str = include_str!("../../docs/metrics.md");
const EVENTS: &str = include_str!("../../docs/events.md");

/// The texts between backticks in the first cell of each table row.
fn first_cells(page: &str) -> BTreeSet<&str> {
    let cells = page.lines().filter_map(|line| line.strip_prefix('|')?.split('|').next());
    cells.flat_map(|cell| cell.split('`').skip(1).step_by(2)).collect()
}

/// What follows a heading, up to the next one of its level.
fn section<'a>(page: &'a str, heading: &str) -> &'a str {
    let (_, rest) = page.split_once(heading).unwrap();
    rest.split("\n## ").next().unwrap()
}

#[test]
fn errors_md_lists_every_reason_of_the_api_with_its_status_and_no_other() {
    let table = section(ERRORS, "## Reasons of the API");
    for reason in ApiReason::ALL {
        let row = format!("| `{}` | {} |", reason.label(), reason.status().as_u16());
        assert!(table.contains(&row), "{row} is not in docs/errors.md");
    }
    let reasons: BTreeSet<_> = ApiReason::ALL.iter().map(|reason| reason.label()).collect();
    assert_eq!(first_cells(table), reasons);
}

#[test]
fn errors_md_lists_every_reason_with_its_status() {
    for reason in Reason::ALL {
        let row = format!("| `{}` | {} |", reason.label(), reason.status());
        assert!(ERRORS.contains(&row), "{row} is not in docs/errors.md");
    }
}

#[test]
fn errors_md_names_only_reasons_that_exist() {
    let table = section(ERRORS, "## Every reason");
    let reasons: BTreeSet<_> = Reason::ALL.iter().map(|reason| reason.label()).collect();
    assert_eq!(first_cells(table), reasons);
}

#[test]
fn events_md_lists_every_kind_and_no_other() {
    let (_, table) = EVENTS.split_once("## Every kind").unwrap();
    let kinds: BTreeSet<_> = EventKind::ALL.iter().map(|kind| kind.label()).collect();
    assert_eq!(first_cells(table), kinds);
}

/// The metric families of a sidecar after all events that create a family.
async fn scraped() -> BTreeSet<String> {
    let registry =
        DevRegistry::bind("127.0.0.1:0".parse().unwrap(), DevRegistryOptions::default()).await.unwrap();
    let app = Instance::start("app").await;
    ConsulAgent(registry.addr()).register("payments", &app).await;
    let dead = Instance::start("dead").await;
    ConsulAgent(registry.addr()).register("broken", &dead).await;
    dead.kill(Kill::Reset).await;
    let api = outrigger_net::reserve_addr();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("app.json");
    let put = async |value: &str| {
        let put = consul::http::put(registry.addr(), "/v1/kv/config/orders/a", value).await.unwrap();
        assert_eq!(put.status(), 200);
    };
    put("1").await;
    let process = Process::run(&format!(
        "registry: {{consul: {{address: \"http://{}\"}}}}\n\
         service: {{name: orders, port: {}, address: 127.0.0.1}}\n\
         upstreams: [{{service: payments, max_in_flight: 10, subsets: {{every: {{filter: 'Service.Port != 0'}}}}, \
         split: [{{subset: every, weight: 1}}], mirror: {{to: {{subset: every}}}}, zone: {{own: a, min_instances: 1}}}}, {{service: unknown}}, {{service: broken}}, \
         {{service: spare, failover: [{{service: payments}}]}}]\n\
         discovery: {{max_services: 4}}\n\
         dns: {{listen: \"127.0.0.1:0\"}}\n\
         api: {{listen: \"{api}\", config: {{files: [{{prefix: config/orders/, path: {file:?}, \
         on_change: {{http: \"http://{}/\"}}}}]}}}}",
        registry.addr(),
        app.addr().port(),
        app.addr(),
    ))
    .await;
    process.wait_ready().await;
    let outbound = process.outbound();
    assert_eq!(client::get(outbound, "payments", "/").await.status, 200);
    assert_eq!(client::get(outbound, "spare", "/").await.status, 200);
    assert_eq!(client::get(outbound, "broken", "/").await.reason(), "connect_failed");
    assert_eq!(client::get(outbound, "unknown", "/").await.reason(), "unknown_service");
    assert_eq!(client::get(outbound, "one-too-many", "/").await.reason(), "too_many_services");
    // This request is refused before its service is known.
    let mut broken = Client::connect(outbound).await;
    assert_eq!(broken.exchange("no HTTP\r\n\r\n").await.status, 400);
    // The families of locks begin with the first request for one.
    let mut lock = Client::connect(api).await;
    let lease = format!("POST /v1/locks/jobs?ttl=10s HTTP/1.1\r\nHost: {api}\r\nContent-Length: 0\r\n\r\n");
    assert_eq!(lock.exchange(&lease).await.status, 201);
    // The first content of a file is no change.
    wait::until_true("the file is written", || file.exists()).await;
    put("2").await;
    let page = async || process.admin_get("/metrics").await.text();
    wait::until("the app is told of the file", wait::TIMEOUT, async || {
        page().await.contains("outrigger_on_change_total{")
    })
    .await;
    wait::until("the copy for the mirror has ended", wait::TIMEOUT, async || {
        page().await.contains("outrigger_mirrored_requests_total{")
    })
    .await;
    let families = |page: &str| {
        let lines = page.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next());
        lines.map(str::to_owned).collect()
    };
    families(&page().await)
}

/// Created by events that this test cannot cause without a race, or only with many requests.
const ONLY_AFTER_EVENTS: [&str; 16] = [
    "outrigger_watch_errors_total",
    "outrigger_registry_suspect_updates_total",
    "outrigger_hedges_total",
    "outrigger_stalled_attempts_total",
    "outrigger_shed_total",
    "outrigger_tolerated_total",
    "outrigger_breaker_trips_total",
    "outrigger_ejections_total",
    // For an app that the sidecar runs.
    "outrigger_app_restart_state",
    // For a service with TLS.
    "outrigger_tls_certificate_expiry_seconds",
    // For a chain of a real Consul.
    "outrigger_chain_problems",
    // For an upgrade or a CONNECT.
    "outrigger_tunnel_bytes_total",
    // For an upstream with `protocol: tcp`.
    "outrigger_tcp_connections",
    "outrigger_tcp_connections_total",
    "outrigger_tcp_bytes_total",
    "outrigger_tcp_connection_duration_seconds",
];

#[tokio::test]
async fn metrics_md_lists_the_families_of_a_real_scrape_and_no_other() {
    let mut scraped = scraped().await;
    scraped.extend(ONLY_AFTER_EVENTS.map(str::to_owned));
    let listed: BTreeSet<_> = first_cells(METRICS).into_iter().map(str::to_owned).collect();
    let unlisted: Vec<_> = scraped.difference(&listed).collect();
    let unknown: Vec<_> = listed.difference(&scraped).collect();
    assert!(
        unlisted.is_empty() && unknown.is_empty(),
        "not in the page: {unlisted:?}; not scraped: {unknown:?}"
    );
}
