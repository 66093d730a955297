//! A message with ambiguous framing never reaches an instance.

use outrigger_tests::{
    client::Response,
    instance::{Answer, ConnectionEnd, Instance, start_lines},
    sidecar::Sidecar,
    wire::WireError,
};

/// Bytes that a reader with another framing of the first request would take for a second request.
const SMUGGLED: &str = "GET /smuggled HTTP/1.1\r\nHost: orders\r\n\r\n";

async fn orders() -> (Sidecar, Instance) {
    let instance = Instance::start("a").await;
    (Sidecar::orders("", &[&instance]).await, instance)
}

/// Sends the bytes and waits for the end of the connection.
async fn refused_and_closed(sidecar: &Sidecar, bytes: impl AsRef<[u8]>) -> Response {
    let bytes = bytes.as_ref();
    let text = String::from_utf8_lossy(bytes).into_owned();
    let mut client = sidecar.client().await;
    client.send(bytes).await;
    let response =
        client.try_response_to("GET").await.unwrap_or_else(|cut| panic!("no answer but {cut:?} to {text:?}"));
    // A transfer coding that is not supported is 501 (RFC 9112 §6.1).
    assert!(matches!(response.status, 400 | 501), "{text:?}: {response:?}");
    client.wait_closed().await;
    response
}

#[tokio::test]
async fn a_length_beside_a_transfer_coding_is_refused_or_framed_once() {
    for fields in [
        "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
        "Content-Length: 200\r\nTransfer-Encoding: chunked\r\n",
    ] {
        let (sidecar, instance) = orders().await;
        let mut client = sidecar.client().await;
        client.send(format!("POST /first HTTP/1.1\r\nHost: orders\r\n{fields}\r\n0\r\n\r\n{SMUGGLED}")).await;
        let response = client.response().await;
        if response.status == 400 {
            assert_eq!(instance.count(), 0, "{fields}");
            continue;
        }
        instance.wait_requests(1).await;
        let first = instance.seen().swap_remove(0);
        let framing =
            [first.request.head.values("content-length"), first.request.head.values("transfer-encoding")];
        assert_eq!(framing.concat().len(), 1, "framed once: {:?}", first.request.head);
        assert_eq!(first.body().len, 0);
    }
}

