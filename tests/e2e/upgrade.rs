//! An upgraded connection, such as a WebSocket, is forwarded as a tunnel.

use std::time::Duration;

use outrigger_tests::{
    client::Client,
    instance::{Answer, ConnectionEnd, Instance, Kill},
    pattern,
    sidecar::{Services, Sidecar},
    wait,
    wire::{Framing, WireError},
};

const UPGRADE: &str = "GET /chat HTTP/1.1\r\nHost: orders\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\
                   Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";

async fn tunnel(settings: &str, answer: Answer) -> (Sidecar, Instance, Client) {
    let instance = Instance::scripted("a", move |_| answer.clone()).await;
    let sidecar = Sidecar::orders(settings, &[&instance]).await;
    let mut client = sidecar.client().await;
    client.send(UPGRADE).await;
    let head = client.head().await.unwrap();
    assert_eq!(head.split_start_line().1, "101", "{head:?}");
    assert_eq!(head.get("upgrade"), Some("websocket"), "{head:?}");
    assert!(head.get("connection").is_some_and(|value| value.eq_ignore_ascii_case("upgrade")), "{head:?}");
    (sidecar, instance, client)
}

async fn assert_received(client: &mut Client, expected: &[u8]) {
    wait::until("the echo comes back", wait::TIMEOUT, async || {
        client.wire.buffered().len() >= expected.len() || {
            assert!(client.wire.fill().await.unwrap(), "closed after {}", client.wire.buffered().len());
            false
        }
    })
    .await;
    assert!(client.wire.buffered() == expected, "other bytes came back");
}

#[tokio::test]
async fn an_upgrade_request_is_forwarded_and_bytes_pass_both_ways() {
    let (sidecar, instance, mut client) = tunnel("", Answer::upgrade("websocket")).await;
    let head = instance.only_request().request.head;
    assert_eq!(head.get("upgrade"), Some("websocket"));
    assert!(head.get("connection").is_some_and(|value| value.eq_ignore_ascii_case("upgrade")), "{head:?}");
    assert!(head.has("sec-websocket-key"));

    client.send(b"\0\xff\r\n\r\nGET / HTTP/1.1\r\n").await;
    assert_received(&mut client, b"\0\xff\r\n\r\nGET / HTTP/1.1\r\n").await;
    assert_eq!(sidecar.proxy.in_flight(), 1, "a tunnel is in flight");
    drop(client);
    assert!(matches!(instance.wait_connection_end(0).await, ConnectionEnd::ByPeer(_)));
    wait::until_true("the tunnel has ended", || sidecar.proxy.in_flight() == 0).await;
}

#[tokio::test]
async fn a_websocket_through_a_proxy_setting_may_have_its_own_scheme() {
    let instance = Instance::scripted("a", |_| Answer::upgrade("websocket")).await;
    let sidecar = Sidecar::orders("", &[&instance]).await;
    for (nth, scheme) in ["ws", "WS", "http"].into_iter().enumerate() {
        let mut client = sidecar.client().await;
        client.send(UPGRADE.replace("GET /chat", &format!("GET {scheme}://orders/chat"))).await;
        assert_eq!(client.head().await.unwrap().split_start_line().1, "101", "{scheme}");
        assert_eq!(instance.seen()[nth].request.target(), "/chat");
    }
    // Without an upgrade it is no request that could be carried; wss would need TLS.
    for request in [
        "GET ws://orders/ HTTP/1.1\r\nHost: orders\r\n\r\n".to_owned(),
        UPGRADE.replace("GET /chat", "GET wss://orders/chat"),
    ] {
        assert_eq!(sidecar.exchange(request).await.reason(), "outside_host");
    }
}

#[tokio::test]
async fn bytes_sent_with_the_request_and_with_the_answer_are_not_lost() {
    let answer = Answer::raw(
        "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\nhello",
    )
    .then_half_close();
    let instance = Instance::scripted("a", move |_| answer.clone()).await;
    let sidecar = Sidecar::orders("", &[&instance]).await;
    let mut client = sidecar.client().await;
    client.send(format!("{UPGRADE}early")).await;
    assert_eq!(client.head().await.unwrap().split_start_line().1, "101");
    assert_received(&mut client, b"hello").await;
    client.send(" and late").await;
    drop(client);
    instance.wait_connection_end(0).await;
    assert_eq!(instance.only_request().body().text(), "early and late");
}

#[tokio::test]
async fn a_large_echo_is_complete() {
    let (_sidecar, _instance, client) = tunnel("", Answer::upgrade("websocket")).await;
    let len = 8 << 20;
    let Client { wire } = client;
    let (mut read, mut write) = wire.stream.into_split();
    let writer = tokio::spawn(async move {
        tokio::io::AsyncWriteExt::write_all(&mut write, &pattern::bytes(len)).await.unwrap();
        // After this half-close, the echo must still be complete.
        tokio::io::AsyncWriteExt::shutdown(&mut write).await.unwrap();
        write
    });
    let mut back = Vec::new();
    wait::within("the echo", tokio::io::AsyncReadExt::read_to_end(&mut read, &mut back)).await.unwrap();
    writer.await.unwrap();
    assert!(back == pattern::bytes(len), "{} bytes came back", back.len());
}

