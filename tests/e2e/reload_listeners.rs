//! A reload adds and removes listeners and cuts no request.

use std::net::SocketAddr;

use outrigger_net::reserve_addr;
use outrigger_tests::{
    client::{self, Client},
    instance::{Answer, Gate, Instance},
    load::{Load, LoadPlan},
    sidecar::{Services, Sidecar},
    wait,
};
use tokio::net::TcpStream;

fn upstream_listener(service: &str, addr: SocketAddr) -> String {
    format!("upstreams: [{{service: {service}, listen: \"{addr}\"}}]")
}

#[tokio::test]
async fn a_listener_is_added_and_removed_and_its_connections_end_gracefully() {
    let gate = Gate::closed();
    let opened = gate.clone();
    let instance = Instance::scripted("a", move |request| match request.target() {
        "/slow" => Answer::ok("late").when(&opened),
        _ => Answer::ok("a"),
    })
    .await;
    let sidecar = Sidecar::orders("", &[&instance]).await;
    let addr = reserve_addr();
    assert!(TcpStream::connect(addr).await.is_err());
    sidecar.apply_settings(&upstream_listener("orders", addr)).await;
    assert_eq!(sidecar.proxy.upstream_addrs(), [("orders".to_owned(), addr)]);
    let mut idle = Client::connect(addr).await;
    assert_eq!(idle.get("whatever", "/").await.text(), "a");
    let mut busy = Client::connect(addr).await;
    busy.send("GET /slow HTTP/1.1\r\nHost: x\r\n\r\n").await;
    let mut new = Client::connect(addr).await;
    instance.wait_requests(2).await;

    sidecar.apply_settings("").await;
    wait::until("no connection is accepted", wait::TIMEOUT, async || TcpStream::connect(addr).await.is_err())
        .await;
    assert!(sidecar.proxy.upstream_addrs().is_empty());
    gate.open();
    let late = busy.response().await;
    assert_eq!((late.text().as_str(), late.field("connection")), ("late", "close"));
    busy.wait_closed().await;
    // Each connection without a request gets one more answer, with `connection: close`, and is then closed.
    for client in [&mut idle, &mut new] {
        let answer = client.get("x", "/").await;
        assert_eq!((answer.text().as_str(), answer.field("connection")), ("a", "close"));
        client.wait_closed().await;
    }
    assert_eq!(sidecar.get("orders", "/").await.status, 200);
}

#[tokio::test]
async fn an_address_that_changes_its_service_keeps_its_socket() {
    let (a, b) = (Instance::start("a").await, Instance::start("b").await);
    let addr = reserve_addr();
    let services = Services::of("orders", &[&a]).and("others", &b, "");
    let sidecar = Sidecar::start(&upstream_listener("orders", addr), &services).await;
    let mut before = Client::connect(addr).await;
    assert_eq!(before.get("x", "/").await.text(), "a");
    // One request per connection: any time without a listener would refuse a connection.
    let plan = LoadPlan { per_connection: 1, connections: 2, ..LoadPlan::get("x") };
    let load = Load::start(addr, plan);
    load.wait_successes(20).await;
    for service in ["others", "orders", "others"] {
        sidecar.apply_settings(&upstream_listener(service, addr)).await;
        let expected = if service == "orders" { "a" } else { "b" };
        assert_eq!(client::get(addr, "x", "/").await.text(), expected);
        load.wait_successes(20).await;
    }
    load.stop().await.assert_clean(80);
    let answer = before.get("x", "/").await;
    assert_eq!(
        (answer.text().as_str(), answer.field("connection")),
        ("a", "close"),
        "the connection was accepted for a"
    );
    assert_eq!(Client::connect(addr).await.get("x", "/").await.text(), "b");
}

#[tokio::test]
async fn the_outbound_listener_can_move_and_its_connections_end_gracefully() {
    let instance = Instance::start("a").await;
    let (one, other) = (reserve_addr(), reserve_addr());
    let listen = |addr| format!("outbound: {{listen: \"{addr}\"}}");
    let sidecar = Sidecar::orders(&listen(one), &[&instance]).await;
    let mut client = Client::connect(one).await;
    assert_eq!(client.get("orders", "/").await.status, 200);
    sidecar.apply_settings(&listen(other)).await;
    assert_eq!(sidecar.proxy.outbound_addrs(), [other]);
    assert_eq!(client::get(other, "orders", "/").await.status, 200);
    assert_eq!(client.get("orders", "/").await.field("connection"), "close");
    wait::until("the old listener is closed", wait::TIMEOUT, async || TcpStream::connect(one).await.is_err())
        .await;
}

#[tokio::test]
async fn a_connection_of_a_removed_listener_follows_a_later_reload() {
    let instance = Instance::start("a").await;
    let (one, other) = (reserve_addr(), reserve_addr());
    let settings = |addr, origins| format!("outbound: {{listen: \"{addr}\", allow_origins: [{origins}]}}");
    let sidecar = Sidecar::orders(&settings(one, ""), &[&instance]).await;
    let mut client = Client::connect(one).await;
    assert_eq!(client.get("orders", "/").await.status, 200);
    sidecar.apply_settings(&settings(other, "")).await;
    sidecar.apply_settings(&settings(other, "\"https://app.example\"")).await;
    let host = format!("orders:{}", one.port());
    let request = format!("GET / HTTP/1.1\r\nHost: {host}\r\nOrigin: https://app.example\r\n\r\n");
    let answer = client.exchange(request).await;
    assert_eq!((answer.status, answer.field("connection")), (200, "close"));
}

#[tokio::test]
async fn one_loopback_address_of_two_is_kept_when_the_other_is_removed() {
    let instance = Instance::start("a").await;
    let port = reserve_addr().port();
    let sidecar = Sidecar::orders(&format!("outbound: {{listen: \"localhost:{port}\"}}"), &[&instance]).await;
    let mut client = Client::connect(([127, 0, 0, 1], port).into()).await;
    client.get("orders", "/").await;
    sidecar.apply_settings(&format!("outbound: {{listen: \"127.0.0.1:{port}\"}}")).await;
    let answer = client.get("orders", "/").await;
    assert_eq!((answer.status, answer.field("connection")), (200, ""), "the connection is kept");
    assert_eq!(sidecar.proxy.outbound_addrs(), [([127, 0, 0, 1], port).into()]);
}

#[tokio::test]
async fn a_taken_address_refuses_the_whole_reload_and_frees_the_new_sockets() {
    let instance = Instance::start("a").await;
    let sidecar = Sidecar::orders("", &[&instance]).await;
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let (good, taken) = (reserve_addr(), taken.local_addr().unwrap());
    let text = format!(
        "registry: {{file: {:?}}}\nupstreams: [{{service: orders, listen: \"{good}\"}}, {{service: x, listen: \"{taken}\"}}]",
        sidecar.services_file().display().to_string()
    );
    let none = outrigger_config::Environment::default();
    let loaded = outrigger_config::load(Some(("x", &text)), &none, &Default::default()).unwrap();
    let error = sidecar.proxy.prepare(&loaded.config).unwrap_err();
    assert!(error.to_string().contains(&taken.to_string()), "{error}");
    assert!(std::net::TcpListener::bind(good).is_ok(), "no socket holds the address");
    assert_eq!(sidecar.get("orders", "/").await.status, 200);
}
