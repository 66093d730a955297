//! While no instance of a service is usable, its requests go to a failover target, and return afterwards.

use std::{
    sync::Arc,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    time::Duration,
};

use outrigger::App;
use outrigger_events::{EventFilter, EventKind};
use outrigger_proxy::ClusterStatus;
use outrigger_tests::{
    client,
    consul::{self, ConsulDatacenters},
    instance::{Answer, Instance, Kill},
    load::{Load, LoadPlan},
    registry::ConsulAgent,
    sidecar::{Services, Sidecar},
    wait,
};
use serde_json::json;

use crate::app;

/// Longest wait for what takes Consul, or an ejection, some seconds.
const PATIENCE: Duration = Duration::from_secs(60);

const TO_FALLBACK: &str =
    "upstreams: [{service: orders, failover: [{service: orders-fallback}], return_after: 1s}]";

/// An instance that answers 503 to everything while `is_ill`.
async fn moody(name: &str, is_ill: &Arc<AtomicBool>) -> Instance {
    let is_ill = Arc::clone(is_ill);
    Instance::scripted(name, move |_| {
        if is_ill.load(Relaxed) { Answer::status(503, "ill") } else { Answer::ok("well") }
    })
    .await
}

fn services(own: &[&Instance], fallback: &[&Instance]) -> Services {
    let all = own.iter().fold(Services::default().empty("orders"), |all, one| all.and("orders", one, ""));
    fallback.iter().fold(all.empty("orders-fallback"), |all, one| all.and("orders-fallback", one, ""))
}

fn kinds(sidecar: &Sidecar) -> Vec<String> {
    let is_failover = |line: &&String| line.starts_with("failover") || line.starts_with("panic");
    sidecar.events("orders").iter().filter(is_failover).cloned().collect()
}

#[tokio::test]
async fn requests_go_to_another_service_while_all_instances_are_killed_and_return_afterwards() {
    let own = [Instance::start("a").await, Instance::start("b").await];
    let fallback = Instance::start("f").await;
    let sidecar = Sidecar::start(TO_FALLBACK, &services(&[&own[0], &own[1]], &[&fallback])).await;
    let load = Load::start(sidecar.addr(), LoadPlan::get("orders"));
    load.wait_successes(100).await;
    assert_eq!(fallback.count(), 0, "while an instance is usable none goes elsewhere");
    for one in &own {
        one.kill(Kill::Reset).await;
    }
    wait::until("it takes the requests", wait::TIMEOUT, async || fallback.count() > 50).await;
    let active = [("service", "orders"), ("subset", "")];
    assert_eq!(sidecar.metric("outrigger_failover_active", &active), 1.0);
    let attempts = [("service", "orders"), ("target", "orders-fallback")];
    assert!(sidecar.metric("outrigger_failover_attempts_total", &attempts) > 50.0);
    // What was picked elsewhere counts there.
    let there = sidecar.endpoints("orders-fallback");
    assert!(there[0].picks > 50 && there[0].trust == "trusted", "{there:?}");
    own[0].listen_again().await;
    wait::until("requests return", wait::TIMEOUT, async || {
        own[0].count() > 0 && { sidecar.metric("outrigger_failover_active", &active) == 0.0 }
    })
    .await;
    let before = fallback.count();
    load.wait_successes(100).await;
    assert!(fallback.count() <= before + 8, "only what was under way");
    load.stop().await.assert_clean(250);
    assert_eq!(
        kinds(&sidecar),
        [
            "failover_began -: no instance is usable; requests go to orders-fallback",
            "failover_ended -: its instances are usable again"
        ]
    );
}

#[tokio::test]
async fn all_instances_that_answer_503_are_ejected_and_come_back() {
    let is_ill = Arc::new(AtomicBool::new(false));
    let own = [moody("a", &is_ill).await, moody("b", &is_ill).await];
    let fallback = Instance::start("f").await;
    let sidecar = Sidecar::start(TO_FALLBACK, &services(&[&own[0], &own[1]], &[&fallback])).await;
    let mut client = sidecar.client().await;
    assert_eq!(client.get("orders", "/").await.status, 200);
    is_ill.store(true, Relaxed);
    wait::until("both are ejected", wait::TIMEOUT, async || {
        client.get("orders", "/").await;
        sidecar.endpoints("orders").iter().all(|one| !one.usable)
    })
    .await;
    let load = Load::start(sidecar.addr(), LoadPlan::get("orders"));
    load.wait_successes(300).await;
    is_ill.store(false, Relaxed);
    let before = own[0].count() + own[1].count();
    wait::until("requests return", PATIENCE, async || own[0].count() + own[1].count() > before + 100).await;
    load.stop().await.assert_clean(300);
    let events = kinds(&sidecar);
    assert!(events.iter().all(|line| line.starts_with("failover")), "no panic: {events:?}");
}

