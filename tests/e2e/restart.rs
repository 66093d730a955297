//! A sidecar that starts while the registry is down routes by its state file, reports that, and uses the registry's
//! answers when the registry is back. The tests use the real binary.

use std::{path::Path, time::Duration};

use outrigger_devregistry::{DevRegistry, DevRegistryOptions};
use outrigger_net::reserve_addr;
use outrigger_tests::{client, instance::Instance, process::Process, registry::ConsulAgent, wait};
use serde_json::Value;

async fn readyz(process: &Process) -> (u16, Value) {
    let answer = process.admin_get("/readyz").await;
    (answer.status, serde_json::from_str(&answer.text()).expect("JSON"))
}

#[tokio::test]
async fn a_sidecar_that_starts_without_its_registry_uses_its_state_file_until_the_registry_is_back() {
    let registry =
        DevRegistry::bind(reserve_addr(), DevRegistryOptions::default()).await.expect("a registry");
    let at = registry.addr();
    let all = [Instance::start("a").await, Instance::start("b").await, Instance::start("c").await];
    for instance in &all[..2] {
        ConsulAgent(at).register("orders", instance).await;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let settings = format!(
        "registry: {{consul: {{address: \"http://{at}\"}}}}\nstate_dir: {:?}\nupstreams: [{{service: orders}}]\n\
         outbound: {{listen: \"127.0.0.1:{}\"}}\ndrain: {{timeout: 1s}}",
        folder.path().display().to_string(),
        reserve_addr().port(),
    );
    let mut first = Process::run(&settings).await;
    first.wait_ready().await;
    let (_, page) = readyz(&first).await;
    assert_eq!((&page["registry"]["answered"], page["registry"].get("remembered")), (&true.into(), None));
    first.signal("TERM");
    first.wait_exit(Duration::from_secs(30)).await;
    assert_eq!(count_state_files(folder.path()), 1, "{}", first.log());

    registry.shutdown().await;
    let second = Process::run(&settings).await;
    second.wait_ready().await;
    for _ in 0..10 {
        assert_eq!(client::get(second.outbound(), "orders", "/").await.status, 200, "{}", second.log());
    }
    let (status, page) = readyz(&second).await;
    assert_eq!((status, &page["registry"]["answered"]), (200, &false.into()), "{page}");
    assert_eq!(page["registry"]["remembered"][0]["service"], "orders");
    assert!(
        page["registry"]["notes"][0].as_str().is_some_and(|note| note.contains("from before the restart"))
    );
    let page = second.admin_get("/services?format=text").await.text();
    assert!(page.contains("remembered from before the restart, "), "{page}");
    assert!(second.log().contains("serving what was known before the restart"), "{}", second.log());
    let metrics = second.admin_get("/metrics").await.text();
    assert!(metrics.contains("outrigger_table_age_seconds{datacenter=\"\",service=\"orders\"}"), "{metrics}");

    let again = DevRegistry::bind(at, DevRegistryOptions::default()).await.expect("the same port");
    for instance in &all[1..] {
        ConsulAgent(again.addr()).register("orders", instance).await;
    }
    wait::until("the new instance is used", Duration::from_secs(60), async || {
        client::get(second.outbound(), "orders", "/").await;
        all[2].count() > 0
    })
    .await;
    let (_, page) = readyz(&second).await;
    assert_eq!((&page["registry"]["answered"], page["registry"].get("remembered")), (&true.into(), None));
}

/// The number of state files in a folder.
fn count_state_files(folder: &Path) -> usize {
    let names = std::fs::read_dir(folder).expect("the folder").filter_map(Result::ok);
    names.filter(|entry| entry.path().extension().is_some_and(|ending| ending == "state")).count()
}

#[tokio::test]
async fn a_sidecar_starts_with_a_pipe_in_place_of_its_state_file() {
    let registry =
        DevRegistry::bind(reserve_addr(), DevRegistryOptions::default()).await.expect("a registry");
    for ending in ["state", "state.lock"] {
        let folder = tempfile::tempdir().expect("a folder");
        let port = reserve_addr().port();
        let pipe = folder.path().join(format!("table-{port}.{ending}"));
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().is_ok_and(|made| made.success()));
        let settings = format!(
            "registry: {{consul: {{address: \"http://{}\"}}}}\nstate_dir: {:?}\n\
             outbound: {{listen: \"127.0.0.1:{port}\"}}",
            registry.addr(),
            folder.path().display().to_string(),
        );
        let process = Process::run(&settings).await;
        process.wait_ready().await;
        assert!(process.log().contains("regular file"), "{ending}: {}", process.log());
    }
}
