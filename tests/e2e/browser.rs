//! Requests from a browser are checked, because a page of another origin can make a browser send requests to localhost. What a
//! gateway passes on of its own visitors is not.

use std::net::SocketAddr;

use outrigger_tests::{
    client::{Client, Response},
    instance::Instance,
    sidecar::Sidecar,
};

async fn orders(settings: &str) -> (Sidecar, Instance) {
    let instance = Instance::start("a").await;
    (Sidecar::orders(settings, &[&instance]).await, instance)
}

/// Marks of a request that a page of another site made a browser send.
const MARKS: [&str; 6] = [
    "Origin: https://evil.example",
    "Origin: null",
    "Origin: http://orders.evil.example",
    "Origin: http://localhost.evil.example",
    "Sec-Fetch-Site: cross-site",
    "Sec-Fetch-Site: same-site",
];

async fn ask(addr: SocketAddr, method: &str, target: &str, host: &str, fields: &str) -> Response {
    let length = if method == "POST" { "Content-Length: 0\r\n" } else { "" };
    let fields: String = fields.lines().map(|line| format!("{line}\r\n")).collect();
    let request = format!("{method} {target} HTTP/1.1\r\nHost: {host}\r\n{fields}{length}\r\n");
    Client::connect(addr).await.exchange(request).await
}

#[track_caller]
fn assert_forbidden(response: &Response, key: &str, what: &str) {
    assert_eq!((response.status, response.reason()), (403, "forbidden_origin"), "{what}: {response:?}");
    let problem = response.json();
    assert!(problem["detail"].as_str().is_some_and(|detail| detail.contains(key)), "{what}: {problem}");
}

#[tokio::test]
async fn a_request_of_another_origin_that_a_browser_aims_at_the_sidecar_is_refused() {
    let (sidecar, instance) = orders("").await;
    let (addr, port) = (sidecar.addr(), sidecar.addr().port());
    for fields in MARKS {
        for (method, target, host) in [
            ("GET", "/", format!("orders:{port}")),
            ("POST", "/", format!("orders:{port}")),
            ("GET", "/", format!("orders.service.consul:{port}")),
            ("GET", "/svc/orders/", addr.to_string()),
            ("GET", "/svc/orders/", format!("localhost:{port}")),
            // A gateway on another port of this machine, or a name that is not the browser's own doing.
            ("GET", "/svc/orders/", "localhost:3000".to_owned()),
            ("GET", "/svc/orders/", "127.0.0.1".to_owned()),
            // A proxy setting.
            ("GET", "http://orders/", "orders".to_owned()),
            ("POST", "http://orders:8080/", "orders:8080".to_owned()),
            ("GET", &format!("http://{addr}/svc/orders/"), "orders".to_owned()),
        ] {
            let response = ask(addr, method, target, &host, fields).await;
            assert_forbidden(&response, "outbound.allow_origins", &format!("{target} {host} {fields}"));
        }
    }
    assert_eq!(instance.count(), 0);
}

#[tokio::test]
async fn what_a_gateway_passes_on_of_its_visitors_is_carried_unchecked() {
    let settings = "upstreams: [{service: orders, listen: \"127.0.0.1:0\"}]";
    let (sidecar, instance) = orders(settings).await;
    let own = sidecar.upstream_addr("orders");
    let browser = "User-Agent: Mozilla/5.0";
    for fields in MARKS.iter().chain(&[browser]) {
        let fields = format!("{fields}\n{browser}");
        for (addr, host) in [
            (sidecar.addr(), "orders"),
            (sidecar.addr(), "orders.service.consul"),
            (sidecar.addr(), "orders:9"),
            (own, "orders"),
            (own, "shop.example"),
            (own, "shop.example:8443"),
            (own, "10.0.0.1"),
        ] {
            let response = ask(addr, "POST", "/", host, &fields).await;
            assert_eq!(response.status, 200, "{host} {fields}: {response:?}");
        }
    }
    assert_eq!(instance.count(), 7 * 7);
}

