//! An instance that fails is not chosen any more, ahead of the registry, and is chosen again when it is
//! well. The last one never goes.

use std::time::Duration;

use outrigger_tests::{
    instance::{Answer, Instance, Kill},
    sidecar::Sidecar,
    wait,
};
use tokio::time::Instant;

async fn all_well(sidecar: &Sidecar, requests: usize) {
    let mut client = sidecar.client().await;
    for _ in 0..requests {
        assert_eq!(client.get("orders", "/").await.status, 200);
    }
}

fn trust(sidecar: &Sidecar, trust: &str) -> f64 {
    sidecar.metric("outrigger_instances_trust", &[("service", "orders"), ("trust", trust)])
}

fn ejected(sidecar: &Sidecar, kind: &str) -> f64 {
    sidecar.metric("outrigger_ejections_total", &[("service", "orders"), ("kind", kind)])
}

#[tokio::test]
async fn an_instance_that_refuses_connections_is_tried_once_and_comes_back_by_itself() {
    let all = [Instance::start("a").await, Instance::start("b").await, Instance::start("c").await];
    let sidecar = Sidecar::orders("", &[&all[0], &all[1], &all[2]]).await;
    all_well(&sidecar, 9).await;
    all[1].kill(Kill::Fin).await;
    all_well(&sidecar, 60).await;
    let refused =
        sidecar.metric("outrigger_attempts_total", &[("service", "orders"), ("outcome", "connect_refused")]);
    assert!((1.0..=2.0).contains(&refused), "tried {refused} times after its death");
    assert_eq!((ejected(&sidecar, "hard"), trust(&sidecar, "ejected")), (1.0, 1.0));
    let told = sidecar.endpoints("orders").into_iter().filter_map(|one| one.why_not).collect::<Vec<_>>();
    assert!(told.len() == 1 && told[0].starts_with("ejected: "), "the page says why: {told:?}");

    all[1].revive().await;
    let before = all[1].count();
    wait::until("it is chosen again", wait::BOUND, async || {
        all_well(&sidecar, 3).await;
        all[1].count() > before
    })
    .await;
    assert_eq!(trust(&sidecar, "trusted"), 3.0);
}

#[tokio::test]
async fn an_instance_that_answers_503_is_out_after_five_and_the_last_one_never() {
    let well = Instance::start("a").await;
    let ill = Instance::scripted("b", |_| Answer::status(503, "no")).await;
    let sidecar = Sidecar::orders("defaults: {outlier: {base: 30s}}", &[&well, &ill]).await;
    all_well(&sidecar, 60).await;
    assert_eq!((ill.count(), ejected(&sidecar, "soft")), (5, 1.0));

    let alone = Instance::scripted("x", |_| Answer::status(503, "no")).await;
    let settings = "defaults: {circuit_breaker: off, retry: off}";
    let sidecar = Sidecar::orders(settings, &[&alone]).await;
    let mut client = sidecar.client().await;
    for _ in 0..20 {
        assert_eq!(client.get("orders", "/").await.status, 503);
    }
    assert_eq!(alone.count(), 20, "the only one is always asked");
}

#[tokio::test]
async fn when_all_were_dead_the_first_one_back_is_used_within_a_second() {
    let all = [Instance::start("a").await, Instance::start("b").await];
    let sidecar = Sidecar::orders("", &[&all[0], &all[1]]).await;
    all_well(&sidecar, 4).await;
    for one in &all {
        one.kill(Kill::Reset).await;
    }
    // Enough failures to open the breaker too.
    for _ in 0..40 {
        let answer = sidecar.get("orders", "/").await;
        assert!(matches!(answer.reason(), "connect_failed" | "circuit_open"), "{answer:?}");
    }
    all[0].revive().await;
    let back = Instant::now();
    wait::until("a request is answered", wait::BOUND, async || {
        sidecar.get("orders", "/").await.status == 200
    })
    .await;
    // Probes come every 250 ms; the rest is room for a busy machine.
    assert!(back.elapsed() < Duration::from_secs(3), "{:?}", back.elapsed());
}

#[tokio::test]
async fn with_ejection_off_an_instance_keeps_its_turns() {
    let well = Instance::start("a").await;
    let ill = Instance::scripted("b", |_| Answer::status(503, "no")).await;
    let sidecar = Sidecar::orders("defaults: {outlier: off}", &[&well, &ill]).await;
    all_well(&sidecar, 40).await;
    assert_eq!(ill.count(), 20);
}
