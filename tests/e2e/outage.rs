//! No request fails because the registry is down, does not answer, or answers garbage.

use std::time::Duration;

use outrigger_devregistry::{DevRegistry, DevRegistryOptions};
use outrigger_tests::{
    client,
    instance::{Instance, Kill},
    load::{Load, LoadPlan},
    registry::ConsulAgent,
    registry_proxy::{RegistryMode, RegistryProxy},
    wait,
};
use tokio::time::{Instant, sleep};

use crate::app;

/// Three instances, of which two are registered as `orders`, and a registry behind a proxy that can fail.
struct OutageSetup {
    registry: DevRegistry,
    front: RegistryProxy,
    all: [Instance; 3],
}

impl OutageSetup {
    async fn new() -> Self {
        let registry = DevRegistry::bind(outrigger_net::reserve_addr(), DevRegistryOptions::default())
            .await
            .expect("a registry");
        let front = RegistryProxy::start(registry.addr()).await;
        let all = [Instance::start("a").await, Instance::start("b").await, Instance::start("c").await];
        for instance in &all[..2] {
            ConsulAgent(registry.addr()).register("orders", instance).await;
        }
        Self { registry, front, all }
    }
}

/// Checks that no request fails during an outage of this kind in which an instance dies too, and that the sidecar
/// finds a new instance afterwards.
async fn assert_no_failure_during(mode: RegistryMode) {
    let setup = OutageSetup::new().await;
    let (app, addr) = app::start_router(setup.front.addr(), "upstreams: [{service: orders}]").await;
    let load = Load::start(addr, LoadPlan::get("orders").methods(&["GET", "PUT"]));
    load.wait_successes(100).await;

    setup.front.set(mode);
    load.wait_successes(300).await;
    // Long enough for several failed queries, with the shortest back-off.
    sleep(Duration::from_millis(1500)).await;
    setup.all[0].kill(Kill::Reset).await;
    load.wait_successes(300).await;

    setup.front.set(RegistryMode::Pass);
    ConsulAgent(setup.registry.addr()).register("orders", &setup.all[2]).await;
    wait::until("the new instance is used", Duration::from_secs(60), async || setup.all[2].count() > 20)
        .await;
    load.stop().await.assert_clean(700);
    app.shutdown().await;
}

#[tokio::test]
async fn no_request_fails_while_the_registry_refuses_connections() {
    assert_no_failure_during(RegistryMode::Refuse).await;
}

#[tokio::test]
async fn no_request_fails_while_the_registry_hangs() {
    assert_no_failure_during(RegistryMode::Hang).await;
}

#[tokio::test]
async fn no_request_fails_while_the_registry_answers_500() {
    assert_no_failure_during(RegistryMode::Status(500)).await;
}

#[tokio::test]
async fn no_request_fails_while_the_registry_answers_403_and_429() {
    assert_no_failure_during(RegistryMode::Status(403)).await;
    assert_no_failure_during(RegistryMode::Status(429)).await;
}

#[tokio::test]
async fn no_request_fails_while_the_registry_answers_garbage() {
    assert_no_failure_during(RegistryMode::Garbage).await;
}

#[tokio::test]
async fn no_request_fails_while_the_registrys_json_is_cut() {
    assert_no_failure_during(RegistryMode::BrokenJson).await;
}

#[tokio::test]
async fn no_request_fails_while_the_registrys_answers_do_not_end() {
    assert_no_failure_during(RegistryMode::HalfAnswer).await;
}

#[tokio::test]
async fn no_request_fails_while_a_registry_that_restarted_empty_is_filled_again() {
    let setup = OutageSetup::new().await;
    let (app, addr) = app::start_router(setup.registry.addr(), "upstreams: [{service: orders}]").await;
    let load = Load::start(addr, LoadPlan::get("orders"));
    load.wait_successes(100).await;
    let at = setup.registry.addr();
    setup.registry.shutdown().await;
    load.wait_successes(200).await;
    // The same port without data: the index starts again, below the last index of the sidecar.
    let again = DevRegistry::bind(at, DevRegistryOptions::default()).await.expect("the same port");
    for instance in [&setup.all[1], &setup.all[2]] {
        ConsulAgent(again.addr()).register("orders", instance).await;
    }
    wait::until("the new instance is used", Duration::from_secs(60), async || setup.all[2].count() > 20)
        .await;
    load.stop().await.assert_clean(300);
    app.shutdown().await;
}