#[tokio::test]
async fn a_target_that_is_empty_changes_nothing() {
    let own = Instance::scripted("a", |_| Answer::status(503, "ill")).await;
    let settings = format!("defaults: {{circuit_breaker: off}}\n{TO_FALLBACK}");
    let sidecar = Sidecar::start(&settings, &services(&[&own], &[])).await;
    for _ in 0..20 {
        let response = sidecar.get("orders", "/").await;
        assert_eq!((response.status, response.reason()), (503, ""), "the instance's own answer");
    }
    assert!(sidecar.endpoints("orders")[0].usable, "the last one is not ejected");
    own.kill(Kill::Reset).await;
    let response = sidecar.get("orders", "/").await;
    assert_eq!((response.status, response.reason()), (502, "connect_failed"), "{}", response.text());
    assert_eq!(kinds(&sidecar).iter().filter(|line| line.starts_with("failover")).count(), 0);
}

#[tokio::test]
async fn a_target_that_a_reload_adds_is_used_at_once_and_one_that_it_removes_no_more() {
    let own = Instance::start("a").await;
    let fallback = Instance::start("f").await;
    let sidecar = Sidecar::start("upstreams: [{service: orders}]", &services(&[&own], &[&fallback])).await;
    own.kill(Kill::Reset).await;
    assert_eq!(sidecar.get("orders", "/").await.status, 502);
    sidecar.apply_settings(TO_FALLBACK).await;
    wait::until("it is used", wait::TIMEOUT, async || sidecar.get("orders", "/").await.status == 200).await;
    sidecar.apply_settings("upstreams: [{service: orders}]").await;
    assert_eq!(sidecar.get("orders", "/").await.status, 502);
    wait::until("the failover ends", wait::TIMEOUT, async || {
        kinds(&sidecar).iter().any(|line| line.starts_with("failover_ended"))
    })
    .await;
}

#[tokio::test]
async fn a_subset_with_a_failover_is_not_empty() {
    let (own, fallback) = (Instance::start("a").await, Instance::start("f").await);
    let settings = "upstreams: [{service: orders, subsets: {canary: {tags: [canary]}, all: {meta: {}, tags: [x]}}, \
                    routes: [{to: {subset: canary}, on_empty: {subset: all}}], failover: [{service: orders-fallback}]}]";
    let settings = settings.replace("meta: {}, ", "");
    let services = services(&[], &[&fallback]).and("orders", &own, "tags: [x]");
    let sidecar = Sidecar::start(&settings, &services).await;
    wait::until("the target is known", wait::TIMEOUT, async || {
        sidecar.get("orders", "/").await.status == 200 && fallback.count() > 0
    })
    .await;
    let before = own.count();
    for _ in 0..10 {
        assert_eq!(sidecar.get("orders", "/").await.status, 200);
    }
    assert_eq!(own.count(), before, "the failover comes before on_empty");
}

fn cluster<'a>(clusters: &'a [ClusterStatus], datacenter: Option<&str>) -> &'a ClusterStatus {
    clusters.iter().find(|one| one.datacenter.as_deref() == datacenter).expect("the cluster")
}

/// Two datacenters, with two instances of `orders` in `dc1` and two in `dc2`, of which one has the tag `canary`; and a sidecar.
struct Site {
    own: [Instance; 2],
    other: [Instance; 2],
    consul: ConsulDatacenters,
    app: App,
    addr: std::net::SocketAddr,
}

impl Site {
    async fn start(keys: &str) -> Self {
        let consul = ConsulDatacenters::start().await.expect("two datacenters");
        let (dc1, dc2) = (ConsulAgent(consul.dc1.http_addr()), ConsulAgent(consul.dc2.http_addr()));
        let own = [Instance::start("a").await, Instance::start("b").await];
        let other = [Instance::start("c").await, Instance::start("d").await];
        for (agent, instances) in [(dc1, &own), (dc2, &other)] {
            for (n, one) in instances.iter().enumerate() {
                let tags = if n == 0 { json!(["canary"]) } else { json!([]) };
                let (ip, port) = (one.addr().ip(), one.addr().port());
                let body =
                    json!({"Name": "orders", "ID": one.name(), "Address": ip, "Port": port, "Tags": tags});
                agent.put("/v1/agent/service/register", &body).await;
            }
        }
        dc1.wait_health("orders", &[("a", "passing"), ("b", "passing")]).await;
        dc2.wait_health("orders", &[("c", "passing"), ("d", "passing")]).await;
        let settings = format!(
            "upstreams: [{{service: orders, failover: [{{datacenter: dc2}}], return_after: 2s{keys}}}]"
        );
        let (app, addr) = app::start_router(dc1.0, &settings).await;
        wait::until_true("the target is known", || {
            cluster(&app.clusters(), Some("dc2")).endpoints.iter().filter(|one| one.usable).count() == 2
        })
        .await;
        Self { own, other, consul, app, addr }
    }