#[tokio::test]
async fn a_half_closed_tunnel_still_carries_the_other_direction() {
    let answer = Answer::raw(
        "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\nbye",
    )
    .then_half_close();
    let instance = Instance::scripted("a", move |_| answer.clone()).await;
    let sidecar = Sidecar::orders("", &[&instance]).await;
    let mut client = sidecar.client().await;
    client.send(UPGRADE).await;
    assert_eq!(client.head().await.unwrap().split_start_line().1, "101");
    let rest = parking_lot::Mutex::default();
    wait::within("the instance's end arrives", client.wire.read_body(Framing::UntilClose, &rest))
        .await
        .unwrap();
    assert_eq!(rest.into_inner().text(), "bye");
    client.send("after its end").await;
    drop(client);
    assert_eq!(instance.wait_connection_end(0).await, ConnectionEnd::ByPeer(WireError::Closed));
    assert_eq!(instance.only_request().body().text(), "after its end");
}

#[tokio::test]
async fn a_refused_upgrade_is_an_ordinary_answer_and_the_connection_is_kept() {
    let instance = Instance::scripted("a", |_| Answer::status(426, "no")).await;
    let sidecar = Sidecar::orders("", &[&instance]).await;
    let mut client = sidecar.client().await;
    let response = client.exchange(UPGRADE).await;
    assert_eq!((response.status, response.text().as_str()), (426, "no"));
    assert_eq!(client.get("orders", "/").await.status, 426);
}

#[tokio::test]
async fn a_101_without_an_upgrade_request_is_refused() {
    let instance = Instance::scripted("a", |_| Answer::upgrade("websocket")).await;
    let sidecar = Sidecar::orders("", &[&instance]).await;
    for request in [
        "GET / HTTP/1.1\r\nHost: orders\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: orders\r\nContent-Length: 0\r\n\r\n",
        // The sidecar does not forward the offer of h2c, so the instance cannot accept it.
        "GET / HTTP/1.1\r\nHost: orders\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: x\r\n\r\n",
    ] {
        let response = sidecar.exchange(request).await;
        assert_eq!((response.status, response.reason()), (502, "bad_response"), "{request:?}: {response:?}");
    }
}

#[tokio::test]
async fn an_instance_that_dies_ends_the_tunnel() {
    for how in [Kill::Fin, Kill::Reset] {
        let (sidecar, instance, mut client) = tunnel("", Answer::upgrade("websocket")).await;
        instance.kill(how).await;
        client.wait_closed().await;
        drop(client);
        wait::until_true("the tunnel has ended", || sidecar.proxy.in_flight() == 0).await;
    }
}

#[tokio::test]
async fn a_tunnel_is_closed_after_tunnel_idle_without_traffic() {
    let settings = "outbound: {listen: \"127.0.0.1:0\", limits: {tunnel_idle: 1500ms}}";
    let (_sidecar, instance, mut client) = tunnel(settings, Answer::upgrade("websocket")).await;
    for _ in 0..4 {
        tokio::time::sleep(Duration::from_millis(500)).await;
        client.send("x").await;
    }
    assert_received(&mut client, b"xxxx").await;
    let since = tokio::time::Instant::now();
    client.wait_closed().await;
    assert!(since.elapsed() > Duration::from_millis(1200), "{:?}", since.elapsed());
    instance.wait_connection_end(0).await;
}

#[tokio::test]
async fn a_stopping_sidecar_ends_its_tunnels_after_the_drain_time() {
    let (sidecar, instance, mut client) = tunnel("", Answer::upgrade("websocket")).await;
    let aborted = sidecar.stop(Duration::from_millis(300)).await;
    assert_eq!(aborted, 1);
    client.wait_closed().await;
    instance.wait_connection_end(0).await;
}

#[tokio::test]
async fn a_service_that_only_a_tunnel_uses_stays_watched_until_the_tunnel_ends() {
    let (chat, other) =
        (Instance::scripted("a", |_| Answer::upgrade("websocket")).await, Instance::start("b").await);
    let services = Services::of("orders", &[&chat]).and("payments", &other, "");
    let sidecar = Sidecar::start("discovery: {idle: 1s}", &services).await;
    let mut client = sidecar.client().await;
    client.send(UPGRADE).await;
    assert_eq!(client.head().await.unwrap().split_start_line().1, "101");
    let is_watched = |service: &str| sidecar.proxy.status().iter().any(|cluster| cluster.service == service);
    // Twice, so that the second time begins after the tunnel's own idle time would have passed.
    for _ in 0..2 {
        assert_eq!(sidecar.client().await.get("payments", "/").await.status, 200);
        assert!(is_watched("payments"));
        wait::until_true("a service without requests is dropped", || !is_watched("payments")).await;
        assert!(is_watched("orders"), "its tunnel is open");
    }
    client.send("still there").await;
    assert_received(&mut client, b"still there").await;
    drop(client);
    wait::until_true("it is dropped after its tunnel", || !is_watched("orders")).await;
}
