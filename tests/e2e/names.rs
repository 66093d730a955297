//! Names as a registry takes them: services and tags that are more than lower-case labels.

use outrigger_tests::{
    client,
    consul::{self, Consul},
    instance::Instance,
    process::Process,
    registry::ConsulAgent,
    sidecar::{Services, Sidecar},
};
use serde_json::json;

use crate::app;

#[tokio::test]
async fn a_service_with_dots_is_named_by_the_path_and_by_the_host_once_it_is_declared() {
    let all = [Instance::start("b").await, Instance::start("u").await];
    let services = Services::default().and("Billing.V2_x", &all[0], "").and("other.v1", &all[1], "");
    let sidecar = Sidecar::start("upstreams: [{service: Billing.V2_x}]", &services).await;
    let own = sidecar.addr().to_string();
    for service in ["Billing.V2_x", "billing.v2_x"] {
        let response = sidecar.get(&own, &format!("/svc/{service}/items")).await;
        assert_eq!((response.status, response.instance()), (200, "b"), "{service}: {response:?}");
        let seen = all[0].take_seen().remove(0);
        assert_eq!((seen.request.target(), seen.request.head.get("host")), ("/items", Some(service)));
    }
    for host in ["Billing.V2_x", "billing.v2_x", "billing.v2_x:7070", "BILLING.V2_X."] {
        let response = sidecar.get(host, "/").await;
        assert_eq!((response.status, response.instance()), (200, "b"), "{host}: {response:?}");
        let absolute = format!("http://{host}/");
        assert_eq!(sidecar.get("orders", &absolute).await.instance(), "b", "{absolute}");
    }
    assert_eq!(sidecar.get(&own, "/svc/other.v1/").await.instance(), "u", "any service, by the path");
}

#[tokio::test]
async fn a_host_with_dots_that_is_not_declared_is_refused_and_no_registry_is_asked_for_it() {
    let instance = Instance::start("u").await;
    let sidecar = Sidecar::start("", &Services::of("other.v1", &[&instance])).await;
    for host in ["other.v1", "Other.V1:7070", "v1", "made-up.example.org", "a.b.c"] {
        let response = sidecar.get(host, "/").await;
        if host == "v1" {
            assert_eq!(response.reason(), "unknown_service", "{host}");
            continue;
        }
        assert_eq!((response.status, response.reason()), (421, "outside_host"), "{host}: {response:?}");
        let detail = response.json()["detail"].as_str().unwrap().to_owned();
        assert!(detail.contains("/svc/") && detail.contains("upstreams[].service"), "{detail}");
    }
    let watched: Vec<_> = sidecar.proxy.status().into_iter().map(|cluster| cluster.service).collect();
    assert_eq!(watched, ["v1"]);
    assert_eq!(instance.count(), 0);
    // Called by its path, it is watched; its Host means it no more than before.
    let own = sidecar.addr().to_string();
    assert_eq!(sidecar.get(&own, "/svc/other.v1/").await.status, 200);
    assert_eq!(sidecar.get("other.v1", "/").await.reason(), "outside_host");
}

#[tokio::test]
async fn consul_takes_the_names_and_tags_and_gives_them_back() {
    if !consul::available("Consul takes names with dots, upper case and _, and tags with commas") {
        return;
    }
    let consul = Consul::dev().await.expect("an agent");
    let agent = ConsulAgent(consul.http_addr());
    let instance = Instance::start("own").await;
    let settings = format!(
        "registry: {{consul: {{address: \"http://{}\"}}}}\ndrain: {{propagation: 0s}}\n\
         service: {{name: _Billing.V2_x_, id: b-1, port: {}, address: 127.0.0.1, tags: ['a,b', c, 'd\\e'], \
         health: {{interval: 200ms, timeout: 200ms}}}}\n",
        agent.0,
        instance.addr().port(),
    );
    let process = Process::run(&settings).await;
    agent.wait_health("_Billing.V2_x_", &[("b-1", "passing")]).await;
    process.wait_ready().await;
    let listed = agent.get("/v1/health/service/_billing.v2_x_").await;
    assert_eq!(listed[0]["Service"]["Tags"], json!(["a,b", "c", "d\\e"]));
    assert_eq!(listed[0]["Service"]["Service"], json!("_Billing.V2_x_"));

    let (app, addr) =
        app::start_router(agent.0, "upstreams: [{service: _Billing.V2_x_, tags: ['A,B']}]").await;
    let own = addr.to_string();
    assert_eq!(client::get(addr, &own, "/svc/_Billing.V2_x_/").await.instance(), "own");
    assert_eq!(client::get(addr, "_billing.v2_x_", "/").await.instance(), "own");
    app.shutdown().await;
    assert_eq!(
        process.metric("outrigger_registrations_total").await,
        1.0,
        "no drift is seen:\n{}",
        process.log()
    );
}
