//! What ends connections: limits, silence, the grace after an instance has left, reloads and drains.

use std::{io::ErrorKind, time::Duration};

use outrigger_tests::{
    sidecar::Services,
    tcp::{TcpClient, TcpInstance},
    wait,
};

use super::{ended, listed, open, refused, settings, start};

#[tokio::test]
async fn connections_above_the_limit_are_reset_and_a_place_is_free_again_afterwards() {
    let a = TcpInstance::start("a").await;
    let (sidecar, addr) = start(", tcp: {max_connections: 2}", &listed(&[&a])).await;
    let (mut one, two) = (TcpClient::connect(addr).await, TcpClient::connect(addr).await);
    let error = TcpClient::try_connect(addr).await.expect_err("above the limit");
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    assert_eq!(refused(&sidecar, "too_many_connections"), 1.0);
    one.assert_echo("undisturbed").await;
    drop(two);
    wait::until("a place is free", wait::TIMEOUT, async || TcpClient::try_connect(addr).await.is_ok()).await;
    assert_eq!(a.accepted(), 3, "none beyond the limit reached it");
}

#[tokio::test]
async fn connections_above_that_of_all_listeners_are_reset_without_an_answer() {
    let a = TcpInstance::start("a").await;
    let keys =
        format!("{}\noutbound: {{listen: \"127.0.0.1:0\", limits: {{max_connections: 1}}}}", settings(""));
    let sidecar = outrigger_tests::sidecar::Sidecar::start(&keys, &listed(&[&a])).await;
    let addr = sidecar.upstream_addr("orders");
    let _held = TcpClient::connect(addr).await;
    let error = TcpClient::try_connect(addr).await.expect_err("above the limit");
    assert_eq!(error.kind(), ErrorKind::ConnectionReset, "and no byte of HTTP");
    assert_eq!(sidecar.metric("outrigger_refused_total", &[("reason", "too_many_connections")]), 1.0);
}

#[tokio::test]
async fn a_silent_connection_is_reset_after_idle_and_one_with_bytes_is_not() {
    let a = TcpInstance::start("a").await;
    let (sidecar, addr) = start(", tcp: {idle: 1500ms}", &listed(&[&a])).await;
    let (mut silent, mut busy) = (TcpClient::connect(addr).await, TcpClient::connect(addr).await);
    wait::until("the silent one has ended", wait::TIMEOUT, async || {
        busy.assert_echo("tick").await;
        ended(&sidecar, "idle") == 1.0
    })
    .await;
    assert_eq!(silent.wait_end().await.unwrap_err().kind(), ErrorKind::ConnectionReset);
    busy.assert_echo("tock").await;
}

#[tokio::test]
async fn connections_to_an_instance_that_left_end_after_the_grace_and_stay_without_one() {
    let (a, b) = (TcpInstance::start("a").await, TcpInstance::start("b").await);
    let all = listed(&[&a, &b]);
    let (with, addr) = start(", tcp: {grace: 1s}", &all).await;
    let (without, other_addr) = start("", &all).await;
    let mut clients = Vec::new();
    for addr in [addr, addr, other_addr, other_addr] {
        clients.push(TcpClient::connect(addr).await);
    }
    for sidecar in [&with, &without] {
        sidecar.write_services(&listed(&[&b]));
        sidecar.wait_endpoints("orders", vec!["b"]).await;
    }
    wait::until_true("its connection has ended", || ended(&with, "grace") == 1.0).await;
    for (n, client) in clients.iter_mut().enumerate() {
        if n < 2 && client.instance == "a" {
            assert_eq!(client.wait_end().await.unwrap_err().kind(), ErrorKind::ConnectionReset);
        } else {
            client.assert_echo("here").await;
        }
    }
    assert_eq!((open(&with), open(&without)), (1.0, 2.0));
    // An instance that is registered anew at the same address has not left.
    with.write_services(&Services::default().and_at("orders", "b-again", b.addr(), ""));
    with.wait_endpoints("orders", vec!["b-again"]).await;
    tokio::time::sleep(Duration::from_millis(2500)).await;
    assert_eq!((open(&with), ended(&with, "grace")), (1.0, 1.0));
}

#[tokio::test]
async fn a_reload_leaves_open_connections_and_changes_what_new_ones_get() {
    let a = TcpInstance::start("a").await;
    let (sidecar, addr) = start("", &listed(&[&a])).await;
    let mut client = TcpClient::connect(addr).await;
    let fixed = |keys: &str| settings(keys).replace("127.0.0.1:0", &addr.to_string());
    sidecar.apply_settings(&settings(", tcp: {max_connections: 1}, timeout: 2s")).await;
    assert_eq!(sidecar.upstream_addr("orders"), addr, "the listener stays");
    client.assert_echo("undisturbed").await;
    let _one = TcpClient::connect(addr).await;
    assert!(TcpClient::try_connect(addr).await.is_err(), "the new limit");
    // The listener is removed: its connections go on.
    sidecar.apply_settings("upstreams: [{service: orders}]").await;
    wait::until("nothing is accepted", wait::TIMEOUT, async || {
        tokio::net::TcpStream::connect(addr).await.is_err()
    })
    .await;
    client.assert_echo("still here").await;
    sidecar.apply_settings(&fixed("")).await;
    TcpClient::connect(addr).await.assert_echo("again").await;
}

#[tokio::test]
async fn a_drain_gives_connections_its_time_and_then_resets_them() {
    let a = TcpInstance::start("a").await;
    let (sidecar, addr) = start("", &listed(&[&a])).await;
    let mut client = TcpClient::connect(addr).await;
    let stopping = tokio::spawn(sidecar.stop(Duration::from_millis(1500)));
    wait::until("nothing is accepted", wait::TIMEOUT, async || {
        tokio::net::TcpStream::connect(addr).await.is_err()
    })
    .await;
    client.assert_echo("within the time of the drain").await;
    assert_eq!(stopping.await.unwrap(), 1, "one was cut");
    assert_eq!(client.wait_end().await.unwrap_err().kind(), ErrorKind::ConnectionReset);

    let (sidecar, addr) = start("", &listed(&[&a])).await;
    let client = TcpClient::connect(addr).await;
    let stopping = tokio::spawn(sidecar.stop(Duration::from_secs(600)));
    drop(client);
    assert_eq!(wait::within("the drain ends with the connection", stopping).await.unwrap(), 0);
}
