//! In the path form the instance does not know the prefix of its paths: its response gets the prefix back. In every other form
//! a response is passed on as it is.

use outrigger_tests::{
    client::{Client, Response},
    instance::{Answer, Instance},
    sidecar::Sidecar,
    wire::Head,
};

const FIELDS: [(&str, &str); 6] = [
    ("location", "/login?next=/svc"),
    ("content-location", "http://orders/items/1"),
    ("refresh", "5; url=/again"),
    ("set-cookie", "a=1; Path=/; HttpOnly"),
    ("set-cookie", "__Host-b=2; Secure; Path=/"),
    ("set-cookie", "c=3"),
];

async fn redirecting() -> Instance {
    Instance::scripted("a", |_| {
        FIELDS.iter().fold(Answer::status(302, ""), |answer, (name, value)| answer.field(name, value))
    })
    .await
}

fn fields_of(response: &Response) -> Vec<(&'static str, String)> {
    let mut names: Vec<&'static str> = FIELDS.iter().map(|(name, _)| *name).collect();
    names.dedup();
    let values = |name: &'static str| {
        response.head.values(name).iter().map(|value| (name, (*value).to_owned())).collect::<Vec<_>>()
    };
    names.into_iter().flat_map(values).collect()
}

#[tokio::test]
async fn what_a_response_says_of_its_paths_gets_the_prefix_back() {
    let instance = redirecting().await;
    let sidecar = Sidecar::orders("", &[&instance]).await;
    let host = sidecar.addr().to_string();
    let expected = [
        ("location", "/svc/orders/login?next=/svc".to_owned()),
        ("content-location", "/svc/orders/items/1".to_owned()),
        ("refresh", "5; url=/svc/orders/again".to_owned()),
        ("set-cookie", "a=1; Path=/svc/orders/; HttpOnly".to_owned()),
        ("set-cookie", "__Host-b=2; Secure; Path=/".to_owned()),
        ("set-cookie", "c=3".to_owned()),
    ];
    let absolute = format!("http://{host}/svc/orders/x");
    for target in ["/svc/orders/x", "/svc/orders", &absolute] {
        let mut client = sidecar.client().await;
        // Twice on one connection: the buffer of a changed head is used again.
        for _ in 0..2 {
            let response = client.get(&host, target).await;
            assert_eq!(response.status, 302);
            assert_eq!(fields_of(&response), expected, "{target}");
        }
    }
}

#[tokio::test]
async fn the_address_of_the_instance_is_the_service_too() {
    let instance = Instance::scripted("a", |request| {
        let host = request.target().trim_start_matches('/').to_owned();
        Answer::status(302, "").field("location", &format!("http://{host}/x"))
    })
    .await;
    let sidecar = Sidecar::orders("", &[&instance]).await;
    let host = sidecar.addr().to_string();
    let own = instance.addr().to_string();
    for (of, expected) in [
        (own.as_str(), "/svc/orders/x"),
        ("orders:8080", "/svc/orders/x"),
        ("127.0.0.1:1", "http://127.0.0.1:1/x"),
        ("payments", "http://payments/x"),
    ] {
        let response = sidecar.get(&host, &format!("/svc/orders/{of}")).await;
        assert_eq!(response.field("location"), expected, "{of}");
    }
}

#[tokio::test]
async fn no_other_form_changes_a_response() {
    let instance = redirecting().await;
    let settings = "upstreams: [{service: orders, listen: \"127.0.0.1:0\"}]";
    let sidecar = Sidecar::orders(settings, &[&instance]).await;
    let own = sidecar.upstream_addr("orders");
    let sent = FIELDS.map(|(name, value)| (name, value.to_owned()));
    for (addr, host, target) in [
        (sidecar.addr(), "orders", "/svc/orders/x"),
        (sidecar.addr(), "orders.service.consul", "/x"),
        (sidecar.addr(), "orders", "http://orders/svc/orders/x"),
        (own, "localhost", "/svc/orders/x"),
    ] {
        let response = Client::connect(addr).await.get(host, target).await;
        assert_eq!(fields_of(&response), sent, "{host} {target}");
    }
    assert!(instance.seen().iter().all(|seen| !seen.request.head.has("x-forwarded-prefix")));
}

#[tokio::test]
async fn cookies_are_left_where_the_settings_say_so() {
    let instance = redirecting().await;
    let settings = "outbound: {listen: \"127.0.0.1:0\", rewrite_cookie_path: off}";
    let sidecar = Sidecar::orders(settings, &[&instance]).await;
    let response = sidecar.get(&sidecar.addr().to_string(), "/svc/orders/x").await;
    assert_eq!(response.field("location"), "/svc/orders/login?next=/svc");
    assert_eq!(response.head.values("set-cookie")[0], "a=1; Path=/; HttpOnly");
}

async fn arrived(settings: &str, fields: &str) -> Head {
    let instance = Instance::start("a").await;
    let sidecar = Sidecar::orders(settings, &[&instance]).await;
    let host = sidecar.addr();
    let request = format!("GET /svc/orders/x HTTP/1.1\r\nHost: {host}\r\n{fields}\r\n");
    assert_eq!(sidecar.exchange(request).await.status, 200);
    instance.only_request().request.head
}

#[tokio::test]
async fn the_instance_is_told_the_prefix_behind_those_of_earlier_hops() {
    for (fields, expected) in [
        ("", "/svc/orders"),
        ("X-Forwarded-Prefix: /shop\r\n", "/shop, /svc/orders"),
        ("x-forwarded-prefix: /a\r\nX-Forwarded-Prefix: /b/\r\n", "/a, /b/, /svc/orders"),
    ] {
        for settings in ["", "outbound: {listen: \"127.0.0.1:0\", x_forwarded: true}"] {
            let head = arrived(settings, fields).await;
            assert_eq!(head.values("x-forwarded-prefix"), [expected], "{fields}");
            assert_eq!(head.get("host"), Some("orders"));
        }
    }
}

#[tokio::test]
async fn an_instance_that_knows_the_apps_side_gets_the_prefix_into_its_path() {
    let instance = Instance::scripted("a", |request| {
        let host = request.head.get("x-forwarded-host").unwrap_or("orders").to_owned();
        Answer::status(302, "").field("location", &format!("http://{host}/login"))
    })
    .await;
    let settings = "outbound: {listen: \"127.0.0.1:0\", x_forwarded: true}";
    let sidecar = Sidecar::orders(settings, &[&instance]).await;
    let host = sidecar.addr().to_string();
    let response = sidecar.get(&host, "/svc/orders/x").await;
    assert_eq!(response.field("location"), format!("http://{host}/svc/orders/login"));
}