#[tokio::test]
async fn a_port_of_its_own_refuses_the_pages_of_a_name_that_was_turned_to_this_machine() {
    let settings =
        "upstreams: [{service: orders, listen: \"127.0.0.1:0\", hosts: [shop.example, \"2001:db8::1\"]}]";
    let (sidecar, instance) = orders(settings).await;
    let own = sidecar.upstream_addr("orders");
    let port = own.port();
    let browser = "User-Agent: Mozilla/5.0";
    for host in ["evil.example", "10.0.0.1"] {
        let response = ask(own, "GET", "/", &format!("{host}:{port}"), browser).await;
        assert_forbidden(&response, &format!("add \"{host}\" to upstreams.orders.hosts"), host);
        let response = ask(own, "GET", &format!("http://{host}/"), host, browser).await;
        assert_forbidden(&response, "upstreams.orders.hosts", host);
        // Not from a browser.
        assert_eq!(ask(own, "GET", "/", &format!("{host}:{port}"), "User-Agent: curl/8").await.status, 200);
    }
    // A name of the setting, with the port and without; and marks of another site for it.
    for host in
        [format!("shop.example:{port}"), format!("Shop.Example.:{port}"), format!("[2001:db8::1]:{port}")]
    {
        for fields in
            ["Sec-Fetch-Site: same-origin", "Origin: https://evil.example", "Sec-Fetch-Site: cross-site"]
        {
            let response = ask(own, "GET", "/", &host, &format!("{fields}\n{browser}")).await;
            assert_eq!(response.status, 200, "{host} {fields}: {response:?}");
        }
    }
    for host in
        [format!("orders:{port}"), own.to_string(), format!("localhost:{port}"), "localhost".to_owned()]
    {
        let response = ask(own, "GET", "/", &host, "Origin: https://evil.example").await;
        assert_forbidden(&response, "outbound.allow_origins", &host);
    }
    assert_eq!(instance.count(), 2 + 9);
}

#[tokio::test]
async fn a_link_to_the_sidecar_can_be_followed_and_nothing_else_of_its_page() {
    let (sidecar, instance) = orders("").await;
    let host = sidecar.addr().to_string();
    let link = "Sec-Fetch-Site: cross-site\nSec-Fetch-Mode: navigate\nSec-Fetch-Dest: document\nUser-Agent: Mozilla/5.0";
    for method in ["GET", "HEAD"] {
        let response = ask(sidecar.addr(), method, "/svc/orders/", &host, link).await;
        assert_eq!(response.status, 200, "{method}: {response:?}");
    }
    assert_eq!(instance.count(), 2);
    let post = ask(sidecar.addr(), "POST", "/svc/orders/", &host, link).await;
    assert_forbidden(&post, "outbound.allow_origins", "POST");
    for (from, to) in [("document", "iframe"), ("document", "empty"), ("navigate", "no-cors")] {
        let response = ask(sidecar.addr(), "GET", "/svc/orders/", &host, &link.replace(from, to)).await;
        assert_forbidden(&response, "outbound.allow_origins", to);
    }
    assert_eq!(instance.count(), 2);
}

#[tokio::test]
async fn a_preflight_of_another_origin_is_refused() {
    let (sidecar, _instance) = orders("").await;
    let host = format!("orders:{}", sidecar.addr().port());
    let fields = "Origin: https://evil.example\nAccess-Control-Request-Method: PUT";
    let response = ask(sidecar.addr(), "OPTIONS", "/", &host, fields).await;
    assert_eq!(response.status, 403);
    assert!(!response.head.has("access-control-allow-origin"));
}

