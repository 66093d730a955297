//! Which instance a connection gets: by turns, by shares, at another one, elsewhere; and what there is without one.

use std::{collections::BTreeMap, io::ErrorKind, time::Duration};

use outrigger_tests::{
    consul::{self, ConsulDatacenters},
    instance::refusing_addr,
    registry::ConsulAgent,
    sidecar::Services,
    tcp::{TcpClient, TcpInstance},
    wait,
};
use serde_json::json;

use super::{and, ended, listed, refused, start};
use crate::app;

/// How many of `count` connections each instance got.
async fn shares(addr: std::net::SocketAddr, count: usize) -> BTreeMap<String, usize> {
    let mut shares = BTreeMap::new();
    for _ in 0..count {
        *shares.entry(TcpClient::connect(addr).await.instance).or_default() += 1;
    }
    shares
}

#[tokio::test]
async fn connections_go_to_each_instance_in_turn() {
    let (a, b) = (TcpInstance::start("a").await, TcpInstance::start("b").await);
    let (_sidecar, addr) = start("", &listed(&[&a, &b])).await;
    let shares = shares(addr, 10).await;
    assert_eq!(shares, BTreeMap::from([("a".to_owned(), 5), ("b".to_owned(), 5)]));
}

#[tokio::test]
async fn a_connection_that_is_refused_is_made_at_another_instance() {
    let b = TcpInstance::start("b").await;
    let services = listed(&[&b]).and_at("orders", "dead", refusing_addr(), "");
    for keys in ["", ", retry: {max_retries: 1}, outlier: off"] {
        let (sidecar, addr) = start(keys, &services).await;
        for _ in 0..50 {
            assert_eq!(TcpClient::connect(addr).await.instance, "b");
        }
        assert_eq!(ended(&sidecar, "refused"), 0.0, "{keys}");
        let again = sidecar.metric("outrigger_retries_total", &[("service", "orders"), ("why", "again")]);
        assert!(again >= 1.0, "{again}");
        let attempts = |outcome| {
            sidecar.metric("outrigger_attempts_total", &[("service", "orders"), ("outcome", outcome)])
        };
        assert_eq!((attempts("connected"), attempts("connect_refused")), (50.0, again));
    }
}

#[tokio::test]
async fn of_a_killed_instance_only_its_connections_end() {
    let (a, b) = (TcpInstance::start("a").await, TcpInstance::start("b").await);
    let (sidecar, addr) = start("", &listed(&[&a, &b])).await;
    let mut clients = Vec::new();
    for _ in 0..20 {
        clients.push(TcpClient::connect(addr).await);
    }
    a.kill().await;
    for client in &mut clients {
        if client.instance == "a" {
            let _ = client.wait_end().await;
        } else {
            client.assert_echo("still here").await;
        }
    }
    for _ in 0..20 {
        let mut client = TcpClient::connect(addr).await;
        assert_eq!(client.instance, "b");
        client.assert_echo("new").await;
    }
    assert_eq!(ended(&sidecar, "refused"), 0.0);
    a.listen_again().await;
    wait::until("it is used again", wait::TIMEOUT, async || TcpClient::connect(addr).await.instance == "a")
        .await;
}

#[tokio::test]
async fn the_shares_of_a_split_are_exact_and_that_of_an_empty_subset_goes_to_the_others() {
    let [a, b] = [TcpInstance::start("a").await, TcpInstance::start("b").await];
    let other = TcpInstance::start("c").await;
    let services = Services::default().and_at("orders", "a", a.addr(), "tags: [v1]").and_at(
        "orders",
        "b",
        b.addr(),
        "tags: [v2]",
    );
    let services = and(services, "new", &[&other]);
    let keys = ", subsets: {v1: {tags: [v1]}, v2: {tags: [v2]}, none: {tags: [none]}}, split: [{subset: v1, weight: 60}, \
                {subset: v2, weight: 30}, {service: new, weight: 10}]";
    let (sidecar, addr) = start(keys, &services).await;
    // The first connection to another service makes its cluster known.
    wait::until("it is known", wait::TIMEOUT, async || TcpClient::connect(addr).await.instance == "c").await;
    let got = shares(addr, 40).await;
    assert_eq!(got, BTreeMap::from([("a".to_owned(), 24), ("b".to_owned(), 12), ("c".to_owned(), 4)]));
    let to_new = [("service", "new"), ("result", "closed")];
    wait::until("they count there", wait::TIMEOUT, async || {
        sidecar.metric("outrigger_tcp_connections_total", &to_new) >= 5.0
    })
    .await;
    let keys = keys.replace("{service: new, weight: 10}", "{subset: none, weight: 10}");
    let (_sidecar, addr) = start(&keys, &services).await;
    // Three cycles of ten turns, without those of the empty subset.
    let got = shares(addr, 27).await;
    assert_eq!(got, BTreeMap::from([("a".to_owned(), 18), ("b".to_owned(), 9)]));
}

