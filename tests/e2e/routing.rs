//! Every form of a service name reaches the service, and no other address is reached.

use outrigger_tests::{
    client::{self, Client, Response},
    instance::{Answer, Instance},
    sidecar::{Services, Sidecar},
};

/// Two services. Each instance answers with its name; one instance of orders has the tag v2.
async fn two_services(settings: &str) -> (Sidecar, [Instance; 3]) {
    let all = [Instance::start("o1").await, Instance::start("o2").await, Instance::start("p1").await];
    let services = Services::default()
        .and("orders", &all[0], "")
        .and("orders", &all[1], "tags: [v2]")
        .and("payments", &all[2], "");
    (Sidecar::start(settings, &services).await, all)
}

#[track_caller]
fn assert_refused(response: &Response, status: u16, reason: &str) {
    assert_eq!((response.status, response.reason()), (status, reason), "{response:?}");
    assert_eq!(response.body_error, None);
}

#[tokio::test]
async fn the_host_names_the_service_in_every_form() {
    let (sidecar, _instances) = two_services("").await;
    let port = sidecar.addr().port();
    for host in [
        "payments".to_owned(),
        "PAYMENTS".to_owned(),
        "payments:7070".to_owned(),
        format!("payments:{port}"),
        "payments.service.consul".to_owned(),
        "payments.service.consul:80".to_owned(),
        "payments.service.dc1.consul".to_owned(),
    ] {
        let response = sidecar.get(&host, "/").await;
        assert_eq!((response.status, response.instance()), (200, "p1"), "{host}");
    }
}

#[tokio::test]
async fn a_tag_in_the_host_narrows_to_the_instances_that_carry_it() {
    let (sidecar, instances) = two_services("").await;
    for host in ["v2.orders.service.consul", "V2.orders.service.dc1.consul:7070"] {
        for _ in 0..6 {
            assert_eq!(sidecar.get(host, "/").await.instance(), "o2", "{host}");
        }
    }
    assert_eq!(instances[0].count(), 0);
}

#[tokio::test]
async fn the_path_form_loses_its_prefix_and_nothing_else() {
    let (sidecar, instances) = two_services("").await;
    let own = sidecar.addr().to_string();
    let port = sidecar.addr().port();
    let cases = [
        ("/svc/payments", "/"),
        ("/svc/payments/", "/"),
        ("/svc/payments/a/b", "/a/b"),
        ("/svc/payments?q=1", "/?q=1"),
        ("/svc/payments/?q=1", "/?q=1"),
        ("/svc/payments/a?x=/../y", "/a?x=/../y"),
        ("/svc/payments//a//b", "//a//b"),
        ("/svc/payments/%2e%2e/a", "/%2e%2e/a"),
        ("/svc/payments/a/../b/./c", "/a/../b/./c"),
        ("/svc/payments/a%2Fb%20c", "/a%2Fb%20c"),
        ("/svc/payments/svc/orders", "/svc/orders"),
    ];
    for host in [own, format!("localhost:{port}")] {
        for (sent, expected) in cases {
            let before = instances[2].count();
            let response = sidecar.get(&host, sent).await;
            assert_eq!((response.status, response.instance()), (200, "p1"), "{host} {sent}: {response:?}");
            let seen = instances[2].seen().swap_remove(before);
            assert_eq!(seen.request.target(), expected, "{sent}");
            assert_eq!(seen.request.head.get("host"), Some("payments"), "{sent}");
        }
    }
}

#[tokio::test]
async fn a_target_is_forwarded_unchanged() {
    let (sidecar, instances) = two_services("").await;
    for target in ["/", "//", "//evil/x", "/a//b/../c/%2e%2e/d?e=%2F&&f#", "/?", "/%00%ff", "/a;b=c,d:e@f"] {
        let target = target.trim_end_matches('#');
        let before = instances[2].count();
        let response = sidecar.get("payments", target).await;
        assert_eq!(response.status, 200, "{target}: {response:?}");
        assert_eq!(instances[2].seen()[before].request.target(), target);
        assert_eq!(instances[2].seen()[before].request.head.get("host"), Some("payments"));
    }
}

#[tokio::test]
async fn options_of_the_whole_server_reaches_an_instance() {
    let (sidecar, instances) = two_services("").await;
    let response = sidecar.exchange("OPTIONS * HTTP/1.1\r\nHost: payments\r\n\r\n").await;
    assert_eq!(response.status, 200, "{response:?}");
    assert_eq!(instances[2].only_request().request.target(), "*");
}

