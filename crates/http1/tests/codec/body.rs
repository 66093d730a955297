//! Bodies.

use outrigger_http1::{Framing, RefusalKind};

use crate::support::decode_in;

#[test]
fn chunked_bodies_are_read_to_their_last_byte() {
    let input =
        b"5\r\nhello\r\n00A ; x=\"y z\"\r\n0123456789\r\n0;last\r\nX-Sum: 1\r\nHost: a\r\nx-b:2\r\n\r\nGET";
    let (data, trailers, rest) = decode_in(Framing::Chunked, input, &[]).unwrap().unwrap();
    assert_eq!(data, b"hello0123456789");
    assert_eq!(trailers, b"X-Sum: 1\r\nx-b:2\r\n", "Host frames and is dropped");
    assert_eq!(rest, b"GET");
}

#[test]
fn broken_chunks_are_named() {
    let extensions = format!("1;{}\r\n", "x".repeat(17_000));
    let trailers = format!("0\r\nA: {}\r\n\r\n", "x".repeat(17_000));
    let table: &[(&[u8], &str)] = &[
        (b"\r\n", "the size of a chunk is due"),
        (b"x\r\n", "the size of a chunk is due"),
        (b" 5\r\n", "the size of a chunk is due"),
        (b"-5\r\n", "the size of a chunk is due"),
        (b"5 5\r\n", "the end of a chunk's size is due"),
        (b"5x\r\n", "the end of a chunk's size is due"),
        (b"5\nhello\r\n", "the end of a chunk's size is due"),
        (b"5\r5", "a line feed is due"),
        (b"5;a\nhello", "a chunk extension is due"),
        (b"5;a\rb", "a line feed is due"),
        (b"00000000000000005\r\n", "more than 16 digits"),
        (b"10000000000000000\r\n", "more than 16 digits"),
        (b"1\r\nab\r\n", "the end of a chunk is due"),
        (b"1\r\na\n", "the end of a chunk is due"),
        (b"0\r\n\n", "a bare LF"),
        (b"0\r\nA: b\n\r\n", "a bare LF"),
        (b"0\r\nA b\r\n\r\n", "in the trailer section"),
        (b"0\r\n A: b\r\n\r\n", "in the trailer section"),
        (b"0\r\nA: b\x01\r\n\r\n", "a control character"),
        (extensions.as_bytes(), "the chunk extensions have more than"),
        (trailers.as_bytes(), "the trailer section has more than"),
    ];
    for (input, detail) in table {
        let refusal = decode_in(Framing::Chunked, input, &[]).expect_err(&input.escape_ascii().to_string());
        assert_eq!(refusal.kind, RefusalKind::Body);
        assert!(refusal.detail.contains(detail), "{}: {refusal}", input.escape_ascii());
    }
}

#[test]
fn a_cut_body_never_looks_complete() {
    for (framing, input) in [
        (Framing::Length(5), &b"1234"[..]),
        (Framing::Chunked, b"5\r\n1234"),
        (Framing::Chunked, b"5\r\n12345\r\n"),
        (Framing::Chunked, b"0\r\n"),
        (Framing::Chunked, b"0\r\nA: b\r\n"),
    ] {
        assert_eq!(decode_in(framing, input, &[]).unwrap(), None, "{}", input.escape_ascii());
    }
    let (data, ..) = decode_in(Framing::UntilClose, b"all of it", &[]).unwrap().unwrap();
    assert_eq!(data, b"all of it");
}
