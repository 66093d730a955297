//! The names of services by DNS: at the outbound listener or at the instances, from memory while the registry is away, and nothing
//! for a browser.

use std::net::SocketAddr;

use outrigger::App;
use outrigger_net::reserve_addr;
use outrigger_tests::{
    client::{self, Client},
    consul,
    dns::{self, A, AAAA, DnsMessage, NXDOMAIN, REFUSED, SERVFAIL, SOA, SRV},
    instance::Instance,
    process::Process,
    registry::ConsulAgent,
    registry_proxy::{RegistryMode, RegistryProxy},
    wait,
};
use serde_json::json;
use tokio::net::UdpSocket;

use crate::{
    app::{router_settings, start_router},
    registered::dev_registry,
};

const LISTEN: &str = "listen: \"127.0.0.1:0\"";

/// A sidecar with a DNS listener, with these keys of `dns`; its outbound and its DNS address.
async fn start(registry: SocketAddr, keys: &str) -> (App, SocketAddr, SocketAddr) {
    let (app, outbound) = start_router(registry, &format!("dns: {{{LISTEN}, {keys}}}")).await;
    let addr = app.dns_addrs()[0];
    (app, outbound, addr)
}

async fn register(registry: SocketAddr, service: &str, instance: &Instance, tags: &[&str]) {
    let (name, addr) = (instance.name(), instance.addr());
    let body = json!({"Name": service, "ID": name, "Address": addr.ip().to_string(), "Port": addr.port(), "Tags": tags});
    ConsulAgent(registry).put("/v1/agent/service/register", &body).await;
}

/// Waits until the answers to a question are these.
async fn wait_answers(server: SocketAddr, name: &str, record_type: u16, expected: &[&str]) {
    wait::until(&format!("{name} is {expected:?}"), wait::TIMEOUT, async || {
        dns::ask(server, name, record_type).await.answers() == expected
    })
    .await;
}

on_both_registries! {
    names_of_the_outbound_listener: every_form_of_a_name_is_the_outbound_listener;
    names_of_instances: every_form_of_a_name_is_its_usable_instances;
}

async fn every_form_of_a_name_is_the_outbound_listener(registry: SocketAddr) {
    let instance = Instance::start("a").await;
    register(registry, "orders", &instance, &["v2", "v1.2"]).await;
    let (_app, outbound, server) = start(registry, "answer: loopback").await;
    let port = outbound.port();
    for name in [
        "orders.service.consul",
        "Orders.Service.Consul",
        "orders.service.dc1.consul",
        "orders.service.dc1.dc.consul",
        "v2.orders.service.consul",
        "V2.orders.service.dc1.consul",
        "v1.2.orders.service.consul",
        "_orders._tcp.service.consul",
        "_orders._v2.service.consul",
    ] {
        let answer = dns::ask(server, name, A).await;
        assert_eq!((answer.code(), answer.answers(), answer.ttl()), (0, vec!["127.0.0.1".into()], Some(5)));
        // In the case of the question (0x20).
        assert_eq!(answer.sections[0][0].name, format!("{name}."));
        let srv = dns::ask(server, name, SRV).await;
        let target =
            srv.sections[0][0].data.strip_prefix(&format!("1 1 {port} ")).unwrap_or_default().to_owned();
        assert_eq!(dns::ask(server, &target, A).await.answers(), ["127.0.0.1"], "{name}: {target}");
        assert!(srv.sections[2].iter().any(|one| one.record_type == A && one.name == target), "{srv:?}");
    }
    // The listener has an IPv4 address alone.
    let absent = dns::ask(server, "orders.service.consul", AAAA).await;
    assert_eq!((absent.code(), absent.answers().len(), absent.sections[1].len()), (0, 0, 1));
    for (name, code) in [
        ("v3.orders.service.consul", NXDOMAIN),
        ("_orders._udp.service.consul", NXDOMAIN),
        ("payments.service.consul", NXDOMAIN),
        ("orders.consul", NXDOMAIN),
        ("n.node.consul", REFUSED),
        ("example.com", REFUSED),
    ] {
        let answer = dns::ask(server, name, A).await;
        assert_eq!((answer.code(), answer.answers().len()), (code, 0), "{name}");
        assert_eq!(answer.sections[1].iter().any(|one| one.record_type == SOA), code == NXDOMAIN, "{name}");
    }
    // As an app uses it: the name, and the port of the sidecar.
    let host = format!("v2.orders.service.consul:{port}");
    assert_eq!(client::get(outbound, &host, "/").await.text(), "a");
    assert_eq!(dns::ask_by_tcp(server, "orders.service.consul", A).await.answers(), ["127.0.0.1"]);
}