#[tokio::test]
async fn the_absolute_form_of_a_client_with_http_proxy_reaches_its_host() {
    let (sidecar, instances) = two_services("").await;
    let cases = [
        ("http://payments/a?b", "payments", "/a?b"),
        // RFC 9112 §3.2.2: the target wins over the Host field.
        ("http://payments/a", "orders", "/a"),
        ("http://payments", "payments", "/"),
        ("http://payments:80/x", "payments:80", "/x"),
        ("http://payments.service.consul/x", "payments.service.consul", "/x"),
        ("http://payments?q", "payments", "/?q"),
    ];
    for (nth, (target, host, expected)) in cases.into_iter().enumerate() {
        let response = sidecar.get(host, target).await;
        assert_eq!((response.status, response.instance()), (200, "p1"), "{target}: {response:?}");
        let seen = instances[2].seen().swap_remove(nth);
        assert_eq!(seen.request.target(), expected, "{target}");
        let authority = target.trim_start_matches("http://").split(['/', '?']).next();
        assert_eq!(seen.request.head.get("host"), authority, "{target}");
    }
}

#[tokio::test]
async fn an_upstream_with_its_own_port_accepts_any_host() {
    let settings = "upstreams: [{service: payments, listen: \"127.0.0.1:0\"}]";
    let (sidecar, instances) = two_services(settings).await;
    let own = sidecar.upstream_addr("payments");
    for host in ["payments", "example.com", "10.0.0.1:80", "orders", &own.to_string()] {
        let response = client::get(own, host, "/svc/orders/x").await;
        assert_eq!((response.status, response.instance()), (200, "p1"), "{host}: {response:?}");
    }
    assert_eq!(
        instances[2].seen()[0].request.target(),
        "/svc/orders/x",
        "the sidecar does not interpret a path"
    );
}

#[tokio::test]
async fn a_declared_upstream_uses_only_the_instances_with_its_tags() {
    let settings = "upstreams: [{service: orders, tags: [v2]}]";
    let (sidecar, _instances) = two_services(settings).await;
    for _ in 0..6 {
        assert_eq!(sidecar.get("orders", "/").await.instance(), "o2");
    }
}

#[tokio::test]
async fn an_address_or_a_name_outside_the_registry_is_refused() {
    let (sidecar, instances) = two_services("").await;
    for host in [
        "10.0.0.5",
        "10.0.0.5:80",
        "[2001:db8::1]:80",
        "example.com",
        "orders.example.com",
        "a.b.c.d.e.consul",
    ] {
        assert_refused(&sidecar.get(host, "/").await, 421, "outside_host");
        let absolute = format!("http://{host}/");
        assert_refused(&sidecar.get("orders", &absolute).await, 421, "outside_host");
    }
    let own = instances[2].addr().to_string();
    let response = sidecar.get(&own, "/").await;
    assert!(response.status >= 400, "an instance's address is refused too: {response:?}");
    assert!(instances.iter().all(|instance| instance.count() == 0));
}

#[tokio::test]
async fn connect_is_refused_for_every_target_that_is_no_name_of_a_service_and_where_it_is_off() {
    let (sidecar, instances) = two_services("").await;
    let own = sidecar.addr().to_string();
    let of_instance = instances[0].addr().to_string();
    let connect = |target: &str| format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n");
    for (target, status, reason) in [
        ("10.0.0.5:443", 421, "outside_host"),
        (&*of_instance, 421, "outside_host"),
        ("[::1]:443", 421, "outside_host"),
        ("example.com:443", 421, "outside_host"),
        ("localhost:22", 421, "outside_host"),
        (&*own, 421, "outside_host"),
        ("orders", 400, "bad_request"),
        ("/orders", 400, "bad_request"),
        ("unheard-of:80", 404, "unknown_service"),
    ] {
        assert_refused(&sidecar.exchange(connect(target)).await, status, reason);
    }
    let with_body = "CONNECT orders:80 HTTP/1.1\r\nHost: orders:80\r\nContent-Length: 2\r\n\r\nhi";
    assert_refused(&sidecar.exchange(with_body).await, 400, "bad_request");
    let off = "outbound: {listen: \"127.0.0.1:0\", connect: off}";
    let sidecar = Sidecar::start(off, &Services::of("orders", &[&instances[0]])).await;
    assert_refused(&sidecar.exchange(connect("orders:80")).await, 405, "method_not_allowed");
    assert!(instances.iter().all(|instance| instance.accepted() == 0));
}

