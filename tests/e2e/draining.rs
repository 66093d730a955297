//! An instance that leaves is used as long as no other one is, and one that is ill is not.

use outrigger::App;
use outrigger_devregistry::{DevRegistry, DevRegistryOptions};
use outrigger_tests::{
    client,
    consul::{self, Consul},
    instance::{Instance, Kill},
    process::Process,
    registry::ConsulAgent,
    wait,
};
use serde_json::{Value, json};

use crate::app;

/// Instances of `orders` with a check each, and a sidecar that routes to them.
struct DrainSetup {
    _registry: DevRegistry,
    agent: ConsulAgent,
    app: App,
    addr: std::net::SocketAddr,
}

impl DrainSetup {
    async fn new(instances: &[&Instance]) -> Self {
        Self::with_settings(instances, "upstreams: [{service: orders}]").await
    }

    async fn with_settings(instances: &[&Instance], settings: &str) -> Self {
        let registry = DevRegistry::bind("127.0.0.1:0".parse().unwrap(), DevRegistryOptions::default())
            .await
            .expect("a registry");
        let agent = ConsulAgent(registry.addr());
        for instance in instances {
            register(agent, instance).await;
        }
        let (app, addr) = app::start_router(registry.addr(), settings).await;
        Self { _registry: registry, agent, app, addr }
    }

    async fn report(&self, instance: &Instance, status: &str, output: &str) {
        let path = format!("/v1/agent/check/update/service:{}", instance.name());
        self.agent.put(&path, &json!({"Status": status, "Output": output})).await;
        let status = status.to_owned();
        wait::until("the sidecar knows it", wait::TIMEOUT, async || {
            self.app.clusters()[0]
                .endpoints
                .iter()
                .any(|one| one.id == instance.name() && one.status == status)
        })
        .await;
    }

    async fn get(&self) -> client::Response {
        client::get(self.addr, "orders", "/").await
    }

    fn why_not(&self, instance: &Instance) -> String {
        let clusters = self.app.clusters();
        let found = clusters[0].endpoints.iter().find(|one| one.id == instance.name());
        found.and_then(|one| one.why_not.clone()).unwrap_or_default()
    }
}

async fn register(agent: ConsulAgent, instance: &Instance) {
    let (name, addr) = (instance.name(), instance.addr());
    let check = json!({"TTL": "600s", "Status": "passing"});
    let body =
        json!({"Name": "orders", "ID": name, "Address": addr.ip(), "Port": addr.port(), "Check": check});
    agent.put("/v1/agent/service/register", &body).await;
}

#[tokio::test]
async fn the_last_instance_that_drains_is_used_until_it_refuses_connections() {
    let last = Instance::start("last").await;
    let setup = DrainSetup::new(&[&last]).await;
    setup.report(&last, "critical", "outrigger: draining").await;
    for _ in 0..20 {
        assert_eq!(setup.get().await.status, 200);
    }
    assert!(setup.why_not(&last).contains("in use, because no other"), "{}", setup.why_not(&last));

    last.kill(Kill::Reset).await;
    wait::until("it is used no more", wait::TIMEOUT, async || {
        let response = setup.get().await;
        assert_ne!(response.status, 200);
        response.reason() == "no_usable_instance"
    })
    .await;
    assert!(setup.why_not(&last).contains("refuses connections"), "{}", setup.why_not(&last));
    // It refuses for as long as it drains, and is used again once it is healthy.
    last.listen_again().await;
    assert_eq!(setup.get().await.reason(), "no_usable_instance");
    setup.report(&last, "passing", "back").await;
    wait::until("it is used again", wait::TIMEOUT, async || setup.get().await.status == 200).await;
}

#[tokio::test]
async fn an_instance_that_is_ill_or_in_maintenance_is_not_used_whatever_drains_beside_it() {
    let only = Instance::start("only").await;
    let setup = DrainSetup::new(&[&only]).await;
    for output in ["", "outrigger: reported by the sidecar", "HTTP GET http://x: 500", "undraining"] {
        setup.report(&only, "passing", "fine").await;
        setup.report(&only, "critical", output).await;
        assert_eq!(setup.get().await.reason(), "no_usable_instance", "{output:?}");
    }
    // A second check that is critical for another reason.
    setup.report(&only, "passing", "fine").await;
    let second =
        json!({"Name": "disk", "ID": "disk", "ServiceID": "only", "TTL": "600s", "Status": "critical"});
    setup.agent.put("/v1/agent/check/register", &second).await;
    setup.report(&only, "critical", "outrigger: draining").await;
    assert_eq!(setup.get().await.reason(), "no_usable_instance");
    setup.agent.put("/v1/agent/check/deregister/disk", &Value::Null).await;
    wait::until("only the draining check is left", wait::TIMEOUT, async || setup.get().await.status == 200)
        .await;
    setup.agent.put("/v1/agent/service/maintenance/only?enable=true", &Value::Null).await;
    wait::until("maintenance is obeyed", wait::TIMEOUT, async || {
        setup.get().await.reason() == "no_usable_instance"
    })
    .await;
}

