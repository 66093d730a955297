//! What is written.

use outrigger_http1::{Edits, Framing, Name, NameSet};

use crate::support::{request, response, written};

#[test]
fn a_head_is_written_as_it_came_without_what_ends_at_this_hop() {
    let head = request(
        b"GET /x HTTP/1.1\r\nB:  1\r\nConnection: keep-alive, x-own , Host\r\nHost: a\r\nX-Own: 2\r\n\
          Keep-Alive: 5\r\nTE: trailers\r\nC:3\nExpect: 100-continue\r\n\r\n",
    )
    .unwrap();
    assert_eq!(
        written(&head, &Edits::default(), Framing::None),
        "GET /x HTTP/1.1\nB:  1\nHost: a\nC: 3\nExpect: 100-continue\n\n"
    );
    let edits = Edits {
        target: Some(b"/y"),
        host: Some(b"orders"),
        drop: NameSet::of([Name::Expect]),
        remove: &[],
        add: b"Via: 1.1 o\r\n",
        minor: Some(0),
    };
    assert_eq!(
        written(&head, &edits, Framing::Length(3)),
        "GET /y HTTP/1.0\nB:  1\nHost: orders\nC: 3\nContent-Length: 3\nVia: 1.1 o\n\n"
    );
    // In any case; a name of which it is the beginning stays.
    let named = request(b"GET / HTTP/1.1\r\nHost: a\r\nx-a: 1\r\nX-A: 2\r\nX-Ab: 3\r\n\r\n").unwrap();
    let edits = Edits { remove: &[b"x-a"[..].into()], add: b"x-a: 4\r\n", ..Edits::default() };
    assert_eq!(written(&named, &edits, Framing::None), "GET / HTTP/1.1\nHost: a\nX-Ab: 3\nx-a: 4\n\n");
    // The name keeps its case; a second one goes.
    let hosts = request(b"GET / HTTP/1.1\r\nA: 1\r\nhOST: a\r\nHost: b\r\nB:2\n\r\n").unwrap();
    assert_eq!(
        written(&hosts, &Edits { host: Some(b"o"), ..Edits::default() }, Framing::None),
        "GET / HTTP/1.1\nA: 1\nhOST: o\nB: 2\n\n"
    );
    // Start lines that are written anew.
    let newer = request(b"GET /x HTTP/1.2\r\nA: 1\r\n\r\n").unwrap();
    assert_eq!(written(&newer, &Edits::default(), Framing::None), "GET /x HTTP/1.1\nA: 1\n\n");
    let newer = response(b"HTTP/1.2 200 OK\r\nA: 1\r\n\r\n").unwrap();
    assert_eq!(written(&newer, &Edits::default(), Framing::UntilClose), "HTTP/1.1 200 OK\nA: 1\n\n");
    let bare_lf = request(b"GET /x HTTP/1.1\nA: 1\n\n").unwrap();
    assert_eq!(written(&bare_lf, &Edits::default(), Framing::None), "GET /x HTTP/1.1\nA: 1\n\n");
    let short = response(b"HTTP/1.1 200\r\nA : 1\r\nFold: 1\r\n 2\r\n\r\n").unwrap();
    assert_eq!(
        written(&short, &Edits::default(), Framing::UntilClose),
        "HTTP/1.1 200 \nA: 1\nFold: 1   2\n\n"
    );
    let bare = request(b"GET / HTTP/1.0\r\n\r\n").unwrap();
    assert_eq!(
        written(&bare, &Edits { host: Some(b"a"), ..Edits::default() }, Framing::None),
        "GET / HTTP/1.0\nHost: a\n\n"
    );
}

#[test]
fn a_field_with_another_value_keeps_its_place_and_its_name() {
    let bytes = b"HTTP/1.1 302 Found\r\nA: 1\r\nlocation:/x\r\nB: 2\r\nLocation: /y\n\r\n";
    let mut head = response(bytes).unwrap();
    let len = head.len();
    head.replace_value(1, b"/svc/orders/x");
    head.replace_value(3, b"");
    head.replace_value(4, b"beyond");
    assert_eq!(head.value(&head.fields()[1]), b"/svc/orders/x");
    assert_eq!(head.len(), len);
    assert_eq!(
        written(&head, &Edits::default(), Framing::UntilClose),
        "HTTP/1.1 302 Found\nA: 1\nlocation: /svc/orders/x\nB: 2\nLocation: \n\n"
    );
    // The buffer is used again for another head.
    let (buffer, fields) = head.into_parts();
    assert!(buffer.len() > bytes.len() && fields.is_empty());
}

