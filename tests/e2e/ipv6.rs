//! IPv6: the registry's own address, and every form in which an instance may be registered.

use std::net::SocketAddr;

use outrigger_devregistry::{DevRegistry, DevRegistryOptions};
use outrigger_tests::{
    client,
    consul::{self, Consul},
    instance::{Answer, Instance},
    registry::ConsulAgent,
    sidecar::{Services, Sidecar},
    skip, wait,
};
use serde_json::json;

use crate::app;

/// Whether this machine has `::1`; else the test is reported as skipped.
fn has_ipv6(test: &str) -> bool {
    let has = std::net::TcpListener::bind("[::1]:0").is_ok();
    if !has {
        skip::report_skipped(test, "this machine has no ::1");
    }
    has
}

async fn instance_on_ipv6(name: &'static str) -> Instance {
    Instance::start_on("[::1]:0".parse().unwrap(), name, move |_| Answer::ok(name)).await
}

/// Registers an instance of `service` with its address as it is written.
async fn register(agent: ConsulAgent, service: &str, address: &str, port: u16) {
    let body = json!({"Name": service, "Address": address, "Port": port});
    agent.put("/v1/agent/service/register", &body).await;
}

/// Each form of an address reaches its instance, and a form that leads nowhere says why.
async fn check_forms(agent: ConsulAgent, consul: &str) {
    let (six, four) = (instance_on_ipv6("six").await, Instance::start("four").await);
    register(agent, "brackets", "[::1]", six.addr().port()).await;
    register(agent, "long", "0:0:0:0:0:0:0:1", six.addr().port()).await;
    register(agent, "mapped", "::ffff:127.0.0.1", four.addr().port()).await;
    register(agent, "mapped-brackets", "[::ffff:7f00:1]", four.addr().port()).await;
    register(agent, "zone", "fe80::1%lo", 9).await;
    register(agent, "no-zone", "fe80::1", 9).await;
    register(agent, "unknown-zone", "fe80::1%nosuch0", 9).await;
    let (app, addr) = app::start_router_by(&format!("address: \"{consul}\""), "").await;
    for (service, expected) in
        [("brackets", "six"), ("long", "six"), ("mapped", "four"), ("mapped-brackets", "four")]
    {
        let response = client::get(addr, service, "/").await;
        assert_eq!(
            (response.status, response.text().contains(expected)),
            (200, true),
            "{service}: {response:?}"
        );
    }
    // No interface of this machine has fe80::1, so that only the way there is looked at.
    for (service, address, why_not) in [
        ("zone", "[fe80::1%1]:9", None),
        ("no-zone", "-", Some("a link-local address needs a zone")),
        ("unknown-zone", "-", Some("no network interface \"nosuch0\"")),
    ] {
        client::get(addr, service, "/").await;
        let page = client::get(app.admin_addrs()[0], "localhost", "/services").await.json();
        let services = page["services"].as_array().unwrap();
        let found = services.iter().find(|one| one["service"] == service).unwrap();
        let instance = &found["instances"][0];
        assert_eq!(instance["address"], address, "{instance}");
        if let Some(words) = why_not {
            assert!(instance["why_not"].as_str().unwrap().contains(words), "{instance}");
        }
    }
    app.shutdown().await;
}

#[tokio::test]
async fn an_instance_is_reached_in_every_form_of_its_address() {
    if !has_ipv6("an instance is reached in every form of its address") {
        return;
    }
    let registry = DevRegistry::bind("[::1]:0".parse().unwrap(), DevRegistryOptions::default())
        .await
        .expect("a registry on IPv6");
    let agent = ConsulAgent(registry.addr());
    check_forms(agent, &format!("http://{}", registry.addr())).await;
}

#[tokio::test]
async fn consul_gives_an_address_back_as_it_was_registered() {
    let test = "Consul gives an address back as it was registered";
    if !has_ipv6(test) || !consul::available(test) {
        return;
    }
    let consul = Consul::server_with("addresses { http = \"127.0.0.1 ::1\" }").await.expect("an agent");
    let agent = ConsulAgent(consul.http_addr());
    let six = SocketAddr::new("::1".parse().unwrap(), agent.0.port());
    check_forms(agent, &format!("http://{six}")).await;
    check_forms(agent, &format!("{six}")).await;
}

#[tokio::test]
async fn static_instances_may_have_any_form_too() {
    if !has_ipv6("static instances may have any form too") {
        return;
    }
    let (six, four) = (instance_on_ipv6("six").await, Instance::start("four").await);
    let sidecar = Sidecar::start("", &Services::default().empty("none")).await;
    sidecar.write_services_file(&format!(
        "services:\n  a: [\"[::1]:{six}\"]\n  b: [{{address: \"[::1]\", port: {six}}}]\n  \
         c: [{{address: \"::ffff:127.0.0.1\", port: {four}}}]\n  d: [\"[fe80::1%lo]:9\"]\n",
        six = six.addr().port(),
        four = four.addr().port(),
    ));
    for (service, expected) in [("a", "six"), ("b", "six"), ("c", "four")] {
        wait::until(&format!("{service} is called"), wait::TIMEOUT, async || {
            sidecar.get(service, "/").await.text().contains(expected)
        })
        .await;
    }
    sidecar.get("d", "/").await;
    wait::until_true("the address with a zone is listed", || {
        sidecar.endpoints("d").iter().any(|one| one.address == "[fe80::1%1]:9")
    })
    .await;
}
