//! Frames of HTTP/2 written by hand: what is malformed reaches no instance, and what floods ends its connection.

use std::time::Duration;

use outrigger_tests::{
    http2::{Frames, Said, said_of},
    instance::{Answer, Instance},
    sidecar::Sidecar,
    wait,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Sends frames, and tells what comes first of stream 1.
async fn said(sidecar: &Sidecar, frames: &Frames) -> Said {
    let mut stream = tokio::net::TcpStream::connect(sidecar.addr()).await.unwrap();
    wait::within("the frames are taken", async {
        let mut rest = &frames.0[..];
        while !rest.is_empty() {
            match stream.write(rest).await {
                Ok(n) => rest = &rest[n..],
                Err(_) => return,
            }
        }
    })
    .await;
    let mut all = Vec::new();
    wait::within("what the sidecar says", async {
        loop {
            if let Some(said) = said_of(1, &all) {
                return said;
            }
            let mut part = [0; 4096];
            match stream.read(&mut part).await {
                Ok(0) | Err(_) => return Said::Closed,
                Ok(n) => all.extend_from_slice(&part[..n]),
            }
        }
    })
    .await
}

type Fields = Vec<(&'static [u8], &'static [u8])>;

/// The fields of a GET, and more.
fn get(more: &[(&'static str, &'static str)]) -> Fields {
    let usual = [(":method", "GET"), (":scheme", "http"), (":authority", "orders"), (":path", "/")];
    usual.iter().chain(more).map(|(name, value)| (name.as_bytes(), value.as_bytes())).collect()
}

/// As [`get`], with another value of one field; `None`: without it.
fn with(name: &'static str, value: Option<&'static str>) -> Fields {
    let mut fields = get(&[]);
    fields.retain(|(one, _)| value.is_some() || *one != name.as_bytes());
    for (one, old) in &mut fields {
        if *one == name.as_bytes() {
            *old = value.unwrap_or_default().as_bytes();
        }
    }
    fields
}

const MALFORMED: Said = Said::Reset(1);
/// What the crate `h2` cannot read as a field ends the connection: a stream error may be treated so (RFC 9113 §5.4.2).
const BROKEN: Said = Said::Goaway(1);
const OK: Said = Said::Response;

/// What a request without a body gets, by the sections of RFC 9113.
#[tokio::test]
async fn what_is_malformed_is_reset_and_reaches_no_instance() {
    let instance = Instance::start("one").await;
    let sidecar = Sidecar::orders("", &[&instance]).await;
    let crlf: Fields = get(&[]).into_iter().chain([(&b"a"[..], &b"b\r\nc: d"[..])]).collect();
    let rows: Vec<(&str, Fields, Said)> = vec![
        ("8.3.1 a usual request", get(&[]), OK),
        ("8.2.1 a field with an upper-case letter", get(&[("Upper", "x")]), BROKEN),
        ("8.2.1 an empty name", get(&[("", "x")]), BROKEN),
        ("8.2.1 a space in a name", get(&[("a b", "x")]), BROKEN),
        ("8.2.1 a colon in a name", get(&[("a:b", "x")]), BROKEN),
        ("8.2.1 CR LF in a value", crlf, BROKEN),
        ("8.2.1 CR in a value", get(&[("a", "b\rc")]), BROKEN),
        ("8.2.1 LF in a value", get(&[("a", "b\nc")]), BROKEN),
        ("8.2.1 NUL in a value", get(&[("a", "b\0c")]), BROKEN),
        ("8.2.1 NUL in a name", get(&[("a\0b", "c")]), BROKEN),
        ("8.2.1 CR in a name", get(&[("a\rb", "c")]), BROKEN),
        ("8.2.1 a tab in a value", get(&[("a", "b\tc")]), OK),
        ("8.2.2 connection", get(&[("connection", "close")]), MALFORMED),
        ("8.2.2 keep-alive", get(&[("keep-alive", "1")]), MALFORMED),
        ("8.2.2 proxy-connection", get(&[("proxy-connection", "close")]), MALFORMED),
        ("8.2.2 transfer-encoding", get(&[("transfer-encoding", "chunked")]), MALFORMED),
        ("8.2.2 upgrade", get(&[("upgrade", "websocket")]), MALFORMED),
        ("8.2.2 te: gzip", get(&[("te", "gzip")]), MALFORMED),
        ("8.2.2 te: trailers", get(&[("te", "trailers")]), OK),
        ("8.2.2 te: trailers, deflate", get(&[("te", "trailers, deflate")]), MALFORMED),
        ("8.2.3 two crumbs", get(&[("cookie", "a=1"), ("cookie", "b=2")]), OK),
        ("8.3 an unknown pseudo-field", get(&[(":x", "y")]), BROKEN),
        ("8.3 a pseudo-field behind a field", [&[(&b"a"[..], &b"b"[..])], &get(&[])[..]].concat(), MALFORMED),
        ("8.3 a response's pseudo-field", get(&[(":status", "200")]), MALFORMED),
        ("8.3 two methods", get(&[(":method", "GET")]), MALFORMED),
        ("8.3 two paths", get(&[(":path", "/")]), MALFORMED),
        ("8.3 two schemes", get(&[(":scheme", "http")]), MALFORMED),
        ("8.3 two authorities", get(&[(":authority", "orders")]), MALFORMED),
        ("8.3.1 no method", with(":method", None), MALFORMED),
        ("8.3.1 no scheme", with(":scheme", None), MALFORMED),
        ("8.3.1 no path", with(":path", None), MALFORMED),
        ("8.3.1 an empty path", with(":path", Some("")), MALFORMED),
        ("8.3.1 a path that is no origin-form", with(":path", Some("a")), MALFORMED),
        ("8.3.1 a path that is an absolute form", with(":path", Some("http://orders/")), MALFORMED),
        ("8.3.1 a space in the path", with(":path", Some("/a b")), MALFORMED),
        ("8.3.1 CR LF in the path", with(":path", Some("/ HTTP/1.1\r\nx: y")), MALFORMED),
        ("8.3.1 a NUL in the path", with(":path", Some("/\0")), MALFORMED),
        ("8.3.1 a query", with(":path", Some("/?a=b")), OK),
        ("8.3.1 * of GET", with(":path", Some("*")), OK),
        ("8.3.1 userinfo", with(":authority", Some("user@orders")), MALFORMED),
        ("8.3.1 userinfo with a password", with(":authority", Some("a:b@orders")), MALFORMED),
        ("8.3.1 a port", with(":authority", Some("orders:80")), OK),
        ("8.3.1 a space in the authority", with(":authority", Some("or ders")), MALFORMED),
        ("8.3.1 CR LF in the authority", with(":authority", Some("orders\r\nx: y")), MALFORMED),
        ("8.3.1 the same Host", get(&[("host", "orders")]), OK),
        ("8.3.1 another Host", get(&[("host", "payments")]), MALFORMED),
        ("8.3.1 two Hosts", get(&[("host", "orders"), ("host", "orders")]), MALFORMED),
        ("8.3.1 Host alone", [with(":authority", None), vec![(b"host", b"orders")]].concat(), OK),
        ("8.3.1 neither", with(":authority", None), OK),
        ("8.3.1 a method with a space", with(":method", Some("GE T")), BROKEN),
        ("8.3.1 a method with CR LF", with(":method", Some("GET\r\nx: y")), BROKEN),
        ("8.1.1 a length without a body", get(&[("content-length", "5")]), MALFORMED),
        ("8.1.1 a length of 0", get(&[("content-length", "0")]), OK),
        ("8.1.1 two lengths", get(&[("content-length", "0"), ("content-length", "5")]), MALFORMED),
        ("8.1.1 a length that is no number", get(&[("content-length", "x")]), MALFORMED),
        ("8.1.1 a negative length", get(&[("content-length", "-1")]), MALFORMED),
        ("8.5 CONNECT with a scheme", with(":method", Some("CONNECT")), MALFORMED),
        ("RFC 8441 §4 :protocol of GET", get(&[(":protocol", "websocket")]), MALFORMED),
        ("RFC 7540 §3.2.1 http2-settings", get(&[("http2-settings", "AAMAAABk")]), OK),
    ];
    let mut differences = Vec::new();
    for (row, fields, expected) in &rows {
        instance.take_seen();
        let found = said(&sidecar, &Frames::preface().headers(1, fields, true)).await;
        if found != *expected {
            differences.push(format!("{row}: {found:?}"));
        }
        let reached = instance.take_seen();
        if *expected != OK {
            assert!(reached.is_empty(), "{row}: it reached an instance");
        }
        for seen in reached {
            let names = String::from_utf8_lossy(&seen.request.head.raw).to_ascii_lowercase();
            assert!(!names.contains("http2-settings") && !names.contains("\nx: y"), "{row}: {names}");
        }
    }
    assert_eq!(differences, [""; 0]);
}

/// What a request with a body gets, and what a connection that breaks the protocol does.
#[tokio::test]
async fn bodies_and_frames_that_break_the_protocol() {
    let instance = Instance::start("one").await;
    let sidecar = Sidecar::orders("", &[&instance]).await;
    let post = |more: &[(&'static str, &'static str)]| {
        let mut fields = get(more);
        fields[0].1 = b"POST";
        fields
    };
    let preface = Frames::preface;
    let usual = get(&[]);
    for (row, frames, expected) in [
        ("8.1.1 a body", preface().headers(1, &post(&[]), false).data(1, b"hello", true), OK),
        (
            "8.1.1 its length",
            preface().headers(1, &post(&[("content-length", "5")]), false).data(1, b"hello", true),
            OK,
        ),
        (
            "8.1.1 DATA above the length",
            preface().headers(1, &post(&[("content-length", "2")]), false).data(1, b"hello", true),
            MALFORMED,
        ),
        (
            "8.1.1 DATA below the length",
            preface().headers(1, &post(&[("content-length", "9")]), false).data(1, b"hello", true),
            MALFORMED,
        ),
        // It is dropped, and the request goes on.
        (
            "8.1 a pseudo-field in trailers",
            preface().headers(1, &post(&[]), false).headers(1, &[(b":path", b"/")], true),
            OK,
        ),
        ("5.1 DATA on a stream that is idle", preface().data(1, b"x", true), BROKEN),
        ("5.1.1 a stream with an even number", preface().headers(2, &usual, true), BROKEN),
        ("4.2 a frame above the limit", preface().frame(0, 0, 1, &[0; 20_000]), Said::Goaway(6)),
        ("6.5 SETTINGS of an odd length", preface().frame(4, 0, 0, &[0; 5]), BROKEN),
        ("6.9 an increment of 0", preface().frame(8, 0, 0, &[0; 4]), BROKEN),
        ("6.10 CONTINUATION without HEADERS", preface().frame(9, 4, 1, &[]), BROKEN),
        (
            "3.4 no preface behind its first line",
            Frames(b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n".to_vec()),
            BROKEN,
        ),
    ] {
        let found = said(&sidecar, &frames).await;
        // A connection that ends at once may take its GOAWAY with it.
        let is_end = matches!((expected, found), (Said::Goaway(_), Said::Closed));
        assert!(found == expected || is_end, "{row}: {found:?}");
    }
}

#[tokio::test]
async fn floods_end_the_connection() {
    let instance = Instance::scripted("one", |_| Answer::ok("one").delayed(Duration::from_secs(5))).await;
    let sidecar = Sidecar::orders("", &[&instance]).await;
    let usual = get(&[]);
    let mut resets = Frames::preface();
    for n in 0..4_000 {
        let stream = 2 * n + 1;
        resets = resets.headers(stream, &usual, true).frame(3, 0, stream, &8u32.to_be_bytes());
    }
    let mut continuations = Frames::preface().frame(1, 0, 1, &[]);
    let mut empty = Frames::preface().headers(1, &usual, false);
    for _ in 0..200_000 {
        continuations = continuations.frame(9, 0, 1, &[]);
        empty = empty.data(1, b"", false);
    }
    for (row, frames) in [("rapid reset", resets), ("CONTINUATION", continuations), ("empty DATA", empty)] {
        let found = said_last(&sidecar, &frames).await;
        assert!(matches!(found, Said::Goaway(11) | Said::Closed), "{row}: {found:?}");
    }
    assert_eq!(sidecar.get("nope", "/").await.status, 404, "the sidecar goes on");
}

/// As [`said`], of a connection that is ended, whatever was said of its streams before.
async fn said_last(sidecar: &Sidecar, frames: &Frames) -> Said {
    let (mut read, mut write) = tokio::net::TcpStream::connect(sidecar.addr()).await.unwrap().into_split();
    let frames = frames.0.clone();
    let sent = tokio::spawn(async move {
        let mut rest = &frames[..];
        while !rest.is_empty() {
            match write.write(rest).await {
                Ok(n) => rest = &rest[n..],
                Err(_) => break,
            }
        }
        write
    });
    let mut all = Vec::new();
    let found = wait::within("the end of the connection", async {
        loop {
            if let Some(code) = said_of(u32::MAX, &all) {
                return code;
            }
            let mut part = [0; 4096];
            match read.read(&mut part).await {
                Ok(0) | Err(_) => return Said::Closed,
                Ok(n) => all.extend_from_slice(&part[..n]),
            }
        }
    })
    .await;
    sent.abort();
    found
}