#[tokio::test]
async fn before_the_registrys_first_answer_a_request_gets_registry_unknown() {
    for mode in [RegistryMode::Refuse, RegistryMode::Hang, RegistryMode::Status(500), RegistryMode::Garbage] {
        let setup = OutageSetup::new().await;
        setup.front.set(mode);
        let (app, addr) = app::start_router(setup.front.addr(), "discovery: {first_answer: 300ms}").await;
        let response = client::get(addr, "orders", "/").await;
        assert_eq!((response.status, response.reason()), (503, "registry_unknown"), "{mode:?}: {response:?}");
        setup.front.set(RegistryMode::Pass);
        wait::until("the service is reached", Duration::from_secs(60), async || {
            client::get(addr, "orders", "/").await.status == 200
        })
        .await;
        app.shutdown().await;
    }
}

#[tokio::test]
async fn a_declared_service_is_reached_after_an_outage_at_the_start() {
    let setup = OutageSetup::new().await;
    setup.front.set(RegistryMode::Refuse);
    let (app, addr) = app::start_router(setup.front.addr(), "upstreams: [{service: orders}]").await;
    let response = client::get(addr, "orders", "/").await;
    assert_eq!(response.reason(), "registry_unknown", "{response:?}");
    setup.front.set(RegistryMode::Pass);
    wait::until("the service is reached", Duration::from_secs(60), async || {
        client::get(addr, "orders", "/").await.status == 200
    })
    .await;
    app.shutdown().await;
}

/// Long enough for the longest back-off, which is 15 s on average.
const LONG_OUTAGE: Duration = Duration::from_secs(16);

#[tokio::test]
async fn instances_that_all_moved_during_an_outage_are_found_soon_after_it() {
    let setup = OutageSetup::new().await;
    let (app, addr) = app::start_router(setup.front.addr(), "upstreams: [{service: orders}]").await;
    assert_eq!(client::get(addr, "orders", "/").await.status, 200);
    setup.front.set(RegistryMode::Refuse);
    for dead in &setup.all[..2] {
        dead.kill(Kill::Reset).await;
        ConsulAgent(setup.registry.addr()).deregister(dead.name()).await;
    }
    ConsulAgent(setup.registry.addr()).register("orders", &setup.all[2]).await;
    let since = Instant::now();
    while since.elapsed() < LONG_OUTAGE {
        assert_ne!(client::get(addr, "orders", "/").await.status, 200);
        // The pause keeps the loop from using a whole core.
        sleep(Duration::from_millis(20)).await;
    }
    setup.front.set(RegistryMode::Pass);
    let back = Instant::now();
    wait::until("the service is reached", Duration::from_secs(60), async || {
        client::get(addr, "orders", "/").await.status == 200
    })
    .await;
    assert!(back.elapsed() < Duration::from_secs(5), "{:?}", back.elapsed());
    app.shutdown().await;
}

#[tokio::test]
async fn a_new_instance_is_used_and_a_removed_one_is_not() {
    let setup = OutageSetup::new().await;
    let agent = ConsulAgent(setup.registry.addr());
    let (app, addr) = app::start_router(setup.registry.addr(), "").await;
    let load = Load::start(addr, LoadPlan::get("orders").methods(&["GET", "POST"]));
    load.wait_successes(50).await;
    agent.register("orders", &setup.all[2]).await;
    setup.all[2].wait_requests(10).await;
    agent.deregister("a").await;
    wait::until_true("a is removed from the table", || {
        app.clusters().iter().flat_map(|cluster| &cluster.endpoints).count() == 2
    })
    .await;
    // Requests that chose it before may still be on their way to it.
    let mut last = setup.all[0].count();
    wait::until("the last request to a", Duration::from_secs(60), async || {
        load.wait_successes(50).await;
        std::mem::replace(&mut last, setup.all[0].count()) == last
    })
    .await;
    load.wait_successes(200).await;
    assert_eq!(setup.all[0].count(), last);
    load.stop().await.assert_clean(250);
    app.shutdown().await;
}
