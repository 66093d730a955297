//! The order in which sidecar, app and registration begin and end.

use rustix::process::Signal;
use tokio::time::Instant;

use crate::harness::{SidecarBuilder, TEST_TIMEOUT, registry, send_request, wait_until, wait_until_listed};

#[tokio::test]
async fn the_sidecar_comes_before_the_app_and_ends_after_it() {
    let registry = registry().await;
    let mut sidecar = SidecarBuilder::new(&registry, "").with_test_app(&[("APP_EXIT", "7")]).start();
    wait_until_listed(&registry, &[("orders-1", "passing")]).await;
    sidecar.wait_until_ready().await;

    sidecar.signal(Signal::TERM);
    assert_eq!(sidecar.wait_for_exit().await.code(), Some(7), "the app's own");
    let app = sidecar.app_lines();
    assert!(
        app[0].starts_with("start: outbound HTTP/1.1 "),
        "the sidecar routes before the app starts: {app:?}"
    );
    assert_eq!(app[1], "start: not listed", "registered only when healthy: {app:?}");
    assert!(app[2].starts_with("started "), "{app:?}");
    assert_eq!(app[3], "got TERM", "{app:?}");
    assert!(app[4].starts_with("stop: outbound HTTP/1.1 "), "open until the app has ended: {app:?}");
    assert_eq!(app[5..], ["stop: not listed", "ended"], "deregistered before: {app:?}");
    assert!(send_request(sidecar.outbound, "GET /", "").await.is_none(), "and closed now");
    assert!(sidecar.log().contains("callers have seen that the app left"), "measured");
}

#[tokio::test]
async fn the_wait_for_callers_is_measured_plus_the_margin() {
    let registry = registry().await;
    let margin = std::time::Duration::from_millis(700);
    let mut sidecar =
        SidecarBuilder::new(&registry, "drain: {margin: 700ms, max_propagation: 50s, unobserved_wait: 5m}")
            .with_test_app(&[])
            .start();
    sidecar.wait_until_ready().await;
    sidecar.signal(Signal::TERM);
    wait_until_listed(&registry, &[]).await;
    let from = Instant::now();
    sidecar.wait_for_app_line("got TERM").await;
    // The margin, less the time until this test saw the deregistration.
    assert!(from.elapsed() > margin / 2, "{:?}", from.elapsed());
    assert!(from.elapsed() < TEST_TIMEOUT / 2, "{:?}", from.elapsed());
    assert_eq!(sidecar.wait_for_exit().await.code(), Some(0));
}

#[tokio::test]
async fn a_registry_that_is_down_delays_the_end_by_the_unobserved_wait_only() {
    let registry = registry().await;
    let mut sidecar =
        SidecarBuilder::new(&registry, "drain: {unobserved_wait: 300ms}").with_test_app(&[]).start();
    sidecar.wait_until_ready().await;
    registry.shutdown().await;
    sidecar.signal(Signal::TERM);
    assert_eq!(sidecar.wait_for_exit().await.code(), Some(0));
    assert!(sidecar.app_lines().contains(&"got TERM".to_owned()), "{:?}", sidecar.app_lines());
}

#[tokio::test]
async fn an_unreachable_registry_does_not_keep_the_app_from_starting() {
    let gone = registry().await;
    let plan = SidecarBuilder::new(&gone, "drain: {unobserved_wait: 0s}");
    gone.shutdown().await;
    let mut sidecar = plan.with_test_app(&[]).start();
    sidecar.wait_for_app_line("started").await;
    sidecar.signal(Signal::TERM);
    assert_eq!(sidecar.wait_for_exit().await.code(), Some(0));
}

#[tokio::test]
async fn another_process_on_the_apps_port_is_not_registered_before_the_app_starts() {
    let registry = registry().await;
    // The sidecar stays in the state learning while the registry does not answer for a declared service.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let plan = SidecarBuilder::new(&registry, "upstreams: [{service: payments}]");
    let settings = plan.dir.path().join("outrigger.yaml");
    let text = std::fs::read_to_string(&settings).unwrap();
    let text = text.replace(&registry.addr().to_string(), &silent.local_addr().unwrap().to_string());
    std::fs::write(&settings, text).unwrap();
    let earlier = std::net::TcpListener::bind(("127.0.0.1", plan.port)).unwrap();
    let sidecar = plan.with_app(&["sleep", "60"]).start();
    wait_until("it learns", async || {
        send_request(sidecar.admin, "GET /readyz", "")
            .await
            .is_some_and(|(_, body)| body.contains("learning"))
    })
    .await;
    assert_eq!(
        sidecar.get_json("/readyz").await["registrations"][0]["app"],
        serde_json::Value::Null,
        "not probed"
    );
    drop(earlier);
}

#[tokio::test]
async fn the_first_start_of_the_app_is_no_warning() {
    let registry = registry().await;
    let sidecar = SidecarBuilder::new(&registry, "").with_test_app(&[]).start();
    sidecar.wait_until_ready().await;
    let log = sidecar.log();
    let warnings: Vec<_> =
        log.lines().filter(|line| line.contains("\"WARN\"") && line.contains("the local app")).collect();
    assert!(warnings.is_empty(), "{warnings:?}");
    assert!(log.contains("the local app answers"), "{log}");
}

#[tokio::test]
async fn an_app_that_is_never_healthy_is_a_warning_after_a_while() {
    let registry = registry().await;
    let mut sidecar = SidecarBuilder::new(&registry, "").with_app(&["sleep", "600"]).start();
    wait_until("it is probed", async || sidecar.log().contains("waiting for the local app to be healthy"))
        .await;
    wait_until("it is reported", async || {
        sidecar.log().contains("the local app has not been healthy since it was started")
    })
    .await;
    // The app ends, too.
    sidecar.signal(Signal::TERM);
    sidecar.wait_for_exit().await;
}