async fn every_form_of_a_name_is_its_usable_instances(registry: SocketAddr) {
    let agent = ConsulAgent(registry);
    let put = async |id: &str, address: &str, tags: &[&str]| {
        let body = json!({"Name": "orders", "ID": id, "Address": address, "Port": 80, "Tags": tags,
            "Weights": {"Passing": 3, "Warning": 1}, "Check": {"CheckID": id, "TTL": "10m", "Status": "passing"}});
        agent.put("/v1/agent/service/register", &body).await;
    };
    put("a", "127.0.0.21", &["v2"]).await;
    put("b", "127.0.0.22", &[]).await;
    let (_app, _, server) = start(registry, "answer: instances").await;
    let name = "orders.service.consul";
    wait_answers(server, name, A, &["127.0.0.21", "127.0.0.22"]).await;
    assert_eq!(dns::ask(server, name, A).await.ttl(), Some(0));
    assert_eq!(dns::ask(server, "v2.orders.service.consul", A).await.answers(), ["127.0.0.21"]);
    let srv = dns::ask(server, "_orders._tcp.service.dc1.consul", SRV).await;
    let target = |hex: &str| format!("1 3 80 {hex}.addr.dc1.consul.");
    assert_eq!(srv.answers(), [target("7f000015"), target("7f000016")]);
    assert_eq!(dns::ask(server, "7f000015.addr.dc1.consul", A).await.answers(), ["127.0.0.21"]);
    agent.put("/v1/agent/check/fail/a", &json!(null)).await;
    wait_answers(server, name, A, &["127.0.0.22"]).await;
    assert_eq!(dns::ask(server, "v2.orders.service.consul", A).await.code(), NXDOMAIN);
    agent.put("/v1/agent/check/warn/a", &json!(null)).await;
    wait_answers(server, name, A, &["127.0.0.21", "127.0.0.22"]).await;
}

#[tokio::test]
async fn a_long_answer_is_cut_by_udp_and_whole_by_tcp() {
    let (registry, agent) = dev_registry().await;
    for n in 0..100 {
        let body =
            json!({"Name": "orders", "ID": format!("o{n}"), "Address": format!("127.0.1.{n}"), "Port": 80});
        agent.put("/v1/agent/service/register", &body).await;
    }
    let (_app, _, server) = start(registry.addr(), "answer: instances").await;
    let name = "orders.service.consul";
    let ask = async |size| dns::exchange(server, &dns::question(9, name, A, size)).await;
    for (size, limit) in [(None, 512), (Some(512), 512), (Some(1232), 1232), (Some(4096), 1232)] {
        let answer = ask(size).await;
        assert!(answer.is_cut() && answer.bytes.len() <= limit && answer.answers().len() > 20, "{size:?}");
        let has_opt = answer.sections[2].iter().any(|record| record.record_type == 41);
        assert_eq!(has_opt, size.is_some());
    }
    let whole = dns::ask_by_tcp(server, name, A).await;
    assert!(!whole.is_cut() && whole.answers().len() == 100);
}

#[tokio::test]
async fn what_is_known_is_answered_while_the_registry_is_away() {
    let (registry, agent) = dev_registry().await;
    let instance = Instance::start("a").await;
    agent.register("orders", &instance).await;
    let proxy = RegistryProxy::start(registry.addr()).await;
    let (_app, _, server) = start(proxy.addr(), "answer: instances").await;
    wait_answers(server, "orders.service.consul", A, &["127.0.0.1"]).await;
    assert_eq!(dns::ask(server, "nothing.service.consul", A).await.code(), NXDOMAIN);
    for mode in [RegistryMode::Refuse, RegistryMode::Hang] {
        proxy.set(mode);
        assert_eq!(dns::ask(server, "orders.service.consul", A).await.answers(), ["127.0.0.1"]);
        // What it said last.
        assert_eq!(dns::ask(server, "nothing.service.consul", A).await.code(), NXDOMAIN);
        let unknown = dns::ask(server, &format!("{mode:?}.service.consul"), A).await;
        assert_eq!((unknown.code(), unknown.sections[1].len()), (SERVFAIL, 0), "{mode:?}");
    }
    proxy.set(RegistryMode::Pass);
    wait::until("the registry is asked again", wait::TIMEOUT, async || {
        dns::ask(server, "refuse.service.consul", A).await.code() == NXDOMAIN
    })
    .await;
}

