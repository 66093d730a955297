//! Static instances: the file is the registry and may change at any time.

use outrigger_tests::{
    instance::{Answer, Instance, Kill},
    load::{Load, LoadPlan},
    sidecar::{Services, Sidecar},
    wait,
};

#[tokio::test]
async fn instances_come_and_go_with_the_file_and_no_request_fails() {
    let all = [Instance::start("a").await, Instance::start("b").await, Instance::start("c").await];
    let sidecar = Sidecar::orders("", &[&all[0], &all[1]]).await;
    let load = Load::start(sidecar.addr(), LoadPlan::get("orders").methods(&["GET", "POST"]));
    load.wait_successes(200).await;
    assert_eq!(all[2].count(), 0);

    sidecar.write_services(&Services::of("orders", &[&all[0], &all[1], &all[2]]));
    all[2].wait_requests(50).await;

    sidecar.write_services(&Services::of("orders", &[&all[1], &all[2]]));
    sidecar.wait_endpoints("orders", vec!["b", "c"]).await;
    wait::until_true("the requests in flight to it have ended", || all[0].in_flight() == 0).await;
    let last = all[0].count();
    all[0].kill(Kill::Reset).await;
    load.wait_successes(500).await;
    assert_eq!(all[0].count(), last, "a removed instance gets no request");
    load.stop().await.assert_clean(700);
}

#[tokio::test]
async fn a_bad_file_is_ignored_until_a_good_one_replaces_it() {
    let all = [Instance::start("a").await, Instance::start("b").await];
    let sidecar = Sidecar::orders("", &[&all[0]]).await;
    let load = Load::start(sidecar.addr(), LoadPlan::get("orders"));
    for bad in [
        "services: [",
        "services:\n  orders:\n    - {address: 127.0.0.1, port: 99999}\n",
        "services:\n  orders:\n    - {adress: 127.0.0.1, port: 80}\n",
        "\0\u{1}",
    ] {
        sidecar.write_services_file(bad);
        // Long enough for several polls of the file.
        tokio::time::sleep(std::time::Duration::from_millis(700)).await;
        assert_eq!(sidecar.get("orders", "/").await.instance(), "a", "{bad:?}");
    }
    std::fs::remove_file(sidecar.services_file()).unwrap();
    tokio::time::sleep(std::time::Duration::from_millis(700)).await;
    assert_eq!(sidecar.get("orders", "/").await.instance(), "a");
    sidecar.write_services(&Services::of("orders", &[&all[1]]));
    all[1].wait_requests(10).await;
    load.stop().await.assert_clean(100);
}

#[tokio::test]
async fn a_service_that_appears_is_found_and_one_that_vanishes_is_unknown() {
    let instance = Instance::start("a").await;
    let sidecar = Sidecar::start("", &Services::default().empty("other")).await;
    assert_eq!(sidecar.get("orders", "/").await.reason(), "unknown_service");
    sidecar.write_services(&Services::of("orders", &[&instance]));
    wait::until("orders is found", wait::TIMEOUT, async || sidecar.get("orders", "/").await.status == 200)
        .await;
    sidecar.write_services(&Services::default().empty("orders"));
    wait::until("orders is removed", wait::TIMEOUT, async || sidecar.get("orders", "/").await.status != 200)
        .await;
    let response = sidecar.get("orders", "/").await;
    assert!(matches!(response.reason(), "unknown_service" | "no_usable_instance"), "{response:?}");
}

#[tokio::test]
async fn health_and_weight_follow_the_file() {
    let all = [Instance::start("a").await, Instance::start("b").await];
    let sidecar = Sidecar::orders("defaults: {balance: weighted}", &[&all[0], &all[1]]).await;
    sidecar.get("orders", "/").await;
    sidecar.write_services(&Services::default().and("orders", &all[0], "status: critical").and(
        "orders",
        &all[1],
        "weight: 5",
    ));
    wait::until_true("the file is read", || {
        sidecar.endpoints("orders").iter().any(|endpoint| endpoint.status == "critical")
    })
    .await;
    let before = all[0].count();
    for _ in 0..10 {
        assert_eq!(sidecar.get("orders", "/").await.instance(), "b");
    }
    assert_eq!(all[0].count(), before);
}

#[tokio::test]
async fn a_request_in_flight_to_a_removed_instance_is_finished() {
    let gate = outrigger_tests::instance::Gate::closed();
    let opened = gate.clone();
    let old = Instance::scripted("old", move |request| match request.method() {
        "POST" => Answer::ok("finished").when(&opened),
        _ => Answer::ok("at once"),
    })
    .await;
    let new = Instance::start("new").await;
    let sidecar = Sidecar::orders("", &[&old]).await;
    let mut client = sidecar.client().await;
    client.send("POST / HTTP/1.1\r\nHost: orders\r\nContent-Length: 0\r\n\r\n").await;
    old.wait_requests(1).await;
    sidecar.write_services(&Services::of("orders", &[&new]));
    wait::until("the new instance is used", wait::TIMEOUT, async || {
        sidecar.get("orders", "/").await.instance() == "new"
    })
    .await;
    gate.open();
    assert_eq!(client.response().await.text(), "finished");
    wait::until_true("the connections to the old instance are closed", || old.open() == 0).await;
}

#[tokio::test]
async fn the_series_of_a_removed_instance_are_removed() {
    let all = [Instance::start("a").await, Instance::start("b").await];
    let sidecar = Sidecar::orders("", &[&all[0], &all[1]]).await;
    for _ in 0..4 {
        sidecar.get("orders", "/").await;
    }
    let instances = || sidecar.label_values("outrigger_instance_picks_total", "instance");
    assert_eq!(instances().len(), 2, "{:?}", instances());
    sidecar.write_services(&Services::of("orders", &[&all[0]]));
    wait::until_true("the series of the removed instance are gone", || instances().len() == 1).await;
    assert_eq!(sidecar.get("orders", "/").await.instance(), "a");
}

#[tokio::test]
async fn an_instance_that_moves_is_used_at_its_new_address() {
    let old = Instance::start("same").await;
    let sidecar = Sidecar::orders("", &[&old]).await;
    assert_eq!(sidecar.get("orders", "/").await.status, 200);
    let new = Instance::start("same").await;
    sidecar.write_services(&Services::of("orders", &[&new]));
    wait::until("the new address is used", wait::TIMEOUT, async || {
        sidecar.get("orders", "/").await;
        new.count() > 0
    })
    .await;
    let count = old.count();
    for _ in 0..5 {
        assert_eq!(sidecar.get("orders", "/").await.status, 200);
    }
    assert_eq!(old.count(), count);
}
