//! The registry may be gone, mute or mad for as long as it likes: no request fails for it.

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

/// Three instances, a registry that can be taken away, and a sidecar that knows orders from it.
struct OutageSetup {
    registry: DevRegistry,
    front: RegistryProxy,
    all: [Instance; 3],
}

impl OutageSetup {
    async fn new() -> Self {
        let registry = DevRegistry::bind("127.0.0.1:0".parse().unwrap(), DevRegistryOptions::default())
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

/// Traffic flows through an outage of this kind, in which an instance dies too; afterwards the
/// sidecar learns again.
async fn nothing_fails_during(mode: RegistryMode) {
    let scene = OutageSetup::new().await;
    let (app, addr) = app::start_router(scene.front.addr(), "upstreams: [{service: orders}]").await;
    let load = Load::start(addr, LoadPlan::get("orders").methods(&["GET", "PUT"]));
    load.wait_successes(100).await;

    scene.front.set(mode);
    load.wait_successes(300).await;
    // Long enough for several questions to fail, by the shortest of the back-off.
    sleep(Duration::from_millis(1500)).await;
    scene.all[0].kill(Kill::Reset).await;
    load.wait_successes(300).await;

    scene.front.set(RegistryMode::Pass);
    ConsulAgent(scene.registry.addr()).register("orders", &scene.all[2]).await;
    wait::until("it learns again", Duration::from_secs(60), async || scene.all[2].count() > 20).await;
    load.stop().await.assert_clean(700);
    app.shutdown().await;
}

#[tokio::test]
async fn no_request_fails_while_the_registry_refuses_connections() {
    nothing_fails_during(RegistryMode::Refuse).await;
}

#[tokio::test]
async fn no_request_fails_while_the_registry_hangs() {
    nothing_fails_during(RegistryMode::Hang).await;
}

#[tokio::test]
async fn no_request_fails_while_the_registry_answers_500() {
    nothing_fails_during(RegistryMode::Status(500)).await;
}

#[tokio::test]
async fn no_request_fails_while_the_registry_answers_403_and_429() {
    nothing_fails_during(RegistryMode::Status(403)).await;
    nothing_fails_during(RegistryMode::Status(429)).await;
}

#[tokio::test]
async fn no_request_fails_while_the_registry_answers_garbage() {
    nothing_fails_during(RegistryMode::Garbage).await;
}

#[tokio::test]
async fn no_request_fails_while_the_registrys_json_breaks_off() {
    nothing_fails_during(RegistryMode::BrokenJson).await;
}

#[tokio::test]
async fn no_request_fails_while_the_registrys_answers_do_not_end() {
    nothing_fails_during(RegistryMode::HalfAnswer).await;
}

#[tokio::test]
async fn no_request_fails_while_a_registry_that_restarted_empty_is_filled_again() {
    let scene = OutageSetup::new().await;
    let (app, addr) = app::start_router(scene.registry.addr(), "upstreams: [{service: orders}]").await;
    let load = Load::start(addr, LoadPlan::get("orders"));
    load.wait_successes(100).await;
    let at = scene.registry.addr();
    scene.registry.shutdown().await;
    load.wait_successes(200).await;
    // The same port, and nothing remembered: its index begins anew, below what the sidecar has seen.
    let again = DevRegistry::bind(at, DevRegistryOptions::default()).await.expect("the same port");
    for instance in [&scene.all[1], &scene.all[2]] {
        ConsulAgent(again.addr()).register("orders", instance).await;
    }
    wait::until("it learns again", Duration::from_secs(60), async || scene.all[2].count() > 20).await;
    load.stop().await.assert_clean(300);
    app.shutdown().await;
}

#[tokio::test]
async fn before_its_first_answer_a_service_is_not_known_yet() {
    for mode in [RegistryMode::Refuse, RegistryMode::Hang, RegistryMode::Status(500), RegistryMode::Garbage] {
        let scene = OutageSetup::new().await;
        scene.front.set(mode);
        let (app, addr) = app::start_router(scene.front.addr(), "discovery: {first_answer: 300ms}").await;
        let response = client::get(addr, "orders", "/").await;
        assert_eq!((response.status, response.reason()), (503, "registry_unknown"), "{mode:?}: {response:?}");
        scene.front.set(RegistryMode::Pass);
        wait::until("it learns", Duration::from_secs(60), async || {
            client::get(addr, "orders", "/").await.status == 200
        })
        .await;
        app.shutdown().await;
    }
}

#[tokio::test]
async fn a_declared_service_is_reached_after_an_outage_at_the_start() {
    let scene = OutageSetup::new().await;
    scene.front.set(RegistryMode::Refuse);
    let (app, addr) = app::start_router(scene.front.addr(), "upstreams: [{service: orders}]").await;
    let response = client::get(addr, "orders", "/").await;
    assert_eq!(response.reason(), "registry_unknown", "{response:?}");
    scene.front.set(RegistryMode::Pass);
    wait::until("it learns", Duration::from_secs(60), async || {
        client::get(addr, "orders", "/").await.status == 200
    })
    .await;
    app.shutdown().await;
}

/// By then the back-off may be as long as it gets, and is 15 s on average.
const LONG: Duration = Duration::from_secs(16);

#[tokio::test]
async fn instances_that_all_moved_during_an_outage_are_found_soon_after_it() {
    let scene = OutageSetup::new().await;
    let (app, addr) = app::start_router(scene.front.addr(), "upstreams: [{service: orders}]").await;
    assert_eq!(client::get(addr, "orders", "/").await.status, 200);
    scene.front.set(RegistryMode::Refuse);
    for gone in &scene.all[..2] {
        gone.kill(Kill::Reset).await;
        ConsulAgent(scene.registry.addr()).deregister(gone.name()).await;
    }
    ConsulAgent(scene.registry.addr()).register("orders", &scene.all[2]).await;
    let since = Instant::now();
    while since.elapsed() < LONG {
        assert_ne!(client::get(addr, "orders", "/").await.status, 200);
        // No need to keep a core busy with it.
        sleep(Duration::from_millis(20)).await;
    }
    scene.front.set(RegistryMode::Pass);
    let back = Instant::now();
    wait::until("it learns", Duration::from_secs(60), async || {
        client::get(addr, "orders", "/").await.status == 200
    })
    .await;
    assert!(back.elapsed() < Duration::from_secs(5), "{:?}", back.elapsed());
    app.shutdown().await;
}

#[tokio::test]
async fn a_new_instance_is_used_within_moments_and_a_removed_one_is_not() {
    let scene = OutageSetup::new().await;
    let agent = ConsulAgent(scene.registry.addr());
    let (app, addr) = app::start_router(scene.registry.addr(), "").await;
    let load = Load::start(addr, LoadPlan::get("orders").methods(&["GET", "POST"]));
    load.wait_successes(50).await;
    agent.register("orders", &scene.all[2]).await;
    scene.all[2].wait_requests(10).await;
    agent.deregister("a").await;
    wait::until_true("a is gone from the table", || {
        app.clusters().iter().flat_map(|cluster| &cluster.endpoints).count() == 2
    })
    .await;
    wait::until_true("what was in flight to it ends", || scene.all[0].in_flight() == 0).await;
    let last = scene.all[0].count();
    load.wait_successes(200).await;
    assert_eq!(scene.all[0].count(), last);
    load.stop().await.assert_clean(250);
    app.shutdown().await;
}
