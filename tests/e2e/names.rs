//! Names as a registry takes them: services and tags that are more than lower-case labels.

use outrigger_devregistry::{DevRegistry, DevRegistryOptions};
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
        process.metric("outrigger_registrations_total{service=\"_Billing.V2_x_\"}").await,
        1.0,
        "no drift is seen:\n{}",
        process.log()
    );
}

/// Two services: the instances of orders have the tags v2 and v1.2, and one each of billing.v2 and v2.
async fn named_services(settings: &str) -> (Sidecar, [Instance; 4]) {
    let all = [
        Instance::start("o2").await,
        Instance::start("o12").await,
        Instance::start("b").await,
        Instance::start("v").await,
    ];
    let services = Services::default()
        .and("orders", &all[0], "tags: [v2]")
        .and("orders", &all[1], "tags: [v1.2]")
        .and("billing.v2", &all[2], "tags: [blue]")
        .and("v2", &all[3], "tags: [billing]");
    (Sidecar::start(settings, &services).await, all)
}

#[tokio::test]
async fn the_long_forms_of_consul_name_a_service_with_or_without_the_domain() {
    let (sidecar, _instances) = named_services("").await;
    for (host, instance) in [
        ("v2.orders.service.dc1.dc.consul", "o2"),
        ("V2.Orders.Service.DC1.DC.Consul.:7070", "o2"),
        ("v2.orders.service.dc1.consul", "o2"),
        ("v2.orders.service.dc1.dc", "o2"),
        ("v2.orders.service", "o2"),
        ("v1.2.orders.service.consul", "o12"),
        ("billing.v2.service.consul", "v"),
        ("v2.service", "v"),
    ] {
        let response = sidecar.get(host, "/").await;
        assert_eq!((response.status, response.instance()), (200, instance), "{host}: {response:?}");
        let absolute = format!("http://{host}/");
        assert_eq!(sidecar.get("x", &absolute).await.instance(), instance, "{absolute}");
    }
    // An app's own clients may use the sidecar as the resolver's search list writes names.
    assert_eq!(sidecar.get("v9.orders.service.dc1.dc", "/").await.reason(), "no_usable_instance");
}

#[tokio::test]
async fn a_declared_service_with_dots_has_the_long_forms_too() {
    let (sidecar, instances) = named_services("upstreams: [{service: billing.v2}]").await;
    for host in [
        "billing.v2",
        "billing.v2.service.consul",
        "blue.billing.v2.service.consul",
        "Billing.V2.service.dc1.dc",
    ] {
        let response = sidecar.get(host, "/").await;
        assert_eq!((response.status, response.instance()), (200, "b"), "{host}: {response:?}");
    }
    assert_eq!(sidecar.get("v2.service.consul", "/").await.instance(), "v");
    // A reload that no longer declares it gives the long form back to the tag.
    sidecar.apply_settings("").await;
    assert_eq!(sidecar.get("billing.v2.service.consul", "/").await.instance(), "v");
    assert_eq!(sidecar.get("billing.v2", "/").await.reason(), "outside_host");
    assert_eq!(instances[3].count(), 2);
}

#[tokio::test]
async fn a_form_of_consul_that_is_not_offered_gets_an_error_that_names_it() {
    let (sidecar, instances) = named_services("").await;
    for (host, form) in [
        ("orders.virtual.consul", ".virtual."),
        ("near.query.consul", ".query."),
        ("orders.connect.dc1.consul:7070", ".connect."),
        ("orders.ingress.consul", ".ingress."),
        ("host-1.node.consul", ".node."),
        ("_orders._tcp.service.consul", "_NAME._tcp."),
        ("_orders._tcp.consul", "_NAME._tcp."),
        ("orders.service.default.ns.consul", ".ns."),
        ("orders.service.default.ns.p1.ap.dc1.dc.consul", ".ns."),
        ("orders.service.p1.ap.dc1.dc.consul", ".ap."),
        ("orders.service.other.peer.consul", ".peer."),
        ("orders.consul", "[TAG.]NAME.service[.DATACENTER.dc].consul"),
    ] {
        for response in [sidecar.get(host, "/").await, sidecar.get("x", &format!("http://{host}/")).await] {
            assert_eq!((response.status, response.reason()), (421, "outside_host"), "{host}: {response:?}");
            let detail = response.json()["detail"].as_str().unwrap().to_owned();
            assert!(detail.contains(form) && detail.contains("orders"), "{host}: {detail}");
        }
    }
    assert!(sidecar.proxy.status().is_empty(), "the registry is asked for none of them");
    assert!(instances.iter().all(|instance| instance.count() == 0));
}

