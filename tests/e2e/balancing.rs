//! The share of the requests that each instance gets.

use std::{collections::BTreeMap, time::Duration};

use outrigger_tests::{
    instance::{Answer, Gate, Instance, refusing_addr},
    sidecar::{Services, Sidecar},
    wait,
};

async fn shares(sidecar: &Sidecar, requests: usize) -> BTreeMap<String, usize> {
    let mut client = sidecar.client().await;
    let mut shares = BTreeMap::new();
    for _ in 0..requests {
        let response = client.get("orders", "/").await;
        assert_eq!(response.status, 200, "{response:?}");
        *shares.entry(response.instance().to_owned()).or_default() += 1;
    }
    shares
}

fn expected(list: &[(&str, usize)]) -> BTreeMap<String, usize> {
    list.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect()
}

#[tokio::test]
async fn round_robin_gives_each_instance_the_same_share() {
    let all = [Instance::start("a").await, Instance::start("b").await, Instance::start("c").await];
    let sidecar = Sidecar::orders("", &[&all[0], &all[1], &all[2]]).await;
    assert_eq!(shares(&sidecar, 300).await, expected(&[("a", 100), ("b", 100), ("c", 100)]));
}

#[tokio::test]
async fn round_robin_picks_the_instances_in_turn() {
    let all = [Instance::start("a").await, Instance::start("b").await, Instance::start("c").await];
    let sidecar = Sidecar::orders("", &[&all[0], &all[1], &all[2]]).await;
    let mut order = Vec::new();
    for _ in 0..9 {
        order.push(sidecar.get("orders", "/").await.instance().to_owned());
    }
    assert_eq!(order[..3], order[3..6]);
    assert_eq!(order[..3], order[6..]);
}

#[tokio::test]
async fn weights_of_1_2_and_3_are_shares_of_1_2_and_3() {
    let all = [Instance::start("a").await, Instance::start("b").await, Instance::start("c").await];
    let services = Services::default()
        .and("orders", &all[0], "weight: 10")
        .and("orders", &all[1], "weight: 20")
        .and("orders", &all[2], "weight: 30");
    let sidecar = Sidecar::start("defaults: {balance: weighted}", &services).await;
    assert_eq!(shares(&sidecar, 60).await, expected(&[("a", 10), ("b", 20), ("c", 30)]));
    // Smooth weighting: within one cycle of six no instance gets its whole share in a row.
    let mut row = (String::new(), 0);
    for _ in 0..12 {
        let name = sidecar.get("orders", "/").await.instance().to_owned();
        row = if row.0 == name { (name, row.1 + 1) } else { (name, 1) };
        assert!(row.1 < 3, "{row:?} in a row");
    }
}

#[tokio::test]
async fn a_warning_instance_has_its_warning_weight_and_a_critical_one_none() {
    let all = [Instance::start("a").await, Instance::start("b").await, Instance::start("c").await];
    let services = Services::default()
        .and("orders", &all[0], "weight: 3")
        .and("orders", &all[1], "weight: 3, status: warning")
        .and("orders", &all[2], "weight: 3, status: critical");
    let sidecar = Sidecar::start("defaults: {balance: weighted}", &services).await;
    assert_eq!(shares(&sidecar, 40).await, expected(&[("a", 30), ("b", 10)]));
}

#[tokio::test]
async fn random_uses_every_instance() {
    let all = [Instance::start("a").await, Instance::start("b").await, Instance::start("c").await];
    let sidecar = Sidecar::orders("defaults: {balance: random}", &[&all[0], &all[1], &all[2]]).await;
    let shares = shares(&sidecar, 600).await;
    // Ten standard deviations from 200: chance does not exceed them; a missing or preferred instance does.
    assert!(shares.len() == 3 && shares.values().all(|count| (85..=315).contains(count)), "{shares:?}");
    assert!(shares.values().any(|count| *count != 200), "in turn, not at random: {shares:?}");
}

#[tokio::test]
async fn retries_do_not_advance_the_rotation() {
    let all = [Instance::start("a").await, Instance::start("b").await];
    let broken = Instance::scripted("x", |_| Answer::status(503, "no")).await;
    let sidecar = Sidecar::orders("defaults: {outlier: off}", &[&all[0], &all[1], &broken]).await;
    let mut client = sidecar.client().await;
    for _ in 0..90 {
        assert_eq!(client.get("orders", "/").await.status, 200);
    }
    assert_eq!(broken.count(), 30, "only the picks of its own turns");
    assert_eq!(all[0].count() + all[1].count(), 90);
}

#[tokio::test]
async fn an_instance_that_refuses_connections_costs_no_request() {
    let all = [Instance::start("a").await, Instance::start("b").await];
    let services = Services::of("orders", &[&all[0], &all[1]]).and_at("orders", "gone", refusing_addr(), "");
    let sidecar = Sidecar::start("", &services).await;
    let shares = shares(&sidecar, 90).await;
    assert_eq!(shares.values().sum::<usize>(), 90);
}

#[tokio::test]
async fn each_service_has_its_own_rotation() {
    let all = [Instance::start("a").await, Instance::start("b").await, Instance::start("p").await];
    let services = Services::of("orders", &[&all[0], &all[1]]).and("payments", &all[2], "");
    let sidecar = Sidecar::start("", &services).await;
    let mut client = sidecar.client().await;
    for _ in 0..20 {
        assert_eq!(client.get("orders", "/").await.status, 200);
        assert_eq!(client.get("payments", "/").await.instance(), "p");
    }
    assert_eq!((all[0].count(), all[1].count(), all[2].count()), (10, 10, 20));
}

#[tokio::test]
async fn least_request_leaves_the_instance_that_has_a_request_alone() {
    let gate = Gate::closed();
    let all = [Instance::start("a").await, Instance::start("b").await];
    for instance in &all {
        let opened = gate.clone();
        instance.set_script(move |request| match request.target() {
            "/held" => Answer::ok("late").when(&opened),
            _ => Answer::ok("done"),
        });
    }
    let sidecar = Sidecar::orders("defaults: {balance: least_request}", &[&all[0], &all[1]]).await;
    let mut held = sidecar.client().await;
    held.send("GET /held HTTP/1.1\r\nHost: orders\r\n\r\n").await;
    wait::until_true("it is held", || all[0].count() + all[1].count() == 1).await;
    let busy = usize::from(all[1].count() == 1);
    for _ in 0..30 {
        assert_eq!(sidecar.get("orders", "/").await.status, 200);
    }
    assert_eq!((all[busy].count(), all[1 - busy].count()), (1, 30));
    gate.open();
    assert_eq!(held.response().await.text(), "late");
}

#[tokio::test]
async fn peak_ewma_leaves_a_slow_instance_and_measures_it_again_now_and_then() {
    let all = [Instance::start("a").await, Instance::start("b").await];
    all[0].set_script(|_| Answer::ok("late").delayed(Duration::from_millis(100)));
    let sidecar = Sidecar::orders("defaults: {balance: peak_ewma}", &[&all[0], &all[1]]).await;
    let mut client = sidecar.client().await;
    for _ in 0..300 {
        assert_eq!(client.get("orders", "/").await.status, 200);
    }
    // Of 300 picks 1 in 40 explores the slow one: 7.5 are expected, and more than 30 come in one of 10¹⁰ runs.
    assert!((1..=30).contains(&all[0].count()), "{}", all[0].count());
}