#[tokio::test]
async fn made_up_names_take_no_place_of_the_services_in_use() {
    let (registry, agent) = dev_registry().await;
    let instance = Instance::start("a").await;
    agent.register("orders", &instance).await;
    let quota = "discovery: {max_services: 1, max_unknown: 1}";
    let keys = format!("dns: {{{LISTEN}}}\n{quota}");
    let (app, outbound) = start_router(registry.addr(), &keys).await;
    let server = app.dns_addrs()[0];
    assert_eq!(client::get(outbound, "orders", "/").await.text(), "a");
    for n in 0..40 {
        let code = dns::ask(server, &format!("made-up-{n}.service.consul"), A).await.code();
        assert!([NXDOMAIN, SERVFAIL].contains(&code), "{n}: {code}");
    }
    let watched = app.clusters();
    assert!(watched.iter().any(|one| one.service == "orders") && watched.len() == 1);
    assert_eq!(client::get(outbound, "orders", "/").await.text(), "a");
    assert_eq!(dns::ask(server, "orders.service.consul", A).await.answers(), ["127.0.0.1"]);
}

/// A DNS server that answers each question with one address, and tells what it was asked.
async fn other_server(ip: [u8; 4]) -> (SocketAddr, tokio::sync::mpsc::UnboundedReceiver<Vec<u8>>) {
    let socket = UdpSocket::bind("127.0.0.1:0").await.expect("a socket");
    let addr = socket.local_addr().expect("its address");
    let (tell, asked) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        let mut buffer = [0; 2048];
        while let Ok((length, peer)) = socket.recv_from(&mut buffer).await {
            let mut bytes = buffer[..length].to_vec();
            let _ = tell.send(bytes.clone());
            // The answer goes between the question and what is beside it.
            let question_end = 12 + bytes[12..].iter().position(|byte| *byte == 0).expect("a name") + 5;
            bytes[2] |= 0x80;
            bytes[7] = 1;
            let record = [&[0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4][..], &ip].concat();
            bytes.splice(question_end..question_end, record);
            let _ = socket.send_to(&bytes, peer).await;
        }
    });
    (addr, asked)
}

#[tokio::test]
async fn other_names_go_to_the_servers_of_the_settings() {
    let (registry, agent) = dev_registry().await;
    agent.register("orders", &Instance::start("a").await).await;
    let (forward, mut asked) = other_server([192, 0, 2, 1]).await;
    let (of_consul, _asked) = other_server([192, 0, 2, 2]).await;
    let keys = format!("forward: [\"{}\", \"{forward}\"], consul: \"{of_consul}\"", reserve_addr());
    let (app, _, server) = start(registry.addr(), &keys).await;
    let found = async |name: &str| dns::ask(server, name, A).await.answers();
    assert_eq!(found("Example.com").await, ["192.0.2.1"]);
    let question = DnsMessage::read(asked.recv().await.expect("a question"));
    assert_eq!(question.sections[2].len(), 1, "with EDNS, as the client's");
    assert_eq!(found("n.node.consul").await, ["192.0.2.2"]);
    assert_eq!(found("near.query.dc1.consul").await, ["192.0.2.2"]);
    assert_eq!(found("orders.service.consul").await, ["127.0.0.1"]);
    // No name of a service leaves this machine.
    assert_eq!(dns::ask(server, "nothing.service.consul", A).await.code(), NXDOMAIN);
    assert!(asked.try_recv().is_err());
    let answer = dns::ask(server, "orders.service.consul", A).await;
    assert_eq!(answer.bytes[3] & 0x80, 0x80, "recursion is offered");
    let page = client::get(app.admin_addr().expect("an admin side"), "localhost", "/metrics").await.text();
    for line in [
        "outrigger_dns_passed_on_total{result=\"answered\",to=\"forward\"} 1",
        "outrigger_dns_passed_on_total{result=\"answered\",to=\"consul\"} 2",
        "outrigger_dns_answers_total{code=\"NXDOMAIN\",transport=\"udp\"} 1",
    ] {
        assert!(page.contains(line), "{line}: {page}");
    }
}

#[tokio::test]
async fn a_reload_moves_the_listener_and_ends_it() {
    let (registry, agent) = dev_registry().await;
    agent.register("orders", &Instance::start("a").await).await;
    let (app, _, first) = start(registry.addr(), "answer: loopback").await;
    let consul = format!("address: \"http://{}\"", registry.addr());
    let next = reserve_addr();
    let apply = async |keys: &str| {
        let settings = router_settings(&consul, keys);
        wait::within("the settings are in place", app.apply(settings)).await.expect("no problem");
    };
    apply(&format!("dns: {{listen: \"{next}\"}}")).await;
    assert_eq!(app.dns_addrs(), [next]);
    assert_eq!(dns::ask(next, "orders.service.consul", A).await.answers(), ["127.0.0.1"]);
    assert!(UdpSocket::bind(first).await.is_ok(), "the first address is free");
    // The kind of the answer alone.
    apply(&format!("dns: {{listen: \"{next}\", answer: instances}}")).await;
    assert_eq!(dns::ask(next, "orders.service.consul", A).await.ttl(), Some(0));
    apply("").await;
    assert!(app.dns_addrs().is_empty() && UdpSocket::bind(next).await.is_ok());
}

