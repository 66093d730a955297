//! The protocol of an upstream, and the keys that have no meaning with it.

#![allow(clippy::panic, clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::time::Duration;

use common::problems;
use outrigger_config::{Environment, Overrides, Protocol, ProxyProtocol, TcpSettings, load};

fn check(text: &str, expected: &[&str]) {
    assert_eq!(problems(text, &[], &Overrides::default()), expected, "for:\n{text}");
}

#[test]
fn each_protocol_is_read_and_http_is_not_asked_for_by_default() {
    for (text, expected) in [
        ("", Protocol::Auto),
        ("protocol: auto", Protocol::Auto),
        ("protocol: http", Protocol::Http),
        ("protocol: tcp", Protocol::Tcp),
    ] {
        let text = format!("upstreams:\n- service: db\n  listen: 127.0.0.1:5432\n  {text}\n");
        let loaded = load(Some(("o.yaml", &text)), &Environment::default(), &Overrides::default()).unwrap();
        assert_eq!(loaded.config.upstreams[0].protocol, expected, "{text}");
    }
    check(
        "upstreams: [{service: db, protocol: udp}]\n",
        &[
            "o.yaml:1:37 upstreams[0].protocol: \"udp\" is not a value of this setting; allowed: auto, http, http2, grpc, tcp",
        ],
    );
}

#[test]
fn settings_of_connections_are_read_and_have_ranges() {
    let upstream = |keys: &str| format!("upstreams:\n- {{service: db, listen: 127.0.0.1:5432, {keys}}}\n");
    let tcp = |keys: &str| {
        let text = upstream(&format!("protocol: tcp, tcp: {{{keys}}}"));
        load(Some(("o.yaml", &text)), &Environment::default(), &Overrides::default())
            .unwrap()
            .config
            .upstreams[0]
            .tcp
    };
    assert_eq!(tcp(""), TcpSettings::default());
    let expected = TcpSettings {
        idle: Duration::from_secs(60),
        max_connections: Some(5),
        grace: Some(Duration::ZERO),
        proxy_protocol: ProxyProtocol::V2,
    };
    assert_eq!(tcp("idle: 1m, max_connections: 5, grace: 0s, proxy_protocol: v2"), expected);
    assert_eq!(tcp("max_connections: off, grace: off, proxy_protocol: off"), TcpSettings::default());
    check(
        &upstream("protocol: tcp, tcp: {idle: 0s, max_connections: 0, grace: 25h, proxy_protocol: v3}"),
        &[
            "o.yaml:2:68 upstreams[0].tcp.idle: \"0s\" is out of range; allowed: 1s to 168h",
            "o.yaml:2:89 upstreams[0].tcp.max_connections: \"0\" is out of range; allowed: 1 to 1000000",
            "o.yaml:2:99 upstreams[0].tcp.grace: \"25h\" is out of range; allowed: 0s to 24h",
            "o.yaml:2:120 upstreams[0].tcp.proxy_protocol: \"v3\" is not a value of this setting; did you mean v1? allowed: off, v1, v2",
        ],
    );
    check(
        &upstream("protocol: tcp, tls: {verify: ca}, tcp: {proxy_protocol: v1}"),
        &[
            "o.yaml:2:97 upstreams[0].tcp.proxy_protocol: is beside tls, and the header would be within the encryption, where no server looks for it; remove one of them",
        ],
    );
    let unused =
        load(Some(("o.yaml", &upstream("tcp: {grace: 1s}"))), &Environment::default(), &Overrides::default());
    assert_eq!(
        unused.unwrap().warnings.iter().map(ToString::to_string).collect::<Vec<_>>(),
        [
            "o.yaml:2:54 upstreams[0].tcp.grace: is not used: protocol is not tcp; set protocol: tcp, or remove it"
        ]
    );
}

#[test]
fn tcp_needs_a_listener_of_its_own() {
    check(
        "upstreams: [{service: db, protocol: tcp}]\n",
        &[
            "o.yaml:1:37 upstreams[0].protocol: tcp needs a listener of its own, because the bytes of a connection name no service; set listen too, as listen: 127.0.0.1:5432",
        ],
    );
}

#[test]
fn settings_of_requests_beside_tcp_are_errors_and_those_of_connections_are_not() {
    let at = |line, col, key| {
        format!(
            "o.yaml:{line}:{col} upstreams[0].{key}: is about HTTP requests, and protocol is tcp; remove it, or set protocol: http"
        )
    };
    let text = "upstreams:\n- service: db\n  listen: 127.0.0.1:5432\n  protocol: tcp\n  hosts: [db.example]\n  \
                per_try_timeout: 1s\n  retry: {statuses: [503], max_retries: 1}\n  routes: [{to: {service: a}}]\n  \
                mirror: {to: {service: a}}\n";
    let expected = [
        at(5, 10, "hosts"),
        at(6, 20, "per_try_timeout"),
        at(7, 21, "retry.statuses"),
        at(8, 11, "routes"),
        at(9, 11, "mirror"),
    ];
    check(text, &expected.each_ref().map(String::as_str));
    check(
        "defaults: {deadline: 2s, retry: {statuses: [503]}}\nupstreams: [{service: db, listen: 127.0.0.1:5432, protocol: tcp, \
         timeout: 3s, connect_timeout: 1s, retry: {max_retries: 1}, circuit_breaker: off, outlier: off, balance: random, \
         subsets: {a: {tags: [x]}}, split: [{subset: a, weight: 9}, {service: b, weight: 1}], failover: [{datacenter: dc2}]}]\n",
        &[],
    );
}