#[tokio::test]
async fn a_missing_double_or_invalid_host_is_refused_and_the_connection_closed() {
    let (sidecar, instances) = two_services("").await;
    for fields in [
        "",
        "Host: orders\r\nHost: orders\r\n",
        "Host: orders\r\nHost: payments\r\n",
        "Host: or ders\r\n",
        "Host: orders/x\r\n",
        "Host: user@orders\r\n",
        "Host: orders:port\r\n",
        "Host: orders, payments\r\n",
    ] {
        let mut client = sidecar.client().await;
        let response = client.exchange(format!("GET / HTTP/1.1\r\n{fields}\r\n")).await;
        assert_refused(&response, 400, "bad_request");
        client.wait_closed().await;
    }
    assert!(instances.iter().all(|instance| instance.count() == 0));
}

#[tokio::test]
async fn an_old_client_without_a_host_can_use_the_absolute_and_no_other_form() {
    let (sidecar, _instances) = two_services("").await;
    let absolute = sidecar.exchange("GET http://payments/ HTTP/1.0\r\n\r\n").await;
    assert_eq!((absolute.status, absolute.instance()), (200, "p1"), "{absolute:?}");
    let with_host = sidecar.exchange("GET / HTTP/1.0\r\nHost: payments\r\n\r\n").await;
    assert_eq!(with_host.instance(), "p1");
    let nothing = sidecar.exchange("GET / HTTP/1.0\r\n\r\n").await;
    assert!(matches!(nothing.status, 400 | 404) && !nothing.reason().is_empty(), "{nothing:?}");
}

#[tokio::test]
async fn an_unknown_service_and_a_path_without_a_service_are_refused_with_their_reasons() {
    let (sidecar, _instances) = two_services("").await;
    let unknown = sidecar.get("missing", "/").await;
    assert_refused(&unknown, 404, "unknown_service");
    assert_eq!(unknown.field("content-type"), "application/problem+json");
    let problem = unknown.json();
    assert_eq!(problem["status"], 404);
    assert!(problem.to_string().contains("missing"), "{problem}");

    // An empty Host is valid (RFC 9112 §3.2) and names no service.
    let empty = sidecar.exchange("GET / HTTP/1.1\r\nHost:\r\n\r\n").await;
    assert_refused(&empty, 404, "no_route");

    let own = sidecar.addr().to_string();
    for target in ["/", "/svc", "/svc/", "/svc//x", "/orders", "/svc/../orders", "/svc/%6frders"] {
        let response = sidecar.get(&own, target).await;
        assert_eq!(response.status, 404, "{target}: {response:?}");
        assert!(matches!(response.reason(), "no_route" | "unknown_service"), "{target}: {response:?}");
    }
}

#[tokio::test]
async fn one_connection_may_call_several_services() {
    let (sidecar, _instances) = two_services("").await;
    let mut client = sidecar.client().await;
    for (host, expected) in [("payments", "p"), ("orders", "o"), ("unknown", ""), ("payments", "p")] {
        let response = client.get(host, "/").await;
        assert!(response.instance().starts_with(expected), "{host}: {response:?}");
    }
}

#[tokio::test]
async fn an_instance_on_ipv6_is_reached() {
    if std::net::TcpListener::bind("[::1]:0").is_err() {
        outrigger_tests::skip::report_skipped("an instance on IPv6 is reached", "this machine has no ::1");
        return;
    }
    let six = Instance::start_on("[::1]:0".parse().unwrap(), "six", |_| Answer::ok("six")).await;
    let sidecar = Sidecar::orders("", &[&six]).await;
    assert_eq!(sidecar.get("orders", "/").await.text(), "six");
}

#[tokio::test]
async fn both_loopback_addresses_listen_on_the_same_port_by_default() {
    let one = Instance::start("one").await;
    let sidecar = Sidecar::orders("outbound: {listen: \"localhost:0\"}", &[&one]).await;
    let addrs = sidecar.proxy.outbound_addrs().to_vec();
    assert!(!addrs.is_empty() && addrs.iter().all(|addr| addr.port() == addrs[0].port()), "{addrs:?}");
    if std::net::TcpListener::bind("[::1]:0").is_ok() {
        assert_eq!(addrs.len(), 2, "{addrs:?}");
    }
    for addr in addrs {
        assert_eq!(Client::connect(addr).await.get("orders", "/").await.text(), "one", "{addr}");
    }
}