#[tokio::test]
async fn the_first_connection_after_the_last_instance_is_gone_goes_to_the_failover() {
    let (a, spare) = (TcpInstance::start("a").await, TcpInstance::start("spare").await);
    let services = and(listed(&[&a]), "orders-spare", &[&spare]);
    let (sidecar, addr) = start(", failover: [{service: orders-spare}], return_after: 1s", &services).await;
    assert_eq!(TcpClient::connect(addr).await.instance, "a");
    a.kill().await;
    for _ in 0..10 {
        assert_eq!(TcpClient::connect(addr).await.instance, "spare");
    }
    assert_eq!(ended(&sidecar, "refused"), 0.0);
    let attempts = [("service", "orders"), ("target", "orders-spare")];
    assert_eq!(sidecar.metric("outrigger_failover_attempts_total", &attempts), 10.0);
    a.listen_again().await;
    wait::until("connections return", wait::TIMEOUT, async || TcpClient::connect(addr).await.instance == "a")
        .await;
}

#[tokio::test]
async fn a_connection_goes_to_another_datacenter_while_the_own_one_has_no_instance() {
    if !consul::available("a connection goes to another datacenter") {
        return;
    }
    let consul = ConsulDatacenters::start().await.expect("two datacenters");
    let (a, b) = (TcpInstance::start("a").await, TcpInstance::start("b").await);
    for (agent, one) in [(&consul.dc1, &a), (&consul.dc2, &b)] {
        let (ip, port) = (one.addr().ip(), one.addr().port());
        let body = json!({"Name": "orders", "ID": one.name(), "Address": ip, "Port": port});
        let agent = ConsulAgent(agent.http_addr());
        agent.put("/v1/agent/service/register", &body).await;
        agent.wait_health("orders", &[(one.name(), "passing")]).await;
    }
    let listen = outrigger_net::reserve_addr();
    let settings = format!(
        "upstreams: [{{service: orders, listen: \"{listen}\", protocol: tcp, failover: [{{datacenter: dc2}}]}}]"
    );
    let (app, _) = app::start_router(consul.dc1.http_addr(), &settings).await;
    wait::until_true("the target is known", || {
        let dc2 = app.clusters().into_iter().find(|one| one.datacenter.as_deref() == Some("dc2"));
        dc2.is_some_and(|one| one.endpoints.iter().any(|one| one.usable))
    })
    .await;
    assert_eq!(TcpClient::connect(listen).await.instance, "a");
    a.kill().await;
    assert_eq!(TcpClient::connect(listen).await.instance, "b");
    app.shutdown().await;
}

#[tokio::test]
async fn without_an_instance_the_connection_is_reset_at_once_and_its_reason_is_counted() {
    for (services, reason) in [
        (Services::default().empty("orders"), "unknown_service"),
        (Services::default().and_at("orders", "dead", refusing_addr(), ""), "connect_failed"),
    ] {
        let (sidecar, addr) = start("", &services).await;
        let error = TcpClient::try_connect(addr).await.expect_err("no instance");
        assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{reason}");
        assert_eq!((refused(&sidecar, reason), ended(&sidecar, "refused")), (1.0, 1.0), "{reason}");
    }
}

#[tokio::test]
async fn the_circuit_breaker_judges_connects() {
    let services = Services::default().and_at("orders", "dead", refusing_addr(), "");
    let keys = ", circuit_breaker: {min_requests: 3, open_for: 1h, max_open_for: 1h}";
    let (sidecar, addr) = start(keys, &services).await;
    for _ in 0..10 {
        assert!(TcpClient::try_connect(addr).await.is_err());
    }
    assert!(refused(&sidecar, "circuit_open") >= 5.0, "{}", refused(&sidecar, "circuit_open"));
    assert_eq!(sidecar.metric("outrigger_breaker_state", &[("service", "orders")]), 2.0);
}

#[tokio::test]
async fn a_silent_instance_is_left_within_connect_timeout() {
    // Its queue is full: packets are dropped, as by a host that is gone.
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&std::net::SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    socket.listen(0).unwrap();
    let silent = socket.local_addr().unwrap().as_socket().unwrap();
    let _held: Vec<_> = (0..4)
        .filter_map(|_| std::net::TcpStream::connect_timeout(&silent, Duration::from_millis(100)).ok())
        .collect();
    let b = TcpInstance::start("b").await;
    let services = listed(&[&b]).and_at("orders", "silent", silent, "");
    let (sidecar, addr) = start(", connect_timeout: 300ms", &services).await;
    for _ in 0..6 {
        assert_eq!(TcpClient::connect(addr).await.instance, "b");
    }
    let timeouts = [("service", "orders"), ("outcome", "connect_timeout")];
    assert!(sidecar.metric("outrigger_attempts_total", &timeouts) >= 1.0);
}