#[tokio::test]
async fn another_domain_of_consul_ends_the_long_names() {
    let consul = DevRegistry::bind("127.0.0.1:0".parse().unwrap(), DevRegistryOptions::default())
        .await
        .expect("a registry");
    let agent = ConsulAgent(consul.addr());
    let instance = Instance::start("o").await;
    agent.register("orders", &instance).await;
    let keys = format!("address: \"http://{}\", domain: Corp.Example.", agent.0);
    let (app, addr) = app::start_router_by(&keys, "").await;
    for host in
        ["orders.service.corp.example", "orders.service.dc1.dc.corp.example.", "orders.service", "orders"]
    {
        let response = client::get(addr, host, "/").await;
        assert_eq!((response.status, response.instance()), (200, "o"), "{host}: {response:?}");
    }
    let response = client::get(addr, "orders.service.consul", "/").await;
    assert_eq!((response.status, response.reason()), (421, "outside_host"), "{response:?}");
    assert!(response.text().contains("corp.example here (registry.consul.domain)"), "{response:?}");
    app.shutdown().await;
}

#[tokio::test]
async fn further_names_of_the_sidecar_serve_the_path_form() {
    let sidecar_is_a_service = Instance::start("s").await;
    let instance = Instance::start("o").await;
    let services = Services::default().and("orders", &instance, "").and("sidecar", &sidecar_is_a_service, "");
    let settings = "outbound: {listen: \"127.0.0.1:0\", names: [sidecar, host.docker.internal, 192.0.2.7]}";
    let sidecar = Sidecar::start(settings, &services).await;
    let hosts = [
        "sidecar",
        "sidecar:7070",
        "SIDECAR.",
        "host.docker.internal:80",
        "192.0.2.7:7070",
        "[::ffff:192.0.2.7]",
    ];
    let check = async || {
        for host in hosts {
            let response = sidecar.get(host, "/svc/orders/x").await;
            assert_eq!((response.status, response.instance()), (200, "o"), "{host}: {response:?}");
            let absolute = format!("http://{host}/svc/orders/x");
            assert_eq!(sidecar.get("x", &absolute).await.instance(), "o", "{absolute}");
            assert_eq!(sidecar.get(host, "/x").await.reason(), "no_route", "{host}");
        }
    };
    check().await;
    // A service of that name is called by its path, and does not take the Host.
    for _ in 0..2 {
        assert_eq!(sidecar.get("sidecar", "/svc/sidecar/").await.instance(), "s");
        check().await;
    }
    assert_eq!(sidecar.get("docker.internal", "/svc/orders/").await.reason(), "outside_host");

    // A reload without the names gives the Host to the service.
    sidecar.apply_settings("").await;
    assert_eq!(sidecar.get("sidecar", "/x").await.instance(), "s");
    assert_eq!(sidecar.get("host.docker.internal", "/svc/orders/").await.reason(), "outside_host");
    sidecar.apply_settings(settings).await;
    check().await;
}

#[tokio::test]
async fn a_page_that_one_of_the_names_served_is_of_this_origin_and_others_are_not() {
    let instance = Instance::start("o").await;
    let settings = "outbound: {listen: \"127.0.0.1:0\", names: [sidecar]}";
    let sidecar = Sidecar::start(settings, &Services::of("orders", &[&instance])).await;
    let port = sidecar.addr().port();
    let get = async |origin: &str| {
        let request =
            format!("GET /svc/orders/ HTTP/1.1\r\nHost: sidecar:{port}\r\nOrigin: {origin}\r\n\r\n");
        sidecar.exchange(request).await
    };
    assert_eq!(get(&format!("http://sidecar:{port}")).await.status, 200);
    for origin in
        ["http://evil.example".to_owned(), format!("http://other:{port}"), "http://sidecar:1".to_owned()]
    {
        assert_eq!(get(&origin).await.reason(), "forbidden_origin", "{origin}");
    }
}
