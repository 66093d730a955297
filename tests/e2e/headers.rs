//! Hop-by-hop fields are removed, and all other fields are forwarded unchanged.

use outrigger_tests::{
    instance::{Answer, Gate, Instance},
    sidecar::Sidecar,
};

async fn forwarded_head(settings: &str, request: &str) -> outrigger_tests::wire::Head {
    let instance = Instance::start("a").await;
    let sidecar = Sidecar::orders(settings, &[&instance]).await;
    let response = sidecar.exchange(request).await;
    assert_eq!(response.status, 200, "{response:?}");
    instance.only_request().request.head
}

#[tokio::test]
async fn hop_by_hop_fields_and_those_that_connection_names_are_removed() {
    let head = forwarded_head(
        "",
        "GET / HTTP/1.1\r\nHost: orders\r\nConnection: X-Own, keep-alive\r\nX-Own: 1\r\nKeep-Alive: timeout=5\r\n\
         Proxy-Connection: keep-alive\r\nTE: gzip\r\nUpgrade: h2c\r\nX-End-To-End: 2\r\n\r\n",
    )
    .await;
    for removed in ["x-own", "keep-alive", "proxy-connection", "te", "upgrade"] {
        assert!(!head.has(removed), "{removed} in {head:?}");
    }
    assert_eq!(head.get("x-end-to-end"), Some("2"));
    assert!(
        head.values("connection").iter().all(|value| !value.to_lowercase().contains("x-own")),
        "{head:?}"
    );
}

#[tokio::test]
async fn the_connection_field_cannot_remove_fields_that_a_message_needs() {
    let head = forwarded_head(
        "",
        "POST / HTTP/1.1\r\nHost: orders\r\nConnection: host, content-length\r\nContent-Length: 2\r\n\r\nhi",
    )
    .await;
    assert_eq!((head.get("host"), head.get("content-length")), (Some("orders"), Some("2")));
}

#[tokio::test]
async fn hop_by_hop_fields_of_an_answer_are_removed() {
    let instance = Instance::scripted("a", |_| {
        Answer::ok("x")
            .field("connection", "x-own")
            .field("x-own", "1")
            .field("keep-alive", "timeout=5")
            .field("proxy-connection", "keep-alive")
            .field("set-cookie", "a=1")
            .field("set-cookie", "b=2")
    })
    .await;
    let sidecar = Sidecar::orders("", &[&instance]).await;
    let response = sidecar.get("orders", "/").await;
    for removed in ["x-own", "keep-alive", "proxy-connection"] {
        assert!(!response.head.has(removed), "{removed} in {:?}", response.head);
    }
    assert_eq!(response.head.values("set-cookie"), ["a=1", "b=2"]);
}

#[tokio::test]
async fn only_trailers_of_the_te_field_is_forwarded() {
    let head =
        forwarded_head("", "GET / HTTP/1.1\r\nHost: orders\r\nConnection: TE\r\nTE: gzip, trailers\r\n\r\n")
            .await;
    assert_eq!(head.get("te"), Some("trailers"));
}

