//! Heads: what is read, what is refused.

use outrigger_http1::{HeadKind, Name, RefusalKind};

use crate::support::{lines, parse_in, request, response};

#[test]
fn every_name_is_recognised_in_any_case() {
    for (name, text) in Name::ALL {
        assert_eq!(Name::recognize(text.as_bytes()), *name, "{text}");
        assert_eq!(Name::recognize(text.to_ascii_uppercase().as_bytes()), *name, "{text}");
        assert_eq!(name.as_str(), *text);
    }
    assert_eq!(Name::recognize(b"x-nothing"), Name::Other);
    assert_eq!(Name::Other.as_str(), "");
}

#[test]
fn a_request_keeps_case_order_and_bytes() {
    let head =
        request(b"pAtCH /a\"<>`\xff?#x HTTP/1.1\r\nhOsT: a\r\nX-B:  1 \r\nx-b:2\r\nEmpty:\r\n\r\n").unwrap();
    assert_eq!((head.method(), head.target(), head.minor()), (&b"pAtCH"[..], &b"/a\"<>`\xff?#x"[..], 1));
    let expected = [("hOsT", "a"), ("X-B", "1"), ("x-b", "2"), ("Empty", "")];
    assert_eq!(lines(&head), expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
}

#[test]
fn white_space_around_a_value_is_not_a_part_of_it() {
    let head =
        request(b"GET / HTTP/1.1\r\nA: b \r\nB:c\r\nC:  d  \r\nD:\t e\t\r\nE: \r\nF: a b\r\n\r\n").unwrap();
    let values: Vec<_> = lines(&head).into_iter().map(|(_, value)| value).collect();
    assert_eq!(values, ["b", "c", "d", "e", "", "a b"]);
}

#[test]
fn a_sender_says_whether_it_closes() {
    let table: &[(&str, bool)] = &[
        ("1.1\r\n", false),
        ("1.0\r\n", true),
        ("1.1\r\nConnection: close\r\n", true),
        ("1.1\r\nConnection: x, CLOSE\r\n", true),
        ("1.1\r\nConnection: keep-alive\r\nConnection: x,close\r\n", true),
        ("1.1\r\nConnection: closed\r\n", false),
        ("1.1\r\nX: close\r\n", false),
        ("1.0\r\nConnection: Keep-Alive\r\n", false),
        ("1.0\r\nConnection: x , keep-alive\r\n", false),
        ("1.0\r\nConnection: keep-alive, close\r\n", true),
    ];
    for (text, expected) in table {
        let head = request(format!("GET / HTTP/{text}\r\n").as_bytes()).unwrap();
        assert_eq!(head.wants_close(), *expected, "{text}");
    }
    // Of a folded field the whole value counts.
    let folded = response(b"HTTP/1.1 200 OK\r\nConnection: close\r\n d\r\n\r\n").unwrap();
    assert!(!folded.wants_close());
    let folded = response(b"HTTP/1.1 200 OK\r\nConnection: x,\r\n close\r\n\r\n").unwrap();
    assert!(folded.wants_close());
}

#[test]
fn bytes_behind_a_head_stay_in_the_inbox() {
    let input = b"\r\n\nGET / HTTP/1.0\nA: b\n\nbody";
    let (head, rest) = parse_in(HeadKind::Request, input, &[]).unwrap().unwrap();
    assert_eq!((head.minor(), rest.as_slice()), (0, &b"body"[..]));
}

#[test]
fn what_is_wrong_with_a_request_is_named() {
    use RefusalKind::{HeadTooLarge, Http2Preface, Malformed, TargetTooLong, TooManyFields, Version};
    let long = format!("GET /{} HTTP/1.1\r\n\r\n", "a".repeat(2048));
    let endless = format!("GET /{}", "a".repeat(3000));
    let large = format!("GET / HTTP/1.1\r\nA: {}", "a".repeat(4096));
    let many = format!("GET / HTTP/1.1\r\n{}\r\n", "A: b\r\n".repeat(21));
    let connection = format!("GET / HTTP/1.1\r\nConnection: a{}\r\n\r\n", ",a".repeat(20));
    let connections = format!("GET / HTTP/1.1\r\n{}\r\n", "Connection: a, b\r\n".repeat(11));
    let table: &[(&[u8], RefusalKind, &str)] = &[
        (b"\x16\x03\x01", Malformed, "begins with the byte `\\x16`"),
        (b"\r\n\r\n\r\nGET / HTTP/1.1\r\n\r\n", Malformed, "an empty line"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Http2Preface, "HTTP/2"),
        (b"GET / HTTP/2.0\r\n\r\n", Version, "not HTTP/1"),
        (b"GET / HTTP/0.9\r\n\r\n", Version, "not HTTP/1"),
        (b"GET / http/1.1\r\n\r\n", Malformed, "not a version"),
        (b"GET / HTTP/1.1 \r\n\r\n", Malformed, "not a version"),
        (b"GET /\r\n\r\n", Malformed, "no version"),
        (b"GET\r\n\r\n", Malformed, "no target"),
        (b"GET  / HTTP/1.1\r\n\r\n", Malformed, "two spaces"),
        (b"GE(T / HTTP/1.1\r\n\r\n", Malformed, "the method holds the byte `(`"),
        (b"GET /\x01 HTTP/1.1\r\n\r\n", Malformed, "the target holds the byte `\\x01`"),
        (b"GET /a\tb HTTP/1.1\r\n\r\n", Malformed, "the target holds the byte `\\t`"),
        (b"GET / HTTP/1.1\r\nA : b\r\n\r\n", Malformed, "between the field name `A` and its colon"),
        (b"GET / HTTP/1.1\r\nA: b\r\n c\r\n\r\n", Malformed, "folded"),
        (b"GET / HTTP/1.1\r\n c\r\n\r\n", Malformed, "folded"),
        (b"GET / HTTP/1.1\r\nA\r\n\r\n", Malformed, "no colon"),
        (b"GET / HTTP/1.1\r\n: b\r\n\r\n", Malformed, "no name"),
        (b"GET / HTTP/1.1\r\nA\xe4: b\r\n\r\n", Malformed, "a field name holds the byte `\\xe4`"),
        (b"GET / HTTP/1.1\r\nA: b\rc\r\n\r\n", Malformed, "the value of `A` holds the byte `\\r`"),
        (b"GET / HTTP/1.1\r\nA: b\0\r\n\r\n", Malformed, "the value of `A` holds the byte `\\x00`"),
        (b"GET / HTTP/1.1\r\nHost: a\x01\r\n\r\n", Malformed, "the value of `Host` holds the byte `\\x01`"),
        (b"GET / HTTP/1.1\r\nTransfer-Encoding: \x0bchunked\r\n\r\n", Malformed, "holds the byte `\\x0b`"),
        (b"GET / HTTP/1.1\r\nProxy-Own: a\x01\r\n\r\n", Malformed, "the value of `Proxy-Own` holds the byte"),
        (b"GET / HTTP/1.1\r\nX-Outrigger-Own: \x7f\r\n\r\n", Malformed, "holds the byte `\\x7f`"),
        (connection.as_bytes(), TooManyFields, "Connection has more than 20 members"),
        (connections.as_bytes(), TooManyFields, "Connection has more than 20 members"),
        (long.as_bytes(), TargetTooLong, "more than 2048 bytes"),
        (endless.as_bytes(), TargetTooLong, "more than 2048 bytes"),
        (large.as_bytes(), HeadTooLarge, "more than 4096 bytes"),
        (many.as_bytes(), TooManyFields, "more than 20 fields"),
    ];
    for (input, kind, detail) in table {
        let refusal = parse_in(HeadKind::Request, input, &[]).expect_err(&input.escape_ascii().to_string());
        assert_eq!(refusal.kind, *kind, "{}", input.escape_ascii());
        assert!(refusal.detail.contains(detail), "{}: {refusal}", input.escape_ascii());
    }
}

#[test]
fn controls_are_tolerated_and_reported_where_nothing_depends_on_them() {
    let head = request(b"GET / HTTP/1.1\r\nX: a\x01\tb\r\n\r\n").unwrap();
    assert!(head.has_controls());
    assert_eq!(lines(&head)[0].1, "a\\x01\\tb");
}

#[test]
fn a_response_is_read_tolerantly() {
    let head = response(b"HTTP/1.1 200\r\nA \t: b\r\nFold: 1 \r\n  2\n\t3\r\nC: d\r\n\r\n").unwrap();
    assert_eq!((head.status(), head.reason()), (200, &b""[..]));
    let expected = [("A", "b"), ("Fold", "1      2  3"), ("C", "d")];
    let lines = lines(&head);
    for ((name, value), (expected_name, expected_value)) in lines.iter().zip(expected) {
        assert_eq!(name, expected_name);
        let squeezed = |text: &str| text.replace("\\t", " ").split_whitespace().collect::<Vec<_>>().join(" ");
        assert_eq!(squeezed(value), squeezed(expected_value));
    }
    assert_eq!(lines.len(), 3);
    let phrase = response(b"HTTP/1.0 404 n\xf6 such\tthing\r\n\r\n").unwrap();
    assert_eq!((phrase.reason(), phrase.minor()), (&b"n\xf6 such\tthing"[..], 0));
    assert!(!phrase.has_controls());
    assert!(response(b"HTTP/1.1 200 a\x01b\r\n\r\n").unwrap().has_controls());
}

#[test]
fn what_is_wrong_with_a_response_is_named() {
    let table: &[(&[u8], &str)] = &[
        (b"\r\nHTTP/1.1 200 OK\r\n\r\n", "an empty line"),
        (b"HTTP/1.1 20 OK\r\n\r\n", "no status of three digits"),
        (b"HTTP/1.1 2000 OK\r\n\r\n", "no status of three digits"),
        (b"HTTP/1.1 099 OK\r\n\r\n", "no status of three digits"),
        (b"HTTP/1.1  200 OK\r\n\r\n", "no status of three digits"),
        (b"ICY 200 OK\r\n\r\n", "not a version"),
        (b"HTTP/2.0 200 OK\r\n\r\n", "not HTTP/1"),
        (b"HTTP/1.1 200 OK\r\n folded: 1\r\n\r\n", "after the status line begins with white space"),
        (b"HTTP/1.1 200 OK\r\nA: 1\r\n\0\r\n\r\n", "a field name holds the byte"),
        (b"HTTP/1.1 200 OK\r\nA: 1\r\n 2\0\r\n\r\n", "holds the byte `\\x00`"),
        (b"HTTP/1.1 200 O\rK\r\n\r\n", "the reason phrase holds the byte `\\r`"),
    ];
    for (input, detail) in table {
        let refusal = parse_in(HeadKind::Response, input, &[]).expect_err(&input.escape_ascii().to_string());
        assert!(refusal.detail.contains(detail), "{}: {refusal}", input.escape_ascii());
    }
}
