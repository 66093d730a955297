//! What passes: bytes both ways, ends of one side, the PROXY protocol; and what HTTP gets.

use outrigger_tests::{
    tcp::{TcpClient, TcpInstance},
    wait,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::{ended, listed, open, start};

#[tokio::test]
async fn a_server_that_speaks_first_is_heard_and_bytes_pass_both_ways() {
    let a = TcpInstance::start("a").await;
    let (sidecar, addr) = start("", &listed(&[&a])).await;
    let mut client = TcpClient::connect(addr).await;
    assert_eq!(client.instance, "a");
    client.assert_echo("GET / HTTP/1.1\r\n\r\n\0\u{ff}").await;
    assert_eq!((open(&sidecar), sidecar.proxy.in_flight()), (1.0, 1));
    assert_eq!(sidecar.endpoints("orders")[0].in_flight, 1);
    drop(client);
    wait::until_true("the connection has ended", || a.open() == 0 && open(&sidecar) == 0.0).await;
    assert_eq!((ended(&sidecar, "closed"), sidecar.proxy.in_flight()), (1.0, 0));
    let bytes = |to| sidecar.metric("outrigger_tcp_bytes_total", &[("service", "orders"), ("to", to)]);
    assert_eq!((bytes("instance"), bytes("app")), (21.0, 23.0), "the name is two bytes more");
    let durations = sidecar.metric("outrigger_tcp_connection_duration_seconds", &[("service", "orders")]);
    assert_eq!(durations, 1.0);
}

#[tokio::test]
async fn sixty_four_mebibytes_pass_each_way_at_once_and_each_side_ends_by_itself() {
    let a = TcpInstance::start("a").await;
    let (sidecar, addr) = start("", &listed(&[&a])).await;
    TcpClient::connect(addr).await.assert_echo_of_pattern(64 * 1024 * 1024).await;
    wait::until_true("it has ended in order", || ended(&sidecar, "closed") == 1.0).await;
}

#[tokio::test]
async fn an_app_that_has_ended_its_side_still_reads() {
    let a = TcpInstance::start("a").await;
    let (_sidecar, addr) = start("", &listed(&[&a])).await;
    let mut client = TcpClient::connect(addr).await;
    client.stream.write_all(b"the last question").await.unwrap();
    client.stream.shutdown().await.unwrap();
    let mut all = String::new();
    wait::within("the answer and the end", client.stream.read_to_string(&mut all)).await.unwrap();
    assert_eq!(all, "the last question");
}

#[tokio::test]
async fn an_instance_is_told_the_apps_address_by_the_proxy_protocol() {
    for (version, len) in [("v1", usize::MAX), ("v2", 28)] {
        let a = TcpInstance::start_with_header("a", len).await;
        let (sidecar, addr) = start(&format!(", tcp: {{proxy_protocol: {version}}}"), &listed(&[&a])).await;
        let mut client = TcpClient::connect(addr).await;
        client.assert_echo("hello").await;
        let app = client.stream.local_addr().unwrap();
        let header = a.headers().remove(0);
        if version == "v1" {
            let line = format!("PROXY TCP4 127.0.0.1 127.0.0.1 {} {}\r\n", app.port(), addr.port());
            assert_eq!(String::from_utf8(header).unwrap(), line);
        } else {
            assert_eq!(&header[..16], b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c");
            assert_eq!(&header[16..24], [127, 0, 0, 1, 127, 0, 0, 1]);
            let port = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
            assert_eq!((port(24), port(26)), (app.port(), addr.port()));
        }
        let to = [("service", "orders"), ("to", "instance")];
        assert_eq!(sidecar.metric("outrigger_tcp_bytes_total", &to), 5.0, "the header is not of the app");
    }
}

#[tokio::test]
async fn an_http_request_to_such_a_service_is_refused_and_reaches_no_instance() {
    let a = TcpInstance::start("a").await;
    let (sidecar, _) = start("", &listed(&[&a])).await;
    for _ in 0..10 {
        let answer = sidecar.get("orders", "/").await;
        assert_eq!((answer.status, answer.reason()), (421, "not_http"), "{}", answer.text());
        assert!(answer.text().contains("upstreams.orders.listen"), "{}", answer.text());
    }
    assert_eq!(a.accepted(), 0);
    assert_eq!(sidecar.endpoints("orders")[0].trust, "trusted");
}