#[tokio::test]
async fn a_sidecar_that_takes_the_place_of_another_leaves_no_question_without_an_answer() {
    let (registry, agent) = dev_registry().await;
    agent.register("orders", &Instance::start("a").await).await;
    let (listen, outbound) = (reserve_addr(), reserve_addr());
    let settings = format!(
        "registry: {{consul: {{address: \"http://{}\"}}}}\noutbound: {{listen: \"{outbound}\"}}\n\
         dns: {{listen: \"{listen}\"}}\n",
        registry.addr()
    );
    let mut first = Process::run(&settings).await;
    first.wait_ready().await;
    wait_answers(listen, "orders.service.consul", A, &["127.0.0.1"]).await;
    let asks = tokio::spawn(async move {
        loop {
            // It fails the test where no answer comes.
            let answer = dns::ask(listen, "orders.service.consul", A).await;
            assert_eq!(answer.answers(), ["127.0.0.1"]);
        }
    });
    let next = first.replace().await;
    first.wait_exit(wait::TIMEOUT).await;
    assert_eq!(dns::ask(listen, "orders.service.consul", A).await.answers(), ["127.0.0.1"]);
    assert!(!asks.is_finished(), "{:?}", asks.await);
    asks.abort();
    drop(next);
}

/// What browsers send to a name that resolves to this machine.
const BROWSERS: [&str; 6] = [
    "User-Agent: Mozilla/5.0 (X11; Linux x86_64)",
    "Upgrade-Insecure-Requests: 1",
    "Sec-Fetch-Site: same-origin",
    "Sec-Fetch-Mode: navigate",
    "Origin: http://evil.example",
    "Origin: null",
];

#[tokio::test]
async fn a_browser_reaches_no_service_by_its_name_unless_a_setting_allows_it() {
    let (registry, agent) = dev_registry().await;
    let instance = Instance::start("a").await;
    agent.register("orders", &instance).await;
    let ask = async |outbound: SocketAddr, name: &str, fields: &str| {
        let request = format!("GET / HTTP/1.1\r\nHost: {name}:{}\r\n{fields}\r\n\r\n", outbound.port());
        Client::connect(outbound).await.exchange(request).await
    };
    let (_app, outbound, _) = start(registry.addr(), "answer: loopback").await;
    for name in ["orders.service.consul", "orders"] {
        for fields in BROWSERS {
            let refused = ask(outbound, name, fields).await;
            assert_eq!((refused.status, refused.reason()), (403, "browser_refused"), "{name} {fields}");
            let detail = refused.json()["detail"].to_string();
            assert!(detail.contains("dns.browsers: allow"), "{detail}");
        }
        assert_eq!(ask(outbound, name, "User-Agent: curl/8.0").await.status, 200, "{name}");
    }
    // A gateway's visitors: the port is not that of this listener.
    let passed = format!("GET / HTTP/1.1\r\nHost: orders\r\n{}\r\n\r\n", BROWSERS[0]);
    assert_eq!(Client::connect(outbound).await.exchange(passed).await.status, 200);
    for keys in ["answer: loopback, browsers: allow", "answer: instances"] {
        let (_app, outbound, _) = start(registry.addr(), keys).await;
        assert_eq!(ask(outbound, "orders.service.consul", BROWSERS[0]).await.status, 200, "{keys}");
    }
    // On a port of its own any Host is carried, as without the DNS listener.
    let own = format!("dns: {{{LISTEN}}}\nupstreams: [{{service: orders, listen: \"127.0.0.1:0\"}}]");
    let (app, _) = start_router(registry.addr(), &own).await;
    let addr = app.upstream_addrs()[0].1;
    for (host, fields, status) in [
        ("shop.example", "User-Agent: curl/8.0", 200),
        ("orders.service.consul", "User-Agent: curl/8.0", 200),
        ("orders.service.consul", BROWSERS[0], 403),
    ] {
        assert_eq!(ask(addr, host, fields).await.status, status, "{host} {fields}");
    }
    let settings = format!(
        "dns: {{{LISTEN}}}\noutbound: {{listen: \"127.0.0.1:0\", allow_origins: [\"http://app.example\"]}}"
    );
    let text = format!(
        "registry: {{consul: {{address: \"http://{}\"}}}}\nadmin: {{listen: \"127.0.0.1:0\"}}\n{settings}\n",
        registry.addr()
    );
    let app = App::start(crate::app::load_text(&text), outrigger_proxy::Workers::CurrentRuntime).await;
    let app = app.expect("start the app");
    let outbound = app.outbound_addrs()[0];
    let allowed = format!("{}\r\nOrigin: http://app.example", BROWSERS[0]);
    assert_eq!(ask(outbound, "orders.service.consul", &allowed).await.status, 200);
    assert_eq!(ask(outbound, "orders.service.consul", BROWSERS[0]).await.status, 403);
}