#[tokio::test]
async fn two_equal_lengths_are_refused_or_sent_as_one() {
    let (sidecar, instance) = orders().await;
    let response = sidecar
        .exchange("POST / HTTP/1.1\r\nHost: orders\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nhi")
        .await;
    match response.status {
        400 => assert_eq!(instance.count(), 0),
        200 => {
            let seen = instance.only_request();
            assert_eq!(seen.request.head.values("content-length"), ["2"]);
            assert_eq!(seen.body().text(), "hi");
        }
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn ambiguous_framing_is_refused_with_400_and_the_connection_closed() {
    let (sidecar, instance) = orders().await;
    let after_head = format!("0\r\n\r\n{SMUGGLED}");
    for (version, fields) in [
        ("1.1", "Content-Length: 2\r\nContent-Length: 3"),
        ("1.1", "Content-Length: 2, 3"),
        ("1.1", "Content-Length: 3, 3"),
        ("1.1", "Content-Length: +3"),
        ("1.1", "Content-Length: -1"),
        ("1.1", "Content-Length: 0x3"),
        ("1.1", "Content-Length: 3 3"),
        ("1.1", "Content-Length: 99999999999999999999999"),
        ("1.1", "Transfer-Encoding: gzip, chunked"),
        ("1.1", "Transfer-Encoding: chunked, chunked"),
        ("1.1", "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked"),
        ("1.1", "Transfer-Encoding: identity\r\nTransfer-Encoding: chunked"),
        ("1.1", "Transfer-Encoding: chunked, identity"),
        ("1.1", "Transfer-Encoding: identity"),
        ("1.1", "Transfer-Encoding: xchunked"),
        ("1.1", "Transfer-Encoding: \"chunked\""),
        ("1.1", "Transfer-Encoding: chunked;q=1"),
        ("1.1", "Transfer-Encoding:\u{b}chunked"),
        ("1.1", "Transfer-Encoding : chunked"),
        ("1.1", " Transfer-Encoding: chunked"),
        ("1.1", "X: y\r\n Transfer-Encoding: chunked"),
        ("1.1", "X: y\rTransfer-Encoding: chunked"),
        ("1.1", "X: y\0z"),
        ("1.1", "X\0: y"),
        ("1.1", "X y"),
        ("1.1", ": y"),
        ("1.0", "Transfer-Encoding: chunked"),
        ("1.0", "Transfer-Encoding: chunked\r\nContent-Length: 3"),
    ] {
        let request = format!("POST / HTTP/{version}\r\nHost: orders\r\n{fields}\r\n\r\n{after_head}");
        refused_and_closed(&sidecar, request).await;
        assert_eq!(
            instance.count(),
            0,
            "{fields:?} reached the instance: {:?}",
            start_lines(&instance.seen())
        );
    }
}

#[tokio::test]
async fn a_malformed_request_line_is_refused() {
    let (sidecar, instance) = orders().await;
    for line in [
        "GET  / HTTP/1.1",
        "GET / HTTP/1.1 x",
        "GET /",
        "G\0T / HTTP/1.1",
        "GET /\0 HTTP/1.1",
        "GET / HTTP/3.0",
        "\u{1}\u{2}",
    ] {
        let mut client = sidecar.client().await;
        client.send(format!("{line}\r\nHost: orders\r\n\r\n")).await;
        // The sidecar may close without an answer if the bytes are no HTTP/1.
        if let Ok(response) = client.try_response_to("GET").await {
            assert!(matches!(response.status, 400 | 505), "{line:?}: {response:?}");
        }
        client.wait_closed().await;
    }
    assert_eq!(instance.count(), 0);
}

#[tokio::test]
async fn a_malformed_chunk_aborts_the_instances_connection_without_a_last_chunk() {
    for bad in [
        "zz\r\nxx\r\n",
        "-1\r\nx\r\n",
        "5;a\nb\r\nhello\r\n",
        "5\nhello\r\n",
        " 5\r\nhello\r\n",
        "0x5\r\nhello\r\n",
        "3\r\nhello\r\n",
        "ffffffffffffffffff\r\nx",
    ] {
        let (sidecar, instance) = orders().await;
        let mut client = sidecar.client().await;
        client
            .send(format!(
                "POST / HTTP/1.1\r\nHost: orders\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n{bad}0\r\n\r\n{SMUGGLED}"
            ))
            .await;
        let response = client.response().await;
        assert_eq!((response.status, response.reason()), (400, "bad_body"), "{bad:?}: {response:?}");
        client.wait_closed().await;
        if instance.count() > 0 {
            let end = instance.wait_connection_end(instance.seen()[0].request.connection).await;
            assert!(
                matches!(end, ConnectionEnd::ByPeer(WireError::Closed | WireError::Reset)),
                "{bad:?}: {end:?}"
            );
            assert!(!instance.only_request().body().complete, "{bad:?}: the cut body looks complete");
        }
        assert_eq!(sidecar.endpoints("orders")[0].failures, 0, "the instance was not at fault: {bad:?}");
    }
}

#[tokio::test]
async fn a_bad_chunk_after_the_answers_head_closes_the_apps_connection() {
    let instance = Instance::scripted("a", |_| {
        Answer::raw("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nab").early().then_hang()
    })
    .await;
    let sidecar = Sidecar::orders("", &[&instance]).await;
    let mut client = sidecar.client().await;
    client.send("POST / HTTP/1.1\r\nHost: orders\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n").await;
    assert_eq!(client.head().await.unwrap().split_start_line().1, "200");
    client.send("zz\r\n").await;
    client.wait_closed().await;
    instance.wait_connection_end(0).await;
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_their_order() {
    let instance = Instance::scripted("a", |request| Answer::ok(request.target())).await;
    let sidecar = Sidecar::orders("", &[&instance]).await;
    let mut client = sidecar.client().await;
    let request = |target: &str| format!("GET {target} HTTP/1.1\r\nHost: orders\r\n\r\n");
    let post = "POST /2 HTTP/1.1\r\nHost: orders\r\nContent-Length: 4\r\n\r\nbody".to_owned();
    client.send([request("/1"), post, request("/3")].concat()).await;
    for expected in ["/1", "/2", "/3"] {
        assert_eq!(client.response().await.text(), expected);
    }
    assert_eq!(instance.count(), 3);
}

#[tokio::test]
async fn empty_lines_before_a_request_are_not_forwarded() {
    let (sidecar, instance) = orders().await;
    let response = sidecar.exchange("\r\n\r\nGET /x HTTP/1.1\r\nHost: orders\r\n\r\n").await;
    assert!(matches!(response.status, 200 | 400), "{response:?}");
    assert!(instance.count() <= 1);
}

#[tokio::test]
async fn bare_line_feeds_are_not_forwarded() {
    let (sidecar, instance) = orders().await;
    for request in [
        "GET /1 HTTP/1.1\nHost: orders\nX-A: 1\n\n",
        "POST /2 HTTP/1.1\r\nHost: orders\nContent-Length: 2\n\r\nhi",
    ] {
        let response = sidecar.exchange(request).await;
        assert!(matches!(response.status, 200 | 400), "{request:?}: {response:?}");
    }
    // The instance accepts only CRLF as a line end, so the forwarded head was written anew.
    for seen in instance.seen() {
        assert_eq!(seen.request.head.get("host"), Some("orders"), "{:?}", seen.request.head);
    }
}

#[tokio::test]
async fn chunk_extensions_are_not_forwarded() {
    let (sidecar, instance) = orders().await;
    let response = sidecar
        .exchange(
            "POST / HTTP/1.1\r\nHost: orders\r\nTransfer-Encoding: chunked\r\n\r\n5;a=b;c=\"d\"\r\nhello\r\n0;e\r\n\r\n",
        )
        .await;
    assert_eq!(response.status, 200, "{response:?}");
    // The instance accepts no chunk extension.
    assert_eq!(instance.only_request().body().text(), "hello");
}

#[tokio::test]
async fn an_ambiguous_answer_is_refused() {
    for raw in [
        "HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: x\r\n\r\nab",
        "HTTP/1.1 200 OK\r\nx: a\0b\r\ncontent-length: 0\r\n\r\n",
        "HTTP/1.1 20 OK\r\ncontent-length: 0\r\n\r\n",
        "no http at all\r\n\r\n",
        "\0\u{1}\u{2}",
    ] {
        let instance = Instance::scripted("a", move |_| Answer::raw(raw).then_close()).await;
        let sidecar = Sidecar::orders("", &[&instance]).await;
        let response =
            sidecar.exchange("POST / HTTP/1.1\r\nHost: orders\r\nContent-Length: 2\r\n\r\nhi").await;
        assert_eq!((response.status, response.reason()), (502, "bad_response"), "{raw:?}: {response:?}");
    }
}

#[tokio::test]
async fn an_instance_that_speaks_another_protocol_is_told_by_its_name() {
    for (bytes, protocol) in [
        (&b"\x15\x03\x01\x00\x02\x02\x46"[..], "TLS"),
        (b"\x16\x03\x03\x00\x7a\x02\x00\x00\x76", "TLS"),
        (b"\x00\x00\x12\x04\x00\x00\x00\x00\x00\x00\x03\x00\x00\x00\x64", "HTTP/2"),
        (b"SSH-2.0-OpenSSH_9.2p1\r\n", "SSH"),
        (b"220 mail.example ESMTP\r\n", "SMTP"),
        (b"-ERR unknown command 'GET'\r\n", "Redis"),
        // Without an end of line: known when the connection ends.
        (b"AMQP\x00\x00\x09\x01", "AMQP"),
    ] {
        let instance = Instance::scripted("a", move |_| Answer::raw(bytes).then_close()).await;
        let sidecar = Sidecar::orders("", &[&instance]).await;
        for request in [
            "GET / HTTP/1.1\r\nHost: orders\r\n\r\n",
            "POST / HTTP/1.1\r\nHost: orders\r\nContent-Length: 2\r\n\r\nhi",
        ] {
            let response = sidecar.exchange(request).await;
            assert_eq!((response.status, response.reason()), (502, "bad_response"), "{response:?}");
            let text = response.text();
            assert!(text.contains("the instance speaks ") && text.contains(protocol), "{text}");
        }
    }
}

#[tokio::test]
async fn bytes_after_an_answer_are_not_used_as_the_next_answer() {
    let instance = Instance::scripted("a", |request| match request.nth_on_connection {
        0 => Answer::ok("first").then_write("HTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\npoisoned"),
        _ => Answer::ok("second"),
    })
    .await;
    let sidecar = Sidecar::orders("", &[&instance]).await;
    let mut client = sidecar.client().await;
    assert_eq!(client.get("orders", "/").await.text(), "first");
    for _ in 0..3 {
        assert_eq!(client.get("orders", "/").await.text(), "first", "each answer on its own connection");
    }
}

#[tokio::test]
async fn what_is_carried_although_the_rfcs_do_not_allow_it_is_counted() {
    let odd = "HTTP/1.1 200 OK\r\ncontent-length: 9\r\ntransfer-encoding: chunked\r\nx: a\u{1}b\r\n\r\n2\r\nok\r\n0\r\n\r\n";
    let instance = Instance::scripted("a", move |_| Answer::raw(odd)).await;
    let sidecar = Sidecar::orders("", &[&instance]).await;
    let response = sidecar.exchange("GET / HTTP/1.1\r\nHost: orders\r\nX: \u{2}\r\n\r\n").await;
    assert_eq!((response.status, response.text().as_str()), (200, "ok"));
    for what in ["framing", "request_controls", "response_controls"] {
        let labels = [("service", "orders"), ("what", what)];
        assert_eq!(sidecar.metric("outrigger_tolerated_total", &labels), 1.0, "{what}");
    }
}
