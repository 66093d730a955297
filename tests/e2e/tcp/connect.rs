//! `CONNECT orders:80` on the outbound listener: bytes to an instance of the service, at its own port, and back.

use std::{io::ErrorKind, time::Duration};

use outrigger_tests::{
    instance::Instance,
    sidecar::{Services, Sidecar},
    tcp::{TcpClient, TcpInstance},
    wait,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use super::{and, listed};

/// Sends the head of a CONNECT and `more` at once, and reads the head of the response.
async fn connect(sidecar: &Sidecar, target: &str, more: &str) -> TcpStream {
    let mut stream = TcpStream::connect(sidecar.addr()).await.unwrap();
    let head = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n{more}");
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        answer.push(wait::within("the head", stream.read_u8()).await.unwrap());
    }
    let answer = String::from_utf8(answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert!(!answer.to_ascii_lowercase().contains("content-length"), "{answer}");
    stream
}

/// A connection through CONNECT, after the instance has said its name.
async fn tunnel(sidecar: &Sidecar, target: &str) -> TcpClient {
    let mut stream = connect(sidecar, target, "").await;
    let mut line = Vec::new();
    while line.last() != Some(&b'\n') {
        line.push(wait::within("the name", stream.read_u8()).await.unwrap());
    }
    line.pop();
    TcpClient { stream, instance: String::from_utf8(line).unwrap() }
}

#[tokio::test]
async fn bytes_pass_both_ways_whatever_the_port_and_each_side_ends_by_itself() {
    let (a, b) = (TcpInstance::start("a").await, TcpInstance::start("b").await);
    let sidecar = Sidecar::start("", &listed(&[&a, &b])).await;
    let mut names = Vec::new();
    for port in [80, 443, 22, 1] {
        let mut client = tunnel(&sidecar, &format!("orders:{port}")).await;
        client.assert_echo("\0\r\n\r\nGET / HTTP/1.1\r\n\r\n").await;
        assert_eq!(sidecar.proxy.in_flight(), 1);
        names.push(client.instance.clone());
        client.stream.shutdown().await.unwrap();
        client.wait_end().await.unwrap();
        wait::until_true("it has ended", || sidecar.proxy.in_flight() == 0).await;
    }
    names.sort();
    assert_eq!(names, ["a", "a", "b", "b"]);
    tunnel(&sidecar, "orders.service.consul:80").await.assert_echo_of_pattern(4 << 20).await;
    wait::until_true("all have ended", || sidecar.proxy.in_flight() == 0).await;
    let codes = [("service", "orders"), ("code", "200")];
    assert_eq!(sidecar.metric("outrigger_requests_total", &codes), 5.0);
    let bytes = |to| sidecar.metric("outrigger_tunnel_bytes_total", &[("service", "orders"), ("to", to)]);
    let echoed = f64::from(4 * 23 + (4 << 20));
    assert_eq!((bytes("instance"), bytes("app")), (echoed, echoed + 10.0), "and five names");
}

#[tokio::test]
async fn bytes_behind_the_head_go_to_the_instance_and_are_no_request() {
    let web = Instance::start("web").await;
    let sidecar = Sidecar::orders("", &[&web]).await;
    let request = "GET /x HTTP/1.1\r\nHost: whatever\r\nConnection: close\r\n\r\n";
    let mut stream = connect(&sidecar, "orders:80", request).await;
    let mut answer = String::new();
    wait::within("the answer", stream.read_to_string(&mut answer)).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let seen = web.only_request().request.head;
    assert_eq!(seen.get("host"), Some("whatever"), "nothing is rewritten: {seen:?}");
}

#[tokio::test]
async fn an_instance_that_refuses_is_left_for_another_one_and_rules_hold() {
    let (a, b) = (TcpInstance::start("a").await, TcpInstance::start("b").await);
    let services = and(Services::default(), "new", &[&b])
        .and_at("orders", "dead", outrigger_tests::instance::refusing_addr(), "")
        .and_at("orders", "a", a.addr(), "");
    let sidecar = Sidecar::start("", &services).await;
    for _ in 0..6 {
        assert_eq!(tunnel(&sidecar, "orders:1").await.instance, "a");
    }
    sidecar.apply_settings("upstreams: [{service: orders, split: [{service: new, weight: 1}]}]").await;
    assert_eq!(tunnel(&sidecar, "orders:1").await.instance, "b");
}

#[tokio::test]
async fn a_service_of_tcp_is_reached_too() {
    let a = TcpInstance::start("a").await;
    let (sidecar, _) = super::start("", &listed(&[&a])).await;
    tunnel(&sidecar, "orders:5432").await.assert_echo("hello").await;
}

#[tokio::test]
async fn a_silent_tunnel_ends_and_one_to_an_instance_that_left_ends_after_the_grace() {
    let (a, b) = (TcpInstance::start("a").await, TcpInstance::start("b").await);
    let limits = |limits| format!("outbound: {{listen: \"127.0.0.1:0\", limits: {{{limits}}}}}");
    let sidecar = Sidecar::start(&limits("tunnel_idle: 1s"), &listed(&[&a])).await;
    let mut silent = tunnel(&sidecar, "orders:1").await;
    assert_eq!(silent.wait_end().await.unwrap_err().kind(), ErrorKind::ConnectionReset);

    let sidecar = Sidecar::start(&limits("tunnel_grace: 500ms"), &listed(&[&a, &b])).await;
    let mut both = [tunnel(&sidecar, "orders:1").await, tunnel(&sidecar, "orders:1").await];
    both.sort_by(|one, other| one.instance.cmp(&other.instance));
    sidecar.write_services(&listed(&[&b]));
    sidecar.wait_endpoints("orders", vec!["b"]).await;
    let [of_a, of_b] = &mut both;
    assert_eq!(of_a.wait_end().await.unwrap_err().kind(), ErrorKind::ConnectionReset);
    tokio::time::sleep(Duration::from_millis(10)).await;
    of_b.assert_echo("undisturbed").await;
}