#[test]
fn lengths_are_written_once_and_only_where_they_hold() {
    let twice =
        response(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nA: b\r\ncontent-length: 5\r\n\r\n").unwrap();
    assert_eq!(
        written(&twice, &Edits::default(), Framing::Length(5)),
        "HTTP/1.1 200 OK\nContent-Length: 5\nA: b\n\n"
    );
    let odd =
        response(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n").unwrap();
    assert_eq!(
        written(&odd, &Edits::default(), Framing::Chunked),
        "HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n"
    );
    // (status line and fields, framing, what is written)
    let table: &[(&str, Framing, &str)] = &[
        ("200 OK\nContent-Length: 5, 5\nA: b", Framing::Length(5), "200 OK\nContent-Length: 5\nA: b"),
        ("200 OK\ncontent-length: 005", Framing::Length(5), "200 OK\ncontent-length: 005"),
        ("200 OK\nContent-Length: 5", Framing::Length(6), "200 OK\nContent-Length: 6"),
        ("200 OK\nA: b", Framing::Length(0), "200 OK\nA: b\nContent-Length: 0"),
        ("200 OK\nA: b", Framing::Length(u64::MAX), "200 OK\nA: b\nContent-Length: 18446744073709551615"),
        ("200 OK\nContent-Length: 0, 0", Framing::None, "200 OK\nContent-Length: 0"),
        ("200 OK\nContent-Length: 5", Framing::UntilClose, "200 OK"),
        ("101 Switching Protocols\nContent-Length: 5", Framing::Tunnel, "101 Switching Protocols"),
        // Without a body: RFC 9110 §8.6, RFC 9112 §6.1.
        ("304 Not Modified\nContent-Length: 5, 5", Framing::None, "304 Not Modified\nContent-Length: 5"),
        ("304 Not Modified\nContent-Length: 5\nContent-Length: 6", Framing::None, "304 Not Modified"),
        ("304 Not Modified\nContent-Length: x", Framing::None, "304 Not Modified"),
        ("204 No Content\nContent-Length: 5", Framing::None, "204 No Content"),
        ("103 Early Hints\nContent-Length: 5\nLink: a", Framing::None, "103 Early Hints\nLink: a"),
        (
            "200 OK\nTransfer-Encoding: chunked\nContent-Length: 5",
            Framing::None,
            "200 OK\nTransfer-Encoding: chunked",
        ),
        ("304 X\nTransfer-Encoding: Chunked\nA: b", Framing::None, "304 X\nA: b\nTransfer-Encoding: chunked"),
        ("204 No Content\nTransfer-Encoding: chunked", Framing::None, "204 No Content"),
        ("200 OK\nTransfer-Encoding: gzip", Framing::None, "200 OK"),
    ];
    for (head, framing, expected) in table {
        let head = response(format!("HTTP/1.1 {}\r\n\r\n", head.replace('\n', "\r\n")).as_bytes()).unwrap();
        assert_eq!(
            written(&head, &Edits::default(), *framing),
            format!("HTTP/1.1 {expected}\n\n"),
            "{framing:?}"
        );
    }
    let old = Edits { minor: Some(0), ..Edits::default() };
    let announced = response(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").unwrap();
    assert_eq!(written(&announced, &old, Framing::None), "HTTP/1.0 200 OK\n\n");
    let anew = Edits { minor: Some(1), ..Edits::default() };
    let announced = response(b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").unwrap();
    assert_eq!(written(&announced, &anew, Framing::None), "HTTP/1.1 200 OK\n\n");
    let without = request(b"POST / HTTP/1.1\r\nContent-Length: 5\r\n\r\n").unwrap();
    assert_eq!(written(&without, &Edits::default(), Framing::None), "POST / HTTP/1.1\n\n");
    let empty = request(b"POST / HTTP/1.1\r\nContent-Length: 0\r\n\r\n").unwrap();
    assert_eq!(written(&empty, &Edits::default(), Framing::None), "POST / HTTP/1.1\nContent-Length: 0\n\n");
    let unmodified = response(b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n").unwrap();
    assert_eq!(
        written(&unmodified, &Edits::default(), Framing::None),
        "HTTP/1.1 304 Not Modified\nContent-Length: 5\n\n"
    );
}
