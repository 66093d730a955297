//! A sidecar that declares no service says whether its registry can be used, from the start on.

use outrigger_devregistry::{DevRegistry, DevRegistryOptions};
use outrigger_tests::{
    client,
    process::Process,
    registry_proxy::{RegistryMode, RegistryProxy},
    wait,
};
use serde_json::Value;

async fn registry_page(process: &Process) -> Value {
    process.admin_json("/readyz").await["registry"].clone()
}

/// Waits until `/readyz` shows an error with this text, and checks what it and the log say.
async fn assert_reported(process: &Process, text: &str) {
    wait::until("the error is shown", wait::TIMEOUT, async || {
        registry_page(process).await["error"].as_str().is_some_and(|error| error.contains(text))
    })
    .await;
    let page = registry_page(process).await;
    assert_eq!(page["answered"], false, "{page}");
    assert!(page["notes"][0].as_str().unwrap().contains("has not answered since the start"), "{page}");
    wait::until_true("it is logged", || process.log().contains("has given no usable answer since the start"))
        .await;
    let log = process.log();
    let warnings: Vec<_> =
        log.lines().filter(|line| line.contains("\"WARN\"") && line.contains(text)).collect();
    assert_eq!(warnings.len(), 1, "{log}");
    assert!(!warnings[0].contains("never"), "{}", warnings[0]);
}

#[tokio::test]
async fn a_registry_that_refuses_connections_is_reported_at_the_start() {
    let addr = outrigger_net::reserve_addr();
    let process = Process::run(&format!("registry: {{consul: {{address: \"http://{addr}\"}}}}")).await;
    assert_reported(&process, "refused").await;
    // Requests say the same.
    let response = client::get(process.outbound(), "orders", "/").await;
    assert_eq!(response.reason(), "registry_unknown", "{response:?}");
}

#[tokio::test]
async fn a_registry_that_refuses_the_token_is_reported_until_it_takes_it() {
    let registry = DevRegistry::bind(outrigger_net::reserve_addr(), DevRegistryOptions::default())
        .await
        .expect("a registry");
    let front = RegistryProxy::start(registry.addr()).await;
    front.set(RegistryMode::Status(403));
    let process =
        Process::run(&format!("registry: {{consul: {{address: \"http://{}\"}}}}", front.addr())).await;
    assert_reported(&process, "403").await;
    front.set(RegistryMode::Pass);
    wait::until("it answers", wait::TIMEOUT, async || {
        let page = registry_page(&process).await;
        page["answered"] == true && page["error"].is_null() && page.get("notes").is_none()
    })
    .await;
    wait::until_true("it is logged", || process.log().contains("the registry answers again")).await;

    // It is asked while it answers, too.
    front.set(RegistryMode::Refuse);
    wait::until("the outage is shown", wait::TIMEOUT, async || {
        let page = registry_page(&process).await;
        page["answered"] == true
            && page["notes"][0].as_str().is_some_and(|note| note.contains("does not answer now"))
    })
    .await;
}

#[tokio::test]
async fn one_service_that_the_registry_refuses_is_no_outage_of_the_registry() {
    let registry = DevRegistry::bind(outrigger_net::reserve_addr(), DevRegistryOptions::default())
        .await
        .expect("a registry");
    // The registry answers 500 for a datacenter that it does not know.
    let process = Process::run(&format!(
        "registry: {{consul: {{address: \"http://{}\", wait: 1s}}}}\n\
         upstreams: [{{service: payments}}, {{service: far, datacenter: nope}}]",
        registry.addr()
    ))
    .await;
    wait::until_true("the service is named in the log", || {
        process.log().contains("the registry answers for other services and has not answered for this one")
    })
    .await;
    // The other service is confirmed again and again meanwhile.
    wait::until("two more answers", wait::TIMEOUT, async || {
        let page = process.admin_get("/metrics").await.text();
        page.lines().any(|line| {
            let is_series = line.starts_with("outrigger_table_updates_total{")
                && line.contains("service=\"payments\"")
                && line.contains("result=\"unchanged\"");
            is_series
                && line
                    .rsplit(' ')
                    .next()
                    .is_some_and(|count| count.parse::<f64>().is_ok_and(|count| count >= 2.0))
        })
    })
    .await;
    let log = process.log();
    assert!(!log.contains("no usable answer") && !log.contains("the registry answers again"), "{log}");
    let page = registry_page(&process).await;
    assert_eq!(page["error"], Value::Null, "{page}");
    assert!(page["notes"][0].as_str().unwrap().contains("No path to datacenter"), "{page}");
}

/// Nothing is learned for it however long the start waits, so it waits for the others alone.
#[tokio::test]
async fn a_declared_service_that_the_registry_refuses_delays_no_readiness() {
    let registry = DevRegistry::bind(outrigger_net::reserve_addr(), DevRegistryOptions::default())
        .await
        .expect("a registry");
    let front = RegistryProxy::start(registry.addr()).await;
    front.set(RegistryMode::Status(403));
    let process = Process::run(&format!(
        "registry: {{consul: {{address: \"http://{}\"}}}}\nupstreams: [{{service: payments}}]",
        front.addr()
    ))
    .await;
    // From here, because the start of the program takes as long as the machine is slow.
    let since = tokio::time::Instant::now();
    wait::until("it has learned", wait::TIMEOUT, async || {
        process.admin_json("/readyz").await["state"] == "ready"
    })
    .await;
    // Without an answer it learns for 5 s.
    assert!(since.elapsed() < std::time::Duration::from_secs(3), "{:?}", since.elapsed());
    // And a request is not held until discovery.first_answer.
    let response = client::get(process.outbound(), "others", "/").await;
    assert_eq!(response.reason(), "registry_unknown", "{response:?}");
}