    fn taken_elsewhere(&self) -> usize {
        self.other.iter().map(Instance::count).sum()
    }

    /// How many questions about `orders` in this datacenter have failed in a row.
    async fn failed(&self, datacenter: Option<&str>) -> u64 {
        let admin = self.app.admin_addr().expect("an admin side");
        let page = client::get(admin, "localhost", "/services").await.json();
        let all = page["services"].as_array().cloned().unwrap_or_default();
        let found = all.iter().find(|one| one["datacenter"].as_str() == datacenter).expect("the service");
        found["registry"]["failed"].as_u64().expect("a number")
    }

    async fn kill_own(&self) {
        for one in &self.own {
            one.kill(Kill::Reset).await;
        }
    }
}

#[tokio::test]
async fn the_first_request_after_the_last_instance_is_out_goes_to_the_other_datacenter() {
    if !consul::available("the first request goes to the other datacenter") {
        return;
    }
    let site = Site::start("").await;
    let load = Load::start(site.addr, LoadPlan::get("orders"));
    load.wait_successes(100).await;
    assert_eq!(site.taken_elsewhere(), 0);
    site.kill_own().await;
    wait::until("the other datacenter takes them", wait::TIMEOUT, async || site.taken_elsewhere() > 100)
        .await;
    let shown = cluster(&site.app.clusters(), None).failover.clone().expect("a failover");
    assert!(
        shown.active && shown.targets[0].service == "orders@dc2" && shown.targets[0].usable == 2,
        "{shown:?}"
    );
    site.own[1].listen_again().await;
    wait::until("requests return", PATIENCE, async || site.own[1].count() > 200).await;
    assert!(!cluster(&site.app.clusters(), None).failover.clone().expect("a failover").active);
    load.stop().await.assert_clean(300);
    site.app.shutdown().await;
}

#[tokio::test]
async fn a_request_for_a_subset_goes_to_the_instances_of_that_subset_elsewhere() {
    if !consul::available("a request for a subset goes to that subset elsewhere") {
        return;
    }
    let site = Site::start(
        ", subsets: {canary: {tags: [canary]}}, routes: [{match: {path: {exact: /c}}, to: {subset: canary}}]",
    )
    .await;
    site.own[0].kill(Kill::Reset).await;
    for _ in 0..20 {
        assert_eq!(client::get(site.addr, "orders", "/c").await.status, 200);
        assert_eq!(client::get(site.addr, "orders", "/").await.status, 200);
    }
    let counts = [&site.other[0], &site.other[1], &site.own[1]].map(Instance::count);
    assert_eq!(counts, [20, 0, 20], "only the canary, and only its requests");
    site.app.shutdown().await;
}

#[tokio::test]
async fn a_datacenter_that_cannot_be_asked_keeps_its_last_table_and_disturbs_no_other() {
    if !consul::available("a datacenter that cannot be asked keeps its last table") {
        return;
    }
    let mut site = Site::start("").await;
    site.consul.dc2.kill().expect("kill the other server");
    wait::until("the watch fails", PATIENCE, async || site.failed(Some("dc2")).await > 2).await;
    assert_eq!(site.failed(None).await, 0);
    let all = site.app.events().page(&EventFilter::default(), None, usize::MAX).events;
    let count = |kind| all.iter().filter(|one| one.kind() == kind).count();
    assert_eq!((count(EventKind::RegistryLost), count(EventKind::ServiceLost)), (0, 1));
    // Its instances are alive.
    let load = Load::start(site.addr, LoadPlan::get("orders"));
    load.wait_successes(50).await;
    site.kill_own().await;
    wait::until("the other datacenter takes them", wait::TIMEOUT, async || site.taken_elsewhere() > 100)
        .await;
    // The own datacenter is still asked: an instance that is new there is used.
    let new = Instance::start("e").await;
    ConsulAgent(site.consul.dc1.http_addr()).register("orders", &new).await;
    wait::until("requests return", PATIENCE, async || new.count() > 50).await;
    load.stop().await.assert_clean(200);
    site.consul.dc2.start().await.expect("start it again");
    site.consul.join().await.expect("join it again");
    wait::until("the watch is answered again", PATIENCE, async || site.failed(Some("dc2")).await == 0).await;
    site.app.shutdown().await;
}
