//! Requests from a browser are checked, because a page of another origin can make a browser send requests to localhost.

use outrigger_tests::{instance::Instance, sidecar::Sidecar};

async fn orders(settings: &str) -> (Sidecar, Instance) {
    let instance = Instance::start("a").await;
    (Sidecar::orders(settings, &[&instance]).await, instance)
}

#[tokio::test]
async fn a_request_of_another_origin_is_refused() {
    let (sidecar, instance) = orders("").await;
    for fields in [
        "Origin: https://evil.example",
        "Origin: null",
        "Origin: http://orders.evil.example",
        "Origin: http://localhost.evil.example",
        "Sec-Fetch-Site: cross-site",
        "Sec-Fetch-Site: same-site",
    ] {
        for (method, host) in
            [("GET", "orders".to_owned()), ("POST", "orders".to_owned()), ("GET", sidecar.addr().to_string())]
        {
            let target = if host == "orders" { "/" } else { "/svc/orders/" };
            let length = if method == "POST" { "Content-Length: 0\r\n" } else { "" };
            let response = sidecar
                .exchange(format!("{method} {target} HTTP/1.1\r\nHost: {host}\r\n{fields}\r\n{length}\r\n"))
                .await;
            assert_eq!(
                (response.status, response.reason()),
                (403, "forbidden_origin"),
                "{fields}: {response:?}"
            );
        }
    }
    assert_eq!(instance.count(), 0);
}

#[tokio::test]
async fn a_preflight_of_another_origin_is_refused() {
    let (sidecar, _instance) = orders("").await;
    let response = sidecar
        .exchange(
            "OPTIONS / HTTP/1.1\r\nHost: orders\r\nOrigin: https://evil.example\r\nAccess-Control-Request-Method: PUT\r\n\r\n",
        )
        .await;
    assert_eq!(response.status, 403);
    assert!(!response.head.has("access-control-allow-origin"));
}

#[tokio::test]
async fn an_allowed_origin_and_a_direct_visit_pass() {
    let settings = "outbound: {listen: \"127.0.0.1:0\", allow_origins: [\"https://app.example\", \"http://dev.example:3000\"]}";
    let (sidecar, instance) = orders(settings).await;
    for fields in [
        "Origin: https://app.example\r\nSec-Fetch-Site: cross-site",
        "Origin: http://dev.example:3000",
        "Sec-Fetch-Site: none",
        "Sec-Fetch-Site: same-origin",
    ] {
        let response = sidecar.exchange(format!("GET / HTTP/1.1\r\nHost: orders\r\n{fields}\r\n\r\n")).await;
        assert_eq!(response.status, 200, "{fields}: {response:?}");
    }
    for fields in
        ["Origin: https://app.example:444", "Origin: http://app.example", "Origin: https://app.example.evil"]
    {
        let response = sidecar.exchange(format!("GET / HTTP/1.1\r\nHost: orders\r\n{fields}\r\n\r\n")).await;
        assert_eq!(response.status, 403, "{fields}: {response:?}");
    }
    assert_eq!(instance.count(), 4);
}