#[tokio::test]
async fn a_draining_instance_gets_nothing_while_another_is_healthy_and_all_when_that_one_is_ejected() {
    let (healthy, leaving) = (Instance::start("healthy").await, Instance::start("leaving").await);
    let setup = DrainSetup::new(&[&healthy, &leaving]).await;
    setup.report(&leaving, "critical", "outrigger: draining").await;
    let before = leaving.count();
    for _ in 0..20 {
        assert_eq!(setup.get().await.status, 200);
    }
    assert_eq!(leaving.count(), before, "another instance is healthy");
    assert!(setup.why_not(&leaving).contains("only while no other"), "{}", setup.why_not(&leaving));

    // The registry still lists it as passing.
    healthy.kill(Kill::Reset).await;
    for _ in 0..20 {
        assert_eq!(setup.get().await.status, 200);
    }
    assert!(leaving.count() >= before + 20);
}

/// Without outlier detection nothing takes the instance out that refuses connections, and each request is to find the other one.
#[tokio::test]
async fn a_draining_instance_is_used_when_the_other_one_refuses_and_is_not_ejected() {
    let (refusing, leaving) = (Instance::start("refusing").await, Instance::start("leaving").await);
    let settings = "upstreams: [{service: orders, outlier: off, timeout: 5s}]";
    let setup = DrainSetup::with_settings(&[&refusing, &leaving], settings).await;
    setup.report(&leaving, "critical", "outrigger: draining").await;
    refusing.kill(Kill::Reset).await;
    let before = leaving.count();
    let picks = || setup.app.clusters()[0].endpoints.iter().map(|one| one.picks).sum::<u64>();
    for method in ["GET", "POST"] {
        let picks_before = picks();
        let request = format!("{method} / HTTP/1.1\r\nHost: orders\r\nContent-Length: 0\r\n\r\n");
        let response = client::exchange(setup.addr, request).await;
        assert_eq!((response.status, picks() - picks_before), (200, 2), "{method}: {response:?}");
    }
    assert_eq!(leaving.count(), before + 2);
}

/// A sidecar of the app that drains, and one of a caller.
async fn assert_no_request_fails_while_the_last_instance_drains(agent: ConsulAgent) {
    let instance = Instance::start("app").await;
    let settings = format!(
        "registry: {{consul: {{address: \"http://{}\"}}}}\n\
         service: {{name: orders, id: orders-1, port: {}, address: 127.0.0.1}}",
        agent.0,
        instance.addr().port(),
    );
    let process = Process::run(&settings).await;
    process.wait_ready().await;
    let (app, addr) = app::start_router(agent.0, "upstreams: [{service: orders}]").await;
    assert_eq!(client::get(addr, "orders", "/").await.status, 200);
    process.admin_post("/drain").await;
    // Until it is deregistered, its callers use it.
    let mut outputs = Vec::new();
    wait::until("the app is deregistered", wait::TIMEOUT, async || {
        let entries = agent.get("/v1/health/service/orders").await;
        let checks = entries[0]["Checks"].as_array().cloned().unwrap_or_default();
        let critical = checks.into_iter().filter(|check| check["Status"] == "critical");
        outputs.extend(critical.map(|check| check["Output"].as_str().unwrap_or_default().to_owned()));
        if entries[0].is_null() {
            return true;
        }
        let response = client::get(addr, "orders", "/").await;
        // It may have been deregistered since.
        let is_gone = agent.get("/v1/health/service/orders").await[0].is_null();
        assert!(response.status == 200 || is_gone, "{response:?} with {entries}");
        false
    })
    .await;
    assert!(!outputs.is_empty() && outputs.iter().all(|one| one == "outrigger: draining"), "{outputs:?}");
    app.shutdown().await;
}

#[tokio::test]
async fn callers_use_the_last_instance_until_its_sidecar_has_deregistered_it() {
    let registry = DevRegistry::bind("127.0.0.1:0".parse().unwrap(), DevRegistryOptions::default())
        .await
        .expect("a registry");
    assert_no_request_fails_while_the_last_instance_drains(ConsulAgent(registry.addr())).await;
}

#[tokio::test]
async fn callers_use_the_last_instance_until_it_is_deregistered_at_a_real_agent() {
    if !consul::available("callers use the last instance until it is deregistered at a real agent") {
        return;
    }
    let consul = Consul::dev().await.expect("an agent");
    assert_no_request_fails_while_the_last_instance_drains(ConsulAgent(consul.http_addr())).await;
}