#[tokio::test]
async fn an_allowed_origin_and_a_direct_visit_pass() {
    let settings = "outbound: {listen: \"127.0.0.1:0\", allow_origins: [\"https://app.example\", \"http://dev.example:3000\", \"https://*.shop.example\"]}";
    let (sidecar, instance) = orders(settings).await;
    let host = format!("orders:{}", sidecar.addr().port());
    for fields in [
        "Origin: https://app.example\nSec-Fetch-Site: cross-site",
        "Origin: http://dev.example:3000",
        "Origin: https://a.b.shop.example",
        "Sec-Fetch-Site: none",
        "Sec-Fetch-Site: same-origin",
    ] {
        let response = ask(sidecar.addr(), "GET", "/", &host, fields).await;
        assert_eq!(response.status, 200, "{fields}: {response:?}");
    }
    for fields in [
        "Origin: https://app.example:444",
        "Origin: http://app.example",
        "Origin: https://app.example.evil",
        "Origin: https://shop.example",
        "Origin: https://evilshop.example",
        "Origin: null",
        "Sec-Fetch-Site: cross-site",
    ] {
        let response = ask(sidecar.addr(), "GET", "/", &host, fields).await;
        assert_forbidden(&response, "outbound.allow_origins", fields);
    }
    assert_eq!(instance.count(), 5);
}

#[tokio::test]
async fn a_page_of_the_service_itself_may_send_requests_to_it() {
    let settings = "upstreams: [{service: orders, listen: \"127.0.0.1:0\", hosts: [shop.example]}]";
    let (sidecar, _instance) = orders(settings).await;
    let (addr, own) = (sidecar.addr(), sidecar.upstream_addr("orders"));
    let named = format!("orders:{}", addr.port());
    for (addr, target, host, origin, expected) in [
        (addr, "/", &*named, &*named, 200),
        (addr, "http://orders/", "orders", "orders", 200),
        (addr, "http://orders:80/", "orders:80", "orders", 200),
        (own, "http://shop.example/", "shop.example", "shop.example", 200),
        // A page of another service, of another port, and of a name that can have been turned to this machine.
        (addr, "/", &*named, "payments", 403),
        (addr, "http://orders/", "orders", "orders:8080", 403),
        (own, "http://evil.example/", "evil.example", "evil.example", 403),
    ] {
        let fields = format!("Origin: http://{origin}\nSec-Fetch-Site: same-origin\nUser-Agent: Mozilla/5.0");
        let response = ask(addr, "POST", target, host, &fields).await;
        assert_eq!(response.status, expected, "{target} {host} {origin}: {response:?}");
    }
}

#[tokio::test]
async fn a_star_allows_every_page_and_null_those_without_an_origin() {
    let every = |entry: &str| format!("outbound: {{listen: \"127.0.0.1:0\", allow_origins: [{entry}]}}");
    for (entry, expected) in [("\"*\"", [200, 200, 200]), ("null", [403, 200, 403])] {
        let (sidecar, _instance) = orders(&every(entry)).await;
        let host = format!("orders:{}", sidecar.addr().port());
        let fields = ["Origin: https://evil.example", "Origin: null", "Sec-Fetch-Site: cross-site"];
        for (fields, expected) in fields.into_iter().zip(expected) {
            let response = ask(sidecar.addr(), "GET", "/", &host, fields).await;
            assert_eq!(response.status, expected, "{entry} {fields}: {response:?}");
        }
    }
}

#[tokio::test]
async fn hosts_of_a_port_of_its_own_follow_a_reload() {
    let settings =
        |hosts: &str| format!("upstreams: [{{service: orders, listen: \"127.0.0.1:0\", hosts: [{hosts}]}}]");
    let (sidecar, _instance) = orders(&settings("")).await;
    let own = sidecar.upstream_addr("orders");
    let host = format!("shop.example:{}", own.port());
    assert_eq!(ask(own, "GET", "/", &host, "User-Agent: Mozilla/5.0").await.status, 403);
    sidecar.apply_settings(&settings("shop.example")).await;
    assert_eq!(ask(own, "GET", "/", &host, "User-Agent: Mozilla/5.0").await.status, 200);
}