#[tokio::test]
async fn the_host_is_kept_as_the_app_sent_it() {
    for host in ["orders", "Orders:7070", "orders.service.consul"] {
        let head = forwarded_head("", &format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n")).await;
        assert_eq!(head.get("host"), Some(host));
    }
}

#[tokio::test]
async fn nothing_is_added_to_a_request_by_default() {
    let head =
        forwarded_head("", "GET /x HTTP/1.1\r\nHost: orders\r\nAccept: */*\r\nX-A: 1\r\nX-A: 2\r\n\r\n")
            .await;
    let mut fields: Vec<_> =
        head.fields.iter().map(|(name, value)| (name.to_lowercase(), value.as_str())).collect();
    fields.sort_unstable();
    let expected = [("accept", "*/*"), ("host", "orders"), ("x-a", "1"), ("x-a", "2")];
    assert_eq!(fields, expected.map(|(name, value)| (name.to_owned(), value)));
}

#[tokio::test]
async fn no_field_is_added_to_an_answer_except_those_of_this_hop() {
    let instance = Instance::scripted("a", |_| Answer::ok("x").field("x-a", "1")).await;
    let sidecar = Sidecar::orders("", &[&instance]).await;
    let response = sidecar.get("orders", "/").await;
    let mut names: Vec<_> = response.head.fields.iter().map(|(name, _)| name.to_lowercase()).collect();
    names.sort_unstable();
    names.retain(|name| name != "date");
    assert_eq!(names, ["content-length", "x-a", "x-instance"], "{:?}", response.head);
}

#[tokio::test]
async fn forwarded_fields_and_via_are_added_when_configured() {
    let settings = "outbound: {listen: \"127.0.0.1:0\", x_forwarded: true, via: true}";
    let head = forwarded_head(
        settings,
        "GET / HTTP/1.1\r\nHost: orders\r\nX-Forwarded-For: 10.0.0.9\r\nVia: 1.0 other\r\n\r\n",
    )
    .await;
    assert_eq!(head.get("x-forwarded-for"), Some("10.0.0.9, 127.0.0.1"));
    assert_eq!(head.get("x-forwarded-proto"), Some("http"));
    assert_eq!(head.get("x-forwarded-host"), Some("orders"));
    assert!(head.values("via").join(", ").starts_with("1.0 other, 1.1 "), "{head:?}");
}

#[tokio::test]
async fn an_app_that_waits_for_100_gets_one_also_when_the_instance_sends_none() {
    let instance = Instance::start("a").await;
    let sidecar = Sidecar::orders("", &[&instance]).await;
    let mut client = sidecar.client().await;
    client.send("POST / HTTP/1.1\r\nHost: orders\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n").await;
    assert_eq!(client.head().await.unwrap().split_start_line().1, "100");
    client.send("body").await;
    assert_eq!(client.response().await.status, 200);
    let seen = instance.only_request();
    assert_eq!(seen.body().text(), "body");
    assert_eq!(seen.request.head.get("expect"), Some("100-continue"));
    // The connection can be used again.
    assert_eq!(client.get("orders", "/").await.status, 200);
}

#[tokio::test]
async fn a_refused_request_gets_no_100_continue() {
    let instance = Instance::start("a").await;
    let sidecar = Sidecar::orders("", &[&instance]).await;
    let mut client = sidecar.client().await;
    client
        .send("POST / HTTP/1.1\r\nHost: unknown\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n")
        .await;
    assert_eq!(client.head().await.unwrap().split_start_line().1, "404");
}

#[tokio::test]
async fn an_informational_answer_is_not_the_final_answer() {
    let gate = Gate::closed();
    let opened = gate.clone();
    let instance = Instance::scripted("a", move |_| {
        Answer::raw("HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n")
            .then_wait(&opened)
            .then_write("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi")
    })
    .await;
    let sidecar = Sidecar::orders("", &[&instance]).await;
    let mut client = sidecar.client().await;
    client.send("GET / HTTP/1.1\r\nHost: orders\r\n\r\n").await;
    instance.wait_requests(1).await;
    gate.open();
    assert_eq!(client.response().await.text(), "hi");
}

#[tokio::test]
async fn unusual_valid_values_are_forwarded_unchanged() {
    let head = forwarded_head(
        "",
        "GET / HTTP/1.1\r\nHost: orders\r\nX-Bytes: \u{e4}\u{f6}\r\nX-Empty:\r\nX-Tabs: a\tb\r\nx-lower: 1\r\n\r\n",
    )
    .await;
    assert_eq!(head.get("x-empty"), Some(""));
    assert_eq!(head.get("x-tabs"), Some("a\tb"));
    let latin: String = "\u{e4}\u{f6}".bytes().map(char::from).collect();
    assert_eq!(head.get("x-bytes"), Some(latin.as_str()));
}
